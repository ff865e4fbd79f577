//! The bundled model: our engine against PyTorch's numbers, and tokens that must not change.

use std::fs;
use std::path::PathBuf;

use maskgit::sample::{Guidance, Options, Sampler, Schedule};
use maskgit::{Generator, OpenOptions, Request};
use serde::{Deserialize, Serialize};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/avatars-64");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn generator(threads: usize) -> Generator {
    Generator::open_with(MODEL, &OpenOptions::with_threads(threads)).unwrap()
}

fn numbers<const BYTES: usize, T>(name: &str, read: fn([u8; BYTES]) -> T) -> Vec<T> {
    let path = PathBuf::from(MODEL).join("reference").join(name);
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (numbers, rest) = bytes.as_chunks();
    assert!(!numbers.is_empty() && rest.is_empty(), "{} is not whole", path.display());
    numbers.iter().map(|b| read(*b)).collect()
}

/// The largest difference; a number that is not finite is infinitely far.
fn max_abs_error(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let far = |(a, b): (&f32, &f32)| {
        if a.is_finite() && b.is_finite() { (a - b).abs() } else { f32::INFINITY }
    };
    ours.iter().zip(theirs).map(far).fold(0.0, f32::max)
}

/// `reference/` holds what PyTorch computed from the weights before export: raw little-endian numbers for four rows.
#[test]
fn our_engine_agrees_with_pytorch() {
    let mut generator = generator(2);
    let manifest = generator.manifest().clone();
    let (n, k) = (manifest.tokens(), manifest.codes);
    let tokens = numbers("tokens.i64", i64::from_le_bytes);
    let labels = numbers("labels.i64", i64::from_le_bytes);
    let logits = numbers("logits.f32", f32::from_le_bytes);
    let images = numbers("image.f32", f32::from_le_bytes);
    let codes = numbers("codes.i64", i64::from_le_bytes);
    let encoded = numbers("encoded.i64", i64::from_le_bytes);
    assert_eq!(labels.len(), 4);
    assert_eq!(encoded.len(), 4 * n);
    assert_eq!(tokens.len(), 4 * n);
    assert!(tokens.contains(&manifest.mask_id), "some tokens are masked");
    let pixels = images.len() / 4;
    assert_eq!(pixels, 3 * manifest.image.height * manifest.image.width);
    for (i, label) in labels.iter().enumerate() {
        let ours = generator.logits(&tokens[i * n..][..n], *label).unwrap();
        let error = max_abs_error(&ours, &logits[i * n * k..][..n * k]);
        assert!(error < 1e-3, "row {i}: logits differ by {error}");
        let ours = generator.decode_raw(&codes[i * n..][..n]).unwrap();
        let error = max_abs_error(&ours, &images[i * pixels..][..pixels]);
        assert!(error < 1e-3, "row {i}: the image differs by {error}");
        let ours = generator.encode_raw(&images[i * pixels..][..pixels]).unwrap();
        let other = ours.iter().zip(&encoded[i * n..]).filter(|(a, b)| a != b).count();
        // A code is the nearest of many: where two are almost as near, rounding decides.
        assert!(other * 100 <= n, "row {i}: {other} of {n} encoded tokens differ");
    }
}

#[test]
fn issue_2_mask_counts_and_seeds() {
    let (mut one, mut two) = (generator(1), generator(2));
    let mut request = one.request("lorelei").unwrap();
    request.options.steps = 8;
    request.options.schedule = Schedule::Cosine;
    request.seed = 7;
    request.count = 2;
    let batch = one.generate(&request, &mut ()).unwrap().images;
    for picture in &batch {
        assert_eq!(picture.masked, [251, 236, 212, 181, 142, 97, 49, 0]);
    }
    request.seed = 8;
    request.count = 1;
    assert_eq!(two.generate(&request, &mut ()).unwrap().images[0], batch[1], "alone, with other threads");
}

/// The tokens of some requests.
#[derive(Serialize, Deserialize)]
struct Golden {
    /// What decides in which order floating-point sums are added.
    cpu: String,
    graph: String,
    class: String,
    seed: u64,
    steps: usize,
    schedule: String,
    sampler: String,
    guidance: f32,
    tokens: Vec<i64>,
}

/// The kind of CPU, as far as it selects matrix kernels.
fn cpu() -> String {
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features: [(&str, bool); 0] = [];
    let there = features.into_iter().filter(|feature| feature.1).map(|feature| feature.0);
    [std::env::consts::ARCH].into_iter().chain(there).collect::<Vec<_>>().join("+")
}

/// On the kind of CPU that wrote the golden files the tokens must be the same; on another, where sums round otherwise, a
/// token near a tie may fall to its neighbour and take others with it. `make golden` writes the files.
#[test]
fn golden_tokens() {
    let mut generator = generator(2);
    let graph = generator.manifest().graphs.transformer.sha256.clone();
    let plain = Guidance { scale: 0.0, ramp: false };
    let cases = [
        ("confidence", Sampler::Confidence, Schedule::Cosine, 12, plain),
        ("guided", Sampler::Confidence, Schedule::Square, 8, Guidance { scale: 1.5, ramp: true }),
        ("halton", Sampler::Halton, Schedule::Arccos, 16, plain),
        ("remask", Sampler::ConfidenceRemask, Schedule::Cosine, 12, plain),
        ("corrected", Sampler::PredictorCorrector, Schedule::Cosine, 12, plain),
    ];
    for (i, (name, sampler, schedule, steps, guidance)) in cases.into_iter().enumerate() {
        let options = Options {
            steps,
            schedule,
            sampler,
            choice_temperature: 4.5,
            temperature: 1.0,
            final_temperature: None,
            top_k: None,
            guidance,
            start_iter: 0,
        };
        let request = Request { label: i, seed: 100 + i as u64, count: 1, options };
        let tokens = generator.generate(&request, &mut ()).unwrap().images.remove(0).tokens;
        let path = PathBuf::from(GOLDEN).join(format!("avatars-64-{name}.json"));
        if std::env::var_os("MASKGIT_BLESS").is_some() {
            let golden = Golden {
                cpu: cpu(),
                graph: graph.clone(),
                class: generator.manifest().labels[i].clone(),
                seed: request.seed,
                steps,
                schedule: schedule.to_string(),
                sampler: sampler.to_string(),
                guidance: guidance.scale,
                tokens,
            };
            fs::create_dir_all(GOLDEN).unwrap();
            fs::write(&path, serde_json::to_string(&golden).unwrap() + "\n").unwrap();
            continue;
        }
        let text =
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; make golden writes it", path.display()));
        let golden: Golden = serde_json::from_str(&text).unwrap();
        assert_eq!(golden.graph, graph, "{name}: the model is another one: look at its images, then make golden");
        let same = tokens.iter().zip(&golden.tokens).filter(|(a, b)| a == b).count();
        if golden.cpu == cpu() {
            assert_eq!(tokens, golden.tokens, "{name}: {same} of {} tokens are the same", tokens.len());
        } else {
            assert!(same * 2 > tokens.len(), "{name}: only {same} of {} tokens are the same", tokens.len());
        }
    }
}
