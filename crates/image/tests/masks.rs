//! Masks as programs write them: read as they are meant, or refused with the option that says it.

use std::path::PathBuf;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use maskgit_core::{ErrorKind, Result};
use maskgit_image::{Limits, MaskFrom, MaskOptions, SourceImage, SourceMask, read_hard_mask, read_mask};
use tempfile::TempDir;

const SIZE: (u32, u32) = (64, 48);

/// A folder for masks, and the image that they are for.
struct Desk {
    folder: TempDir,
    image: SourceImage,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), image: SourceImage::new(RgbImage::new(SIZE.0, SIZE.1), None) }
    }

    fn save(&self, name: &str, image: impl Into<DynamicImage>) -> PathBuf {
        let path = self.folder.path().join(name);
        image.into().save(&path).unwrap();
        path
    }

    fn read(&self, image: impl Into<DynamicImage>, options: MaskOptions) -> Result<SourceMask> {
        read_mask(&self.save("mask.png", image), &Limits::default(), &self.image, &options)
    }
}

/// The part that is to be repainted.
fn inside(x: u32, y: u32) -> bool {
    (x as i32 - 20).pow(2) + (y as i32 - 25).pow(2) < 90
}

fn rgba(pixel: impl Fn(u32, u32) -> [u8; 4]) -> RgbaImage {
    RgbaImage::from_fn(SIZE.0, SIZE.1, |x, y| Rgba(pixel(x, y)))
}

fn rgb(pixel: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
    RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| Rgb(pixel(x, y)))
}

/// A photograph's many colours.
fn photo(x: u32, y: u32) -> [u8; 3] {
    let noise = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761) >> 27;
    [(x * 4) as u8, (y * 5) as u8, (x * 2 + y * 2 + noise) as u8]
}

fn with([red, green, blue]: [u8; 3], alpha: u8) -> [u8; 4] {
    [red, green, blue, alpha]
}

#[track_caller]
fn is_inside(mask: &SourceMask, inside: impl Fn(u32, u32) -> bool) {
    for y in 0..mask.mask.height() {
        for x in 0..mask.mask.width() {
            assert_eq!(mask.mask.contains(x, y), inside(x, y), "({x},{y}) of {}", mask.describe("m"));
        }
    }
}

