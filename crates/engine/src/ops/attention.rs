//! Scaled dot product attention (Vaswani et al. 2017).

use tract_core::internal::*;

use super::{numbers, operator, output, slice_mut};
use maskgit_core::exp;
use maskgit_kernels::{Isa, pool};
use maskgit_kernels::{MR, NR, Segment, SharedSlice, float_tile, for_isa};

/// Where the numbers of one operand stand in its tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Which input of the operator; ignored for the output.
    pub(crate) input: usize,
    pub(crate) base: usize,
    pub(crate) head: usize,
    pub(crate) token: usize,
    pub(crate) dim: usize,
}

impl View {
    #[inline(always)]
    fn at(&self, head: usize, token: usize, dim: usize) -> usize {
        self.base + head * self.head + token * self.token + dim * self.dim
    }
}

/// `softmax(scale Q K^T) V` for each head.
///
/// Only [`MR`] rows of scores of a head exist at a time. Queries, keys and values may be parts of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// Length of a query and a key.
    pub(crate) dim: usize,
    /// Length of a value.
    pub(crate) value_dim: usize,
    /// The bits of the factor on the scores.
    pub(crate) scale: u32,
    pub(crate) q: View,
    pub(crate) k: View,
    pub(crate) v: View,
    pub(crate) out: View,
    pub(crate) shape: TVec<usize>,
    /// The volume of each input.
    pub(crate) volumes: TVec<usize>,
    pub(crate) isa: Isa,
    /// Whether multiply-add may round once, where the instruction set does.
    pub(crate) fused: bool,
}

operator!(Attention, "Attention");

impl Attention {
    fn describe(&self) -> String {
        format!("{} heads of {}, {} queries, {} keys", self.heads, self.dim, self.queries, self.keys)
    }

    fn output_shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn run(&self, inputs: TVec<TValue>) -> TractResult<Tensor> {
        let slices: Vec<&[f32]> =
            self.volumes.iter().enumerate().map(|(i, &len)| numbers(&inputs, i, len)).collect::<TractResult<_>>()?;
        let of = |view: &View| slices.get(view.input).copied().context("an operand of attention is missing");
        let (q, k, v) = (of(&self.q)?, of(&self.k)?, of(&self.v)?);
        let mut result = output(&self.shape)?;
        let len = result.len();
        let out = SharedSlice::new(slice_mut(&mut result)?);
        pool::run(self.heads, |head| {
            let mut rows = vec![0f32; self.queries * self.value_dim];
            let run = if self.fused { one_head } else { one_head_unfused };
            run(self.isa, self, head, (q, k, v), &mut rows);
            for (token, row) in rows.chunks_exact(self.value_dim).enumerate() {
                if self.out.dim == 1 {
                    // SAFETY: the places of different heads and tokens in the output are disjoint.
                    unsafe { out.slice(self.out.at(head, token, 0), self.value_dim) }.copy_from_slice(row);
                } else {
                    for (dim, value) in row.iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { out.slice(self.out.at(head, token, dim).min(len), 1)[0] = *value };
                    }
                }
            }
        });
        Ok(result)
    }
}

