//! The kernels' sources through NVIDIA's compiler.

use crate::cuda::device::Precision;
use crate::cuda::nvrtc::Nvrtc;
use crate::cuda::sources::names;

/// Every kernel, for Turing, Jetson Orin, Hopper and everything after it that the compiler knows.
#[test]
#[ignore = "needs NVRTC: make test-cuda-kernels"]
fn every_kernel_compiles_for_every_gpu() {
    let nvrtc = Nvrtc::get().unwrap();
    let known = nvrtc.capabilities().unwrap();
    for needed in [(7, 5), (8, 7), (9, 0)] {
        assert!(known.contains(&needed), "NVRTC {:?} does not know {needed:?}", nvrtc.version());
    }
    let jobs: Vec<(Precision, (i32, i32))> = known
        .iter()
        .filter(|&&c| c == (7, 5) || c == (8, 7) || c >= (9, 0))
        .flat_map(|&c| [(Precision::F32, c), (Precision::F16, c)])
        .collect();
    for (precision, capability) in &jobs {
        let all = names(*precision);
        let image = nvrtc.compile(*precision, &all, *capability).unwrap();
        for name in all {
            assert!(
                image.windows(name.len()).any(|w| w == name.as_bytes()),
                "{name} is not in the code for {capability:?}"
            );
        }
        println!("{precision:?}, {capability:?}: {} bytes", image.len());
    }
}

/// A GPU that the compiler does not know yet gets code that its driver translates.
#[test]
#[ignore = "needs NVRTC: make test-cuda-kernels"]
fn a_gpu_of_the_future_gets_ptx() {
    let image = Nvrtc::get().unwrap().compile(Precision::F32, &["row_norm"], (99, 0)).unwrap();
    let text = String::from_utf8(image).unwrap();
    assert!(text.contains(".entry row_norm") && text.ends_with('\0'));
}

/// What is not wanted is not compiled.
#[test]
#[ignore = "needs NVRTC: make test-cuda-kernels"]
fn one_kernel_compiles_alone() {
    let image = Nvrtc::get().unwrap().compile(Precision::F16, &["row_norm"], (8, 7)).unwrap();
    let has = |name: &[u8]| image.windows(name.len()).any(|w| w == name);
    assert!(has(b"row_norm") && !has(b"gemm_small"));
}

#[test]
fn the_sources_have_these_kernels() {
    let (wide, narrow) = (names(Precision::F32), names(Precision::F16));
    for name in [
        "gemm_small",
        "gemm_int8_large",
        "attention_128",
        "row_norm",
        "group_apply",
        "map_int",
        "int_to_real",
        "gather",
    ] {
        assert!(wide.contains(&name) && narrow.contains(&name), "{name}");
    }
    assert!(narrow.contains(&"attention_tensor_48") && !wide.contains(&"attention_tensor_48"));
    for names in [wide, narrow] {
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), names.len(), "a name twice");
    }
}
