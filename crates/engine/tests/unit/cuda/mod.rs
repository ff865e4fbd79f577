//! Whole graphs on the emulation of the kernels, beside the CPU's operators.

mod device;
mod graphs;
mod kernels;
mod operators;

use super::device::Precision;
use super::emulator::Emulator;
use super::prepare;
use super::session::CudaSession;
use crate::{Engine, Session, Signature, Source};
use maskgit_core::{LoadLimits, Result};

/// An engine that runs its kernels on the CPU.
struct Emulated {
    precision: Option<Precision>,
    processors: usize,
    backwards: bool,
}

impl Emulated {
    fn new(precision: Precision) -> Self {
        Self { precision: Some(precision), processors: 4, backwards: false }
    }

    fn device(&self) -> Box<Emulator> {
        let mut device = Emulator::new();
        (device.processors, device.backwards) = (self.processors, self.backwards);
        Box::new(device)
    }
}

impl Engine for Emulated {
    fn name(&self) -> &str {
        "emulated"
    }

    fn load(&self, graph: &Source, signature: &Signature, limits: &LoadLimits) -> Result<Box<dyn Session>> {
        Ok(Box::new(CudaSession::new(self.device(), prepare(graph, signature, self.precision, limits)?)?))
    }
}

/// The cosine of the angle between two lists of numbers, and the largest difference.
fn compare(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let (mut product, mut left, mut right, mut worst) = (0f64, 0f64, 0f64, 0f64);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        let difference = (a - b).abs();
        // Not max(): a difference that is not a number must show.
        if difference > worst || difference.is_nan() {
            worst = difference;
        }
        product += a * b;
        left += a * a;
        right += b * b;
    }
    (if left == 0.0 && right == 0.0 { 1.0 } else { product / (left * right).sqrt() }, worst)
}

/// A small generator, so that every run tries the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// About -1 to 1.
    fn number(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}
