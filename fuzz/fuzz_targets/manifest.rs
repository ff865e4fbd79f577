#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = maskgit_fuzz::manifest(bytes);
});
