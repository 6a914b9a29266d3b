#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| torno_server::properties::scope(data));
