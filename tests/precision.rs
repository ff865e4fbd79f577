//! int8: the same tokens everywhere, near the fp32 model, and the operators that the bundles are expected to run.

use std::fs;
use std::path::PathBuf;

use maskgit::engine::{CpuEngine, DType, Engine, Input, Isa, Port, Signature, Source};
use maskgit::{Bundle, Generator, OpenOptions, pipeline};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// The bundled int8 models, each with a class and a number of steps to draw it in.
const INT8: [(&str, &str, usize); 2] = [("avatars-64-int8", "lorelei", 6), ("avatars-128-int8", "cats", 3)];

fn tokens(model: (&str, &str, usize), isa: Isa, threads: usize) -> Vec<i64> {
    let (name, class, steps) = model;
    let engine = CpuEngine::new(threads).unwrap().with_isa(isa).unwrap();
    let bundle = Bundle::open(path(name)).unwrap();
    let mut generator = Generator::with_engine(bundle, Box::new(engine), &OpenOptions::default()).unwrap();
    let mut request = generator.request(class).unwrap();
    request.seed = 3;
    request.options.steps = steps;
    generator.generate(&request, &mut ()).unwrap().images.remove(0).tokens
}

/// Every kernel that this processor has, and one thread or several, give the tokens in `tests/golden`, on any machine.
#[test]
fn int8_tokens_are_the_same_everywhere() {
    for model in INT8 {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{}.json", model.0));
        if std::env::var_os("MASKGIT_BLESS").is_some() {
            fs::write(&file, serde_json::to_string(&tokens(model, Isa::best(), 1)).unwrap() + "\n").unwrap();
        }
        let golden: Vec<i64> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(golden.len(), 256);
        let sets = Isa::available();
        assert!(sets.contains(&Isa::Portable));
        // The larger model takes minutes in an emulator.
        let emulated = std::env::var_os("MASKGIT_TEST_RUNNER").is_some();
        let counts: &[usize] = if emulated && model.0 == "avatars-128-int8" { &[2] } else { &[1, 2, 3] };
        for isa in sets {
            for &threads in counts {
                assert_eq!(tokens(model, isa, threads), golden, "{}, {isa}, {threads} threads", model.0);
            }
        }
    }
}

#[test]
fn int8_logits_are_near_those_of_fp32() {
    let (mut fp32, mut int8) =
        (Generator::open(path("avatars-64")).unwrap(), Generator::open(path("avatars-64-int8")).unwrap());
    let manifest = fp32.manifest().clone();
    let drawn = {
        let mut request = fp32.request("personas").unwrap();
        request.seed = 11;
        fp32.generate(&request, &mut ()).unwrap().images.remove(0).tokens
    };
    for keep in [1, 3, 7] {
        let tokens: Vec<i64> =
            drawn.iter().enumerate().map(|(i, &t)| if i % 8 < keep { t } else { manifest.mask_id }).collect();
        let (a, b) = (fp32.logits(&tokens, 6).unwrap(), int8.logits(&tokens, 6).unwrap());
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        assert!(cosine > 0.9997, "with {keep} of 8 tokens known: cosine {cosine}");
        assert!(cosine < 1.0 - 1e-9, "int8 gives the numbers of fp32: is it int8?");
    }
}

/// On processors that compute in fp16, dense layers with fp16 weights do; elsewhere this compares two sets of float32 kernels.
#[test]
fn fp16_logits_are_near_those_of_widened_weights() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/small/halton-fp16");
    let logits = |isa: Isa, label: i64| {
        let engine = CpuEngine::new(1).unwrap().with_isa(isa).unwrap();
        let bundle = Bundle::open(&folder).unwrap();
        let mut generator = Generator::with_engine(bundle, Box::new(engine), &OpenOptions::default()).unwrap();
        let manifest = generator.manifest();
        let tokens: Vec<i64> = (0..manifest.tokens() as i64)
            .map(|i| if i % 3 == 0 { i % manifest.codes as i64 } else { manifest.mask_id })
            .collect();
        generator.logits(&tokens, label).unwrap()
    };
    for isa in Isa::available() {
        for label in [0, 1] {
            let (wide, narrow) = (logits(Isa::Portable, label), logits(isa, label));
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            let cosine = dot(&wide, &narrow) / (dot(&wide, &wide) * dot(&narrow, &narrow)).sqrt();
            assert!(cosine > 0.99999, "{isa}: cosine {cosine}");
            #[cfg(target_arch = "aarch64")]
            if isa != Isa::Portable && std::arch::is_aarch64_feature_detected!("fp16") {
                assert!(cosine < 1.0 - 1e-9, "{isa} gives the numbers of float32: is it fp16?");
            }
        }
    }
}

