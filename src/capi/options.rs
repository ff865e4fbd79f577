//! How to open a model and how to draw.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ptr;
use std::slice;
use std::time::Duration;

use maskgit_bundle::Manifest;
use maskgit_core::{Error, LoadLimits, SamplingChanges};
use maskgit_geometry::{Feather, Outpaint};

use super::argument::{self, Versioned};
use super::cancel::maskgit_cancel;
use super::error::{Fault, MASKGIT_ERROR_REQUEST, call, maskgit_code};
use super::handle;
use super::images::maskgit_image;
use super::pixels::maskgit_pixels;
use crate::pipeline::{Edge, Generator, GeneratorBuilder, MemoryUse, Request, Seeds};

/// A message of the library: its level, MASKGIT_LOG_*, and one line of UTF-8, valid during the call. Called on the
/// thread that called the library.
pub type maskgit_log_callback =
    Option<unsafe extern "C" fn(level: u32, message: *const c_char, user_data: *mut c_void)>;

/// Opening or a call of the generator failed; its error says the same.
pub const MASKGIT_LOG_ERROR: u32 = 1;
/// What a developer may want to know once: the model, the kernels, how long opening took.
pub const MASKGIT_LOG_INFO: u32 = 2;
/// What each call did.
pub const MASKGIT_LOG_DEBUG: u32 = 3;

/// All graphs stay in memory: the fastest.
pub const MASKGIT_MEMORY_KEEP_ALL: u32 = 0;
/// The transformer is dropped while the decoder runs, and loaded again by the next call.
pub const MASKGIT_MEMORY_DROP_TRANSFORMER: u32 = 1;
/// One graph at a time: a graph is dropped before another one is loaded.
pub const MASKGIT_MEMORY_ONE_AT_A_TIME: u32 = 2;

/// How to open a model. Set it with maskgit_open_options_init(), then change what you like.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_open_options {
    /// sizeof(maskgit_open_options)
    pub size: usize,
    /// Where messages go; NULL: nowhere. The library writes nothing to stdout.
    pub log: maskgit_log_callback,
    /// Handed to `log`.
    pub log_user_data: *mut c_void,
    /// The device: "cpu"; "cuda" or "cuda:N", an NVIDIA GPU; "auto", the first GPU where it can run the model, else the
    /// CPU, and `log` hears why. NULL: "cpu". A library without GPUs has the CPU only.
    pub device: *const c_char,
    /// Stops the opening from another thread, and later loads of its graphs, with MASKGIT_ERROR_CANCELLED; NULL: nothing
    /// does.
    pub cancel: *const maskgit_cancel,
    /// The most bytes to hold logits in; 0: 64 MiB. One image always fits. Does not change the images.
    pub logits_bytes: u64,
    /// Threads that compute, 1 to 1024; 0: as many as cores. Does not change the images.
    pub threads: u32,
    /// MASKGIT_MEMORY_*. Does not change the images.
    pub memory: u32,
    /// maskgit_open_bytes() only. 0: the bytes are copied. 1: they are used where they are, and the caller keeps them
    /// unchanged until the generator is freed and no call of it runs.
    pub borrow_bytes: u32,
    /// The longest time in seconds that loading one graph may take; 0: 300. Longer is MASKGIT_ERROR_ENGINE.
    pub load_seconds: u32,
    /// 0, for later versions.
    pub reserved: [u32; 2],
}

// SAFETY: `repr(C)`, the size first; integers, pointers, among them a text, and a function that may be NULL.
unsafe impl Versioned for maskgit_open_options {
    const NAME: &'static str = "maskgit_open_options";
    const FIRST_SIZE: usize = offset_of!(Self, reserved) + size_of::<[u32; 2]>();

