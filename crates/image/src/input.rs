//! Images to edit: files of any common format, which may be anything.

use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageReader, RgbImage};
use maskgit_core::{Error, Result, sha256};

use super::{MAX_SIDE, encode, open};

/// The formats that [`read_image`] reads.
pub const FORMATS: &str = "PNG, JPEG, WebP, GIF, BMP and PNM";

/// What an image may take, checked against its header before anything is allocated for its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The widest and the highest image in pixels; more than [`MAX_SIDE`] is as good as that.
    pub side: u32,
    /// The most bytes of a file, and of the decoded image in the file's own channels and depth: 512 MiB by default. A
    /// decoder's own buffers are bounded by the same number.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { side: MAX_SIDE, bytes: 512 << 20 }
    }
}

/// An image from a file: 8-bit colour, turned upright, with what is kept to write it again.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SourceImage {
    /// The colours. Greyscale has three equal channels; 16 bits are rounded to 8; colours of transparent pixels are as
    /// stored.
    pub rgb: RgbImage,
    /// The opacity, when any pixel is not opaque. Editing leaves it alone.
    pub alpha: Option<GrayImage>,
    /// The colour profile, when it is one for RGB. The pixels are never converted by it.
    pub icc_profile: Option<Vec<u8>>,
    /// How the file's pixels were turned to make the image upright (EXIF).
    pub orientation: Orientation,
    /// The SHA-256 of the file, as 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl SourceImage {
    /// An image that comes from no file.
    pub fn new(rgb: RgbImage, alpha: Option<GrayImage>) -> Self {
        Self { rgb, alpha, icc_profile: None, orientation: Orientation::NoTransforms, sha256: String::new() }
    }

    /// Encodes an image of the same size as PNG, with this one's opacity and colour profile, and `metadata` as
    /// [`encode_png`](super::encode_png) has it.
    ///
    /// # Errors
    ///
    /// As [`encode_png`](super::encode_png); kind [`Image`](maskgit_core::ErrorKind::Image) when the size differs.
    pub fn encode_png(&self, image: &RgbImage, metadata: Option<&str>) -> Result<Vec<u8>> {
        let icc = self.icc_profile.as_deref();
        let Some(alpha) = &self.alpha else {
            return encode(image.as_raw(), png::ColorType::Rgb, image.dimensions(), icc, metadata);
        };
        if alpha.dimensions() != image.dimensions() {
            return Err(Error::image("the image's opacity has another size than its colours"));
        }
        let mut pixels = Vec::new();
        pixels
            .try_reserve_exact(alpha.as_raw().len() * 4)
            .map_err(|_| Error::image("no memory to write the image with its opacity"))?;
        for (color, opacity) in image.pixels().zip(alpha.as_raw()) {
            pixels.extend_from_slice(&color.0);
            pixels.push(*opacity);
        }
        encode(&pixels, png::ColorType::Rgba, image.dimensions(), icc, metadata)
    }
}

/// Reads an image of one of the [`FORMATS`]; of an animation the first frame.
///
/// The orientation that a camera wrote (EXIF) is applied. Opacity is kept apart. CMYK JPEG is converted to RGB without
/// a colour profile. What cannot be read is refused.
///
/// # Errors
///
/// Kind [`Io`](maskgit_core::ErrorKind::Io) when the file cannot be read, [`Image`](maskgit_core::ErrorKind::Image)
/// when it is of none of the formats, damaged, or above the limits.
pub fn read_image(path: &Path, limits: &Limits) -> Result<SourceImage> {
    let Decoded { image: decoded, orientation, icc_profile, sha256 } = decode(path, limits)?;
    let (rgb, alpha) = if decoded.color().has_alpha() {
        let rgba = decoded.into_rgba8();
        let (width, height) = rgba.dimensions();
        let rgb: Vec<u8> = rgba.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]).collect();
        let alpha: Vec<u8> = rgba.pixels().map(|p| p.0[3]).collect();
        let opaque = alpha.iter().all(|&opacity| opacity == 255);
        (RgbImage::from_raw(width, height, rgb), if opaque { None } else { GrayImage::from_raw(width, height, alpha) })
    } else {
        (Some(decoded.into_rgb8()), None)
    };
    let rgb = rgb.ok_or_else(|| Error::internal("an image's buffer does not have its size"))?;
    Ok(SourceImage { rgb, alpha, icc_profile, orientation, sha256 })
}

/// A file that was read.
pub(super) struct Decoded {
    /// The image, upright.
    pub(super) image: DynamicImage,
    /// How it was turned for that.
    pub(super) orientation: Orientation,
    /// The colour profile, where it is for RGB.
    pub(super) icc_profile: Option<Vec<u8>>,
    /// The file's SHA-256.
    pub(super) sha256: String,
}

/// Reads a file within limits.
pub(super) fn decode(path: &Path, limits: &Limits) -> Result<Decoded> {
    let shown = path.display();
    let mut bytes = Vec::new();
    open(path)?
        .take(limits.bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(format!("cannot read {shown}"), e))?;
    if bytes.len() as u64 > limits.bytes {
        return Err(Error::image(format!("{shown} has more than {} bytes", limits.bytes)));
    }
    let sha256 = sha256(&bytes);
    let broken = |e: image::ImageError| Error::image(format!("{shown} cannot be read as an image")).with_source(e);
    let mut reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(|e| Error::io(format!("cannot read {shown}"), e))?;
    if reader.format().is_none() {
        return Err(Error::image(format!("{shown} is not an image that can be read: {FORMATS} are")));
    }
    let side = limits.side.min(MAX_SIDE);
    let mut bounds = image::Limits::no_limits();
    bounds.max_alloc = Some(limits.bytes);
    // Sides are checked here and not by the decoder, whose error would not say what they are.
    reader.limits(bounds.clone());
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width > side || height > side {
        return Err(Error::image(format!("{shown} has {width}x{height} pixels; a side may have {side}")));
    }
    if width == 0 || height == 0 {
        return Err(Error::image(format!("{shown} has {width}x{height} pixels: there is nothing to see")));
    }
    let total = decoder.total_bytes();
    if total > limits.bytes {
        return Err(Error::image(format!(
            "{shown} has {width}x{height} pixels, {total} bytes; at most {} are read: make it smaller",
            limits.bytes
        )));
    }
    decoder.set_limits(bounds).map_err(broken)?;
    let orientation = decoder.orientation().map_err(broken)?;
    // Bytes 16 to 19 of a profile name the colours it is for.
    let icc = decoder.icc_profile().ok().flatten().filter(|icc| icc.get(16..20) == Some(b"RGB ".as_slice()));
    let color = decoder.color_type();
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    Ok(Decoded { image, orientation, icc_profile: icc.filter(|_| color.has_color()), sha256 })
}
