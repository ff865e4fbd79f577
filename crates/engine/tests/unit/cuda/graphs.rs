//! Every graph of the bundles in the repository: the small ones have the operators of each architecture.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::{Emulated, Random, compare};

use maskgit_bundle::{Bundle, GraphKind, Manifest};
use maskgit_core::{ErrorKind, LoadLimits, Result};
use maskgit_sample::{Predict, TokenGrid, TokenSpec};
use ndarray::{Array3, ArrayD, ArrayView1, ArrayViewMut3, Axis, aview1, s};

use crate::cuda::device::Precision;
use crate::cuda::prepare;
use crate::{CpuEngine, DType, Engine, Input, Output, Port, Session, Signature};

pub(super) const SMALL: [&str; 4] =
    ["tests/data/tiny", "tests/data/small/avatars", "tests/data/small/google", "tests/data/small/halton"];
pub(super) const BUNDLED: [&str; 2] = ["models/avatars-64", "models/avatars-64-int8"];

/// A path in the repository.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

/// The inputs and outputs that a bundle's graph must have, with batch 1: docs/bundle.md.
fn signature(manifest: &Manifest, kind: GraphKind) -> Signature {
    let n = manifest.tokens();
    let (height, width) = (manifest.image.height as usize, manifest.image.width as usize);
    let tokens = Port::new("tokens", DType::I64, &[1, n]);
    let image = Port::new("image", DType::F32, &[1, 3, height, width]);
    match kind {
        GraphKind::Transformer => Signature {
            inputs: vec![tokens, Port::new("label", DType::I64, &[1])],
            outputs: vec![Port::new("logits", DType::F32, &[1, n, manifest.codes])],
        },
        GraphKind::Decoder => Signature { inputs: vec![tokens], outputs: vec![image] },
        GraphKind::Encoder => Signature { inputs: vec![image], outputs: vec![tokens] },
    }
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
fn data(random: &mut Random, bundle: &Bundle, signature: &Signature) -> Vec<Output> {
    let manifest = bundle.manifest();
    let mut fill = |port: &Port| {
        let shape = port.shape.as_slice();
        match (port.dtype, port.name.as_str()) {
            (DType::F32, _) => Output::F32(ArrayD::from_shape_simple_fn(shape, || random.number() * 0.5 + 0.5)),
            (_, "label") => {
                Output::I64(ArrayD::from_shape_simple_fn(shape, || random.below(manifest.labels.len()) as i64))
            }
            _ => Output::I64(ArrayD::from_shape_simple_fn(shape, || random.below(manifest.codes) as i64)),
        }
    };
    signature.inputs.iter().map(&mut fill).collect()
}

fn inputs(data: &[Output]) -> Vec<Input<'_>> {
    fn input(data: &Output) -> Input<'_> {
        match data {
            Output::I64(data) => Input::from(data.view()),
            Output::F32(data) => Input::from(data.view()),
        }
    }
    data.iter().map(input).collect()
}

#[test]
fn no_node_is_left_for_the_cpu() {
    for name in SMALL.iter().chain(&BUNDLED) {
        for (what, bundle, kind, signature) in graphs(name) {
            let prepared = prepare(&bundle.source(kind).unwrap(), &signature, None, &LoadLimits::default())
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            let nodes: usize = prepared.operators.iter().map(|o| o.count).sum();
            assert_eq!(nodes - prepared.translated, 0, "{what}: nodes left on the CPU");
            assert!(nodes > 0 && !prepared.plan.launches.is_empty(), "{what}");
        }
    }
}