    fn initial() -> Self {
        Self {
            size: size_of::<Self>(),
            log: None,
            log_user_data: ptr::null_mut(),
            device: ptr::null(),
            cancel: ptr::null(),
            logits_bytes: 0,
            threads: 0,
            memory: MASKGIT_MEMORY_KEEP_ALL,
            borrow_bytes: 0,
            load_seconds: 0,
            reserved: [0; 2],
        }
    }

    fn reserved(&self) -> &[u32] {
        &self.reserved
    }
}

impl maskgit_open_options {
    /// # Safety
    ///
    /// The device is NULL or a text that ends with a NUL.
    pub(super) unsafe fn to_rust(self) -> Result<GeneratorBuilder, Fault> {
        let mut builder = Generator::builder();
        // SAFETY: the same promise.
        if let Some(device) = unsafe { argument::optional_text(self.device, "device")? } {
            builder = builder.device(device.parse()?);
        }
        if self.threads != 0 {
            builder = builder.threads(self.threads as usize);
        }
        if self.logits_bytes != 0 {
            builder = builder.logits_bytes(usize::try_from(self.logits_bytes).unwrap_or(usize::MAX));
        }
        if self.borrow_bytes > 1 {
            let message = format!("borrow_bytes is {}; it must be 0 or 1", self.borrow_bytes);
            return Err(Fault::new(MASKGIT_ERROR_REQUEST, message));
        }
        let mut limits = LoadLimits::default();
        if self.load_seconds != 0 {
            limits = limits.with_time(Duration::from_secs(self.load_seconds.into()));
        }
        if !self.cancel.is_null() {
            limits = limits.with_cancel(handle::get(self.cancel)?.stop.clone());
        }
        Ok(builder.load_limits(limits).memory(match self.memory {
            MASKGIT_MEMORY_KEEP_ALL => MemoryUse::KeepAll,
            MASKGIT_MEMORY_DROP_TRANSFORMER => MemoryUse::DropTransformer,
            MASKGIT_MEMORY_ONE_AT_A_TIME => MemoryUse::OneAtATime,
            other => return Err(Fault::new(MASKGIT_ERROR_REQUEST, format!("there is no memory use {other}"))),
        }))
    }
}

/// The transformer has run once more.
pub const MASKGIT_PROGRESS_PREDICTED: u32 = 1;
/// A step is over.
pub const MASKGIT_PROGRESS_STEP: u32 = 2;
/// An image is finished.
pub const MASKGIT_PROGRESS_FINISHED: u32 = 3;
/// A window of the image to edit is encoded.
pub const MASKGIT_PROGRESS_ENCODED: u32 = 4;

/// How far a call is. Later versions may add fields at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_progress {
    /// The bytes that this version of the library sets.
    pub size: usize,
    /// Transformer runs so far, in the whole call.
    pub done: usize,
    /// Transformer runs of the whole call.
    pub total: usize,
    /// What happened: MASKGIT_PROGRESS_*.
    pub event: u32,
    /// Steps that are over, of the images being drawn.
    pub step: u32,
    /// Steps of the schedule.
    pub steps: u32,
    /// Finished images.
    pub images: u32,
    /// Images that were asked for.
    pub image_count: u32,
    /// Windows of the image to edit that are encoded, in the whole call.
    pub windows: u32,
    /// Windows that the whole call encodes; 0 until the first is.
    pub window_count: u32,
    /// 0, for later versions.
    pub reserved: u32,
}

/// One image as it looks after a step; unknown tokens show the model's present guess. Later versions may add fields at
/// the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_preview {
    /// The bytes that this version of the library sets.
    pub size: usize,
    /// The image, RGB8: of an edit the whole, at its own resolution. Valid during the call.
    pub pixels: maskgit_pixels,
    /// The image's seed.
    pub seed: u64,
    /// The image's place in the request.
    pub index: u32,
    /// The step that is over, from 0.
    pub step: u32,
    /// Steps of the schedule.
    pub steps: u32,
    /// The stage of an edit that is being drawn, from 0: the windows that do not read each other; 0 otherwise.
    pub stage: u32,
    /// The number of stages; 1 otherwise.
    pub stages: u32,
    /// 0, for later versions.
    pub reserved: u32,
}

