//! Masks in files: the ways in which programs write them, read as they are meant, or refused in words.

use std::fmt;
use std::path::Path;

use image::metadata::Orientation;
use image::{GrayImage, RgbaImage};
use maskgit_core::{Error, Result, copied, filled};
use maskgit_geometry::Mask;

use super::input::decode;
use super::{Limits, SourceImage};

/// What of a mask's file says which pixels are repainted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MaskFrom {
    /// Whatever it plainly is: an image of black, white and grey, a layer with paint on it, a brush on black, or an
    /// image of which a part was erased. Another image is an error.
    #[default]
    Auto,
    /// The opacity: what is opaque is repainted. The strongest opacity of the file counts as full.
    Alpha,
    /// The brightness times the opacity: white is repainted.
    Luma,
    /// The strongest of red, green and blue, times the opacity: what is not black is repainted. The strongest value of
    /// the file counts as full.
    Any,
}

impl MaskFrom {
    /// The values, in order, by name.
    pub const NAMES: [(&'static str, Self); 4] =
        [("auto", Self::Auto), ("alpha", Self::Alpha), ("luma", Self::Luma), ("any", Self::Any)];

    /// The name: `auto`, `alpha`, `luma` or `any`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, from)| *from == self).map_or("auto", |(name, _)| name)
    }
}

/// How [`read_mask`] reads a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaskOptions {
    /// What of the file says which pixels are repainted.
    pub from: MaskFrom,
    /// Repaint what would be kept, and keep what would be repainted.
    pub invert: bool,
    /// Bring a mask of another size, but of the image's proportions, to the image's size.
    pub resize: bool,
}

impl MaskOptions {
    /// Reads what the file plainly is, as it is, of the image's size.
    pub fn new() -> Self {
        Self::default()
    }

    /// With another way to read it.
    #[must_use]
    pub fn with_from(mut self, from: MaskFrom) -> Self {
        self.from = from;
        self
    }

    /// Inverted or not.
    #[must_use]
    pub fn with_invert(mut self, invert: bool) -> Self {
        self.invert = invert;
        self
    }

    /// Brought to the image's size or not.
    #[must_use]
    pub fn with_resize(mut self, resize: bool) -> Self {
        self.resize = resize;
        self
    }
}

/// A mask from a file, and how it was read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SourceMask {
    /// The mask, of the image's size.
    pub mask: Mask,
    /// The options that read it: never [`MaskFrom::Auto`], and `invert` says what became of the file's values. With
    /// them the same file gives the same mask.
    pub options: MaskOptions,
    /// Whether it was turned as the image was, by the image's EXIF orientation.
    pub turned: bool,
    /// The size of the file's image, upright by its own EXIF orientation.
    pub size: (u32, u32),
    /// The SHA-256 of the file, as 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl SourceMask {
    /// Which pixels of the file, which is called `name`, are repainted, as in `white pixels of mask.png`.
    pub fn describe(&self, name: &str) -> String {
        let what = match (self.options.from, self.options.invert) {
            (MaskFrom::Alpha, false) => "opaque pixels",
            (MaskFrom::Alpha, true) => "transparent pixels",
            (MaskFrom::Any, false) => "coloured pixels",
            (MaskFrom::Any, true) => "black pixels",
            (_, false) => "white pixels",
            (_, true) => "black pixels",
        };
        let mut text = format!("{what} of {name}");
        if self.turned {
            text.push_str(", turned as the image is by EXIF");
        }
        if (self.mask.width(), self.mask.height()) != if self.turned { swapped(self.size) } else { self.size } {
            text.push_str(&format!(", resized from {}x{}", self.size.0, self.size.1));
        }
        text
    }
}

