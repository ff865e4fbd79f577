//! Images that the library made or read.

use std::ffi::c_char;
use std::mem::offset_of;
use std::ptr;

use ::maskgit_image::{Limits, SourceImage, read_image};
use image::{GrayImage, RgbImage};
use maskgit_core::files;

use super::argument::{self, Versioned};
use super::error::{Fault, MASKGIT_ERROR_REQUEST, call, free, maskgit_code, maskgit_error, value};
use super::handle::{self, Object};
use super::pixels::{MASKGIT_FORMAT_RGB8, MASKGIT_FORMAT_RGBA8, channels, extent, maskgit_format, maskgit_pixels};

/// One or more images. They never change, so any number of threads may read them at once. Free them with
/// maskgit_images_free().
pub struct maskgit_images {
    pub(super) images: Vec<Entry>,
}

/// One image.
pub(super) struct Entry {
    /// The pixels, and what of the source is kept.
    pub(super) image: SourceImage,
    pub(super) seed: u64,
    pub(super) tokens: Vec<i64>,
    pub(super) fit: Option<f32>,
}

impl Object for maskgit_images {
    const NAME: &'static str = "maskgit_images";
}

/// A look at one image. Its pointers are valid until the maskgit_images is freed; in a callback, during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_image {
    /// sizeof(maskgit_image)
    pub size: usize,
    /// The pixels, RGB8 without gaps.
    pub pixels: maskgit_pixels,
    /// The image's seed; 0 when there is none.
    pub seed: u64,
    /// The tokens in raster order; of an edit, those of each window in turn. NULL when there are none.
    pub tokens: *const i64,
    /// How many they are.
    pub token_count: usize,
    /// The image's place in the request, or among the images.
    pub index: usize,
    /// The opacity, which an edit has of its source: a byte for each pixel, without gaps. NULL: all is opaque.
    pub opacity: *const u8,
    /// Of an edit: how well the model knows the image that was edited. The mean absolute difference, 0 to 255, between
    /// the image and what the model makes of the parts that it keeps; small is good. Below 0 where there is none.
    pub fit: f32,
    /// 0, for later versions.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, the size first; numbers and pointers.
unsafe impl Versioned for maskgit_image {
    const NAME: &'static str = "maskgit_image";
    const FIRST_SIZE: usize = offset_of!(Self, opacity) + size_of::<*const u8>();

    fn initial() -> Self {
        look(&RgbImage::new(0, 0), None, (0, None), &[], 0)
    }
}

/// An image as C sees it, while its parts live.
pub(super) fn look(
    rgb: &RgbImage,
    alpha: Option<&GrayImage>,
    (seed, fit): (u64, Option<f32>),
    tokens: &[i64],
    index: usize,
) -> maskgit_image {
    maskgit_image {
        size: size_of::<maskgit_image>(),
        pixels: view(rgb),
        seed,
        tokens: if tokens.is_empty() { ptr::null() } else { tokens.as_ptr() },
        token_count: tokens.len(),
        index,
        opacity: alpha.map_or(ptr::null(), |alpha| alpha.as_ptr()),
        fit: fit.unwrap_or(-1.0),
        reserved: 0,
    }
}

/// The pixels of an image as C sees them.
pub(super) fn view(rgb: &RgbImage) -> maskgit_pixels {
    maskgit_pixels {
        data: rgb.as_ptr(),
        length: rgb.as_raw().len(),
        width: rgb.width(),
        height: rgb.height(),
        stride: rgb.width() as usize * 3,
        format: MASKGIT_FORMAT_RGB8,
        reserved: [0; 5],
    }
}

fn entry(images: &maskgit_images, index: usize) -> Result<&Entry, Fault> {
    images.images.get(index).ok_or_else(|| {
        Fault::new(MASKGIT_ERROR_REQUEST, format!("there is no image {index}: there are {}", images.images.len()))
    })
}

