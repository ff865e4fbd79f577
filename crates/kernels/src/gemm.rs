//! Products of rows of activations and packed weights, with what follows a product folded in.
//!
//! After Goto and van de Geijn (2008): the inner dimension is cut into stretches, a panel of B of one stretch stays in
//! the nearest cache while all rows of a block pass over it. Rows of A are read where they stand, through an offset for
//! each row and each tap, so a convolution needs no im2col matrix (the indirect convolution of Dukhan 2019).

use std::ops::Range;

use super::activation::Activation;
use super::cell::SharedSlice;
#[cfg(target_arch = "aarch64")]
use super::neon::{DotProd, I8mm};
use super::pack::{Layout, PackedF32, PackedI8};
use super::tile::{self, IntTile, Levels, MR, NR, Portable, Segment};
#[cfg(target_arch = "x86_64")]
use super::tile::{Avx2, Avx2Bytes};
#[cfg(target_arch = "x86_64")]
use super::vnni::{Avx512Vnni, AvxVnni};
use super::{Isa, Set};
use crate::for_isa;
use crate::pool;

/// Rows that pass over a panel while it is near.
const MAX_ROWS: usize = 288;

/// Rows of A within a buffer.
pub struct Rows<'a, T> {
    /// The buffer.
    pub data: &'a [T],
    /// How many rows there are.
    pub count: usize,
    /// Where row `m` starts.
    pub offset: &'a (dyn Fn(usize) -> usize + Sync),
    /// Where each tap starts within a row.
    pub taps: &'a [usize],
}

/// What is added at the end.
#[derive(Clone, Copy)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// Laid out as the output.
    Add(&'a [f32]),
    /// What the output held before.
    InPlace,
}

/// What becomes of a product: `activation(product + bias) + residual`, written to `out`.
pub struct Epilogue<'a> {
    /// One value a column.
    pub bias: Option<&'a [f32]>,
    /// What is applied to the product and the bias.
    pub activation: Activation,
    /// What is added at the end.
    pub residual: Residual<'a>,
    /// Where the results go.
    pub out: SharedSlice<'a, f32>,
    /// Where the first row starts in `out`.
    pub first: usize,
    /// From one row to the next in `out`; at least the number of columns.
    pub stride: usize,
    /// Which row of `out` each row becomes, no two the same; without it, they stay in order.
    pub places: Option<&'a [usize]>,
}

/// The scale and zero point of each row of A: one for all, or one a row.
#[derive(Clone, Copy)]
pub struct RowScales<'a> {
    /// What one unit of a row is worth.
    pub scales: &'a [f32],
    /// The level that stands for 0.
    pub zeros: &'a [i32],
}

impl RowScales<'_> {
    #[inline(always)]
    fn of(&self, row: usize) -> (f32, i32) {
        let at = if self.scales.len() == 1 { 0 } else { row };
        (self.scales[at], self.zeros[at])
    }
}

/// One task: a block of rows times a range of panels.
pub(crate) struct Block<'a> {
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    pub stretches: &'a [Vec<Segment>],
}

/// Computes `rows x weights` in f32; `fused` says whether multiply-add may round once, where the instruction set does.
pub fn gemm_f32(
    (isa, fused): (Isa, bool),
    a: &Rows<'_, f32>,
    weights: &PackedF32,
    epilogue: &Epilogue<'_>,
    parallel: bool,
) {
    drive(a, &weights.layout, parallel, |block| {
        if fused {
            block_f32(isa, a, weights, epilogue, block);
        } else {
            block_f32_unfused(isa, a, weights, epilogue, block);
        }
    });
}

