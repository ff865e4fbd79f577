#![no_main]

mod onnx;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| {
    let _ = maskgit_fuzz::graph(bytes);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = if seed % 8 == 0 { None } else { onnx::mutated(&data[..size], seed.into()) };
    onnx::put(data, max_size, changed).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
