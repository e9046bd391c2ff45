#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bellwether_proto::fuzzing::header(bytes));