#[inline(always)]
fn one_head_body<const FMA: bool>(op: &Attention, head: usize, (q, k, v): (&[f32], &[f32], &[f32]), out: &mut [f32]) {
    let scale = f32::from_bits(op.scale);
    let mut copied = Vec::new();
    // Queries whose numbers stand side by side are read where they are.
    let (queries, first_query, stride) = if op.q.dim == 1 {
        (q, op.q.at(head, 0, 0), op.q.token)
    } else {
        copied.reserve_exact(op.queries * op.dim);
        for m in 0..op.queries {
            copied.extend((0..op.dim).map(|d| q[op.q.at(head, m, d)]));
        }
        (copied.as_slice(), 0, op.dim)
    };
    let reach = first_query + (op.queries - 1) * stride + op.dim;
    assert!(reach <= queries.len(), "a query is out of bounds");
    let key_panels = op.keys.div_ceil(NR);
    let mut keys = vec![0f32; key_panels * NR * op.dim];
    for (p, panel) in keys.chunks_exact_mut(NR * op.dim).enumerate() {
        for n in 0..NR.min(op.keys - p * NR) {
            let start = op.k.at(head, p * NR + n, 0);
            let key = &k[start..=start + (op.dim - 1) * op.k.dim];
            for (lanes, x) in panel.chunks_exact_mut(NR).zip(key.iter().step_by(op.k.dim.max(1))) {
                lanes[n] = x * scale;
            }
        }
    }
    let value_panels = op.value_dim.div_ceil(NR);
    let mut values = vec![0f32; value_panels * NR * op.keys];
    for (p, panel) in values.chunks_exact_mut(NR * op.keys).enumerate() {
        let used = NR.min(op.value_dim - p * NR);
        for (n, lanes) in panel.chunks_exact_mut(NR).enumerate() {
            let start = op.v.at(head, n, p * NR);
            let value = &v[start..=start + (used - 1) * op.v.dim];
            lanes.iter_mut().zip(value.iter().step_by(op.v.dim.max(1))).for_each(|(lane, x)| *lane = *x);
        }
    }
    let width = key_panels * NR;
    let mut scores = vec![0f32; MR * width];
    let places: [usize; MR] = std::array::from_fn(|i| i * width);
    for first in (0..op.queries).step_by(MR) {
        let height = MR.min(op.queries - first);
        let rows: [usize; MR] = std::array::from_fn(|i| first_query + (first + i.min(height - 1)) * stride);
        let along = [Segment { start: 0, len: op.dim }];
        for (p, panel) in keys.chunks_exact(op.dim * NR).enumerate() {
            let mut acc = [[0f32; NR]; MR];
            // SAFETY: `rows` are rows of `queries` with `dim` numbers, in bounds by the assertion; a panel has `dim`
            // times NR.
            unsafe { float_tile::<FMA>(queries, &rows, &along, panel, &mut acc) };
            for (i, row) in acc.iter().enumerate() {
                scores[i * width + p * NR..][..NR].copy_from_slice(row);
            }
        }
        let mut sums = [0f32; MR];
        for (row, sum) in scores.chunks_exact_mut(width).zip(&mut sums) {
            *sum = exponentials(row, op.keys);
        }
        let along = [Segment { start: 0, len: op.keys }];
        for (p, panel) in values.chunks_exact(op.keys * NR).enumerate() {
            let mut acc = [[0f32; NR]; MR];
            // SAFETY: `places` are the rows of `scores`, which have at least `keys` numbers; a panel has `keys` times
            // NR.
            unsafe { float_tile::<FMA>(&scores, &places, &along, panel, &mut acc) };
            let used = NR.min(op.value_dim - p * NR);
            for (i, row) in acc.iter().enumerate().take(height) {
                let factor = 1.0 / sums[i];
                let out = &mut out[(first + i) * op.value_dim + p * NR..][..used];
                out.iter_mut().zip(row).for_each(|(o, x)| *o = x * factor);
            }
        }
    }
}

/// Turns the first `keys` scores of a row into exponentials, less the greatest; returns their sum.
#[inline(always)]
fn exponentials(row: &mut [f32], keys: usize) -> f32 {
    row[keys..].fill(f32::NEG_INFINITY);
    let mut greatest = [f32::NEG_INFINITY; NR];
    for chunk in row.chunks_exact(NR) {
        for j in 0..NR {
            greatest[j] = if chunk[j] > greatest[j] { chunk[j] } else { greatest[j] };
        }
    }
    let greatest = greatest.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let mut sums = [0f32; NR];
    for chunk in row.chunks_exact_mut(NR) {
        for j in 0..NR {
            chunk[j] = exp(chunk[j] - greatest);
            sums[j] += chunk[j];
        }
    }
    sums.iter().sum()
}

for_isa! {
    fn one_head(isa, op: &Attention, head: usize, operands: (&[f32], &[f32], &[f32]), out: &mut [f32]) = one_head_body
}

for_isa! {
    fn one_head_unfused(
        isa, op: &Attention, head: usize, operands: (&[f32], &[f32], &[f32]), out: &mut [f32],
    ) = one_head_body, unfused
}
