//! The integer products of x86-64 processors with VNNI: `vpdpbusd` multiplies four unsigned by four signed bytes in each lane and adds
//! all to a 32-bit sum, without saturation.
//!
//! Two groups of four are summed apart, so that enough products are under way to hide how long one takes; integers, so the sum is the same.

use std::arch::x86_64::*;

use super::tile::{IntTile, Levels, MR, NR};

/// AVX-512 VNNI (Cascade Lake, Ice Lake, Zen 4 and later): all columns of a panel in one register.
pub(super) struct Avx512Vnni;

/// AVX-VNNI (Alder Lake, Zen 5 and later): the same on half as many columns.
pub(super) struct AvxVnni;

macro_rules! int_tile {
    ($tile:ty, $run:ident) => {
        impl IntTile for $tile {
            const GROUP: usize = 4;
            const BYTES: bool = true;

            type Weight = i8;

            #[inline(always)]
            fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
                b
            }

            #[inline(always)]
            unsafe fn run(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
                // SAFETY: the same promises.
                unsafe { $run(a.bytes, b, acc) }
            }
        }
    };
}
int_tile!(Avx512Vnni, run512);
int_tile!(AvxVnni, run256);

/// Bytes of A in one group of four.
const STEP: usize = 4 * MR;

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn run512(a: &[u8], b: &[i8], acc: &mut [[i32; NR]; MR]) {
    let groups = a.len() / STEP;
    // SAFETY: `acc` has 16 sums a row; `a` has a group of each row, and `b` of each column, for each of `groups`.
    unsafe {
        let four = |a: *const u8, i: usize| _mm512_set1_epi32(a.add(4 * i).cast::<i32>().read_unaligned());
        let mut even: [__m512i; MR] = std::array::from_fn(|i| _mm512_loadu_si512(acc[i].as_ptr().cast()));
        let mut odd = [_mm512_setzero_si512(); MR];
        let (mut from, mut panel) = (a.as_ptr(), b.as_ptr());
        for _ in 0..groups / 2 {
            let near = _mm512_loadu_si512(panel.cast());
            let far = _mm512_loadu_si512(panel.add(4 * NR).cast());
            for i in 0..MR {
                even[i] = _mm512_dpbusd_epi32(even[i], four(from, i), near);
                odd[i] = _mm512_dpbusd_epi32(odd[i], four(from.add(STEP), i), far);
            }
            from = from.add(2 * STEP);
            panel = panel.add(8 * NR);
        }
        if groups % 2 == 1 {
            let near = _mm512_loadu_si512(panel.cast());
            for (i, even) in even.iter_mut().enumerate() {
                *even = _mm512_dpbusd_epi32(*even, four(from, i), near);
            }
        }
        for i in 0..MR {
            _mm512_storeu_si512(acc[i].as_mut_ptr().cast(), _mm512_add_epi32(even[i], odd[i]));
        }
    }
}

#[target_feature(enable = "avx2,avxvnni")]
unsafe fn run256(a: &[u8], b: &[i8], acc: &mut [[i32; NR]; MR]) {
    let groups = a.len() / STEP;
    // SAFETY: as in `run512`.
    unsafe {
        let mut c = [[_mm256_setzero_si256(); 2]; MR];
        for i in 0..MR {
            c[i][0] = _mm256_loadu_si256(acc[i].as_ptr().cast());
            c[i][1] = _mm256_loadu_si256(acc[i].as_ptr().add(8).cast());
        }
        let (mut from, mut panel) = (a.as_ptr(), b.as_ptr());
        for _ in 0..groups {
            let low = _mm256_loadu_si256(panel.cast());
            let high = _mm256_loadu_si256(panel.add(2 * NR).cast());
            for (i, c) in c.iter_mut().enumerate() {
                let four = _mm256_set1_epi32(from.add(4 * i).cast::<i32>().read_unaligned());
                c[0] = _mm256_dpbusd_avx_epi32(c[0], four, low);
                c[1] = _mm256_dpbusd_avx_epi32(c[1], four, high);
            }
            from = from.add(STEP);
            panel = panel.add(4 * NR);
        }
        for i in 0..MR {
            _mm256_storeu_si256(acc[i].as_mut_ptr().cast(), c[i][0]);
            _mm256_storeu_si256(acc[i].as_mut_ptr().add(8).cast(), c[i][1]);
        }
    }
}
