//! Images in files: reading any common format within limits, writing PNG with text metadata, contact sheets, and
//! nearest-neighbour scaling.
//!
//! An app uses the crate `maskgit`; this one may change with every version.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod color;
mod container;
mod input;
mod jpeg;
mod mask;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use image::RgbImage;
use maskgit_core::{Error, Result};
pub use maskgit_geometry::MAX_SIDE;
use maskgit_geometry::check_size;

pub use input::{FORMATS, Limits, SourceImage, read_image, transparent};
pub use mask::{MaskFrom, MaskOptions, SourceMask, read_hard_mask, read_mask};

/// The keyword of the PNG text chunk (`iTXt`, not compressed, UTF-8) that holds the parameters as JSON.
pub const METADATA_KEY: &str = "maskgit";

/// The longest metadata that is written or read: 1 MiB.
pub const MAX_METADATA_BYTES: usize = 1 << 20;

/// The largest file and the largest decoded image that are read: 1 GiB, an image of [`MAX_SIDE`] squared in RGB
/// with something to spare.
const MAX_BYTES: u64 = 1 << 30;

/// Encodes an image as PNG: 8-bit RGB, with `metadata` in a text chunk of key [`METADATA_KEY`] in front of the pixels.
///
/// # Errors
///
/// Kind [`Image`](maskgit_core::ErrorKind::Image) when the picture is larger than [`MAX_SIDE`] or the metadata than
/// [`MAX_METADATA_BYTES`].
pub fn encode_png(image: &RgbImage, metadata: Option<&str>) -> Result<Vec<u8>> {
    encode(image.as_raw(), png::ColorType::Rgb, image.dimensions(), ColorTags::default(), metadata)
}

/// What says what the colours of a PNG mean.
#[derive(Clone, Copy, Default)]
struct ColorTags<'a> {
    icc_profile: Option<&'a [u8]>,
    /// Chunks: type and data.
    chunks: &'a [([u8; 4], Vec<u8>)],
}

/// Encodes the pixels of `color`, with what its colours mean and metadata.
fn encode(
    pixels: &[u8],
    color: png::ColorType,
    (width, height): (u32, u32),
    tags: ColorTags<'_>,
    metadata: Option<&str>,
) -> Result<Vec<u8>> {
    check_size(width.into(), height.into())?;
    let failed = |e: png::EncodingError| Error::image("cannot encode the PNG").with_source(e);
    let mut bytes = Vec::new();
    let mut info = png::Info::with_size(width, height);
    info.color_type = color;
    info.bit_depth = png::BitDepth::Eight;
    info.icc_profile = tags.icc_profile.map(Into::into);
    let mut encoder = png::Encoder::with_info(&mut bytes, info).map_err(failed)?;
    if let Some(text) = metadata {
        if text.len() > MAX_METADATA_BYTES {
            return Err(Error::image(format!(
                "the parameters of the image take {} bytes; a PNG of ours holds {MAX_METADATA_BYTES}",
                text.len()
            )));
        }
        encoder.add_itxt_chunk(METADATA_KEY.into(), text.into()).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    for (kind, data) in tags.chunks {
        writer.write_chunk(png::chunk::ChunkType(*kind), data).map_err(failed)?;
    }
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Reads the metadata that [`encode_png`] wrote: the text of the first chunk of key [`METADATA_KEY`], in any of PNG's
/// three kinds of text chunk, before or after the pixels. `None`: the PNG has no such chunk.
///
/// # Errors
///
/// Kind [`Io`](maskgit_core::ErrorKind::Io) when the file cannot be read, [`Image`](maskgit_core::ErrorKind::Image)
/// when it is not a PNG or its text is damaged or longer than [`MAX_METADATA_BYTES`].
pub fn read_metadata(path: &Path) -> Result<Option<String>> {
    let broken = |e: png::DecodingError| Error::image(format!("{} is not a valid PNG", path.display())).with_source(e);
    let mut decoder = png::Decoder::new_with_limits(
        BufReader::new(open(path)?),
        // The decoder's own text buffers, with room for chunks that are not ours.
        png::Limits { bytes: 8 * MAX_METADATA_BYTES },
    );
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(broken)?;
    if !has_metadata(reader.info()) {
        // A program that wrote the file again may have put it after the pixels.
        reader.finish().map_err(broken)?;
    }
    let info = reader.info();
    let text = if let Some(chunk) = info.utf8_text.iter().find(|c| c.keyword == METADATA_KEY) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_METADATA_BYTES).map_err(broken)?;
        chunk.get_text().map_err(broken)?
    } else if let Some(chunk) = info.uncompressed_latin1_text.iter().find(|c| c.keyword == METADATA_KEY) {
        chunk.text.clone()
    } else if let Some(chunk) = info.compressed_latin1_text.iter().find(|c| c.keyword == METADATA_KEY) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_METADATA_BYTES).map_err(broken)?;
        chunk.get_text().map_err(broken)?
    } else {
        return Ok(None);
    };
    if text.len() > MAX_METADATA_BYTES {
        return Err(Error::image(format!(
            "the parameters in {} take {} bytes; at most {MAX_METADATA_BYTES} are read",
            path.display(),
            text.len()
        )));
    }
    Ok(Some(text))
}

