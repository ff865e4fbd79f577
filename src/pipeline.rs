//! From a class and a seed to a picture: ties the bundle, the engine and the sampler together.

mod label;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use image::RgbImage;
use sha2::{Digest, Sha256};

pub use label::find_label;

use crate::bundle::{Bundle, GraphKind, Manifest};
use crate::engine::{CpuEngine, DType, Engine, Input, Output, Port, Session, Signature};
use crate::error::{Error, Result};
use crate::image_io;
use crate::sample::{self, Canvas, Grid, Guidance, Options, Predict, Problem, Row, StepReport};

/// The most pictures one request may ask for.
pub const MAX_COUNT: usize = 10_000;

/// The logits of one step are kept below this many bytes by drawing a large batch in parts, one after the other. The
/// parts do not show in the result: a picture does not depend on its place in a batch.
const LOGITS_BYTES: usize = 64 << 20;

/// How to open a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The number of threads that compute, at least 1. The default is the number of cores. It does not change the
    /// tokens.
    pub threads: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { threads: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

impl OpenOptions {
    /// The default options with this number of threads.
    pub fn with_threads(threads: usize) -> Self {
        Self { threads }
    }
}

/// What to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The class: an index into the manifest's labels.
    pub label: usize,
    /// The seed of the first picture. Picture `i` has seed `seed + i` (modulo 2⁶⁴) and is the same as the only picture
    /// of a request with that seed.
    pub seed: u64,
    /// The number of pictures, 1 to [`MAX_COUNT`].
    pub count: usize,
    /// How to sample.
    pub options: Options,
}

/// What [`Generator::generate`] tells its observer.
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
    /// The picture.
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
    /// The tokens in raster order, each in `0..codes`.
    pub tokens: Vec<i64>,
    /// The number of tokens still masked after each step; the last is 0.
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

/// What [`Generator::generate`] returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Generated {
    /// The pictures, in the order of their seeds.
    pub images: Vec<Picture>,
    /// How long it took.
    pub timings: Timings,
}

/// A loaded model, ready to draw. Two generators share nothing.
pub struct Generator {
    bundle: Bundle,
    engine: Box<dyn Engine>,
    transformer: Box<dyn Session>,
    decoder: Box<dyn Session>,
    /// Loaded when first used: drawing does not need it.
    encoder: Option<Box<dyn Session>>,
    load_seconds: f64,
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

    /// Opens a model for the CPU.
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

    /// Loads the graphs of an opened bundle for the CPU.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for an impossible number of threads,
    /// [`Bundle`](crate::ErrorKind::Bundle) when a graph is damaged or not as the manifest says,
    /// [`Engine`](crate::ErrorKind::Engine) when the engine cannot run it.
    pub fn from_bundle(bundle: Bundle, options: &OpenOptions) -> Result<Self> {
        Self::with_engine(bundle, Box::new(CpuEngine::new(options.threads)?))
    }

    /// Loads the graphs of an opened bundle on any engine.
    ///
    /// # Errors
    ///
    /// As [`Generator::from_bundle`].
    pub fn with_engine(bundle: Bundle, engine: Box<dyn Engine>) -> Result<Self> {
        let start = Instant::now();
        let transformer = load(&bundle, engine.as_ref(), GraphKind::Transformer)?;
        let decoder = load(&bundle, engine.as_ref(), GraphKind::Decoder)?;
        let load_seconds = start.elapsed().as_secs_f64();
        Ok(Self { bundle, engine, transformer, decoder, encoder: None, load_seconds })
    }

