//! The library's generator, on the tiny bundle.

use image::RgbImage;
use maskgit::{
    Bundle, ErrorKind, Generated, Generator, MAX_COUNT, Request, Sampler, Sampling, SamplingChanges, Schedule,
    find_label, pack, tokens_sha256,
};

use crate::common::{TINY, Watch, tiny};

/// A request whose settings depend on `variant`, so that every branch of the sampler is visited.
pub fn request(variant: usize) -> Request {
    let mut sampling = SamplingChanges::default();
    sampling.steps = Some(6);
    match variant {
        0 => {}
        1 => sampling.guidance = Some(2.0),
        2 => {
            sampling.guidance = Some(2.0);
            sampling.guidance_ramp = Some(true);
            sampling.temperature = Some(0.7);
            sampling.final_temperature = Some(1.1);
        }
        3 => sampling.top_k = Some(2),
        4 => {
            sampling.sampler = Some(Sampler::Halton);
            sampling.schedule = Some(Schedule::Arccos);
        }
        5 => sampling.sampler = Some(Sampler::ConfidenceRemask),
        6 => sampling.sampler = Some(Sampler::PredictorCorrector),
        7 => sampling.sampler = Some(Sampler::HaltonRedraw),
        _ => sampling.start_iter = Some(3),
    }
    Request::generate().with_class("warm").with_seed(40).with_sampling(sampling)
}

fn tokens(generated: &Generated) -> Vec<Vec<i64>> {
    generated.images.iter().map(|image| image.tokens.clone()).collect()
}

#[test]
fn an_image_does_not_depend_on_its_batch_or_the_threads() {
    let (mut one, mut two) = (tiny(1), tiny(2));
    for variant in 0..9 {
        let batch = request(variant).with_count(5);
        let drawn = one.generate(&batch).unwrap();
        assert_eq!(two.generate(&batch).unwrap().images, drawn.images, "variant {variant}: threads");
        assert_eq!(one.generate(&batch).unwrap().images, drawn.images, "variant {variant}: twice");
        for (i, image) in drawn.images.iter().enumerate() {
            let alone = two.generate(&request(variant).with_seed(40 + i as u64)).unwrap();
            assert_eq!((image.index, alone.images[0].index), (i, 0));
            let mut alone = alone.images[0].clone();
            alone.index = i;
            assert_eq!(&alone, image, "variant {variant}, image {i}");
            assert_eq!(image.tokens.len(), 16);
            assert!(image.tokens.iter().all(|token| (0..8).contains(token)));
            assert_eq!(image.masked.last(), Some(&0));
        }
        let mut distinct = tokens(&drawn);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 1, "variant {variant}: all seeds draw one image");
    }
}

#[test]
fn a_batch_in_parts_is_the_same() {
    let request = request(1).with_count(5);
    let mut all = Watch::default();
    let drawn = tiny(1).generate(&request).unwrap();
    tiny(1).generate_with(&request, &mut all).unwrap();
    // 16 tokens x 8 codes x 4 bytes, twice for guidance: one image takes 1 KiB. Four images go together, then one.
    for (logits_bytes, parts) in [(0, 5), (1, 5), (1024, 5), (2048, 3), (4096, 2), (5120, 2)] {
        let mut generator = Generator::builder().threads(1).logits_bytes(logits_bytes).open(TINY).unwrap();
        let mut watch = Watch::with_previews();
        let summary = generator.generate_with(&request, &mut watch).unwrap();
        assert_eq!(summary.resolved, drawn.summary.resolved);
        assert_eq!(watch.images(), drawn.images.iter().collect::<Vec<_>>(), "{logits_bytes} bytes");
        assert_eq!(watch.steps().len(), parts * 6, "{logits_bytes} bytes");
        assert_eq!(watch.predicted(), all.predicted());
        let last: Vec<_> =
            watch.previews().iter().filter(|p| p.step == 5).map(|p| (p.index, p.seed, p.image.clone())).collect();
        let expected: Vec<_> = drawn.images.iter().map(|p| (p.index, p.seed, p.pixels.clone())).collect();
        assert_eq!(last, expected);
    }
}

#[test]
fn seeds_wrap_around() {
    let mut generator = tiny(1);
    let drawn = generator.generate(&request(0).with_seed(u64::MAX).with_count(2)).unwrap();
    assert_eq!(drawn.images.iter().map(|p| p.seed).collect::<Vec<_>>(), [u64::MAX, 0]);
    let alone = generator.generate(&request(0).with_seed(0)).unwrap();
    assert_eq!((&alone.images[0].tokens, &alone.images[0].pixels), (&drawn.images[1].tokens, &drawn.images[1].pixels));
}

