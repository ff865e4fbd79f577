//! What the parts of maskgit have in common. This crate knows of no model, graph or pixel; every other crate may use
//! it.
//!
//! An app uses the crate `maskgit`, which promises an interface for years; this one may change with every version.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod error;
pub mod files;
mod limits;
mod math;
pub mod memory;
pub mod panics;
pub mod sampling;
mod sha256;
mod shape;
mod source;

pub use error::{Error, ErrorKind, Result};
pub use limits::{Cancel, LoadLimits};
pub use math::exp;
pub use memory::{copied, filled};
pub use sampling::{Guidance, Sampler, Sampling, SamplingChanges, Schedule};
pub use sha256::{Sha256, sha256};
pub use shape::{GridSize, ImageSize, Shape};
pub use source::Source;
