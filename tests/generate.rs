//! The library's generator, on the tiny bundle.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::RgbImage;
use maskgit::engine::{CpuEngine, Engine, Session, Signature, Source};
use maskgit::pipeline::{MAX_COUNT, find_label, recommended, tokens_sha256};
use maskgit::sample::{Sampler, Schedule};
use maskgit::{Bundle, ErrorKind, Generated, Generator, MemoryUse, Observer, OpenOptions, Preview, Progress, Request};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny");

fn generator(threads: usize) -> Generator {
    Generator::open_with(TINY, &OpenOptions::with_threads(threads)).unwrap()
}

/// A request whose settings depend on `variant`, so that every branch of the sampler is visited.
fn request(generator: &Generator, variant: usize) -> Request {
    let mut request = generator.request("warm").unwrap();
    request.seed = 40;
    request.options.steps = 6;
    match variant {
        0 => {}
        1 => request.options.guidance.scale = 2.0,
        2 => {
            request.options.guidance.scale = 2.0;
            request.options.guidance.ramp = true;
            request.options.temperature = 0.7;
            request.options.final_temperature = Some(1.1);
        }
        3 => request.options.top_k = Some(2),
        4 => {
            request.options.sampler = Sampler::Halton;
            request.options.schedule = Schedule::Arccos;
        }
        5 => request.options.sampler = Sampler::ConfidenceRemask,
        6 => request.options.sampler = Sampler::PredictorCorrector,
        _ => request.options.start_iter = 3,
    }
    request
}

fn tokens(generated: &Generated) -> Vec<Vec<i64>> {
    generated.images.iter().map(|picture| picture.tokens.clone()).collect()
}

#[test]
fn a_picture_does_not_depend_on_its_batch_or_the_threads() {
    let (mut one, mut two) = (generator(1), generator(2));
    for variant in 0..8 {
        let mut batch = request(&one, variant);
        batch.count = 5;
        let drawn = one.generate(&batch, &mut ()).unwrap();
        assert_eq!(two.generate(&batch, &mut ()).unwrap().images, drawn.images, "variant {variant}: threads");
        assert_eq!(one.generate(&batch, &mut ()).unwrap().images, drawn.images, "variant {variant}: twice");
        for (i, picture) in drawn.images.iter().enumerate() {
            let mut alone = request(&one, variant);
            alone.seed += i as u64;
            let alone = two.generate(&alone, &mut ()).unwrap();
            assert_eq!(&alone.images[0], picture, "variant {variant}, image {i}");
            assert_eq!(picture.tokens.len(), 16);
            assert!(picture.tokens.iter().all(|token| (0..8).contains(token)));
            assert_eq!(picture.masked.last(), Some(&0));
        }
        let mut distinct = tokens(&drawn);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 1, "variant {variant}: all seeds draw one image");
    }
}

#[test]
fn a_batch_in_parts_is_the_same() {
    let mut whole = generator(1);
    let mut request = request(&whole, 1);
    request.count = 5;
    let mut all = Counter::default();
    let drawn = whole.generate(&request, &mut all).unwrap();
    // 16 tokens x 8 codes x 4 bytes, twice for guidance: one image takes 1 KiB.
    for (logits_bytes, parts) in [(0, 5), (1024, 5), (2048, 3), (4096, 2), (5120, 1)] {
        let mut options = OpenOptions::with_threads(1);
        options.logits_bytes = logits_bytes;
        let mut generator = Generator::open_with(TINY, &options).unwrap();
        let mut counter = Counter { want_previews: true, ..Counter::default() };
        let in_parts = generator.generate(&request, &mut counter).unwrap();
        assert_eq!(in_parts.images, drawn.images, "{logits_bytes} bytes");
        assert_eq!(counter.steps.len(), parts * 6, "{logits_bytes} bytes");
        assert_eq!(counter.predicted, all.predicted);
        let last: Vec<_> = counter.previews.iter().filter(|p| p.0 == 5).map(|p| (p.1, p.2, p.3.clone())).collect();
        let expected: Vec<_> = drawn.images.iter().enumerate().map(|(i, p)| (i, p.seed, p.image.clone())).collect();
        assert_eq!(last, expected);
    }
}

/// An engine that counts the graphs it loads.
struct Counting {
    engine: CpuEngine,
    loads: Arc<AtomicUsize>,
}

impl Engine for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn load(&self, graph: &Source, signature: &Signature) -> maskgit::Result<Box<dyn Session>> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.engine.load(graph, signature)
    }
}

