//! What goes into a generation, what comes out, and what is heard of it meanwhile.

use std::ops::ControlFlow;
use std::path::Path;

use image::RgbImage;

use crate::error::Result;
use crate::image_io;
use crate::sample::{Options, StepReport};

/// What to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The class: an index into the manifest's labels.
    pub label: usize,
    /// The seed of the first picture. Picture `i` has seed `seed + i` (modulo 2⁶⁴) and is the same as the only picture
    /// of a request with that seed.
    pub seed: u64,
    /// The number of pictures, 1 to [`MAX_COUNT`](super::MAX_COUNT).
    pub count: usize,
    /// How to sample.
    pub options: Options,
}

/// What [`Generator::generate`](super::Generator::generate), and an edit, tells its observer.
#[non_exhaustive]
pub enum Progress<'a> {
    /// The transformer has run once more: `done` of `total` runs of the whole request.
    Predicted {
        /// Transformer runs so far.
        done: usize,
        /// Transformer runs in the whole request.
        total: usize,
    },
    /// A step is over for some pictures of the request, all of them unless the batch is large.
    Step {
        /// The place in the request of the report's first picture.
        first: usize,
        /// The step, the tokens so far and which of them are known.
        report: &'a StepReport<'a>,
    },
    /// A finished picture has been decoded: `done` of `total`.
    Decoded {
        /// Pictures decoded so far.
        done: usize,
        /// Pictures in the request.
        total: usize,
    },
}

/// One picture as it looks after a step: its unknown positions show the model's present guess.
#[derive(Debug)]
#[non_exhaustive]
pub struct Preview {
    /// The step that is over, from 0.
    pub step: usize,
    /// T, the number of steps.
    pub steps: usize,
    /// The picture's place in the request.
    pub index: usize,
    /// The picture's seed.
    pub seed: u64,
    /// The window of an edit that is being drawn, from 0; 0 for a generation.
    pub window: usize,
    /// The number of windows; 1 for a generation.
    pub windows: usize,
    /// The picture: of an edit the whole, at its own resolution.
    pub image: RgbImage,
}

/// Watches a generation and may cancel it: `Break` ends it with an error of kind
/// [`Cancelled`](crate::ErrorKind::Cancelled). `()` watches nothing.
pub trait Observer {
    /// Called after each run of the transformer, each step, and each decoded picture.
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()>;

    /// Whether [`Observer::preview`] wants pictures. Each costs one run of the decoder.
    fn wants_preview(&self) -> bool {
        false
    }

    /// Called after each step for each picture, when [`Observer::wants_preview`] says so.
    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        let _ = preview;
        ControlFlow::Continue(())
    }
}

impl Observer for () {
    fn progress(&mut self, _: &Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// One drawn picture.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Picture {
    /// Its seed.
    pub seed: u64,
    /// The pixels.
    pub image: RgbImage,
    /// The tokens in raster order, each in `0..codes`; of an edit, those of each window in turn.
    pub tokens: Vec<i64>,
    /// The number of tokens still masked after each step; the last is 0. Of an edit, the steps of each window in turn.
    pub masked: Vec<usize>,
}

impl Picture {
    /// Writes the pixels as PNG, without metadata. The file appears whole or not at all, and replaces what is there.
    ///
    /// # Errors
    ///
    /// As [`image_io::encode_png`] and [`image_io::write_file`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        image_io::write_file(path.as_ref(), image_io::encode_png(&self.image, None)?)
    }
}

/// Seconds on the wall clock.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Timings {
    /// Each step for all pictures together: the transformer and the sampler. Starts with step `start_iter`.
    pub steps: Vec<f64>,
    /// Decoding all finished pictures.
    pub decode: f64,
    /// Decoding previews, and what the observer did with them.
    pub preview: f64,
    /// The whole call.
    pub total: f64,
}

/// What [`Generator::generate`](super::Generator::generate) returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// The pictures, in the order of their seeds.
    pub images: Vec<Picture>,
    /// How long it took.
    pub timings: Timings,
}
