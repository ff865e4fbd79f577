//! NVIDIA GPUs, by kernels of our own: the same fused graph as the CPU's becomes a [`plan`] of launches, which a
//! [`device`] records once and replays.
//!
//! No part of a graph stays on the CPU: what has no kernel is an error when the graph is loaded. Rows of a batch are
//! the third dimension of every launch, so each is computed as it is alone.

mod device;
mod driver;
#[cfg(test)]
#[path = "../../tests/unit/cuda/emulator/mod.rs"]
mod emulator;
mod nvrtc;
mod plan;
mod session;
mod sources;
#[cfg(test)]
#[path = "../../tests/unit/cuda/mod.rs"]
mod tests;
mod translate;

use std::sync::Arc;

pub use driver::{CudaDevice, cuda_devices};
use driver::{Gpu, Stream};
use session::CudaSession;

use super::fuse::Target;
use super::import::{Imported, guarded, import};
use super::{Engine, Session, Signature, Source};
use device::Precision;
use maskgit_core::{LoadLimits, Result};

/// Runs graphs on an NVIDIA GPU.
///
/// Tensors are held in fp32 where the graph's weights are in fp32, and in fp16 where they are in fp16 or int8; sums are
/// always in fp32.
pub struct CudaEngine {
    gpu: Arc<Gpu>,
    name: String,
}

impl CudaEngine {
    /// An engine on a GPU, by its number.
    ///
    /// # Errors
    ///
    /// Kind [`Engine`](maskgit_core::ErrorKind::Engine), saying what is missing: the driver, a recent enough one,
    /// NVRTC, the GPU, its compute capability, memory.
    pub fn new(index: usize) -> Result<Self> {
        let gpu = Gpu::open(index)?;
        Ok(Self { gpu: Arc::new(gpu), name: format!("cuda:{index}") })
    }
}

impl Engine for CudaEngine {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(&self, graph: &Source, signature: &Signature, limits: &LoadLimits) -> Result<Box<dyn Session>> {
        let plan = prepare(graph, signature, None, limits)?;
        Ok(Box::new(CudaSession::new(Box::new(Stream::new(&self.gpu)?), plan)?))
    }
}

/// A graph's plan, in the precision that its weights ask for, or in another.
fn prepare(
    graph: &Source,
    signature: &Signature,
    precision: Option<Precision>,
    limits: &LoadLimits,
) -> Result<session::Prepared> {
    guarded(&None, "load the graph", || {
        let Imported { model, narrow, .. } = import(graph, signature, Target::Gpu, limits)?;
        let precision = precision.unwrap_or(if narrow { Precision::F16 } else { Precision::F32 });
        let (plan, translated) = translate::translate(&model, signature, precision)?;
        Ok(session::Prepared { plan, translated, operators: super::fuse::count(&model) })
    })
}
