//! Draws pictures with MaskGIT-family models on the device itself: no network and no Python at run time.
//!
//! A model is a [`Bundle`]: a manifest and its ONNX graphs, in a folder, in one packed file, or in memory. A
//! [`Generator`] loads it and draws; a [`Request`] says what and how. The same bundle, request and seed give the same
//! tokens, whatever the number of threads and the place in a batch.
//!
//! ```no_run
//! # fn main() -> maskgit::Result<()> {
//! let mut generator = maskgit::Generator::open("models/avatars-64")?;
//! let mut request = generator.request("lorelei")?;
//! request.seed = 7;
//! let generated = generator.generate(&request, &mut ())?;
//! for picture in &generated.images {
//!     picture.save("lorelei.png")?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The same generator edits: [`Generator::edit`] repaints a [`Mask`], [`Generator::outpaint`] extends a picture,
//! [`Generator::vary`] redraws a part of its tokens, [`Generator::reconstruct`] shows what the tokens hold.
//!
//! ```no_run
//! # fn main() -> maskgit::Result<()> {
//! # let mut generator = maskgit::Generator::open("models/avatars-64")?;
//! use maskgit::{Mask, Rect, image_io};
//! let source = image_io::read_image("face.jpg".as_ref(), &image_io::Limits::default())?;
//! let mask = Mask::from_boxes(source.rgb.width(), source.rgb.height(), &[Rect::new(8, 0, 48, 20)])?;
//! let request = generator.edit_request(Some("lorelei"))?;
//! let edited = generator.edit(&source.rgb, &mask, &request, &mut ())?;
//! edited.images[0].save("hair.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! The parts can be used alone: [`bundle`] opens models, [`engine`] runs graphs, [`sample`] is the paper's loop over
//! plain slices, [`canvas`] is the geometry of editing, [`pipeline`] ties them together, [`image_io`] reads and writes
//! pictures.

#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod bundle;
pub mod canvas;
#[cfg(feature = "capi")]
mod capi;
pub mod engine;
mod error;
pub mod image_io;
mod math;
pub mod pipeline;
pub mod sample;

pub use bundle::{Bundle, GraphKind, Manifest};
pub use canvas::{Feather, Mask, Outpaint, Rect};
pub use error::{Error, ErrorKind, Result};
pub use pipeline::{
    Device, EditRequest, Edited, Generated, Generator, MemoryUse, Observer, OpenOptions, Picture, Preview, Progress,
    Request, Timings,
};
pub use sample::Options;
