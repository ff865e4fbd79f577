//! int8: the same tokens everywhere, near the fp32 model, and the operators that the bundles are expected to run.

#![cfg(feature = "unstable")]

use std::fs;
use std::path::{Path, PathBuf};

use maskgit::unstable::{CpuEngine, DType, Engine, Input, Isa, Port, Signature};
use maskgit::{Bundle, Generator, GraphKind, LoadLimits, OperatorCount, Request, operators};
use ndarray::{Array3, ArrayView, aview1, s};

use crate::common::{emulated, root};

fn path(name: &str) -> PathBuf {
    root("models").join(name)
}

/// The bundled int8 models, each with a class and a number of steps to draw it in.
const INT8: [(&str, &str, usize); 2] = [("avatars-64-int8", "lorelei", 6), ("avatars-128-int8", "cats", 3)];

fn open(folder: &Path, isa: Isa, threads: usize) -> Generator {
    let engine = CpuEngine::new(threads).unwrap().with_isa(isa);
    Generator::builder().open_on(Bundle::open(folder).unwrap(), Box::new(engine)).unwrap()
}

fn tokens(model: (&str, &str, usize), isa: Isa, threads: usize) -> Vec<i64> {
    let (name, class, steps) = model;
    let request = Request::generate().with_class(class).with_seed(3).with_steps(steps);
    open(&path(name), isa, threads).generate(&request).unwrap().images.remove(0).tokens
}

