//! The integer products of ARM processors with dot product or matrix multiply instructions.
//!
//! Rust has no stable intrinsics for these instructions, so they stand here as assembly, one instruction each. Their 32-bit sums
//! are exact, as everywhere: no kernel saturates.

use std::arch::aarch64::*;
use std::arch::asm;

use super::tile::{IntTile, MR, NR, Segment};

/// Armv8.2-A with FEAT_DotProd (Cortex-A55, A75 and later): `sdot`.
///
/// It multiplies signed bytes, so it sees activations less 128; [`IntTile::OFFSET`] has that put right together with the zero point.
pub(super) struct DotProd;

impl IntTile for DotProd {
    const GROUP: usize = 4;
    const OFFSET: i32 = 128;

    type Weight = i8;

    #[inline(always)]
    fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
        b
    }

    #[inline(always)]
    unsafe fn run(a: &[i16], rows: &[usize; MR], segments: &[Segment], b: &[i8], acc: &mut [[i32; NR]; MR]) {
        // SAFETY: the same promises.
        unsafe { dot_product(a, rows, segments, b, acc) }
    }
}

/// Armv8.6-A with FEAT_I8MM (Cortex-A510, A710, X2, Neoverse V1 and later): `usmmla`, two rows of unsigned by two columns of signed bytes.
pub(super) struct I8mm;

impl IntTile for I8mm {
    const GROUP: usize = 8;

    type Weight = i8;

    #[inline(always)]
    fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
        b
    }

    #[inline(always)]
    unsafe fn run(a: &[i16], rows: &[usize; MR], segments: &[Segment], b: &[i8], acc: &mut [[i32; NR]; MR]) {
        // SAFETY: the same promises.
        unsafe { matrix_multiply(a, rows, segments, b, acc) }
    }
}

/// c[j] + the sum over k of b[4 j + k] x[4 LANE + k]
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot<const LANE: usize>(mut c: int32x4_t, b: int8x16_t, x: int8x8_t) -> int32x4_t {
    // SAFETY: one instruction on registers; the function has its target feature.
    unsafe {
        asm!(
            "sdot {c:v}.4s, {b:v}.16b, {x:v}.4b[{lane}]",
            c = inout(vreg) c,
            b = in(vreg) b,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    c
}

/// c[2 i + j] + the sum over k of x[8 i + k] b[8 j + k], x unsigned
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn usmmla(mut c: int32x4_t, x: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers; the function has its target feature.
    unsafe {
        asm!(
            "usmmla {c:v}.4s, {x:v}.16b, {b:v}.16b",
            c = inout(vreg) c,
            x = in(vreg) x,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    c
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn dot_product(a: &[i16], rows: &[usize; MR], segments: &[Segment], b: &[i8], acc: &mut [[i32; NR]; MR]) {
    // SAFETY: `acc` has 16 values a row; `a` and `b` are read within the caller's promises: eight or four values of a row for as
    // many times 16 weights.
    unsafe {
        let mut c = [[vdupq_n_s32(0); NR / 4]; MR];
        for i in 0..MR {
            for v in 0..NR / 4 {
                c[i][v] = vld1q_s32(acc[i].as_ptr().add(4 * v));
            }
        }
        let sign = vdup_n_s8(i8::MIN);
        let mut panel = b.as_ptr();
        for segment in segments {
            let from: [*const i16; MR] = std::array::from_fn(|i| a.as_ptr().add(rows[i]).add(segment.start));
            let mut p = 0;
            while segment.len - p >= 8 {
                let x: [int8x8_t; MR] = std::array::from_fn(|i| veor_s8(vmovn_s16(vld1q_s16(from[i].add(p))), sign));
                for v in 0..NR / 4 {
                    let near = vld1q_s8(panel.add(16 * v));
                    for i in 0..MR {
                        c[i][v] = sdot::<0>(c[i][v], near, x[i]);
                    }
                    let far = vld1q_s8(panel.add(4 * NR + 16 * v));
                    for i in 0..MR {
                        c[i][v] = sdot::<1>(c[i][v], far, x[i]);
                    }
                }
                panel = panel.add(8 * NR);
                p = p.wrapping_add(8);
            }
            if p < segment.len {
                for i in 0..MR {
                    let four = vld1_s16(from[i].add(p));
                    let x = veor_s8(vmovn_s16(vcombine_s16(four, four)), sign);
                    for v in 0..NR / 4 {
                        c[i][v] = sdot::<0>(c[i][v], vld1q_s8(panel.add(16 * v)), x);
                    }
                }
                panel = panel.add(4 * NR);
            }
        }
        for i in 0..MR {
            for v in 0..NR / 4 {
                vst1q_s32(acc[i].as_mut_ptr().add(4 * v), c[i][v]);
            }
        }
    }
}

#[target_feature(enable = "neon,i8mm")]
unsafe fn matrix_multiply(a: &[i16], rows: &[usize; MR], segments: &[Segment], b: &[i8], acc: &mut [[i32; NR]; MR]) {
    // SAFETY: as in `dot_product`; segments are multiples of eight.
    unsafe {
        // Two rows by two columns in each.
        let mut c = [[vdupq_n_s32(0); NR / 2]; MR / 2];
        for i in 0..MR / 2 {
            for v in 0..NR / 2 {
                let (upper, lower) = (acc[2 * i].as_ptr().add(2 * v), acc[2 * i + 1].as_ptr().add(2 * v));
                c[i][v] = vcombine_s32(vld1_s32(upper), vld1_s32(lower));
            }
        }
        let mut panel = b.as_ptr();
        for segment in segments {
            let from: [*const i16; MR] = std::array::from_fn(|i| a.as_ptr().add(rows[i]).add(segment.start));
            let mut p = 0;
            while p < segment.len {
                // The low bytes of two rows.
                let x: [int8x16_t; MR / 2] = std::array::from_fn(|i| {
                    let (upper, lower) = (vld1q_s16(from[2 * i].add(p)), vld1q_s16(from[2 * i + 1].add(p)));
                    vuzp1q_s8(vreinterpretq_s8_s16(upper), vreinterpretq_s8_s16(lower))
                });
                for v in 0..NR / 2 {
                    let weights = vld1q_s8(panel.add(16 * v));
                    for i in 0..MR / 2 {
                        c[i][v] = usmmla(c[i][v], x[i], weights);
                    }
                }
                panel = panel.add(8 * NR);
                p = p.wrapping_add(8);
            }
        }
        for i in 0..MR / 2 {
            for v in 0..NR / 2 {
                vst1_s32(acc[2 * i].as_mut_ptr().add(2 * v), vget_low_s32(c[i][v]));
                vst1_s32(acc[2 * i + 1].as_mut_ptr().add(2 * v), vget_high_s32(c[i][v]));
            }
        }
    }
}
