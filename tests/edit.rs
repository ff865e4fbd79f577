//! The library's editing: on the tiny bundle, whose encoder undoes its decoder patch by patch, and on the bundled model.

use std::ops::ControlFlow;

use image::{GrayImage, Rgb, RgbImage};
use maskgit::canvas::Window;
use maskgit::{
    EditRequest, Edited, ErrorKind, Feather, Generator, Mask, Observer, OpenOptions, Outpaint, Preview, Progress, Rect,
};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny");
const AVATARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/avatars-64");

/// Whether an emulator runs the tests, which takes minutes for what takes seconds.
fn emulated() -> bool {
    std::env::var_os("MASKGIT_TEST_RUNNER").is_some()
}

/// The models of the tests that draw much.
fn models() -> &'static [&'static str] {
    if emulated() { &[TINY] } else { &[TINY, AVATARS] }
}

fn open(model: &str, threads: usize) -> Generator {
    Generator::open_with(model, &OpenOptions::with_threads(threads)).unwrap()
}

fn tiny() -> Generator {
    open(TINY, 1)
}

fn request(generator: &Generator) -> EditRequest {
    let mut request = generator.edit_request(Some("0")).unwrap();
    request.seed = 11;
    // The bundled model takes its time, and learns nothing from more steps here.
    request.options.steps = if generator.manifest().tokens() > 16 { 2 } else { 4 };
    request
}

/// An image in which no two neighbours are alike.
fn noise(width: u32, height: u32, salt: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let v = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(2_246_822_519) ^ salt.wrapping_mul(3_266_489_917))
            .wrapping_mul(668_265_263);
        Rgb([(v >> 24) as u8, (v >> 16) as u8, (v >> 8) as u8])
    })
}

fn boxes(width: u32, height: u32, boxes: &[(u32, u32, u32, u32)]) -> Mask {
    let boxes: Vec<Rect> = boxes.iter().map(|&(x, y, w, h)| Rect::new(x, y, w, h)).collect();
    Mask::from_boxes(width, height, &boxes).unwrap()
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
                let mut request = request(&generator);
                (request.dilation, request.feather) = (dilation, feather);
                let mut seen = [
                    Watch { want_previews: true, ..Watch::default() },
                    Watch { want_previews: true, ..Watch::default() },
                ];
                let one = generator.edit(&image, &mask, &request, &mut seen[0]).unwrap();
                let two = generator.edit(&other, &mask, &request, &mut seen[1]).unwrap();
                assert_eq!(one.images, two.images, "{what}, {dilation} rings, {feather:?}");
                assert!(!seen[0].previews.is_empty() && seen[0].previews == seen[1].previews, "{what}: previews");
            }
        }
    }
}

