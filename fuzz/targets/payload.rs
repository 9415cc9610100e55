//! `fuzz/run.sh payload SECONDS`.
#![no_main]

#[path = "../checks/payload.rs"]
mod payload;

libfuzzer_sys::fuzz_target!(|data: &[u8]| payload::check(data));