/// Hears how far a call is. Returns 0 to go on; anything else ends the call with MASKGIT_ERROR_CANCELLED. It must not
/// throw or jump out.
pub type maskgit_progress_callback =
    Option<unsafe extern "C" fn(progress: *const maskgit_progress, user_data: *mut c_void) -> i32>;

/// Gets each image after each step, which costs a run of the decoder for each window. Returns as
/// maskgit_progress_callback does.
pub type maskgit_preview_callback =
    Option<unsafe extern "C" fn(preview: *const maskgit_preview, user_data: *mut c_void) -> i32>;

/// Gets each image as soon as it is finished, in the order of the seeds. It is valid during the call of the callback.
/// Returns as maskgit_progress_callback does.
pub type maskgit_image_callback =
    Option<unsafe extern "C" fn(image: *const maskgit_image, user_data: *mut c_void) -> i32>;

/// The label that stands for no class.
pub const MASKGIT_NO_CLASS: i64 = -1;

/// What to draw and how. Set it with maskgit_options_init(), then change what you like.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_options {
    /// sizeof(maskgit_options)
    pub size: usize,
    /// The class by its name, an unambiguous beginning of it, its number or its second name; NULL: `label` says it.
    pub class_name: *const c_char,
    /// The class by its number, when `class_name` is NULL. MASKGIT_NO_CLASS, the initial value, is none: a model with a
    /// null label can draw without, and maskgit_vary() with strength 0 needs none.
    pub label: i64,
    /// The seed of the first image; image i has seed + i. Initially 0.
    pub seed: u64,
    /// How many images, 1 to 10000. Initially 1.
    pub count: u32,
    /// Steps of the schedule, 1 to 4096; 0, the initial value: as the model recommends.
    pub steps: u32,
    /// The first step that is run, less than `steps`; 0, the initial value: as the model recommends. Google's editing
    /// has 2 of 12.
    pub start_iter: u32,
    /// Whether guidance grows linearly over the steps, 0 or 1; below 0, the initial value: as the model recommends.
    pub guidance_ramp: i32,
    /// The mask schedule: linear, square, cubic, sqrt, power:X, cosine, log, exp or arccos; NULL: as the model
    /// recommends.
    pub schedule: *const c_char,
    /// The sampler: confidence, confidence-remask, predictor-corrector, halton or halton-redraw; NULL: as the model
    /// recommends. Another one than that brings the schedule it was published with, unless `schedule` is given.
    pub sampler: *const c_char,
    /// The Gumbel noise on the confidence; below 0, the initial value: as the model recommends.
    pub choice_temperature: f32,
    /// Divides the logits before a token is drawn; below 0, the initial value: as the model recommends. It is that of
    /// all steps, unless there is a `final_temperature`.
    pub temperature: f32,
    /// The scale of classifier-free guidance, 0 for none; below 0, the initial value: as the model recommends.
    pub guidance: f32,
    /// maskgit_edit(): how much larger a window is than the part of the mask that it repaints, 1 or more. Initially 2.
    pub context: f32,
    /// Draws from this many of the likeliest tokens; 0: from all; below 0, the initial value: as the model recommends.
    pub top_k: i64,
    /// Edits: rings of tokens that are drawn around those that the mask touches. Initially 1.
    pub dilation: u32,
    /// Edits: the pixels over which the edge fades, 0 to 4096. -1, the initial value: as many as the mask is thick, 2
    /// to 8; of an outpainting as -2. -2: a Gaussian as in Google's code.
    pub feather: i32,
    /// Hears of progress; may be NULL.
    pub progress: maskgit_progress_callback,
    /// Gets previews; may be NULL.
    pub preview: maskgit_preview_callback,
    /// Handed to all three callbacks.
    pub user_data: *mut c_void,
    /// Stops the call from another thread; may be NULL.
    pub cancel: *const maskgit_cancel,
    /// The temperature of the last step, to which it changes linearly over the steps. Below 0, the initial value: as
    /// the model recommends, or, where `temperature` is given, that one.
    pub final_temperature: f32,
    /// 0, for later versions.
    pub reserved: u32,
    /// Any sampling settings by their names in bundle.json, as a JSON object such as {"corrector_share": 0.5}. A name
    /// that is none is an error. Of a setting that a field above gives too, the field holds. NULL: none.
    pub sampling: *const c_char,
    /// Gets each image as soon as it is finished, so that any number takes the memory of a few. The call then gives no
    /// images: its `images` may be NULL, else *images becomes NULL. NULL: the call gives all images at its end, at most
    /// 2 GiB.
    pub image: maskgit_image_callback,
}

