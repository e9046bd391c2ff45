#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bellwether_store::pack::fuzzing::patches(bytes));