/// Computes `rows x weights` in int8, exactly, and scales it to f32.
pub fn gemm_i8(
    isa: Isa,
    a: &Rows<'_, u8>,
    scales: RowScales<'_>,
    weights: &PackedI8,
    epilogue: &Epilogue<'_>,
    parallel: bool,
) {
    assert!(scales.scales.len() == scales.zeros.len() && (scales.scales.len() == 1 || scales.scales.len() == a.count));
    drive(a, &weights.layout, parallel, |block| match isa.set() {
        Set::Portable => block_i8_portable(isa, a, scales, weights, epilogue, block),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 if weights.group == Avx2Bytes::GROUP => block_i8_avx2_bytes(isa, a, scales, weights, epilogue, block),
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => block_i8_avx2(isa, a, scales, weights, epilogue, block),
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni => block_i8_avx_vnni(isa, a, scales, weights, epilogue, block),
        #[cfg(target_arch = "x86_64")]
        Set::Avx512Vnni => block_i8_avx512_vnni(isa, a, scales, weights, epilogue, block),
        #[cfg(target_arch = "aarch64")]
        Set::DotProd => block_i8_body::<DotProd>(a, scales, weights, epilogue, block),
        #[cfg(target_arch = "aarch64")]
        Set::I8mm => block_i8_body::<I8mm>(a, scales, weights, epilogue, block),
    });
}

/// Cuts a product into tasks and runs them.
pub(crate) fn drive<T: Sync>(
    a: &Rows<'_, T>,
    layout: &Layout,
    parallel: bool,
    work: impl Fn(&Block<'_>) + Send + Sync,
) {
    if a.count == 0 || layout.columns == 0 {
        return;
    }
    assert_eq!(a.taps.len(), layout.taps, "as many taps as the weights have");
    let stretches = layout.blocks(a.taps);
    let row_blocks = a.count.div_ceil(MAX_ROWS);
    let size = a.count.div_ceil(row_blocks).next_multiple_of(MR);
    let row_blocks = a.count.div_ceil(size);
    let panels = layout.panels();
    let threads = if parallel { pool::threads() } else { 1 };
    // Twice as many tasks as threads let one that is held up be overtaken.
    let splits = if threads == 1 { 1 } else { (2 * threads).div_ceil(row_blocks).clamp(1, panels) };
    let width = panels.div_ceil(splits);
    let splits = panels.div_ceil(width);
    let task = |index: usize| {
        let (row, split) = (index / splits, index % splits);
        work(&Block {
            rows: row * size..((row + 1) * size).min(a.count),
            panels: split * width..((split + 1) * width).min(panels),
            stretches: &stretches,
        });
    };
    if parallel { pool::run(row_blocks * splits, task) } else { (0..row_blocks * splits).for_each(task) }
}

/// The offsets of a block's rows, filled up to whole tiles by the last, after checking that all that will be read is
/// there.
pub(crate) fn row_offsets<T>(a: &Rows<'_, T>, block: &Block<'_>) -> Vec<usize> {
    let count = block.rows.len().next_multiple_of(MR);
    let last = block.rows.end - 1;
    let offsets: Vec<usize> = (0..count).map(|i| (a.offset)((block.rows.start + i).min(last))).collect();
    let furthest = offsets.iter().max().copied().unwrap_or(0);
    let reach = block.stretches.iter().flatten().map(|s| s.start + s.len).max().unwrap_or(0);
    assert!(furthest + reach <= a.data.len(), "a product would read beyond its rows");
    offsets
}

pub(crate) fn tile_rows(offsets: &[usize], tile: usize) -> &[usize; MR] {
    offsets[tile * MR..].first_chunk().expect("row offsets fill whole tiles")
}

/// The values of one panel from a list of one a column.
#[inline(always)]
pub(crate) fn lanes<T: Copy + Default>(values: &[T], panel: usize) -> [T; NR] {
    let mut lanes = [T::default(); NR];
    let first = panel * NR;
    let width = values.len().saturating_sub(first).min(NR);
    lanes[..width].copy_from_slice(&values[first..first + width]);
    lanes
}

/// Finishes one row of a tile and writes it.
#[inline(always)]
pub(crate) fn finish(
    epilogue: &Epilogue<'_>,
    mut values: [f32; NR],
    bias: &[f32; NR],
    row: usize,
    column: usize,
    width: usize,
) {
    for j in 0..NR {
        values[j] += bias[j];
    }
    epilogue.activation.apply(&mut values);
    let place = epilogue.places.map_or(row, |places| places[row]);
    let start = epilogue.first + place * epilogue.stride + column;
    // SAFETY: each (row, panel) belongs to one task, and has a place of its own.
    let out = unsafe { epilogue.out.slice(start, width) };
    let residual = match epilogue.residual {
        Residual::None => None,
        Residual::Add(residual) => Some(&residual[start..start + width]),
        Residual::InPlace => Some(&*out),
    };
    if let Some(residual) = residual {
        // Whole panels apart: their length is known when this is compiled.
        if let (Some(residual), true) = (residual.first_chunk::<NR>(), width == NR) {
            for j in 0..NR {
                values[j] += residual[j];
            }
        } else {
            values.iter_mut().zip(residual).for_each(|(value, residual)| *value += residual);
        }
    }
    if let (Some(out), true) = (out.first_chunk_mut::<NR>(), width == NR) {
        *out = values;
    } else {
        out.copy_from_slice(&values[..width]);
    }
}

#[inline(always)]
fn block_f32_body<const FMA: bool>(a: &Rows<'_, f32>, weights: &PackedF32, epilogue: &Epilogue<'_>, block: &Block<'_>) {
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
                // SAFETY: `row_offsets` checked A; `b` was sliced to the length of the segments.
                unsafe { tile::float::<FMA>(a.data, tile_rows(&offsets, tile), segments, b, &mut acc) };
                if !last {
                    partial[p * tiles + tile] = acc;
                    continue;
                }
                for (i, values) in acc.iter().enumerate() {
                    let row = block.rows.start + tile * MR + i;
                    if row < block.rows.end {
                        finish(epilogue, *values, &bias, row, panel * NR, width);
                    }
                }
            }
        }
        done += depth;
    }
}