/// What is dropped is loaded again, and the images are those of a generator that holds everything.
#[test]
fn memory_use_changes_no_picture() {
    let mut whole = generator(1);
    let request = request(&whole, 1);
    let drawn = whole.generate(&request, &mut ()).unwrap().images;
    let codes = whole.encode(&drawn[0].image).unwrap();
    // Loads after opening, after one request, after two, after one with previews at every step, after encoding.
    for (memory, expected) in [
        (MemoryUse::KeepAll, [2, 2, 2, 2, 3]),
        (MemoryUse::DropTransformer, [2, 2, 3, 9, 10]),
        (MemoryUse::OneAtATime, [2, 3, 5, 17, 18]),
    ] {
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = || loads.load(Ordering::Relaxed);
        let engine = Counting { engine: CpuEngine::new(1).unwrap(), loads: Arc::clone(&loads) };
        let mut options = OpenOptions::with_threads(1);
        options.memory = memory;
        let mut generator = Generator::with_engine(Bundle::open(TINY).unwrap(), Box::new(engine), &options).unwrap();
        let mut found = vec![counted()];
        for _ in 0..2 {
            assert_eq!(generator.generate(&request, &mut ()).unwrap().images, drawn, "{memory:?}");
            found.push(counted());
        }
        let mut previews = Counter { want_previews: true, ..Counter::default() };
        assert_eq!(generator.generate(&request, &mut previews).unwrap().images, drawn, "{memory:?}");
        found.push(counted());
        assert_eq!(generator.encode(&drawn[0].image).unwrap(), codes, "{memory:?}");
        found.push(counted());
        assert_eq!(found, expected, "{memory:?}");
    }
}

#[test]
fn seeds_wrap_around() {
    let mut generator = generator(1);
    let mut request = request(&generator, 0);
    request.seed = u64::MAX;
    request.count = 2;
    let drawn = generator.generate(&request, &mut ()).unwrap();
    assert_eq!(drawn.images.iter().map(|p| p.seed).collect::<Vec<_>>(), [u64::MAX, 0]);
    request.seed = 0;
    assert_eq!(generator.generate(&request, &mut ()).unwrap().images[0], drawn.images[1]);
}

#[test]
fn a_bundle_from_bytes_draws_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tiny.maskgit");
    maskgit::bundle::pack(TINY.as_ref(), &file).unwrap();
    let bundle = Bundle::from_bytes(std::fs::read(&file).unwrap()).unwrap();
    let mut memory = Generator::from_bundle(bundle, &OpenOptions::with_threads(1)).unwrap();
    let mut packed = Generator::open(&file).unwrap();
    let mut folder = generator(1);
    let request = request(&folder, 1);
    let drawn = folder.generate(&request, &mut ()).unwrap().images;
    assert_eq!(memory.generate(&request, &mut ()).unwrap().images, drawn);
    assert_eq!(packed.generate(&request, &mut ()).unwrap().images, drawn);
}

/// Counts what it is told, and stops when told to.
#[derive(Default)]
struct Counter {
    predicted: Vec<(usize, usize)>,
    steps: Vec<Vec<usize>>,
    decoded: usize,
    previews: Vec<(usize, usize, u64, RgbImage)>,
    want_previews: bool,
    calls: usize,
    stop_at: Option<usize>,
}

impl Counter {
    fn flow(&mut self) -> ControlFlow<()> {
        self.calls += 1;
        if self.stop_at == Some(self.calls) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Observer for Counter {
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        match progress {
            Progress::Predicted { done, total } => self.predicted.push((*done, *total)),
            Progress::Step { report, .. } => self.steps.push(report.masked.to_vec()),
            Progress::Decoded { done, .. } => self.decoded = *done,
            _ => panic!("an event that the test does not know"),
        }
        self.flow()
    }

    fn wants_preview(&self) -> bool {
        self.want_previews
    }

    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        self.previews.push((preview.step, preview.index, preview.seed, preview.image));
        self.flow()
    }
}

#[test]
fn the_observer_sees_every_step() {
    let mut generator = generator(1);
    let mut request = request(&generator, 1);
    request.count = 2;
    let mut counter = Counter { want_previews: true, ..Counter::default() };
    let drawn = generator.generate(&request, &mut counter).unwrap();
    // Two rows for each image and step, for guidance.
    assert_eq!(counter.predicted, (1..=24).map(|done| (done, 24)).collect::<Vec<_>>());
    assert_eq!(counter.steps.len(), 6);
    for (step, masked) in counter.steps.iter().enumerate() {
        let expected: Vec<usize> = drawn.images.iter().map(|picture| picture.masked[step]).collect();
        assert_eq!(masked, &expected, "step {step}");
    }
    assert_eq!(counter.decoded, 2);
    let places: Vec<_> = counter.previews.iter().map(|(step, index, seed, _)| (*step, *index, *seed)).collect();
    let expected: Vec<_> = (0..6).flat_map(|step| [(step, 0, 40), (step, 1, 41)]).collect();
    assert_eq!(places, expected);
    assert_eq!(counter.previews[11].3, drawn.images[1].image, "the last preview is the image");
    assert_eq!(drawn.timings.steps.len(), 6);
    assert!(drawn.timings.total >= drawn.timings.steps.iter().sum::<f64>() + drawn.timings.decode);
    // Watching changes nothing.
    assert_eq!(generator.generate(&request, &mut ()).unwrap().images, drawn.images);
}