/// Reads the mask of an edit of `image`. Its values may lie between 0 and full: see [`Mask`].
///
/// A mask whose sides are those of the image before its EXIF orientation was applied is turned as the image was.
///
/// # Errors
///
/// As [`read_image`](super::read_image); kind [`Image`](maskgit_core::ErrorKind::Image) when the file is not plainly a
/// mask and `options` do not say how to read it, or they ask for an opacity that it does not have; kind
/// [`Request`](maskgit_core::ErrorKind::Request) when it has another size than the image and is not to be resized, or
/// other proportions.
pub fn read_mask(path: &Path, limits: &Limits, image: &SourceImage, options: &MaskOptions) -> Result<SourceMask> {
    let (decoded, _, sha256) = decode(path, &Limits { allow_damaged: false, ..*limits })?;
    let pixels = decoded.into_rgba8();
    let shown = path.display();
    let size = pixels.dimensions();
    let (turned, wanted) = (fit(size, image, options, &shown)?, image.rgb.dimensions());
    let (from, invert) = match options.from {
        MaskFrom::Auto => Counts::of(&pixels)?.reading().map_err(|what| {
            Error::image(format!(
                "{shown} is not plainly a mask: {what}; say what is repainted with --mask-from alpha (what is opaque), \
                 luma (what is white) or any (what is not black), and --invert-mask for the rest"
            ))
        })?,
        from => (from, false),
    };
    if from == MaskFrom::Alpha && pixels.pixels().all(|pixel| pixel.0[3] == 255) {
        return Err(Error::image(format!(
            "{shown} has no transparent pixel, so --mask-from alpha says nothing: try --mask-from luma or any"
        )));
    }
    let options = MaskOptions { from, invert: invert != options.invert, ..*options };
    let mut weights = weights(&pixels, from, options.invert)?;
    drop(pixels);
    if turned {
        weights = turn(&weights, image.orientation)?;
    }
    if weights.dimensions() != wanted {
        weights = resized(&weights, wanted)?;
    }
    Ok(SourceMask { mask: Mask::from_image(&weights)?, options, turned, size, sha256 })
}

/// Reads a mask as versions before 0.2 did: a pixel is repainted, and entirely, where its brightness times its opacity
/// is at least half of white. Records of these versions need it.
///
/// # Errors
///
/// As [`read_image`](super::read_image).
pub fn read_hard_mask(path: &Path, limits: &Limits) -> Result<(Mask, String)> {
    let (decoded, _, sha256) = decode(path, &Limits { allow_damaged: false, ..*limits })?;
    let image = decoded.into_luma_alpha8();
    let white = |x: u32, y: u32| {
        let [brightness, opacity] = image.get_pixel(x, y).0;
        u32::from(brightness) * u32::from(opacity) >= 128 * 255
    };
    Ok((Mask::from_fn(image.width(), image.height(), white)?, sha256))
}

fn swapped((width, height): (u32, u32)) -> (u32, u32) {
    (height, width)
}

