//! Every graph of the bundles in the repository: the small ones have the operators of each architecture.

use std::path::{Path, PathBuf};

use super::{Emulated, Random, compare};
use crate::bundle::{Bundle, GraphKind};
use crate::engine::cuda::device::Precision;
use crate::engine::cuda::prepare;
use crate::engine::{CpuEngine, DType, Engine, Input, Output, Signature};
use crate::pipeline::signature;
use crate::{ErrorKind, Generator, OpenOptions};

pub(super) const SMALL: [&str; 4] =
    ["tests/data/tiny", "tests/data/small/avatars", "tests/data/small/google", "tests/data/small/halton"];
pub(super) const BUNDLED: [&str; 2] = ["models/avatars-64", "models/avatars-64-int8"];

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn graphs(name: &str) -> Vec<(String, Bundle, GraphKind, Signature)> {
    let bundle = Bundle::open(path(name)).unwrap();
    let kinds: Vec<GraphKind> = GraphKind::ALL.into_iter().filter(|&k| bundle.has_graph(k)).collect();
    let open = |kind| {
        let bundle = Bundle::open(path(name)).unwrap();
        let signature = signature(bundle.manifest(), kind);
        (format!("{name}, {kind}"), bundle, kind, signature)
    };
    kinds.into_iter().map(open).collect()
}

/// The inputs of a row: data that fits the ports.
enum Data {
    I64(Vec<i64>),
    F32(Vec<f32>),
}

fn data(random: &mut Random, bundle: &Bundle, signature: &Signature) -> Vec<Data> {
    let manifest = bundle.manifest();
    signature
        .inputs
        .iter()
        .map(|port| {
            let count = port.shape.iter().product();
            match (port.dtype, port.name.as_str()) {
                (DType::F32, _) => Data::F32((0..count).map(|_| random.number() * 0.5 + 0.5).collect()),
                (_, "label") => Data::I64(vec![random.below(manifest.labels.len()) as i64]),
                _ => Data::I64((0..count).map(|_| random.below(manifest.codes) as i64).collect()),
            }
        })
        .collect()
}

fn inputs<'a>(signature: &'a Signature, data: &'a [Data]) -> Vec<Input<'a>> {
    let input = |(port, data): (&'a crate::engine::Port, &'a Data)| match data {
        Data::I64(data) => Input::I64 { shape: &port.shape, data },
        Data::F32(data) => Input::F32 { shape: &port.shape, data },
    };
    signature.inputs.iter().zip(data).map(input).collect()
}

#[test]
fn no_node_is_left_for_the_cpu() {
    for name in SMALL.iter().chain(&BUNDLED) {
        for (what, bundle, kind, signature) in graphs(name) {
            let prepared =
                prepare(&bundle.source(kind).unwrap(), &signature, None).unwrap_or_else(|e| panic!("{what}: {e}"));
            let nodes: usize = prepared.operators.iter().map(|o| o.count).sum();
            assert_eq!(nodes - prepared.translated, 0, "{what}: nodes left on the CPU");
            assert!(nodes > 0 && !prepared.plan.launches.is_empty(), "{what}");
        }
    }
}

/// Runs every graph of a bundle on the CPU and on another engine; `judge` looks at the cosine and the largest difference of
/// floating-point outputs, and of tokens so many in a hundred must be equal.
pub(super) fn beside_the_cpu(name: &str, engine: &dyn Engine, tokens: usize, judge: impl Fn(&str, f64, f64)) {
    for (what, bundle, kind, signature) in graphs(name) {
        let mut random = Random(7);
        let source = bundle.source(kind).unwrap();
        let mut cpu = CpuEngine::new(1).unwrap().load(&source, &signature).unwrap();
        let mut gpu = engine.load(&source, &signature).unwrap();
        let data = data(&mut random, &bundle, &signature);
        let inputs = inputs(&signature, &data);
        for (a, b) in cpu.run(&inputs).unwrap().iter().zip(&gpu.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}")))
        {
            match (a, b) {
                (Output::F32 { shape, data: a }, Output::F32 { shape: other, data: b }) => {
                    assert_eq!(shape, other, "{what}");
                    let (cosine, worst) = compare(a, b);
                    println!("{what}: cosine {cosine:.7}, largest difference {worst:.2e}");
                    judge(&what, cosine, worst);
                }
                (Output::I64 { data: a, .. }, Output::I64 { data: b, .. }) => {
                    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                    println!("{what}: {same} of {} tokens equal", a.len());
                    // Noise is nobody's picture: where two codes are as near, rounding decides.
                    assert!(same * 100 >= a.len() * tokens, "{what}: {same} of {} tokens equal", a.len());
                }
                _ => panic!("{what}: outputs of different types"),
            }
        }
    }
}

