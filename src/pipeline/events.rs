//! What comes out of a request, and what is heard of it meanwhile.

use std::ops::ControlFlow;
use std::path::Path;

use image::RgbImage;
use maskgit_core::{Result, files};
use maskgit_geometry::Window;

use super::Resolved;

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// One more window of the image to edit has been encoded.
    Encoded {
        /// Windows encoded so far.
        done: usize,
        /// Windows that the whole request encodes.
        total: usize,
    },
    /// The transformer has run once more, or a run was found not to be needed: the runs are those of every step of
    /// every window of every image, twice with guidance.
    Predicted {
        /// Runs so far.
        done: usize,
        /// Runs of the whole request.
        total: usize,
    },
    /// A step is over for the images that are being drawn together.
    Step {
        /// The step, from 0.
        step: usize,
        /// T, the number of steps.
        steps: usize,
    },
    /// An image is finished: [`Observer::image`] had it just before.
    Finished {
        /// Images finished so far.
        done: usize,
        /// Images of the request.
        total: usize,
    },
}

/// An image as it looks after a step: its unknown positions show the model's present guess.
#[derive(Debug)]
#[non_exhaustive]
pub struct Preview {
    /// The step that is over, from 0.
    pub step: usize,
    /// T, the number of steps.
    pub steps: usize,
    /// The image's place in the request.
    pub index: usize,
    /// The image's seed.
    pub seed: u64,
    /// The stage of an edit that is being drawn, from 0: the windows that do not read each other; 0 for a generation.
    pub stage: usize,
    /// The number of stages; 1 for a generation.
    pub stages: usize,
    /// The image: of an edit the whole, at its own resolution.
    pub image: RgbImage,
}

/// Gets the images of a request, watches it and may cancel it: `Break` ends it with an error of kind
/// [`Cancelled`](maskgit_core::ErrorKind::Cancelled). `()` watches nothing and drops the images.
pub trait Observer {
    /// Called with each image as it is finished, in the order of the seeds. What is handed over is gone from the
    /// library.
    fn image(&mut self, image: Image) -> ControlFlow<()> {
        let _ = image;
        ControlFlow::Continue(())
    }

    /// Called after each encoded window, each run of the transformer, each step and each image.
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        let _ = progress;
        ControlFlow::Continue(())
    }

    /// Whether [`Observer::preview`] wants images. Each costs a run of the decoder for every window of the stage.
    fn wants_preview(&self) -> bool {
        false
    }

    /// Called after each step for each image, when [`Observer::wants_preview`] says so.
    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        let _ = preview;
        ControlFlow::Continue(())
    }
}

impl Observer for () {}

/// A finished image.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Image {
    /// Its place in the request, from 0.
    pub index: usize,
    /// Its seed.
    pub seed: u64,
    /// The pixels: the model's size for a generation, the image's own (or the extended) size for an edit.
    pub pixels: RgbImage,
    /// The tokens in raster order, each in `0..codes`; of an edit, those of each window in turn.
    pub tokens: Vec<i64>,
    /// The number of tokens still masked after each step; the last is 0. Of an edit, the steps of each window in turn.
    pub masked: Vec<usize>,
    /// How well the model knows the image that was edited: the mean absolute difference, 0 to 255, between the image at
    /// the model's size and what the model makes of it, where tokens were kept, in the windows that show the image as
    /// it was. Small is good; docs/editing.md says what is far off. `None` for a generation, and where no token was kept.
    pub fit: Option<f32>,
}

impl Image {
    /// Writes the pixels as PNG, without metadata. The file appears whole or not at all, and replaces what is there.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](maskgit_core::ErrorKind::Io) when it cannot be written, [`Image`](maskgit_core::ErrorKind::Image)
    /// when it is larger than 16,384 pixels a side.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write_file(path.as_ref(), &maskgit_image::encode_png(&self.pixels, None)?)
    }
}

/// Seconds on the wall clock.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Timings {
    /// Encoding the windows of the image that is edited.
    pub encode: f64,
    /// Each step for all images together: the transformer and the sampler. Starts with step `start_iter`.
    pub steps: Vec<f64>,
    /// Decoding and compositing all finished windows.
    pub decode: f64,
    /// Decoding previews, and what the observer did with them.
    pub preview: f64,
    /// The whole call.
    pub total: f64,
}

/// What a request was, and how long it took.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The label and the sampling settings that the images were drawn with.
    pub resolved: Resolved,
    /// The windows of an edit, in the order in which they are painted. None: there was nothing to draw, and the results
    /// are the image as it was. A generation has one, the whole image.
    pub windows: Vec<Window>,
    /// How long it took.
    pub timings: Timings,
}

/// What [`Generator::generate`](super::Generator::generate) returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// The images, in the order of their seeds.
    pub images: Vec<Image>,
    /// What the request was, and how long it took.
    pub summary: Summary,
}
