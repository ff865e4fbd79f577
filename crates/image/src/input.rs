//! Images to edit: files of any common format, which may be anything.

use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, RgbImage, RgbaImage};
use maskgit_core::memory::reserve;
use maskgit_core::{Error, Result, filled, sha256};
use maskgit_geometry::Mask;

use super::color;
use super::container::{self, Checked, Contents};
use super::jpeg::{self, Jpeg};
use super::{ColorTags, MAX_SIDE, encode, open};

/// The formats that [`read_image`] reads.
pub const FORMATS: &str = "PNG, JPEG, WebP, GIF, BMP and PNM";

/// What is read of an image file. Sizes are checked against its header before anything is allocated for its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The widest and the highest image in pixels; more than [`MAX_SIDE`] is as good as that.
    pub side: u32,
    /// The most bytes of a file, and of the decoded image in the file's own channels and depth: 512 MiB by default. A
    /// decoder's own buffers are bounded by the same number.
    pub bytes: u64,
    /// Whether a JPEG is read that ends in the middle or whose codes are damaged, with a
    /// [warning](SourceImage::warnings); else that is an error. Masks are never read so. No unless set.
    pub allow_damaged: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { side: MAX_SIDE, bytes: 512 << 20, allow_damaged: false }
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
    /// Of a PNG, its chunks cICP, mDCV, cLLI, sRGB, gAMA and cHRM: the type and the data of each. The pixels are never
    /// converted by them.
    pub color_chunks: Vec<([u8; 4], Vec<u8>)>,
    /// What is wrong with the file, each in a sentence for people without a full stop. Nothing, unless
    /// [`Limits::allow_damaged`] is set.
    pub warnings: Vec<String>,
    /// What was done to the colours and what was left out, in the same form.
    pub notes: Vec<String>,
    /// How the file's pixels were turned to make the image upright (EXIF).
    pub orientation: Orientation,
    /// The SHA-256 of the file, as 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl SourceImage {
    /// An image that comes from no file.
    pub fn new(rgb: RgbImage, alpha: Option<GrayImage>) -> Self {
        let (color_chunks, warnings, notes) = (Vec::new(), Vec::new(), Vec::new());
        let orientation = Orientation::NoTransforms;
        let sha256 = String::new();
        Self { rgb, alpha, icc_profile: None, color_chunks, warnings, notes, orientation, sha256 }
    }

    /// The pixels of opacity 0, whose stored colour nobody sees; `None` when there are none.
    ///
    /// # Errors
    ///
    /// As [`Mask::none`].
    pub fn transparent(&self) -> Result<Option<Mask>> {
        self.alpha.as_ref().map_or(Ok(None), transparent)
    }

    /// Encodes an image of the same size as PNG, with this one's opacity, colour profile and colour chunks, and
    /// `metadata` as [`encode_png`](super::encode_png) has it.
    ///
    /// # Errors
    ///
    /// As [`encode_png`](super::encode_png); kind [`Image`](maskgit_core::ErrorKind::Image) when the size differs.
    pub fn encode_png(&self, image: &RgbImage, metadata: Option<&str>) -> Result<Vec<u8>> {
        let tags = ColorTags { icc_profile: self.icc_profile.as_deref(), chunks: &self.color_chunks };
        let Some(alpha) = &self.alpha else {
            return encode(image.as_raw(), png::ColorType::Rgb, image.dimensions(), tags, metadata);
        };
        if alpha.dimensions() != image.dimensions() {
            return Err(Error::image("the image's opacity has another size than its colours"));
        }
        let mut pixels = Vec::new();
        reserve(&mut pixels, alpha.as_raw().len() * 4)
            .map_err(|_| Error::image("no memory to write the image with its opacity"))?;
        for (color, opacity) in image.pixels().zip(alpha.as_raw()) {
            pixels.extend_from_slice(&color.0);
            pixels.push(*opacity);
        }
        encode(&pixels, png::ColorType::Rgba, image.dimensions(), tags, metadata)
    }
}

/// The pixels of opacity 0; `None` when there are none.
///
/// # Errors
///
/// As [`Mask::none`].
pub fn transparent(alpha: &GrayImage) -> Result<Option<Mask>> {
    if !alpha.as_raw().contains(&0) {
        return Ok(None);
    }
    Mask::from_fn(alpha.width(), alpha.height(), |x, y| alpha.get_pixel(x, y).0 == [0]).map(Some)
}

