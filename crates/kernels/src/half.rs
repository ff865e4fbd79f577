//! Products in half precision (fp16), for ARM processors that compute in it (FEAT_FP16: `fmla` on eight numbers at a
//! time, twice as many as in float32).
//!
//! Each row of activations is divided by a power of two at least as large as its largest number before it is rounded to
//! fp16, so none overflows; weights are fp16 as the file has them. Products are summed in fp16 over [`STRETCH`] values
//! along the inner dimension, and those sums in float32.
//!
//! Rust has no stable intrinsics for these instructions, so they stand here as assembly, one instruction each.

use std::arch::aarch64::*;
use std::arch::asm;

use super::cell::SharedSlice;
use super::gemm::{Block, Epilogue, Rows, drive, finish, lanes, row_offsets, tile_rows};
use super::pack::PackedF16;
use super::quantize;
use super::tile::{MR, NR, Segment};
use crate::pool;

/// Values along the inner dimension whose products are summed in fp16: few enough that its 11 bits lose little.
const STRETCH: usize = 32;
/// Values of a row that stand in one register.
const LANES: usize = 8;
/// Numbers that one task rounds.
const TASK: usize = 1 << 14;

/// Whether this processor computes in fp16.
pub fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("fp16")
}

/// Rows of activations in fp16: a value x of row i is `scales[i]` times its number here.
#[derive(Default)]
pub struct HalfRows {
    values: Vec<u16>,
    stride: usize,
    scales: Vec<f32>,
}

impl HalfRows {
    /// Rounds rows of `depth` values, shared by the engine's threads.
    pub fn new(values: &[f32], depth: usize) -> Self {
        let rows = values.len().checked_div(depth).unwrap_or(0);
        let stride = depth.next_multiple_of(LANES);
        let (mut halves, mut scales) = (vec![0u16; rows * stride], vec![0f32; rows]);
        let together = TASK.div_ceil(depth.max(1));
        let (shared, shared_scales) = (SharedSlice::new(&mut halves), SharedSlice::new(&mut scales));
        pool::run(rows.div_ceil(together), |task| {
            for row in task * together..((task + 1) * together).min(rows) {
                let from = &values[row * depth..][..depth];
                // SAFETY: each row belongs to one task.
                let (to, scale) = unsafe { (shared.slice(row * stride, depth), &mut shared_scales.slice(row, 1)[0]) };
                *scale = scale_of(from);
                round(from, 1.0 / *scale, to);
            }
        });
        Self { values: halves, stride, scales }
    }
}

/// The least power of two that no number of a row exceeds; NaN where one is not finite.
fn scale_of(row: &[f32]) -> f32 {
    let (low, high) = quantize::range(row);
    let largest = high.max(-low);
    if !(low + high).is_finite() {
        return f32::NAN;
    }
    // Its exponent, one more; within what has a reciprocal.
    let exponent = (largest.to_bits() >> 23).clamp(2, 252) + 1;
    f32::from_bits(exponent << 23)
}

/// Rounds `values * factor` to fp16, ties to even.
fn round(values: &[f32], factor: f32, out: &mut [u16]) {
    let (chunks, outs) = (values.chunks_exact(4), out.chunks_exact_mut(4));
    let rest = chunks.remainder();
    let convert = |four: &[f32; 4]| -> [u16; 4] {
        let mut halves = [0u16; 4];
        // SAFETY: both have four numbers; the instruction is in every 64-bit ARM processor.
        unsafe {
            let wide = vmulq_n_f32(vld1q_f32(four.as_ptr()), factor);
            let narrow: uint16x4_t;
            asm!(
                "fcvtn {n:v}.4h, {w:v}.4s",
                n = lateout(vreg) narrow,
                w = in(vreg) wide,
                options(pure, nomem, nostack, preserves_flags),
            );
            vst1_u16(halves.as_mut_ptr(), narrow);
        }
        halves
    };
    let mut tail = [0f32; 4];
    tail[..rest.len()].copy_from_slice(rest);
    let last = convert(&tail);
    let whole = values.len() - rest.len();
    for (four, out) in chunks.zip(outs) {
        out.copy_from_slice(&convert(four.first_chunk().expect("a chunk of four")));
    }
    out[whole..].copy_from_slice(&last[..rest.len()]);
}