#[test]
fn pixels_beyond_the_feather_keep_their_bytes() {
    for model in models() {
        let mut generator = open(model, 2);
        let (size, grid) = (generator.manifest().image, generator.manifest().grid);
        let shape = maskgit::canvas::Shape {
            width: size.width as u32,
            height: size.height as u32,
            rows: grid.rows as u32,
            cols: grid.cols as u32,
        };
        for (what, mask) in cases() {
            let image = noise(mask.width(), mask.height(), 2);
            for feather in [Feather::Gaussian, Feather::Pixels(0), Feather::Pixels(5)] {
                let mut request = request(&generator);
                request.feather = feather;
                let edited = generator.edit(&image, &mask, &request, &mut ()).unwrap();
                let reach = edited.windows.iter().map(|w| feather.reach(shape, request.dilation, *w)).max().unwrap();
                let result = &edited.images[0].image;
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
    let mut generator = tiny();
    let image = noise(16, 16, 3);
    let codes = generator.encode(&image).unwrap();
    let mask = boxes(16, 16, &[(5, 5, 1, 1)]);
    for (dilation, drawn) in [(0, 1), (1, 9), (9, 16)] {
        let mut request = request(&generator);
        request.dilation = dilation;
        let mut differ = [false; 16];
        for seed in 0..40 {
            request.seed = seed;
            let edited = generator.edit(&image, &mask, &request, &mut ()).unwrap();
            let picture = &edited.images[0];
            assert_eq!(picture.masked.last(), Some(&0));
            // The tiny encoder looks at one patch, and the hole is filled from its surroundings: all other tokens are known.
            for (place, (token, code)) in picture.tokens.iter().zip(&codes).enumerate() {
                differ[place] |= token != code;
            }
        }
        assert_eq!(differ.iter().filter(|&&d| d).count(), drawn, "{dilation} rings: {differ:?}");
    }
}

#[test]
fn an_empty_mask_gives_the_picture_back() {
    let mut generator = tiny();
    for (width, height) in [(1, 1), (16, 16), (100, 3)] {
        let image = noise(width, height, 4);
        let mut request = request(&generator);
        request.count = 2;
        let mut watch = Watch::default();
        let edited = generator.edit(&image, &Mask::none(width, height).unwrap(), &request, &mut watch).unwrap();
        assert!(edited.windows.is_empty(), "says so");
        assert!(watch.predicted.is_empty(), "the model is not asked");
        assert_eq!(edited.images.len(), 2);
        assert!(edited.images.iter().all(|picture| picture.image == image && picture.tokens.is_empty()));
    }
}

#[test]
fn one_pixel_and_very_large_pictures() {
    let mut generator = tiny();
    let request = request(&generator);
    let one = noise(1, 1, 5);
    assert_eq!(
        generator.edit(&one, &Mask::all(1, 1).unwrap(), &request, &mut ()).unwrap().images[0].image.dimensions(),
        (1, 1)
    );
    assert_eq!(generator.vary(&one, 0.5, &request, &mut ()).unwrap().images[0].image.dimensions(), (1, 1));
    assert_eq!(generator.reconstruct(&one).unwrap().0.dimensions(), (1, 1));
    let sides = Outpaint { right: 5, bottom: 3, ..Outpaint::default() };
    assert_eq!(generator.outpaint(&one, &sides, &request, &mut ()).unwrap().images[0].image.dimensions(), (6, 4));

    let large = RgbImage::from_fn(8000, 6000, |x, y| Rgb([x as u8, y as u8, (x / 31 + y / 17) as u8]));
    let mask = boxes(8000, 6000, &[(10, 10, 5, 5), (4000, 3000, 300, 200)]);
    let edited = generator.edit(&large, &mask, &request, &mut ()).unwrap();
    let sizes: Vec<u32> = edited.windows.iter().map(|window| window.width).collect();
    assert_eq!(sizes, [16, 600]);
    let result = &edited.images[0].image;
    // Beyond both windows every byte is the same: row by row, as the image is large.
    let outside =
        |x: u32, y: u32| edited.windows.iter().all(|w| !w.columns(8000).contains(&x) || !w.rows(6000).contains(&y));
    assert!((0..6000).all(|y| (0..8000).all(|x| !outside(x, y) || result.get_pixel(x, y) == large.get_pixel(x, y))));
    assert_ne!(result.get_pixel(4100, 3100), large.get_pixel(4100, 3100));
    let all = generator.edit(&large, &Mask::all(8000, 6000).unwrap(), &request, &mut ()).unwrap();
    assert_eq!(all.windows, [Window { x: 0, y: -1000, width: 8000, height: 8000 }]);
}

#[test]
fn everything_masked_is_a_generation() {
    let mut generator = tiny();
    let mut draw = generator.request("cool").unwrap();
    draw.seed = 5;
    let drawn = generator.generate(&draw, &mut ()).unwrap();
    let mut request = generator.edit_request(Some("cool")).unwrap();
    request.seed = 5;
    let edited = generator.edit(&noise(16, 16, 6), &Mask::all(16, 16).unwrap(), &request, &mut ()).unwrap();
    assert_eq!(edited.images, drawn.images);
}

fn edits(generator: &mut Generator, request: &EditRequest) -> [Edited; 3] {
    let image = noise(90, 70, 7);
    let mask = boxes(90, 70, &[(3, 3, 12, 12), (70, 50, 11, 9)]);
    let sides = Outpaint { left: 20, bottom: 40, ..Outpaint::default() };
    [
        generator.edit(&image, &mask, request, &mut ()).unwrap(),
        generator.outpaint(&image, &sides, request, &mut ()).unwrap(),
        generator.vary(&image, 0.6, request, &mut ()).unwrap(),
    ]
}

#[test]
fn a_result_depends_on_its_seed_alone() {
    for model in models() {
        let (mut one, mut two) = (open(model, 1), open(model, 2));
        let mut batch = request(&one);
        batch.count = 3;
        let drawn = edits(&mut one, &batch);
        let again = edits(&mut two, &batch);
        for (kind, (drawn, again)) in drawn.iter().zip(&again).enumerate() {
            assert_eq!(drawn.images, again.images, "edit {kind}: threads");
            assert_ne!(drawn.images[0].tokens, drawn.images[1].tokens, "edit {kind}: seeds differ");
        }
        for index in 0..3 {
            let mut alone = request(&one);
            alone.seed += index as u64;
            for (kind, (alone, drawn)) in edits(&mut two, &alone).iter().zip(&drawn).enumerate() {
                assert_eq!(alone.images[0], drawn.images[index], "edit {kind}, result {index}");
            }
        }
    }
}

#[test]
fn outpainting_keeps_the_picture_and_covers_the_rest() {
    let mut generator = open(AVATARS, 2);
    let mut request = request(&generator);
    let image = generator.generate(&generator.request("lorelei").unwrap(), &mut ()).unwrap().images.remove(0).image;
    let cases = [(64, Feather::Pixels(0)), (200, Feather::Pixels(3))];
    for &(width, feather) in &cases[..if emulated() { 1 } else { 2 }] {
        request.feather = feather;
        let sides = Outpaint { left: 10, right: width, top: 1, ..Outpaint::default() };
        let mut watch = Watch::default();
        let edited = generator.outpaint(&image, &sides, &request, &mut watch).unwrap();
        let result = &edited.images[0].image;
        assert_eq!(result.dimensions(), (74 + width, 65));
        let Feather::Pixels(reach) = feather else { unreachable!() };
        for (x, y, pixel) in image.enumerate_pixels() {
            if (reach..64 - reach).contains(&x) && y >= reach {
                assert_eq!(result.get_pixel(x + 10, y + 1), pixel, "({x},{y})");
            }
        }
        assert!(edited.windows.len() >= 3 + width as usize / 32 && edited.windows.iter().all(|w| w.width == 64));
        assert_eq!(edited.images[0].tokens.len(), 256 * edited.windows.len());
        assert_eq!(watch.predicted.last().map(|(done, total)| done == total), Some(true));
        // New pixels are drawn: none has the colour that stands for what is not painted.
        let unpainted = result.pixels().filter(|pixel| pixel.0 == [127; 3]).count();
        assert!(unpainted < 20, "{unpainted}");
    }
}

#[test]
fn variations_keep_a_part_of_the_tokens() {
    let mut generator = tiny();
    let image = generator.decode(&(0..16).map(|i| i * 5 % 8).collect::<Vec<i64>>()).unwrap();
    let codes = generator.encode(&image).unwrap();
    let (reconstruction, tokens) = generator.reconstruct(&image).unwrap();
    assert_eq!((&reconstruction, &tokens), (&image, &codes), "the tiny encoder undoes the decoder");
    let mut request = request(&generator);
    for (strength, drawn) in [(0.0, 0), (0.25, 4), (1.0, 16)] {
        let mut differ = 0;
        for seed in 0..30 {
            request.seed = seed;
            let varied = generator.vary(&image, strength, &request, &mut ()).unwrap().images.remove(0);
            let changed = varied.tokens.iter().zip(&codes).filter(|(a, b)| a != b).count();
            assert!(changed <= drawn, "strength {strength}, seed {seed}: {changed}");
            differ = differ.max(changed);
        }
        assert!(differ * 2 >= drawn, "strength {strength}: at most {differ} of {drawn}");
    }
    let (large, _) = generator.reconstruct(&noise(50, 20, 8)).unwrap();
    assert_eq!(large.dimensions(), (50, 20));
}

#[test]
fn googles_start_iteration() {
    let mut generator = open(AVATARS, 2);
    let mut request = generator.edit_request(Some("lorelei")).unwrap();
    request.options.steps = 12;
    request.options.start_iter = 2;
    let image = noise(64, 64, 9);
    let edited = generator.edit(&image, &Mask::all(64, 64).unwrap(), &request, &mut ()).unwrap();
    assert_eq!(edited.images[0].masked, [236, 221, 203, 181, 155, 127, 97, 66, 33, 0]);
    // A box of 8x8 tokens grows by one on each side: 100 tokens.
    request.options.start_iter = 0;
    let edited = generator.edit(&image, &boxes(64, 64, &[(16, 16, 32, 32)]), &request, &mut ()).unwrap();
    assert_eq!(edited.images[0].masked[0], 99, "floor(100 cos(pi / 24))");
}

/// Counts what it is told, and stops when told to.
#[derive(Default)]
struct Watch {
    predicted: Vec<(usize, usize)>,
    previews: Vec<(usize, usize, usize, RgbImage)>,
    want_previews: bool,
    calls: usize,
    stop_at: Option<usize>,
}

impl Watch {
    fn flow(&mut self) -> ControlFlow<()> {
        self.calls += 1;
        if self.stop_at == Some(self.calls) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Observer for Watch {
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        if let Progress::Predicted { done, total } = progress {
            self.predicted.push((*done, *total));
        }
        self.flow()
    }

    fn wants_preview(&self) -> bool {
        self.want_previews
    }

    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        self.previews.push((preview.window, preview.step, preview.index, preview.image));
        self.flow()
    }
}

#[test]
fn progress_previews_and_cancelling() {
    let mut generator = tiny();
    let mut request = request(&generator);
    request.options.guidance.scale = 1.0;
    request.count = 2;
    let image = noise(90, 70, 10);
    let mask = boxes(90, 70, &[(3, 3, 4, 4), (70, 50, 5, 5)]);
    let mut watch = Watch { want_previews: true, ..Watch::default() };
    let edited = generator.edit(&image, &mask, &request, &mut watch).unwrap();
    // 2 results, 2 windows, 4 steps, 2 passes.
    assert_eq!(watch.predicted, (1..=32).map(|done| (done, 32)).collect::<Vec<_>>());
    assert_eq!(watch.previews.len(), 16);
    let last = watch.previews.last().unwrap();
    assert_eq!((last.0, last.1, last.2, &last.3), (1, 3, 1, &edited.images[1].image), "the last preview is the result");
    assert_eq!(edited.timings.steps.len(), 4);
    for stop_at in 1..=watch.calls {
        let mut watch = Watch { want_previews: true, stop_at: Some(stop_at), ..Watch::default() };
        let error = generator.edit(&image, &mask, &request, &mut watch).unwrap_err();
        assert_eq!((error.kind(), watch.calls), (ErrorKind::Cancelled, stop_at));
    }
    assert_eq!(generator.edit(&image, &mask, &request, &mut ()).unwrap().images, edited.images);
}

#[test]
fn without_a_class() {
    let mut generator = tiny();
    let (image, mask) = (noise(16, 16, 11), boxes(16, 16, &[(2, 2, 9, 9)]));
    let mut request = request(&generator);
    request.label = None;
    request.options.guidance.scale = 3.0;
    let mut watch = Watch::default();
    generator.edit(&image, &mask, &request, &mut watch).unwrap();
    assert_eq!(watch.predicted.len(), 4, "nothing to guide: one pass a step");
    request.options.guidance.scale = 0.0;
    request.count = 10;
    let mut tokens: Vec<Vec<Vec<i64>>> = [None, Some(0), Some(1), Some(2)]
        .into_iter()
        .map(|label| {
            request.label = label;
            let edited = generator.edit(&image, &mask, &request, &mut ()).unwrap();
            edited.images.into_iter().map(|picture| picture.tokens).collect()
        })
        .collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "each class draws its own, and no class another");

    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(TINY).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let manifest = folder.path().join("bundle.json");
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    value["null_label"] = serde_json::Value::Null;
    std::fs::write(manifest, value.to_string()).unwrap();
    let mut generator = Generator::open(folder.path()).unwrap();
    request.label = None;
    request.options.guidance.scale = 0.0;
    let error = generator.edit(&image, &mask, &request, &mut ()).unwrap_err();
    assert!(error.kind() == ErrorKind::Request && error.to_string().contains("give one"), "{error}");
}

#[test]
fn impossible_edits_are_errors() {
    let mut generator = tiny();
    let image = noise(20, 20, 12);
    let good = request(&generator);
    type Change = fn(&mut EditRequest);
    let changes: [(&str, Change); 8] = [
        ("class", |r| r.label = Some(3)),
        ("count", |r| r.count = 0),
        ("count", |r| r.count = usize::MAX),
        ("start_iter", |r| r.options.start_iter = 99),
        ("feather", |r| r.feather = Feather::Pixels(u32::MAX)),
        ("context", |r| r.context = f32::NAN),
        ("context", |r| r.context = 0.5),
        ("temperature", |r| r.options.temperature = -1.0),
    ];
    for (what, change) in changes {
        let mut request = good.clone();
        change(&mut request);
        let error = generator.edit(&image, &boxes(20, 20, &[(1, 1, 2, 2)]), &request, &mut ()).unwrap_err();
        assert!(error.kind() == ErrorKind::Request && error.to_string().contains(what), "{what}: {error}");
    }
    let error = generator.edit(&image, &Mask::all(20, 21).unwrap(), &good, &mut ()).unwrap_err();
    assert!(error.to_string().contains("20x21") && error.to_string().contains("20x20"), "{error}");
    for strength in [-0.1, 1.1, f32::NAN] {
        assert_eq!(generator.vary(&image, strength, &good, &mut ()).unwrap_err().kind(), ErrorKind::Request);
    }
    let mut many = good.clone();
    many.count = 10_000;
    let sides = Outpaint { right: 16_000, bottom: 16_000, ..Outpaint::default() };
    let error = generator.outpaint(&image, &sides, &many, &mut ()).unwrap_err();
    assert!(error.to_string().contains("ask for fewer"), "{error}");
    let empty = RgbImage::new(0, 5);
    assert!(generator.vary(&empty, 0.5, &good, &mut ()).is_err() && generator.reconstruct(&empty).is_err());
    assert!(generator.outpaint(&empty, &Outpaint { left: 9, ..Outpaint::default() }, &good, &mut ()).is_err());
    assert!(Mask::from_image(&GrayImage::new(0, 0)).is_err());
    let mut far = good;
    far.dilation = usize::MAX;
    generator.edit(&image, &boxes(20, 20, &[(1, 1, 2, 2)]), &far, &mut ()).unwrap();
}
