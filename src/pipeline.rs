//! From a class and a seed to a picture: ties the bundle, the engine and the sampler together.

mod device;
mod edit;
mod graphs;
mod label;
mod predict;
mod types;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use image::RgbImage;
use sha2::{Digest, Sha256};

pub use device::{Device, DeviceInfo, devices};
pub use edit::{EditRequest, Edited, MAX_RESULT_BYTES};
#[cfg(all(test, feature = "cuda"))]
pub(crate) use graphs::signature;
use graphs::{Graphs, check_tokens, to_image};
pub use graphs::{MemoryUse, operators};
pub use label::find_label;
use predict::{Blank, Predictor};
pub use types::{Generated, Observer, Picture, Preview, Progress, Request, Timings};

use crate::bundle::{Bundle, Manifest};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::sample::{self, Canvas, Grid, Guidance, Options, Problem, StepReport};

/// The most pictures one request may ask for.
pub const MAX_COUNT: usize = 10_000;

/// How to open a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The number of threads that compute, at least 1. The default is the number of cores. It does not change the
    /// tokens.
    pub threads: usize,
    /// The most bytes to hold logits in, 64 MiB by default; one picture always fits. A batch that needs more is drawn in
    /// parts, one after the other. It does not change the tokens.
    pub logits_bytes: usize,
    /// Which graphs to hold in memory, all by default.
    pub memory: MemoryUse,
    /// Which device runs the graphs, the CPU by default.
    pub device: Device,
}

impl Default for OpenOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, logits_bytes: 64 << 20, memory: MemoryUse::KeepAll, device: Device::Cpu }
    }
}

impl OpenOptions {
    /// The default options with this number of threads.
    pub fn with_threads(threads: usize) -> Self {
        Self { threads, ..Self::default() }
    }
}

/// A loaded model, ready to draw. Two generators share nothing.
pub struct Generator {
    /// The encoder is loaded when it is first used: drawing does not need it.
    graphs: Graphs,
    /// The logits of a canvas with every token masked, by label: they are the same for every seed.
    blank: Blank,
    logits_bytes: usize,
    load_seconds: f64,
    device_note: Option<String>,
}