for_isa! {
    fn block_f32(
        isa, a: &Rows<'_, f32>, weights: &PackedF32, epilogue: &Epilogue<'_>, block: &Block<'_>,
    ) = block_f32_body
}

for_isa! {
    fn block_f32_unfused(
        isa, a: &Rows<'_, f32>, weights: &PackedF32, epilogue: &Epilogue<'_>, block: &Block<'_>,
    ) = block_f32_body, unfused
}

#[inline(always)]
fn block_i8_body<T: IntTile>(
    a: &Rows<'_, u8>,
    scales: RowScales<'_>,
    weights: &PackedI8,
    epilogue: &Epilogue<'_>,
    block: &Block<'_>,
) {
    assert_eq!(weights.group, T::GROUP, "weights packed for another kernel");
    let layout = &weights.layout;
    let offsets = row_offsets(a, block);
    let tiles = offsets.len() / MR;
    let stretches = block.stretches;
    let mut partial = vec![[[0i32; NR]; MR]; if stretches.len() > 1 { tiles * block.panels.len() } else { 0 }];
    let (mut panel_values, mut tiled) = (Vec::new(), Vec::new());
    let mut done = 0;
    for (s, segments) in stretches.iter().enumerate() {
        let depth: usize = segments.iter().map(|s| s.len).sum();
        let last = s + 1 == stretches.len();
        let tile_size = MR * depth * T::TILED_BYTES;
        if T::TILED {
            tiled.resize(tiles * tile_size, 0);
            for (tile, tiled) in tiled.chunks_exact_mut(tile_size).enumerate() {
                tile::arrange::<T>(a.data, tile_rows(&offsets, tile), segments, tiled);
            }
        }
        for (p, panel) in block.panels.clone().enumerate() {
            let b = &weights.values.slice()[(panel * layout.inner() + done) * NR..][..depth * NR];
            let bias = epilogue.bias.map_or([0.0; NR], |bias| lanes(bias, panel));
            let b = T::prepare(b, &mut panel_values);
            let (units, sums) = (lanes(&weights.scales, panel), lanes(&weights.sums, panel));
            let width = (layout.columns - panel * NR).min(NR);
            for tile in 0..tiles {
                let mut acc = if s == 0 { [[0i32; NR]; MR] } else { partial[p * tiles + tile] };
                let tiled = if T::TILED { &tiled[tile * tile_size..][..tile_size] } else { &[] };
                let levels = Levels { values: a.data, rows: tile_rows(&offsets, tile), segments, tiled };
                // SAFETY: `row_offsets` checked A; `b` was sliced to the length of the segments, which `Layout::blocks`
                // makes of whole groups; the instruction set is this processor's.
                unsafe { T::run(&levels, b, &mut acc) };
                if !last {
                    partial[p * tiles + tile] = acc;
                    continue;
                }
                for (i, sums_of_row) in acc.iter().enumerate() {
                    let row = block.rows.start + tile * MR + i;
                    if row < block.rows.end {
                        let (scale, zero) = scales.of(row);
                        let zero = zero.wrapping_sub(i32::from(T::OFFSET));
                        let mut values = [0f32; NR];
                        for j in 0..NR {
                            let exact = sums_of_row[j].wrapping_sub(zero.wrapping_mul(sums[j]));
                            values[j] = exact as f32 * (scale * units[j]);
                        }
                        finish(epilogue, values, &bias, row, panel * NR, width);
                    }
                }
            }
        }
        done += depth;
    }
}

