//! Images in the caller's memory.

use image::{GrayImage, RgbImage};

use maskgit_core::filled;
use maskgit_geometry::{MAX_SIDE, Mask, Rect};

use super::argument;
use super::error::{
    Fault, MASKGIT_ERROR_IMAGE, MASKGIT_ERROR_INTERNAL, MASKGIT_ERROR_NULL, MASKGIT_ERROR_REQUEST,
    MASKGIT_ERROR_SHORT_BUFFER,
};

/// The layout of a pixel: MASKGIT_FORMAT_*.
pub type maskgit_format = u32;

/// Three bytes: red, green, blue, in sRGB.
pub const MASKGIT_FORMAT_RGB8: maskgit_format = 1;
/// Four bytes: red, green, blue, opacity; not premultiplied.
pub const MASKGIT_FORMAT_RGBA8: maskgit_format = 2;
/// One byte. Masks only: 128 and above is repainted.
pub const MASKGIT_FORMAT_GRAY8: maskgit_format = 3;

/// An image in memory, row by row from the top. The library only reads it. Set all of it to 0 first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_pixels {
    /// The first byte of the first row.
    pub data: *const u8,
    /// The bytes from `data` on that may be read: at least stride * (height - 1) + width * bytes of a pixel.
    pub length: usize,
    /// Columns, 1 to 16384.
    pub width: u32,
    /// Rows, 1 to 16384.
    pub height: u32,
    /// Bytes from one row to the next; 0 means that rows follow one another without a gap.
    pub stride: usize,
    /// The layout of a pixel.
    pub format: maskgit_format,
    /// 0, for later versions.
    pub reserved: [u32; 5],
}

/// A rectangle of pixels. Set all of it to 0 first.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_rect {
    /// Left column.
    pub x: u32,
    /// Top row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// 0, for later versions.
    pub reserved: [u32; 4],
}

/// The bytes of a pixel.
pub(super) fn channels(format: maskgit_format) -> Option<usize> {
    match format {
        MASKGIT_FORMAT_RGB8 => Some(3),
        MASKGIT_FORMAT_RGBA8 => Some(4),
        MASKGIT_FORMAT_GRAY8 => Some(1),
        _ => None,
    }
}

/// The stride of rows of `row` bytes, and the bytes of the whole; a fault when they are not in `length`.
pub(super) fn extent(row: usize, height: usize, stride: usize, length: usize) -> Result<(usize, usize), Fault> {
    let stride = if stride == 0 { row } else { stride };
    if stride < row {
        return Err(Fault::new(MASKGIT_ERROR_REQUEST, format!("the stride is {stride}; a row has {row} bytes")));
    }
    let bytes =
        height.checked_sub(1).and_then(|rows| rows.checked_mul(stride)).and_then(|before| before.checked_add(row));
    match bytes {
        Some(bytes) if bytes <= length => Ok((stride, bytes)),
        _ => Err(Fault::new(
            MASKGIT_ERROR_SHORT_BUFFER,
            format!(
                "the length is {length} bytes; {height} rows of {row} bytes with a stride of {stride} take {}",
                bytes.map_or("more than any memory has".into(), |bytes| bytes.to_string())
            ),
        )),
    }
}

/// The rows of an image in the caller's memory, without the gaps between them.
///
/// # Safety
///
/// `pixels` is NULL, not aligned, or a struct whose `data` has `length` readable bytes.
unsafe fn rows(pixels: *const maskgit_pixels, name: &str) -> Result<(maskgit_pixels, Vec<u8>), Fault> {
    argument::check(pixels, name)?;
    // SAFETY: not NULL and aligned; every pattern of bits is a value of its fields.
    let pixels = unsafe { pixels.read() };
    argument::check_reserved(&pixels.reserved, name)?;
    let Some(channels) = channels(pixels.format) else {
        return Err(Fault::new(MASKGIT_ERROR_REQUEST, format!("there is no format {}", pixels.format)).of(name));
    };
    let sides = 1..=MAX_SIDE;
    if !sides.contains(&pixels.width) || !sides.contains(&pixels.height) {
        let message = format!("{}x{} pixels; a side must be 1 to {MAX_SIDE}", pixels.width, pixels.height);
        return Err(Fault::new(MASKGIT_ERROR_IMAGE, message).of(name));
    }
    let (row, height) = (pixels.width as usize * channels, pixels.height as usize);
    let (stride, bytes) = extent(row, height, pixels.stride, pixels.length).map_err(|fault| fault.of(name))?;
    // SAFETY: no more than `length` bytes, which the caller promises.
    let data = unsafe { argument::slice(pixels.data, bytes, name) }?;
    let mut copy = filled(row * height, 0, name)?;
    for (copy, data) in copy.chunks_exact_mut(row).zip(data.chunks(stride)) {
        copy.copy_from_slice(&data[..row]);
    }
    Ok((pixels, copy))
}

