//! Which tokens to draw: confidence sampling, Halton sampling, guidance and the decoding loop.
//!
//! Plain Rust over slices of logits and tokens, after *MaskGIT: Masked Generative Image Transformer* (Chang et al.
//! 2022) and Google's `parallel_decode`. It knows nothing of graphs, files or pixels. `docs/sampler.md` states every
//! step.
//!
//! An app uses the crate `maskgit`; this one may change with every version.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod confidence;
mod halton;
mod noise;
mod run;
mod state;
mod step;

use std::ops::ControlFlow;

pub use confidence::{Categorical, Drawn};
pub use halton::order as halton_order;
use maskgit_core::{GridSize, Result};
use ndarray::ArrayViewMut3;
pub use noise::{Draws, window_seed};
pub use run::{Buffers, run, run_with};
pub use state::GridState;

/// What the tokens of a model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// The size of the token grid.
    pub grid: GridSize,
    /// K: codes are 0..K.
    pub codes: usize,
    /// The token of a position that is not yet known.
    pub mask_id: i64,
}

/// A token grid that is being drawn: an image, or a window of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGrid {
    /// All its random numbers follow from this.
    pub seed: u64,
    /// N tokens in raster order, `mask_id` where one is to be drawn. Known tokens never change.
    pub tokens: Vec<i64>,
}

/// One forward pass that the loop asks for.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The index of the token grid.
    pub grid: usize,
    /// N tokens, `mask_id` where masked.
    pub tokens: &'a [i64],
    /// Which of the N positions' logits will be read.
    pub wanted: &'a [bool],
    /// Whether the null label takes the place of the label, for guidance.
    pub unconditional: bool,
}

/// The model, as the loop sees it.
pub trait Predict {
    /// Writes the logits of each row, `[rows, N, K]`. Only those of [`wanted`](Row::wanted) positions are read.
    ///
    /// # Errors
    ///
    /// Any; the loop stops and passes it on.
    fn logits(&mut self, rows: &[Row<'_>], out: ArrayViewMut3<'_, f32>) -> Result<()>;
}

/// What the loop tells after each step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport<'a> {
    /// The step just done, 0-based, from `start_iter`.
    pub step: usize,
    /// T.
    pub steps: usize,
    /// The token grids, in the order in which they were given.
    pub grids: &'a [GridState],
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For each token grid, the number of tokens masked after each step that was run.
    pub masked: Vec<Vec<usize>>,
}

/// Hears of each step; [`ControlFlow::Break`] stops the run.
pub type Observe<'a> = &'a mut dyn FnMut(&StepReport<'_>) -> ControlFlow<()>;
