//! Files that are read to be edited: every common form, and hostile ones. `tests/data/make_inputs.py` writes them.

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, Luma, Rgb, RgbImage};
use maskgit_core::ErrorKind;
use maskgit_geometry::Outpaint;
use maskgit_image::{Limits, MaskFrom, MaskOptions, SourceImage, encode_png, read_image, read_mask};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/inputs").join(name)
}

/// What all of them show.
fn sample() -> RgbImage {
    RgbImage::from_fn(24, 16, |x, y| match (x, y) {
        (0..4, 0..4) => Rgb([255; 3]),
        (0..12, _) => Rgb([200, 40, 40]),
        _ => Rgb([40, 40, 200]),
    })
}

fn opacity() -> GrayImage {
    GrayImage::from_fn(24, 16, |x, y| match (x, y) {
        (0..6, 8..) => Luma([0]),
        (20.., 0..8) => Luma([77]),
        _ => Luma([255]),
    })
}

fn furthest(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn common_forms_are_read() {
    let grey = RgbImage::from_fn(24, 16, |x, y| {
        let [r, g, b] = sample().get_pixel(x, y).0.map(f64::from);
        Rgb([(0.299 * r + 0.587 * g + 0.114 * b).round() as u8; 3])
    });
    let red = RgbImage::from_fn(24, 16, |x, y| Rgb([sample().get_pixel(x, y).0[0]; 3]));
    for (name, expected, tolerance, alpha, profile) in [
        ("plain.png", sample(), 0, false, false),
        ("alpha.png", sample(), 0, true, false),
        ("grey.png", grey.clone(), 1, false, false),
        ("grey-alpha.png", grey.clone(), 1, true, false),
        ("palette.png", sample(), 0, false, false),
        ("deep.png", sample(), 0, false, false),
        ("deep-grey.png", red, 0, false, false),
        ("plain.bmp", sample(), 0, false, false),
        ("plain.ppm", sample(), 0, false, false),
        ("alpha.webp", sample(), 0, true, false),
        ("animated.gif", sample(), 0, false, false),
        ("plain.jpg", sample(), 24, false, false),
        ("progressive.jpg", sample(), 24, false, false),
        ("grey.jpg", grey, 24, false, false),
        ("cmyk.jpg", sample(), 24, false, false),
        ("turned.jpg", sample(), 24, false, false),
        ("profile.png", sample(), 0, false, true),
    ] {
        let source = read_image(&file(name), &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let far = furthest(&source.rgb, &expected);
        assert!(far <= tolerance, "{name}: {far}");
        assert_eq!(source.alpha, alpha.then(opacity), "{name}");
        assert_eq!(source.icc_profile.is_some(), profile, "{name}");
        assert_eq!(source.sha256.len(), 64);
    }
}

#[test]
fn opacity_and_profile_are_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.png");
    for name in ["alpha.png", "profile.png", "plain.png"] {
        let source = read_image(&file(name), &Limits::default()).unwrap();
        fs::write(&out, source.encode_png(&source.rgb, Some("x")).unwrap()).unwrap();
        let again = read_image(&out, &Limits::default()).unwrap();
        assert_eq!((&again.rgb, &again.alpha, &again.icc_profile), (&source.rgb, &source.alpha, &source.icc_profile));
    }
    let mut source = read_image(&file("alpha.png"), &Limits::default()).unwrap();
    assert!(source.encode_png(&RgbImage::new(25, 16), None).is_err());
    let sides = Outpaint { left: 2, bottom: 1, ..Outpaint::default() };
    let alpha = sides.extend_alpha(source.alpha.as_ref().unwrap()).unwrap();
    assert_eq!(alpha.dimensions(), (26, 17));
    // An outpainting is written with its opacity extended.
    source.alpha = Some(alpha.clone());
    let wide = sides.extend(&source.rgb).unwrap();
    fs::write(&out, source.encode_png(&wide, None).unwrap()).unwrap();
    assert_eq!(read_image(&out, &Limits::default()).unwrap().alpha.as_ref(), Some(&alpha));
    assert_eq!((alpha.get_pixel(0, 0).0, alpha.get_pixel(3, 9).0, alpha.get_pixel(3, 16).0), ([255], [0], [255]));
}

#[test]
fn bombs_and_limits_are_refused_in_words() {
    for (name, expected) in [("wide-bomb.png", "60000x60000"), ("deep-bomb.png", "make it smaller")] {
        let error = read_image(&file(name), &Limits::default()).unwrap_err();
        assert!(error.kind() == ErrorKind::Image && error.to_string().contains(expected), "{name}: {error}");
    }
    let limits = |side, bytes| {
        let mut limits = Limits::default();
        (limits.side, limits.bytes) = (side, bytes);
        limits
    };
    for (name, limits, expected) in [
        ("plain.jpg", limits(23, 1 << 20), "24x16"),
        ("plain.png", limits(24, 1151), "1152 bytes"),
        ("deep.png", limits(24, 1152), "2304 bytes"),
        ("plain.bmp", limits(24, 1160), "more than 1160 bytes"),
    ] {
        let error = read_image(&file(name), &limits).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
    assert!(read_image(&file("plain.png"), &limits(24, 1152)).is_ok());
    for (name, kind) in [("nothing.png", ErrorKind::Io), ("", ErrorKind::Io), ("../make_inputs.py", ErrorKind::Image)] {
        assert_eq!(read_image(&file(name), &Limits::default()).unwrap_err().kind(), kind, "{name}");
    }
}

#[test]
fn every_prefix_is_an_error_or_the_image_and_damaged_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let (image, options) = (SourceImage::new(sample(), None), MaskOptions::new().with_from(MaskFrom::Any));
    let mut read = 0;
    for entry in fs::read_dir(file("")).unwrap() {
        let entry = entry.unwrap().path();
        let (bytes, whole) = (fs::read(&entry).unwrap(), read_image(&entry, &Limits::default()));
        for place in 0..bytes.len() {
            fs::write(&path, &bytes[..place]).unwrap();
            if let Ok(cut) = read_image(&path, &Limits::default()) {
                assert_eq!(
                    Some(cut.rgb),
                    whole.as_ref().ok().map(|whole| whole.rgb.clone()),
                    "{entry:?}, {place} bytes"
                );
            }
            let mut damaged = bytes.clone();
            damaged[place] ^= 1 << (place % 8);
            fs::write(&path, damaged).unwrap();
            let _ = read_mask(&path, &Limits::default(), &image, &options);
            read += 1;
        }
    }
    assert!(read > 5000, "{read}");
    fs::write(&path, encode_png(&sample(), None).unwrap()).unwrap();
    assert!(read_image(&path, &Limits::default()).is_ok());
}
