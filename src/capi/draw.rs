//! Drawing, editing, encoding and decoding.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ::maskgit_image::SourceImage;
use image::GrayImage;

use super::argument::{self, Versioned};
use super::cancel::maskgit_cancel;
use super::error::{
    Fault, MASKGIT_ERROR_CANCELLED, MASKGIT_ERROR_REQUEST, MASKGIT_ERROR_SHORT_BUFFER, call, maskgit_code,
    maskgit_error,
};
use super::generator::maskgit_generator;
use super::handle;
use super::images::{Entry, look, maskgit_images, view};
use super::options::{
    MASKGIT_LOG_DEBUG, MASKGIT_LOG_ERROR, MASKGIT_PROGRESS_ENCODED, MASKGIT_PROGRESS_FINISHED,
    MASKGIT_PROGRESS_PREDICTED, MASKGIT_PROGRESS_STEP, maskgit_options, maskgit_outpaint_options, maskgit_preview,
    maskgit_progress,
};
use super::pixels::{self, maskgit_pixels, maskgit_rect};
use crate::pipeline::{Image, Observer, Preview, Progress, Request};

/// Passes on to the callbacks, keeps the images that no callback takes, and asks the cancel handle.
struct Watch {
    options: maskgit_options,
    cancel: Option<Arc<maskgit_cancel>>,
    progress: maskgit_progress,
    /// The opacity of the source goes with its edits.
    alpha: Option<GrayImage>,
    images: Vec<Entry>,
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
            images: 0,
            image_count: options.count,
            reserved: 0,
        };
        Ok(Self { options, cancel, progress, alpha: None, images: Vec::new() })
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
    fn image(&mut self, image: Image) -> ControlFlow<()> {
        let Some(callback) = self.options.image else {
            let picture = SourceImage::new(image.pixels, self.alpha.clone());
            self.images.push(Entry { picture, seed: image.seed, tokens: image.tokens });
            return self.flow(0);
        };
        let shown = look(&image.pixels, image.seed, &image.tokens, image.index);
        // SAFETY: a function of the caller's, called as the header says, with a struct that lives as long.
        let answer = unsafe { callback(&raw const shown, self.user_data()) };
        self.flow(answer)
    }

    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        match *progress {
            Progress::Encoded { done, total } => {
                self.progress.event = MASKGIT_PROGRESS_ENCODED;
                (self.progress.done, self.progress.total) = (done as u64, total as u64);
            }
            Progress::Predicted { done, total } => {
                self.progress.event = MASKGIT_PROGRESS_PREDICTED;
                (self.progress.done, self.progress.total) = (done as u64, total as u64);
            }
            Progress::Step { step, steps } => {
                self.progress.event = MASKGIT_PROGRESS_STEP;
                self.progress.step = number(step.saturating_add(1));
                self.progress.steps = number(steps);
            }
            Progress::Finished { done, total } => {
                self.progress.event = MASKGIT_PROGRESS_FINISHED;
                (self.progress.images, self.progress.image_count) = (number(done), number(total));
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
            stage: number(preview.stage),
            stages: number(preview.stages),
            reserved: 0,
        };
        let answer = match self.options.preview {
            // SAFETY: as above; the pixels live until `preview` is dropped, after the call.
            Some(callback) => unsafe { callback(&raw const shown, self.user_data()) },
            None => 0,
        };
        self.flow(answer)
    }
}

/// What a call draws, and the opacity that its results have.
type Drawing = (Request, Option<GrayImage>);

/// Runs `work`, which makes images with a generator, and hands them to C.
///
/// # Safety
///
/// `images` and `error` are NULL, not aligned, or may be written.
unsafe fn give(
    what: &str,
    generator: *mut maskgit_generator,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
    work: impl FnOnce(&maskgit_generator) -> Result<Option<Vec<Entry>>, Fault>,
) -> maskgit_code {
    let work = || {
        if !images.is_null() {
            // SAFETY: the same promise.
            unsafe { argument::clear(images, "images") }?;
        }
        let handle = handle::get(generator.cast_const())?;
        let start = Instant::now();
        let failed = |fault: &Fault| handle.log().say(MASKGIT_LOG_ERROR, &format!("{what}: {}", fault.message));
        let drawn = work(&handle).inspect_err(failed)?;
        handle.log().say(MASKGIT_LOG_DEBUG, &format!("{what}: {:.3} s", start.elapsed().as_secs_f64()));
        let Some(drawn) = drawn else { return Ok(()) };
        // SAFETY: the same promise.
        unsafe { argument::put(images, handle::give(maskgit_images { images: drawn }), "images") }
    };
    // SAFETY: the same promise.
    unsafe { call(error, work) }
}

