//! Drawing, editing, encoding and decoding.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use image::{GrayImage, RgbImage};

use super::argument::{self, Versioned};
use super::cancel::maskgit_cancel;
use super::error::{
    Fault, MASKGIT_ERROR_CANCELLED, MASKGIT_ERROR_REQUEST, MASKGIT_ERROR_SHORT_BUFFER, call, maskgit_code,
    maskgit_error,
};
use super::generator::{Running, maskgit_generator};
use super::handle;
use super::images::{Entry, maskgit_images, view};
use super::options::{
    MASKGIT_LOG_DEBUG, MASKGIT_LOG_ERROR, MASKGIT_PROGRESS_DECODED, MASKGIT_PROGRESS_PREDICTED, MASKGIT_PROGRESS_STEP,
    Texts, maskgit_options, maskgit_outpaint_options, maskgit_preview, maskgit_progress,
};
use super::pixels::{self, maskgit_pixels, maskgit_rect};
use crate::pipeline::{EditRequest, Observer, Picture, Preview, Progress, Request};

/// Passes on to the callbacks, and asks the cancel handle.
struct Watch {
    options: maskgit_options,
    cancel: Option<Arc<maskgit_cancel>>,
    progress: maskgit_progress,
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Watch {
    fn new(options: maskgit_options) -> Result<Self, Fault> {
        let cancel = if options.cancel.is_null() { None } else { Some(handle::get(options.cancel)?) };
        let progress = maskgit_progress {
            size: size_of::<maskgit_progress>(),
            done: 0,
            total: 0,
            event: 0,
            step: 0,
            steps: 0,
            pictures: 0,
            picture_count: options.count,
        };
        Ok(Self { options, cancel, progress })
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| cancel.stop.load(Ordering::Relaxed))
    }

    fn flow(&self, answer: i32) -> ControlFlow<()> {
        if answer != 0 || self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn user_data(&self) -> *mut c_void {
        self.options.user_data
    }
}

impl Observer for Watch {
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        match progress {
            Progress::Predicted { done, total } => {
                self.progress.event = MASKGIT_PROGRESS_PREDICTED;
                (self.progress.done, self.progress.total) = (*done as u64, *total as u64);
            }
            Progress::Step { report, .. } => {
                self.progress.event = MASKGIT_PROGRESS_STEP;
                self.progress.step = number(report.step.saturating_add(1));
                self.progress.steps = number(report.steps);
            }
            Progress::Decoded { done, total } => {
                self.progress.event = MASKGIT_PROGRESS_DECODED;
                (self.progress.pictures, self.progress.picture_count) = (number(*done), number(*total));
            }
        }
        let answer = match self.options.progress {
            // SAFETY: a function of the caller's, called as the header says, with a struct that lives as long.
            Some(callback) => unsafe { callback(&raw const self.progress, self.user_data()) },
            None => 0,
        };
        self.flow(answer)
    }

    fn wants_preview(&self) -> bool {
        self.options.preview.is_some()
    }

    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        let shown = maskgit_preview {
            size: size_of::<maskgit_preview>(),
            pixels: view(&preview.image),
            seed: preview.seed,
            index: number(preview.index),
            step: number(preview.step),
            steps: number(preview.steps),
            window: number(preview.window),
            windows: number(preview.windows),
        };
        let answer = match self.options.preview {
            // SAFETY: as above; the pixels live until `preview` is dropped, after the call.
            Some(callback) => unsafe { callback(&raw const shown, self.user_data()) },
            None => 0,
        };
        self.flow(answer)
    }
}

/// A request as C gave it, and who watches it.
struct Asked {
    watch: Watch,
    texts: Texts,
}

impl Asked {
    /// # Safety
    ///
    /// `options` is NULL or a struct of the size that it says, with texts that end with a NUL.
    unsafe fn read(options: *const maskgit_options) -> Result<Self, Fault> {
        let options = if options.is_null() {
            maskgit_options::initial()
        } else {
            // SAFETY: the same promise.
            unsafe { argument::read(options) }?
        };
        // SAFETY: the same promise.
        Ok(Self { texts: unsafe { options.texts() }?, watch: Watch::new(options)? })
    }

    /// Refuses what is cancelled before it has begun.
    fn request(&self, generator: &Running<'_>) -> Result<EditRequest, Fault> {
        if self.watch.is_cancelled() {
            return Err(Fault::new(MASKGIT_ERROR_CANCELLED, "cancelled"));
        }
        self.watch.options.request(&self.texts, generator)
    }
}

