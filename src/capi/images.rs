//! Images that the library made or read.

use std::ffi::c_char;
use std::mem::offset_of;

use image::RgbImage;

use super::argument::{self, Versioned};
use super::error::{Fault, MASKGIT_ERROR_REQUEST, call, free, maskgit_code, maskgit_error, value};
use super::handle::{self, Object};
use super::pixels::{MASKGIT_FORMAT_RGB8, MASKGIT_FORMAT_RGBA8, channels, extent, maskgit_format, maskgit_pixels};
use ::maskgit_image::{Limits, SourceImage, read_image};
use maskgit_core::files;

/// One or more images. They never change, so any number of threads may read them at once. Free them with maskgit_images_free().
pub struct maskgit_images {
    pub(super) images: Vec<Entry>,
}

/// One image.
pub(super) struct Entry {
    /// The pixels, and what of the source is kept.
    pub(super) picture: SourceImage,
    pub(super) seed: u64,
    pub(super) tokens: Vec<i64>,
}

impl Entry {
    /// An image with nothing of a source.
    pub(super) fn new(rgb: RgbImage, seed: u64, tokens: Vec<i64>) -> Self {
        let picture = SourceImage::new(rgb, None);
        Self { picture, seed, tokens }
    }
}

impl Object for maskgit_images {
    const NAME: &'static str = "maskgit_images";
}

/// A look at one image. Its pointers are valid until the maskgit_images is freed.
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
    pub index: u64,
}

// SAFETY: `repr(C)`, the size first; numbers and pointers.
unsafe impl Versioned for maskgit_image {
    const NAME: &'static str = "maskgit_image";
    const FIRST_SIZE: usize = offset_of!(Self, index) + size_of::<u64>();

    fn initial() -> Self {
        look(&RgbImage::new(0, 0), 0, &[], 0)
    }
}

/// An image with its tokens as C sees it, as long as they live.
pub(super) fn look(rgb: &RgbImage, seed: u64, tokens: &[i64], index: usize) -> maskgit_image {
    maskgit_image {
        size: size_of::<maskgit_image>(),
        pixels: view(rgb),
        seed,
        tokens: if tokens.is_empty() { std::ptr::null() } else { tokens.as_ptr() },
        token_count: tokens.len(),
        index: index as u64,
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
        reserved: 0,
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
    let work = || {
        let images = handle::get(images)?;
        let entry = entry(&images, index)?;
        let value = look(&entry.picture.rgb, entry.seed, &entry.tokens, index);
        // SAFETY: the header asks for a struct of this size.
        unsafe { argument::write(image, size, value) }
    };
    // SAFETY: the header asks for NULL or a pointer that may be written.
    unsafe { call(error, work) }
}

/// Copies an image into a buffer of the caller: `length` bytes at `data`, rows `stride` bytes apart (0: without gaps), RGB8 or RGBA8.
/// Opacity is the source's, or 255. Bytes between rows are left alone.
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
    let work = || {
        let images = handle::get(images)?;
        let picture = &entry(&images, index)?.picture;
        let Some(channels) = channels(format).filter(|_| [MASKGIT_FORMAT_RGB8, MASKGIT_FORMAT_RGBA8].contains(&format))
        else {
            return Err(Fault::new(MASKGIT_ERROR_REQUEST, "an image is copied as RGB8 or RGBA8"));
        };
        let (width, height) = (picture.rgb.width() as usize, picture.rgb.height() as usize);
        let (stride, bytes) = extent(width * channels, height, stride, length)?;
        // SAFETY: no more than `length` bytes, which the header asks for.
        let out = unsafe { argument::slice_mut(data, bytes, "data") }?;
        for (y, (out, row)) in out.chunks_mut(stride).zip(picture.rgb.as_raw().chunks_exact(width * 3)).enumerate() {
            if format == MASKGIT_FORMAT_RGB8 {
                out[..row.len()].copy_from_slice(row);
                continue;
            }
            for (x, (out, pixel)) in out.chunks_exact_mut(4).zip(row.chunks_exact(3)).enumerate() {
                out[..3].copy_from_slice(pixel);
                out[3] = picture.alpha.as_ref().map_or(255, |alpha| alpha.get_pixel(x as u32, y as u32).0[0]);
            }
        }
        Ok(())
    };
    // SAFETY: the header asks for NULL or a pointer that may be written.
    unsafe { call(error, work) }
}

/// Writes an image as PNG, with the opacity of its source. The file appears whole or not at all, and replaces what is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_images_save_png(
    images: *const maskgit_images,
    index: usize,
    path: *const c_char,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    let work = || {
        let images = handle::get(images)?;
        let picture = &entry(&images, index)?.picture;
        // SAFETY: the header asks for a text that ends with a NUL.
        let path = unsafe { argument::path(path, "path") }?;
        Ok(files::write_file(&path, &picture.encode_png(&picture.rgb, None)?)?)
    };
    // SAFETY: the header asks for NULL or a pointer that may be written.
    unsafe { call(error, work) }
}

/// Reads an image file (PNG, JPEG, WebP, GIF, BMP or PNM), upright, of at most 16384 pixels a side, 512 MiB in the file and as much
/// decoded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_read_image(
    path: *const c_char,
    images: *mut *mut maskgit_images,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    let work = || {
        // SAFETY: the header asks for a pointer that may be written.
        unsafe { argument::clear(images, "images") }?;
        // SAFETY: the header asks for a text that ends with a NUL.
        let path = unsafe { argument::path(path, "path") }?;
        let picture = read_image(&path, &Limits::default())?;
        let entry = Entry { picture, seed: 0, tokens: Vec::new() };
        // SAFETY: the header asks for a pointer that may be written.
        unsafe { argument::put(images, handle::give(maskgit_images { images: vec![entry] }), "images") }
    };
    // SAFETY: the header asks for NULL or a pointer that may be written.
    unsafe { call(error, work) }
}

/// Frees images. NULL is ignored. Returns MASKGIT_OK, or MASKGIT_ERROR_HANDLE when they were freed already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_images_free(images: *mut maskgit_images) -> maskgit_code {
    free(images)
}
