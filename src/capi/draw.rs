//! Drawing, editing, encoding and decoding.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::Arc;

use image::GrayImage;
use maskgit_image::{SourceImage, transparent};

use super::argument;
use super::cancel::maskgit_cancel;
use super::error::{Fault, MASKGIT_ERROR_CANCELLED, MASKGIT_ERROR_SHORT_BUFFER, call, maskgit_code, maskgit_error};
use super::generator::maskgit_generator;
use super::handle;
use super::images::{Entry, look, maskgit_images, view};
use super::options::{
    MASKGIT_PROGRESS_ENCODED, MASKGIT_PROGRESS_FINISHED, MASKGIT_PROGRESS_PREDICTED, MASKGIT_PROGRESS_STEP,
    maskgit_options, maskgit_outpaint_options, maskgit_preview, maskgit_progress,
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
    fn new(options: maskgit_options, alpha: Option<GrayImage>) -> Result<Self, Fault> {
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
            windows: 0,
            window_count: 0,
            reserved: 0,
        };
        Ok(Self { options, cancel, progress, alpha, images: Vec::new() })
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| cancel.stop.is_cancelled())
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
            let Image { pixels, seed, tokens, fit, .. } = image;
            self.images.push(Entry { image: SourceImage::new(pixels, self.alpha.clone()), seed, tokens, fit });
            return self.flow(0);
        };
        let shown = look(&image.pixels, self.alpha.as_ref(), (image.seed, image.fit), &image.tokens, image.index);
        // SAFETY: a function of the caller's, called as the header says, with a struct that lives as long.
        let answer = unsafe { callback(&raw const shown, self.user_data()) };
        self.flow(answer)
    }

    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        match *progress {
            Progress::Encoded { done, total } => {
                self.progress.event = MASKGIT_PROGRESS_ENCODED;
                (self.progress.windows, self.progress.window_count) = (number(done), number(total));
            }
            Progress::Predicted { done, total } => {
                self.progress.event = MASKGIT_PROGRESS_PREDICTED;
                (self.progress.done, self.progress.total) = (done, total);
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
        // SAFETY: a function of the caller's, called as the header says, with a struct that lives as long.
        let answer =
            self.options.progress.map(|callback| unsafe { callback(&raw const self.progress, self.user_data()) });
        self.flow(answer.unwrap_or(0))
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
        // SAFETY: as above; the pixels live until `preview` is dropped, after the call.
        let answer = self.options.preview.map(|callback| unsafe { callback(&raw const shown, self.user_data()) });
        self.flow(answer.unwrap_or(0))
    }
}

/// What a call draws, and the opacity that its results have.
type Drawing = (Request, Option<GrayImage>);

/// A request for an image with this opacity: what is entirely transparent is of unknown colour.
fn knowing(request: Request, alpha: Option<&GrayImage>) -> Result<Request, Fault> {
    let unknown = alpha.map_or(Ok(None), transparent)?;
    Ok(match unknown {
        Some(unknown) => request.with_unknown(unknown),
        None => request,
    })
}