fn wrong_buffer() -> Fault {
    Fault::new(MASKGIT_ERROR_INTERNAL, "an image's buffer does not have its size")
}

/// The colours of an image, and its opacity when any pixel is not opaque.
///
/// # Safety
///
/// As [`rows`].
pub(super) unsafe fn image(pixels: *const maskgit_pixels, name: &str) -> Result<(RgbImage, Option<GrayImage>), Fault> {
    // SAFETY: the same promise.
    let (about, bytes) = unsafe { rows(pixels, name) }?;
    let (width, height) = (about.width, about.height);
    let rgb = |bytes| RgbImage::from_raw(width, height, bytes).ok_or_else(wrong_buffer);
    match about.format {
        MASKGIT_FORMAT_RGB8 => Ok((rgb(bytes)?, None)),
        MASKGIT_FORMAT_RGBA8 => {
            let count = bytes.len() / 4;
            let (mut colours, mut opacity) = (filled(3 * count, 0, name)?, filled(count, 0, name)?);
            let pixels = bytes.chunks_exact(4).zip(colours.chunks_exact_mut(3)).zip(&mut opacity);
            for ((pixel, colour), opacity) in pixels {
                colour.copy_from_slice(&pixel[..3]);
                *opacity = pixel[3];
            }
            let opaque = opacity.iter().all(|&a| a == 255);
            Ok((rgb(colours)?, if opaque { None } else { GrayImage::from_raw(width, height, opacity) }))
        }
        _ => Err(Fault::new(MASKGIT_ERROR_REQUEST, "an image must be RGB8 or RGBA8").of(name)),
    }
}

/// The mask of an edit of an image of `width` by `height`: the mask, whose values between mix, and the boxes together.
///
/// # Safety
///
/// As [`rows`], and `boxes` has `count` readable values.
pub(super) unsafe fn mask(
    (width, height): (u32, u32),
    pixels: *const maskgit_pixels,
    boxes: *const maskgit_rect,
    count: usize,
) -> Result<Mask, Fault> {
    // SAFETY: the same promise.
    let boxes = unsafe { argument::slice(boxes, count, "boxes") }?;
    let mut mask = if pixels.is_null() {
        if boxes.is_empty() {
            return Err(Fault::new(MASKGIT_ERROR_NULL, "there is neither a mask nor a box"));
        }
        Mask::none(width, height)?
    } else {
        // SAFETY: the same promise.
        let (about, bytes) = unsafe { rows(pixels, "mask") }?;
        if about.format != MASKGIT_FORMAT_GRAY8 {
            return Err(Fault::new(MASKGIT_ERROR_REQUEST, "mask: it must be GRAY8"));
        }
        // That it has the image's size is checked with the request.
        Mask::from_image(&GrayImage::from_raw(about.width, about.height, bytes).ok_or_else(wrong_buffer)?)?
    };
    for rect in boxes {
        argument::check_reserved(&rect.reserved, "boxes")?;
        mask.add(Rect::new(rect.x, rect.y, rect.width, rect.height))?;
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_checked_without_overflow() {
        assert_eq!(extent(6, 3, 0, 18).ok(), Some((6, 18)));
        assert_eq!(extent(6, 3, 8, 22).ok(), Some((8, 22)), "the last row needs no gap after it");
        let code = |result: Result<(usize, usize), Fault>| result.err().map(|e| e.code);
        assert_eq!(code(extent(6, 3, 8, 21)), Some(MASKGIT_ERROR_SHORT_BUFFER));
        assert_eq!(code(extent(6, 3, 5, 100)), Some(MASKGIT_ERROR_REQUEST));
        assert_eq!(code(extent(6, 3, usize::MAX, usize::MAX)), Some(MASKGIT_ERROR_SHORT_BUFFER));
    }

    #[test]
    fn gaps_between_rows_are_left_out() {
        let data = [1, 2, 3, 255, 4, 5, 6, 9, 99, 99, 7, 8, 9, 255, 10, 11, 12, 255];
        let mut pixels = maskgit_pixels {
            data: data.as_ptr(),
            length: data.len(),
            width: 2,
            height: 2,
            stride: 10,
            format: MASKGIT_FORMAT_RGBA8,
            reserved: [0; 5],
        };
        // SAFETY: `data` has `length` bytes.
        let (rgb, alpha) = unsafe { super::image(&pixels, "x") }.unwrap();
        assert_eq!(rgb.as_raw(), &(1..=12).collect::<Vec<u8>>());
        assert_eq!(alpha.unwrap().as_raw(), &[255, 9, 255, 255]);
        pixels.format = 77;
        // SAFETY: refused before it is read.
        assert_eq!(unsafe { super::image(&pixels, "x") }.unwrap_err().code, MASKGIT_ERROR_REQUEST);
    }
}
