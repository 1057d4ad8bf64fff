//! Texts that are meant as addresses.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| reuseport::fuzz::address(text));
