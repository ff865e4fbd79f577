//! Weights as the kernels read them: panels of [`NR`] columns, each with its inner dimension from first to last.

#[cfg(target_arch = "aarch64")]
use half::f16;

use super::Set;
use super::cell::SharedSlice;
use super::tile::{NR, Segment};
use crate::pool;

/// The longest stretch of the inner dimension that is summed before the next panel: a panel of it fits the second
/// cache.
const MAX_DEPTH: usize = 1024;
/// Bytes of a cache line.
const LINE: usize = 64;
/// The panels start on one.
const ALIGN: usize = LINE;

/// A vector whose values start on a cache line. The rows of a panel then never straddle two.
#[derive(Clone, Debug)]
pub(crate) struct Aligned<T> {
    values: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn new(len: usize) -> Self {
        let values = vec![T::default(); len.saturating_add(ALIGN / size_of::<T>())];
        let offset = values.as_ptr().align_offset(ALIGN);
        let start = if offset <= ALIGN / size_of::<T>() { offset } else { 0 };
        Self { values, start, len }
    }

    fn slice_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..self.start + self.len]
    }

    pub(crate) fn slice(&self) -> &[T] {
        &self.values[self.start..self.start + self.len]
    }
}

/// The shape of a packed B: `taps` stretches of inner values, and `columns` outputs.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) taps: usize,
    pub(crate) columns: usize,
    /// Inner values of a tap, rounded up to whole groups.
    pub(crate) padded: usize,
    pub(crate) group: usize,
}

impl Layout {
    fn new(taps: usize, depth: usize, columns: usize, group: usize) -> Self {
        Self { taps, columns, padded: depth.next_multiple_of(group), group }
    }

    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(NR)
    }

    /// Inner values of a panel.
    pub(crate) fn inner(&self) -> usize {
        self.taps * self.padded
    }

    /// Cuts the inner dimension into stretches of at most [`MAX_DEPTH`], each a list of (tap, first, length), about
    /// equal.
    pub(crate) fn blocks(&self, tap_offsets: &[usize]) -> Vec<Vec<Segment>> {
        let total = self.inner();
        let count = total.div_ceil(MAX_DEPTH).max(1);
        let size = total.div_ceil(count).next_multiple_of(self.group.max(8));
        let mut blocks = vec![Vec::new()];
        let mut room = size;
        for offset in tap_offsets {
            let mut first = 0;
            while first < self.padded {
                if room == 0 {
                    blocks.push(Vec::new());
                    room = size;
                }
                let len = room.min(self.padded - first);
                if let Some(block) = blocks.last_mut() {
                    block.push(Segment { start: offset + first, len });
                }
                first += len;
                room -= len;
            }
        }
        blocks
    }

    /// Writes a matrix in the order of the panels.
    fn fill<T: Copy + Default + Send + Sync>(&self, matrix: &Matrix<'_, T>, out: &mut [T]) {
        matrix.check(self);
        let size = self.inner() * NR;
        let out = SharedSlice::new(out);
        // Panels that share the cache lines of a row are filled together.
        let together = (LINE / (NR * size_of::<T>())).max(1);
        pool::run(self.panels().div_ceil(together), |task| {
            let panels = task * together..((task + 1) * together).min(self.panels());
            let is_row = |panel: &usize| {
                let columns = matrix.columns.get(panel * NR..(panel + 1) * NR);
                columns.is_some_and(|columns| columns.windows(2).all(|c| c[1] == c[0] + 1))
            };
            let (rows, others): (Vec<usize>, Vec<usize>) = panels.partition(is_row);
            for tap in 0..self.taps {
                let values = &matrix.values[tap * matrix.tap..];
                let tap_size = self.padded * NR;
                let place = |panel: usize| panel * size + tap * tap_size;
                // SAFETY: each panel belongs to one task, which touches one of its slices at a time.
                let part = |panel: usize, from: usize, len: usize| unsafe { out.slice(place(panel) + from, len) };
                match self.group {
                    1 => fill_rows::<T, 1>(values, matrix, &rows, &part),
                    2 => fill_rows::<T, 2>(values, matrix, &rows, &part),
                    4 => fill_rows::<T, 4>(values, matrix, &rows, &part),
                    8 => fill_rows::<T, 8>(values, matrix, &rows, &part),
                    group => unreachable!("groups of {group}"),
                }
                for &panel in &others {
                    let columns = &matrix.columns[panel * NR..self.columns.min((panel + 1) * NR)];
                    fill_columns(values, matrix.inner, columns, self.group, part(panel, 0, tap_size));
                }
            }
        });
    }
}

