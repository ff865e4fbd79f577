//! The library's editing: on the tiny bundle, whose encoder undoes its decoder patch by patch, and on a bundled model.

use image::{GrayImage, Rgb, RgbImage};
use maskgit::{ErrorKind, Feather, Generated, Generator, Mask, Outpaint, Request, Window, Windows};
use serde_json::Value;

use crate::common::{AVATARS, TINY, Watch, boxes, copy_tiny, emulated, noise, open, tiny};

/// The models of the tests that draw much.
fn models() -> &'static [&'static str] {
    if emulated() { &[TINY] } else { &[TINY, AVATARS] }
}

/// A request of class 0 with seed 11.
fn set(request: Request, generator: &Generator) -> Request {
    // The bundled model takes its time, and learns nothing from more steps here.
    let steps = if generator.manifest().tokens() > 16 { 2 } else { 4 };
    request.with_class("0").with_seed(11).with_steps(steps)
}

/// Images of several sizes and masks of several kinds.
fn cases() -> Vec<(&'static str, Mask)> {
    vec![
        ("the model's size", boxes(64, 64, &[(20, 24, 17, 11)])),
        ("one pixel", boxes(64, 64, &[(63, 0, 1, 1)])),
        ("two parts in two windows", boxes(300, 200, &[(10, 10, 20, 9), (250, 170, 30, 20)])),
        ("two holes in one window", boxes(150, 90, &[(10, 10, 8, 9), (40, 30, 9, 9)])),
        ("larger than the model", boxes(210, 190, &[(30, 20, 100, 120)])),
        ("smaller than the model", boxes(30, 22, &[(25, 3, 5, 9)])),
        ("no rectangle", Mask::from_fn(80, 120, |x, y| (x * x + y * y) % 97 < 9 || x + 3 * y == 200).unwrap()),
        ("at the border", boxes(100, 64, &[(0, 0, 9, 64), (90, 60, 10, 4)])),
        ("everything", Mask::all(40, 50).unwrap()),
    ]
}

/// The distance to the mask along rows and columns, the larger of the two, up to `limit`.
fn near(mask: &Mask, x: u32, y: u32, limit: u32) -> bool {
    let (left, top) = (x.saturating_sub(limit), y.saturating_sub(limit));
    (top..=(y + limit).min(mask.height() - 1))
        .any(|v| (left..=(x + limit).min(mask.width() - 1)).any(|u| mask.contains(u, v)))
}

#[test]
fn nothing_depends_on_the_pixels_under_the_mask() {
    for model in models() {
        let mut generator = open(model, 2);
        for (what, mask) in cases() {
            let image = noise(mask.width(), mask.height(), 1);
            let mut other = image.clone();
            for (x, y, pixel) in other.enumerate_pixels_mut() {
                if mask.contains(x, y) {
                    pixel.0 = noise(1, 1, x * 1000 + y).get_pixel(0, 0).0;
                }
            }
            assert_ne!(image, other);
            for (dilation, feather) in [(1, Feather::Gaussian), (0, Feather::Gaussian), (0, Feather::Pixels(6))] {
                let mut draw = |image: &RgbImage| {
                    let request = set(Request::edit(image.clone(), mask.clone()), &generator);
                    let mut watch = Watch::with_previews();
                    generator
                        .generate_with(&request.with_dilation(dilation).with_feather(feather), &mut watch)
                        .unwrap();
                    watch
                };
                let (one, two) = (draw(&image), draw(&other));
                assert_eq!(one.images(), two.images(), "{what}, {dilation} rings, {feather:?}");
                let previews = |watch: &Watch| -> Vec<RgbImage> {
                    watch.previews().into_iter().map(|preview| preview.image.clone()).collect()
                };
                assert!(!one.previews().is_empty() && previews(&one) == previews(&two), "{what}: previews");
            }
        }
    }
}

