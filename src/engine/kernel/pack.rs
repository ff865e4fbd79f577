//! Weights as the kernels read them: panels of [`NR`] columns, each with its inner dimension from first to last.

use super::cell::SharedSlice;
use super::tile::{NR, Segment};
use crate::engine::pool;

/// The longest stretch of the inner dimension that is summed before the next panel: a panel of it fits the second cache.
const MAX_DEPTH: usize = 1024;
/// The panels start on a cache line.
const ALIGN: usize = 64;

/// A vector whose values start on a cache line. The rows of a panel then never straddle two.
#[derive(Clone, Debug)]
pub(super) struct Aligned<T> {
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

    pub(super) fn slice(&self) -> &[T] {
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
    pub(super) group: usize,
}

impl Layout {
    fn new(taps: usize, depth: usize, columns: usize, group: usize) -> Self {
        Self { taps, columns, padded: depth.next_multiple_of(group), group }
    }

    pub(super) fn panels(&self) -> usize {
        self.columns.div_ceil(NR)
    }

    /// Inner values of a panel.
    pub(super) fn inner(&self) -> usize {
        self.taps * self.padded
    }

    /// Cuts the inner dimension into stretches of at most [`MAX_DEPTH`], each a list of (tap, first, length), about equal.
    pub(super) fn blocks(&self, tap_offsets: &[usize]) -> Vec<Vec<Segment>> {
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

    /// Writes `value(tap, inner place, column)` for `depth` inner places a tap, in the order of the panels.
    fn fill<T: Copy + Send>(
        &self,
        depth: usize,
        out: &mut [T],
        value: impl Fn(usize, usize, usize) -> T + Send + Sync,
    ) {
        let size = self.inner() * NR;
        let out = SharedSlice::new(out);
        pool::run(self.panels(), |panel| {
            // SAFETY: each panel belongs to one task.
            let out = unsafe { out.slice(panel * size, size) };
            let first = panel * NR;
            let lanes = NR.min(self.columns - first);
            let mut groups = out.chunks_exact_mut(NR * self.group);
            for tap in 0..self.taps {
                for start in (0..self.padded).step_by(self.group) {
                    let Some(group) = groups.next() else { return };
                    for (lane, group) in group.chunks_exact_mut(self.group).enumerate().take(lanes) {
                        for (within, place) in group.iter_mut().enumerate() {
                            if start + within < depth {
                                *place = value(tap, start + within, first + lane);
                            }
                        }
                    }
                }
            }
        });
    }
}

/// Weights in f32.
#[derive(Clone, Debug)]
pub(crate) struct PackedF32 {
    pub(crate) layout: Layout,
    pub(super) values: Aligned<f32>,
}

impl PackedF32 {
    /// Packs `value(tap, inner, column)`.
    pub(crate) fn new(
        taps: usize,
        depth: usize,
        columns: usize,
        value: impl Fn(usize, usize, usize) -> f32 + Send + Sync,
    ) -> Self {
        let layout = Layout::new(taps, depth, columns, 1);
        let mut values = Aligned::new(layout.inner() * layout.panels() * NR);
        layout.fill(depth, values.slice_mut(), value);
        Self { layout, values }
    }
}

/// Weights in int8: symmetric, a scale for each column.
#[derive(Clone, Debug)]
pub(crate) struct PackedI8 {
    pub(crate) layout: Layout,
    pub(super) values: Aligned<i8>,
    /// What one unit of a column's weights is worth.
    pub(super) scales: Vec<f32>,
    /// The sum of each column's weights, which takes an activation's zero point out of a product.
    pub(super) sums: Vec<i32>,
}

impl PackedI8 {
    /// Packs `value(tap, inner, column)`, whose unit in each column is `scales[column]`, for a kernel that takes `group`
    /// values at once.
    pub(crate) fn new(
        taps: usize,
        depth: usize,
        scales: Vec<f32>,
        group: usize,
        value: impl Fn(usize, usize, usize) -> i8 + Send + Sync,
    ) -> Self {
        let layout = Layout::new(taps, depth, scales.len(), group);
        let mut values = Aligned::new(layout.inner() * layout.panels() * NR);
        layout.fill(depth, values.slice_mut(), value);
        let mut sums = vec![0i32; scales.len().next_multiple_of(NR)];
        for (sums, panel) in sums.chunks_exact_mut(NR).zip(values.slice().chunks_exact(layout.inner() * NR)) {
            for group in panel.chunks_exact(NR * group) {
                for (sum, lane) in sums.iter_mut().zip(group.chunks_exact(group.len() / NR)) {
                    *sum += lane.iter().map(|&weight| i32::from(weight)).sum::<i32>();
                }
            }
        }
        sums.truncate(scales.len());
        Self { layout, values, scales, sums }
    }
}
