//! Lines of the tables in /proc.

#![no_main]

libfuzzer_sys::fuzz_target!(|line: &str| reuseport::fuzz::row(line));