#[test]
fn a_bundle_from_bytes_draws_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.maskgit");
    pack(TINY.as_ref(), &file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let builder = Generator::builder().threads(1);
    let drawn = tiny(1).generate(&request(1)).unwrap().images;
    for mut other in [
        builder.open_bytes(bytes.clone()).unwrap(),
        builder.open_bundle(Bundle::from_bytes(bytes).unwrap()).unwrap(),
        builder.open_bundle(Bundle::open(TINY).unwrap()).unwrap(),
        Generator::open(&file).unwrap(),
    ] {
        assert_eq!(other.generate(&request(1)).unwrap().images, drawn);
    }
}

#[test]
fn the_observer_sees_every_step() {
    let mut generator = tiny(1);
    let request = request(1).with_count(2);
    let mut watch = Watch::with_previews();
    let summary = generator.generate_with(&request, &mut watch).unwrap();
    // Two rows for each image and step, for guidance.
    assert_eq!(watch.predicted(), (1..=24).map(|done| (done, 24)).collect::<Vec<_>>());
    assert_eq!(watch.steps(), (0..6).map(|step| (step, 6)).collect::<Vec<_>>());
    assert!(watch.encoded().is_empty());
    let drawn = watch.images();
    assert_eq!(drawn.len(), 2);
    assert_eq!(drawn[0].masked, [15, 13, 11, 7, 4, 0], "floor(16 cos(pi (s + 1) / 12)) in float32");
    let previews = watch.previews();
    let places: Vec<_> = previews.iter().map(|p| (p.step, p.steps, p.index, p.seed, p.stage, p.stages)).collect();
    let expected: Vec<_> = (0..6).flat_map(|step| [(step, 6, 0, 40, 0, 1), (step, 6, 1, 41, 0, 1)]).collect();
    assert_eq!(places, expected);
    assert_eq!(previews[11].image, drawn[1].pixels, "the last preview is the image");
    assert_eq!(summary.timings.steps.len(), 6);
    assert!(summary.timings.total >= summary.timings.steps.iter().sum::<f64>() + summary.timings.decode);
    assert_eq!(summary.windows.len(), 1);
    // Watching changes nothing.
    let unwatched = generator.generate(&request).unwrap();
    assert_eq!(unwatched.images.iter().collect::<Vec<_>>(), drawn);
    generator.generate_with(&request, &mut ()).unwrap();
}

#[test]
fn cancelling_works_at_every_call() {
    let mut generator = tiny(1);
    let request = request(0).with_count(2);
    let expected = generator.generate(&request).unwrap().images;
    let mut watch = Watch::with_previews();
    generator.generate_with(&request, &mut watch).unwrap();
    // 6 steps: 2 predictions, the step, 2 previews; then 2 images, each of which is told of too.
    let calls = watch.events.len();
    assert_eq!(calls, 6 * 5 + 2 * 2);
    for stop_at in 1..=calls {
        let mut watch = Watch { want_previews: true, stop_at: Some(stop_at), ..Watch::default() };
        let error = generator.generate_with(&request, &mut watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "call {stop_at}");
        assert_eq!(watch.events.len(), stop_at, "nothing is called after Break");
        let images = watch.images();
        assert_eq!(images, expected.iter().take(images.len()).collect::<Vec<_>>(), "what arrived is whole");
    }
    assert_eq!(generator.generate(&request).unwrap().images, expected, "a cancelled generator can be used again");
}

#[test]
fn impossible_requests_are_errors() {
    let mut generator = tiny(1);
    let sampling = |change: fn(&mut SamplingChanges)| {
        let mut request = request(0);
        change(&mut request.sampling);
        request
    };
    for (what, request) in [
        ("class 3", request(0).with_class("3")),
        ("class 18446744073709551615", request(0).with_class(usize::MAX.to_string())),
        ("class 'purple'", request(0).with_class("purple")),
        ("not 0", request(0).with_count(0)),
        ("not 10001", request(0).with_count(MAX_COUNT + 1)),
        ("steps is 0", request(0).with_steps(0)),
        ("start_iter is 6", sampling(|s| s.start_iter = s.steps)),
        ("temperature is NaN", sampling(|s| s.temperature = Some(f32::NAN))),
        ("final_temperature is -1", sampling(|s| s.final_temperature = Some(-1.0))),
        ("guidance is inf", request(0).with_guidance(f32::INFINITY)),
        ("top_k is 9", sampling(|s| s.top_k = Some(9))),
    ] {
        let error = generator.generate(&request).unwrap_err();
        assert!(error.kind() == ErrorKind::Request && error.to_string().contains(what), "{what}: {error}");
        assert_eq!(request.resolve(generator.manifest()).unwrap_err().to_string(), error.to_string());
        assert_eq!(generator.generate_with(&request, &mut ()).unwrap_err().to_string(), error.to_string());
    }
    for threads in [0, usize::MAX] {
        let opened = Generator::builder().threads(threads).open(TINY);
        assert_eq!(opened.err().map(|e| e.kind()), Some(ErrorKind::Request), "{threads} threads");
    }
}