/// The number of images; 0 when `images` is NULL or was freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_images_count(images: *const maskgit_images) -> usize {
    value(0, || Ok(handle::get(images)?.images.len()))
}

/// Looks at an image without copying it. `size` is sizeof(maskgit_image).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_images_get(
    images: *const maskgit_images,
    index: usize,
    image: *mut maskgit_image,
    size: usize,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers, and for a struct of this size.
    unsafe {
        call(error, || {
            let images = handle::get(images)?;
            let Entry { image: shown, seed, tokens, fit } = entry(&images, index)?;
            argument::write(image, size, look(&shown.rgb, shown.alpha.as_ref(), (*seed, *fit), tokens, index))
        })
    }
}

/// Copies an image into a buffer of the caller: `length` bytes at `data`, rows `stride` bytes apart (0: without gaps),
/// RGB8 or RGBA8. Opacity is the source's, or 255. Bytes between rows are left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_images_copy(
    images: *const maskgit_images,
    index: usize,
    data: *mut u8,
    length: usize,
    stride: usize,
    format: maskgit_format,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers; no more than `length` bytes of `data` are written.
    unsafe {
        call(error, || {
            let images = handle::get(images)?;
            let image = &entry(&images, index)?.image;
            let formats = [MASKGIT_FORMAT_RGB8, MASKGIT_FORMAT_RGBA8];
            let channels = channels(format).filter(|_| formats.contains(&format));
            let none = || Fault::new(MASKGIT_ERROR_REQUEST, "an image is copied as RGB8 or RGBA8");
            let row = image.rgb.width() as usize * channels.ok_or_else(none)?;
            let (stride, bytes) = extent(row, image.rgb.height() as usize, stride, length)?;
            copy(image, argument::slice_mut(data, bytes, "data")?, stride, row);
            Ok(())
        })
    }
}

/// Copies an image to rows of `row` bytes, three or four for a pixel, each `stride` after the one before.
fn copy(image: &SourceImage, out: &mut [u8], stride: usize, row: usize) {
    let width = image.rgb.width() as usize;
    for (y, (out, pixels)) in out.chunks_mut(stride).zip(image.rgb.as_raw().chunks_exact(width * 3)).enumerate() {
        if row == pixels.len() {
            out[..row].copy_from_slice(pixels);
            continue;
        }
        for (x, (out, pixel)) in out[..row].chunks_exact_mut(4).zip(pixels.chunks_exact(3)).enumerate() {
            out[..3].copy_from_slice(pixel);
            out[3] = image.alpha.as_ref().map_or(255, |alpha| alpha.as_raw()[y * width + x]);
        }
    }
}

/// Writes an image as PNG, with the opacity of its source. The file appears whole or not at all, and replaces what is
/// there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_images_save_png(
    images: *const maskgit_images,
    index: usize,
    path: *const c_char,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers, and a text that ends with a NUL.
    unsafe {
        call(error, || {
            let images = handle::get(images)?;
            let image = &entry(&images, index)?.image;
            let path = argument::path(path, "path")?;
            Ok(files::write_file(&path, &image.encode_png(&image.rgb, None)?)?)
        })
    }
}

/// Reads an image file (PNG, JPEG, WebP, GIF, BMP or PNM), upright, of at most 16384 pixels a side, 512 MiB in the file
/// and as much decoded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_read_image(
    path: *const c_char,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers, and a text that ends with a NUL.
    unsafe {
        call(error, || {
            argument::give(images, "images", || {
                let image = read_image(&argument::path(path, "path")?, &Limits::default())?;
                Ok(maskgit_images { images: vec![Entry { image, seed: 0, tokens: Vec::new(), fit: None }] })
            })
        })
    }
}

/// Frees images. NULL is ignored. Returns MASKGIT_OK, or MASKGIT_ERROR_HANDLE when they were freed already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_images_free(images: *mut maskgit_images) -> maskgit_code {
    free(images)
}