/// Compiles [`block_i8_body`] for an instruction set: a function of the set, and its body.
macro_rules! block_i8 {
    ($name:ident, $body:ident, $tile:ty) => {
        #[inline(always)]
        fn $body<const FMA: bool>(
            a: &Rows<'_, u8>,
            scales: RowScales<'_>,
            weights: &PackedI8,
            epilogue: &Epilogue<'_>,
            block: &Block<'_>,
        ) {
            block_i8_body::<$tile>(a, scales, weights, epilogue, block);
        }

        for_isa! {
            fn $name(
                isa, a: &Rows<'_, u8>, scales: RowScales<'_>, weights: &PackedI8,
                epilogue: &Epilogue<'_>, block: &Block<'_>,
            ) = $body
        }
    };
}

block_i8!(block_i8_portable, block_i8_portable_body, Portable);
#[cfg(target_arch = "x86_64")]
block_i8!(block_i8_avx2, block_i8_avx2_body, Avx2);
#[cfg(target_arch = "x86_64")]
block_i8!(block_i8_avx2_bytes, block_i8_avx2_bytes_body, Avx2Bytes);
#[cfg(target_arch = "x86_64")]
block_i8!(block_i8_avx_vnni, block_i8_avx_vnni_body, AvxVnni);
#[cfg(target_arch = "x86_64")]
block_i8!(block_i8_avx512_vnni, block_i8_avx512_vnni_body, Avx512Vnni);

#[cfg(test)]
mod tests {
    use super::super::pack::Matrix;
    use super::*;

    /// A product on bytes as the processors' are, one multiplication after another: what they have around them, any
    /// processor can test.
    struct Bytes<const GROUP: usize, const OFFSET: u8>;

    impl<const GROUP: usize, const OFFSET: u8> IntTile for Bytes<GROUP, OFFSET> {
        const GROUP: usize = GROUP;
        const TILED: bool = true;
        const OFFSET: u8 = OFFSET;

        type Weight = i8;

        fn prepare<'a>(b: &'a [i8], _: &'a mut Vec<i8>) -> &'a [i8] {
            b
        }

        unsafe fn run(a: &Levels<'_>, b: &[i8], acc: &mut [[i32; NR]; MR]) {
            assert_eq!(a.tiled.len() * NR, b.len() * MR);
            for (a, b) in a.tiled.chunks_exact(GROUP * MR).zip(b.chunks_exact(GROUP * NR)) {
                for i in 0..MR {
                    for j in 0..NR {
                        for k in 0..GROUP {
                            let x = a[i * GROUP + k];
                            let x = if OFFSET == 0 { i32::from(x) } else { i32::from(x as i8) };
                            acc[i][j] += x * i32::from(b[j * GROUP + k]);
                        }
                    }
                }
            }
        }
    }