/// Of two images that differ where the colour is unknown, each keeps what it has there, and all else is the same.
#[test]
fn the_colour_of_unknown_pixels_is_not_seen() {
    for model in models() {
        let mut generator = open(model, 2);
        // Under the mask, under its feather, in the window and outside of it.
        let unknown = boxes(150, 90, &[(30, 0, 40, 40), (0, 20, 12, 9), (140, 80, 10, 10)]);
        let mask = boxes(150, 90, &[(10, 10, 30, 29)]);
        let image = noise(150, 90, 1);
        let mut other = image.clone();
        for (x, y, pixel) in other.enumerate_pixels_mut().filter(|(x, y, _)| unknown.contains(*x, *y)) {
            pixel.0 = [255 * u8::from(x > 60), 255, y as u8];
        }
        let sides = Outpaint { left: 9, bottom: 20, ..Outpaint::default() };
        let requests = |image: &RgbImage| {
            [
                Request::edit(image.clone(), mask.clone()),
                Request::outpaint(image.clone(), sides),
                Request::vary(image.clone(), 0.5),
                Request::reconstruct(image.clone()),
            ]
        };
        for (i, (one, two)) in requests(&image).into_iter().zip(requests(&other)).enumerate() {
            let mut draw = |request: Request| generator.generate(&set(request, &generator)).unwrap().images.remove(0);
            // The tiny model draws all that they touch in an edit.
            if i > 0 || *model != TINY {
                assert_ne!(draw(one.clone()).tokens, draw(two.clone()).tokens, "{i}: known, they are seen");
            }
            let (one, two) = (draw(one.with_unknown(unknown.clone())), draw(two.with_unknown(unknown.clone())));
            assert_eq!(one.tokens, two.tokens, "{model}, {i}");
            let (left, top) = [(0, 0), (9, 0), (0, 0), (0, 0)][i];
            for (x, y, pixel) in one.pixels.enumerate_pixels() {
                let (u, v) = (x.wrapping_sub(left), y.wrapping_sub(top));
                if i < 2 && unknown.contains(u, v) && !(i == 0 && mask.contains(u, v)) {
                    assert_eq!((pixel, two.pixels.get_pixel(x, y)), (image.get_pixel(u, v), other.get_pixel(u, v)));
                } else {
                    assert_eq!(pixel, two.pixels.get_pixel(x, y), "{model}, {i}: ({x},{y})");
                }
            }
        }
        let wrong = Request::edit(image, mask).with_unknown(boxes(150, 91, &[(0, 0, 1, 1)]));
        assert_eq!(generator.generate(&wrong).unwrap_err().kind(), ErrorKind::Request);
        // With all of it known, or nothing unknown, nothing changes.
        let request = set(Request::edit(other, boxes(150, 90, &[(10, 10, 30, 29)])), &generator);
        let plain = generator.generate(&request).unwrap().images;
        let none = Mask::none(150, 90).unwrap();
        assert_eq!(plain, generator.generate(&request.with_unknown(none)).unwrap().images);
    }
}

#[test]
fn pixels_beyond_the_feather_keep_their_bytes() {
    for model in models() {
        let mut generator = open(model, 2);
        let shape = generator.manifest().shape();
        for (what, mask) in cases() {
            let image = noise(mask.width(), mask.height(), 2);
            for feather in [Feather::Gaussian, Feather::Pixels(0), Feather::Pixels(5)] {
                let request = set(Request::edit(image.clone(), mask.clone()), &generator).with_feather(feather);
                let edited = generator.generate(&request).unwrap();
                let windows = &edited.summary.windows;
                let reach = windows.iter().map(|w| feather.reach(shape, request.edge.dilation, *w)).max().unwrap();
                let result = &edited.images[0].pixels;
                assert_eq!(result.dimensions(), image.dimensions());
                let mut changed = 0;
                for (x, y, pixel) in result.enumerate_pixels() {
                    let same = pixel == image.get_pixel(x, y);
                    assert!(same || near(&mask, x, y, reach), "{what}, {feather:?}, reach {reach}: ({x},{y}) changed");
                    changed += usize::from(mask.contains(x, y) && !same);
                }
                // Of noise, hardly a pixel of the hole stays by chance.
                assert!(changed * 10 >= mask.count() * 9, "{what}, {feather:?}: {changed} of {}", mask.count());
            }
        }
    }
}

