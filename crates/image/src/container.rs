//! What a file declares, checked against what it holds before a decoder takes memory for it.
//!
//! Decoders take what a header declares: a canvas, a frame, a profile, a chunk of 4 GB. So the container is walked here
//! first, without an allocation. Compression has an end: a byte of DEFLATE, LZW or Huffman codes makes at most so many
//! pixels, and a file with fewer bytes than its size needs holds no such image.

use std::io::Read;

use image::ImageFormat;

/// The largest colour profile that is read: 4 MiB. Profiles of printers take 2.
pub(super) const MAX_PROFILE_BYTES: u64 = 4 << 20;

/// What may be refused; the error says in words why, to go after the file's name.
pub(super) type Checked<T> = Result<T, String>;

/// PNG's chunks that say what the colours mean, with the length that they must have. They are kept.
const COLOR_CHUNKS: [([u8; 4], usize); 6] =
    [(*b"cICP", 4), (*b"mDCV", 24), (*b"cLLI", 8), (*b"sRGB", 1), (*b"gAMA", 4), (*b"cHRM", 32)];

/// What stands in a container.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// The most that the decoder takes besides the pixels that it gives, in bytes; small buffers left out.
    pub own_bytes: u64,
    /// Why the image cannot be whole: the file is too short for what it declares.
    pub damage: Option<String>,
    /// The chunks of a PNG that say what its colours mean: type and data.
    pub color_chunks: Vec<([u8; 4], Vec<u8>)>,
}

/// The format of a file by its first bytes; else what it is, as far as that can be told.
pub(super) fn format(bytes: &[u8]) -> Result<ImageFormat, Option<&'static str>> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, WebP};
    match image::guess_format(bytes) {
        Ok(format @ (Bmp | Gif | Jpeg | Png | Pnm | WebP)) => Ok(format),
        _ => Err(foreign(bytes)),
    }
}

/// The name of a format that is not read.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let brand = |offset: usize| bytes.get(offset..offset + 4);
    if brand(4) == Some(b"ftyp") {
        return Some(match brand(8)? {
            b"avif" | b"avis" => "AVIF",
            b"crx " => "CR3",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => "HEIC or AVIF",
            _ => "video",
        });
    }
    let beginnings: [(&[u8], &'static str); 12] = [
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"8BPS", "Photoshop"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"%PDF", "PDF"),
        (b"<svg", "SVG"),
    ];
    beginnings.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|&(_, name)| name)
}

/// Walks through a file.
pub(super) fn scan(format: ImageFormat, bytes: &[u8]) -> Checked<Contents> {
    match format {
        ImageFormat::Png => png(bytes),
        ImageFormat::Jpeg => jpeg(bytes),
        ImageFormat::WebP => webp(bytes),
        ImageFormat::Gif => gif(bytes),
        ImageFormat::Bmp => Ok(bmp(bytes)),
        _ => Ok(Contents::default()),
    }
}

/// The refusal of a colour profile that is too large.
pub(super) fn check_profile(bytes: u64) -> Checked<()> {
    if bytes <= MAX_PROFILE_BYTES {
        return Ok(());
    }
    Err(format!(
        "has a colour profile of more than {} MiB, which is not read: save it with another profile or without one",
        MAX_PROFILE_BYTES >> 20
    ))
}

/// Refuses what declares more than the file has.
fn fits(what: &str, start: usize, length: u64, bytes: &[u8]) -> Checked<usize> {
    let left = bytes.len().saturating_sub(start) as u64;
    if length <= left {
        return Ok(start + length as usize);
    }
    Err(format!("is damaged: its {what} declares {length} bytes, and the file has {left} more"))
}

/// Refuses a canvas of more than 16 million pixels of which the first frame fills next to nothing: it would be memory
/// for nothing that is in the file.
fn check_canvas(canvas: (u32, u32), frame: (u32, u32)) -> Checked<()> {
    let area = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    if area(canvas) <= 1 << 24 || area(frame) >= area(canvas) / 64 {
        return Ok(());
    }
    Err(format!(
        "declares {}x{} pixels, and its first frame has {}x{}: there is no image of that size in it",
        canvas.0, canvas.1, frame.0, frame.1
    ))
}

/// Why pixels that take `needed` bytes at least cannot be in a file, where they cannot.
fn too_little(needed: u64, found: u64) -> Option<String> {
    (needed > found).then(|| format!("it has {found} bytes of image data, and its size needs {needed} at least"))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn le24(bytes: &[u8], at: usize) -> Option<u32> {
    let [a, b, c] = bytes.get(at..at.checked_add(3)?)?.try_into().ok()?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}

fn le16(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

/// A type of four letters, for people.
fn name(kind: [u8; 4]) -> String {
    kind.iter().map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '?' }).collect()
}

