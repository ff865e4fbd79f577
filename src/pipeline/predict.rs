//! The transformer as the sampler sees it.

use std::cell::RefCell;
use std::collections::HashMap;

use super::graphs::Graphs;
use super::{Observer, Progress, go_on};
use crate::error::{Error, Result};
use crate::sample::{Predict, Row};

/// Rows that run between two reports of progress: enough to keep the threads of a small device busy.
const GROUP: usize = 8;

/// The logits of a canvas with every token masked, by label.
///
/// The first step of every picture of a class starts from them, whatever its seed.
pub(super) struct Blank {
    logits: HashMap<i64, Vec<f32>>,
    bytes: usize,
}

impl Blank {
    /// Keeps at most about `bytes` of logits.
    pub(super) fn new(bytes: usize) -> Self {
        Self { logits: HashMap::new(), bytes }
    }

    fn keep(&mut self, label: i64, logits: &[f32]) {
        let size = size_of_val(logits);
        if size.saturating_mul(self.logits.len() + 1) > self.bytes {
            self.logits.clear();
        }
        if size <= self.bytes {
            self.logits.insert(label, logits.to_vec());
        }
    }
}

/// Runs the transformer row by row, so that a row's logits do not depend on its neighbours; never twice for the same row.
pub(super) struct Predictor<'a, 'o> {
    pub(super) graphs: &'a Graphs,
    pub(super) blank: &'a mut Blank,
    pub(super) mask_id: i64,
    pub(super) label: i64,
    pub(super) null_label: Option<i64>,
    pub(super) observer: &'a RefCell<&'o mut dyn Observer>,
    pub(super) done: usize,
    pub(super) total: usize,
}

impl Predictor<'_, '_> {
    fn label_of(&self, row: &Row<'_>) -> Result<i64> {
        match (row.unconditional, self.null_label) {
            (false, _) => Ok(self.label),
            (true, Some(null)) => Ok(null),
            (true, None) => Err(Error::request("this model has no null label, so it cannot be guided")),
        }
    }

    /// Runs the transformer for the labels whose all-masked logits are not known yet.
    fn fill_blank(&mut self, rows: &[(&[i64], i64)]) -> Result<()> {
        let mut wanted: Vec<(&[i64], i64)> = Vec::new();
        for &(tokens, label) in rows {
            if !self.blank.logits.contains_key(&label) && wanted.iter().all(|row| row.1 != label) {
                wanted.push((tokens, label));
            }
        }
        for (row, logits) in wanted.iter().zip(self.graphs.logits(&wanted, None)?) {
            self.blank.keep(row.1, &logits);
        }
        Ok(())
    }

    fn tell(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.done = self.done.saturating_add(1);
            let event = Progress::Predicted { done: self.done, total: self.total };
            go_on(self.observer.borrow_mut().progress(&event))?;
        }
        Ok(())
    }
}

fn fill(out: &mut [f32], logits: &[f32]) -> Result<()> {
    if logits.len() != out.len() {
        return Err(Error::engine(format!(
            "the transformer gave {} logits for one picture, not {}",
            logits.len(),
            out.len()
        )));
    }
    out.copy_from_slice(logits);
    Ok(())
}

impl Predict for Predictor<'_, '_> {
    fn logits(&mut self, rows: &[Row<'_>], out: &mut [f32]) -> Result<()> {
        let length = out.len().checked_div(rows.len()).unwrap_or(0).max(1);
        let mut places: Vec<&mut [f32]> = out.chunks_exact_mut(length).collect();
        for (rows, places) in rows.chunks(GROUP).zip(places.chunks_mut(GROUP)) {
            let inputs: Vec<(&[i64], i64)> =
                rows.iter().map(|row| Ok((row.tokens, self.label_of(row)?))).collect::<Result<_>>()?;
            let is_blank = |tokens: &[i64]| tokens.iter().all(|&token| token == self.mask_id);
            let (blank, other): (Vec<usize>, Vec<usize>) = (0..inputs.len()).partition(|&i| is_blank(inputs[i].0));
            let blank_rows: Vec<(&[i64], i64)> = blank.iter().map(|&i| inputs[i]).collect();
            self.fill_blank(&blank_rows)?;
            for i in blank {
                match self.blank.logits.get(&inputs[i].1) {
                    Some(logits) => fill(places[i], logits)?,
                    // Too large to keep.
                    None => {
                        let logits = self.graphs.logits(&[inputs[i]], None)?;
                        fill(places[i], logits.first().map_or(&[], Vec::as_slice))?;
                    }
                }
            }
            let other_rows: Vec<(&[i64], i64)> = other.iter().map(|&i| inputs[i]).collect();
            let unsettled = |&i: &usize| rows[i].settled.iter().map(|settled| !settled).collect();
            let wanted: Vec<Vec<bool>> = other.iter().map(unsettled).collect();
            let wanted: Vec<&[bool]> = wanted.iter().map(Vec::as_slice).collect();
            for (i, logits) in other.into_iter().zip(self.graphs.logits(&other_rows, Some(&wanted))?) {
                fill(places[i], &logits)?;
            }
            self.tell(rows.len())?;
        }
        Ok(())
    }
}
