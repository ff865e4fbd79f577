//! The integer products of x86-64 processors with VNNI: `vpdpbusd` multiplies four unsigned by four signed bytes in
//! each lane and adds all to a 32-bit sum, without saturation.
//!
//! Two groups of four are summed apart, so that enough products are under way to hide how long one takes; integers, so
//! the sum is the same.

use std::arch::x86_64::*;

use super::tile::{IntTile, Levels, MR, NR, Segment};

/// AVX-512 VNNI (Cascade Lake, Ice Lake, Zen 4 and later): all columns of a panel in one register.
pub(crate) struct Avx512Vnni;

/// AVX-VNNI (Alder Lake, Zen 5 and later): the same on half as many columns.
pub(crate) struct AvxVnni;

macro_rules! int_tile {
    ($tile:ty, $run:ident) => {
        impl IntTile for $tile {
            const GROUP: usize = 4;

            type Weight = i8;

            #[inline(always)]
            fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
                b
            }

            #[inline(always)]
            unsafe fn run(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
                // SAFETY: the same promises.
                unsafe { $run(a, b, acc) }
            }
        }
    };
}
int_tile!(Avx512Vnni, run512);
int_tile!(AvxVnni, run256);

/// Where each row of A stands in a segment.
///
/// # Safety
///
/// As [`IntTile::run`].
#[inline(always)]
unsafe fn rows(a: &Levels<'_>, segment: Segment) -> [*const u8; MR] {
    // SAFETY: by the caller's promise.
    std::array::from_fn(|i| unsafe { a.values.as_ptr().add(a.rows[i]).add(segment.start) })
}

#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn run512(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
    // SAFETY: `acc` has 16 sums a row; `a` and `b` are read within the caller's promises.
    unsafe {
        let four = |at: *const u8| _mm512_set1_epi32(at.cast::<i32>().read_unaligned());
        let mut even: [__m512i; MR] = std::array::from_fn(|i| _mm512_loadu_si512(acc[i].as_ptr().cast()));
        let mut odd = [_mm512_setzero_si512(); MR];
        let mut panel = b.as_ptr();
        for &segment in a.segments {
            let from = rows(a, segment);
            let mut p = 0;
            while p + 8 <= segment.len {
                let near = _mm512_loadu_si512(panel.cast());
                let far = _mm512_loadu_si512(panel.add(4 * NR).cast());
                for i in 0..MR {
                    even[i] = _mm512_dpbusd_epi32(even[i], four(from[i].add(p)), near);
                    odd[i] = _mm512_dpbusd_epi32(odd[i], four(from[i].add(p + 4)), far);
                }
                panel = panel.add(8 * NR);
                p += 8;
            }
            if p < segment.len {
                let near = _mm512_loadu_si512(panel.cast());
                for i in 0..MR {
                    even[i] = _mm512_dpbusd_epi32(even[i], four(from[i].add(p)), near);
                }
                panel = panel.add(4 * NR);
            }
        }
        for i in 0..MR {
            _mm512_storeu_si512(acc[i].as_mut_ptr().cast(), _mm512_add_epi32(even[i], odd[i]));
        }
    }
}

#[target_feature(enable = "avx2,avxvnni")]
unsafe fn run256(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
    // SAFETY: as in `run512`.
    unsafe {
        let mut c = [[_mm256_setzero_si256(); 2]; MR];
        for i in 0..MR {
            c[i][0] = _mm256_loadu_si256(acc[i].as_ptr().cast());
            c[i][1] = _mm256_loadu_si256(acc[i].as_ptr().add(8).cast());
        }
        let mut panel = b.as_ptr();
        for &segment in a.segments {
            let from = rows(a, segment);
            let mut p = 0;
            while p < segment.len {
                let low = _mm256_loadu_si256(panel.cast());
                let high = _mm256_loadu_si256(panel.add(2 * NR).cast());
                for i in 0..MR {
                    let four = _mm256_set1_epi32(from[i].add(p).cast::<i32>().read_unaligned());
                    c[i][0] = _mm256_dpbusd_avx_epi32(c[i][0], four, low);
                    c[i][1] = _mm256_dpbusd_avx_epi32(c[i][1], four, high);
                }
                panel = panel.add(4 * NR);
                p += 4;
            }
        }
        for i in 0..MR {
            _mm256_storeu_si256(acc[i].as_mut_ptr().cast(), c[i][0]);
            _mm256_storeu_si256(acc[i].as_mut_ptr().add(8).cast(), c[i][1]);
        }
    }
}