fn png(bytes: &[u8]) -> Checked<Contents> {
    let mut contents = Contents::default();
    let (mut at, mut data) = (8, 0u64);
    while let (Some(length), Some(&kind)) = (be32(bytes, at), bytes.get(at + 4..).and_then(|b| b.first_chunk::<4>())) {
        let start = at + 8;
        let end = match fits(&format!("chunk {}", name(kind)), start, length.into(), bytes) {
            // Behind the pixels nothing is read.
            Err(_) if data > 0 && kind != *b"IDAT" => break,
            end => end?,
        };
        let chunk = &bytes[start..end];
        match &kind {
            b"IDAT" => data += u64::from(length),
            b"IEND" => break,
            b"iCCP" if data == 0 => check_profile(inflated(chunk))?,
            _ if data == 0 => {
                let known = COLOR_CHUNKS.contains(&(kind, chunk.len()));
                if known && contents.color_chunks.iter().all(|(other, _)| *other != kind) {
                    contents.color_chunks.push((kind, chunk.to_vec()));
                }
            }
            _ => {}
        }
        at = end + 4;
    }
    if let (Some(width), Some(height), Some(&[depth, color])) =
        (be32(bytes, 16), be32(bytes, 20), bytes.get(24..26).and_then(|b| b.first_chunk::<2>()))
    {
        let channels = match color {
            2 => 3,
            4 => 2,
            6 => 4,
            _ => 1,
        };
        let bits = u64::from(depth) * channels;
        let raw = (u64::from(width) * u64::from(height)).saturating_mul(bits) / 8;
        // DEFLATE makes at most 1032 bytes of one.
        contents.damage = too_little(raw / 1032, data);
        // Two rows.
        contents.own_bytes = u64::from(width) * bits / 4;
    }
    Ok(contents)
}

/// The size of a PNG's colour profile, counted no further than is read.
fn inflated(chunk: &[u8]) -> u64 {
    let Some(end) = chunk.iter().take(80).position(|&b| b == 0) else { return 0 };
    let Some(compressed) = chunk.get(end + 2..) else { return 0 };
    let mut stream = flate2::read::ZlibDecoder::new(compressed).take(MAX_PROFILE_BYTES + 1);
    let (mut count, mut buffer) = (0, [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        count += read as u64;
    }
    count
}

fn jpeg(bytes: &[u8]) -> Checked<Contents> {
    let mut contents = Contents::default();
    let (mut frame, mut profile) = (None, 0);
    let mut at = 2;
    let whole = loop {
        let Some((marker, start)) = next_marker(bytes, at) else { break false };
        let segment = be16(bytes, start).and_then(|length| bytes.get(start + 2..start + length.max(2) as usize));
        match (marker, segment) {
            (0xD9, _) => break true,
            (0x01 | 0xD0..=0xD8, _) => {
                at = start;
                continue;
            }
            (_, None) => break false,
            (0xC9..=0xCB | 0xCD..=0xCF, _) => {
                return Err("is a JPEG with arithmetic coding, which is not read: save it as baseline or progressive \
                            JPEG, or as PNG"
                    .into());
            }
            (0xC3 | 0xC5..=0xC7, _) => {
                return Err("is a lossless or hierarchical JPEG, which is not read: save it as baseline or \
                            progressive JPEG, or as PNG"
                    .into());
            }
            (0xC0..=0xC2, Some(segment)) if frame.is_none() => {
                if let Some(&depth @ (1..=7 | 9..)) = segment.first() {
                    return Err(format!("is a JPEG of {depth} bits a channel; 8 are read"));
                }
                frame = JpegFrame::new(marker, segment);
            }
            (0xE2, Some(segment)) if segment.starts_with(b"ICC_PROFILE\0") => {
                profile += segment.len().saturating_sub(14) as u64;
                check_profile(profile)?;
            }
            (0xDA, Some(segment)) => {
                if let Some(frame) = frame.as_mut() {
                    frame.scan(segment);
                }
            }
            _ => {}
        }
        // The codes behind a start of scan hold no marker but restarts.
        at = start + segment.map_or(0, <[u8]>::len) + 2;
    };
    if let Some(frame) = frame {
        contents.own_bytes = frame.coefficient_bytes;
        contents.damage = too_little(frame.blocks / 8, bytes.len() as u64);
    }
    if !whole && contents.damage.is_none() {
        contents.damage = Some("it ends in the middle of the image".into());
    }
    Ok(contents)
}

/// The next marker of a JPEG, and where what follows it begins. What is between markers is skipped, codes and all.
fn next_marker(bytes: &[u8], from: usize) -> Option<(u8, usize)> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|&b| b == 0xFF)?;
        let code = at + bytes.get(at..)?.iter().position(|&b| b != 0xFF)?;
        match bytes[code] {
            0 => at = code + 1,
            marker => return Some((marker, code + 1)),
        }
    }
}

