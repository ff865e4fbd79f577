//! Geometry of editing: pixel masks and token masks, windows on a picture, filling, resampling, compositing and the plan of an
//! outpainting.
//!
//! Plain Rust over pixels and grids: nothing here knows of a model, a graph or a seed. `docs/editing.md` draws each step.

mod blend;
mod feather;
mod fill;
mod mask;
mod outpaint;
mod plan;
mod resample;
mod tokens;

pub(crate) use blend::Blend;
pub use feather::{Feather, MAX_FEATHER};
pub use mask::{Mask, Rect};
pub use outpaint::{Outpaint, outpaint};
pub use plan::{Job, MAX_CONTEXT, MAX_PARTS, Window, inpaint};
use resample::Resampler;
pub(crate) use resample::{Planes, enlarge};
pub(crate) use tokens::TokenMask;

use crate::error::{Error, Result};

/// The model's picture and its token grid: what a window is brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of the model's picture in pixels, at least 1.
    pub width: u32,
    /// Height of the model's picture in pixels, at least 1.
    pub height: u32,
    /// Rows of tokens, at least 1.
    pub rows: u32,
    /// Tokens in a row, at least 1.
    pub cols: u32,
}

impl Shape {
    /// Checks that no side is 0.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request).
    pub fn check(self) -> Result<()> {
        if [self.width, self.height, self.rows, self.cols].contains(&0) {
            return Err(Error::request(format!("a model with {self:?} has nothing to edit")));
        }
        Ok(())
    }
}

/// `length` copies of `value`; an error when there is no memory for them.
pub(crate) fn filled<T: Clone>(length: usize, value: T, what: &str) -> Result<Vec<T>> {
    let mut items = Vec::new();
    items.try_reserve_exact(length).map_err(|_| {
        Error::request(format!("no memory for {what}: {length} values; use a smaller picture or fewer results"))
    })?;
    items.resize(length, value);
    Ok(items)
}