    /// What the model says about itself.
    pub fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// The name of the engine that runs the graphs.
    pub fn engine_name(&self) -> &str {
        self.engine.name()
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
        let label = find_label(&self.manifest().labels, class)?;
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
        let manifest = self.bundle.manifest();
        let (n, k) = (manifest.tokens(), manifest.codes);
        let rows_per_image = if request.options.guidance.scale == 0.0 { 1 } else { 2 };
        let row_bytes = n.saturating_mul(k).saturating_mul(size_of::<f32>() * rows_per_image).max(1);
        let part = (LOGITS_BYTES / row_bytes).max(1);
        let run_steps = request.options.steps.saturating_sub(request.options.start_iter);
        let observer = RefCell::new(observer);
        let mut timings = Timings { steps: vec![0.0; run_steps], ..Timings::default() };
        let mut predictor = Predictor {
            session: self.transformer.as_mut(),
            label: label_input(request.label)?,
            null_label: manifest.null_label,
            observer: &observer,
            done: 0,
            total: run_steps.saturating_mul(request.count).saturating_mul(rows_per_image),
        };
        let mut drawn: Vec<(Canvas, Vec<usize>)> = Vec::new();
        for first in (0..request.count).step_by(part) {
            let mut canvases: Vec<Canvas> = (first..request.count.min(first.saturating_add(part)))
                .map(|i| Canvas {
                    seed: request.seed.wrapping_add(i as u64),
                    tokens: vec![manifest.mask_id; n],
                })
                .collect();
            let masked = decode_part(
                manifest,
                &mut canvases,
                first,
                request,
                &mut predictor,
                self.decoder.as_mut(),
                &mut timings,
            )?;
            drawn.extend(canvases.into_iter().zip(masked));
        }
        let decode_start = Instant::now();
        let mut images = Vec::with_capacity(drawn.len());
        for (canvas, masked) in drawn {
            let image = to_image(manifest, &decode_row(manifest, self.decoder.as_mut(), &canvas.tokens)?)?;
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
        let manifest = self.bundle.manifest();
        check_tokens(manifest, tokens, true)?;
        let known = usize::try_from(label).is_ok_and(|l| l < manifest.labels.len());
        if !known && manifest.null_label != Some(label) {
            return Err(Error::request(format!("label {label} is neither a class of the model nor its null label")));
        }
        transformer_row(self.transformer.as_mut(), tokens, label)
    }

    /// Decodes tokens (N of them, codes only) to a picture.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for tokens out of range, [`Engine`](crate::ErrorKind::Engine).
    pub fn decode(&mut self, tokens: &[i64]) -> Result<RgbImage> {
        let pixels = self.decode_raw(tokens)?;
        to_image(self.bundle.manifest(), &pixels)
    }

    /// As [`Generator::decode`], with the decoder's own numbers: three planes (red, green, blue) of height times width,
    /// nominally 0 to 1.
    ///
    /// # Errors
    ///
    /// As [`Generator::decode`].
    pub fn decode_raw(&mut self, tokens: &[i64]) -> Result<Vec<f32>> {
        let manifest = self.bundle.manifest();
        check_tokens(manifest, tokens, false)?;
        decode_row(manifest, self.decoder.as_mut(), tokens)
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
        let planes: Vec<f32> =
            (0..3).flat_map(|c| image.pixels().map(move |p| f32::from(p.0[c]) / 255.0)).collect();
        self.encode_raw(&planes)
    }

    /// As [`Generator::encode`], from three planes (red, green, blue) of height times width, 0 to 1.
    ///
    /// # Errors
    ///
    /// As [`Generator::encode`].
    pub fn encode_raw(&mut self, planes: &[f32]) -> Result<Vec<i64>> {
        let manifest = self.bundle.manifest();
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
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => {
                if !self.bundle.has_graph(GraphKind::Encoder) {
                    return Err(Error::request("this model has no encoder: it can draw but not read pictures"));
                }
                none.insert(load(&self.bundle, self.engine.as_ref(), GraphKind::Encoder)?)
            }
        };
        let tokens = one(encoder.run(&[Input::F32 { shape: &shape, data: planes }])?)?.into_i64()?;
        check_tokens(manifest, &tokens, false).map_err(|e| Error::engine("the encoder's output").with_source(e))?;
        Ok(tokens)
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
        top_k: settings.top_k,
        guidance: Guidance { scale: settings.guidance, ramp: settings.guidance_ramp },
        start_iter: 0,
    })
}

/// The inputs and outputs that a graph must have, with batch 1.
fn signature(manifest: &Manifest, kind: GraphKind) -> Signature {
    let n = manifest.tokens();
    let tokens = Port::new("tokens", DType::I64, &[1, n]);
    let image = Port::new("image", DType::F32, &[1, 3, manifest.image.height, manifest.image.width]);
    match kind {
        GraphKind::Transformer => Signature {
            inputs: vec![tokens, Port::new("label", DType::I64, &[1])],
            outputs: vec![Port::new("logits", DType::F32, &[1, n, manifest.codes])],
        },
        GraphKind::Decoder => Signature { inputs: vec![tokens], outputs: vec![image] },
        GraphKind::Encoder => Signature { inputs: vec![image], outputs: vec![tokens] },
    }
}

fn load(bundle: &Bundle, engine: &dyn Engine, kind: GraphKind) -> Result<Box<dyn Session>> {
    let graph = bundle.graph(kind)?;
    engine
        .load(&graph, &signature(bundle.manifest(), kind))
        .map_err(|e| e.context(format!("{}, the {kind} graph", bundle.manifest().name)))
}

/// Draws some canvases; returns how many tokens were masked after each step, per canvas.
fn decode_part(
    manifest: &Manifest,
    canvases: &mut [Canvas],
    first: usize,
    request: &Request,
    predictor: &mut Predictor<'_, '_>,
    decoder: &mut dyn Session,
    timings: &mut Timings,
) -> Result<Vec<Vec<usize>>> {
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
        if let Some(seconds) = timings.steps.get_mut(report.step.saturating_sub(request.options.start_iter)) {
            *seconds += mark.elapsed().as_secs_f64();
        }
        let preview_start = Instant::now();
        let flow = tell(manifest, decoder, first, request, report, observer).unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        });
        timings.preview += preview_start.elapsed().as_secs_f64();
        mark = Instant::now();
        flow
    };
    let outcome = sample::decode(&problem, canvases, &request.options, predictor, &mut observe);
    match failed {
        Some(error) => Err(error),
        None => Ok(outcome?.masked),
    }
}