/// A JPEG's header of its frame.
#[derive(Debug)]
struct JpegFrame {
    progressive: bool,
    components: usize,
    scanned: bool,
    /// Blocks of 8x8 that are coded, each by a bit at least.
    blocks: u64,
    /// The coefficients of the whole image.
    all: u64,
    /// Those of them that are held at a time.
    coefficient_bytes: u64,
}

impl JpegFrame {
    fn new(marker: u8, segment: &[u8]) -> Option<Self> {
        let (height, width) = (u64::from(be16(segment, 1)?), u64::from(be16(segment, 3)?));
        let components = segment.get(6..)?.as_chunks::<3>().0;
        let factors = components.iter().map(|c| (u64::from(c[1] >> 4), u64::from(c[1] & 15)));
        let (across, down) = factors.clone().fold((1, 1), |(a, b), (h, v)| (a.max(h), b.max(v)));
        let (mut blocks, mut padded) = (0, 0);
        for (h, v) in factors {
            blocks += (width * h).div_ceil(across * 8) * (height * v).div_ceil(down * 8);
            padded += width.div_ceil(across * 8) * h * height.div_ceil(down * 8) * v;
        }
        let (progressive, components) = (marker == 0xC2, components.len());
        Some(Self { progressive, components, scanned: false, blocks, all: padded * 128, coefficient_bytes: 0 })
    }

    /// Takes the header of a scan: the first says whether rows can be finished as they come.
    fn scan(&mut self, segment: &[u8]) {
        let parts = segment.first().copied().map_or(0, usize::from);
        if !self.scanned && (self.progressive || parts < self.components) {
            self.coefficient_bytes = self.all;
        }
        self.scanned = true;
    }
}

fn gif(bytes: &[u8]) -> Checked<Contents> {
    let none = || "is damaged: there is no image in it".to_string();
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3usize << ((flags & 7) + 1) };
    let mut at = 13 + table(*bytes.get(10).ok_or_else(none)?);
    loop {
        match *bytes.get(at).ok_or_else(none)? {
            0x21 => {
                let profile = bytes.get(at + 1..at + 14).is_some_and(|b| b == b"\xff\x0bICCRGBG1012");
                let (end, length) = sub_blocks(bytes, at + 2).ok_or_else(none)?;
                if profile {
                    check_profile(length)?;
                }
                at = end;
            }
            0x2C => break,
            0 => at += 1,
            _ => return Err(none()),
        }
    }
    let (Some(width), Some(height), Some(&flags)) = (le16(bytes, at + 5), le16(bytes, at + 7), bytes.get(at + 9))
    else {
        return Err(none());
    };
    check_canvas((le16(bytes, 6).unwrap_or(0), le16(bytes, 8).unwrap_or(0)), (width, height))?;
    let data = at + 10 + table(flags) + 1;
    let Some((_, length)) = sub_blocks(bytes, data) else {
        return Err("is damaged: it ends in the middle of the image".into());
    };
    let pixels = u64::from(width) * u64::from(height);
    // A code of 2 bits at least stands for 4096 pixels at most. A frame's RGBA and its indices are held.
    Ok(Contents { own_bytes: pixels * 5, damage: too_little(pixels / (4 * 4096), length), ..Contents::default() })
}

/// The end of a GIF's sub-blocks, and how much is in them.
fn sub_blocks(bytes: &[u8], mut at: usize) -> Option<(usize, u64)> {
    let mut sum = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some((at + 1, sum)),
            length => {
                sum += u64::from(length);
                at += 1 + usize::from(length);
            }
        }
    }
}

