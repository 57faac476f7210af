#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| mdof_fuzz::tls::run(data));