/// Every kernel that this processor has, and one thread or several, give the tokens in `tests/golden`, on any machine.
#[test]
fn int8_tokens_are_the_same_everywhere() {
    for model in INT8 {
        let file = root(&format!("tests/golden/{}.json", model.0));
        if std::env::var_os("MASKGIT_BLESS").is_some() {
            fs::write(&file, serde_json::to_string(&tokens(model, Isa::best(), 1)).unwrap() + "\n").unwrap();
        }
        let golden: Vec<i64> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(golden.len(), 256);
        let sets = Isa::available();
        assert!(sets.contains(&Isa::PORTABLE));
        // The larger model takes minutes in an emulator.
        let counts: &[usize] = if emulated() && model.0 == "avatars-128-int8" { &[2] } else { &[1, 2, 3] };
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
    let request = Request::generate().with_class("personas").with_seed(11);
    let drawn = fp32.generate(&request).unwrap().images.remove(0).tokens;
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

/// On processors that compute in fp16, dense layers with fp16 weights do; elsewhere this compares two sets of float32
/// kernels.
#[test]
fn fp16_logits_are_near_those_of_widened_weights() {
    let logits = |isa: Isa, label: i64| {
        let mut generator = open(&root("tests/data/small/halton-fp16"), isa, 1);
        let manifest = generator.manifest();
        let tokens: Vec<i64> = (0..manifest.tokens() as i64)
            .map(|i| if i % 3 == 0 { i % manifest.codes as i64 } else { manifest.mask_id })
            .collect();
        generator.logits(&tokens, label).unwrap()
    };
    for isa in Isa::available() {
        for label in [0, 1] {
            let (wide, narrow) = (logits(Isa::PORTABLE, label), logits(isa, label));
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            let cosine = dot(&wide, &narrow) / (dot(&wide, &wide) * dot(&narrow, &narrow)).sqrt();
            assert!(cosine > 0.99999, "{isa}: cosine {cosine}");
            #[cfg(target_arch = "aarch64")]
            if isa != Isa::PORTABLE && std::arch::is_aarch64_feature_detected!("fp16") {
                assert!(cosine < 1.0 - 1e-9, "{isa} gives the numbers of float32: is it fp16?");
            }
        }
    }
}

/// How many layers of a graph the quantiser made int8, by `quantization.json`.
fn quantised(model: &str, graph: &str) -> usize {
    let text = fs::read_to_string(path(model).join("quantization.json")).unwrap();
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
        let graphs = operators(&Bundle::open(path(model)).unwrap()).unwrap();
        assert_eq!(graphs.len(), 3);
        for (kind, found) in graphs {
            let count = |name: &str, detail: &str| -> usize {
                let fits =
                    |o: &&OperatorCount| o.name == name && o.detail.as_deref().is_some_and(|d| d.contains(detail));
                found.iter().filter(fits).map(|o| o.count).sum()
            };
            let counts = ["Attention", "Linear", "Conv2d", "RowNorm"].map(|name| count(name, ""));
            let expected = match kind {
                GraphKind::Transformer if larger => [8, 37, 6, 21],
                GraphKind::Transformer => [6, 29, 6, 17],
                GraphKind::Decoder if larger => [0, 0, 32, 0],
                GraphKind::Decoder => [0, 0, 9, 0],
                GraphKind::Encoder if larger => [0, 2, 9, 0],
                GraphKind::Encoder => [0, 2, 4, 0],
            };
            assert_eq!(counts, expected, "{model}, {kind}: {found:?}");
            assert_eq!(found.iter().filter(|o| o.name.contains("MatMul") || o.name.contains("EinSum")).count(), 0);
            if int8 && kind != GraphKind::Encoder {
                let products = count("Linear", "int8") + count("Conv2d", "int8");
                assert_eq!(products, quantised(model, kind.as_str()), "{model}, {kind}: {found:?}");
            }
        }
    }
}

/// In every family's graphs, logits that nobody wants are not computed, and the others are the same to the bit.
#[test]
fn only_wanted_logits_are_computed() {
    for model in ["models/avatars-64", "models/avatars-64-int8", "tests/data/small/google", "tests/data/small/halton"]
        .iter()
        .chain(&["tests/data/small/avatars", "tests/data/small/halton-fp16"])
    {
        let bundle = Bundle::open(root(model)).unwrap();
        let (n, k) = (bundle.manifest().tokens(), bundle.manifest().codes);
        let signature = Signature {
            inputs: vec![Port::new("tokens", DType::I64, &[1, n]), Port::new("label", DType::I64, &[1])],
            outputs: vec![Port::new("logits", DType::F32, &[1, n, k])],
        };
        let graph = bundle.source(GraphKind::Transformer).unwrap();
        let tokens: Vec<i64> =
            (0..n as i64).map(|i| if i % 3 == 0 { bundle.manifest().mask_id } else { i % k as i64 }).collect();
        let row: [Input<'_>; 2] = [ArrayView::from_shape((1, n), &tokens).unwrap().into(), aview1(&[1]).into()];
        for threads in [1, 2] {
            let mut session =
                CpuEngine::new(threads).unwrap().load(&graph, &signature, &LoadLimits::default()).unwrap();
            let all = session.run(&row).unwrap().remove(0).into_f32().unwrap();
            assert_eq!(all.shape(), [1, n, k]);
            // One row on all threads, and as many as there are threads.
            for count in [1, 2] {
                let wanted: Vec<Vec<bool>> =
                    (0..count).map(|r| (0..n).map(|i| i == r || (i * 7 + r) % 5 == 0).collect()).collect();
                let wanted: Vec<&[bool]> = wanted.iter().map(Vec::as_slice).collect();
                let mut found = Array3::from_elem((count, n, k), f32::NAN);
                session.run_into(&vec![&row[..]; count], &wanted, found.view_mut()).unwrap();
                for (found, wanted) in found.outer_iter().zip(wanted) {
                    for (place, &wanted) in wanted.iter().enumerate() {
                        let (found, all) = (found.row(place), all.slice(s![0, place, ..]));
                        let as_told = if wanted { found == all } else { found.iter().all(|&x| x == 0.0) };
                        assert!(as_told, "{model}, {threads} threads, {count} rows, place {place}, wanted: {wanted}");
                    }
                }
            }
            assert_eq!(session.run(&row).unwrap().remove(0).into_f32().unwrap(), all, "{model}: all are wanted again");
        }
    }
}