#[test]
fn kept_tokens_stay_and_others_are_drawn() {
    let mut generator = tiny(1);
    let image = noise(16, 16, 3);
    let codes = generator.encode(&image).unwrap();
    let mask = boxes(16, 16, &[(5, 5, 1, 1)]);
    for (dilation, drawn) in [(0, 1), (1, 9), (9, 16)] {
        let request = set(Request::edit(image.clone(), mask.clone()), &generator).with_dilation(dilation);
        let mut differ = [false; 16];
        for edited in generator.generate(&request.with_seed(0).with_count(40)).unwrap().images {
            assert_eq!(edited.masked.last(), Some(&0));
            // The tiny encoder looks at one patch, and the hole is filled from its surroundings: all other tokens are
            // known.
            for (place, (token, code)) in edited.tokens.iter().zip(&codes).enumerate() {
                differ[place] |= token != code;
            }
        }
        assert_eq!(differ.iter().filter(|&&d| d).count(), drawn, "{dilation} rings: {differ:?}");
    }
}

#[test]
fn an_empty_mask_gives_the_image_back() {
    let mut generator = tiny(1);
    for (width, height) in [(1, 1), (16, 16), (100, 3)] {
        let image = noise(width, height, 4);
        let request = Request::edit(image.clone(), Mask::none(width, height).unwrap());
        let mut watch = Watch::default();
        let summary = generator.generate_with(&set(request, &generator).with_count(2), &mut watch).unwrap();
        assert!(summary.windows.is_empty(), "says so");
        assert!(watch.predicted().is_empty() && watch.encoded().is_empty(), "the model is not asked");
        let images = watch.images();
        assert_eq!(images.len(), 2);
        assert!(images.iter().all(|result| result.pixels == image && result.tokens.is_empty()));
    }
}

#[test]
fn one_pixel_and_very_large_images() {
    let mut generator = tiny(1);
    let one = noise(1, 1, 5);
    let sides = Outpaint { right: 5, bottom: 3, ..Outpaint::default() };
    for (request, size) in [
        (Request::edit(one.clone(), Mask::all(1, 1).unwrap()), (1, 1)),
        (Request::vary(one.clone(), 0.5), (1, 1)),
        (Request::reconstruct(one.clone()), (1, 1)),
        (Request::outpaint(one, sides), (6, 4)),
    ] {
        assert_eq!(generator.generate(&set(request, &generator)).unwrap().images[0].pixels.dimensions(), size);
    }

    let large = RgbImage::from_fn(8000, 6000, |x, y| Rgb([x as u8, y as u8, (x / 31 + y / 17) as u8]));
    let mask = boxes(8000, 6000, &[(10, 10, 5, 5), (4000, 3000, 300, 200)]);
    let edited = generator.generate(&set(Request::edit(large.clone(), mask), &generator)).unwrap();
    let windows = &edited.summary.windows;
    assert_eq!(windows.iter().map(|window| window.width).collect::<Vec<_>>(), [16, 600]);
    let result = &edited.images[0].pixels;
    // Beyond both windows every byte is the same: row by row, as the image is large.
    let outside = |x: u32, y: u32| windows.iter().all(|w| !w.columns(8000).contains(&x) || !w.rows(6000).contains(&y));
    assert!((0..6000).all(|y| (0..8000).all(|x| !outside(x, y) || result.get_pixel(x, y) == large.get_pixel(x, y))));
    assert_ne!(result.get_pixel(4100, 3100), large.get_pixel(4100, 3100));
    let all = Request::edit(large, Mask::all(8000, 6000).unwrap());
    let all = generator.generate(&set(all, &generator)).unwrap();
    assert_eq!(all.summary.windows, [Window { x: 0, y: -1000, width: 8000, height: 8000 }]);
}