#[test]
fn graphs_run_alone() {
    let mut generator = tiny(1);
    let codes: Vec<i64> = (0..16).map(|i| i * 3 % 8).collect();
    let image = generator.decode(&codes).unwrap();
    assert_eq!(image.dimensions(), (16, 16));
    // The tiny decoder paints token (row, col) as a flat 4x4 patch; bit b of the code is channel b, 0.125 or 0.875.
    for (x, y, pixel) in image.enumerate_pixels() {
        let code = codes[(y / 4 * 4 + x / 4) as usize];
        let expected: [u8; 3] = std::array::from_fn(|b| if code >> b & 1 == 1 { 223 } else { 32 });
        assert_eq!(pixel.0, expected, "({x},{y})");
    }
    assert_eq!(generator.encode(&image).unwrap(), codes);
    let planes = generator.decode_planes(&codes).unwrap();
    assert_eq!((planes.len(), planes[0]), (3 * 256, 0.125), "code 0 is dark");
    assert_eq!(generator.encode_planes(&planes).unwrap(), codes);
    let masked = generator.logits(&[8; 16], 0).unwrap();
    assert_eq!(masked.len(), 128);
    assert_ne!(generator.logits(&[8; 16], 3).unwrap(), masked, "the label matters");

    let mut outside = codes.clone();
    outside[5] = 8;
    let errors = [
        generator.decode(&outside).err(), // the mask is no code
        generator.decode(&codes[1..]).err(),
        generator.logits(&[9; 16], 0).err(),
        generator.logits(&[-1; 16], 0).err(),
        generator.logits(&codes, 4).err(),
        generator.logits(&codes, -1).err(),
        generator.encode(&RgbImage::new(16, 15)).err(),
        generator.encode_planes(&[0.0; 767]).err(),
        generator.encode_planes(&[f32::NAN; 768]).err(),
    ];
    for (i, error) in errors.into_iter().enumerate() {
        assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Request), "case {i}");
    }
    assert_eq!(generator.encode(&image).unwrap(), codes, "after errors the generator works");
}

#[test]
fn labels_settings_and_hashes() {
    let generator = tiny(1);
    let manifest = generator.manifest();
    assert_eq!(find_label(manifest, "co").unwrap(), 1);
    let resolved = Request::generate().with_class("co").resolve(manifest).unwrap();
    assert_eq!((resolved.label, resolved.sampling), (Some(1), manifest.sampling));
    let Sampling { steps, schedule, start_iter, .. } = resolved.sampling;
    assert_eq!((steps, schedule, start_iter), (4, Schedule::Cosine, 0));
    assert_eq!((generator.engine_name(), generator.threads(), generator.device_note()), ("cpu", 1, None));
    assert!(generator.load_seconds() > 0.0);
    // printf '\x01\0\0\0\0\0\0\0\x00\x01\0\0\0\0\0\0' | sha256sum
    assert_eq!(tokens_sha256(&[1, 256]), "89063da2926620b0bcd927a7ef76480cb4772b71306d614f79e016c826e8a0e8");
    assert_eq!(tokens_sha256(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn a_generator_can_go_to_another_thread() {
    let expected = tiny(1).generate(&request(0)).unwrap().images;
    let mut moved = tiny(2);
    let drawn = std::thread::spawn(move || moved.generate(&request(0)).unwrap().images).join().unwrap();
    assert_eq!(drawn, expected);
}

#[test]
fn an_image_is_saved_as_png() {
    let folder = tempfile::tempdir().unwrap();
    let drawn = tiny(1).generate(&request(0)).unwrap().images.remove(0);
    let path = folder.path().join("a.png");
    drawn.save(&path).unwrap();
    assert_eq!(image::open(&path).unwrap().into_rgb8(), drawn.pixels);
    assert_eq!(drawn.save(folder.path()).unwrap_err().kind(), ErrorKind::Io);
}
