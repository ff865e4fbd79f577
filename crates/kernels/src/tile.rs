//! The innermost product: a few rows of A times one panel of B.

/// Rows of a tile.
pub const MR: usize = 6;
/// Columns of a tile, and the width of a packed panel.
pub const NR: usize = 16;

/// A run of inner-dimension values: where it starts within a row of A, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts within a row.
    pub start: usize,
    /// How many there are.
    pub len: usize,
}

/// One rounding where the instruction set fuses, two elsewhere.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adds to `acc` the product of `MR` rows of `a` and a panel of B in f32.
///
/// # Safety
///
/// For each row offset and each segment, `a[row + start..row + start + len]` is in bounds; `b` holds `NR` values for
/// each value of the segments.
#[inline(always)]
pub unsafe fn float<const FMA: bool>(
    a: &[f32],
    rows: &[usize; MR],
    segments: &[Segment],
    b: &[f32],
    acc: &mut [[f32; NR]; MR],
) {
    let mut c = *acc;
    let mut panel = b.as_ptr();
    for segment in segments {
        // SAFETY: by the caller's promise on `a`.
        let from: [*const f32; MR] = std::array::from_fn(|i| unsafe { a.as_ptr().add(rows[i]).add(segment.start) });
        for p in 0..segment.len {
            // SAFETY: by the caller's promise on `b`.
            let lanes: &[f32; NR] = unsafe { &*panel.cast() };
            for i in 0..MR {
                // SAFETY: by the caller's promise on `a`.
                let x = unsafe { *from[i].add(p) };
                for j in 0..NR {
                    c[i][j] = mul_add::<FMA>(x, lanes[j], c[i][j]);
                }
            }
            // SAFETY: at most one past the end.
            panel = unsafe { panel.add(NR) };
        }
    }
    *acc = c;
}

/// The rows of A that meet a panel of B, as integer products read them.
pub(crate) struct Levels<'a> {
    /// Where all rows stand.
    pub values: &'a [u8],
    /// Where each row of the tile starts.
    pub rows: &'a [usize; MR],
    pub segments: &'a [Segment],
    /// The same as [`arrange`] laid it out, for a product that takes it so; else empty.
    pub tiled: &'a [u8],
}

/// The integer product of an instruction set.
pub(crate) trait IntTile {
    /// How many values along the inner dimension stand side by side in a panel.
    const GROUP: usize;

    /// Whether the product reads [`Levels::tiled`].
    const TILED: bool = false;

    /// Bytes of a value there: 2 for 16-bit integers.
    const TILED_BYTES: usize = 1;

    /// What is taken from each activation: 128 where the instructions want signed bytes, or 0; other than 0 only if
    /// `TILED`.
    const OFFSET: u8 = 0;

    /// A weight as the product takes it.
    type Weight: Copy;

    /// Makes a panel ready for all the tiles that will pass over it.
    fn prepare<'a>(b: &'a [i8], room: &'a mut Vec<Self::Weight>) -> &'a [Self::Weight];

    /// Adds to `acc` the product of `MR` rows of A, less `OFFSET`, and a panel of B, exactly.
    ///
    /// # Safety
    ///
    /// As [`float`], and the lengths of the segments are multiples of `GROUP`; if `TILED`, what [`arrange`] made of the
    /// segments is there; the processor has the instruction set.
    unsafe fn run(a: &Levels<'_>, b: &[Self::Weight], acc: &mut [[i32; NR]; MR]);
}

/// Lays the rows of a tile out, less `T::OFFSET`, as `[depth / GROUP][MR][GROUP]`, each value in `T::TILED_BYTES`: what
/// a product needs next stands next.
#[inline(always)]
pub(crate) fn arrange<T: IntTile>(values: &[u8], rows: &[usize; MR], segments: &[Segment], out: &mut [u8]) {
    let size = T::GROUP * T::TILED_BYTES;
    let mut out = out;
    for segment in segments {
        let (here, rest) = out.split_at_mut(segment.len * MR * T::TILED_BYTES);
        for (i, row) in rows.iter().enumerate() {
            let from = &values[row + segment.start..][..segment.len];
            for (group, to) in from.chunks_exact(T::GROUP).zip(here.chunks_exact_mut(size * MR)) {
                for (q, value) in group.iter().zip(to[i * size..][..size].chunks_exact_mut(T::TILED_BYTES)) {
                    value.fill(0);
                    value[0] = q ^ T::OFFSET;
                }
            }
        }
        out = rest;
    }
}

/// Any processor; the compiler finds the widening multiply-add of NEON.
pub(crate) struct Portable;

impl IntTile for Portable {
    const GROUP: usize = 1;

    type Weight = i8;

    #[inline(always)]
    fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
        b
    }

