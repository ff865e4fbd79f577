//! On a real GPU: what the emulation is asked, asked of the device. `make test-cuda` runs these where there is one.

use super::graphs::{BUNDLED, SMALL, beside_the_cpu, path, same_tokens, steady};
use crate::CudaEngine;
use crate::cuda::device::Precision;
use crate::cuda::driver::{Gpu, Stream};
use crate::cuda::prepare;
use crate::cuda::session::CudaSession;
use crate::{Engine, Session, Signature, Source};
use maskgit_core::{LoadLimits, Result};
use std::sync::Arc;

/// A real GPU in a precision of the test's choice.
struct OnGpu {
    gpu: Arc<Gpu>,
    precision: Option<Precision>,
}

impl OnGpu {
    fn new(precision: Option<Precision>) -> Self {
        Self { gpu: Arc::new(Gpu::open(0).unwrap()), precision }
    }
}

impl Engine for OnGpu {
    fn name(&self) -> &str {
        "cuda"
    }

    fn load(&self, graph: &Source, signature: &Signature, limits: &LoadLimits) -> Result<Box<dyn Session>> {
        let prepared = prepare(graph, signature, self.precision, limits)?;
        Ok(Box::new(CudaSession::new(Box::new(Stream::new(&self.gpu)?), prepared)?))
    }
}

#[test]
#[ignore = "needs a GPU: make test-cuda"]
fn gpu_fp32_is_near_the_cpu() {
    let engine = OnGpu::new(Some(Precision::F32));
    for name in SMALL.iter().chain(&BUNDLED[..1]) {
        beside_the_cpu(name, &engine, 95, |what, _, worst| assert!(worst < 1e-3, "{what}: {worst}"));
    }
}

#[test]
#[ignore = "needs a GPU: make test-cuda"]
fn gpu_fp16_is_near_the_cpu() {
    let engine = OnGpu::new(Some(Precision::F16));
    for name in SMALL.iter().chain(&BUNDLED[..1]) {
        beside_the_cpu(name, &engine, 60, |what, cosine, _| assert!(cosine > 0.9999, "{what}: {cosine}"));
    }
}

#[test]
#[ignore = "needs a GPU: make test-cuda"]
fn gpu_int8_is_near_the_cpu() {
    beside_the_cpu(BUNDLED[1], &CudaEngine::new(0).unwrap(), 60, |what, cosine, _| {
        assert!(cosine > 0.998, "{what}: {cosine}")
    });
}

#[test]
#[ignore = "needs a GPU: make test-cuda"]
fn gpu_rows_do_not_depend_on_their_batch() {
    for precision in [Precision::F32, Precision::F16] {
        let engine = OnGpu::new(Some(precision));
        for name in SMALL.iter().chain(&BUNDLED[..1]) {
            steady(name, &engine, &[&engine]);
        }
    }
}

#[test]
#[ignore = "needs a GPU: make test-cuda"]
fn gpu_tokens_of_whole_pictures_are_the_cpus() {
    for name in SMALL.iter().chain(&BUNDLED[..1]) {
        same_tokens(&path(name), &OnGpu::new(Some(Precision::F32)), 2, 8);
    }
}