/// The frame of a function that draws: draws what `work` says as the options say, and hands it to C.
///
/// # Safety
///
/// `options` is NULL or a struct of the size that it says, with texts that end with a NUL; `images` and `error` are
/// NULL, not aligned, or may be written.
unsafe fn draw(
    what: &str,
    generator: *mut maskgit_generator,
    options: *const maskgit_options,
    (images, error): (*mut *mut maskgit_images, *mut *mut maskgit_error),
    work: impl FnOnce() -> Result<Drawing, Fault>,
) -> maskgit_code {
    let images_of = |options: maskgit_options| {
        let handle = handle::get(generator.cast_const())?;
        handle.logged(what, || {
            let (request, alpha) = work()?;
            let mut watch = Watch::new(options, alpha)?;
            // SAFETY: the same promise.
            let request = unsafe { options.apply(request, handle.manifest()) }?;
            let mut generator = handle.lock()?;
            if watch.is_cancelled() {
                return Err(Fault::new(MASKGIT_ERROR_CANCELLED, "cancelled before it began"));
            }
            match options.image {
                Some(_) => generator.generate_with(&request, &mut watch),
                None => generator.generate_all_with(&request, &mut watch),
            }?;
            Ok(maskgit_images { images: watch.images })
        })
    };
    // SAFETY: the same promise.
    unsafe {
        call(error, || {
            let options = argument::read_or_initial(options);
            if options.as_ref().is_ok_and(|options| options.image.is_some()) {
                if !images.is_null() {
                    argument::put(images, ptr::null_mut(), "images")?;
                }
                return images_of(options?).map(drop);
            }
            argument::give(images, "images", || images_of(options?))
        })
    }
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

/// Repaints a part of an image of any size: the white pixels of `mask`, a GRAY8 image of the same size, and
/// `box_count` boxes. Either may be NULL, not both. Pixels farther from them than the feather keep their bytes, and
/// opacity is kept. In this and the next three functions the colour of pixels of opacity 0 is unknown to the model.
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
            let (rgb, alpha) = pixels::image(image, "image")?;
            let mask = pixels::mask(rgb.dimensions(), mask, boxes, box_count)?;
            Ok((knowing(Request::edit(rgb, mask), alpha.as_ref())?, alpha))
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
            let (rgb, alpha) = pixels::image(image, "image")?;
            let request = knowing(Request::outpaint(rgb, sides), alpha.as_ref())?;
            Ok((request, alpha.map(|alpha| sides.extend_alpha(&alpha)).transpose()?))
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
            let (rgb, alpha) = pixels::image(image, "image")?;
            Ok((knowing(Request::vary(rgb, strength), alpha.as_ref())?, alpha))
        })
    }
}

/// Encodes an image of any size as one window and decodes it: what the model's tokens can hold of it. Gives its tokens
/// too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_reconstruct(
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers.
    unsafe {
        draw("reconstruct", generator, ptr::null(), (images, error), || {
            let (rgb, alpha) = pixels::image(image, "image")?;
            Ok((knowing(Request::reconstruct(rgb), alpha.as_ref())?, alpha))
        })
    }
}

/// Encodes an image of exactly the model's size: writes its grid_rows * grid_columns tokens, in raster order, to
/// `tokens`, which has room for `capacity`. *count, which may be NULL, becomes their number, also when the room is too
/// small.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_encode(
    generator: *mut maskgit_generator,
    image: *const maskgit_pixels,
    tokens: *mut i64,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers; no more than `capacity` tokens are written.
    unsafe {
        call(error, || {
            let handle = handle::get(generator.cast_const())?;
            argument::check(tokens, "tokens")?;
            let (rgb, _) = pixels::image(image, "image")?;
            let needed = handle.manifest().tokens();
            if !count.is_null() {
                argument::put(count, needed, "count")?;
            }
            if capacity < needed {
                let message = format!("tokens: there is room for {capacity}, and the image has {needed}");
                return Err(Fault::new(MASKGIT_ERROR_SHORT_BUFFER, message));
            }
            let encoded = handle.lock()?.encode(&rgb)?;
            argument::slice_mut(tokens, needed, "tokens")?.copy_from_slice(&encoded);
            Ok(())
        })
    }
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
    // SAFETY: the header asks for such pointers, and for `count` tokens.
    unsafe {
        call(error, || {
            argument::give(images, "images", || {
                let handle = handle::get(generator.cast_const())?;
                handle.logged("decode", || {
                    let tokens = argument::slice(tokens, count, "tokens")?;
                    let image = SourceImage::new(handle.lock()?.decode(tokens)?, None);
                    Ok(maskgit_images { images: vec![Entry { image, seed: 0, tokens: tokens.to_vec(), fit: None }] })
                })
            })
        })
    }
}