#[test]
fn fp32_is_near_the_cpu() {
    for name in SMALL {
        let engine = Emulated::new(Precision::F32);
        beside_the_cpu(name, &engine, 95, |what, _, worst| assert!(worst < 1e-3, "{what}: {worst}"));
    }
}

#[test]
fn fp16_is_near_the_cpu() {
    for name in SMALL {
        let engine = Emulated::new(Precision::F16);
        beside_the_cpu(name, &engine, 60, |what, cosine, _| assert!(cosine > 0.9999, "{what}: {cosine}"));
    }
}

/// The bundled model, each graph.
#[test]
fn avatars_in_fp32_is_near_the_cpu() {
    let engine = Emulated { precision: None, ..Emulated::new(Precision::F32) };
    beside_the_cpu(BUNDLED[0], &engine, 95, |what, _, worst| assert!(worst < 1e-3, "{what}: {worst}"));
}

#[test]
fn avatars_in_fp16_is_near_the_cpu() {
    let engine = Emulated::new(Precision::F16);
    beside_the_cpu(BUNDLED[0], &engine, 90, |what, cosine, _| assert!(cosine > 0.9999, "{what}: {cosine}"));
}

/// int8 weights are widened to fp16, and activations are not quantised: not what the CPU computes, and as near to fp32 as that is.
#[test]
fn avatars_in_int8_is_near_the_cpu() {
    let engine = Emulated { precision: None, ..Emulated::new(Precision::F16) };
    beside_the_cpu(BUNDLED[1], &engine, 90, |what, cosine, _| assert!(cosine > 0.998, "{what}: {cosine}"));
}