/// Computes `rows x weights`.
pub fn gemm_f16(rows: &HalfRows, weights: &PackedF16, epilogue: &Epilogue<'_>, parallel: bool) {
    assert!(is_available(), "this processor does not compute in fp16");
    assert_eq!(weights.layout.padded, rows.stride, "weights of another depth");
    let a = Rows { data: &rows.values, count: rows.scales.len(), offset: &|row| row * rows.stride, taps: &[0] };
    drive(&a, &weights.layout, parallel, |block| run_block(&a, &rows.scales, weights, epilogue, block));
}

fn run_block(a: &Rows<'_, u16>, scales: &[f32], weights: &PackedF16, epilogue: &Epilogue<'_>, block: &Block<'_>) {
    let layout = &weights.layout;
    let offsets = row_offsets(a, block);
    let tiles = offsets.len() / MR;
    let stretches = block.stretches;
    let mut partial = vec![[[0f32; NR]; MR]; if stretches.len() > 1 { tiles * block.panels.len() } else { 0 }];
    let mut done = 0;
    for (s, segments) in stretches.iter().enumerate() {
        let depth: usize = segments.iter().map(|s| s.len).sum();
        let last = s + 1 == stretches.len();
        for (p, panel) in block.panels.clone().enumerate() {
            let b = &weights.values.slice()[(panel * layout.inner() + done) * NR..][..depth * NR];
            let bias = epilogue.bias.map_or([0.0; NR], |bias| lanes(bias, panel));
            let width = (layout.columns - panel * NR).min(NR);
            for tile in 0..tiles {
                let mut acc = if s == 0 { [[0f32; NR]; MR] } else { partial[p * tiles + tile] };
                // SAFETY: `row_offsets` checked A; `b` was sliced to the length of the segments, multiples of 8 as the
                // stride is; `gemm_f16` checked the processor.
                unsafe { run_tile(a.data, tile_rows(&offsets, tile), segments, b, &mut acc) };
                if !last {
                    partial[p * tiles + tile] = acc;
                    continue;
                }
                for (i, values) in acc.iter().enumerate() {
                    let row = block.rows.start + tile * MR + i;
                    if row < block.rows.end {
                        finish(epilogue, values.map(|v| v * scales[row]), &bias, row, panel * NR, width);
                    }
                }
            }
        }
        done += depth;
    }
}

