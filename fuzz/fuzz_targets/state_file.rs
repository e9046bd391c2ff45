#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bellwether_store::state_file::fuzzing::state_file(bytes));
