//! The integer products of ARM processors with dot product or matrix multiply instructions.
//!
//! Rust has no stable intrinsics for these instructions, so they stand here as assembly, one instruction each. Their
//! 32-bit sums are exact, as everywhere: no kernel saturates.

use std::arch::aarch64::*;
use std::arch::asm;

use super::tile::{IntTile, Levels, MR, NR};

/// Armv8.2-A with FEAT_DotProd (Cortex-A55, A75 and later): `sdot`.
///
/// It multiplies signed bytes, so it sees activations less 128; [`IntTile::OFFSET`] has that put right together with
/// the zero point.
pub(crate) struct DotProd;

/// Armv8.6-A with FEAT_I8MM (Cortex-A510, A710, X2, Neoverse V1 and later): `usmmla`, two rows of unsigned by two
/// columns of signed bytes.
pub(crate) struct I8mm;

macro_rules! int_tile {
    ($tile:ty, $run:ident, $group:literal, $offset:literal) => {
        impl IntTile for $tile {
            const GROUP: usize = $group;
            const TILED: bool = true;
            const OFFSET: u8 = $offset;

            type Weight = i8;

            #[inline(always)]
            fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
                b
            }

            #[inline(always)]
            unsafe fn run(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
                // SAFETY: the same promises.
                unsafe { $run(a.tiled, b, acc) }
            }
        }
    };
}
int_tile!(DotProd, dot_product, 4, 128);
int_tile!(I8mm, matrix_multiply, 8, 0);

/// c[j] + the sum over k of b[4 j + k] x[4 LANE + k]
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot<const LANE: usize>(mut c: int32x4_t, b: int8x16_t, x: int8x16_t) -> int32x4_t {
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
unsafe fn dot_product(a: &[u8], b: &[i8], acc: &mut [[i32; NR]; MR]) {
    // SAFETY: `acc` has 16 values a row; `a` has four bytes of each row, and `b` of each column, for each group.
    unsafe {
        let mut c = [[vdupq_n_s32(0); NR / 4]; MR];
        for i in 0..MR {
            for v in 0..NR / 4 {
                c[i][v] = vld1q_s32(acc[i].as_ptr().add(4 * v));
            }
        }
        let (mut from, mut panel) = (a.as_ptr().cast::<i8>(), b.as_ptr());
        for _ in 0..a.len() / (4 * MR) {
            // The rows 0 to 3, and 2 to 5: both are within the group.
            let (first, last) = (vld1q_s8(from), vld1q_s8(from.add(8)));
            for v in 0..NR / 4 {
                let weights = vld1q_s8(panel.add(16 * v));
                c[0][v] = sdot::<0>(c[0][v], weights, first);
                c[1][v] = sdot::<1>(c[1][v], weights, first);
                c[2][v] = sdot::<2>(c[2][v], weights, first);
                c[3][v] = sdot::<3>(c[3][v], weights, first);
                c[4][v] = sdot::<2>(c[4][v], weights, last);
                c[5][v] = sdot::<3>(c[5][v], weights, last);
            }
            from = from.add(4 * MR);
            panel = panel.add(4 * NR);
        }
        for i in 0..MR {
            for v in 0..NR / 4 {
                vst1q_s32(acc[i].as_mut_ptr().add(4 * v), c[i][v]);
            }
        }
    }
}

#[target_feature(enable = "neon,i8mm")]
unsafe fn matrix_multiply(a: &[u8], b: &[i8], acc: &mut [[i32; NR]; MR]) {
    // SAFETY: as in `dot_product`, with eight bytes.
    unsafe {
        // Two rows by two columns in each.
        let mut c = [[vdupq_n_s32(0); NR / 2]; MR / 2];
        for i in 0..MR / 2 {
            for v in 0..NR / 2 {
                let (upper, lower) = (acc[2 * i].as_ptr().add(2 * v), acc[2 * i + 1].as_ptr().add(2 * v));
                c[i][v] = vcombine_s32(vld1_s32(upper), vld1_s32(lower));
            }
        }
        let (mut from, mut panel) = (a.as_ptr().cast::<i8>(), b.as_ptr());
        for _ in 0..a.len() / (8 * MR) {
            let x: [int8x16_t; MR / 2] = std::array::from_fn(|i| vld1q_s8(from.add(16 * i)));
            for v in 0..NR / 2 {
                let weights = vld1q_s8(panel.add(16 * v));
                for i in 0..MR / 2 {
                    c[i][v] = usmmla(c[i][v], x[i], weights);
                }
            }
            from = from.add(8 * MR);
            panel = panel.add(8 * NR);
        }
        for i in 0..MR / 2 {
            for v in 0..NR / 2 {
                vst1_s32(acc[2 * i].as_mut_ptr().add(2 * v), vget_low_s32(c[i][v]));
                vst1_s32(acc[2 * i + 1].as_mut_ptr().add(2 * v), vget_high_s32(c[i][v]));
            }
        }
    }
}