/// c + b x[LANE], on eight numbers in fp16
#[target_feature(enable = "neon,fp16")]
#[inline]
fn fmla<const LANE: usize>(mut c: uint16x8_t, b: uint16x8_t, x: uint16x8_t) -> uint16x8_t {
    // SAFETY: one instruction on registers; the function has its target feature.
    unsafe {
        asm!(
            "fmla {c:v}.8h, {b:v}.8h, {x:v}.h[{lane}]",
            c = inout(vreg) c,
            b = in(vreg) b,
            x = in(vreg_low16) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    c
}

/// The lower and the upper four of eight numbers in fp16.
#[target_feature(enable = "neon")]
#[inline]
fn widened(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: instructions on registers, which every 64-bit ARM processor has.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// Adds to `acc` the product of `MR` rows of A and a panel of B.
///
/// # Safety
///
/// As [`super::tile::float`], and the lengths of the segments are multiples of 8; the processor computes in fp16.
#[target_feature(enable = "neon,fp16")]
unsafe fn run_tile(a: &[u16], rows: &[usize; MR], segments: &[Segment], b: &[u16], acc: &mut [[f32; NR]; MR]) {
    // SAFETY: by the caller's promises.
    unsafe {
        let mut panel = b.as_ptr();
        for segment in segments {
            let mut p = 0;
            while p < segment.len {
                let end = (p + STRETCH).min(segment.len);
                let mut c = [[vdupq_n_u16(0); NR / LANES]; MR];
                while p < end {
                    let x: [uint16x8_t; MR] =
                        std::array::from_fn(|i| vld1q_u16(a.as_ptr().add(rows[i] + segment.start + p)));
                    macro_rules! lane {
                        ($($lane:literal)*) => {$({
                            let weights = [vld1q_u16(panel), vld1q_u16(panel.add(LANES))];
                            for i in 0..MR {
                                c[i][0] = fmla::<$lane>(c[i][0], weights[0], x[i]);
                                c[i][1] = fmla::<$lane>(c[i][1], weights[1], x[i]);
                            }
                            panel = panel.add(NR);
                        })*};
                    }
                    lane!(0 1 2 3 4 5 6 7);
                    p += LANES;
                }
                for i in 0..MR {
                    for (v, halves) in c[i].iter().enumerate() {
                        for (w, wide) in widened(*halves).into_iter().enumerate() {
                            let at = acc[i].as_mut_ptr().add(LANES * v + 4 * w);
                            vst1q_f32(at, vaddq_f32(vld1q_f32(at), wide));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::super::activation::Activation;
    use super::super::gemm::Residual;
    use super::super::pack::Matrix;
    use super::*;

    /// Products of odd sizes, whose rows differ by ten orders of magnitude, are those of f64 to about three digits.
    #[test]
    fn products_in_half_precision_are_near_the_exact_ones() {
        if !is_available() {
            return;
        }
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        for (rows, depth, columns) in [(1, 1, 1), (13, 100, 37), (6, 768, 16), (7, 1531, 50)] {
            let x: Vec<f32> = (0..rows * depth).map(|i| next() * 10f32.powi((i / depth % 11) as i32 - 5)).collect();
            let w: Vec<f32> = (0..depth * columns).map(|_| half_of(next() * 0.1)).collect();
            let (inner, places): (Vec<usize>, Vec<usize>) =
                ((0..depth).map(|k| k * columns).collect(), (0..columns).collect());
            let weights = PackedF16::new(&Matrix { values: &w, taps: 1, tap: 0, inner: &inner, columns: &places });
            let mut out = vec![0f32; rows * columns];
            let epilogue = Epilogue {
                bias: None,
                activation: Activation::None,
                residual: Residual::None,
                out: SharedSlice::new(&mut out),
                first: 0,
                stride: columns,
                places: None,
            };
            gemm_f16(&HalfRows::new(&x, depth), &weights, &epilogue, false);
            for (row, found) in out.chunks_exact(columns).enumerate() {
                let exact = |column: usize| -> (f64, f64) {
                    let terms = (0..depth).map(|k| f64::from(x[row * depth + k]) * f64::from(w[k * columns + column]));
                    terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t * t))
                };
                for (column, &found) in found.iter().enumerate() {
                    let (sum, squares) = exact(column);
                    let bound = 3e-3 * squares.sqrt() + 1e-3 * sum.abs();
                    assert!((f64::from(found) - sum).abs() <= bound, "{rows}x{depth}x{columns}: {found} for {sum}");
                }
            }
        }
    }

    fn half_of(value: f32) -> f32 {
        f16::from_f32(value).to_f32()
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        if !is_available() {
            return;
        }
        let rows = HalfRows::new(&[1.0, f32::INFINITY, 0.0, 0.0, 65504.0, -3e38], 2);
        assert!(rows.scales[0].is_nan() && rows.scales[1] > 0.0 && rows.scales[2].is_finite());
        assert_eq!(rows.values[8..10], [0, 0]);
        assert!(rows.values[16..18].iter().all(|&bits| f16::from_bits(bits).is_finite()));
    }
}
