#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bellwether_monitor::fuzzing::agent_check(bytes));