/// Reads an image of one of the [`FORMATS`]; of an animation the first frame.
///
/// The orientation that a camera wrote (EXIF) is applied. Opacity is kept apart. CMYK is converted to sRGB by the
/// file's colour profile; without a usable one by the plain formula, and a note says so. What cannot be read is refused.
///
/// # Errors
///
/// Kind [`Io`](maskgit_core::ErrorKind::Io) when the file cannot be read, [`Image`](maskgit_core::ErrorKind::Image)
/// when it is of none of the formats, damaged, above the limits or larger than the memory that can be had, or has a
/// colour profile of more than 4 MiB.
pub fn read_image(path: &Path, limits: &Limits) -> Result<SourceImage> {
    let (image, decoded, sha256) = decode(path, limits)?;
    let Decoded { icc, color_chunks, warnings, notes, orientation, .. } = decoded;
    let (rgb, alpha) = if image.color().has_alpha() { split(&image.into_rgba8())? } else { (image.into_rgb8(), None) };
    Ok(SourceImage { rgb, alpha, icc_profile: icc, color_chunks, warnings, notes, orientation, sha256 })
}

/// The colours, and the opacity where any pixel is not opaque.
fn split(rgba: &RgbaImage) -> Result<(RgbImage, Option<GrayImage>)> {
    let (width, height) = rgba.dimensions();
    let pixels = width as usize * height as usize;
    let mut rgb = filled(pixels * 3, 0, "the image")?;
    for (to, from) in rgb.chunks_exact_mut(3).zip(rgba.pixels()) {
        to.copy_from_slice(&from.0[..3]);
    }
    let wrong = || Error::internal("an image's buffer does not have its size");
    let rgb = RgbImage::from_raw(width, height, rgb).ok_or_else(wrong)?;
    if rgba.pixels().all(|pixel| pixel.0[3] == 255) {
        return Ok((rgb, None));
    }
    let mut alpha = filled(pixels, 0, "the image's opacity")?;
    alpha.iter_mut().zip(rgba.pixels()).for_each(|(to, from)| *to = from.0[3]);
    Ok((rgb, Some(GrayImage::from_raw(width, height, alpha).ok_or_else(wrong)?)))
}

/// A decoded image, with what stood beside its pixels.
pub(super) struct Decoded {
    pub image: DynamicImage,
    /// How it is to be turned.
    pub orientation: Orientation,
    pub icc: Option<Vec<u8>>,
    pub color_chunks: Vec<([u8; 4], Vec<u8>)>,
    pub warnings: Vec<String>,
    pub notes: Vec<String>,
}

impl Decoded {
    pub fn new(image: DynamicImage, orientation: Orientation) -> Self {
        let (warnings, notes) = (Vec::new(), Vec::new());
        Self { image, orientation, icc: None, color_chunks: Vec::new(), warnings, notes }
    }

    /// Turns the image upright, and leaves out a profile that is not for its colours as they now are.
    fn upright(mut self) -> Self {
        self.image.apply_orientation(self.orientation);
        let was = self.icc.as_deref().and_then(color::space).unwrap_or("nothing known").to_owned();
        let fits = was == "RGB" && self.image.color().has_color();
        if self.icc.take_if(|_| !fits).is_some() && was != "CMYK" {
            self.notes.push(format!("the image's colour profile, which is for {was}, was left out of the result"));
        }
        self
    }
}

/// The upright image with what stood beside it, what is left out of masks, and the file's SHA-256.
pub(super) fn decode(path: &Path, limits: &Limits) -> Result<(DynamicImage, Decoded, String)> {
    let shown = path.display();
    let bytes = read_file(path, limits)?;
    let refused = |reason: String| Error::image(format!("{shown} {reason}"));
    let broken = |reason: String| Error::image(format!("{shown} cannot be read as an image: {reason}"));
    let format = container::format(&bytes).map_err(|name| {
        let kind = name.map_or("not an image that can be read".into(), |name| format!("{name}, which is not read"));
        refused(format!("is {kind}: {FORMATS} are"))
    })?;
    let contents = container::scan(format, &bytes).map_err(refused)?;
    // Decoders copy what stands in front of the pixels.
    room(bytes.len() as u64, bytes.len() as u64).map_err(refused)?;
    let mut decoded = if format == ImageFormat::Jpeg {
        let jpeg = Jpeg::new(&bytes, broken)?;
        let needs = Needs { size: jpeg.dimensions(), total: jpeg.total_bytes(), own: contents.own_bytes };
        needs.check(limits).map_err(refused)?;
        if let Some(damage) = contents.damage.as_ref().filter(|_| !limits.allow_damaged) {
            return Err(jpeg::damaged(damage, broken));
        }
        needs.try_memory().map_err(refused)?;
        jpeg.decode(contents.damage, limits.allow_damaged, broken)?
    } else {
        decode_other(format, &bytes, contents, limits, (&refused, &broken))?
    };
    let sha256 = sha256(&bytes);
    drop(bytes);
    decoded = decoded.upright();
    let image = std::mem::take(&mut decoded.image);
    Ok((image, decoded, sha256))
}

