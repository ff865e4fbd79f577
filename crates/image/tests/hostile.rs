//! Files that declare what they do not hold, are damaged, or are of another kind: each is an error in words, for which
//! no memory by a declared size was asked.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{GrayImage, Luma, RgbImage};
use maskgit_core::ErrorKind;
use maskgit_image::{FORMATS, Limits, SourceImage, read_hard_mask, read_image};

/// The largest block that was asked for since it was set to 0.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watched;

// SAFETY: passes everything on.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

fn input(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/inputs").join(name)).unwrap()
}

fn read_with(bytes: &[u8], limits: &Limits) -> maskgit_core::Result<SourceImage> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, bytes).unwrap();
    read_image(&path, limits)
}

fn read(bytes: &[u8]) -> maskgit_core::Result<SourceImage> {
    read_with(bytes, &Limits::default())
}

/// What is said of a file that is refused.
fn refusal(bytes: &[u8]) -> String {
    let error = read(bytes).map(|image| image.rgb.dimensions()).expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::Image);
    error.to_string()
}

fn damaged_too() -> Limits {
    let mut limits = Limits::default();
    limits.allow_damaged = true;
    limits
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes(), &kind[..], data, &crc.sum().to_be_bytes()].concat()
}

fn deflated(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An 8-bit grey PNG with chunks in front of its pixels.
fn png(width: u32, height: u32, before: &[Vec<u8>], rows: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let (start, end) = (chunk(b"IHDR", &header), chunk(b"IEND", b""));
    [b"\x89PNG\r\n\x1a\n", &start[..], &before.concat(), &chunk(b"IDAT", &deflated(rows)), &end].concat()
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    let body = chunks.concat();
    [b"RIFF", &(body.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &body].concat()
}

fn riff_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let padding: &[u8] = if data.len() % 2 == 1 { &[0] } else { &[] };
    [kind, &(data.len() as u32).to_le_bytes()[..], data, padding].concat()
}

fn u24(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

fn vp8x(flags: u8, width: u32, height: u32) -> Vec<u8> {
    riff_chunk(b"VP8X", &[&[flags, 0, 0, 0][..], &u24(width - 1), &u24(height - 1)].concat())
}

/// A lossless WebP of one colour: no bit for a pixel.
fn vp8l(width: u32, height: u32) -> Vec<u8> {
    let size = (width - 1) | (height - 1) << 14;
    riff_chunk(b"VP8L", &[&[0x2F][..], &size.to_le_bytes(), &[0x88, 0x88, 0x08, 0, 0]].concat())
}

fn vp8(width: u16, height: u16) -> Vec<u8> {
    riff_chunk(
        b"VP8 ",
        &[&[0x10, 0, 0, 0x9D, 1, 0x2A][..], &width.to_le_bytes(), &height.to_le_bytes(), &[0; 8]].concat(),
    )
}

fn anmf(width: u32, height: u32, image: &[u8]) -> Vec<u8> {
    riff_chunk(b"ANMF", &[&[0; 6][..], &u24(width - 1), &u24(height - 1), &[100, 0, 0, 0], image].concat())
}

fn gif(canvas: (u16, u16), rest: &[u8]) -> Vec<u8> {
    [b"GIF89a", &canvas.0.to_le_bytes()[..], &canvas.1.to_le_bytes(), &[0x80, 0, 0, 0, 0, 0, 255, 255, 255], rest]
        .concat()
}

/// A frame of a GIF, with the codes of one pixel.
fn gif_frame(width: u16, height: u16) -> Vec<u8> {
    [&[0x2C, 0, 0, 0, 0][..], &width.to_le_bytes(), &height.to_le_bytes(), &[0, 2, 2, 0x4C, 1, 0, 0x3B]].concat()
}

fn bmp(width: i32, height: i32, bits: u16) -> Vec<u8> {
    let info = [&40u32.to_le_bytes()[..], &width.to_le_bytes(), &height.to_le_bytes(), &[1, 0], &bits.to_le_bytes()];
    [b"BM", &[0; 8][..], &54u32.to_le_bytes(), &info.concat(), &[0; 24], &[0; 64]].concat()
}

/// A JPEG's header of its frame, with nothing behind the header of the scan.
fn jpeg(frame: u8, width: u16, height: u16) -> Vec<u8> {
    let mut bytes = input(if frame == 0xC2 { "progressive.jpg" } else { "plain.jpg" });
    let at = bytes.windows(2).position(|pair| pair == [0xFF, frame]).unwrap();
    bytes[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
    bytes[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn nothing_is_allocated_by_a_declared_size() {
    let huge_chunk = |kind: &[u8; 4]| [kind, &0xFFFF_FFF0u32.to_le_bytes()[..], &[0; 20]].concat();
    let animation = |width, height, image: &[u8]| {
        riff(&[vp8x(2, 10_000, 10_000), riff_chunk(b"ANIM", &[0; 6]), anmf(width, height, image)])
    };
    let huge_png_chunk = [&b"\x7F\xFF\xFF\xFFtEXt"[..], &[0; 9]].concat();
    let exif = |kind: &[u8; 4]| riff(&[vp8x(0x28, 4, 4), huge_chunk(kind), vp8l(4, 4)]);
    let icc = |name: &[u8]| chunk(b"iCCP", &[name, b"\0\0", &deflated(&vec![7; 5 << 20])].concat());
    for (bytes, expected) in [
        (gif((10_500, 10_800), b"\x3B"), "no image in it"),
        (gif((10_500, 10_800), b""), "no image in it"),
        (gif((10_500, 10_800), &gif_frame(1, 1)), "first frame has 1x1"),
        (gif((9_000, 9_000), &gif_frame(9_000, 9_000)), "2 bytes of image data"),
        (gif((8, 8), &gif_frame(10_000, 10_000)), "2 bytes of image data"),
        (gif((8, 8), &gif_frame(8, 8)[..13]), "ends in the middle"),
        (animation(1, 1, &vp8l(1, 1)), "first frame has 1x1"),
        (animation(10_000, 10_000, &vp8l(1, 1)), "has 1x1 pixels, unlike the image"),
        (animation(10_000, 10_000, &vp8(1, 1)), "has 1x1 pixels, unlike the image"),
        (riff(&[vp8x(2, 9, 9), riff_chunk(b"ANIM", &[0; 6]), anmf(10, 1, &vp8l(1, 1))]), "more than the image"),
        (animation(10_000, 10_000, &vp8l(10_000, 10_000)), "decoding them takes"),
        (riff(&[vp8x(0, 4, 4), vp8(16_000, 16_000)]), "has 16000x16000 pixels, unlike"),
        (exif(b"EXIF"), "chunk EXIF declares 4294967280 bytes"),
        (exif(b"ICCP"), "chunk ICCP declares"),
        (riff(&[vp8x(0x20, 4, 4), riff_chunk(b"ICCP", &vec![7; 5 << 20]), vp8l(4, 4)]), "4 MiB"),
        (exif(b"XMP "), "chunk XMP? declares"),
        (exif(b"junk"), "chunk junk declares"),
        (png(9_000, 9_000, &[], &[0; 99]), "bytes of image data"),
        (png(9, 9, &[huge_png_chunk], &[0; 99]), "chunk tEXt declares 2147483647 bytes"),
        (png(9, 9, &[icc(b"x")], &[0; 90]), "4 MiB"),
        (bmp(9_000, 9_000, 24), "118 bytes of image data"),
        (bmp(9_000, -9_000, 24), "118 bytes of image data"),
        (b"P6\n9000 9000\n255\nabc".to_vec(), "bytes of image data"),
        (b"P5\n9000 9000\n65535\nabc".to_vec(), "bytes of image data"),
        (b"P4\n9000 9000\nabc".to_vec(), "bytes of image data"),
        (b"P3\n9000 9000\n255\n1 2 3".to_vec(), "bytes of image data"),
        (jpeg(0xC0, 9_000, 9_000), "bytes of image data"),
        (jpeg(0xC2, 9_000, 9_000), "bytes of image data"),
    ] {
        LARGEST.store(0, Ordering::Relaxed);
        let said = refusal(&bytes);
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(said.contains(expected), "{expected}: {said}");
        // Other tests of this binary run at the same time, on files of a few kilobytes.
        assert!(largest < 8 << 20, "{expected}: {largest} bytes");
    }
}

#[test]
fn what_is_whole_is_read() {
    for (bytes, size) in [
        (riff(&[vp8l(300, 200)]), (300, 200)),
        (riff(&[vp8x(0, 300, 200), vp8l(300, 200)]), (300, 200)),
        (riff(&[vp8x(2, 300, 200), riff_chunk(b"ANIM", &[0; 6]), anmf(30, 20, &vp8l(30, 20))]), (300, 200)),
        (gif((300, 200), &gif_frame(1, 1)), (300, 200)),
        (png(3000, 2000, &[], &vec![0; 3001 * 2000]), (3000, 2000)),
        (
            png(300, 200, &[chunk(b"iCCP", &[b"x\0\0", &deflated(&vec![7; 4 << 20])[..]].concat())], &[0; 60_200]),
            (300, 200),
        ),
        (b"P4\n16 3\n123456".to_vec(), (16, 3)),
        (b"P1\n3 2\n101010".to_vec(), (3, 2)),
        (b"P2\n3 1\n65535\n1 2 3".to_vec(), (3, 1)),
    ] {
        let read = read(&bytes).unwrap_or_else(|e| panic!("{size:?}: {e}"));
        assert_eq!(read.rgb.dimensions(), size);
        assert!(read.warnings.is_empty());
    }
}

#[test]
fn every_cut_of_a_jpeg_is_an_error_and_may_be_allowed() {
    for name in ["plain.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"] {
        let whole = input(name);
        let image = read(&whole).unwrap();
        assert_eq!(image.warnings, [""; 0]);
        let scan = whole.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
        let mut allowed = 0;
        for length in (0..whole.len()).rev().step_by(3) {
            let said = refusal(&whole[..length]);
            let Ok(read) = read_with(&whole[..length], &damaged_too()) else { continue };
            assert!(length > scan && said.contains("--allow-damaged"), "{name}, {length}: {said}");
            assert_eq!(read.rgb.dimensions(), image.rgb.dimensions());
            assert!(read.warnings.len() == 1 && read.warnings[0].contains("damaged"), "{:?}", read.warnings);
            allowed += 1;
        }
        assert!(allowed > 20, "{name}: {allowed}");
    }
    // A mask is never read so.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mask.jpg");
    let whole = input("grey.jpg");
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    let error = read_hard_mask(&path, &damaged_too()).expect_err("damaged").to_string();
    assert!(error.contains("--allow-damaged"), "{error}");
}

/// Codes that no table has.
#[test]
fn damaged_codes_are_an_error_too() {
    let mut photo = Vec::new();
    let noise = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 37) as u8, (y * 91) as u8, (x * y) as u8]));
    noise.write_to(&mut std::io::Cursor::new(&mut photo), image::ImageFormat::Jpeg).unwrap();
    assert!(read(&photo).is_ok());
    let middle = photo.len() / 2;
    // Sixteen ones are no code of any table; a zero behind each FF says that it is no marker.
    photo[middle..middle + 32].copy_from_slice(&[0xFF, 0].repeat(16));
    let said = refusal(&photo);
    assert!(said.contains("Huffman") && said.contains("--allow-damaged"), "{said}");
    assert_eq!(read_with(&photo, &damaged_too()).unwrap().warnings.len(), 1);
}

#[test]
fn what_is_not_read_is_named() {
    let mut arithmetic = input("plain.jpg");
    let at = arithmetic.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    for (marker, expected) in [(0xC9, "arithmetic"), (0xCA, "arithmetic"), (0xC3, "lossless"), (0xC7, "hierarchical")] {
        arithmetic[at + 1] = marker;
        assert!(refusal(&arithmetic).contains(expected), "{expected}");
    }
    let mut deep = input("plain.jpg");
    deep[at + 4] = 12;
    assert!(refusal(&deep).contains("12 bits"));
    for (beginning, name) in [
        (&b"II*\0\x08\0\0\0"[..], "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC"),
        (b"\xFF\x0A\0\0", "JPEG XL"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
        (b"some text", "not an image"),
        (b"", "not an image"),
    ] {
        let said = refusal(&[beginning, &[0; 64][..beginning.len().min(64)]].concat());
        assert!(said.contains(name) && said.contains(FORMATS), "{name}: {said}");
    }
}

#[test]
fn color_chunks_go_into_the_result() {
    let kept = [(*b"cICP", vec![9, 16, 0, 1]), (*b"gAMA", 45_455u32.to_be_bytes().to_vec()), (*b"cHRM", vec![1; 32])];
    let mut before: Vec<Vec<u8>> = kept.iter().map(|(kind, data)| chunk(kind, data)).collect();
    before.push(chunk(b"tIME", &[0; 7]));
    let source = read(&png(4, 2, &before, &[0, 1, 2, 3, 4, 0, 5, 6, 7, 8])).unwrap();
    assert_eq!(source.color_chunks, kept);
    let written = source.encode_png(&source.rgb, None).unwrap();
    assert_eq!(read(&written).unwrap().color_chunks, kept);
    let decoder = png::Decoder::new(std::io::Cursor::new(&written)).read_info().unwrap();
    assert_eq!(decoder.info().gama_chunk.map(|gamma| gamma.into_scaled()), Some(45_455));
    assert!(decoder.info().coding_independent_code_points.is_some());
}

/// A profile for CMYK that sees yellow ink only, as black: L* falls from 100 to 0 with it.
fn yellow_is_black() -> Vec<u8> {
    let identity: Vec<u8> = (0..=255).collect();
    let mut table = [&b"mft1\0\0\0\0\x04\x03\x02\0"[..], &[0; 36]].concat();
    for at in [12, 28, 44] {
        table[at + 1] = 1;
    }
    table.extend(identity.repeat(4));
    for corner in 0..16 {
        table.extend([if corner & 2 == 0 { 255 } else { 0 }, 128, 128]);
    }
    table.extend(identity.repeat(3));
    let mut profile = vec![0; 128];
    profile[8] = 2;
    profile[12..24].copy_from_slice(b"prtrCMYKLab ");
    profile[24..36].copy_from_slice(&[7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    profile[36..40].copy_from_slice(b"acsp");
    profile[68..80].copy_from_slice(&[0, 0, 0xF6, 0xD6, 0, 1, 0, 0, 0, 0, 0xD3, 0x2D]);
    profile.extend([0, 0, 0, 1]);
    profile.extend(b"A2B0");
    profile.extend(144u32.to_be_bytes());
    profile.extend((table.len() as u32).to_be_bytes());
    profile.extend(table);
    let length = profile.len() as u32;
    profile[..4].copy_from_slice(&length.to_be_bytes());
    profile
}

fn with_profile(jpeg: &[u8], profile: &[u8]) -> Vec<u8> {
    let segment = [b"ICC_PROFILE\0\x01\x01", profile].concat();
    [&jpeg[..2], &[0xFF, 0xE2], &(segment.len() as u16 + 2).to_be_bytes(), &segment, &jpeg[2..]].concat()
}

#[test]
fn cmyk_goes_through_its_profile_or_says_that_it_did_not() {
    let plain = input("cmyk.jpg");
    let without = read(&plain).unwrap();
    assert!(without.notes.len() == 1 && without.notes[0].contains("without a colour profile"), "{:?}", without.notes);

    let near = |image: &RgbImage, expected: [(u32, u8); 3]| {
        for (x, grey) in expected {
            let pixel = image.get_pixel(x, 1).0;
            assert!(pixel.iter().all(|&c| c.abs_diff(grey) < 14), "{x}: {pixel:?}, not {grey}");
        }
    };
    let through = read(&with_profile(&plain, &yellow_is_black())).unwrap();
    assert!(through.notes.len() == 1 && through.notes[0].contains("by its colour profile"), "{:?}", through.notes);
    assert_eq!(through.icc_profile, None, "the result is sRGB");
    // White is without ink; red has 215 of 255 yellow, L* 15.7; blue 55, L* 78.4.
    near(&through.rgb, [(1, 255), (8, 39), (18, 194)]);

    // The same numbers as YCCK: yellow is what 200 + 1.772 (40 - 128) leaves of 255, and so on.
    let mut coded = plain.clone();
    let adobe = coded.windows(5).position(|window| window == b"Adobe").unwrap();
    assert_eq!(std::mem::replace(&mut coded[adobe + 11], 2), 0);
    let through = read(&with_profile(&coded, &yellow_is_black())).unwrap();
    near(&through.rgb, [(1, 0), (8, 206), (18, 255)]);

    let mut broken = yellow_is_black();
    broken.truncate(300);
    let fallen = read(&with_profile(&plain, &broken)).unwrap();
    assert!(fallen.notes[0].contains("which cannot be used"), "{:?}", fallen.notes);
    assert_eq!(fallen.rgb, without.rgb);
}

/// No panic, whatever a profile says.
#[test]
fn a_damaged_cmyk_profile_is_used_or_not() {
    let (plain, profile) = (input("cmyk.jpg"), yellow_is_black());
    for place in (0..200).step_by(3).chain((200..profile.len()).step_by(397)) {
        let mut damaged = profile.clone();
        damaged[place] ^= [0x01, 0x80, 0xFF][place % 3];
        assert!(read(&with_profile(&plain, &damaged)).is_ok(), "byte {place}");
    }
}

#[test]
fn a_profile_that_does_not_fit_is_left_out_in_words() {
    let mut profile = yellow_is_black();
    profile[16..20].copy_from_slice(b"GRAY");
    let icc = chunk(b"iCCP", &[b"x\0\0", &deflated(&profile)[..]].concat());
    let source = read(&png(2, 1, &[icc], &[0, 1, 2])).unwrap();
    assert_eq!(source.icc_profile, None);
    assert!(source.notes.len() == 1 && source.notes[0].contains("for GRAY"), "{:?}", source.notes);
}

#[test]
fn transparent_pixels_are_known() {
    let alpha = GrayImage::from_fn(3, 1, |x, _| Luma([[0, 1, 255][x as usize]]));
    let source = |alpha| SourceImage::new(RgbImage::new(3, 1), alpha);
    let transparent = source(Some(alpha)).transparent().unwrap().unwrap();
    assert_eq!((0..3).map(|x| transparent.contains(x, 0)).collect::<Vec<_>>(), [true, false, false]);
    assert!(source(None).transparent().unwrap().is_none());
    assert!(source(Some(GrayImage::from_pixel(3, 1, Luma([1])))).transparent().unwrap().is_none());
}