/// Whether an orientation swaps width and height.
fn swaps(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Whether a mask of this size must be turned as the image was; an error where it does not fit.
fn fit(size: (u32, u32), image: &SourceImage, options: &MaskOptions, shown: &dyn fmt::Display) -> Result<bool> {
    let wanted = image.rgb.dimensions();
    if size == wanted {
        return Ok(false);
    }
    let turns = swaps(image.orientation);
    if turns && size == swapped(wanted) {
        return Ok(true);
    }
    // Rounding a scaled size may cost a pixel, or 3 in a thousand.
    let alike = |(width, height): (u32, u32)| {
        let (a, b) = (f64::from(width) * f64::from(wanted.1), f64::from(height) * f64::from(wanted.0));
        let slack = f64::from(wanted.0.max(wanted.1)).max(0.003 * a.max(b));
        (a - b).abs() <= slack
    };
    let sizes = format!("the mask {shown} is {}x{} pixels, and the image {}x{}", size.0, size.1, wanted.0, wanted.1);
    match (options.resize, alike(size), turns && alike(swapped(size))) {
        (true, true, _) => Ok(false),
        (true, false, true) => Ok(true),
        (false, true, _) | (false, _, true) => {
            Err(Error::request(format!("{sizes}: --resize-mask brings it to the image's size")))
        }
        (_, false, false) => Err(Error::request(format!(
            "{sizes}: they must have one size, or for --resize-mask the same proportions{}",
            if size == swapped(wanted) { "; turn it as the image is" } else { "" }
        ))),
    }
}

/// The values of a mask: 255 is repainted, 0 is not. What is a hair from either is that, as JPEG leaves such noise.
fn weights(pixels: &RgbaImage, from: MaskFrom, invert: bool) -> Result<GrayImage> {
    let value = |[red, green, blue, opacity]: [u8; 4]| {
        let (red, green, blue) = (u32::from(red), u32::from(green), u32::from(blue));
        let value = match from {
            MaskFrom::Alpha => 255,
            // Rec. 709, as the image crate has it.
            MaskFrom::Auto | MaskFrom::Luma => (2126 * red + 7152 * green + 722 * blue) / 10_000,
            MaskFrom::Any => red.max(green).max(blue),
        };
        (value * u32::from(opacity) + 127) / 255
    };
    let full = match from {
        MaskFrom::Auto | MaskFrom::Luma => 255,
        MaskFrom::Alpha | MaskFrom::Any => pixels.pixels().map(|pixel| value(pixel.0)).max().unwrap_or(255).max(1),
    };
    let mut bytes = filled(pixels.as_raw().len() / 4, 0u8, "the mask")?;
    for (byte, pixel) in bytes.iter_mut().zip(pixels.pixels()) {
        let value = (value(pixel.0) * 255 + full / 2) / full;
        let value = if invert { 255 - value.min(255) } else { value.min(255) };
        *byte = match value {
            0..=4 => 0,
            251.. => 255,
            value => value as u8,
        };
    }
    GrayImage::from_raw(pixels.width(), pixels.height(), bytes)
        .ok_or_else(|| Error::internal("a mask's buffer does not have its size"))
}

/// Turns a mask as `DynamicImage::apply_orientation` turns an image, for the orientations that swap sides.
fn turn(weights: &GrayImage, orientation: Orientation) -> Result<GrayImage> {
    let (width, height) = swapped(weights.dimensions());
    let mut bytes = filled(weights.as_raw().len(), 0u8, "the mask")?;
    for (y, row) in (0..height).zip(bytes.chunks_exact_mut(width as usize)) {
        for (x, byte) in (0..width).zip(row) {
            let (left, top) = match orientation {
                Orientation::Rotate90 => (y, width - 1 - x),
                Orientation::Rotate270 => (height - 1 - y, x),
                Orientation::Rotate270FlipH => (height - 1 - y, width - 1 - x),
                _ => (y, x),
            };
            *byte = weights.get_pixel(left, top).0[0];
        }
    }
    GrayImage::from_raw(width, height, bytes).ok_or_else(|| Error::internal("a mask's buffer does not have its size"))
}

/// Another size: enlarged by the nearest pixel, reduced by the mean of the pixels that lie in each.
fn resized(weights: &GrayImage, (width, height): (u32, u32)) -> Result<GrayImage> {
    let across = resized_rows(weights.as_raw(), weights.width(), width)?;
    let down = resized_rows(&transposed(&across, width, weights.height())?, weights.height(), height)?;
    GrayImage::from_raw(width, height, transposed(&down, height, width)?)
        .ok_or_else(|| Error::internal("a mask's buffer does not have its size"))
}

/// Rows of `from` values brought to `to`.
fn resized_rows(values: &[u8], from: u32, to: u32) -> Result<Vec<u8>> {
    let rows = values.len() / from as usize;
    let mut out = filled(rows * to as usize, 0u8, "the mask")?;
    let start = |place: u32| (u64::from(place) * u64::from(from) / u64::from(to)) as usize;
    for (row, out) in values.chunks_exact(from as usize).zip(out.chunks_exact_mut(to as usize)) {
        for (place, value) in (0..to).zip(out) {
            let (first, end) = if from > to {
                (start(place), start(place + 1))
            } else {
                let nearest = ((2 * u64::from(place) + 1) * u64::from(from) / (2 * u64::from(to))) as usize;
                (nearest, nearest + 1)
            };
            let sum: u64 = row[first..end].iter().map(|&value| u64::from(value)).sum();
            let count = (end - first) as u64;
            *value = ((sum + count / 2) / count) as u8;
        }
    }
    Ok(out)
}

/// Rows of `width` values as columns.
fn transposed(values: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let mut out = copied(values, "the mask")?;
    for (y, row) in values.chunks_exact(width as usize).enumerate() {
        for (x, &value) in row.iter().enumerate() {
            out[x * height as usize + y] = value;
        }
    }
    Ok(out)
}

/// What a file's pixels are like, to tell which kind of mask it is.
struct Counts {
    /// All pixels.
    all: u64,
    /// Pixels that cannot be seen, and those that are opaque, each but for a hair.
    clear: u64,
    opaque: u64,
    /// Visible pixels that are black, and those that are white.
    black: u64,
    white: u64,
    /// Visible pixels that are neither black nor grey nor white.
    coloured: u64,
    /// Visible pixels, and the most that few colours cover of them.
    visible: u64,
    flat: u64,
    /// Visible pixels that are not black, and the most that few hues cover of them.
    bright: u64,
    flat_bright: u64,
}

/// Differences that JPEG makes of one colour.
const NOISE: u8 = 24;

/// Levels a channel in which colours are counted.
const LEVELS: usize = 16;

/// Colours that a brush or some brushes may have, each with its neighbours.
const BRUSHES: usize = 4;

impl Counts {
    fn of(pixels: &RgbaImage) -> Result<Self> {
        let mut colours = filled(LEVELS * LEVELS * LEVELS, 0u64, "the colours of a mask")?;
        let mut hues = filled(LEVELS * LEVELS * LEVELS, 0u64, "the colours of a mask")?;
        let place =
            |rgb: [u8; 3]| rgb.iter().fold(0, |place, &value| place * LEVELS + usize::from(value) * LEVELS / 256);
        // Edges that were smoothed are mixtures: what is seen at half the strongest opacity says what was painted.
        let strongest = pixels.pixels().map(|pixel| pixel.0[3]).max().unwrap_or(255);
        let (mut clear, mut opaque, mut black, mut white, mut coloured) = (0, 0, 0, 0, 0);
        for &image::Rgba([red, green, blue, opacity]) in pixels.pixels() {
            clear += u64::from(opacity <= 8);
            opaque += u64::from(opacity >= 247);
            if opacity <= strongest / 2 {
                continue;
            }
            let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
            black += u64::from(most <= NOISE);
            white += u64::from(least >= 255 - NOISE);
            coloured += u64::from(most - least > NOISE);
            colours[place([red, green, blue])] += 1;
            if most > NOISE {
                // The hue at full strength: a brush that fades into black keeps it.
                let full = |value: u8| (u32::from(value) * 255 / u32::from(most)) as u8;
                hues[place([full(red), full(green), full(blue)])] += 1;
            }
        }
        let total = |counts: &[u64]| counts.iter().sum::<u64>();
        let (visible, bright) = (total(&colours), total(&hues));
        let (flat, flat_bright) = (flat(&mut colours), flat(&mut hues));
        let all = u64::from(pixels.width()) * u64::from(pixels.height());
        Ok(Self { all, clear, opaque, black, white, coloured, visible, flat, bright, flat_bright })
    }

    /// What is repainted, and whether inverted; or what speaks against each.
    fn reading(&self) -> std::result::Result<(MaskFrom, bool), &'static str> {
        let Self { all, clear, opaque, black, white, coloured, visible, flat, bright, flat_bright } = *self;
        let most = |part: u64, of: u64| part * 20 >= of * 19;
        let few_colours = most(flat, visible);
        if clear == all || visible == 0 {
            return Ok((MaskFrom::Alpha, false));
        }
        if opaque == all {
            let grey = coloured * 200 <= all;
            return if grey {
                Ok((MaskFrom::Luma, false))
            } else if black * 10 >= all && most(flat_bright, bright) {
                Ok((MaskFrom::Any, false))
            } else {
                Err("it is an opaque image in colours")
            };
        }
        let both = black * 100 >= visible && white * 100 >= visible && most(black + white, visible);
        if clear == 0 {
            Err("it is transparent in part, but nowhere entirely")
        } else if both {
            Err("some of it is white, some black and some transparent")
        } else if few_colours && clear * 2 > all {
            Ok((MaskFrom::Alpha, false))
        } else if few_colours {
            Err("at most half of it is transparent, and what is not has few colours: it may be paint, or what stays")
        } else if opaque * 2 > all {
            Ok((MaskFrom::Alpha, true))
        } else {
            Err("it is an image that is transparent for the most part")
        }
    }
}

/// What the most frequent colours, with their neighbours, cover. Takes them out.
fn flat(counts: &mut [u64]) -> u64 {
    let mut covered = 0;
    for _ in 0..BRUSHES {
        let Some((place, _)) = counts.iter().enumerate().max_by_key(|(_, count)| **count) else { break };
        let near = |value: usize| value.saturating_sub(1)..(value + 2).min(LEVELS);
        for red in near(place / LEVELS / LEVELS) {
            for green in near(place / LEVELS % LEVELS) {
                for blue in near(place % LEVELS) {
                    covered += std::mem::take(&mut counts[(red * LEVELS + green) * LEVELS + blue]);
                }
            }
        }
    }
    covered
}