impl Generator {
    /// Opens a model, a folder or one packed file, for the CPU with the default options.
    ///
    /// # Errors
    ///
    /// As [`Generator::from_bundle`] and [`Bundle::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// Opens a model for a device.
    ///
    /// # Errors
    ///
    /// As [`Generator::from_bundle`] and [`Bundle::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let start = Instant::now();
        let mut generator = Self::from_bundle(Bundle::open(path)?, options)?;
        generator.load_seconds = start.elapsed().as_secs_f64();
        Ok(generator)
    }

    /// Loads the graphs of an opened bundle for a device.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for an impossible number of threads,
    /// [`Bundle`](crate::ErrorKind::Bundle) when a graph is damaged or not as the manifest says,
    /// [`Engine`](crate::ErrorKind::Engine) when the device is not there or cannot run it.
    pub fn from_bundle(bundle: Bundle, options: &OpenOptions) -> Result<Self> {
        let start = Instant::now();
        let (engine, mut refused) = device::engine(options.device, options.threads)?;
        let mut graphs = Graphs::new(bundle, engine, options.memory);
        if let Err(error) = graphs.load() {
            let may_change = options.device == Device::Auto && refused.is_none() && error.kind() == ErrorKind::Engine;
            if !may_change {
                return Err(error);
            }
            graphs.change_engine(device::engine(Device::Cpu, options.threads)?.0);
            graphs.load()?;
            refused = Some(error);
        }
        let mut generator = Self::around(graphs, options, start);
        generator.device_note = refused.map(|why| format!("running on the CPU: {why}"));
        Ok(generator)
    }

    /// Loads the graphs of an opened bundle on any engine, which has its own threads.
    ///
    /// # Errors
    ///
    /// As [`Generator::from_bundle`].
    pub fn with_engine(bundle: Bundle, engine: Box<dyn Engine>, options: &OpenOptions) -> Result<Self> {
        let start = Instant::now();
        let graphs = Graphs::new(bundle, engine, options.memory);
        graphs.load()?;
        Ok(Self::around(graphs, options, start))
    }

    fn around(graphs: Graphs, options: &OpenOptions, start: Instant) -> Self {
        let load_seconds = start.elapsed().as_secs_f64();
        let logits_bytes = options.logits_bytes;
        Self { graphs, blank: Blank::new(logits_bytes), logits_bytes, load_seconds, device_note: None }
    }

    /// What the model says about itself.
    pub fn manifest(&self) -> &Manifest {
        self.graphs.manifest()
    }

    /// The name of the engine that runs the graphs.
    pub fn engine_name(&self) -> &str {
        self.graphs.engine.name()
    }

    /// Why the CPU runs the graphs, where [`Device::Auto`] chose it.
    pub fn device_note(&self) -> Option<&str> {
        self.device_note.as_deref()
    }

    /// Seconds that opening took: reading, checking, and preparing the transformer and the decoder.
    pub fn load_seconds(&self) -> f64 {
        self.load_seconds
    }

    /// A request for one picture of a class, named as [`find_label`] takes it, with seed 0 and the settings that the
    /// model recommends.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for an unknown class, [`Bundle`](crate::ErrorKind::Bundle) when the
    /// model recommends a schedule or sampler that this library does not know.
    pub fn request(&self, class: &str) -> Result<Request> {
        let label = find_label(self.manifest(), class)?;
        Ok(Request { label, seed: 0, count: 1, options: recommended(self.manifest())? })
    }

    /// Checks a request against the model without drawing.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request), saying which value is wrong and what it may be.
    pub fn check(&self, request: &Request) -> Result<()> {
        let manifest = self.manifest();
        if request.label >= manifest.labels.len() {
            return Err(Error::request(format!(
                "there is no class {}: the model has {} classes, 0 to {}",
                request.label,
                manifest.labels.len(),
                manifest.labels.len().saturating_sub(1)
            )));
        }
        if request.count == 0 || request.count > MAX_COUNT {
            return Err(Error::request(format!("the count must be 1 to {MAX_COUNT}, not {}", request.count)));
        }
        request.options.validate()?;
        if request.options.guidance.scale != 0.0 && manifest.null_label.is_none() {
            return Err(Error::request("this model has no null label, so it cannot be guided: set guidance to 0"));
        }
        Ok(())
    }

    /// Draws pictures.
    ///
    /// The tokens depend on the model, the label, the seed and the sampling options only: not on the number of
    /// threads, nor on a picture's place in the batch, because the graphs run one row at a time.
    ///
    /// # Errors
    ///
    /// As [`Generator::check`]; kind [`Cancelled`](crate::ErrorKind::Cancelled) when the observer said so;
    /// [`Engine`](crate::ErrorKind::Engine) when a graph fails or gives numbers that are not finite.
    pub fn generate(&mut self, request: &Request, observer: &mut dyn Observer) -> Result<Generated> {
        self.check(request)?;
        let start = Instant::now();
        let manifest = self.graphs.manifest();
        let (n, k) = (manifest.tokens(), manifest.codes);
        let rows_per_image = if request.options.guidance.scale == 0.0 { 1 } else { 2 };
        let row_bytes = n.saturating_mul(k).saturating_mul(size_of::<f32>() * rows_per_image).max(1);
        let part = (self.logits_bytes / row_bytes).max(1);
        let run_steps = request.options.steps.saturating_sub(request.options.start_iter);
        let observer = RefCell::new(observer);
        let mut timings = Timings { steps: vec![0.0; run_steps], ..Timings::default() };
        let mut predictor = Predictor {
            graphs: &self.graphs,
            blank: &mut self.blank,
            mask_id: manifest.mask_id,
            label: label_input(request.label)?,
            null_label: manifest.null_label,
            observer: &observer,
            done: 0,
            total: run_steps.saturating_mul(request.count).saturating_mul(rows_per_image),
        };
        let mut drawn: Vec<(Canvas, Vec<usize>)> = Vec::new();
        for first in (0..request.count).step_by(part) {
            let mut canvases: Vec<Canvas> = (first..request.count.min(first.saturating_add(part)))
                .map(|i| Canvas { seed: request.seed.wrapping_add(i as u64), tokens: vec![manifest.mask_id; n] })
                .collect();
            let part = Part::new(first, request.seed, &request.options);
            let masked = decode_part(&mut canvases, &part, &mut predictor, &mut timings)?;
            drawn.extend(canvases.into_iter().zip(masked));
        }
        let decode_start = Instant::now();
        let mut images = Vec::with_capacity(drawn.len());
        for (canvas, masked) in drawn {
            let image = to_image(manifest, &self.graphs.decode(&canvas.tokens)?)?;
            images.push(Picture { seed: canvas.seed, image, tokens: canvas.tokens, masked });
            let event = Progress::Decoded { done: images.len(), total: request.count };
            go_on(observer.borrow_mut().progress(&event))?;
        }
        timings.decode = decode_start.elapsed().as_secs_f64();
        timings.total = start.elapsed().as_secs_f64();
        Ok(Generated { images, timings })
    }

    /// Runs the transformer once: the logits, N times K in raster order, for `tokens` (N of them, each a code or the
    /// mask id) and `label` (an index, or the null label).
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for tokens or a label out of range, [`Engine`](crate::ErrorKind::Engine).
    pub fn logits(&mut self, tokens: &[i64], label: i64) -> Result<Vec<f32>> {
        let manifest = self.graphs.manifest();
        check_tokens(manifest, tokens, true)?;
        let known = usize::try_from(label).is_ok_and(|l| l < manifest.labels.len());
        if !known && manifest.null_label != Some(label) {
            return Err(Error::request(format!("label {label} is neither a class of the model nor its null label")));
        }
        self.graphs
            .logits(&[(tokens, label)], None)?
            .pop()
            .ok_or_else(|| Error::internal("the transformer gave no row"))
    }

    /// Decodes tokens (N of them, codes only) to a picture.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for tokens out of range, [`Engine`](crate::ErrorKind::Engine).
    pub fn decode(&mut self, tokens: &[i64]) -> Result<RgbImage> {
        let pixels = self.decode_raw(tokens)?;
        to_image(self.graphs.manifest(), &pixels)
    }

    /// As [`Generator::decode`], with the decoder's own numbers: three planes (red, green, blue) of height times width,
    /// nominally 0 to 1.
    ///
    /// # Errors
    ///
    /// As [`Generator::decode`].
    pub fn decode_raw(&mut self, tokens: &[i64]) -> Result<Vec<f32>> {
        let manifest = self.graphs.manifest();
        check_tokens(manifest, tokens, false)?;
        self.graphs.decode(tokens)
    }

    /// Encodes a picture of exactly the model's size to N tokens.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) when the size differs or the model has no encoder,
    /// [`Engine`](crate::ErrorKind::Engine).
    pub fn encode(&mut self, image: &RgbImage) -> Result<Vec<i64>> {
        let size = self.manifest().image;
        if (image.width() as usize, image.height() as usize) != (size.width, size.height) {
            return Err(Error::request(format!(
                "the picture is {}x{}; the model's pictures are {}x{}",
                image.width(),
                image.height(),
                size.width,
                size.height
            )));
        }
        let planes: Vec<f32> = (0..3).flat_map(|c| image.pixels().map(move |p| f32::from(p.0[c]) / 255.0)).collect();
        self.encode_raw(&planes)
    }

    /// As [`Generator::encode`], from three planes (red, green, blue) of height times width, 0 to 1.
    ///
    /// # Errors
    ///
    /// As [`Generator::encode`].
    pub fn encode_raw(&mut self, planes: &[f32]) -> Result<Vec<i64>> {
        let manifest = self.graphs.manifest();
        let shape = [1, 3, manifest.image.height, manifest.image.width];
        if planes.len() != shape.iter().product::<usize>() {
            return Err(Error::request(format!(
                "the picture has {} values; the encoder takes {} (3 planes of {}x{})",
                planes.len(),
                shape.iter().product::<usize>(),
                shape[2],
                shape[3]
            )));
        }
        if let Some(bad) = planes.iter().find(|v| !v.is_finite()) {
            return Err(Error::request(format!("the picture has a value that is not a number in 0..1: {bad}")));
        }
        self.graphs.encode(planes)
    }
}