/// The file's bytes.
fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>> {
    let shown = path.display();
    let file = open(path)?;
    let mut bytes = Vec::new();
    let length = file.metadata().map_or(0, |found| found.len()).min(limits.bytes);
    reserve(&mut bytes, usize::try_from(length).unwrap_or(usize::MAX))
        .map_err(|_| Error::image(format!("no memory for the {length} bytes of {shown}")))?;
    file.take(limits.bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(format!("cannot read {shown}"), e))?;
    if bytes.len() as u64 > limits.bytes {
        return Err(Error::image(format!("{shown} has more than {} bytes", limits.bytes)));
    }
    Ok(bytes)
}

/// Decodes what is not a JPEG. `refused` and `broken` make errors of reasons.
fn decode_other(
    format: ImageFormat,
    bytes: &[u8],
    mut contents: Contents,
    limits: &Limits,
    (refused, broken): (&dyn Fn(String) -> Error, &dyn Fn(String) -> Error),
) -> Result<Decoded> {
    let broken = |e: image::ImageError| broken(e.to_string());
    let mut bounds = image::Limits::no_limits();
    bounds.max_alloc = Some(limits.bytes);
    // Sides are checked here and not by the decoder, whose error would not say what they are.
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(bounds.clone());
    let mut decoder = reader.into_decoder().map_err(broken)?;
    if format == ImageFormat::Pnm {
        contents.damage = container::pnm_damage(bytes, decoder.total_bytes());
    }
    let needs = Needs { size: decoder.dimensions(), total: decoder.total_bytes(), own: contents.own_bytes };
    needs.check(limits).map_err(refused)?;
    if let Some(damage) = contents.damage {
        return Err(refused(format!("is damaged: {damage}")));
    }
    needs.try_memory().map_err(refused)?;
    decoder.set_limits(bounds).map_err(broken)?;
    let orientation = decoder.orientation().map_err(broken)?;
    let icc = decoder.icc_profile().ok().flatten();
    container::check_profile(icc.as_ref().map_or(0, |icc| icc.len() as u64)).map_err(refused)?;
    let mut decoded = Decoded::new(DynamicImage::from_decoder(decoder).map_err(broken)?, orientation);
    decoded.icc = icc;
    decoded.color_chunks = contents.color_chunks;
    Ok(decoded)
}

/// What an image takes.
#[derive(Clone, Copy)]
struct Needs {
    /// Width and height.
    size: (u32, u32),
    /// Bytes of the decoded image.
    total: u64,
    /// Bytes that the decoder takes besides.
    own: u64,
}

impl Needs {
    /// Checks the sizes against the limits. An error says why, to go after the file's name.
    fn check(self, limits: &Limits) -> Checked<()> {
        let Self { size: (width, height), total, own } = self;
        let (side, most) = (limits.side.min(MAX_SIDE), limits.bytes);
        if width > side || height > side {
            return Err(format!("has {width}x{height} pixels; a side may have {side}"));
        }
        if width == 0 || height == 0 {
            return Err(format!("has {width}x{height} pixels: there is nothing to see"));
        }
        if total > most {
            return Err(format!(
                "has {width}x{height} pixels, {total} bytes; at most {most} are read: make it smaller"
            ));
        }
        if own > most {
            return Err(format!(
                "has {width}x{height} pixels, and decoding them takes {own} bytes; at most {most} are taken: make it \
                 smaller"
            ));
        }
        Ok(())
    }

    /// Tries whether the memory can be had for all that is done to the image here.
    fn try_memory(self) -> Checked<()> {
        // After decoding it is turned, and becomes RGB and opacity.
        let pixels = u64::from(self.size.0) * u64::from(self.size.1);
        room(self.total, self.own.max(self.total).max(pixels * 4))
    }
}

/// Tries whether memory can be had, and gives it back: decoders abort the program where theirs cannot be had. So a
/// limited address space (`ulimit -v`, a 32-bit machine, a container that counts what is reserved) is an error in
/// words.
/// It is no promise: other threads may take the memory between, small buffers are not counted, and a system that
/// promises more than it has kills a program when it touches the memory.
fn room(pixels: u64, others: u64) -> Checked<()> {
    let take = |bytes: u64| {
        let mut room = Vec::<u8>::new();
        reserve(&mut room, usize::try_from(bytes).ok()?).ok()?;
        // Without this the reservation, which nothing uses, may be left out of the program.
        Some(std::hint::black_box(room))
    };
    let (pixels_room, others_room) = (take(pixels), take(others));
    if pixels_room.is_some() && others_room.is_some() {
        return Ok(());
    }
    Err(format!(
        "takes {} bytes of memory to read, which cannot be had: make it smaller",
        pixels.saturating_add(others)
    ))
}
