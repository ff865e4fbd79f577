//! Graphs that ask for what no graph of the family has: each is refused in words, in little time and memory.

use std::path::Path;
use std::time::{Duration, Instant};

use maskgit_core::{Cancel, ErrorKind, LoadLimits, Result, Source};
use maskgit_engine::{CpuEngine, DType, Engine, Port, Session, Signature};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

/// No import here may take longer, on a loaded machine: they take milliseconds.
const LONG: Duration = Duration::from_secs(20);

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Ints as i32, ints: ints.to_vec(), ..Default::default() }
}

fn node(op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

fn value(name: &str, shape: Option<&[i64]>) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Default::default() };
    let tensor = type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: shape.map(|shape| TensorShapeProto { dim: shape.iter().map(dim).collect() }),
    };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(r#type), ..Default::default() }
}

/// A graph from `x`, f32 [1, 4, 6, 6], to `y`.
fn model(nodes: Vec<NodeProto>, weights: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        node: nodes,
        initializer: weights,
        input: vec![value("x", Some(&[1, 4, 6, 6]))],
        output: vec![value("y", None)],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { domain: String::new(), version: 20 };
    ModelProto { ir_version: 9, opset_import: vec![opset], graph: Some(graph), ..Default::default() }
}

fn load_within(model: &ModelProto, output: &[usize], limits: &LoadLimits) -> Result<Box<dyn Session>> {
    let signature = Signature {
        inputs: vec![Port::new("x", DType::F32, &[1, 4, 6, 6])],
        outputs: vec![Port::new("y", DType::F32, output)],
    };
    CpuEngine::new(1)?.load(&Source::from(model.encode_to_vec()), &signature, limits)
}