/// The SHA-256, as 64 lower-case hexadecimal digits, of tokens laid out as little-endian 64-bit signed integers in
/// raster order without a header: 8 N bytes.
pub fn tokens_sha256(tokens: &[i64]) -> String {
    let mut hash = Sha256::new();
    for token in tokens {
        hash.update(token.to_le_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sampling settings that the model recommends.
///
/// # Errors
///
/// Kind [`Bundle`](crate::ErrorKind::Bundle) when this library does not know the schedule or the sampler.
pub fn recommended(manifest: &Manifest) -> Result<Options> {
    let settings = &manifest.sampling;
    let fault = |e: Error| Error::bundle("the manifest's recommended sampling settings").with_source(e);
    Ok(Options {
        steps: settings.steps,
        schedule: settings.schedule.parse().map_err(fault)?,
        sampler: settings.sampler.parse().map_err(fault)?,
        choice_temperature: settings.choice_temperature,
        temperature: settings.temperature,
        final_temperature: settings.final_temperature,
        top_k: settings.top_k,
        guidance: Guidance { scale: settings.guidance, ramp: settings.guidance_ramp },
        start_iter: 0,
    })
}

/// Canvases that are drawn together.
struct Part<'a> {
    /// The place in the request of the first of them.
    first: usize,
    /// The seed of the request's first picture.
    seed: u64,
    options: &'a Options,
    /// The window that is drawn, of how many; (0, 1) where a whole picture is one.
    window: (usize, usize),
    /// Makes the picture that a preview shows from a decoded one.
    show: &'a dyn Fn(RgbImage) -> Result<RgbImage>,
}

impl<'a> Part<'a> {
    fn new(first: usize, seed: u64, options: &'a Options) -> Self {
        Self { first, seed, options, window: (0, 1), show: &Ok }
    }
}

/// Draws some canvases; returns how many tokens were masked after each step, per canvas.
fn decode_part(
    canvases: &mut [Canvas],
    part: &Part<'_>,
    predictor: &mut Predictor<'_, '_>,
    timings: &mut Timings,
) -> Result<Vec<Vec<usize>>> {
    let graphs = predictor.graphs;
    let manifest = graphs.manifest();
    let problem = Problem {
        grid: Grid { rows: manifest.grid.rows, cols: manifest.grid.cols },
        codes: manifest.codes,
        mask_id: manifest.mask_id,
    };
    let observer = predictor.observer;
    // The sampler knows one way to stop, so an error of a preview waits here for it to return.
    let mut failed = None;
    let mut mark = Instant::now();
    let mut observe = |report: &StepReport<'_>| {
        if let Some(seconds) = timings.steps.get_mut(report.step.saturating_sub(part.options.start_iter)) {
            *seconds += mark.elapsed().as_secs_f64();
        }
        let preview_start = Instant::now();
        let flow = tell(graphs, part, report, observer).unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        });
        timings.preview += preview_start.elapsed().as_secs_f64();
        mark = Instant::now();
        flow
    };
    let outcome = sample::decode(&problem, canvases, part.options, predictor, &mut observe);
    match failed {
        Some(error) => Err(error),
        None => Ok(outcome?.masked),
    }
}

/// Tells the observer of a step, with previews when it wants them.
fn tell(
    graphs: &Graphs,
    part: &Part<'_>,
    report: &StepReport<'_>,
    observer: &RefCell<&mut dyn Observer>,
) -> Result<ControlFlow<()>> {
    let mut observer = observer.borrow_mut();
    if observer.progress(&Progress::Step { first: part.first, report }).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    if observer.wants_preview() {
        for (i, tokens) in report.tokens.iter().enumerate() {
            let index = part.first.saturating_add(i);
            let preview = Preview {
                step: report.step,
                steps: report.steps,
                index,
                seed: part.seed.wrapping_add(index as u64),
                window: part.window.0,
                windows: part.window.1,
                image: (part.show)(to_image(graphs.manifest(), &graphs.decode(tokens)?)?)?,
            };
            if observer.preview(preview).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn go_on(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::cancelled()) } else { Ok(()) }
}

fn label_input(label: usize) -> Result<i64> {
    i64::try_from(label).map_err(|_| Error::request(format!("label {label} is too large")))
}
