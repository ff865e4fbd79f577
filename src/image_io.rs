//! Pictures in files: reading any common format within limits, writing PNG with text metadata, contact sheets, nearest-neighbour scaling, and files that appear whole or
//! not at all.

mod input;

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use image::{ImageDecoder, RgbImage};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

pub use input::{FORMATS, Limits, SourceImage, read_image, read_mask};

/// The keyword of the PNG text chunk (`iTXt`, not compressed, UTF-8) that holds the parameters as JSON.
pub const METADATA_KEY: &str = "maskgit";

/// The longest metadata that is written or read: 1 MiB.
pub const MAX_METADATA_BYTES: usize = 1 << 20;

/// The widest and the highest picture that is written or read.
pub const MAX_SIDE: u32 = 16_384;

/// The largest file and the largest decoded picture that are read: 1 GiB, a picture of [`MAX_SIDE`] squared in RGB
/// with something to spare.
const MAX_BYTES: u64 = 1 << 30;

/// A file that will appear under its name, replacing what is there, when it is committed; dropped, it leaves nothing.
///
/// It is written beside its final place, so committing is one rename. A device or a pipe cannot be replaced by a
/// rename: it is written to.
pub struct PendingFile {
    target: PathBuf,
    contents: Contents,
}

enum Contents {
    Temporary(NamedTempFile),
    Bytes(Vec<u8>),
}

impl PendingFile {
    /// Writes the contents to a temporary file beside `path`.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io) when `path` is a folder, its folder does not exist, or nothing can be written there.
    pub fn new(path: &Path, contents: Vec<u8>) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot write {}", path.display()), e);
        let target = path.to_path_buf();
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(Error::new(
                    crate::ErrorKind::Io,
                    format!("cannot write {}: it is a folder", path.display()),
                ));
            }
            Ok(found) if !found.is_file() => {
                return Ok(Self { target, contents: Contents::Bytes(contents) });
            }
            _ => {}
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".maskgit-");
        // Temporary files are private by default; a result has the permissions of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder).map_err(failed)?;
        file.write_all(&contents).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        Ok(Self { target, contents: Contents::Temporary(file) })
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io).
    pub fn commit(self) -> Result<()> {
        let failed = |e| Error::io(format!("cannot write {}", self.target.display()), e);
        match self.contents {
            Contents::Temporary(file) => file.persist(&self.target).map(drop).map_err(|e| failed(e.error)),
            Contents::Bytes(bytes) => {
                File::options().write(true).open(&self.target).and_then(|mut f| f.write_all(&bytes)).map_err(failed)
            }
        }
    }
}

/// Writes a file that appears whole or not at all, replacing what is there.
///
/// # Errors
///
/// As [`PendingFile::new`] and [`PendingFile::commit`].
pub fn write_file(path: &Path, contents: Vec<u8>) -> Result<()> {
    PendingFile::new(path, contents)?.commit()
}

/// Encodes a picture as PNG: 8-bit RGB, with `metadata` in a text chunk of key [`METADATA_KEY`] in front of the pixels.
///
/// # Errors
///
/// Kind [`Image`](crate::ErrorKind::Image) when the picture is larger than [`MAX_SIDE`] or the metadata than
/// [`MAX_METADATA_BYTES`].
pub fn encode_png(image: &RgbImage, metadata: Option<&str>) -> Result<Vec<u8>> {
    encode(image.as_raw(), png::ColorType::Rgb, image.dimensions(), None, metadata)
}