fn entries(pictures: Vec<Picture>) -> Vec<Entry> {
    pictures.into_iter().map(|picture| Entry::new(picture.image, picture.seed, picture.tokens)).collect()
}

/// Runs `work`, which makes images with a generator, and hands them to C.
///
/// # Safety
///
/// `images` and `error` are NULL, not aligned, or may be written.
unsafe fn draw(
    what: &str,
    generator: *mut maskgit_generator,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
    work: impl FnOnce(&maskgit_generator) -> Result<Vec<Entry>, Fault>,
) -> maskgit_code {
    let work = || {
        // SAFETY: the same promise.
        unsafe { argument::clear(images, "images") }?;
        let handle = handle::get(generator.cast_const())?;
        let start = Instant::now();
        let failed = |fault: &Fault| handle.log().say(MASKGIT_LOG_ERROR, &format!("{what}: {}", fault.message));
        let drawn = work(&handle).inspect_err(failed)?;
        let message = format!("{what}: {} images in {:.3} s", drawn.len(), start.elapsed().as_secs_f64());
        handle.log().say(MASKGIT_LOG_DEBUG, &message);
        // SAFETY: the same promise.
        unsafe { argument::put(images, handle::give(maskgit_images { images: drawn }), "images") }
    };
    // SAFETY: the same promise.
    unsafe { call(error, work) }
}

/// Draws images of a class. `options` must say which; dilation, feather and context play no part. On success *images is to be
/// freed with maskgit_images_free(); on failure it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_generate(
    generator: *mut maskgit_generator,
    options: *const maskgit_options,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    let work = |handle: &maskgit_generator| {
        // SAFETY: the header asks for such options.
        let mut asked = unsafe { Asked::read(options) }?;
        let mut generator = handle.lock()?;
        let EditRequest { label, seed, count, options, .. } = asked.request(&generator)?;
        let label = label.ok_or_else(|| Fault::new(MASKGIT_ERROR_REQUEST, "no class: set class_name or label"))?;
        let drawn = generator.generate(&Request { label, seed, count, options }, &mut asked.watch)?;
        Ok(entries(drawn.images))
    };
    // SAFETY: the header asks for such pointers.
    unsafe { draw("generate", generator, images, error, work) }
}

/// The opacity of the source goes with its edits.
fn with_alpha(mut entries: Vec<Entry>, alpha: Option<GrayImage>) -> Vec<Entry> {
    for entry in &mut entries {
        entry.picture.alpha.clone_from(&alpha);
    }
    entries
}

/// Reads an image and a request, and runs `work` with them; opacity is carried over.
///
/// # Safety
///
/// As [`draw`], [`pixels::picture`] and [`Asked::read`].
unsafe fn draw_from(
    what: &str,
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    options: *const maskgit_options,
    (images, error): (*mut *mut maskgit_images, *mut *mut maskgit_error),
    work: impl FnOnce(&mut Running<'_>, &RgbImage, &EditRequest, &mut Watch) -> Result<Vec<Picture>, Fault>,
) -> maskgit_code {
    let work = |handle: &maskgit_generator| {
        // SAFETY: the same promise.
        let mut asked = unsafe { Asked::read(options) }?;
        // SAFETY: the same promise.
        let (rgb, alpha) = unsafe { pixels::picture(image, "image") }?;
        let mut generator = handle.lock()?;
        let request = asked.request(&generator)?;
        Ok(with_alpha(entries(work(&mut generator, &rgb, &request, &mut asked.watch)?), alpha))
    };
    // SAFETY: the same promise.
    unsafe { draw(what, generator, images, error, work) }
}

/// Repaints a part of a picture of any size: the bright pixels of `mask`, a GRAY8 picture of the same size, and `box_count` boxes.
/// Either may be NULL, not both. Pixels farther from them than the feather keep their bytes, and opacity is kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_edit(
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    mask: *const maskgit_pixels,
    boxes: *const maskgit_rect,
    box_count: usize,
    options: *const maskgit_options,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers.
    unsafe {
        draw_from("edit", generator, image, options, (images, error), |generator, rgb, request, watch| {
            let mask = pixels::mask(rgb.dimensions(), mask, boxes, box_count)?;
            Ok(generator.edit(rgb, &mask, request, watch)?.images)
        })
    }
}

