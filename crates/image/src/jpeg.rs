//! JPEG: what is damaged is known, and CMYK goes through its profile.

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use maskgit_core::{Error, Result};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::color::{cmyk_to_rgb, space};
use super::input::Decoded;

/// A JPEG whose headers are read.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    width: u32,
    height: u32,
    colors: ColorSpace,
    icc: Option<Vec<u8>>,
    orientation: Orientation,
}

impl<'a> Jpeg<'a> {
    /// Reads the headers. `broken` makes an error of what is wrong with them.
    pub fn new(bytes: &'a [u8], broken: impl Fn(String) -> Error) -> Result<Self> {
        let mut decoder = decoder(bytes, ColorSpace::RGB);
        decoder.decode_headers().map_err(|e| broken(told(&e)))?;
        let (Some(info), Some(colors)) = (decoder.info(), decoder.input_colorspace()) else {
            return Err(broken("it has no frame".into()));
        };
        let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
        Ok(Self {
            bytes,
            width: info.width.into(),
            height: info.height.into(),
            colors,
            icc: decoder.icc_profile(),
            orientation: orientation.unwrap_or(Orientation::NoTransforms),
        })
    }

    /// The width and the height before the image is turned.
    pub fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Bytes of the decoded image.
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * self.output().num_components() as u64
    }

    /// The colours that are asked for: inks where a profile says what they are.
    fn output(&self) -> ColorSpace {
        let profile = self.icc.as_deref().and_then(space);
        match self.colors {
            ColorSpace::Luma => ColorSpace::Luma,
            ColorSpace::CMYK | ColorSpace::YCCK if profile == Some("CMYK") => self.colors,
            _ => ColorSpace::RGB,
        }
    }

    /// Decodes. `broken` makes an error of what is wrong, `damage` is what is known of it already; with `allow_damaged`
    /// what can be read is given, and a warning.
    pub fn decode(
        self,
        damage: Option<String>,
        allow_damaged: bool,
        broken: impl Fn(String) -> Error,
    ) -> Result<Decoded> {
        let mut decoded = Decoded::new(DynamicImage::default(), self.orientation);
        let mut output = self.output();
        let (mut pixels, fault) = self.pixels(output, &broken)?;
        if let Some(damage) = damage.or(fault) {
            if !allow_damaged {
                return Err(damaged(&damage, broken));
            }
            decoded.warnings.push(format!("the image is damaged: {damage}; what can be read of it is used"));
        }
        if matches!(output, ColorSpace::CMYK | ColorSpace::YCCK) {
            let rgb = self.icc.as_deref().and_then(|icc| cmyk_to_rgb(&mut pixels, output == ColorSpace::YCCK, icc));
            if let Some(rgb) = rgb {
                pixels = rgb;
                decoded.notes.push("the image's CMYK was converted to sRGB by its colour profile".into());
            } else {
                output = ColorSpace::RGB;
                drop(std::mem::take(&mut pixels));
                pixels = self.pixels(output, &broken)?.0;
                decoded.notes.push(
                    "the image's CMYK was converted to RGB without its colour profile, which cannot be used".into(),
                );
            }
        } else if matches!(self.colors, ColorSpace::CMYK | ColorSpace::YCCK) {
            decoded.notes.push("the image's CMYK was converted to RGB without a colour profile: it has none".into());
        }
        let (width, height) = self.dimensions();
        let image = match output {
            ColorSpace::Luma => GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8),
            _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
        };
        decoded.image = image.ok_or_else(|| Error::internal("a JPEG's buffer does not have its size"))?;
        decoded.icc = self.icc;
        Ok(decoded)
    }

    /// The pixels, and what is wrong with the codes where something is: they are decoded with no fault forgiven first,
    /// and then as far as it goes.
    fn pixels(&self, output: ColorSpace, broken: &impl Fn(String) -> Error) -> Result<(Vec<u8>, Option<String>)> {
        let length = (u64::from(self.width) * u64::from(self.height)).saturating_mul(output.num_components() as u64);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut pixels = maskgit_core::filled(length, 0, "the image")?;
        let mut strict = decoder(self.bytes, output);
        // Headers may have bytes between them; the codes may not.
        strict.decode_headers().map_err(|e| broken(told(&e)))?;
        strict.set_options(strict.options().set_strict_mode(true));
        let Err(fault) = strict.decode_into(&mut pixels) else { return Ok((pixels, None)) };
        drop(strict);
        pixels.fill(0);
        decoder(self.bytes, output).decode_into(&mut pixels).map_err(|e| broken(told(&e)))?;
        Ok((pixels, Some(told(&fault))))
    }
}

/// The error of a file that is damaged, which may be read nevertheless.
pub(super) fn damaged(damage: &str, broken: impl Fn(String) -> Error) -> Error {
    broken(format!(
        "the JPEG is damaged: {damage}; with --allow-damaged (allow_damaged in the library) what is there of an image, \
         not of a mask, is read"
    ))
}

/// What is wrong, without the quotation marks that some of the decoder's errors have.
fn told(error: &DecodeErrors) -> String {
    error.to_string().replace('"', "")
}

fn decoder(bytes: &[u8], output: ColorSpace) -> JpegDecoder<ZCursor<&[u8]>> {
    // Sides are checked by the caller, whose error says what they are.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(output);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}
