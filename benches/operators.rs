//! `cargo bench --bench operators`: each fused operator on the shapes of the ImageNet-256 architecture, through the
//! engine, one thread.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use maskgit_core::{LoadLimits, Source};
use maskgit_engine::{CpuEngine, DType, Engine, Port, Session, Signature};
use ndarray::ArrayView;
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TypeProto, ValueInfoProto,
    type_proto,
};

/// An ONNX graph in the making; every node's output carries its number as name.
struct Graph {
    graph: GraphProto,
    /// The name of the latest value.
    last: String,
    int8: bool,
}

impl Graph {
    fn new(int8: bool) -> Self {
        let input = float_value("x");
        let graph = GraphProto { name: "operator".into(), input: vec![input], ..Default::default() };
        Self { graph, last: "x".into(), int8 }
    }

    fn node(mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Self {
        let output = format!("v{}", self.graph.node.len());
        let input = inputs.iter().map(|&name| if name.is_empty() { self.last.clone() } else { name.into() }).collect();
        self.graph.node.push(NodeProto {
            input,
            output: vec![output.clone()],
            name: output.clone(),
            op_type: op.into(),
            attribute: attributes,
            ..Default::default()
        });
        self.last = output;
        self
    }

    fn constant(mut self, name: &str, shape: &[i64], data_type: DataType, raw_data: Vec<u8>) -> Self {
        let (name, dims) = (name.into(), shape.to_vec());
        self.graph.initializer.push(TensorProto {
            name,
            dims,
            data_type: data_type as i32,
            raw_data,
            ..Default::default()
        });
        self
    }

    fn floats(self, name: &str, shape: &[i64]) -> Self {
        let raw = numbers(shape.iter().product::<i64>() as usize).iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, shape, DataType::Float, raw)
    }

    /// The weights of a product, in int8 behind `DequantizeLinear` where they are asked for so; columns along `axis`.
    fn weights(mut self, name: &str, shape: &[i64], axis: i64) -> Self {
        if !self.int8 {
            return self.floats(name, shape);
        }
        let before = self.last.clone();
        let len = shape.iter().product::<i64>();
        let raw = (0..len).map(|i| (i * 37 % 255 - 127) as i8 as u8).collect();
        let (levels, scales) = (format!("{name}.levels"), format!("{name}.scales"));
        let columns = shape[axis as usize];
        self = self
            .constant(&levels, shape, DataType::Int8, raw)
            .constant(
                &scales,
                &[columns],
                DataType::Float,
                std::iter::repeat_n(0.01f32.to_le_bytes(), columns as usize).flatten().collect(),
            )
            .node("DequantizeLinear", &[&levels, &scales], vec![int("axis", axis)]);
        if let Some(node) = self.graph.node.last_mut() {
            node.output = vec![name.into()];
        }
        self.last = before;
        self
    }

    fn load(mut self, input: &[usize], output: &[usize]) -> Box<dyn Session> {
        self.graph.output = vec![float_value(&self.last)];
        let signature = Signature {
            inputs: vec![Port::new("x", DType::F32, input)],
            outputs: vec![Port::new(self.last.clone(), DType::F32, output)],
        };
        let opset = OperatorSetIdProto { domain: String::new(), version: 20 };
        let model =
            ModelProto { ir_version: 9, opset_import: vec![opset], graph: Some(self.graph), ..Default::default() };
        CpuEngine::new(1)
            .and_then(|engine| engine.load(&Source::from(model.encode_to_vec()), &signature, &LoadLimits::default()))
            .unwrap_or_else(|e| panic!("{e:#}"))
    }
}

fn float_value(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, ..Default::default() };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(r#type), ..Default::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i, r#type: AttributeType::Int as i32, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: AttributeType::Ints as i32, ..Default::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f, r#type: AttributeType::Float as i32, ..Default::default() }
}

fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: s.into(), r#type: AttributeType::String as i32, ..Default::default() }
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) * 0.5).collect()
}

/// Times a graph; `operators` must be among what the engine makes of it.
fn bench(
    c: &mut Criterion,
    name: &str,
    graph: Graph,
    (input, output): (&[usize], &[usize]),
    operator: &str,
    work: usize,
) {
    let mut session = graph.load(input, output);
    let found = session.describe();
    assert!(found.iter().any(|o| o.name == operator), "{name}: {operator} is not among {found:?}");
    let data = numbers(input.iter().product());
    let data = ArrayView::from_shape(input, &data).unwrap_or_else(|e| panic!("{e}"));
    let mut group = c.benchmark_group("operators");
    group.throughput(Throughput::Elements(work as u64));
    group.bench_function(name, |b| b.iter(|| session.run(&[data.clone().into()])));
    group.finish();
}