#[test]
fn the_fit_is_the_mean_difference_where_tokens_were_kept() {
    let mut generator = tiny(1);
    let image = noise(16, 16, 41);
    let mean = |a: &RgbImage, kept: &dyn Fn(u32, u32) -> bool| {
        let off = |x: u32, y: u32| {
            a.get_pixel(x, y).0.iter().zip(image.get_pixel(x, y).0).map(|(a, b)| f64::from(a.abs_diff(b))).sum::<f64>()
        };
        let places: Vec<(u32, u32)> = (0..256).map(|i| (i % 16, i / 16)).filter(|&(x, y)| kept(x, y)).collect();
        places.iter().map(|&(x, y)| off(x, y)).sum::<f64>() / (3.0 * places.len() as f64)
    };
    let close = |fit: Option<f32>, expected: f64| (f64::from(fit.unwrap()) - expected).abs() < 1e-3;
    let result = generator.generate(&Request::reconstruct(image.clone())).unwrap().images.remove(0);
    assert!(close(result.fit, mean(&result.pixels, &|_, _| true)), "{:?}", result.fit);
    // Cells of 4x4 pixels; without rings those that the box touches are drawn.
    let request = Request::edit(image.clone(), boxes(16, 16, &[(5, 1, 6, 3)])).with_dilation(0).with_class("warm");
    for result in generator.generate(&request.with_count(3).with_steps(3)).unwrap().images {
        let decoded = generator.decode(&result.tokens).unwrap();
        let kept = |x: u32, y: u32| !((4..12).contains(&x) && y < 4);
        assert!(close(result.fit, mean(&decoded, &kept)), "{:?}", result.fit);
    }
    for request in [Request::generate(), Request::edit(image.clone(), Mask::all(16, 16).unwrap())] {
        assert_eq!(generator.generate(&request.with_class("warm")).unwrap().images[0].fit, None, "nothing was kept");
    }
}

#[test]
fn a_thin_mask_changes_a_thin_region() {
    let mut generator = tiny(2);
    let image = noise(120, 90, 42);
    let wire = Mask::from_fn(120, 90, |x, y| x * 3 / 4 == y).unwrap();
    let far = |x: u32, y: u32| {
        (0..120u32).map(|u| u.abs_diff(x).pow(2) + (u * 3 / 4).abs_diff(y).pow(2)).min().unwrap_or_default()
    };
    let mut changed = |request: Request| {
        let drawn = generator.generate(&request.with_class("warm").with_steps(2)).unwrap();
        let pixels = drawn.images[0].pixels.enumerate_pixels();
        let changed: Vec<u32> =
            pixels.filter(|(x, y, p)| *p != image.get_pixel(*x, *y)).map(|(x, y, _)| far(x, y)).collect();
        (changed.len(), changed.into_iter().max().unwrap(), drawn.summary.windows)
    };
    let edit = Request::edit(image.clone(), wire.clone());
    let (count, farthest, windows) = changed(edit.clone());
    // The bound of docs/editing.md: two pixels to either side.
    assert!(farthest <= 4 && count <= 7 * wire.count(), "{count} of {}, {farthest}", wire.count());
    assert!(windows.len() > 8 && windows.iter().all(|window| window.width <= 24), "{windows:?}");
    let before = edit.with_feather(Feather::Gaussian).with_windows(Windows::Parts);
    let (wide, _, windows) = changed(before);
    assert!(wide > 4 * count && windows.len() == 1, "{wide}");
}

#[test]
fn everything_masked_is_a_generation() {
    let mut generator = tiny(1);
    let edit = Request::edit(noise(16, 16, 6), Mask::all(16, 16).unwrap());
    let [drawn, edited] = [Request::generate(), edit]
        .map(|request| generator.generate(&request.with_class("cool").with_seed(5)).unwrap());
    assert_eq!(edited.images, drawn.images);
}

fn edits(generator: &mut Generator, change: impl Fn(Request) -> Request) -> [Generated; 3] {
    let image = noise(90, 70, 7);
    let mask = boxes(90, 70, &[(3, 3, 12, 12), (70, 50, 11, 9)]);
    let sides = Outpaint { left: 20, bottom: 40, ..Outpaint::default() };
    [Request::edit(image.clone(), mask), Request::outpaint(image.clone(), sides), Request::vary(image, 0.6)]
        .map(|request| generator.generate(&change(set(request, generator))).unwrap())
}

