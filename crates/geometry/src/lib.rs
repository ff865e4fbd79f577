//! Geometry of editing: pixel masks and token masks, windows on an image, filling, resampling, compositing and the plan
//! of an outpainting.
//!
//! Plain Rust over pixels and grids: nothing here knows of a model, a graph or a seed. `docs/editing.md` draws each
//! step.
//!
//! An app uses the crate `maskgit`; this one may change with every version.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod blend;
mod feather;
mod fill;
mod mask;
mod outpaint;
mod plan;
mod resample;
mod stage;
mod tokens;

pub use blend::Blend;
pub use feather::{Feather, MAX_FEATHER};
pub use mask::{Mask, Rect};
use maskgit_core::{Error, Result};
pub use outpaint::{Outpaint, outpaint};
pub use plan::{Job, MAX_COMPONENTS, MAX_CONTEXT, Window, Windows, inpaint};
use resample::Resampler;
pub use resample::{Planes, enlarge};
pub use stage::{StagedJob, Stages, stages};
pub use tokens::TokenMask;

/// The widest and the highest image that is edited, read or written.
pub const MAX_SIDE: u32 = 16_384;

/// Checks an image's width and height.
///
/// # Errors
///
/// Kind [`Image`](maskgit_core::ErrorKind::Image) when a side is larger than [`MAX_SIDE`].
pub fn check_size(width: u64, height: u64) -> Result<(u32, u32)> {
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(w), Ok(h)) if w <= MAX_SIDE && h <= MAX_SIDE => Ok((w, h)),
        _ => Err(Error::image(format!(
            "an image of {width}x{height} is too large: a side has at most {MAX_SIDE} pixels"
        ))),
    }
}
