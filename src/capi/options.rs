//! How to open a model and how to draw.

use std::ffi::{c_char, c_void};
use std::mem::offset_of;
use std::ptr;

use super::argument::{self, Versioned};
use super::cancel::maskgit_cancel;
use super::error::{Fault, MASKGIT_ERROR_REQUEST, MASKGIT_ERROR_STRUCT, call, maskgit_code};
use super::images::maskgit_image;
use super::pixels::maskgit_pixels;
use maskgit_core::{Error, SamplingChanges};
use maskgit_geometry::{Feather, Outpaint};

use crate::pipeline::{Generator, GeneratorBuilder, MemoryUse, Request};

/// A message of the library: its level, MASKGIT_LOG_*, and one line of UTF-8, valid during the call. Called on the thread that
/// called the library.
pub type maskgit_log_callback =
    Option<unsafe extern "C" fn(level: u32, message: *const c_char, user_data: *mut c_void)>;

/// A call of the generator failed; its error says the same.
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
    /// The most bytes to hold logits in; 0: 64 MiB. One image always fits. Does not change the images.
    pub logits_bytes: u64,
    /// Threads that compute, 1 to 1024; 0: as many as cores. Does not change the images.
    pub threads: u32,
    /// MASKGIT_MEMORY_*. Does not change the images.
    pub memory: u32,
    /// maskgit_open_bytes() only. 0: the bytes are copied. 1: they are used where they are, and the caller keeps them unchanged
    /// until the generator is freed and no call of it runs.
    pub borrow_bytes: u32,
    /// 0.
    pub reserved: u32,
    /// The device: "cpu"; "cuda" or "cuda:N", an NVIDIA GPU; "auto", the first GPU where it can run the model, else the CPU, and `log`
    /// hears why. NULL: "cpu". A library without GPUs has the CPU only.
    pub device: *const c_char,
}

// SAFETY: `repr(C)`, the size first; integers, pointers, among them a text, and a function that may be NULL.
unsafe impl Versioned for maskgit_open_options {
    const NAME: &'static str = "maskgit_open_options";
    const FIRST_SIZE: usize = offset_of!(Self, device) + size_of::<*const c_char>();

    fn initial() -> Self {
        Self {
            size: size_of::<Self>(),
            log: None,
            log_user_data: ptr::null_mut(),
            logits_bytes: 0,
            threads: 0,
            memory: MASKGIT_MEMORY_KEEP_ALL,
            borrow_bytes: 0,
            reserved: 0,
            device: ptr::null(),
        }
    }
}

impl maskgit_open_options {
    /// # Safety
    ///
    /// The device is NULL or a text that ends with a NUL.
    pub(super) unsafe fn to_rust(self) -> Result<GeneratorBuilder, Fault> {
        zero("maskgit_open_options", self.reserved)?;
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
        Ok(builder.memory(match self.memory {
            MASKGIT_MEMORY_KEEP_ALL => MemoryUse::KeepAll,
            MASKGIT_MEMORY_DROP_TRANSFORMER => MemoryUse::DropTransformer,
            MASKGIT_MEMORY_ONE_AT_A_TIME => MemoryUse::OneAtATime,
            other => return Err(Fault::new(MASKGIT_ERROR_REQUEST, format!("there is no memory use {other}"))),
        }))
    }
}

/// Refuses what a reserved field holds, as a later version may give it a meaning.
pub(super) fn zero(name: &str, reserved: u32) -> Result<(), Fault> {
    if reserved == 0 {
        return Ok(());
    }
    Err(Fault::new(MASKGIT_ERROR_STRUCT, format!("a reserved field of the {name} is {reserved}; it must be 0")))
}

/// The transformer has run once more.
pub const MASKGIT_PROGRESS_PREDICTED: u32 = 1;
/// A step is over.
pub const MASKGIT_PROGRESS_STEP: u32 = 2;
/// An image is finished.
pub const MASKGIT_PROGRESS_FINISHED: u32 = 3;
/// A window of the image to edit is encoded; `done` and `total` count windows.
pub const MASKGIT_PROGRESS_ENCODED: u32 = 4;