#[test]
fn a_result_depends_on_its_seed_alone() {
    for model in models() {
        let (mut one, mut two) = (open(model, 1), open(model, 2));
        let drawn = edits(&mut one, |request| request.with_count(3));
        let again = edits(&mut two, |request| request.with_count(3));
        for (kind, (drawn, again)) in drawn.iter().zip(&again).enumerate() {
            assert_eq!(drawn.images, again.images, "edit {kind}: threads");
            assert_ne!(drawn.images[0].tokens, drawn.images[1].tokens, "edit {kind}: seeds differ");
        }
        for index in 0..3 {
            let alone = edits(&mut two, |request| request.with_seed(11 + index as u64));
            for (kind, (alone, drawn)) in alone.iter().zip(&drawn).enumerate() {
                let mut alone = alone.images[0].clone();
                alone.index = index;
                assert_eq!(alone, drawn.images[index], "edit {kind}, result {index}");
            }
        }
    }
}

#[test]
fn outpainting_keeps_the_image_and_covers_the_rest() {
    let mut generator = open(AVATARS, 2);
    let image = generator.generate(&Request::generate().with_class("lorelei")).unwrap().images.remove(0).pixels;
    let cases = [(64, Feather::Pixels(0)), (200, Feather::Pixels(3))];
    for &(width, feather) in &cases[..if emulated() { 1 } else { 2 }] {
        let sides = Outpaint { left: 10, right: width, top: 1, ..Outpaint::default() };
        let request = set(Request::outpaint(image.clone(), sides), &generator).with_feather(feather);
        let mut watch = Watch::default();
        let summary = generator.generate_with(&request, &mut watch).unwrap();
        let result = watch.images()[0];
        assert_eq!(result.pixels.dimensions(), (74 + width, 65));
        let Feather::Pixels(reach) = feather else { unreachable!() };
        for (x, y, pixel) in image.enumerate_pixels() {
            if (reach..64 - reach).contains(&x) && y >= reach {
                assert_eq!(result.pixels.get_pixel(x + 10, y + 1), pixel, "({x},{y})");
            }
        }
        let windows = &summary.windows;
        assert!(windows.len() >= 3 + width as usize / 32 && windows.iter().all(|w| w.width == 64));
        assert_eq!(result.tokens.len(), 256 * windows.len());
        assert_eq!(watch.predicted().last().map(|(done, total)| done == total), Some(true));
        // New pixels are drawn: none has the colour that stands for what is not painted.
        let unpainted = result.pixels.pixels().filter(|pixel| pixel.0 == [127; 3]).count();
        assert!(unpainted < 20, "{unpainted}");
    }
}

/// A window's draws depend on its place in the plan, so with noise this holds for the first one only.
#[test]
fn the_first_of_several_boxes_is_drawn_as_if_alone() {
    let mut generator = tiny(1);
    let image = noise(120, 90, 14);
    let far = [(5, 5, 6, 6), (90, 10, 9, 4), (50, 60, 12, 12)];
    let mut draw = |holes: &[(u32, u32, u32, u32)]| {
        let request = set(Request::edit(image.clone(), boxes(120, 90, holes)), &generator);
        generator.generate(&request.with_guidance(1.5).with_count(3)).unwrap()
    };
    let (together, alone) = (draw(&far), draw(&far[..1]));
    let window = alone.summary.windows[0];
    assert_eq!((together.summary.windows.len(), together.summary.windows[0]), (3, window));
    for (together, alone) in together.images.iter().zip(&alone.images) {
        assert_eq!((together.seed, &together.tokens[..16]), (alone.seed, &alone.tokens[..]));
        assert_eq!(together.masked[..4], alone.masked);
        let mut inside = 0;
        for (x, y, pixel) in alone.pixels.enumerate_pixels() {
            if window.columns(120).contains(&x) && window.rows(90).contains(&y) {
                assert_eq!(together.pixels.get_pixel(x, y), pixel, "({x},{y})");
                inside += 1;
            }
        }
        assert!(inside >= 36 && together.pixels != alone.pixels, "the other boxes are painted too");
    }
}

