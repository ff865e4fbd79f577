//! Draws and edits images with MaskGIT-family models on the device itself: no network and no Python at run time.
//!
//! A model is a [`Bundle`]: a manifest and its ONNX graphs, in a folder, in one packed file, or in memory. A
//! [`Generator`] loads it and draws what a [`Request`] says. The same bundle, request and seed give the same tokens,
//! whatever the number of threads and the place in a batch.
//!
//! ```no_run
//! use maskgit::{Generator, Request};
//!
//! # fn main() -> maskgit::Result<()> {
//! let mut generator = Generator::open("models/avatars-128-int8")?;
//! let request = Request::generate().with_class("lorelei").with_seed(7);
//! generator.generate(&request)?.images[0].save("lorelei.png")?;
//! # Ok(())
//! # }
//! ```
//!
//! An edit is the same with another subject: [`Request::edit`] repaints a [`Mask`], [`Request::outpaint`] extends an
//! image, [`Request::vary`] draws a part of its tokens anew, [`Request::reconstruct`] shows what the tokens hold.
//!
//! ```no_run
//! use maskgit::{Generator, Limits, Mask, Rect, Request, read_image};
//!
//! # fn main() -> maskgit::Result<()> {
//! # let mut generator = Generator::open("models/avatars-128-int8")?;
//! let source = read_image("face.jpg".as_ref(), &Limits::default())?;
//! let mask = Mask::from_boxes(source.rgb.width(), source.rgb.height(), &[Rect::new(8, 0, 48, 20)])?;
//! let request = Request::edit(source.rgb, mask).with_class("lorelei").with_count(4);
//! for image in generator.generate(&request)?.images {
//!     image.save(format!("hair-{}.png", image.index))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Generator::generate_with`] hands each image to an [`Observer`] as it is finished, so that any number of images
//! takes the memory of a few; it also tells of progress, shows previews and can be cancelled.
//!
//! [`image`] is re-exported: its `RgbImage` and `GrayImage` are in the interface.

#![deny(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "capi")]
mod capi;
mod pipeline;

pub use image;
pub use maskgit_bundle::{Bundle, GraphFile, GraphFiles, GraphKind, Manifest, Precision, pack};
pub use maskgit_core::{
    Cancel, Error, ErrorKind, GridSize, ImageSize, LoadLimits, Result, Sampler, Sampling, SamplingChanges, Schedule,
};
pub use maskgit_engine::OperatorCount;
pub use maskgit_geometry::{Feather, Mask, Outpaint, Rect, Window, Windows};
pub use maskgit_image::{
    Limits, MaskFrom, MaskOptions, SourceImage, SourceMask, read_hard_mask, read_image, read_mask,
};
pub use pipeline::{
    Device, DeviceInfo, Edge, Generated, Generator, GeneratorBuilder, Image, MAX_COUNT, MemoryUse, Observer, Preview,
    Progress, Request, Resolved, Seeds, Subject, Summary, Timings, devices, find_label, operators, tokens_sha256,
};

/// Engines of one's own and the parts of the pipeline. Outside of what the version number promises.
#[cfg(feature = "unstable")]
pub mod unstable {
    pub use maskgit_core::Source;
    pub use maskgit_engine::{CpuEngine, DType, Engine, Input, Isa, Output, Port, Session, Signature};
    pub use maskgit_kernels::peak_multiply_adds;
}