/// The error of a graph, in time.
fn refused(model: &ModelProto) -> String {
    let start = Instant::now();
    let error = load_within(model, &[1, 4, 6, 6], &LoadLimits::default()).err().expect("it is refused");
    assert!(start.elapsed() < LONG, "it took {:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
    let text = error.to_string();
    assert!(text.lines().count() == 1 && text.len() < 1000, "{text}");
    text
}

const FAR: [i64; 6] = [4, -5, 1 << 20, 1 << 31, i64::MAX, i64::MIN];

#[test]
fn axes_that_do_not_exist() {
    for axis in FAR {
        for op in ["Softmax", "LogSoftmax", "Hardmax", "ArgMax", "Concat", "Split", "LpNormalization"] {
            let text = refused(&model(vec![node(op, &["x"], "y", vec![int("axis", axis)])], vec![]));
            assert!(text.contains(&format!("axis {axis} does not exist")), "{op}: {text}");
        }
        for op in ["Gather", "GatherElements"] {
            let nodes = vec![node(op, &["x", "i"], "y", vec![int("axis", axis)])];
            let text = refused(&model(nodes, vec![integers("i", &[1, 1, 1, 1], &[0])]));
            assert!(text.contains(&format!("axis {axis} does not exist")), "{op}: {text}");
        }
        let nodes = vec![node("LayerNormalization", &["x", "w"], "y", vec![int("axis", axis)])];
        let text = refused(&model(nodes, vec![floats("w", &[6], &[1.0; 6])]));
        assert!(text.contains(&format!("axis {axis} does not exist")), "{text}");
        for op in ["ReduceMean", "ReduceMax", "ReduceSum", "Squeeze", "Unsqueeze"] {
            if op == "Unsqueeze" && [4, -5].contains(&axis) {
                continue; // one axis more than there are
            }
            let nodes = vec![node(op, &["x", "axes"], "y", vec![])];
            let text = refused(&model(nodes, vec![integers("axes", &[1], &[axis])]));
            assert!(text.contains(&format!("axis {axis} does not exist")), "{op}: {text}");
        }
        let nodes = vec![node("Slice", &["x", "zero", "one", "axes"], "y", vec![])];
        let weights = vec![integers("zero", &[1], &[0]), integers("one", &[1], &[1]), integers("axes", &[1], &[axis])];
        let text = refused(&model(nodes, weights));
        assert!(text.contains(&format!("axis {axis} does not exist")), "{text}");
    }
    for axis in [5, -6, i64::MAX] {
        let nodes = vec![
            node("Cast", &["x"], "i", vec![int("to", DataType::Int64 as i64)]),
            node("OneHot", &["i", "depth", "values"], "y", vec![int("axis", axis)]),
        ];
        let text = refused(&model(nodes, vec![integers("depth", &[], &[3]), floats("values", &[2], &[0.0, 1.0])]));
        assert!(text.contains(&format!("axis {axis} does not exist")), "{text}");
    }
    let nodes = vec![node("ReduceMean", &["x", "axes"], "y", vec![])];
    let text = refused(&model(nodes, vec![integers("axes", &[2], &[1, -3])]));
    assert!(text.contains("axis 1 twice"), "{text}");
}

#[test]
fn permutations_that_are_none() {
    for perm in [&[0, 1, 2][..], &[0, 1, 2, 4], &[0, 0, 1, 2], &[3, 2, 1, -1], &[2, 2, 1, 0], &[0, 1, 2, 3, 4], &[]] {
        let text = refused(&model(vec![node("Transpose", &["x"], "y", vec![ints("perm", perm)])], vec![]));
        assert!(text.contains("no permutation") || text.contains("'perm'"), "{perm:?}: {text}");
    }
}

#[test]
fn indices_without_coordinates() {
    for (dims, values) in [(&[][..], 1), (&[0], 0), (&[2, 5], 10), (&[1, 0], 0)] {
        let nodes = vec![node("GatherND", &["x", "i"], "y", vec![])];
        let text = refused(&model(nodes, vec![integers("i", dims, &vec![0; values])]));
        assert!(text.contains("its indices"), "{dims:?}: {text}");
    }
    let nodes = vec![node("GatherND", &["x", "i"], "y", vec![int("batch_dims", 2)])];
    let text = refused(&model(nodes, vec![integers("i", &[1, 1], &[0])]));
    assert!(text.contains("batch_dims"), "{text}");
}

#[test]
fn indices_that_are_no_integers() {
    for op in ["Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"] {
        let inputs: &[&str] = if op.starts_with("Scatter") { &["x", "i", "u"] } else { &["x", "i"] };
        let weights = vec![floats("i", &[1, 1, 1, 1], &[0.0]), floats("u", &[1, 1, 1, 1], &[0.0])];
        let text = refused(&model(vec![node(op, inputs, "y", vec![])], weights));
        assert!(text.contains("must be integers"), "{op}: {text}");
    }
}

#[test]
fn windows_of_any_size() {
    for (name, values, want) in [
        ("kernel_shape", &[1 << 40, 1 << 40][..], "must be 1 to"),
        ("kernel_shape", &[1 << 14, 1 << 14], "places"),
        ("kernel_shape", &[0, 1], "must be 1 to"),
        ("kernel_shape", &[2, 2, 2], "3 values"),
        ("strides", &[0, 1], "must be 1 to"),
        ("strides", &[1 << 50, 1], "must be 1 to"),
        ("strides", &[1], "1 values"),
        ("dilations", &[1, -1], "must be 1 to"),
        ("pads", &[0, 0, 1 << 40, 0], "must be 0 to"),
        ("pads", &[0, 0, -1, 0], "must be 0 to"),
        ("pads", &[0, 0, 1], "3 values"),
    ] {
        for op in ["MaxPool", "AveragePool"] {
            let mut attributes = vec![ints(name, values)];
            if name != "kernel_shape" {
                attributes.push(ints("kernel_shape", &[1, 1]));
            }
            let text = refused(&model(vec![node(op, &["x"], "y", attributes)], vec![]));
            assert!(text.contains(want), "{op} {name} {values:?}: {text}");
        }
    }
}

/// Each would be computed while the graph is read, and takes gigabytes.
#[test]
fn values_that_are_large_beside_the_file() {
    let huge = |op: &str, inputs: &[&str], weights: Vec<TensorProto>| {
        refused(&model(vec![node(op, inputs, "h", vec![]), node("ReduceMax", &["h"], "y", vec![])], weights))
    };
    let shape = |sizes: &[i64]| integers("n", &[sizes.len() as i64], sizes);
    let range = |limit, delta| vec![floats("a", &[], &[0.0]), floats("b", &[], &[limit]), floats("c", &[], &[delta])];
    for (limit, delta) in [(1.0e9, 1.0), (3.0e9, 1.0), (1.0e30, 1.0), (-1.0, 1.0)] {
        let text = huge("Range", &["a", "b", "c"], range(limit, delta));
        assert!(text.contains("values; it must have"), "{limit} {delta}: {text}");
    }
    for (limit, delta) in [(1.0, 1.0e-9), (9.0, 0.0), (9.0, 0.5), (0.5, 1.0), (9.0, -1.0), (f32::INFINITY, 1.0)] {
        let text = huge("Range", &["a", "b", "c"], range(limit, delta));
        assert!(text.contains("it counts from 0 to"), "{limit} {delta}: {text}");
    }
    for sizes in [&[1 << 30][..], &[1 << 15, 1 << 15], &[1 << 62], &[1 << 31, 1 << 33], &[i64::MAX, 2]] {
        let text = huge("ConstantOfShape", &["n"], vec![shape(sizes)]);
        println!("{sizes:?}: {text}");
        let text = huge("Expand", &["one", "n"], vec![shape(sizes), floats("one", &[1], &[1.0])]);
        println!("{sizes:?}: {text}");
        let ones = floats("one", &vec![1; sizes.len()], &[1.0]);
        let text = huge("Tile", &["one", "n"], vec![shape(sizes), ones]);
        println!("{sizes:?}: {text}");
    }
}

#[test]
fn operators_and_versions_that_are_not_known() {
    for op in ["If", "Loop", "Scan", "LSTM", "DFT", "RandomNormal", "NonZero", "TreeEnsembleClassifier", "Nope"] {
        let text = refused(&model(vec![node(op, &["x"], "y", vec![])], vec![]));
        assert!(text.contains("not supported"), "{op}: {text}");
    }
    for version in [0, 6, 26, 1000, i64::MAX, -1] {
        let mut model = model(vec![node("Relu", &["x"], "y", vec![])], vec![]);
        model.opset_import[0].version = version;
        let text = refused(&model);
        assert!(text.contains(&format!("version {version} of")), "{text}");
    }
}

#[test]
fn loading_ends_when_its_time_is_over_or_it_is_cancelled() {
    let small = model(vec![node("Relu", &["x"], "y", vec![])], vec![]);
    assert!(load_within(&small, &[1, 4, 6, 6], &LoadLimits::default()).is_ok());
    let error = load_within(&small, &[1, 4, 6, 6], &LoadLimits::default().with_time(Duration::ZERO)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Engine);
    assert!(error.to_string().contains("time that loading may take"), "{error}");
    let cancel = Cancel::new();
    cancel.cancel();
    let error = load_within(&small, &[1, 4, 6, 6], &LoadLimits::default().with_cancel(cancel)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

/// Chains of two thirds of the nodes of the largest graphs of the family. The importer's time grows with the square of
/// the nodes: some seconds each here.
#[test]
fn long_graphs_load_in_little_time() {
    for op in ["Relu", "Identity", "Neg"] {
        const COUNT: usize = 2000;
        let name = |i: usize| match i {
            0 => "x".to_owned(),
            COUNT => "y".to_owned(),
            i => format!("v{i}"),
        };
        let nodes = (0..COUNT).map(|i| node(op, &[&name(i)], &name(i + 1), vec![])).collect();
        let start = Instant::now();
        let session = load_within(&model(nodes, vec![]), &[1, 4, 6, 6], &LoadLimits::default());
        println!("{op}: {:?}", start.elapsed());
        assert!(session.is_ok(), "{op}: {}", session.err().unwrap());
        assert!(start.elapsed() < 3 * LONG, "{op}: {:?}", start.elapsed());
    }
}

/// Numbers from a seed: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// Changes a graph in one place: another edge, attribute, operator, or shape of a weight.
fn damage(graph: &mut GraphProto, numbers: &mut Numbers) {
    const EXTREME: [i64; 12] = [0, 1, -1, 2, 3, 7, 64, 1 << 20, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
    let mut names: Vec<String> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    names.extend(graph.input.iter().map(|v| v.name.clone()));
    let at = numbers.below(graph.node.len());
    names.extend(graph.node[..at].iter().flat_map(|n| n.output.clone()));
    let types: Vec<String> = graph.node.iter().map(|n| n.op_type.clone()).collect();
    let node = &mut graph.node[at];
    match numbers.below(6) {
        0 | 1 => {
            let place = numbers.below(node.input.len());
            if let Some(input) = node.input.get_mut(place) {
                *input = names[numbers.below(names.len())].clone();
            }
        }
        2 => {
            let place = numbers.below(node.attribute.len());
            if let Some(attribute) = node.attribute.get_mut(place) {
                attribute.i = EXTREME[numbers.below(EXTREME.len())];
                let place = numbers.below(attribute.ints.len());
                if let Some(value) = attribute.ints.get_mut(place) {
                    *value = EXTREME[numbers.below(EXTREME.len())];
                }
            }
        }
        3 => node.op_type = types[numbers.below(types.len())].clone(),
        4 => {
            node.attribute.clear();
        }
        _ => {
            let place = numbers.below(graph.initializer.len());
            if let Some(tensor) = graph.initializer.get_mut(place) {
                let small = tensor.data_type == DataType::Int64 as i32;
                let place = numbers.below(tensor.dims.len());
                if let Some(dim) = tensor.dims.get_mut(place).filter(|_| !small) {
                    *dim = EXTREME[numbers.below(EXTREME.len())];
                }
                let value = EXTREME[numbers.below(EXTREME.len())];
                if small && tensor.raw_data.len() >= 8 {
                    tensor.raw_data[..8].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
}

/// Graphs of the family, changed in some places. How many: `MASKGIT_HOSTILE`, a few hundred unless set.
#[test]
fn damaged_graphs_end() {
    let count = std::env::var("MASKGIT_HOSTILE").ok().and_then(|n| n.parse().ok()).unwrap_or(300u64);
    let first = std::env::var("MASKGIT_HOSTILE_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0u64);
    let mut graphs = Vec::new();
    for folder in ["tiny", "small/avatars", "small/google", "small/halton"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(folder);
        let bundle = maskgit_bundle::Bundle::open(&folder).unwrap();
        let manifest = bundle.manifest();
        let (n, side) = (manifest.tokens(), manifest.image.width as usize);
        let tokens = Port::new("tokens", DType::I64, &[1, n]);
        let image = Port::new("image", DType::F32, &[1, 3, side, side]);
        let label = Port::new("label", DType::I64, &[1]);
        let logits = Port::new("logits", DType::F32, &[1, n, manifest.codes]);
        for (name, inputs, outputs) in [
            ("transformer", vec![tokens.clone(), label], vec![logits]),
            ("decoder", vec![tokens.clone()], vec![image.clone()]),
            ("encoder", vec![image], vec![tokens]),
        ] {
            let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
            graphs.push((bytes, Signature { inputs, outputs }));
        }
    }
    let engine = CpuEngine::new(1).unwrap();
    let (mut loaded, mut slowest) = (0, Duration::ZERO);
    for seed in first..first + count {
        let mut numbers = Numbers(seed);
        let (bytes, signature) = &graphs[numbers.below(graphs.len())];
        let mut model = ModelProto::decode(bytes.as_slice()).unwrap();
        let graph = model.graph.as_mut().unwrap();
        for _ in 0..1 + numbers.below(3) {
            damage(graph, &mut numbers);
        }
        let start = Instant::now();
        let result = engine.load(&Source::from(model.encode_to_vec()), signature, &LoadLimits::default());
        loaded += u64::from(result.is_ok());
        slowest = slowest.max(start.elapsed());
        assert!(start.elapsed() < LONG, "seed {seed}: {:?}", start.elapsed());
    }
    println!("{count} graphs, {loaded} loaded; the slowest took {slowest:?}");
    assert!((1..count).contains(&loaded), "{loaded} of {count} loaded");
}