fn webp(bytes: &[u8]) -> Checked<Contents> {
    let mut contents = Contents::default();
    let end = (le32(bytes, 4).unwrap_or(0) as usize).saturating_add(8);
    let (mut canvas, mut frames) = (None, 0u32);
    let mut at = 12;
    while let Some(chunk) = Chunk::read(bytes, at) {
        const KNOWN: [&[u8; 4]; 9] = [b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF", b"XMP "];
        // Other things may follow the image; the decoder takes what it knows among them.
        if at >= end && !KNOWN.contains(&&chunk.kind) {
            break;
        }
        let data = chunk.data(bytes)?;
        match &chunk.kind {
            b"VP8X" => canvas = le24(data, 4).zip(le24(data, 7)).map(|(width, height)| (width + 1, height + 1)),
            b"ICCP" => check_profile(chunk.length)?,
            b"ANMF" => {
                frames += 1;
                if frames == 1 {
                    webp_frame(data, canvas, &mut contents)?;
                }
            }
            _ if frames == 0 => bitstream(&chunk.kind, data, canvas, &mut contents)?,
            _ => {}
        }
        at = chunk.next();
    }
    if let (Some((width, height)), 1..) = (canvas, frames) {
        contents.own_bytes += u64::from(width) * u64::from(height) * 4;
        if u64::from(width) * u64::from(height) * 4 > u32::MAX.into() {
            return Err(format!("is an animation of {width}x{height} pixels, more than a WebP of that kind may have"));
        }
    }
    Ok(contents)
}

/// A chunk of a WebP.
struct Chunk {
    kind: [u8; 4],
    start: usize,
    length: u64,
}

impl Chunk {
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let kind = *bytes.get(at..)?.first_chunk()?;
        Some(Self { kind, start: at + 8, length: le32(bytes, at + 4)?.into() })
    }

    fn data<'a>(&self, bytes: &'a [u8]) -> Checked<&'a [u8]> {
        let end = fits(&format!("chunk {}", name(self.kind)), self.start, self.length, bytes)?;
        Ok(&bytes[self.start..end])
    }

    /// Where the next begins: at an even place.
    fn next(&self) -> usize {
        self.start + (self.length + self.length % 2) as usize
    }
}

/// The first frame of an animation.
fn webp_frame(data: &[u8], canvas: Option<(u32, u32)>, contents: &mut Contents) -> Checked<()> {
    let Some((width, height)) = le24(data, 6).zip(le24(data, 9)).map(|(w, h)| (w + 1, h + 1)) else {
        return Err("is damaged: its first frame is cut off".into());
    };
    let canvas = canvas.unwrap_or_default();
    check_canvas(canvas, (width, height))?;
    if width > canvas.0 || height > canvas.1 {
        return Err(format!("is damaged: its first frame has {width}x{height} pixels, more than the image"));
    }
    let mut at = 16;
    while let Some(chunk) = Chunk::read(data, at) {
        bitstream(&chunk.kind, chunk.data(data)?, Some((width, height)), contents)?;
        at = chunk.next();
    }
    contents.own_bytes += u64::from(width) * u64::from(height) * 4;
    Ok(())
}

/// The size that a WebP's coded image declares, which must be that of what holds it; and what its decoder takes.
fn bitstream(kind: &[u8; 4], data: &[u8], holder: Option<(u32, u32)>, contents: &mut Contents) -> Checked<()> {
    let (size, sixths) = match kind {
        b"VP8 " => (le16(data, 6).zip(le16(data, 8)).map(|(w, h)| (w & 0x3FFF, h & 0x3FFF)), 9),
        b"VP8L" => (le32(data, 1).map(|bits| ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)), 30),
        b"ALPH" => (holder, 30),
        _ => return Ok(()),
    };
    let Some((width, height)) = size else {
        return Err(format!("is damaged: its chunk {} is cut off", name(*kind)));
    };
    if holder.is_some_and(|holder| holder != (width, height)) {
        return Err(format!("is damaged: its chunk {} has {width}x{height} pixels, unlike the image", name(*kind)));
    }
    // Brightness and two quarters of colour, in whole blocks of 16; four channels and the predictors; those and
    // opacity.
    let side = |length: u32| u64::from(length.next_multiple_of(16));
    contents.own_bytes += side(width) * side(height) * sixths / 6;
    Ok(())
}

fn bmp(bytes: &[u8]) -> Contents {
    let header = le32(bytes, 14).unwrap_or(0);
    let (size, bits, compression) = if header == 12 {
        (le16(bytes, 18).zip(le16(bytes, 20)), le16(bytes, 24), Some(0))
    } else {
        let size = le32(bytes, 18).zip(le32(bytes, 22)).map(|(w, h)| (w, h.cast_signed().unsigned_abs()));
        (size, le16(bytes, 28), le32(bytes, 30))
    };
    let damage = match (size, bits, compression) {
        // Not compressed: every pixel is there.
        (Some((width, height)), Some(bits), Some(0 | 3 | 6)) => {
            let row = u64::from(width).saturating_mul(bits.into()).div_ceil(8);
            too_little(row.saturating_mul(height.into()), bytes.len() as u64)
        }
        _ => None,
    };
    Contents { damage, ..Contents::default() }
}

/// Why a PNM cannot hold pixels that take `decoded` bytes when they are decoded, where it cannot. They are not
/// compressed: a byte of the file is 8 pixels of P4, a pixel of P1, and else at most a byte of the image.
pub(super) fn pnm_damage(bytes: &[u8], decoded: u64) -> Option<String> {
    let needed = if bytes.starts_with(b"P4") { decoded / 8 } else { decoded };
    too_little(needed, bytes.len() as u64)
}