// SAFETY: `repr(C)`, the size first; numbers, pointers and functions that may be NULL.
unsafe impl Versioned for maskgit_options {
    const NAME: &'static str = "maskgit_options";
    const FIRST_SIZE: usize = offset_of!(Self, image) + size_of::<maskgit_image_callback>();

    fn initial() -> Self {
        Self {
            size: size_of::<Self>(),
            class_name: ptr::null(),
            label: MASKGIT_NO_CLASS,
            seed: 0,
            count: 1,
            steps: 0,
            start_iter: 0,
            guidance_ramp: -1,
            schedule: ptr::null(),
            sampler: ptr::null(),
            choice_temperature: -1.0,
            temperature: -1.0,
            guidance: -1.0,
            context: 2.0,
            top_k: -1,
            dilation: 1,
            feather: -1,
            progress: None,
            preview: None,
            user_data: ptr::null_mut(),
            cancel: ptr::null(),
            final_temperature: -1.0,
            reserved: 0,
            sampling: ptr::null(),
            image: None,
        }
    }

    fn reserved(&self) -> &[u32] {
        slice::from_ref(&self.reserved)
    }
}

/// What a field of a number gives, when it is not below 0. Not a number is passed on, to be refused by name.
fn given(value: f32) -> Option<f32> {
    (value >= 0.0 || value.is_nan()).then_some(value)
}

impl maskgit_options {
    /// Puts the options into a request: what it is made of stays.
    ///
    /// # Safety
    ///
    /// The texts are NULL or end with a NUL.
    pub(super) unsafe fn apply(&self, request: Request, manifest: &Manifest) -> Result<Request, Fault> {
        let edge = Edge {
            dilation: self.dilation as usize,
            feather: match self.feather {
                -2 => Feather::Gaussian,
                feather => u32::try_from(feather).map_or(Feather::Auto, Feather::Pixels),
            },
        };
        let seeds = Seeds { first: self.seed, count: self.count as usize };
        // SAFETY: the same promise.
        let (class, sampling) = unsafe { (self.class(manifest)?, self.changes()?) };
        Ok(Request { class, seeds, sampling, edge, ..request }.with_context(self.context))
    }

    /// # Safety
    ///
    /// As [`Self::apply`].
    unsafe fn class(&self, manifest: &Manifest) -> Result<Option<String>, Fault> {
        // SAFETY: the same promise.
        let name = unsafe { argument::optional_text(self.class_name, "class_name") }?;
        if name.is_some() || self.label == MASKGIT_NO_CLASS {
            return Ok(name);
        }
        // By its name: another class may be called like this one's number.
        let name = usize::try_from(self.label).ok().and_then(|label| manifest.labels.get(label)).cloned();
        let (label, classes) = (self.label, manifest.labels.len());
        let missing = || format!("there is no class {label}: the model has {classes}, from 0 on");
        name.ok_or_else(|| Fault::new(MASKGIT_ERROR_REQUEST, missing())).map(Some)
    }