/// Draws what `subject` says as the options say, and hands it to C.
///
/// # Safety
///
/// As [`give`], and `options` is NULL or a struct of the size that it says, with texts that end with a NUL.
unsafe fn draw(
    what: &str,
    generator: *mut maskgit_generator,
    options: *const maskgit_options,
    (images, error): (*mut *mut maskgit_images, *mut *mut maskgit_error),
    subject: impl FnOnce() -> Result<Drawing, Fault>,
) -> maskgit_code {
    let work = |handle: &maskgit_generator| {
        let options = match options.is_null() {
            true => maskgit_options::initial(),
            // SAFETY: the same promise.
            false => unsafe { argument::read(options) }?,
        };
        // SAFETY: the same promise.
        let texts = unsafe { options.texts() }?;
        let mut watch = Watch::new(options)?;
        if options.image.is_none() {
            argument::check(images, "images")?;
        }
        let (request, alpha) = subject()?;
        watch.alpha = alpha;
        let mut generator = handle.lock()?;
        let request = options.apply(&texts, request, &generator)?;
        // Refused before it has begun.
        if watch.is_cancelled() {
            return Err(Fault::new(MASKGIT_ERROR_CANCELLED, "cancelled"));
        }
        generator.generate_with(&request, &mut watch)?;
        Ok(options.image.is_none().then_some(watch.images))
    };
    // SAFETY: the same promise.
    unsafe { give(what, generator, images, error, work) }
}

/// Draws images. `options` say of which class; dilation, feather and context play no part. On success *images is to be
/// freed with maskgit_images_free(); on failure it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_generate(
    generator: *mut maskgit_generator,
    options: *const maskgit_options,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers.
    unsafe { draw("generate", generator, options, (images, error), || Ok((Request::generate(), None))) }
}

/// Repaints a part of an image of any size: the bright pixels of `mask`, a GRAY8 image of the same size, and `box_count` boxes.
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
        draw("edit", generator, options, (images, error), || {
            let (rgb, alpha) = pixels::picture(image, "image")?;
            let mask = pixels::mask(rgb.dimensions(), mask, boxes, box_count)?;
            Ok((Request::edit(rgb, mask), alpha))
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
    // SAFETY: the header asks for such pointers.
    unsafe {
        draw("outpaint", generator, options, (images, error), || {
            let sides = argument::read(outpaint)?.to_rust();
            let (rgb, alpha) = pixels::picture(image, "image")?;
            let alpha = alpha.map(|alpha| sides.extend_alpha(&alpha)).transpose()?;
            Ok((Request::outpaint(rgb, sides), alpha))
        })
    }
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
        draw("vary", generator, options, (images, error), || {
            let (rgb, alpha) = pixels::picture(image, "image")?;
            Ok((Request::vary(rgb, strength), alpha))
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
    // SAFETY: the header asks for such pointers.
    unsafe {
        draw("reconstruct", generator, std::ptr::null(), (images, error), || {
            let (rgb, alpha) = pixels::picture(image, "image")?;
            Ok((Request::reconstruct(rgb), alpha))
        })
    }
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
        argument::check(images, "images")?;
        let mut generator = handle.lock()?;
        let expected = generator.manifest().tokens();
        if count != expected {
            let message = format!("tokens: there are {count}; an image has {expected}");
            return Err(Fault::new(MASKGIT_ERROR_REQUEST, message));
        }
        // SAFETY: the header asks for `count` of them.
        let tokens = unsafe { argument::slice(tokens, count, "tokens") }?;
        let image = generator.decode(tokens)?;
        Ok(Some(vec![Entry::new(image, 0, tokens.to_vec())]))
    };
    // SAFETY: the header asks for such pointers.
    unsafe { give("decode", generator, images, error, work) }
}