/// Throughput is in multiply-adds for products, in numbers for norms.
fn benches(c: &mut Criterion) {
    for int8 in [false, true] {
        let precision = if int8 { "int8" } else { "fp32" };
        for (inner, columns) in [(768usize, 768usize), (768, 3072), (3072, 768)] {
            let graph = Graph::new(int8)
                .weights("w", &[inner as i64, columns as i64], 1)
                .floats("b", &[columns as i64])
                .node("MatMul", &["", "w"], vec![])
                .node("Add", &["", "b"], vec![])
                .node("Gelu", &[""], vec![]);
            let name = format!("linear, bias, GELU {inner} to {columns}, 257 rows, {precision}");
            bench(c, &name, graph, (&[1, 257, inner], &[1, 257, columns]), "Linear", 257 * inner * columns);
        }
        for (size, channels) in [(16usize, 512usize), (64, 256), (128, 128)] {
            let n = channels as i64;
            let graph = Graph::new(int8).weights("w", &[n, n, 3, 3], 0).floats("b", &[n]).node(
                "Conv",
                &["", "w", "b"],
                vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])],
            );
            let shape = [1, channels, size, size];
            let work = size * size * channels * channels * 9;
            bench(
                c,
                &format!("3x3 convolution of {channels} channels, {size}x{size}, {precision}"),
                graph,
                (&shape, &shape),
                "Conv2d",
                work,
            );
        }
        let graph = Graph::new(int8)
            .constant(
                "sizes",
                &[4],
                DataType::Float,
                [1f32, 1.0, 2.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
            .constant("empty", &[0], DataType::Float, vec![])
            .weights("w", &[128, 128, 3, 3], 0)
            .floats("b", &[128])
            .node(
                "Resize",
                &["", "empty", "sizes"],
                vec![
                    text("mode", "nearest"),
                    text("coordinate_transformation_mode", "asymmetric"),
                    text("nearest_mode", "floor"),
                ],
            )
            .node("Conv", &["", "w", "b"], vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])]);
        let (from, to) = ([1, 128, 64, 64], [1, 128, 128, 128]);
        let name = format!("nearest upsampling and 3x3 convolution of 128 channels to 128x128, {precision}");
        bench(c, &name, graph, (&from, &to), "Conv2d", 128 * 128 * 128 * 128 * 9);
    }
    let graph = Graph::new(false)
        .constant("parts", &[5], DataType::Int64, [1i64, 257, 3, 12, 64].iter().flat_map(|v| v.to_le_bytes()).collect())
        .node("Reshape", &["", "parts"], vec![])
        .node("Transpose", &[""], vec![ints("perm", &[2, 0, 3, 1, 4])]);
    let of = graph.last.clone();
    let slice = |graph: Graph, which: i64, name: &str| {
        let index = which.to_le_bytes().to_vec();
        let mut graph =
            graph.constant(name, &[], DataType::Int64, index).node("Gather", &[&of, name], vec![int("axis", 0)]);
        let last = format!("part{which}");
        if let Some(node) = graph.graph.node.last_mut() {
            node.output = vec![last];
        }
        graph
    };
    let graph = slice(slice(slice(graph, 0, "i0"), 1, "i1"), 2, "i2");
    let scale = 0.125f32.to_le_bytes().to_vec();
    let graph = graph.constant("scale", &[], DataType::Float, scale).node(
        "Transpose",
        &["part1"],
        vec![ints("perm", &[0, 1, 3, 2])],
    );
    let keys = graph.last.clone();
    let graph = graph
        .node("MatMul", &["part0", &keys], vec![])
        .node("Mul", &["", "scale"], vec![])
        .node("Softmax", &[""], vec![int("axis", -1)])
        .node("MatMul", &["", "part2"], vec![]);
    let work = 2 * 257 * 257 * 768;
    bench(c, "attention, 12 heads of 64, 257 tokens", graph, (&[1, 257, 2304], &[1, 12, 257, 64]), "Attention", work);
    let graph = Graph::new(false).floats("gamma", &[768]).floats("beta", &[768]).node(
        "LayerNormalization",
        &["", "gamma", "beta"],
        vec![int("axis", -1), float("epsilon", 1e-6)],
    );
    bench(c, "layer norm of 768, 257 rows", graph, (&[1, 257, 768], &[1, 257, 768]), "RowNorm", 257 * 768);
    // As PyTorch exports it.
    let whole = |sizes: &[i64]| sizes.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let same = |value: f32| std::iter::repeat_n(value.to_le_bytes(), 32).flatten().collect::<Vec<u8>>();
    let graph = Graph::new(false)
        .constant("groups", &[3], DataType::Int64, whole(&[0, 32, -1]))
        .constant("back", &[4], DataType::Int64, whole(&[1, 128, 128, 128]))
        .constant("ones", &[32], DataType::Float, same(1.0))
        .constant("zeros", &[32], DataType::Float, same(0.0))
        .floats("gamma", &[128, 1, 1])
        .floats("beta", &[128, 1, 1])
        .node("Reshape", &["", "groups"], vec![])
        .node("InstanceNormalization", &["", "ones", "zeros"], vec![float("epsilon", 1e-6)])
        .node("Reshape", &["", "back"], vec![])
        .node("Mul", &["", "gamma"], vec![])
        .node("Add", &["", "beta"], vec![]);
    let normed = graph.last.clone();
    let graph = graph.node("Sigmoid", &[""], vec![]);
    let graph = graph.node("Mul", &[&normed, ""], vec![]);
    let shape = [1, 128, 128, 128];
    bench(
        c,
        "group norm of 32 groups and SiLU, 128 channels, 128x128",
        graph,
        (&shape, &shape),
        "GroupNorm",
        128 * 128 * 128,
    );
}

criterion_group!(all, benches);
criterion_main!(all);
