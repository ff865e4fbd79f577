//! From a request to images: ties the bundle, the engine, the sampler and the geometry together.
//!
//! A [`Request`] is resolved against a model's manifest (`request`, `label`), becomes a plan of windows in stages
//! (`plan`), and runs (`run`): each window is encoded, drawn by the sampler through `predict`, decoded and put into its
//! image. `sessions` holds the graphs.

mod device;
mod events;
mod label;
mod plan;
mod predict;
mod request;
mod run;
mod sessions;

use std::borrow::Cow;
use std::path::Path;
use std::time::Instant;

pub use device::{Device, DeviceInfo, devices};
pub use events::{Generated, Image, Observer, Preview, Progress, Summary, Timings};
use image::RgbImage;
pub use label::find_label;
use maskgit_bundle::{Bundle, Manifest};
use maskgit_core::{Error, ErrorKind, LoadLimits, Result, Sha256};
#[cfg(feature = "unstable")]
use maskgit_engine::Engine;
use ndarray::ArrayViewMut3;
use plan::Plan;
use predict::MaskedLogitsCache;
pub use request::{Edge, MAX_COUNT, Request, Resolved, Seeds, Subject};
use run::Run;
pub use sessions::{MemoryUse, operators};
use sessions::{Pass, Sessions, check_tokens, to_image};

/// The most bytes that the images of [`Generator::generate`] may take together: 2 GiB.
const MAX_RESULT_BYTES: u64 = 2 << 30;

/// How to open a model.
///
/// ```no_run
/// # fn main() -> maskgit::Result<()> {
/// let mut generator = maskgit::Generator::builder().threads(2).open("models/avatars-128-int8")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct GeneratorBuilder {
    threads: usize,
    logits_bytes: usize,
    memory: MemoryUse,
    device: Device,
    limits: LoadLimits,
}

impl Default for GeneratorBuilder {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (memory, device) = (MemoryUse::KeepAll, Device::Cpu);
        Self { threads, logits_bytes: 64 << 20, memory, device, limits: LoadLimits::default() }
    }
}

impl GeneratorBuilder {
    /// With this number of threads that compute, 1 to 1024; as many as cores unless set. It does not change the tokens.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// With at most this many bytes of logits between the transformer and the sampler, 64 MiB unless set; one window
    /// always fits. What needs more is drawn in parts, one after the other. It does not change the tokens.
    pub fn logits_bytes(mut self, bytes: usize) -> Self {
        self.logits_bytes = bytes;
        self
    }

    /// Holding these graphs in memory, all unless set.
    pub fn memory(mut self, memory: MemoryUse) -> Self {
        self.memory = memory;
        self
    }

    /// On this device, the CPU unless set.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Within these bounds for each graph that is loaded, now or later: a longest time, and a handle that stops it.
    pub fn load_limits(mut self, limits: LoadLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens a model, a folder or one packed file.
    ///
    /// # Errors
    ///
    /// As [`Bundle::open`] and [`GeneratorBuilder::open_bundle`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Generator> {
        let start = Instant::now();
        self.load(Bundle::open(path)?, start)
    }

    /// Opens a packed model that is in memory. `Vec<u8>` and `&'static [u8]` are taken without a copy.
    ///
    /// # Errors
    ///
    /// As [`Bundle::from_bytes`] and [`GeneratorBuilder::open_bundle`].
    pub fn open_bytes(&self, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Generator> {
        let start = Instant::now();
        self.load(Bundle::from_bytes(bytes)?, start)
    }

    /// Loads the graphs of an opened bundle.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for an impossible number of threads,
    /// [`Bundle`](crate::ErrorKind::Bundle) when a graph is damaged or not as the manifest says,
    /// [`Engine`](crate::ErrorKind::Engine) when the device is not there or cannot run it or a graph takes more than
    /// the [`LoadLimits`] allow, [`Cancelled`](crate::ErrorKind::Cancelled) when their handle was pulled.
    pub fn open_bundle(&self, bundle: Bundle) -> Result<Generator> {
        self.load(bundle, Instant::now())
    }

    /// Loads the graphs of an opened bundle on any engine, which has its own threads.
    ///
    /// # Errors
    ///
    /// As [`GeneratorBuilder::open_bundle`].
    #[cfg(feature = "unstable")]
    pub fn open_on(&self, bundle: Bundle, engine: Box<dyn Engine>) -> Result<Generator> {
        let start = Instant::now();
        let sessions = Sessions::new(bundle, engine, self.memory, self.limits.clone());
        sessions.load()?;
        Ok(self.around(sessions, None, start))
    }

    fn load(&self, bundle: Bundle, start: Instant) -> Result<Generator> {
        let (engine, mut refused) = device::engine(self.device, self.threads)?;
        let mut sessions = Sessions::new(bundle, engine, self.memory, self.limits.clone());
        if let Err(error) = sessions.load() {
            let may_change = self.device == Device::Auto && refused.is_none() && error.kind() == ErrorKind::Engine;
            if !may_change {
                return Err(error);
            }
            sessions.change_engine(device::engine(Device::Cpu, self.threads)?.0);
            sessions.load()?;
            refused = Some(error);
        }
        Ok(self.around(sessions, refused.map(|why| format!("running on the CPU: {why}")), start))
    }

    fn around(&self, sessions: Sessions, device_note: Option<String>, start: Instant) -> Generator {
        Generator {
            sessions,
            cache: MaskedLogitsCache::new(self.logits_bytes),
            logits_bytes: self.logits_bytes,
            threads: self.threads,
            load_seconds: start.elapsed().as_secs_f64(),
            device_note,
        }
    }
}

/// A loaded model, ready to draw. Two generators share nothing.
pub struct Generator {
    /// The encoder is loaded when it is first used: drawing does not need it.
    sessions: Sessions,
    cache: MaskedLogitsCache,
    logits_bytes: usize,
    threads: usize,
    load_seconds: f64,
    device_note: Option<String>,
}

impl Generator {
    /// Opens a model, a folder or one packed file, for the CPU with the default settings of a [`GeneratorBuilder`].
    ///
    /// # Errors
    ///
    /// As [`GeneratorBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// How to open a model otherwise: threads, memory, device, from memory.
    pub fn builder() -> GeneratorBuilder {
        GeneratorBuilder::default()
    }