/// Whether a text chunk of ours has been read.
fn has_metadata(info: &png::Info<'_>) -> bool {
    info.utf8_text.iter().any(|c| c.keyword == METADATA_KEY)
        || info.uncompressed_latin1_text.iter().any(|c| c.keyword == METADATA_KEY)
        || info.compressed_latin1_text.iter().any(|c| c.keyword == METADATA_KEY)
}

/// Opens a regular file of a bearable size.
fn open(path: &Path) -> Result<File> {
    let failed = |e| Error::io(format!("cannot read {}", path.display()), e);
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(Error::new(
            maskgit_core::ErrorKind::Io,
            format!("cannot read {}: it is not a file", path.display()),
        ));
    }
    if found.len() > MAX_BYTES {
        return Err(Error::image(format!("{} has more than {MAX_BYTES} bytes", path.display())));
    }
    File::open(path).map_err(failed)
}

/// Enlarges an image by a whole number, without smoothing: each pixel becomes a square of `scale` by `scale`.
///
/// # Errors
///
/// Kind [`Image`](maskgit_core::ErrorKind::Image) when `scale` is 0 or the result is larger than [`MAX_SIDE`].
pub fn enlarge(image: &RgbImage, scale: u32) -> Result<RgbImage> {
    if scale == 0 {
        return Err(Error::image("the scale must be at least 1"));
    }
    let (width, height) = (u64::from(image.width()) * u64::from(scale), u64::from(image.height()) * u64::from(scale));
    let (width, height) = check_size(width, height)?;
    Ok(RgbImage::from_fn(width, height, |x, y| *image.get_pixel(x / scale, y / scale)))
}

/// How images lie on a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sheet {
    /// Images in a row, at least 1.
    pub columns: usize,
    /// White pixels between images. There is no margin around them.
    pub gap: u32,
}

impl Sheet {
    /// The sheet for `count` images that is nearest to a square, at least as wide as high.
    pub fn square(count: usize) -> Self {
        let mut columns = count.isqrt().max(1);
        if columns.saturating_mul(columns) < count {
            columns += 1;
        }
        Self { columns, gap: 2 }
    }

    /// The width and height of a sheet of `count` pictures, `width` by `height` each.
    ///
    /// # Errors
    ///
    /// Kind [`Image`](maskgit_core::ErrorKind::Image) when the sheet is larger than [`MAX_SIDE`], or `columns` is 0.
    pub fn size(&self, count: usize, width: u32, height: u32) -> Result<(u32, u32)> {
        let columns = self.columns.min(count);
        if columns == 0 {
            return Err(Error::image("a sheet needs at least one image and one column"));
        }
        let side = |count: usize, size: u32| {
            let gap = u64::from(self.gap);
            (count as u64).saturating_mul(u64::from(size).saturating_add(gap)).saturating_sub(gap)
        };
        check_size(side(columns, width), side(count.div_ceil(columns), height))
    }