/// How many layers of a graph the quantiser made int8, by `quantization.json`.
fn quantised(model: &str, graph: &str) -> usize {
    let text = std::fs::read_to_string(path(model).join("quantization.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layers = report["layers"].as_array().unwrap();
    layers.iter().filter(|layer| layer["graph"] == graph && layer["kept"].is_null()).count()
}

/// What the rules must find. A rule that stops matching leaves a correct but slower graph, which no other test sees.
#[test]
fn the_graphs_are_fused() {
    for (model, int8) in
        [("avatars-64", false), ("avatars-64-int8", true), ("avatars-128", false), ("avatars-128-int8", true)]
    {
        let larger = model.starts_with("avatars-128");
        let graphs = pipeline::operators(&Bundle::open(path(model)).unwrap()).unwrap();
        assert_eq!(graphs.len(), 3);
        for (kind, operators) in graphs {
            let count = |name: &str, detail: &str| -> usize {
                let fits = |o: &&maskgit::engine::OperatorCount| {
                    o.name == name && o.detail.as_deref().is_some_and(|d| d.contains(detail))
                };
                operators.iter().filter(fits).map(|o| o.count).sum()
            };
            let found = ["Attention", "Linear", "Conv2d", "RowNorm"].map(|name| count(name, ""));
            let expected = match kind.as_str() {
                "transformer" if larger => [8, 37, 6, 21],
                "transformer" => [6, 29, 6, 17],
                "decoder" if larger => [0, 0, 32, 0],
                "decoder" => [0, 0, 9, 0],
                _ => [0, 1, 5, 0],
            };
            let expected = if kind.as_str() == "encoder" { [0, found[1], found[2], 0] } else { expected };
            assert_eq!(found, expected, "{model}, {kind}: {operators:?}");
            assert_eq!(operators.iter().filter(|o| o.name.contains("MatMul") || o.name.contains("EinSum")).count(), 0);
            if int8 && kind.as_str() != "encoder" {
                let products = count("Linear", "int8") + count("Conv2d", "int8");
                assert_eq!(products, quantised(model, kind.as_str()), "{model}, {kind}: {operators:?}");
            }
        }
    }
}

/// In every family's graphs, logits that nobody wants are not computed, and the others are the same to the bit.
#[test]
fn only_wanted_logits_are_computed() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for model in ["models/avatars-64", "models/avatars-64-int8", "tests/data/small/google", "tests/data/small/halton"]
        .iter()
        .chain(&["tests/data/small/avatars", "tests/data/small/halton-fp16"])
    {
        let bundle = Bundle::open(root.join(model)).unwrap();
        let (n, k) = (bundle.manifest().tokens(), bundle.manifest().codes);
        let signature = Signature {
            inputs: vec![Port::new("tokens", DType::I64, &[1, n]), Port::new("label", DType::I64, &[1])],
            outputs: vec![Port::new("logits", DType::F32, &[1, n, k])],
        };
        let graph = Source::from(fs::read(root.join(model).join("transformer.onnx")).unwrap());
        let tokens: Vec<i64> =
            (0..n as i64).map(|i| if i % 3 == 0 { bundle.manifest().mask_id } else { i % k as i64 }).collect();
        let row: [Input<'_>; 2] =
            [Input::I64 { shape: &[1, n], data: &tokens }, Input::I64 { shape: &[1], data: &[1] }];
        for threads in [1, 2] {
            let mut session = CpuEngine::new(threads).unwrap().load(&graph, &signature).unwrap();
            let all = session.run(&row).unwrap().remove(0).into_f32().unwrap();
            // One row on all threads, and as many as there are threads.
            for count in [1, 2] {
                let wanted: Vec<Vec<bool>> =
                    (0..count).map(|r| (0..n).map(|i| i == r || (i * 7 + r) % 5 == 0).collect()).collect();
                let wanted: Vec<&[bool]> = wanted.iter().map(Vec::as_slice).collect();
                let found = session.run_wanted(&vec![&row[..]; count], &wanted).unwrap();
                assert_eq!(found.len(), count);
                for (mut found, wanted) in found.into_iter().zip(wanted) {
                    let found = found.remove(0).into_f32().unwrap();
                    for (place, &wanted) in wanted.iter().enumerate() {
                        let (found, all) = (&found[place * k..][..k], &all[place * k..][..k]);
                        let as_told = if wanted { found == all } else { found.iter().all(|&x| x == 0.0) };
                        assert!(as_told, "{model}, {threads} threads, {count} rows, place {place}, wanted: {wanted}");
                    }
                }
            }
            assert_eq!(session.run(&row).unwrap().remove(0).into_f32().unwrap(), all, "{model}: all are wanted again");
        }
    }
}
