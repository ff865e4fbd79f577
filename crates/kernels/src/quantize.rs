//! Activations to 8 bits, as they run.

use super::Isa;
use super::cell::SharedSlice;
use crate::for_isa;
use crate::pool;

/// Numbers that one task quantises.
const TASK: usize = 1 << 14;

/// Rows of activations in 8 bits. A value x of row i is about `scales[i] * (q - zeros[i])`.
#[derive(Clone, Debug, Default)]
pub struct QuantRows {
    /// q, in rows of `stride`.
    pub values: Vec<u8>,
    /// From one row to the next.
    pub stride: usize,
    /// What one unit of a row is worth.
    pub scales: Vec<f32>,
    /// The level of a row that stands for 0.
    pub zeros: Vec<i32>,
}

/// The scale and the zero point that map `low..=high`, widened to hold 0, to 0..=255.
///
/// A range that is not finite gives the scale NaN, so that whatever is computed from it is NaN, as it would be in f32.
#[inline(always)]
pub fn affine(low: f32, high: f32) -> (f32, i32) {
    if !(high - low).is_finite() {
        return (f32::NAN, 0);
    }
    let (low, high) = (if low < 0.0 { low } else { 0.0 }, if high > 0.0 { high } else { 0.0 });
    let span = high - low;
    let scale = span * (1.0 / 255.0);
    if scale < f32::MIN_POSITIVE {
        // All zero, or too small for a scale: q is the zero point everywhere.
        return (0.0, 0);
    }
    (scale, round(-low / scale) as i32)
}

/// To the nearest integer, ties to even, for |x| < 2^22.
#[inline(always)]
fn round(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND) - ROUND
}

/// The least and the greatest value; NaN where there is a value that is not finite.
#[inline(always)]
pub(crate) fn range(values: &[f32]) -> (f32, f32) {
    let (mut low, mut high, mut odd) = ([0f32; 16], [0f32; 16], [0f32; 16]);
    let mut chunks = values.chunks_exact(16);
    for chunk in &mut chunks {
        for j in 0..16 {
            let x = chunk[j];
            low[j] = if x < low[j] { x } else { low[j] };
            high[j] = if x > high[j] { x } else { high[j] };
            // 0 for a finite value, NaN for the others.
            odd[j] += x * 0.0;
        }
    }
    let (mut least, mut greatest, mut check) = (0f32, 0f32, 0f32);
    for j in 0..16 {
        least = if low[j] < least { low[j] } else { least };
        greatest = if high[j] > greatest { high[j] } else { greatest };
        check += odd[j];
    }
    for &x in chunks.remainder() {
        least = if x < least { x } else { least };
        greatest = if x > greatest { x } else { greatest };
        check += x * 0.0;
    }
    (least + check, greatest + check)
}

/// Quantises values with a given scale and zero point.
#[inline(always)]
pub(crate) fn quantize(values: &[f32], scale: f32, zero: i32, out: &mut [u8]) {
    const ROUND: f32 = 12_582_912.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let zero = zero as f32;
    for (x, q) in values.iter().zip(out) {
        let y = x * inverse + zero;
        let y = if y > 0.0 { y } else { 0.0 };
        let y = if y < 255.0 { y } else { 255.0 };
        *q = ((y + ROUND).to_bits() & 0xff) as u8;
    }
}

/// Some rows of a [`QuantRows`].
struct Part<'a> {
    values: &'a mut [u8],
    scales: &'a mut [f32],
    zeros: &'a mut [i32],
}

#[inline(always)]
fn quantize_part_body<const FMA: bool>(values: &[f32], depth: usize, stride: usize, out: Part<'_>) {
    let rows = values.chunks_exact(depth).zip(out.values.chunks_exact_mut(stride));
    for ((row, q), (scale, zero)) in rows.zip(out.scales.iter_mut().zip(out.zeros)) {
        let (low, high) = range(row);
        (*scale, *zero) = affine(low, high);
        quantize(row, *scale, *zero, &mut q[..depth]);
        q[depth..].fill(0);
    }
}

for_isa! {
    fn quantize_part(isa, values: &[f32], depth: usize, stride: usize, out: Part<'_>) = quantize_part_body
}

/// Quantises rows of `depth` values, each with its own scale, shared by the engine's threads; `out.stride` says how far
/// apart they come to stand, at least `depth`.
pub fn quantize_rows(isa: Isa, values: &[f32], depth: usize, out: &mut QuantRows) {
    let rows = values.len().checked_div(depth).unwrap_or(0);
    let stride = out.stride;
    out.values.resize(rows * stride, 0);
    out.scales.resize(rows, 0.0);
    out.zeros.resize(rows, 0);
    let together = TASK.div_ceil(depth.max(1));
    let (q, scales, zeros) =
        (SharedSlice::new(&mut out.values), SharedSlice::new(&mut out.scales), SharedSlice::new(&mut out.zeros));
    pool::run(rows.div_ceil(together), |task| {
        let first = task * together;
        let count = together.min(rows - first);
        // SAFETY: each row belongs to one task.
        let part = unsafe {
            Part {
                values: q.slice(first * stride, count * stride),
                scales: scales.slice(first, count),
                zeros: zeros.slice(first, count),
            }
        };
        quantize_part(isa, &values[first * depth..][..count * depth], depth, stride, part);
    });
}

#[inline(always)]
fn range_body<const FMA: bool>(values: &[f32], out: &mut (f32, f32)) {
    *out = range(values);
}

for_isa! {
    /// [`range`] for the instruction set.
    pub fn range_of(isa, values: &[f32], out: &mut (f32, f32)) = range_body
}

#[inline(always)]
fn quantize_body<const FMA: bool>(values: &[f32], scale: f32, zero: i32, out: &mut [u8]) {
    quantize(values, scale, zero, out);
}

for_isa! {
    /// [`quantize`] for the instruction set.
    pub fn quantize_into(isa, values: &[f32], scale: f32, zero: i32, out: &mut [u8]) = quantize_body
}