    /// Two taps of `depth` values for each of 13 rows, times 37 columns of weights of at most `most`.
    fn product(
        depth: usize,
        most: i8,
        pack: impl Fn(&Matrix<'_, i8>, Vec<f32>) -> PackedI8,
        run: impl Fn(&Rows<'_, u8>, RowScales<'_>, &PackedI8, &Epilogue<'_>),
    ) -> Vec<f32> {
        let (rows, columns, taps) = (13, 37, 2);
        let stride = depth.next_multiple_of(8);
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 24
        };
        let mut levels = vec![0u8; (rows + 1) * stride];
        for row in levels.chunks_exact_mut(stride) {
            row[..depth].iter_mut().for_each(|q| *q = next() as u8);
        }
        let values: Vec<i8> = (0..taps * depth * columns).map(|_| (next() as u8 as i8).clamp(-most, most)).collect();
        let (inner, places): (Vec<usize>, Vec<usize>) =
            ((0..depth).map(|k| k * columns).collect(), (0..columns).collect());
        let matrix = Matrix { values: &values, taps, tap: depth * columns, inner: &inner, columns: &places };
        let weights = pack(&matrix, vec![0.5; columns]);
        let zeros: Vec<i32> = (0..rows).map(|_| next() as i32).collect();
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
        let a = Rows { data: &levels, count: rows, offset: &|row| row * stride, taps: &[0, stride] };
        run(&a, RowScales { scales: &vec![2.0; rows], zeros: &zeros }, &weights, &epilogue);
        out
    }

    /// The product as the portable kernel has it.
    fn plain(depth: usize, most: i8) -> Vec<f32> {
        let sums = product(
            depth,
            most,
            |matrix, scales| PackedI8::new(matrix, scales, Set::Portable),
            |a, scales, weights, epilogue| gemm_i8(Isa::PORTABLE, a, scales, weights, epilogue, false),
        );
        assert!(sums.iter().any(|&value| value != 0.0));
        sums
    }

    fn check<T: IntTile>() {
        // The last is cut into several stretches.
        for depth in [1, 8, 13, 100, 1500] {
            let bytes = product(
                depth,
                127,
                |matrix, scales| PackedI8::grouped(matrix, scales, T::GROUP),
                |a, scales, weights, epilogue| {
                    drive(a, &weights.layout, false, |block| block_i8_body::<T>(a, scales, weights, epilogue, block));
                },
            );
            assert_eq!(plain(depth, 127), bytes, "depth {depth}");
        }
    }

    #[test]
    fn bytes_in_groups_give_the_same_sums() {
        check::<Bytes<4, 0>>();
        check::<Bytes<4, 128>>();
        check::<Bytes<8, 0>>();
    }

    /// Weights up to 64 and up to 127 go by different kernels where there are two.
    #[test]
    fn every_instruction_set_gives_the_same_sums() {
        for isa in Isa::available() {
            for (depth, most) in [1, 8, 13, 100, 1500].into_iter().flat_map(|depth| [(depth, 64), (depth, 127)]) {
                let groups = std::cell::Cell::new(0);
                let same = product(
                    depth,
                    most,
                    |matrix, scales| PackedI8::new(matrix, scales, isa.set()),
                    |a, scales, weights, epilogue| {
                        groups.set(weights.group);
                        gemm_i8(isa, a, scales, weights, epilogue, false);
                    },
                );
                assert_eq!(plain(depth, most), same, "{isa}, depth {depth}, weights up to {most}");
                #[cfg(target_arch = "x86_64")]
                if isa.set() == Set::Avx2 && depth > 1 {
                    assert_eq!(groups.get(), if most == 64 { 4 } else { 2 }, "weights up to {most}");
                }
            }
        }
    }

    /// The largest activations and weights that go in pairs: one more, and a sum of 16 bits would not hold.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn pairs_of_weights_are_taken_where_their_sums_fit() {
        let places = [0];
        for (pair, group) in
            [([127, 1], 4), ([-127, -1], 4), ([64, 64], 4), ([127, -127], 4), ([127, 2], 2), ([-65, -64], 2)]
        {
            let values = [pair[0], pair[1], pair[0], pair[1]];
            let matrix = Matrix { values: &values, taps: 1, tap: 0, inner: &[0, 1, 2, 3], columns: &places };
            let weights = PackedI8::new(&matrix, vec![1.0], Set::Avx2);
            assert_eq!(weights.group, group, "{pair:?}");
            let Some(isa) = Set::Avx2.isa() else { continue };
            let mut out = [0f32];
            let epilogue = Epilogue {
                bias: None,
                activation: Activation::None,
                residual: Residual::None,
                out: SharedSlice::new(&mut out),
                first: 0,
                stride: 1,
                places: None,
            };
            let a = Rows { data: &[255; 4], count: 1, offset: &|_| 0, taps: &[0] };
            gemm_i8(isa, &a, RowScales { scales: &[1.0], zeros: &[0] }, &weights, &epilogue, false);
            let sum: i32 = values.iter().map(|&w| 255 * i32::from(w)).sum();
            assert_eq!(out[0], sum as f32, "{pair:?}");
        }
    }
}