/// Extends an image on any sides. What is new is opaque.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_outpaint(
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    outpaint: *const maskgit_outpaint_options,
    options: *const maskgit_options,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    let work = |handle: &maskgit_generator| {
        // SAFETY: the header asks for such options.
        let mut asked = unsafe { Asked::read(options) }?;
        // SAFETY: as above.
        let outpaint = unsafe { argument::read(outpaint) }?.to_rust();
        // SAFETY: the header asks for such pixels.
        let (rgb, alpha) = unsafe { pixels::picture(image, "image") }?;
        let mut generator = handle.lock()?;
        let request = asked.request(&generator)?;
        let mut drawn = entries(generator.outpaint(&rgb, &outpaint, &request, &mut asked.watch)?.images);
        for entry in &mut drawn {
            entry.picture.alpha.clone_from(&alpha);
            entry.picture.extend_alpha(&outpaint)?;
        }
        Ok(drawn)
    };
    // SAFETY: the header asks for such pointers.
    unsafe { draw("outpaint", generator, images, error, work) }
}

/// Draws variations of a whole image: the part `strength` (0 to 1) of its tokens, chosen by the seed, is drawn anew.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_vary(
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    strength: f32,
    options: *const maskgit_options,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers.
    unsafe {
        draw_from("vary", generator, image, options, (images, error), |generator, rgb, request, watch| {
            Ok(generator.vary(rgb, strength, request, watch)?.images)
        })
    }
}

/// Encodes an image of any size as one window and decodes it: what the model's tokens can hold of it. Gives its tokens too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_reconstruct(
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    let work = |handle: &maskgit_generator| {
        // SAFETY: the header asks for such pixels.
        let (rgb, alpha) = unsafe { pixels::picture(image, "image") }?;
        let (image, tokens) = handle.lock()?.reconstruct(&rgb)?;
        Ok(with_alpha(vec![Entry::new(image, 0, tokens)], alpha))
    };
    // SAFETY: the header asks for such pointers.
    unsafe { draw("reconstruct", generator, images, error, work) }
}

/// Encodes an image of exactly the model's size: writes its grid_rows * grid_columns tokens, in raster order, to `tokens`, which has room for
/// `capacity`. *count, which may be NULL, becomes their number, also when the room is too small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_encode(
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    tokens: *mut i64,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    let work = || {
        let handle = handle::get(generator.cast_const())?;
        argument::check(tokens, "tokens")?;
        // SAFETY: the header asks for such pixels.
        let (rgb, _) = unsafe { pixels::picture(image, "image") }?;
        let mut generator = handle.lock()?;
        let needed = generator.manifest().tokens();
        if !count.is_null() {
            // SAFETY: not NULL, so it may be written.
            unsafe { argument::put(count, needed, "count") }?;
        }
        if capacity < needed {
            let message = format!("tokens: there is room for {capacity}, and the image has {needed}");
            return Err(Fault::new(MASKGIT_ERROR_SHORT_BUFFER, message));
        }
        // SAFETY: no more than `capacity`, which the header asks for.
        let out = unsafe { argument::slice_mut(tokens, needed, "tokens") }?;
        let encoded = generator.encode(&rgb)?;
        for (out, token) in out.iter_mut().zip(encoded) {
            *out = token;
        }
        Ok(())
    };
    // SAFETY: the header asks for NULL or a pointer that may be written.
    unsafe { call(error, work) }
}

/// Decodes `count` tokens, which must be grid_rows * grid_columns codes, to an image.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_decode(
    generator: *mut maskgit_generator,
    tokens: *const i64,
    count: usize,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    let work = |handle: &maskgit_generator| {
        argument::check(tokens, "tokens")?;
        let mut generator = handle.lock()?;
        let expected = generator.manifest().tokens();
        if count != expected {
            let message = format!("tokens: there are {count}; an image has {expected}");
            return Err(Fault::new(MASKGIT_ERROR_REQUEST, message));
        }
        // SAFETY: the header asks for `count` of them.
        let tokens = unsafe { argument::slice(tokens, count, "tokens") }?;
        let image = generator.decode(tokens)?;
        Ok(vec![Entry::new(image, 0, tokens.to_vec())])
    };
    // SAFETY: the header asks for such pointers.
    unsafe { draw("decode", generator, images, error, work) }
}