    /// The sampling settings that are given.
    ///
    /// # Safety
    ///
    /// As [`Self::apply`].
    unsafe fn changes(&self) -> Result<SamplingChanges, Fault> {
        // SAFETY: the same promise.
        let text = |pointer, name| unsafe { argument::optional_text(pointer, name) };
        let by_name = text(self.sampling, "sampling")?.map_or(Ok(SamplingChanges::default()), |json| parse(&json))?;
        let schedule = text(self.schedule, "schedule")?.map(|name| name.parse()).transpose();
        let sampler = text(self.sampler, "sampler")?.map(|name| name.parse()).transpose();
        let number = |value: u32| (value != 0).then_some(value as usize);
        let top_k = (self.top_k >= 0).then(|| usize::try_from(self.top_k).unwrap_or(usize::MAX));
        let mut changes = by_name;
        changes.steps = number(self.steps).or(by_name.steps);
        changes.schedule = schedule.map_err(|e: Error| e.context("schedule"))?.or(by_name.schedule);
        changes.sampler = sampler.map_err(|e: Error| e.context("sampler"))?.or(by_name.sampler);
        changes.choice_temperature = given(self.choice_temperature).or(by_name.choice_temperature);
        changes.temperature = given(self.temperature).or(by_name.temperature);
        changes.final_temperature = given(self.final_temperature).or(by_name.final_temperature);
        changes.top_k = top_k.or(by_name.top_k);
        changes.guidance = given(self.guidance).or(by_name.guidance);
        changes.guidance_ramp = (self.guidance_ramp >= 0).then_some(self.guidance_ramp != 0).or(by_name.guidance_ramp);
        changes.start_iter = number(self.start_iter).or(by_name.start_iter);
        Ok(changes)
    }
}

/// Settings by name. An object only: serde would take a list of values too.
fn parse(json: &str) -> Result<SamplingChanges, Fault> {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(json)
        .and_then(|object| serde_json::from_value(object.into()))
        .map_err(|e| Fault::new(MASKGIT_ERROR_REQUEST, format!("sampling is not a JSON object of settings: {e}")))
}

/// How far to extend an image. Set it with maskgit_outpaint_options_init(), then set at least one side.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_outpaint_options {
    /// sizeof(maskgit_outpaint_options)
    pub size: usize,
    /// Pixels to add on the left.
    pub left: u32,
    /// Pixels to add on the right.
    pub right: u32,
    /// Pixels to add above.
    pub top: u32,
    /// Pixels to add below.
    pub bottom: u32,
    /// The shorter side of a window in pixels of the image; 0, the initial value: as follows from the image.
    pub window: u32,
    /// The part of a window that shows what is there already, 0.1 to 0.9. Initially 0.5.
    pub overlap: f32,
}

// SAFETY: `repr(C)`, the size first; numbers only.
unsafe impl Versioned for maskgit_outpaint_options {
    const NAME: &'static str = "maskgit_outpaint_options";
    const FIRST_SIZE: usize = offset_of!(Self, overlap) + size_of::<f32>();

    fn initial() -> Self {
        let Outpaint { left, right, top, bottom, overlap, .. } = Outpaint::default();
        Self { size: size_of::<Self>(), left, right, top, bottom, window: 0, overlap }
    }
}

impl maskgit_outpaint_options {
    pub(super) fn to_rust(self) -> Outpaint {
        let Self { left, right, top, bottom, overlap, .. } = self;
        Outpaint { left, right, top, bottom, overlap, window: (self.window > 0).then_some(self.window) }
    }
}

/// Sets the options to their initial values. `size` is sizeof(maskgit_open_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_open_options_init(options: *mut maskgit_open_options, size: usize) -> maskgit_code {
    // SAFETY: the header asks for a struct of this size.
    unsafe { init(options, size) }
}