    /// What the model says about itself.
    pub fn manifest(&self) -> &Manifest {
        self.sessions.manifest()
    }

    /// The name of the engine that runs the graphs: `cpu`, or `cuda:` and the GPU's number.
    pub fn engine_name(&self) -> &str {
        self.sessions.engine.name()
    }

    /// The number of threads that compute.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Why the CPU runs the graphs, where [`Device::Auto`] chose it.
    pub fn device_note(&self) -> Option<&str> {
        self.device_note.as_deref()
    }

    /// Seconds that opening took: reading, checking, and preparing the transformer and the decoder.
    pub fn load_seconds(&self) -> f64 {
        self.load_seconds
    }

    /// Draws the images of a request and gives them all at once; [`Generator::generate_with`] gives them one by one.
    ///
    /// The tokens depend on the model, the subject, the class, the seed and the sampling settings only: not on the
    /// number of threads, nor on an image's place in the request.
    ///
    /// # Errors
    ///
    /// As [`Generator::generate_with`]; kind [`Request`](crate::ErrorKind::Request) when the images take more than 2
    /// GiB together.
    pub fn generate(&mut self, request: &Request) -> Result<Generated> {
        let mut images = Images(Vec::new());
        let summary = self.generate_all_with(request, &mut images)?;
        Ok(Generated { images: images.0, summary })
    }

    /// As [`Generator::generate_with`], for an observer that keeps all images: they may take 2 GiB together.
    pub(super) fn generate_all_with(&mut self, request: &Request, observer: &mut dyn Observer) -> Result<Summary> {
        let resolved = request.resolve(self.manifest())?;
        self.check_bytes(request)?;
        self.draw(request, resolved, observer)
    }

    /// Draws the images of a request: each goes to the observer as it is finished, so that any number of them takes the
    /// memory of a few. The observer also hears of progress, may see previews, and may cancel.
    ///
    /// # Errors
    ///
    /// As [`Request::resolve`]; kind [`Cancelled`](crate::ErrorKind::Cancelled) when the observer said so;
    /// [`Engine`](crate::ErrorKind::Engine) when a graph fails or gives numbers that are not finite. Images that the
    /// observer has are not taken back.
    pub fn generate_with(&mut self, request: &Request, observer: &mut dyn Observer) -> Result<Summary> {
        let resolved = request.resolve(self.manifest())?;
        self.draw(request, resolved, observer)
    }

    fn draw(&mut self, request: &Request, resolved: Resolved, observer: &mut dyn Observer) -> Result<Summary> {
        let plan = Plan::new(request, self.manifest().shape())?;
        let with = (request.seeds, resolved);
        let run = Run::new(&self.sessions, &mut self.cache, &plan, with, self.logits_bytes, observer);
        let timings = run.run()?;
        Ok(Summary { resolved, windows: plan.windows(), timings })
    }