    #[inline(always)]
    unsafe fn run(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
        let mut c = *acc;
        let mut panel = b.as_ptr();
        for segment in a.segments {
            // SAFETY: by the caller's promise on `a`.
            let from: [*const u8; MR] =
                std::array::from_fn(|i| unsafe { a.values.as_ptr().add(a.rows[i]).add(segment.start) });
            for p in 0..segment.len {
                // SAFETY: by the caller's promise on `b`.
                let lanes: &[i8; NR] = unsafe { &*panel.cast() };
                for i in 0..MR {
                    // SAFETY: by the caller's promise on `a`.
                    let x = i32::from(unsafe { *from[i].add(p) });
                    for j in 0..NR {
                        c[i][j] = c[i][j].wrapping_add(x.wrapping_mul(i32::from(lanes[j])));
                    }
                }
                // SAFETY: at most one past the end.
                panel = unsafe { panel.add(NR) };
            }
        }
        *acc = c;
    }
}

/// x86-64 with AVX2: `vpmaddwd` on 16-bit values.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl IntTile for Avx2 {
    const GROUP: usize = 2;
    const TILED: bool = true;
    const TILED_BYTES: usize = 2;

    type Weight = i16;

    #[inline(always)]
    fn prepare<'a>(b: &'a [i8], room: &'a mut Vec<i16>) -> &'a [i16] {
        room.clear();
        room.extend(b.iter().map(|&weight| i16::from(weight)));
        room
    }

    #[inline(always)]
    unsafe fn run(a: &Levels<'_>, b: &[i16], acc: &mut [[i32; NR]; MR]) {
        // SAFETY: the same promises.
        unsafe { avx2_int(a.tiled, b, acc) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn avx2_int(a: &[u8], b: &[i16], acc: &mut [[i32; NR]; MR]) {
    use std::arch::x86_64::*;
    const STEP: usize = 4 * MR;
    // SAFETY: `acc` has 16 values a row; `a` has two 16-bit values of each row, and `b` of each column, for each step.
    unsafe {
        let mut c = [[_mm256_setzero_si256(); 2]; MR];
        for i in 0..MR {
            c[i][0] = _mm256_loadu_si256(acc[i].as_ptr().cast());
            c[i][1] = _mm256_loadu_si256(acc[i].as_ptr().add(8).cast());
        }
        let (mut from, mut panel) = (a.as_ptr(), b.as_ptr());
        for _ in 0..a.len() / STEP {
            let low = _mm256_loadu_si256(panel.cast());
            let high = _mm256_loadu_si256(panel.add(NR).cast());
            for (i, c) in c.iter_mut().enumerate() {
                let pair = _mm256_set1_epi32(from.add(4 * i).cast::<i32>().read_unaligned());
                c[0] = _mm256_add_epi32(c[0], _mm256_madd_epi16(pair, low));
                c[1] = _mm256_add_epi32(c[1], _mm256_madd_epi16(pair, high));
            }
            from = from.add(STEP);
            panel = panel.add(2 * NR);
        }
        for i in 0..MR {
            _mm256_storeu_si256(acc[i].as_mut_ptr().cast(), c[i][0]);
            _mm256_storeu_si256(acc[i].as_mut_ptr().add(8).cast(), c[i][1]);
        }
    }
}

/// x86-64 with AVX2: `vpmaddubsw` on bytes, whose sums of two products are 16 bits wide and saturate. So it is for
/// weights whose neighbours leave room, which [`PackedI8`](super::PackedI8) finds out; `maskgit-export quantize`
/// chooses its weights so.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2Bytes;

#[cfg(target_arch = "x86_64")]
impl IntTile for Avx2Bytes {
    const GROUP: usize = 4;

    type Weight = i8;

    #[inline(always)]
    fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
        b
    }

    #[inline(always)]
    unsafe fn run(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
        // SAFETY: the same promises.
        unsafe { avx2_bytes(a, b, acc) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn avx2_bytes(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
    use std::arch::x86_64::*;
    // SAFETY: `acc` has 16 values a row; `a` and `b` are read within the caller's promises.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut c = [[_mm256_setzero_si256(); 2]; MR];
        for i in 0..MR {
            c[i][0] = _mm256_loadu_si256(acc[i].as_ptr().cast());
            c[i][1] = _mm256_loadu_si256(acc[i].as_ptr().add(8).cast());
        }
        let mut panel = b.as_ptr();
        for segment in a.segments {
            let from: [*const u8; MR] = std::array::from_fn(|i| a.values.as_ptr().add(a.rows[i]).add(segment.start));
            let mut p = 0;
            while p < segment.len {
                let low = _mm256_loadu_si256(panel.cast());
                let high = _mm256_loadu_si256(panel.add(2 * NR).cast());
                for i in 0..MR {
                    let four = _mm256_set1_epi32(from[i].add(p).cast::<i32>().read_unaligned());
                    c[i][0] = _mm256_add_epi32(c[i][0], _mm256_madd_epi16(_mm256_maddubs_epi16(four, low), ones));
                    c[i][1] = _mm256_add_epi32(c[i][1], _mm256_madd_epi16(_mm256_maddubs_epi16(four, high), ones));
                }
                panel = panel.add(4 * NR);
                p = p.wrapping_add(4);
            }
        }
        for i in 0..MR {
            _mm256_storeu_si256(acc[i].as_mut_ptr().cast(), c[i][0]);
            _mm256_storeu_si256(acc[i].as_mut_ptr().add(8).cast(), c[i][1]);
        }
    }
}