/// How far a call is. Later versions may add fields at the end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_progress {
    /// The bytes that this version of the library sets.
    pub size: usize,
    /// Transformer runs so far, in the whole call; of an event MASKGIT_PROGRESS_ENCODED, windows.
    pub done: u64,
    /// Transformer runs of the whole call; of an event MASKGIT_PROGRESS_ENCODED, windows.
    pub total: u64,
    /// What happened: MASKGIT_PROGRESS_*.
    pub event: u32,
    /// Steps that are over, of the images or the window being drawn.
    pub step: u32,
    /// Steps of the schedule.
    pub steps: u32,
    /// Finished images.
    pub images: u32,
    /// Images that were asked for.
    pub image_count: u32,
    /// 0.
    pub reserved: u32,
}

/// One image as it looks after a step; unknown tokens show the model's present guess. Later versions may add fields at the end.
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
    /// 0.
    pub reserved: u32,
}

/// Hears how far a call is. Returns 0 to go on; anything else ends the call with MASKGIT_ERROR_CANCELLED. It must not throw or jump
/// out.
pub type maskgit_progress_callback =
    Option<unsafe extern "C" fn(progress: *const maskgit_progress, user_data: *mut c_void) -> i32>;

/// Gets each image after each step, which costs one run of the decoder. Returns as maskgit_progress_callback does.
pub type maskgit_preview_callback =
    Option<unsafe extern "C" fn(preview: *const maskgit_preview, user_data: *mut c_void) -> i32>;

/// Gets each image as soon as it is finished, in the order of the seeds. It is valid during the call. Returns as
/// maskgit_progress_callback does.
pub type maskgit_image_callback =
    Option<unsafe extern "C" fn(image: *const maskgit_image, user_data: *mut c_void) -> i32>;

/// No class: the label of an edit without one.
pub const MASKGIT_NO_CLASS: i64 = -1;

/// What to draw and how. Set it with maskgit_options_init(), then change what you like.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_options {
    /// sizeof(maskgit_options)
    pub size: usize,
    /// The class by its name, its second name or its number, as the command takes it; NULL: `label` says it.
    pub class_name: *const c_char,
    /// The class by its number, when `class_name` is NULL; MASKGIT_NO_CLASS, the initial value, for none, which a model may have that can draw without one.
    pub label: i64,
    /// The seed of the first image; image i has seed + i. Initially 0.
    pub seed: u64,
    /// How many images, 1 to 10000. Initially 1.
    pub count: u32,
    /// Steps of the schedule, 1 to 4096; 0, the initial value: as the model recommends.
    pub steps: u32,
    /// The first step that is run, less than `steps`. Initially 0; Google's editing has 2 of 12.
    pub start_iter: u32,
    /// Whether guidance grows linearly over the steps, 0 or 1; below 0, the initial value: as the model recommends.
    pub guidance_ramp: i32,
    /// The mask schedule: linear, square, cubic, sqrt, power:X, cosine, log, exp or arccos; NULL: as the model recommends.
    pub schedule: *const c_char,
    /// The sampler: confidence, confidence-remask, predictor-corrector, halton or halton-redraw; NULL: as the model recommends.
    pub sampler: *const c_char,
    /// The Gumbel noise on the confidence; below 0, the initial value: as the model recommends.
    pub choice_temperature: f32,
    /// Divides the logits before a token is drawn; below 0, the initial value: as the model recommends. It is that of all steps,
    /// unless there is a `final_temperature`.
    pub temperature: f32,
    /// The scale of classifier-free guidance, 0 for none; below 0, the initial value: as the model recommends.
    pub guidance: f32,
    /// maskgit_edit(): how much larger a window is than the part of the mask that it repaints, 1 or more. Initially 2.
    pub context: f32,
    /// Draws from this many of the likeliest tokens; 0: from all; below 0, the initial value: as the model recommends.
    pub top_k: i64,
    /// Edits: rings of tokens that are drawn around those that the mask touches. Initially 1.
    pub dilation: u32,
    /// Edits: the pixels over which the edge fades, 0 to 4096; below 0, the initial value: a Gaussian as in Google's code.
    pub feather: i32,
    /// Hears of progress; may be NULL.
    pub progress: maskgit_progress_callback,
    /// Gets previews; may be NULL.
    pub preview: maskgit_preview_callback,
    /// Handed to both.
    pub user_data: *mut c_void,
    /// Stops the call from another thread; may be NULL.
    pub cancel: *const maskgit_cancel,
    /// The temperature of the last step, to which it changes linearly over the steps. Below 0, the initial value: as the model
    /// recommends, or, where `temperature` is given, that one.
    pub final_temperature: f32,
    /// 0.
    pub reserved: u32,
    /// More sampling settings, by their names in the manifest, as a JSON object: {"corrector_share": 0.5}. A setting that a field
    /// above gives too is as the field says. NULL: none.
    pub sampling: *const c_char,
    /// Gets each image as soon as it is finished; the call then gives no images, and its `images` may be NULL. NULL: the call
    /// gives all images at its end.
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
}