/// The weights of a product where they stand: `values[t * tap + inner[k] + columns[n]]` for tap t, inner place k,
/// column n.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    /// The numbers.
    pub values: &'a [T],
    /// How many taps there are: the places of a convolution's kernel, or one.
    pub taps: usize,
    /// From one tap to the next.
    pub tap: usize,
    /// The inner places.
    pub inner: &'a [usize],
    /// The columns.
    pub columns: &'a [usize],
}

impl<T> Matrix<'_, T> {
    fn check(&self, layout: &Layout) {
        let furthest = |places: &[usize]| places.iter().max().copied().unwrap_or(0);
        let last = (self.taps - 1) * self.tap + furthest(self.inner) + furthest(self.columns);
        assert!(self.inner.is_empty() || self.columns.is_empty() || last < self.values.len(), "a weight is missing");
        assert_eq!((self.taps, self.columns.len()), (layout.taps, layout.columns));
    }
}

/// Fills one tap of whole panels whose columns stand side by side; `part(panel, from, len)` is where they go.
#[inline(always)]
fn fill_rows<'a, T: Copy + Default + 'a, const GROUP: usize>(
    values: &[T],
    matrix: &Matrix<'_, T>,
    panels: &[usize],
    part: &impl Fn(usize, usize, usize) -> &'a mut [T],
) {
    for (index, places) in matrix.inner.chunks(GROUP).enumerate() {
        for &panel in panels {
            let column = matrix.columns[panel * NR];
            let mut rows = [[T::default(); NR]; GROUP];
            for (row, place) in rows.iter_mut().zip(places) {
                *row = *values[place + column..].first_chunk().expect("a whole panel");
            }
            let group = part(panel, index * NR * GROUP, NR * GROUP);
            for (lane, group) in group.chunks_exact_mut(GROUP).enumerate() {
                for within in 0..GROUP {
                    group[within] = rows[within][lane];
                }
            }
        }
    }
}

/// Fills one tap of a panel, column by column.
fn fill_columns<T: Copy>(values: &[T], inner: &[usize], columns: &[usize], group: usize, out: &mut [T]) {
    for (lane, column) in columns.iter().enumerate() {
        for (places, out) in inner.chunks(group).zip(out.chunks_exact_mut(NR * group)) {
            for (place, out) in places.iter().zip(&mut out[lane * group..]) {
                *out = values[place + column];
            }
        }
    }
}

/// Weights in f32.
#[derive(Clone, Debug)]
pub struct PackedF32 {
    pub(crate) layout: Layout,
    pub(crate) values: Aligned<f32>,
}

impl PackedF32 {
    /// Packs a matrix.
    pub fn new(matrix: &Matrix<'_, f32>) -> Self {
        let layout = Layout::new(matrix.taps, matrix.inner.len(), matrix.columns.len(), 1);
        let mut values = Aligned::new(layout.inner() * layout.panels() * NR);
        layout.fill(matrix, values.slice_mut());
        Self { layout, values }
    }

    /// Numbers of a row of activations that a tap takes: the inner places, rounded up as the kernels read them.
    pub fn padded(&self) -> usize {
        self.layout.padded
    }
}

/// Weights in fp16.
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Debug)]
pub struct PackedF16 {
    pub(crate) layout: Layout,
    /// The bits of the numbers; eight values along the inner dimension are read at once, so its length is a multiple of
    /// that.
    pub(crate) values: Aligned<u16>,
}

#[cfg(target_arch = "aarch64")]
impl PackedF16 {
    /// Packs weights, which fp16 can hold exactly.
    pub fn new(matrix: &Matrix<'_, f32>) -> Self {
        let halves: Vec<u16> = matrix.values.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
        let Matrix { taps, tap, inner, columns, .. } = *matrix;
        let padded = inner.len().next_multiple_of(8);
        let layout = Layout { padded, ..Layout::new(taps, inner.len(), columns.len(), 1) };
        let mut values = Aligned::new(layout.inner() * layout.panels() * NR);
        layout.fill(&Matrix { values: &halves, taps, tap, inner, columns }, values.slice_mut());
        Self { layout, values }
    }
}