#[test]
fn variations_keep_a_part_of_the_tokens() {
    let mut generator = tiny(1);
    let image = generator.decode(&(0..16).map(|i| i * 5 % 8).collect::<Vec<i64>>()).unwrap();
    let codes = generator.encode(&image).unwrap();
    let reconstruction = generator.generate(&Request::reconstruct(image.clone())).unwrap().images.remove(0);
    assert_eq!(
        (&reconstruction.pixels, &reconstruction.tokens),
        (&image, &codes),
        "the tiny encoder undoes the decoder"
    );
    for (strength, drawn) in [(0.0, 0), (0.25, 4), (1.0, 16)] {
        let mut differ = 0;
        let request = set(Request::vary(image.clone(), strength), &generator).with_seed(11).with_count(30);
        for varied in generator.generate(&request).unwrap().images {
            let changed = varied.tokens.iter().zip(&codes).filter(|(a, b)| a != b).count();
            assert!(changed <= drawn, "strength {strength}, seed {}: {changed}", varied.seed);
            differ = differ.max(changed);
        }
        assert!(differ * 2 >= drawn, "strength {strength}: at most {differ} of {drawn}");
    }
    let large = generator.generate(&Request::reconstruct(noise(50, 20, 8))).unwrap();
    assert_eq!(large.images[0].pixels.dimensions(), (50, 20));
}

#[test]
fn googles_start_iteration() {
    let mut generator = open(AVATARS, 2);
    let image = noise(64, 64, 9);
    let mut request = Request::edit(image.clone(), Mask::all(64, 64).unwrap()).with_class("lorelei").with_steps(12);
    request.sampling.start_iter = Some(2);
    let edited = generator.generate(&request).unwrap();
    assert_eq!(edited.images[0].masked, [236, 221, 203, 181, 155, 127, 97, 66, 33, 0]);
    // A box of 8x8 tokens grows by one on each side: 100 tokens.
    let request = Request::edit(image, boxes(64, 64, &[(16, 16, 32, 32)])).with_class("lorelei").with_steps(12);
    let edited = generator.generate(&request).unwrap();
    assert_eq!(edited.images[0].masked[0], 99, "floor(100 cos(pi / 24))");
}

#[test]
fn progress_previews_and_cancelling() {
    let mut generator = tiny(1);
    let image = noise(90, 70, 10);
    let mask = boxes(90, 70, &[(3, 3, 4, 4), (70, 50, 5, 5)]);
    let request = set(Request::edit(image, mask), &generator).with_guidance(1.0).with_count(2);
    let mut watch = Watch::with_previews();
    let summary = generator.generate_with(&request, &mut watch).unwrap();
    // 2 results, 2 windows, 4 steps, 2 passes; neither window shows the other's part, so both are encoded once.
    assert_eq!(watch.predicted(), (1..=32).map(|done| (done, 32)).collect::<Vec<_>>());
    assert_eq!(watch.encoded(), [(1, 2), (2, 2)]);
    // They are one stage: a preview shows both.
    let previews = watch.previews();
    assert_eq!(previews.len(), 8);
    let (last, images) = (previews[7], watch.images());
    assert_eq!((last.stage, last.stages, last.step, last.index), (0, 1, 3, 1));
    assert_eq!(&last.image, &images[1].pixels, "the last preview is the result");
    assert_eq!(summary.timings.steps.len(), 4);
    for stop_at in 1..=watch.events.len() {
        let mut stopped = Watch { want_previews: true, stop_at: Some(stop_at), ..Watch::default() };
        let error = generator.generate_with(&request, &mut stopped).unwrap_err();
        assert_eq!((error.kind(), stopped.events.len()), (ErrorKind::Cancelled, stop_at));
    }
    assert_eq!(generator.generate(&request).unwrap().images.iter().collect::<Vec<_>>(), images);
}

