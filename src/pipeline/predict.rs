//! The transformer as the sampler sees it.

use std::cell::RefCell;
use std::collections::HashMap;

use maskgit_core::{Error, Result};
use maskgit_sample::{Predict, Row};
use ndarray::{ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::run::{Count, go_on};
use super::sessions::{Pass, Sessions};
use super::{Observer, Progress};

/// The logits of a token grid with every token masked, by label.
///
/// The first step of every image of a class starts from them, whatever its seed.
pub(super) struct MaskedLogitsCache {
    logits: HashMap<i64, Vec<f32>>,
    bytes: usize,
}

impl MaskedLogitsCache {
    /// Keeps at most about `bytes` of logits.
    pub(super) fn new(bytes: usize) -> Self {
        Self { logits: HashMap::new(), bytes }
    }

    fn keep(&mut self, label: i64, logits: &ArrayViewMut2<'_, f32>) {
        let size = logits.len().saturating_mul(size_of::<f32>());
        if size.saturating_mul(self.logits.len() + 1) > self.bytes {
            self.logits.clear();
        }
        if size <= self.bytes {
            self.logits.insert(label, logits.iter().copied().collect());
        }
    }

    /// Fills a row from what is kept; whether it was.
    fn fill(&self, label: i64, mut out: ArrayViewMut2<'_, f32>) -> bool {
        match (self.logits.get(&label), out.as_slice_mut()) {
            (Some(logits), Some(out)) if logits.len() == out.len() => {
                out.copy_from_slice(logits);
                true
            }
            _ => false,
        }
    }
}

/// Runs the transformer row by row, so that a row's logits do not depend on its neighbours; never twice for the same
/// row.
pub(super) struct Predictor<'a, 'o> {
    pub(super) sessions: &'a Sessions,
    pub(super) cache: &'a mut MaskedLogitsCache,
    pub(super) mask_id: i64,
    pub(super) label: i64,
    pub(super) null_label: Option<i64>,
    pub(super) observer: &'a RefCell<&'o mut dyn Observer>,
    pub(super) count: Count,
}

impl Predictor<'_, '_> {
    /// Tells of `runs` more runs of the transformer.
    pub(super) fn tell(&mut self, runs: usize) -> Result<()> {
        self.count.done = self.count.done.saturating_add(runs);
        let Count { done, total } = self.count;
        go_on(self.observer.borrow_mut().progress(&Progress::Predicted { done, total }))
    }

    fn label_of(&self, row: &Row<'_>) -> Result<i64> {
        match (row.unconditional, self.null_label) {
            (false, _) => Ok(self.label),
            (true, Some(null)) => Ok(null),
            (true, None) => Err(Error::request("this model has no null label, so it cannot be guided")),
        }
    }

    /// A row with every token masked: its logits are those of every such row of its label.
    fn all_masked(&mut self, row: &Row<'_>, mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let label = self.label_of(row)?;
        if !self.cache.fill(label, out.index_axis_mut(Axis(0), 0)) {
            // All of them, as another image may want other places.
            let wanted = vec![true; row.tokens.len()];
            self.sessions.logits(&[Pass { tokens: row.tokens, label, wanted: &wanted }], out.view_mut())?;
            self.cache.keep(label, &out.index_axis_mut(Axis(0), 0));
        }
        self.tell(1)
    }

    /// Rows that the device runs at the same time.
    fn together(&mut self, rows: &[Row<'_>], out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let mut passes = Vec::with_capacity(rows.len());
        for row in rows {
            passes.push(Pass { tokens: row.tokens, label: self.label_of(row)?, wanted: row.wanted });
        }
        self.sessions.logits(&passes, out)?;
        (0..rows.len()).try_for_each(|_| self.tell(1))
    }
}

impl Predict for Predictor<'_, '_> {
    fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let group = self.sessions.rows_at_once();
        let mut at = 0;
        while let Some(row) = rows.get(at) {
            let is_masked = |row: &Row<'_>| row.tokens.iter().all(|&token| token == self.mask_id);
            if is_masked(row) {
                self.all_masked(row, out.slice_mut(s![at..at + 1, .., ..]))?;
                at += 1;
                continue;
            }
            let end = rows.iter().skip(at).take(group).take_while(|row| !is_masked(row)).count() + at;
            let together = rows.get(at..end).unwrap_or_default();
            self.together(together, out.slice_mut(s![at..end, .., ..]))?;
            at = end;
        }
        Ok(())
    }
}