/// Weights in int8: symmetric, a scale for each column.
#[derive(Clone, Debug)]
pub struct PackedI8 {
    pub(crate) layout: Layout,
    pub(crate) values: Aligned<i8>,
    /// How many values along the inner dimension stand side by side in a panel.
    pub(crate) group: usize,
    /// What one unit of a column's weights is worth.
    pub(crate) scales: Vec<f32>,
    /// The sum of each column's weights, which takes an activation's zero point out of a product.
    pub(crate) sums: Vec<i32>,
}

impl PackedI8 {
    /// Packs a matrix, whose unit in each column is `scales[column]`, for the kernels of an instruction set.
    pub fn new(matrix: &Matrix<'_, i8>, scales: Vec<f32>, set: Set) -> Self {
        #[cfg(target_arch = "x86_64")]
        if set == Set::Avx2 {
            let mut packed = Self::grouped(matrix, scales, 4);
            if !packed.pairs_fit() {
                packed.halve_groups();
            }
            return packed;
        }
        Self::grouped(matrix, scales, set.int8_group())
    }

    /// As [`PackedF32::padded`].
    pub fn padded(&self) -> usize {
        self.layout.padded
    }

    /// Packs a matrix for a kernel that takes `group` values at once.
    pub(crate) fn grouped(matrix: &Matrix<'_, i8>, scales: Vec<f32>, group: usize) -> Self {
        assert_eq!(scales.len(), matrix.columns.len(), "a scale for each column");
        let layout = Layout::new(matrix.taps, matrix.inner.len(), scales.len(), group);
        let mut values = Aligned::new(layout.inner() * layout.panels() * NR);
        layout.fill(matrix, values.slice_mut());
        let mut sums = vec![0i32; scales.len().next_multiple_of(NR)];
        let packed = SharedSlice::new(&mut sums);
        pool::run(layout.panels(), |panel| {
            let values = &values.slice()[panel * layout.inner() * NR..][..layout.inner() * NR];
            // SAFETY: each panel belongs to one task.
            let sums = unsafe { packed.slice(panel * NR, NR) };
            match group {
                1 => add_columns::<1>(values, sums),
                2 => add_columns::<2>(values, sums),
                4 => add_columns::<4>(values, sums),
                8 => add_columns::<8>(values, sums),
                _ => unreachable!("no kernel takes {group} values at once"),
            }
        });
        sums.truncate(scales.len());
        Self { layout, values, group, scales, sums }
    }

    /// Whether the products of any two bytes of activations with neighbouring weights have a sum of 16 bits: 255 times
    /// at most 128.
    #[cfg(target_arch = "x86_64")]
    fn pairs_fit(&self) -> bool {
        self.values.slice().chunks(1 << 16).all(|values| {
            let (mut most, mut least) = (0i16, 0i16);
            for pair in values.chunks_exact(2) {
                let (a, b) = (i16::from(pair[0]), i16::from(pair[1]));
                most = most.max(a.max(0) + b.max(0));
                least = least.min(a.min(0) + b.min(0));
            }
            most <= 128 && least >= -128
        })
    }

    /// From groups of four to groups of two.
    #[cfg(target_arch = "x86_64")]
    fn halve_groups(&mut self) {
        for four in self.values.slice_mut().chunks_exact_mut(4 * NR) {
            let mut halves = [0i8; 4 * NR];
            for (lane, values) in four.chunks_exact(4).enumerate() {
                halves[2 * lane..][..2].copy_from_slice(&values[..2]);
                halves[2 * (NR + lane)..][..2].copy_from_slice(&values[2..]);
            }
            four.copy_from_slice(&halves);
        }
        self.group = 2;
    }
}

/// The sum of each of a panel's columns.
fn add_columns<const GROUP: usize>(values: &[i8], sums: &mut [i32]) {
    let mut totals = [0i32; NR];
    for group in values.chunks_exact(NR * GROUP) {
        for lane in 0..NR {
            for within in 0..GROUP {
                totals[lane] += i32::from(group[lane * GROUP + within]);
            }
        }
    }
    sums.copy_from_slice(&totals);
}