    /// Checks what the images of a request take together.
    fn check_bytes(&self, request: &Request) -> Result<()> {
        let (width, height) = match &request.subject {
            Subject::Blank => (self.manifest().image.width, self.manifest().image.height),
            Subject::Edit { image, .. } | Subject::Vary { image, .. } => image.dimensions(),
            Subject::Outpaint { image, sides } => sides.extent(image.width(), image.height())?.0,
        };
        let count = request.seeds.count;
        let bytes = u64::from(width).saturating_mul(height.into()).saturating_mul(3).saturating_mul(count as u64);
        if bytes > MAX_RESULT_BYTES {
            return Err(Error::request(format!(
                "{count} images of {width}x{height} pixels take {bytes} bytes, more than {MAX_RESULT_BYTES}: \
                 ask for fewer at once, or take them one by one"
            )));
        }
        Ok(())
    }

    /// Runs the transformer once: the logits, N times K in raster order, for `tokens` (N of them, each a code or the
    /// mask id) and `label` (an index, or the null label).
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for tokens or a label out of range,
    /// [`Engine`](crate::ErrorKind::Engine).
    pub fn logits(&mut self, tokens: &[i64], label: i64) -> Result<Vec<f32>> {
        let manifest = self.manifest();
        check_tokens(manifest, tokens, true)?;
        let known = usize::try_from(label).is_ok_and(|l| l < manifest.labels.len());
        if !known && manifest.null_label != Some(label) {
            return Err(Error::request(format!("label {label} is neither a class of the model nor its null label")));
        }
        let shape = (1, manifest.tokens(), manifest.codes);
        let mut logits = maskgit_core::filled(shape.1.saturating_mul(shape.2), 0.0, "the logits")?;
        let out =
            ArrayViewMut3::from_shape(shape, &mut logits).map_err(|e| Error::internal("logits").with_source(e))?;
        self.sessions.logits(&[Pass { tokens, label, wanted: &vec![true; shape.1] }], out)?;
        Ok(logits)
    }

    /// Decodes tokens (N of them, codes only) to an image.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for tokens out of range, [`Engine`](crate::ErrorKind::Engine).
    pub fn decode(&mut self, tokens: &[i64]) -> Result<RgbImage> {
        check_tokens(self.manifest(), tokens, false)?;
        to_image(self.manifest(), self.sessions.decode(tokens)?.view())
    }

    /// As [`Generator::decode`], with the decoder's own numbers: three planes (red, green, blue) of height times width,
    /// nominally 0 to 1.
    ///
    /// # Errors
    ///
    /// As [`Generator::decode`].
    pub fn decode_planes(&mut self, tokens: &[i64]) -> Result<Vec<f32>> {
        check_tokens(self.manifest(), tokens, false)?;
        Ok(self.sessions.decode(tokens)?.into_raw_vec_and_offset().0)
    }

    /// Encodes an image of exactly the model's size to N tokens.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) when the size differs or the model has no encoder,
    /// [`Engine`](crate::ErrorKind::Engine).
    pub fn encode(&mut self, image: &RgbImage) -> Result<Vec<i64>> {
        let size = self.manifest().image;
        if image.dimensions() != (size.width, size.height) {
            return Err(Error::request(format!(
                "the image is {}x{}; the model's images are {}x{}",
                image.width(),
                image.height(),
                size.width,
                size.height
            )));
        }
        let planes: Vec<f32> = (0..3).flat_map(|c| image.pixels().map(move |p| f32::from(p.0[c]) / 255.0)).collect();
        self.encode_planes(&planes)
    }

    /// As [`Generator::encode`], from three planes (red, green, blue) of height times width, 0 to 1.
    ///
    /// # Errors
    ///
    /// As [`Generator::encode`].
    pub fn encode_planes(&mut self, planes: &[f32]) -> Result<Vec<i64>> {
        let size = self.manifest().image;
        if planes.len() != size.area().saturating_mul(3) {
            return Err(Error::request(format!(
                "the image has {} values; the encoder takes {} (3 planes of {}x{})",
                planes.len(),
                size.area().saturating_mul(3),
                size.height,
                size.width
            )));
        }
        if let Some(bad) = planes.iter().find(|v| !v.is_finite()) {
            return Err(Error::request(format!("the image has a value that is not a number in 0..1: {bad}")));
        }
        self.sessions.encode(planes)
    }
}

/// Collects images.
struct Images(Vec<Image>);

impl Observer for Images {
    fn image(&mut self, image: Image) -> std::ops::ControlFlow<()> {
        self.0.push(image);
        std::ops::ControlFlow::Continue(())
    }
}

/// The SHA-256, as 64 lower-case hexadecimal digits, of tokens laid out as little-endian 64-bit signed integers in
/// raster order without a header: 8 N bytes.
pub fn tokens_sha256(tokens: &[i64]) -> String {
    let mut hash = Sha256::default();
    for token in tokens {
        hash.update(&token.to_le_bytes());
    }
    hash.hex()
}

fn label_input(label: usize) -> Result<i64> {
    i64::try_from(label).map_err(|_| Error::request(format!("label {label} is too large")))
}