/// Runs every graph of a bundle on the CPU and on another engine; `judge` looks at the cosine and the largest
/// difference of floating-point outputs, and of tokens so many in a hundred must be equal.
pub(super) fn beside_the_cpu(name: &str, engine: &dyn Engine, tokens: usize, judge: impl Fn(&str, f64, f64)) {
    for (what, bundle, kind, signature) in graphs(name) {
        let mut random = Random(7);
        let source = bundle.source(kind).unwrap();
        let mut cpu = CpuEngine::new(1).unwrap().load(&source, &signature, &LoadLimits::default()).unwrap();
        let mut gpu = engine.load(&source, &signature, &LoadLimits::default()).unwrap();
        let data = data(&mut random, &bundle, &signature);
        let inputs = inputs(&data);
        for (a, b) in cpu.run(&inputs).unwrap().iter().zip(&gpu.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}")))
        {
            match (a, b) {
                (Output::F32(a), Output::F32(b)) => {
                    assert_eq!(a.shape(), b.shape(), "{what}");
                    let (cosine, worst) = compare(a.as_slice().unwrap(), b.as_slice().unwrap());
                    println!("{what}: cosine {cosine:.7}, largest difference {worst:.2e}");
                    judge(&what, cosine, worst);
                }
                (Output::I64(a), Output::I64(b)) => {
                    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                    println!("{what}: {same} of {} tokens equal", a.len());
                    // Noise is nobody's image: where two codes are as near, rounding decides.
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

/// int8 weights are widened to fp16, and activations are not quantised: not what the CPU computes, and as near to fp32
/// as that is.
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
        let data: Vec<Vec<Output>> = (0..3).map(|_| data(&mut random, &bundle, &signature)).collect();
        let rows: Vec<Vec<Input<'_>>> = data.iter().map(|d| inputs(d)).collect();
        let rows: Vec<&[Input<'_>]> = rows.iter().map(Vec::as_slice).collect();
        let mut plain = engine.load(&source, &signature, &LoadLimits::default()).unwrap();
        let alone: Vec<Vec<Output>> = rows.iter().map(|row| plain.run(row).unwrap()).collect();
        assert_eq!(plain.run_rows(&rows).unwrap(), alone, "{what}: in a batch");
        assert_eq!(plain.run(rows[1]).unwrap(), alone[1], "{what}: again");
        for (i, other) in others.iter().enumerate() {
            let mut other = other.load(&source, &signature, &LoadLimits::default()).unwrap();
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

/// A transformer that draws for one label.
struct Transformer {
    session: Box<dyn Session>,
    label: i64,
    null_label: Option<i64>,
}

impl Predict for Transformer {
    fn logits(&mut self, rows: &[maskgit_sample::Row<'_>], out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let null_label = self.null_label.unwrap_or(self.label);
        let labels: Vec<i64> = rows.iter().map(|r| if r.unconditional { null_label } else { self.label }).collect();
        let inputs: Vec<[Input<'_>; 2]> = rows
            .iter()
            .zip(&labels)
            .map(|(row, label)| {
                let tokens = aview1(row.tokens).into_shape_with_order([1, row.tokens.len()]).unwrap();
                [Input::from(tokens), Input::from(ArrayView1::from(std::slice::from_ref(label)))]
            })
            .collect();
        let inputs: Vec<&[Input<'_>]> = inputs.iter().map(|row| row.as_slice()).collect();
        let wanted: Vec<&[bool]> = rows.iter().map(|row| row.wanted).collect();
        self.session.run_into(&inputs, &wanted, out)
    }
}

/// Draws images of a bundle's first class, as the library does: their tokens, and what the decoder makes of each.
fn draw(bundle: &Bundle, engine: &dyn Engine, count: u64, steps: usize) -> Vec<(Vec<i64>, ArrayD<f32>)> {
    let manifest = bundle.manifest();
    let load =
        |kind| engine.load(&bundle.source(kind).unwrap(), &signature(manifest, kind), &LoadLimits::default()).unwrap();
    let spec = TokenSpec { grid: manifest.grid, codes: manifest.codes, mask_id: manifest.mask_id };
    let grid = |i| TokenGrid { seed: 5 + i, tokens: vec![manifest.mask_id; manifest.tokens()] };
    let mut grids: Vec<TokenGrid> = (0..count).map(grid).collect();
    let mut settings = manifest.sampling.clone();
    settings.steps = steps;
    let session = load(GraphKind::Transformer);
    let mut transformer = Transformer { session, label: 0, null_label: manifest.null_label };
    maskgit_sample::run(&spec, &mut grids, &settings, &mut transformer, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut decoder = load(GraphKind::Decoder);
    let mut decode = |tokens: Vec<i64>| {
        let row = aview1(&tokens).into_shape_with_order([1, tokens.len()]).unwrap();
        let image = decoder.run(&[Input::from(row)]).unwrap().remove(0).into_f32().unwrap();
        (tokens, image)
    };
    grids.into_iter().map(|grid| decode(grid.tokens)).collect()
}

/// Draws images on both, in so many steps.
pub(super) fn same_tokens(path: &Path, engine: &dyn Engine, count: u64, steps: usize) {
    let bundle = Bundle::open(path).unwrap();
    let (a, b) = (draw(&bundle, &CpuEngine::new(1).unwrap(), count, steps), draw(&bundle, engine, count, steps));
    for ((a_tokens, a), (b_tokens, b)) in a.iter().zip(&b) {
        assert_eq!(a_tokens, b_tokens, "{}", path.display());
        // Both are rounded to a byte: one step apart is as near as two roundings are.
        let byte = |v: &f32| (v.clamp(0.0, 1.0) * 255.0).round() as u8;
        let far = a.iter().zip(b).filter(|(a, b)| byte(a).abs_diff(byte(b)) > 1).count();
        assert_eq!(far, 0, "{}: pixels differ", path.display());
    }
}

/// From a request to pixels.
#[test]
fn tokens_of_whole_pictures_are_the_cpus() {
    for name in SMALL {
        same_tokens(&path(name), &Emulated::new(Precision::F32), 2, 4);
    }
    same_tokens(&path(BUNDLED[0]), &Emulated::new(Precision::F32), 1, 2);
}

#[test]
fn a_token_outside_its_table_is_an_error_and_the_session_lives_on() {
    let (_, bundle, kind, signature) = graphs(SMALL[0]).swap_remove(0);
    let mut session =
        Emulated::new(Precision::F32).load(&bundle.source(kind).unwrap(), &signature, &LoadLimits::default()).unwrap();
    let data = data(&mut Random(3), &bundle, &signature);
    let good = session.run(&inputs(&data)).unwrap();
    let mut bad = data.clone();
    let Some(Output::I64(tokens)) = bad.first_mut() else { panic!("tokens") };
    tokens[[0, 2]] = 1_000_000;
    let error = session.run(&inputs(&bad)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("outside the table"), "{error}");
    assert_eq!(session.run(&inputs(&data)).unwrap(), good);
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
            let mut session = Emulated::new(precision).load(&source, &signature, &LoadLimits::default()).unwrap();
            let mut random = Random(3);
            let data: Vec<Vec<Output>> = (0..count).map(|_| data(&mut random, &bundle, &signature)).collect();
            let rows: Vec<Vec<Input<'_>>> = data.iter().map(|data| inputs(data)).collect();
            let rows: Vec<&[Input<'_>]> = rows.iter().map(Vec::as_slice).collect();
            let logits = |session: &mut dyn Session, wanted: &[&[bool]]| {
                let mut out = Array3::from_elem((rows.len(), n, k), f32::NAN);
                session.run_into(&rows, wanted, out.view_mut()).unwrap();
                out
            };
            let all = logits(session.as_mut(), &[]);
            let alone = session.run(rows[0]).unwrap().remove(0).into_f32().unwrap();
            assert_eq!(all.index_axis(Axis(0), 0).into_dyn(), alone.index_axis(Axis(0), 0), "{name}");
            let wanted: Vec<Vec<bool>> = (0..count).map(|r| (0..n).map(|i| (i + r) % 3 == 1).collect()).collect();
            let wanted: Vec<&[bool]> = wanted.iter().map(Vec::as_slice).collect();
            let some = logits(session.as_mut(), &wanted);
            for (row, wanted) in wanted.iter().enumerate() {
                for place in 0..n {
                    let (found, all) = (some.slice(s![row, place, ..]), all.slice(s![row, place, ..]));
                    let as_told = if wanted[place] { found == all } else { found.iter().all(|&x| x == 0.0) };
                    assert!(as_told, "{name}, {precision:?}, row {row}, place {place}");
                }
            }
            assert_eq!(logits(session.as_mut(), &[]), all, "{name}: all are wanted again");
        }
    }
}
