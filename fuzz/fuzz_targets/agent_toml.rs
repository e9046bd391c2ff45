#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bellwether::fuzzing::agent_toml(bytes));