/// The texts of a [`maskgit_options`], read before the generator is locked.
pub(super) struct Texts {
    class: Option<String>,
    schedule: Option<String>,
    sampler: Option<String>,
    sampling: Option<String>,
}

impl maskgit_options {
    /// # Safety
    ///
    /// The texts are NULL or end with a NUL.
    pub(super) unsafe fn texts(&self) -> Result<Texts, Fault> {
        // SAFETY: the same promise.
        unsafe {
            Ok(Texts {
                class: argument::optional_text(self.class_name, "class_name")?,
                schedule: argument::optional_text(self.schedule, "schedule")?,
                sampler: argument::optional_text(self.sampler, "sampler")?,
                sampling: argument::optional_text(self.sampling, "sampling")?,
            })
        }
    }

    /// Puts the options into a request: what it is made of stays.
    pub(super) fn apply(&self, texts: &Texts, request: Request, generator: &Generator) -> Result<Request, Fault> {
        zero("maskgit_options", self.reserved)?;
        let feather = u32::try_from(self.feather).map_or(Feather::Gaussian, Feather::Pixels);
        let request = request
            .with_seed(self.seed)
            .with_count(self.count as usize)
            .with_sampling(self.changes(texts)?)
            .with_dilation(self.dilation as usize)
            .with_feather(feather)
            .with_context(self.context);
        match (&texts.class, self.label) {
            (Some(class), _) => Ok(request.with_class(class)),
            (None, MASKGIT_NO_CLASS) => Ok(request),
            (None, label) => {
                let name = usize::try_from(label).ok().and_then(|label| generator.manifest().labels.get(label));
                let missing = || Fault::new(MASKGIT_ERROR_REQUEST, format!("there is no class {label}"));
                Ok(request.with_class(name.ok_or_else(missing)?))
            }
        }
    }

    /// The sampling settings that are given.
    fn changes(&self, texts: &Texts) -> Result<SamplingChanges, Fault> {
        // An object, as serde would take a list of values too.
        let parsed = |json: &String| {
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json)?;
            serde_json::from_value(object.into())
        };
        let wrong = |e| Fault::new(MASKGIT_ERROR_REQUEST, format!("sampling is not a JSON object of settings: {e}"));
        let mut changes: SamplingChanges =
            texts.sampling.as_ref().map(parsed).transpose().map_err(wrong)?.unwrap_or_default();
        // Not a number is passed on, to be refused by name.
        let given = |value: f32, other: Option<f32>| if value >= 0.0 || value.is_nan() { Some(value) } else { other };
        if self.steps != 0 {
            changes.steps = Some(self.steps as usize);
        }
        if self.start_iter != 0 {
            changes.start_iter = Some(self.start_iter as usize);
        }
        if let Some(text) = &texts.schedule {
            changes.schedule = Some(text.parse().map_err(|e: Error| e.context("schedule"))?);
        }
        if let Some(text) = &texts.sampler {
            changes.sampler = Some(text.parse().map_err(|e: Error| e.context("sampler"))?);
        }
        changes.choice_temperature = given(self.choice_temperature, changes.choice_temperature);
        changes.temperature = given(self.temperature, changes.temperature);
        changes.final_temperature = given(self.final_temperature, changes.final_temperature);
        changes.guidance = given(self.guidance, changes.guidance);
        if self.guidance_ramp >= 0 {
            changes.guidance_ramp = Some(self.guidance_ramp != 0);
        }
        if self.top_k >= 0 {
            changes.top_k = Some(usize::try_from(self.top_k).unwrap_or(usize::MAX));
        }
        Ok(changes)
    }
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