/// Sets the options to their initial values. `size` is sizeof(maskgit_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_options_init(options: *mut maskgit_options, size: usize) -> maskgit_code {
    // SAFETY: the header asks for a struct of this size.
    unsafe { init(options, size) }
}

/// Sets the options to their initial values. `size` is sizeof(maskgit_outpaint_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_outpaint_options_init(
    options: *mut maskgit_outpaint_options,
    size: usize,
) -> maskgit_code {
    // SAFETY: the header asks for a struct of this size.
    unsafe { init(options, size) }
}

/// # Safety
///
/// `options` is NULL, not aligned, or has `size` bytes.
unsafe fn init<T: Versioned>(options: *mut T, size: usize) -> maskgit_code {
    // SAFETY: the same promise; no error object is asked for.
    unsafe { call(ptr::null_mut(), || argument::write(options, size, T::initial())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let graph = |name: &str| serde_json::json!({ "file": name, "bytes": 1, "sha256": "0".repeat(64) });
        let json = serde_json::json!({
            "format_version": 1, "name": "x", "licence": "x", "source": "", "image": { "height": 4, "width": 4 },
            "grid": { "rows": 1, "cols": 1 }, "codes": 2, "mask_id": 2, "labels": ["1", "0"], "precision": "fp32",
            "sampling": { "steps": 1, "schedule": "cosine", "sampler": "confidence", "choice_temperature": 0,
                          "temperature": 1, "guidance": 0, "guidance_ramp": false },
            "graphs": { "transformer": graph("t"), "decoder": graph("d") },
        });
        Manifest::parse(json.to_string().as_bytes()).unwrap()
    }

    fn apply(options: &maskgit_options) -> Result<Request, Fault> {
        // SAFETY: the tests' texts end with a NUL.
        unsafe { options.apply(Request::generate(), &manifest()) }
    }

    #[test]
    fn a_label_is_a_number_and_never_a_name() {
        for label in 0..2 {
            let options = maskgit_options { label, ..maskgit_options::initial() };
            let resolved = apply(&options).unwrap().resolve(&manifest()).unwrap();
            assert_eq!(resolved.label, usize::try_from(label).ok());
        }
        assert_eq!(apply(&maskgit_options::initial()).unwrap().class, None);
        for label in [-2, 2, i64::MAX] {
            let options = maskgit_options { label, ..maskgit_options::initial() };
            assert_eq!(apply(&options).unwrap_err().code, MASKGIT_ERROR_REQUEST, "{label}");
        }
    }

    #[test]
    fn initial_options_change_no_setting() {
        assert_eq!(apply(&maskgit_options::initial()).unwrap().sampling, SamplingChanges::default());
        assert_eq!(apply(&maskgit_options::initial()).unwrap().edge, Edge::default());
    }

    #[test]
    fn of_a_setting_given_twice_the_field_holds() {
        let json =
            c"{\"steps\": 8, \"sampler\": \"halton\", \"temperature\": 0.5, \"top_k\": 3, \"corrector_share\": 0.25}";
        let options = maskgit_options {
            sampling: json.as_ptr(),
            sampler: c"confidence".as_ptr(),
            temperature: 0.75,
            top_k: 0,
            guidance_ramp: 0,
            ..maskgit_options::initial()
        };
        let changes = apply(&options).unwrap().sampling;
        let mut expected = SamplingChanges::default();
        expected.steps = Some(8);
        expected.sampler = Some("confidence".parse().unwrap());
        expected.temperature = Some(0.75);
        expected.top_k = Some(0);
        expected.guidance_ramp = Some(false);
        expected.corrector_share = Some(0.25);
        assert_eq!(changes, expected);
        for wrong in ["", "[]", "[3]", "null", "{\"stepz\": 3}", "{\"steps\": -1}", "{\"steps\": \"3\"}"] {
            assert_eq!(parse(wrong).unwrap_err().code, MASKGIT_ERROR_REQUEST, "{wrong}");
        }
        assert!(parse("{}").is_ok());
    }
}