/// A row of a batch is what it is alone, at every turn, on every one of the engines.
pub(super) fn steady(name: &str, engine: &dyn Engine, others: &[&dyn Engine]) {
    for (what, bundle, kind, signature) in graphs(name) {
        let mut random = Random(11);
        let source = bundle.source(kind).unwrap();
        let data: Vec<Vec<Data>> = (0..3).map(|_| data(&mut random, &bundle, &signature)).collect();
        let rows: Vec<Vec<Input<'_>>> = data.iter().map(|d| inputs(&signature, d)).collect();
        let rows: Vec<&[Input<'_>]> = rows.iter().map(Vec::as_slice).collect();
        let mut plain = engine.load(&source, &signature).unwrap();
        let alone: Vec<Vec<Output>> = rows.iter().map(|row| plain.run(row).unwrap()).collect();
        assert_eq!(plain.run_rows(&rows).unwrap(), alone, "{what}: in a batch");
        assert_eq!(plain.run(rows[1]).unwrap(), alone[1], "{what}: again");
        for (i, other) in others.iter().enumerate() {
            let mut other = other.load(&source, &signature).unwrap();
            assert_eq!(other.run_rows(&rows).unwrap(), alone, "{what}: on engine {i}");
        }
    }
}

/// Whatever the order of threads and the size of tiles.
#[test]
fn rows_do_not_depend_on_anything_else() {
    for precision in [Precision::F32, Precision::F16] {
        let backwards = |processors| Emulated { precision: Some(precision), processors, backwards: true };
        let (large, small) = (backwards(1), backwards(1000));
        for name in SMALL {
            steady(name, &Emulated::new(precision), &[&large, &small]);
        }
    }
}

/// Draws pictures on both, in so many steps.
pub(super) fn same_tokens(path: &Path, engine: Box<dyn Engine>, count: usize, steps: usize) {
    let options = OpenOptions::with_threads(1);
    let mut cpu = Generator::open_with(path, &options).unwrap();
    let mut gpu = Generator::with_engine(Bundle::open(path).unwrap(), engine, &options).unwrap();
    let class = cpu.manifest().labels[0].clone();
    let mut request = cpu.request(&class).unwrap();
    (request.count, request.seed, request.options.steps) = (count, 5, steps);
    let (a, b) = (cpu.generate(&request, &mut ()).unwrap(), gpu.generate(&request, &mut ()).unwrap());
    for (a, b) in a.images.iter().zip(&b.images) {
        assert_eq!(a.tokens, b.tokens, "{}", path.display());
        let far = a.image.as_raw().iter().zip(b.image.as_raw()).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        assert_eq!(far, 0, "{}: pixels differ", path.display());
    }
}

/// From a request to pixels.
#[test]
fn tokens_of_whole_pictures_are_the_cpus() {
    for name in SMALL {
        same_tokens(&path(name), Box::new(Emulated::new(Precision::F32)), 2, 4);
    }
    same_tokens(&path(BUNDLED[0]), Box::new(Emulated::new(Precision::F32)), 1, 2);
}

#[test]
fn a_token_outside_its_table_is_an_error_and_the_session_lives_on() {
    let (_, bundle, kind, signature) = graphs(SMALL[0]).swap_remove(0);
    let mut session = Emulated::new(Precision::F32).load(&bundle.source(kind).unwrap(), &signature).unwrap();
    let data = data(&mut Random(3), &bundle, &signature);
    let good = session.run(&inputs(&signature, &data)).unwrap();
    let Some(Data::I64(tokens)) = data.first() else { panic!("tokens") };
    let mut bad = tokens.clone();
    bad[2] = 1_000_000;
    let Some(Data::I64(label)) = data.get(1) else { panic!("a label") };
    let bad = [Data::I64(bad), Data::I64(label.clone())];
    let error = session.run(&inputs(&signature, &bad)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("outside the table"), "{error}");
    assert_eq!(session.run(&inputs(&signature, &data)).unwrap(), good);
}

/// Logits that nobody wants stay on the device; the others are the same to the bit.
#[test]
fn only_wanted_logits_come_back() {
    for name in SMALL {
        for (precision, count) in [(Precision::F32, 1), (Precision::F16, 3)] {
            let bundle = Bundle::open(path(name)).unwrap();
            let signature = signature(bundle.manifest(), GraphKind::Transformer);
            let (n, k) = (signature.outputs[0].shape[1], signature.outputs[0].shape[2]);
            let source = bundle.source(GraphKind::Transformer).unwrap();
            let mut session = Emulated::new(precision).load(&source, &signature).unwrap();
            let mut random = Random(3);
            let data: Vec<Vec<Data>> = (0..count).map(|_| data(&mut random, &bundle, &signature)).collect();
            let rows: Vec<Vec<Input<'_>>> = data.iter().map(|data| inputs(&signature, data)).collect();
            let rows: Vec<&[Input<'_>]> = rows.iter().map(Vec::as_slice).collect();
            let logits = |outputs: Vec<Vec<Output>>| -> Vec<Vec<f32>> {
                outputs.into_iter().map(|mut o| o.remove(0).into_f32().unwrap()).collect()
            };
            let all = logits(session.run_rows(&rows).unwrap());
            let wanted: Vec<Vec<bool>> = (0..count).map(|r| (0..n).map(|i| (i + r) % 3 == 1).collect()).collect();
            let wanted: Vec<&[bool]> = wanted.iter().map(Vec::as_slice).collect();
            let some = logits(session.run_wanted(&rows, &wanted).unwrap());
            for (row, wanted) in wanted.iter().enumerate() {
                for place in 0..n {
                    let at = place * k..(place + 1) * k;
                    let (found, all) = (&some[row][at.clone()], &all[row][at]);
                    let as_told = if wanted[place] { found == all } else { found.iter().all(|&x| x == 0.0) };
                    assert!(as_told, "{name}, {precision:?}, row {row}, place {place}");
                }
            }
            assert_eq!(logits(session.run_rows(&rows).unwrap()), all, "{name}: all are wanted again");
        }
    }
}
