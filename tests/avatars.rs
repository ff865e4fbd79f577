//! The bundled model: our engine against PyTorch's numbers, and tokens that must not change.

#![cfg(feature = "unstable")]

use std::fs;
use std::path::PathBuf;

use maskgit::unstable::{CpuEngine, Isa};
use maskgit::{Bundle, Generator, Request, Sampler, Sampling, Schedule};
use serde::{Deserialize, Serialize};

use crate::common::{AVATARS, emulated, open};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn numbers<const BYTES: usize, T>(name: &str, read: fn([u8; BYTES]) -> T) -> Vec<T> {
    let path = PathBuf::from(AVATARS).join("reference").join(name);
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
    let mut generator = open(AVATARS, 2);
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
    assert_eq!(pixels, 3 * manifest.image.area());
    for (i, label) in labels.iter().enumerate() {
        let ours = generator.logits(&tokens[i * n..][..n], *label).unwrap();
        let error = max_abs_error(&ours, &logits[i * n * k..][..n * k]);
        assert!(error < 1e-3, "row {i}: logits differ by {error}");
        let ours = generator.decode_planes(&codes[i * n..][..n]).unwrap();
        let error = max_abs_error(&ours, &images[i * pixels..][..pixels]);
        assert!(error < 1e-3, "row {i}: the image differs by {error}");
        let ours = generator.encode_planes(&images[i * pixels..][..pixels]).unwrap();
        let other = ours.iter().zip(&encoded[i * n..]).filter(|(a, b)| a != b).count();
        // A code is the nearest of many: where two are almost as near, rounding decides.
        assert!(other * 100 <= n, "row {i}: {other} of {n} encoded tokens differ");
    }
}

#[test]
fn issue_2_mask_counts_and_seeds() {
    let mut request = Request::generate().with_class("lorelei").with_seed(7).with_count(2).with_steps(8);
    request.sampling.schedule = Some(Schedule::Cosine);
    let batch = open(AVATARS, 1).generate(&request).unwrap().images;
    for image in &batch {
        assert_eq!(image.masked, [251, 236, 212, 181, 142, 97, 49, 0]);
    }
    let mut alone = open(AVATARS, 2).generate(&request.with_seed(8).with_count(1)).unwrap().images.remove(0);
    assert_eq!((alone.index, batch[1].index), (0, 1));
    alone.index = 1;
    assert_eq!(alone, batch[1], "alone, with other threads");
}

/// The tokens of some requests.
#[derive(Serialize, Deserialize)]
struct Golden {
    /// What decides how floating-point sums are rounded.
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

/// The instruction sets of this processor that give the same numbers to the bit: those with fused multiply-add; or the
/// portable one, where there is no other.
fn alike() -> Vec<Isa> {
    let mut sets = Isa::available();
    if cfg!(target_arch = "x86_64") && sets.len() > 1 {
        sets.retain(|&isa| isa != Isa::PORTABLE);
    }
    sets
}

/// Every set of fused multiply-add instructions that this processor has, and one thread or two, give the same tokens:
/// on x86-64 those of the golden files, whichever such processor wrote them. Elsewhere the model's other functions may
/// round otherwise: then a token near a tie falls to its neighbour and takes others with it. `make golden` writes the
/// files.
#[test]
fn golden_tokens() {
    let threads: &[usize] = if emulated() { &[2] } else { &[2, 1] };
    let mut generators: Vec<(String, Generator)> = Vec::new();
    for isa in alike() {
        for &threads in threads {
            let engine = CpuEngine::new(threads).unwrap().with_isa(isa);
            let generator = Generator::builder().open_on(Bundle::open(AVATARS).unwrap(), Box::new(engine)).unwrap();
            generators.push((format!("{isa}, {threads} threads"), generator));
        }
    }
    let manifest = generators[0].1.manifest().clone();
    let graph = manifest.graphs.transformer.sha256;
    let cases = [
        ("confidence", Sampler::Confidence, Schedule::Cosine, 12, 0.0),
        ("guided", Sampler::Confidence, Schedule::Square, 8, 1.5),
        ("halton", Sampler::Halton, Schedule::Arccos, 16, 0.0),
        ("remask", Sampler::ConfidenceRemask, Schedule::Cosine, 12, 0.0),
        ("corrected", Sampler::PredictorCorrector, Schedule::Cosine, 12, 0.0),
    ];
    for (i, (name, sampler, schedule, steps, guidance)) in cases.into_iter().enumerate() {
        let mut sampling = Sampling::default();
        sampling.steps = steps;
        sampling.schedule = schedule;
        sampling.sampler = sampler;
        sampling.guidance = guidance;
        sampling.guidance_ramp = guidance > 0.0;
        let request =
            Request::generate().with_class(&manifest.labels[i]).with_seed(100 + i as u64).with_sampling(sampling);
        let mut drawn = generators
            .iter_mut()
            .map(|(how, generator)| (how.clone(), generator.generate(&request).unwrap().images.remove(0).tokens));
        let (first, tokens) = drawn.next().unwrap();
        for (how, others) in drawn {
            assert_eq!(others, tokens, "{name}: {how}, and {first}");
        }
        let path = PathBuf::from(GOLDEN).join(format!("avatars-64-{name}.json"));
        if std::env::var_os("MASKGIT_BLESS").is_some() {
            let golden = Golden {
                cpu: cpu(),
                graph: graph.clone(),
                class: manifest.labels[i].clone(),
                seed: request.seeds.first,
                steps,
                schedule: schedule.to_string(),
                sampler: sampler.to_string(),
                guidance,
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
        let fused = |cpu: &str| cpu.starts_with("x86_64+fma+avx2");
        if golden.cpu == cpu() || fused(&golden.cpu) && fused(&cpu()) {
            let same = tokens.iter().zip(&golden.tokens).filter(|(a, b)| a == b).count();
            assert_eq!(tokens, golden.tokens, "{name}: {same} of {} tokens are the same", tokens.len());
        }
    }
}