#[test]
fn what_programs_write_is_read_as_it_is_meant() {
    let desk = Desk::new();
    let on = |x, y| u8::from(inside(x, y)) * 255;
    let black = [0u8; 3];
    let cases: Vec<(&str, DynamicImage, MaskFrom, bool, &str)> = vec![
        ("white on black", rgb(|x, y| [on(x, y); 3]).into(), MaskFrom::Luma, false, "white pixels"),
        (
            "greyscale",
            GrayImage::from_fn(64, 48, |x, y| Luma([on(x, y)])).into(),
            MaskFrom::Luma,
            false,
            "white pixels",
        ),
        (
            "a blue brush on black",
            rgb(|x, y| if inside(x, y) { [30, 30, 220] } else { black }).into(),
            MaskFrom::Any,
            false,
            "coloured pixels",
        ),
        (
            "a dark red brush on black",
            rgb(|x, y| if inside(x, y) { [90, 0, 0] } else { black }).into(),
            MaskFrom::Any,
            false,
            "coloured pixels",
        ),
        (
            "three brushes",
            rgb(|x, y| if inside(x, y) { [[0, 200, 0], [0, 0, 255], [200, 200, 0]][x as usize % 3] } else { black })
                .into(),
            MaskFrom::Any,
            false,
            "coloured pixels",
        ),
        ("a black layer", rgba(|x, y| with(black, on(x, y))).into(), MaskFrom::Alpha, false, "opaque pixels"),
        ("a white layer", rgba(|x, y| with([255; 3], on(x, y))).into(), MaskFrom::Alpha, false, "opaque pixels"),
        (
            "a highlighter",
            rgba(|x, y| with([255, 255, 0], on(x, y) / 2)).into(),
            MaskFrom::Alpha,
            false,
            "opaque pixels",
        ),
        (
            "an object erased",
            rgba(|x, y| with(photo(x, y), 255 - on(x, y))).into(),
            MaskFrom::Alpha,
            true,
            "transparent pixels",
        ),
    ];
    for (what, image, from, invert, said) in cases {
        let read = desk.read(image, MaskOptions::new()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(
            (read.options.from, read.options.invert, read.describe("m")),
            (from, invert, format!("{said} of m")),
            "{what}"
        );
        is_inside(&read, inside);
        assert!(read.mask.count() > 200 && read.sha256.len() == 64, "{what}");
        // What the result says reads the same file again, and --invert-mask the rest.
        let path = desk.folder.path().join("mask.png");
        let again = |options| read_mask(&path, &Limits::default(), &desk.image, &options).unwrap();
        assert_eq!(again(read.options), read, "{what}");
        is_inside(&again(MaskOptions::new().with_invert(true)), |x, y| !inside(x, y));
    }
}

#[test]
fn jpeg_and_smooth_edges_do_not_hide_what_a_mask_is() {
    let desk = Desk::new();
    for (name, colour) in [("white.jpg", [255; 3]), ("blue.jpg", [30, 30, 220])] {
        let path =
            desk.save(name, rgb(|x, y| if (8..32).contains(&x) && (16..40).contains(&y) { colour } else { [0; 3] }));
        let read = read_mask(&path, &Limits::default(), &desk.image, &MaskOptions::new()).unwrap();
        let off = (0..48u32)
            .flat_map(|y| (0..64u32).map(move |x| (x, y)))
            .filter(|&(x, y)| read.mask.contains(x, y) != ((8..32).contains(&x) && (16..40).contains(&y)));
        assert!(off.count() < 60, "{name}");
        assert!(!read.mask.contains(60, 5) && read.mask.contains(20, 28));
    }
    let soft = |x: u32, y: u32| (380 - 4 * ((x as i32 - 20).pow(2) + (y as i32 - 25).pow(2))).clamp(0, 255) as u8;
    let read = desk.read(rgba(|x, y| with([0, 0, 200], soft(x, y))), MaskOptions::new()).unwrap();
    is_inside(&read, |x, y| soft(x, y) >= 128);
    // A smooth brush on black keeps its hue as it fades.
    let faded = rgb(|x, y| [0, (u32::from(soft(x, y)) * 100 / 255) as u8, (u32::from(soft(x, y)) * 200 / 255) as u8]);
    let read = desk.read(faded, MaskOptions::new()).unwrap();
    assert_eq!(read.options.from, MaskFrom::Any);
    is_inside(&read, |x, y| soft(x, y) >= 128);
}

#[test]
fn what_may_mean_two_things_is_an_error_that_names_the_option() {
    let desk = Desk::new();
    let on = |x, y| u8::from(inside(x, y)) * 255;
    let cases: Vec<(&str, DynamicImage)> = vec![
        ("a photograph", rgb(photo).into()),
        ("a photograph by night", rgb(|x, y| if y < 12 { [0; 3] } else { photo(x, y) }).into()),
        ("a red brush on white", rgb(|x, y| if inside(x, y) { [220, 20, 20] } else { [255; 3] }).into()),
        ("opaque white with a hole", rgba(|x, y| with([255; 3], 255 - on(x, y))).into()),
        ("a cut-out", rgba(|x, y| with(photo(x, y), on(x, y))).into()),
        ("black and white on nothing", rgba(|x, y| with([u8::from(x < 20) * 255; 3], on(x, y))).into()),
        ("all of it half transparent", rgba(|x, y| with([on(x, y); 3], 130)).into()),
    ];
    for (what, image) in cases {
        let error = desk.read(image.clone(), MaskOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image, "{what}: {error}");
        assert!(error.to_string().contains("--mask-from alpha"), "{what}: {error}");
        assert!(desk.read(image, MaskOptions::new().with_from(MaskFrom::Luma)).is_ok(), "{what}");
    }
    let hole = rgba(|x, y| with([255; 3], 255 - on(x, y)));
    let options = MaskOptions::new().with_from(MaskFrom::Alpha);
    is_inside(&desk.read(hole.clone(), options.with_invert(true)).unwrap(), inside);
    is_inside(&desk.read(hole, options).unwrap(), |x, y| !inside(x, y));
    let error = desk.read(rgb(photo), options).unwrap_err();
    assert!(error.to_string().contains("no transparent pixel"), "{error}");
}

#[test]
fn nothing_painted_is_an_empty_mask() {
    let desk = Desk::new();
    for image in [rgba(|_, _| [0; 4]), rgba(|_, _| [255, 255, 255, 0]), rgba(|_, _| [0, 0, 0, 255])] {
        assert!(desk.read(image, MaskOptions::new()).unwrap().mask.is_empty());
    }
    assert_eq!(desk.read(rgba(|_, _| [255; 4]), MaskOptions::new()).unwrap().mask.count(), 64 * 48);
}

#[test]
fn a_mask_of_the_file_before_it_was_turned_is_turned() {
    let mut desk = Desk::new();
    let white =
        |width, height| GrayImage::from_fn(width, height, |x, y| Luma([u8::from(x < 20 && (y == 3 || x == 1)) * 255]));
    for orientation in
        [Orientation::Rotate90, Orientation::Rotate270, Orientation::Rotate90FlipH, Orientation::Rotate270FlipH]
    {
        let mut upright = DynamicImage::from(white(48, 64));
        upright.apply_orientation(orientation);
        let upright = upright.into_luma8();
        desk.image.orientation = orientation;
        let read = desk.read(white(48, 64), MaskOptions::new()).unwrap();
        is_inside(&read, |x, y| upright.get_pixel(x, y).0[0] == 255);
        assert!(read.turned && read.describe("m").contains("turned"), "{}", read.describe("m"));
        let half = image::imageops::resize(&white(48, 64), 24, 32, image::imageops::FilterType::Nearest);
        let read = desk.read(half, MaskOptions::new().with_resize(true)).unwrap();
        assert!(read.turned && (read.mask.width(), read.mask.height()) == SIZE, "{}", read.describe("m"));
        // The upright image's own size is as it is.
        let read = desk.read(white(64, 48), MaskOptions::new()).unwrap();
        is_inside(&read, |x, y| white(64, 48).get_pixel(x, y).0[0] == 255);
    }
    desk.image.orientation = Orientation::Rotate180;
    let error = desk.read(white(48, 64), MaskOptions::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Request && error.to_string().contains("48x64"), "{error}");
}

#[test]
fn another_size_is_brought_to_the_images_on_demand() {
    let desk = Desk::new();
    let block = |scale: u32| {
        GrayImage::from_fn(64 * scale / 4, 48 * scale / 4, |x, y| {
            Luma([u8::from((scale..3 * scale).contains(&x) && (scale..2 * scale).contains(&y)) * 255])
        })
    };
    for scale in [1, 2, 8, 12] {
        let error = desk.read(block(scale), MaskOptions::new()).unwrap_err();
        assert!(error.kind() == ErrorKind::Request && error.to_string().contains("--resize-mask"), "{error}");
        let read = desk.read(block(scale), MaskOptions::new().with_resize(true)).unwrap();
        is_inside(&read, |x, y| (4..12).contains(&x) && (4..8).contains(&y));
        assert!(
            read.describe("m").contains(&format!("resized from {}x{}", 16 * scale, 12 * scale)),
            "{}",
            read.describe("m")
        );
    }
    // A line of one pixel of a mask four times as large is a quarter of a pixel: it does not vanish, nor is it full.
    let line = GrayImage::from_fn(256, 192, |_, y| Luma([u8::from((100..102).contains(&y)) * 255]));
    let read = desk.read(line, MaskOptions::new().with_resize(true)).unwrap();
    assert_eq!((read.mask.count(), read.mask.contains(3, 25)), (64, true));
    for (width, height) in [(64, 64), (48, 64), (640, 470)] {
        let error = desk.read(GrayImage::new(width, height), MaskOptions::new().with_resize(true)).unwrap_err();
        assert!(error.to_string().contains("proportions"), "{error}");
    }
}

#[test]
fn masks_of_old_records_are_read_as_they_were() {
    let desk = Desk::new();
    let path =
        desk.save("mask.png", RgbaImage::from_fn(4, 1, |x, _| Rgba([255, 255, 255, [0, 100, 128, 255][x as usize]])));
    let (mask, sha256) = read_hard_mask(&path, &Limits::default()).unwrap();
    assert_eq!((0..4).map(|x| mask.contains(x, 0)).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(sha256.len(), 64);
}
