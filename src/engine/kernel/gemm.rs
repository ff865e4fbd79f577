//! Products of rows of activations and packed weights, with what follows a product folded in.
//!
//! After Goto and van de Geijn (2008): the inner dimension is cut into stretches, a panel of B of one stretch stays in the
//! nearest cache while all rows of a block pass over it. Rows of A are read where they stand, through an offset for each
//! row and each tap, so a convolution needs no im2col matrix (the indirect convolution of Dukhan 2019).

use std::ops::Range;

use super::activation::Activation;
use super::cell::SharedSlice;
use super::pack::{Layout, PackedF32, PackedI8};
#[cfg(target_arch = "x86_64")]
use super::tile::Avx2;
use super::tile::{self, IntTile, MR, NR, Portable, Segment};
use super::{Isa, for_isa};
use crate::engine::pool;

/// Rows that pass over a panel while it is near.
const MAX_ROWS: usize = 288;

/// Rows of A within a buffer.
pub(crate) struct Rows<'a, T> {
    /// The buffer.
    pub(crate) data: &'a [T],
    /// How many rows there are.
    pub(crate) count: usize,
    /// Where row `m` starts.
    pub(crate) offset: &'a (dyn Fn(usize) -> usize + Sync),
    /// Where each tap starts within a row.
    pub(crate) taps: &'a [usize],
}

/// What is added at the end.
#[derive(Clone, Copy)]
pub(crate) enum Residual<'a> {
    None,
    /// Laid out as the output.
    Add(&'a [f32]),
    /// What the output held before.
    InPlace,
}

/// What becomes of a product: `activation(product + bias) + residual`, written to `out`.
pub(crate) struct Epilogue<'a> {
    /// One value a column.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Activation,
    pub(crate) residual: Residual<'a>,
    pub(crate) out: SharedSlice<'a, f32>,
    /// Where the first row starts in `out`.
    pub(crate) first: usize,
    /// From one row to the next in `out`; at least the number of columns.
    pub(crate) stride: usize,
}

/// The scale and zero point of each row of A: one for all, or one a row.
#[derive(Clone, Copy)]
pub(crate) struct RowScales<'a> {
    pub(crate) scales: &'a [f32],
    pub(crate) zeros: &'a [i32],
}

impl RowScales<'_> {
    #[inline(always)]
    fn of(&self, row: usize) -> (f32, i32) {
        let at = if self.scales.len() == 1 { 0 } else { row };
        (self.scales[at], self.zeros[at])
    }
}

/// One task: a block of rows times a range of panels.
struct Block<'a> {
    rows: Range<usize>,
    panels: Range<usize>,
    stretches: &'a [Vec<Segment>],
}

