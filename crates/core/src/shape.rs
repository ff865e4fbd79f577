//! Sizes of a model: its image and its token grid.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The size of an image in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: u32,
    /// Columns of pixels.
    pub width: u32,
}

impl ImageSize {
    /// The number of pixels.
    pub fn area(self) -> usize {
        (self.height as usize).saturating_mul(self.width as usize)
    }
}

/// The size of a token grid. Positions count in raster order: row by row, left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridSize {
    /// Rows of tokens.
    pub rows: u32,
    /// Tokens in a row.
    pub cols: u32,
}

impl GridSize {
    /// The number of positions, N.
    pub fn len(self) -> usize {
        (self.rows as usize).saturating_mul(self.cols as usize)
    }

    /// Whether there is no position at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A model's image and its token grid: what a window of an edit is brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The model's image.
    pub image: ImageSize,
    /// Its token grid.
    pub grid: GridSize,
}

impl Shape {
    /// Checks that no side is 0.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request).
    pub fn check(self) -> Result<()> {
        let Self { image, grid } = self;
        if [image.width, image.height, grid.rows, grid.cols].contains(&0) {
            return Err(Error::request(format!(
                "a model with an image of {}x{} pixels and a grid of {}x{} tokens has nothing to edit",
                image.width, image.height, grid.cols, grid.rows
            )));
        }
        Ok(())
    }
}
