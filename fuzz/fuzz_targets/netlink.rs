//! Answers of sock_diag(7).

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reuseport::fuzz::netlink(bytes));