/// Computes `rows x weights` in f32; `fused` says whether multiply-add may round once, where the instruction set does.
pub(crate) fn gemm_f32(
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
pub(crate) fn gemm_i8(
    isa: Isa,
    a: &Rows<'_, i16>,
    scales: RowScales<'_>,
    weights: &PackedI8,
    epilogue: &Epilogue<'_>,
    parallel: bool,
) {
    assert_eq!(weights.layout.group, isa.int8_group(), "weights packed for another instruction set");
    assert!(scales.scales.len() == scales.zeros.len() && (scales.scales.len() == 1 || scales.scales.len() == a.count));
    drive(a, &weights.layout, parallel, |block| match isa {
        Isa::Portable => block_i8_portable(isa, a, scales, weights, epilogue, block),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => block_i8_avx2(isa, a, scales, weights, epilogue, block),
    });
}

/// Cuts a product into tasks and runs them.
fn drive<T: Sync>(a: &Rows<'_, T>, layout: &Layout, parallel: bool, work: impl Fn(&Block<'_>) + Send + Sync) {
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

/// The offsets of a block's rows, filled up to whole tiles by the last, after checking that all that will be read is there.
fn row_offsets<T>(a: &Rows<'_, T>, block: &Block<'_>) -> Vec<usize> {
    let count = block.rows.len().next_multiple_of(MR);
    let last = block.rows.end - 1;
    let offsets: Vec<usize> = (0..count).map(|i| (a.offset)((block.rows.start + i).min(last))).collect();
    let furthest = offsets.iter().max().copied().unwrap_or(0);
    let reach = block.stretches.iter().flatten().map(|s| s.start + s.len).max().unwrap_or(0);
    assert!(furthest + reach <= a.data.len(), "a product would read beyond its rows");
    offsets
}

fn tile_rows(offsets: &[usize], tile: usize) -> &[usize; MR] {
    offsets[tile * MR..].first_chunk().expect("row offsets fill whole tiles")
}

/// The values of one panel from a list of one a column.
#[inline(always)]
fn lanes<T: Copy + Default>(values: &[T], panel: usize) -> [T; NR] {
    let mut lanes = [T::default(); NR];
    let first = panel * NR;
    let width = values.len().saturating_sub(first).min(NR);
    lanes[..width].copy_from_slice(&values[first..first + width]);
    lanes
}

/// Finishes one row of a tile and writes it.
#[inline(always)]
fn finish(epilogue: &Epilogue<'_>, mut values: [f32; NR], bias: &[f32; NR], row: usize, column: usize, width: usize) {
    for j in 0..NR {
        values[j] += bias[j];
    }
    epilogue.activation.apply(&mut values);
    let start = epilogue.first + row * epilogue.stride + column;
    // SAFETY: each (row, panel) belongs to one task.
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
    fn block_f32(isa, a: &Rows<'_, f32>, weights: &PackedF32, epilogue: &Epilogue<'_>, block: &Block<'_>) = block_f32_body
}

for_isa! {
    fn block_f32_unfused(
        isa, a: &Rows<'_, f32>, weights: &PackedF32, epilogue: &Epilogue<'_>, block: &Block<'_>,
    ) = block_f32_body, unfused
}

#[inline(always)]
fn block_i8_body<T: IntTile>(
    a: &Rows<'_, i16>,
    scales: RowScales<'_>,
    weights: &PackedI8,
    epilogue: &Epilogue<'_>,
    block: &Block<'_>,
) {
    assert_eq!(weights.layout.group, T::GROUP, "weights packed for another kernel");
    let layout = &weights.layout;
    let offsets = row_offsets(a, block);
    let tiles = offsets.len() / MR;
    let stretches = block.stretches;
    let mut partial = vec![[[0i32; NR]; MR]; if stretches.len() > 1 { tiles * block.panels.len() } else { 0 }];
    let mut panel_values = Vec::new();
    let mut done = 0;
    for (s, segments) in stretches.iter().enumerate() {
        let depth: usize = segments.iter().map(|s| s.len).sum();
        let last = s + 1 == stretches.len();
        for (p, panel) in block.panels.clone().enumerate() {
            let b = &weights.values.slice()[(panel * layout.inner() + done) * NR..][..depth * NR];
            let bias = epilogue.bias.map_or([0.0; NR], |bias| lanes(bias, panel));
            let b = T::prepare(b, &mut panel_values);
            let (units, sums) = (lanes(&weights.scales, panel), lanes(&weights.sums, panel));
            let width = (layout.columns - panel * NR).min(NR);
            for tile in 0..tiles {
                let mut acc = if s == 0 { [[0i32; NR]; MR] } else { partial[p * tiles + tile] };
                // SAFETY: `row_offsets` checked A; `b` was sliced to the length of the segments, which `Layout::blocks` makes
                // of whole groups; the instruction set is this processor's.
                unsafe { T::run(a.data, tile_rows(&offsets, tile), segments, b, &mut acc) };
                if !last {
                    partial[p * tiles + tile] = acc;
                    continue;
                }
                for (i, sums_of_row) in acc.iter().enumerate() {
                    let row = block.rows.start + tile * MR + i;
                    if row < block.rows.end {
                        let (scale, zero) = scales.of(row);
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

#[inline(always)]
fn block_i8_portable_body<const FMA: bool>(
    a: &Rows<'_, i16>,
    scales: RowScales<'_>,
    weights: &PackedI8,
    epilogue: &Epilogue<'_>,
    block: &Block<'_>,
) {
    block_i8_body::<Portable>(a, scales, weights, epilogue, block);
}

for_isa! {
    fn block_i8_portable(
        isa, a: &Rows<'_, i16>, scales: RowScales<'_>, weights: &PackedI8, epilogue: &Epilogue<'_>, block: &Block<'_>,
    ) = block_i8_portable_body
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn block_i8_avx2_body<const FMA: bool>(
    a: &Rows<'_, i16>,
    scales: RowScales<'_>,
    weights: &PackedI8,
    epilogue: &Epilogue<'_>,
    block: &Block<'_>,
) {
    block_i8_body::<Avx2>(a, scales, weights, epilogue, block);
}

#[cfg(target_arch = "x86_64")]
for_isa! {
    fn block_i8_avx2(
        isa, a: &Rows<'_, i16>, scales: RowScales<'_>, weights: &PackedI8, epilogue: &Epilogue<'_>, block: &Block<'_>,
    ) = block_i8_avx2_body
}