/// Tells the observer of a step, with previews when it wants them.
fn tell(
    manifest: &Manifest,
    decoder: &mut dyn Session,
    first: usize,
    request: &Request,
    report: &StepReport<'_>,
    observer: &RefCell<&mut dyn Observer>,
) -> Result<ControlFlow<()>> {
    let mut observer = observer.borrow_mut();
    if observer.progress(&Progress::Step { first, report }).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    if observer.wants_preview() {
        for (i, tokens) in report.tokens.iter().enumerate() {
            let index = first.saturating_add(i);
            let preview = Preview {
                step: report.step,
                steps: report.steps,
                index,
                seed: request.seed.wrapping_add(index as u64),
                image: to_image(manifest, &decode_row(manifest, decoder, tokens)?)?,
            };
            if observer.preview(preview).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The transformer as the sampler sees it: one row at a time, so that a row's logits do not depend on its neighbours.
struct Predictor<'a, 'o> {
    session: &'a mut dyn Session,
    label: i64,
    null_label: Option<i64>,
    observer: &'a RefCell<&'o mut dyn Observer>,
    done: usize,
    total: usize,
}

impl Predict for Predictor<'_, '_> {
    fn logits(&mut self, rows: &[Row<'_>], out: &mut [f32]) -> Result<()> {
        let length = out.len().checked_div(rows.len()).unwrap_or(0).max(1);
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(length)) {
            let label = match (row.unconditional, self.null_label) {
                (false, _) => self.label,
                (true, Some(null)) => null,
                (true, None) => return Err(Error::request("this model has no null label, so it cannot be guided")),
            };
            let logits = transformer_row(self.session, row.tokens, label)?;
            if logits.len() != out.len() {
                return Err(Error::engine(format!(
                    "the transformer gave {} logits for one picture, not {}",
                    logits.len(),
                    out.len()
                )));
            }
            out.copy_from_slice(&logits);
            self.done = self.done.saturating_add(1);
            let event = Progress::Predicted { done: self.done, total: self.total };
            go_on(self.observer.borrow_mut().progress(&event))?;
        }
        Ok(())
    }
}

fn go_on(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::cancelled()) } else { Ok(()) }
}

fn label_input(label: usize) -> Result<i64> {
    i64::try_from(label).map_err(|_| Error::request(format!("label {label} is too large")))
}

fn transformer_row(session: &mut dyn Session, tokens: &[i64], label: i64) -> Result<Vec<f32>> {
    let inputs =
        [Input::I64 { shape: &[1, tokens.len()], data: tokens }, Input::I64 { shape: &[1], data: &[label] }];
    one(session.run(&inputs)?)?.into_f32()
}

fn decode_row(manifest: &Manifest, session: &mut dyn Session, tokens: &[i64]) -> Result<Vec<f32>> {
    let data = one(session.run(&[Input::I64 { shape: &[1, tokens.len()], data: tokens }])?)?.into_f32()?;
    let expected = manifest.image.height.saturating_mul(manifest.image.width).saturating_mul(3);
    if data.len() != expected {
        return Err(Error::engine(format!("the decoder gave {} values, not {expected}", data.len())));
    }
    Ok(data)
}

fn one(outputs: Vec<Output>) -> Result<Output> {
    outputs.into_iter().next().ok_or_else(|| Error::engine("a graph gave no output"))
}

fn check_tokens(manifest: &Manifest, tokens: &[i64], mask_allowed: bool) -> Result<()> {
    if tokens.len() != manifest.tokens() {
        return Err(Error::request(format!("{} tokens; the model has {}", tokens.len(), manifest.tokens())));
    }
    let fits = |&token: &i64| {
        usize::try_from(token).is_ok_and(|t| t < manifest.codes) || (mask_allowed && token == manifest.mask_id)
    };
    match tokens.iter().position(|token| !fits(token)) {
        None => Ok(()),
        Some(place) => Err(Error::request(format!(
            "the token at position {place} is {}; it must be 0 to {}{}",
            tokens.get(place).copied().unwrap_or_default(),
            manifest.codes.saturating_sub(1),
            if mask_allowed { format!(" or the mask id {}", manifest.mask_id) } else { String::new() }
        ))),
    }
}

/// Three planes in 0..1, clipped, to pixels.
fn to_image(manifest: &Manifest, planes: &[f32]) -> Result<RgbImage> {
    if planes.iter().any(|v| !v.is_finite()) {
        return Err(Error::engine("the decoder gave a value that is not a finite number"));
    }
    let area = manifest.image.height.saturating_mul(manifest.image.width);
    let (red, rest) = planes.split_at_checked(area).unwrap_or((&[], &[]));
    let (green, blue) = rest.split_at_checked(area).unwrap_or((&[], &[]));
    let byte = |v: &f32| (v.clamp(0.0, 1.0) * 255.0).round() as u8;
    let pixels: Vec<u8> =
        red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [byte(r), byte(g), byte(b)]).collect();
    u32::try_from(manifest.image.width)
        .ok()
        .zip(u32::try_from(manifest.image.height).ok())
        .and_then(|(width, height)| RgbImage::from_raw(width, height, pixels))
        .ok_or_else(|| Error::internal("a decoded picture does not have the size of the model's pictures"))
}