#[test]
fn cancelling_works_at_every_call() {
    let mut generator = generator(1);
    let mut request = request(&generator, 0);
    request.count = 2;
    let expected = generator.generate(&request, &mut ()).unwrap().images;
    let mut counter = Counter { want_previews: true, ..Counter::default() };
    generator.generate(&request, &mut counter).unwrap();
    // 6 steps: 2 predictions, the step, 2 previews; then 2 decoded images.
    assert_eq!(counter.calls, 6 * 5 + 2);
    for stop_at in 1..=counter.calls {
        let mut counter = Counter { want_previews: true, stop_at: Some(stop_at), ..Counter::default() };
        let error = generator.generate(&request, &mut counter).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "call {stop_at}");
        assert_eq!(counter.calls, stop_at, "nothing is called after Break");
    }
    assert_eq!(
        generator.generate(&request, &mut ()).unwrap().images,
        expected,
        "a cancelled generator can be used again"
    );
}

#[test]
fn impossible_requests_are_errors() {
    let mut generator = generator(1);
    let good = request(&generator, 0);
    type Change = fn(&mut Request);
    let cases: [(&str, Change); 10] = [
        ("label", |r| r.label = 3),
        ("label", |r| r.label = usize::MAX),
        ("no count", |r| r.count = 0),
        ("large count", |r| r.count = MAX_COUNT + 1),
        ("no steps", |r| r.options.steps = 0),
        ("start", |r| r.options.start_iter = r.options.steps),
        ("temperature", |r| r.options.temperature = f32::NAN),
        ("final temperature", |r| r.options.final_temperature = Some(-1.0)),
        ("guidance", |r| r.options.guidance.scale = f32::INFINITY),
        ("top-k", |r| r.options.top_k = Some(0)),
    ];
    for (what, change) in cases {
        let mut request = good.clone();
        change(&mut request);
        let error = generator.generate(&request, &mut ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Request, "{what}: {error}");
        assert_eq!(generator.check(&request).unwrap_err().to_string(), error.to_string());
    }
    for threads in [0, usize::MAX] {
        let opened = Generator::open_with(TINY, &OpenOptions::with_threads(threads));
        assert_eq!(opened.err().map(|e| e.kind()), Some(ErrorKind::Request), "{threads} threads");
    }
}

#[test]
fn graphs_run_alone() {
    let mut generator = generator(1);
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
        generator.encode_raw(&[0.0; 767]).err(),
        generator.encode_raw(&[f32::NAN; 768]).err(),
    ];
    for (i, error) in errors.into_iter().enumerate() {
        assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Request), "case {i}");
    }
    assert_eq!(generator.encode(&image).unwrap(), codes, "after errors the generator works");
}

#[test]
fn labels_settings_and_hashes() {
    let generator = generator(1);
    let manifest = generator.manifest();
    assert_eq!(find_label(manifest, "co").unwrap(), 1);
    assert_eq!(generator.request("purple").unwrap_err().kind(), ErrorKind::Request);
    let options = recommended(manifest).unwrap();
    assert_eq!((options.steps, options.schedule, options.start_iter), (4, Schedule::Cosine, 0));
    assert_eq!(generator.engine_name(), "cpu");
    assert!(generator.load_seconds() > 0.0);
    // printf '\x01\0\0\0\0\0\0\0\x00\x01\0\0\0\0\0\0' | sha256sum
    assert_eq!(tokens_sha256(&[1, 256]), "89063da2926620b0bcd927a7ef76480cb4772b71306d614f79e016c826e8a0e8");
    assert_eq!(tokens_sha256(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

#[test]
fn a_generator_can_go_to_another_thread() {
    let mut here = generator(1);
    let request = request(&here, 0);
    let expected = here.generate(&request, &mut ()).unwrap().images;
    let mut moved = generator(2);
    let drawn = std::thread::spawn(move || moved.generate(&request, &mut ()).unwrap().images).join().unwrap();
    assert_eq!(drawn, expected);
}