/// Encodes the pixels of `color`, with a colour profile and metadata.
fn encode(
    pixels: &[u8],
    color: png::ColorType,
    (width, height): (u32, u32),
    icc_profile: Option<&[u8]>,
    metadata: Option<&str>,
) -> Result<Vec<u8>> {
    check_size(width.into(), height.into())?;
    let failed = |e: png::EncodingError| Error::image("cannot encode the PNG").with_source(e);
    let mut bytes = Vec::new();
    let mut info = png::Info::with_size(width, height);
    info.color_type = color;
    info.bit_depth = png::BitDepth::Eight;
    info.icc_profile = icc_profile.map(Into::into);
    let mut encoder = png::Encoder::with_info(&mut bytes, info).map_err(failed)?;
    if let Some(text) = metadata {
        if text.len() > MAX_METADATA_BYTES {
            return Err(Error::image(format!(
                "the parameters of the picture take {} bytes; a PNG of ours holds {MAX_METADATA_BYTES}",
                text.len()
            )));
        }
        encoder.add_itxt_chunk(METADATA_KEY.into(), text.into()).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Reads the metadata that [`encode_png`] wrote: the text of the first chunk of key [`METADATA_KEY`], in any of PNG's
/// three kinds of text chunk. `None`: the PNG has no such chunk in front of its pixels.
///
/// # Errors
///
/// Kind [`Io`](crate::ErrorKind::Io) when the file cannot be read, [`Image`](crate::ErrorKind::Image) when it is not a
/// PNG or its text is damaged or longer than [`MAX_METADATA_BYTES`].
pub fn read_metadata(path: &Path) -> Result<Option<String>> {
    let broken = |e: png::DecodingError| Error::image(format!("{} is not a valid PNG", path.display())).with_source(e);
    let mut decoder = png::Decoder::new_with_limits(
        BufReader::new(open(path)?),
        // The decoder's own text buffers, with room for chunks that are not ours.
        png::Limits { bytes: 8 * MAX_METADATA_BYTES },
    );
    decoder.set_ignore_iccp_chunk(true);
    let reader = decoder.read_info().map_err(broken)?;
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

/// Reads a PNG as 8-bit RGB. Transparency is dropped.
///
/// # Errors
///
/// Kind [`Io`](crate::ErrorKind::Io) when the file cannot be read, [`Image`](crate::ErrorKind::Image) when it is not a
/// PNG, is damaged, or is larger than [`MAX_SIDE`].
pub fn read_png(path: &Path) -> Result<RgbImage> {
    let broken = |e: image::ImageError| Error::image(format!("{} is not a valid PNG", path.display())).with_source(e);
    let file = open(path)?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    let mut decoder =
        image::codecs::png::PngDecoder::with_limits(BufReader::new(file), limits.clone()).map_err(broken)?;
    // The decoder's own limits do not cover the buffer of the decoded picture.
    decoder.set_limits(limits).map_err(broken)?;
    if decoder.total_bytes() > MAX_BYTES {
        return Err(Error::image(format!("{} is too large a picture", path.display())));
    }
    Ok(image::DynamicImage::from_decoder(decoder).map_err(broken)?.into_rgb8())
}

/// Opens a regular file of a bearable size.
fn open(path: &Path) -> Result<File> {
    let failed = |e| Error::io(format!("cannot read {}", path.display()), e);
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(Error::new(crate::ErrorKind::Io, format!("cannot read {}: it is not a file", path.display())));
    }
    if found.len() > MAX_BYTES {
        return Err(Error::image(format!("{} has more than {MAX_BYTES} bytes", path.display())));
    }
    File::open(path).map_err(failed)
}

/// Enlarges a picture by a whole number, without smoothing: each pixel becomes a square of `scale` by `scale`.
///
/// # Errors
///
/// Kind [`Image`](crate::ErrorKind::Image) when `scale` is 0 or the result is larger than [`MAX_SIDE`].
pub fn enlarge(image: &RgbImage, scale: u32) -> Result<RgbImage> {
    if scale == 0 {
        return Err(Error::image("the scale must be at least 1"));
    }
    let (width, height) = (u64::from(image.width()) * u64::from(scale), u64::from(image.height()) * u64::from(scale));
    let (width, height) = check_size(width, height)?;
    Ok(RgbImage::from_fn(width, height, |x, y| *image.get_pixel(x / scale, y / scale)))
}

/// How pictures lie on a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sheet {
    /// Pictures in a row, at least 1.
    pub columns: usize,
    /// White pixels between pictures. There is no margin around them.
    pub gap: u32,
}

impl Sheet {
    /// The sheet for `count` pictures that is nearest to a square, at least as wide as high.
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
    /// Kind [`Image`](crate::ErrorKind::Image) when the sheet is larger than [`MAX_SIDE`], or `columns` is 0.
    pub fn size(&self, count: usize, width: u32, height: u32) -> Result<(u32, u32)> {
        let columns = self.columns.min(count);
        if columns == 0 {
            return Err(Error::image("a sheet needs at least one picture and one column"));
        }
        let side = |count: usize, size: u32| {
            let gap = u64::from(self.gap);
            (count as u64).saturating_mul(u64::from(size).saturating_add(gap)).saturating_sub(gap)
        };
        check_size(side(columns, width), side(count.div_ceil(columns), height))
    }

    /// Lays out pictures, all of one size, row by row. Places left over at the end are white.
    ///
    /// # Errors
    ///
    /// Kind [`Image`](crate::ErrorKind::Image) when there are no pictures, `columns` is 0, the sizes differ, or the
    /// sheet is larger than [`MAX_SIDE`].
    pub fn draw(&self, images: &[&RgbImage]) -> Result<RgbImage> {
        let (Some(first), false) = (images.first(), self.columns == 0) else {
            return Err(Error::image("a sheet needs at least one picture and one column"));
        };
        let (width, height) = first.dimensions();
        if images.iter().any(|i| i.dimensions() != (width, height)) {
            return Err(Error::image("the pictures of a sheet must have one size"));
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

/// Checks a picture's width and height.
///
/// # Errors
///
/// Kind [`Image`](crate::ErrorKind::Image) when one is larger than [`MAX_SIDE`].
pub fn check_size(width: u64, height: u64) -> Result<(u32, u32)> {
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(w), Ok(h)) if w <= MAX_SIDE && h <= MAX_SIDE => Ok((w, h)),
        _ => Err(Error::image(format!(
            "a picture of {width}x{height} is too large: a side has at most {MAX_SIDE} pixels"
        ))),
    }
}

/// Decodes a PNG that is in memory; for tests of what was written.
#[cfg(test)]
fn read_png_bytes(bytes: &[u8]) -> RgbImage {
    image::load(std::io::Cursor::new(bytes), image::ImageFormat::Png).expect("a PNG").into_rgb8()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8 * 80, y as u8 * 200, 7]))
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn png_round_trip_with_metadata() {
        let dir = folder();
        let path = dir.path().join("a.png");
        let bytes = encode_png(&picture(), Some("{\"a\": \"ümlaut\"}")).unwrap();
        assert_eq!(read_png_bytes(&bytes), picture());
        write_file(&path, bytes).unwrap();
        assert_eq!(read_png(&path).unwrap(), picture());
        assert_eq!(read_metadata(&path).unwrap().as_deref(), Some("{\"a\": \"ümlaut\"}"));
        write_file(&path, encode_png(&picture(), None).unwrap()).unwrap();
        assert_eq!(read_metadata(&path).unwrap(), None);
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["a.png"], "no temporary file stays");
    }

    #[test]
    fn a_file_not_committed_leaves_nothing() {
        let dir = folder();
        drop(PendingFile::new(&dir.path().join("a.png"), vec![1, 2, 3]).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(PendingFile::new(dir.path(), vec![]).is_err(), "a folder is not a place for a file");
        assert!(PendingFile::new(&dir.path().join("no/such/a.png"), vec![]).is_err());
    }

    #[test]
    fn every_prefix_of_a_png_is_an_error_or_the_picture() {
        let dir = folder();
        let path = dir.path().join("a.png");
        let bytes = encode_png(&picture(), Some("text")).unwrap();
        let mut failures = 0;
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            failures += usize::from(read_png(&path).is_err());
            let _ = read_metadata(&path);
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
        assert_eq!(read_metadata(&path).unwrap_err().kind(), crate::ErrorKind::Image);
    }

    #[test]
    fn enlarging_repeats_pixels() {
        let large = enlarge(&picture(), 3).unwrap();
        assert_eq!(large.dimensions(), (9, 6));
        assert!(large.enumerate_pixels().all(|(x, y, p)| p == picture().get_pixel(x / 3, y / 3)));
        assert!(enlarge(&picture(), 0).is_err());
        assert!(enlarge(&picture(), u32::MAX).is_err());
    }

    #[test]
    fn a_sheet_has_gaps_and_no_margin() {
        let a = picture();
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