#[test]
fn without_a_class() {
    let mut generator = tiny(1);
    let (image, mask) = (noise(16, 16, 11), boxes(16, 16, &[(2, 2, 9, 9)]));
    let request = Request::edit(image, mask).with_seed(11).with_steps(4);
    let guided = request.clone().with_guidance(3.0);
    let mut watch = Watch::default();
    let summary = generator.generate_with(&guided, &mut watch).unwrap();
    assert_eq!(watch.predicted().len(), 4, "nothing to guide: one pass a step");
    assert_eq!((summary.resolved.label, summary.resolved.sampling.guidance), (None, 0.0));
    let mut tokens: Vec<Vec<Vec<i64>>> = [None, Some("0"), Some("1"), Some("2")]
        .into_iter()
        .map(|class| {
            let mut request = request.clone().with_count(10);
            request.class = class.map(str::to_owned);
            generator.generate(&request).unwrap().images.into_iter().map(|image| image.tokens).collect()
        })
        .collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "each class draws its own, and no class another");

    let folder = tempfile::tempdir().unwrap();
    copy_tiny(folder.path(), |manifest| manifest["null_label"] = Value::Null);
    let mut generator = Generator::open(folder.path()).unwrap();
    let error = generator.generate(&request).unwrap_err();
    assert!(error.kind() == ErrorKind::Request && error.to_string().contains("give a class"), "{error}");
    // What draws nothing needs none.
    generator.generate(&Request::reconstruct(noise(16, 16, 11))).unwrap();
}

#[test]
fn a_model_without_an_encoder_draws_but_does_not_edit() {
    let folder = tempfile::tempdir().unwrap();
    copy_tiny(folder.path(), |manifest| manifest["graphs"]["encoder"] = Value::Null);
    let mut generator = Generator::open(folder.path()).unwrap();
    generator.generate(&Request::generate().with_class("0")).unwrap();
    let image = noise(16, 16, 13);
    for request in [
        Request::edit(image.clone(), Mask::all(16, 16).unwrap()),
        Request::outpaint(image.clone(), Outpaint { left: 1, ..Outpaint::default() }),
        Request::vary(image.clone(), 0.5),
        Request::reconstruct(image.clone()),
    ] {
        let error = generator.generate(&request).unwrap_err();
        assert!(error.kind() == ErrorKind::Request && error.to_string().contains("no encoder"), "{error}");
    }
    assert!(generator.encode(&image).unwrap_err().to_string().contains("no encoder"));
}

#[test]
fn impossible_edits_are_errors() {
    let mut generator = tiny(1);
    let image = noise(20, 20, 12);
    let good = set(Request::edit(image.clone(), boxes(20, 20, &[(1, 1, 2, 2)])), &generator);
    let start = |mut request: Request| {
        request.sampling.start_iter = Some(99);
        request
    };
    let cold = |mut request: Request| {
        request.sampling.temperature = Some(-1.0);
        request
    };
    for (what, request) in [
        ("class", good.clone().with_class("3")),
        ("count", good.clone().with_count(0)),
        ("count", good.clone().with_count(usize::MAX)),
        ("start_iter", start(good.clone())),
        ("feather", good.clone().with_feather(Feather::Pixels(u32::MAX))),
        ("context", good.clone().with_context(f32::NAN)),
        ("context", good.clone().with_context(0.5)),
        ("temperature", cold(good.clone())),
    ] {
        let error = generator.generate(&request).unwrap_err();
        assert!(error.kind() == ErrorKind::Request && error.to_string().contains(what), "{what}: {error}");
    }
    let mut fails = |request: Request| generator.generate(&set(request, &tiny(1))).unwrap_err();
    let error = fails(Request::edit(image.clone(), Mask::all(20, 21).unwrap()));
    assert!(error.to_string().contains("20x21") && error.to_string().contains("20x20"), "{error}");
    for strength in [-0.1, 1.1, f32::NAN] {
        assert_eq!(fails(Request::vary(image.clone(), strength)).kind(), ErrorKind::Request);
    }
    let sides = Outpaint { right: 16_000, bottom: 16_000, ..Outpaint::default() };
    let error = fails(Request::outpaint(image, sides).with_count(10_000));
    assert!(error.to_string().contains("ask for fewer"), "{error}");
    let empty = RgbImage::new(0, 5);
    fails(Request::vary(empty.clone(), 0.5));
    fails(Request::reconstruct(empty.clone()));
    fails(Request::outpaint(empty, Outpaint { left: 9, ..Outpaint::default() }));
    assert!(Mask::from_image(&GrayImage::new(0, 0)).is_err());
    generator.generate(&good.with_dilation(usize::MAX)).unwrap();
}