    /// Lays out images, all of one size, row by row. Places left over at the end are white.
    ///
    /// # Errors
    ///
    /// Kind [`Image`](maskgit_core::ErrorKind::Image) when there are no pictures, `columns` is 0, the sizes differ, or
    /// the sheet is larger than [`MAX_SIDE`].
    pub fn draw(&self, images: &[&RgbImage]) -> Result<RgbImage> {
        let (Some(first), false) = (images.first(), self.columns == 0) else {
            return Err(Error::image("a sheet needs at least one image and one column"));
        };
        let (width, height) = first.dimensions();
        if images.iter().any(|i| i.dimensions() != (width, height)) {
            return Err(Error::image("the images of a sheet must have one size"));
        }
        let columns = self.columns.min(images.len());
        let (sheet_width, sheet_height) = self.size(images.len(), width, height)?;
        let mut sheet = RgbImage::from_pixel(sheet_width, sheet_height, image::Rgb([255; 3]));
        for (i, picture) in images.iter().enumerate() {
            let place = |index: usize, size: u32| (index as i64).saturating_mul(i64::from(size) + i64::from(self.gap));
            image::imageops::replace(&mut sheet, *picture, place(i % columns, width), place(i / columns, height));
        }
        Ok(sheet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RgbImage {
        RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8 * 80, y as u8 * 200, 7]))
    }

    fn read(path: &Path) -> Result<RgbImage> {
        read_image(path, &Limits::default()).map(|source| source.rgb)
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn png_round_trip_with_metadata() {
        let dir = folder();
        let path = dir.path().join("a.png");
        for metadata in [Some("{\"a\": \"ümlaut\"}"), None, Some("")] {
            fs::write(&path, encode_png(&sample(), metadata).unwrap()).unwrap();
            assert_eq!(read(&path).unwrap(), sample());
            assert_eq!(read_metadata(&path).unwrap().as_deref(), metadata);
        }
        assert!(encode_png(&sample(), Some(&"a".repeat(MAX_METADATA_BYTES))).is_ok());
        assert!(encode_png(&sample(), Some(&"a".repeat(MAX_METADATA_BYTES + 1))).is_err());
    }

    #[test]
    fn metadata_after_the_pixels_is_found() {
        let dir = folder();
        let path = dir.path().join("a.png");
        let mut bytes = Vec::new();
        let mut writer = png::Encoder::new(&mut bytes, 1, 1).write_header().unwrap();
        writer.write_image_data(&[0]).unwrap();
        let mut other = png::text_metadata::ITXtChunk::new("Comment", "no");
        writer.write_text_chunk(&other).unwrap();
        other = png::text_metadata::ITXtChunk::new(METADATA_KEY, "après");
        writer.write_text_chunk(&other).unwrap();
        writer.finish().unwrap();
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read_metadata(&path).unwrap().as_deref(), Some("après"));
    }

    #[test]
    fn every_prefix_of_a_png_is_an_error_or_the_image() {
        let dir = folder();
        let path = dir.path().join("a.png");
        let bytes = encode_png(&sample(), Some("text")).unwrap();
        let mut failures = 0;
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            match read(&path) {
                Ok(image) => assert_eq!(image, sample(), "the first {length} bytes"),
                Err(_) => failures += 1,
            }
            if let Ok(text) = read_metadata(&path) {
                assert_eq!(text.as_deref(), Some("text"), "the first {length} bytes");
            }
        }
        // The end chunk may be missing: the pixels are there.
        assert!(failures >= bytes.len() - 12, "{failures} of {}", bytes.len());
    }

    #[test]
    fn a_compressed_text_bomb_is_an_error() {
        let dir = folder();
        let path = dir.path().join("bomb.png");
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.add_ztxt_chunk(METADATA_KEY.into(), "a".repeat(64 << 20)).unwrap();
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&[0]).unwrap();
        writer.finish().unwrap();
        assert!(bytes.len() < MAX_METADATA_BYTES);
        fs::write(&path, bytes).unwrap();
        assert_eq!(read_metadata(&path).unwrap_err().kind(), maskgit_core::ErrorKind::Image);
    }

    #[test]
    fn enlarging_repeats_pixels() {
        let large = enlarge(&sample(), 3).unwrap();
        assert_eq!(large.dimensions(), (9, 6));
        assert!(large.enumerate_pixels().all(|(x, y, p)| p == sample().get_pixel(x / 3, y / 3)));
        assert!(enlarge(&sample(), 0).is_err());
        assert!(enlarge(&sample(), u32::MAX).is_err());
    }

    #[test]
    fn a_sheet_has_gaps_and_no_margin() {
        let a = sample();
        let sheet = Sheet::square(3);
        assert_eq!(sheet, Sheet { columns: 2, gap: 2 });
        let drawn = sheet.draw(&[&a, &a, &a]).unwrap();
        assert_eq!(drawn.dimensions(), (8, 6));
        assert_eq!(drawn.get_pixel(5, 1), a.get_pixel(0, 1));
        assert_eq!(drawn.get_pixel(2, 5), a.get_pixel(2, 1));
        assert_eq!(drawn.get_pixel(7, 5), &image::Rgb([255; 3]), "the last place is empty");
        assert_eq!(Sheet::square(1).draw(&[&a]).unwrap(), a);
        assert!(sheet.draw(&[]).is_err());
        assert!(sheet.draw(&[&a, &enlarge(&a, 2).unwrap()]).is_err());
        assert!(Sheet { columns: 1, gap: u32::MAX }.draw(&[&a, &a]).is_err());
    }

    #[test]
    fn squares() {
        for (count, columns) in [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4), (16, 4)] {
            assert_eq!(Sheet::square(count).columns, columns, "{count}");
        }
    }
}
