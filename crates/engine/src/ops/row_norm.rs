//! Layer and RMS normalisation of rows.

use tract_core::internal::*;

use super::{Vector, numbers, operator, output, slice_mut};
use maskgit_kernels::{Isa, pool};
use maskgit_kernels::{SharedSlice, for_isa};

/// Numbers a task normalises.
const TASK: usize = 1 << 14;

/// Normalises rows of `inner` numbers: `(x - mean) / sqrt(variance + eps) * gamma + beta` (Ba et al. 2016), or without
/// the mean `x / sqrt(mean of squares + eps) * gamma + beta` (Zhang and Sennrich 2019).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowNorm {
    pub(crate) shape: TVec<usize>,
    pub(crate) inner: usize,
    pub(crate) centred: bool,
    /// The bits of eps, so that operators can be compared.
    pub(crate) eps: u32,
    pub(crate) gamma: Option<Vector>,
    pub(crate) beta: Option<Vector>,
    pub(crate) isa: Isa,
}

operator!(RowNorm, "RowNorm");

impl RowNorm {
    fn describe(&self) -> String {
        format!("{} of {}", if self.centred { "layer norm" } else { "RMS norm" }, self.inner)
    }

    fn output_shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn run(&self, inputs: TVec<TValue>) -> TractResult<Tensor> {
        let volume: usize = self.shape.iter().product();
        let x = numbers(&inputs, 0, volume)?;
        let mut result = output(&self.shape)?;
        let out = SharedSlice::new(slice_mut(&mut result)?);
        let rows = volume / self.inner;
        let size = (TASK / self.inner).max(1);
        pool::run(rows.div_ceil(size), |task| {
            let (first, last) = (task * size, ((task + 1) * size).min(rows));
            let range = first * self.inner..last * self.inner;
            // SAFETY: each row belongs to one task.
            let out = unsafe { out.slice(range.start, range.len()) };
            normalize(self.isa, self, &x[range], out);
        });
        Ok(result)
    }
}

/// The sum of `f` over values, in sixteen partial sums: an order that does not depend on the instruction set.
#[inline(always)]
pub(super) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let mut chunks = values.chunks_exact(16);
    for chunk in &mut chunks {
        for j in 0..16 {
            lanes[j] += f(chunk[j]);
        }
    }
    let mut total = 0.0;
    for lane in lanes {
        total += lane;
    }
    for &x in chunks.remainder() {
        total += f(x);
    }
    total
}

#[inline(always)]
fn normalize_body<const FMA: bool>(norm: &RowNorm, x: &[f32], out: &mut [f32]) {
    let inner = norm.inner;
    let count = inner as f32;
    for (x, out) in x.chunks_exact(inner).zip(out.chunks_exact_mut(inner)) {
        let mean = if norm.centred { sum(x, |v| v) / count } else { 0.0 };
        let variance = sum(x, |v| (v - mean) * (v - mean)) / count;
        let scale = 1.0 / (variance + f32::from_bits(norm.eps)).sqrt();
        for (y, v) in out.iter_mut().zip(x) {
            *y = (v - mean) * scale;
        }
        if let Some(gamma) = norm.gamma.as_deref() {
            out.iter_mut().zip(gamma).for_each(|(y, g)| *y *= g);
        }
        if let Some(beta) = norm.beta.as_deref() {
            out.iter_mut().zip(beta).for_each(|(y, b)| *y += b);
        }
    }
}

for_isa! {
    fn normalize(isa, norm: &RowNorm, x: &[f32], out: &mut [f32]) = normalize_body
}
