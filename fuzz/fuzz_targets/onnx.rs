//! Changes of an ONNX file that leave it one: other operators, attributes, sizes, weights and wires. Changed bytes
//! hardly ever are an ONNX file, and get no farther than its parser.

use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// Operators with something to get wrong.
#[rustfmt::skip]
const OPERATORS: [&str; 72] = [
    "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvInteger", "ConvTranspose", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
    "DynamicQuantizeLinear", "Einsum", "Equal", "Erf", "Expand", "EyeLike", "Flatten", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GroupNormalization", "Hardmax", "Identity",
    "InstanceNormalization", "LRN", "LayerNormalization", "LogSoftmax", "LpNormalization", "MatMul", "MatMulInteger",
    "Max", "MaxPool", "Mod", "Mul", "NonZero", "OneHot", "PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization",
    "Range", "ReduceL2", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "ScatterElements", "ScatterND",
    "Shape", "Sigmoid", "Slice", "Softmax", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose",
    "Unsqueeze", "Where",
];

/// Attributes that operators have: single integers, lists of them, texts.
#[rustfmt::skip]
const INT: [&str; 20] = [
    "axis", "keepdims", "group", "blocksize", "ceil_mode", "to", "allowzero", "batch_dims", "k", "num_outputs",
    "num_groups", "transA", "transB", "exclusive", "reverse", "storage_order", "stash_type", "size", "start", "end",
];
#[rustfmt::skip]
const INTS: [&str; 10] = [
    "axes", "kernel_shape", "strides", "pads", "dilations", "perm", "shape", "split", "output_padding", "value_ints",
];
const TEXT: [(&str, &[&str]); 6] = [
    ("auto_pad", &["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"]),
    ("mode", &["nearest", "linear", "cubic", "constant", "reflect", "edge", "wrap", "DCR", "CRD"]),
    ("equation", &["ij,jk->ik", "bij,bjk->bik", "i->ii", "ii->i", "...ij->...ji", "abc->"]),
    ("coordinate_transformation_mode", &["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"]),
    ("nearest_mode", &["floor", "round_prefer_floor", "ceil"]),
    ("approximate", &["tanh", "none"]),
];

/// Numbers at the edges of what is checked.
#[rustfmt::skip]
const EDGES: [i64; 22] = [
    0, 1, -1, 2, -2, 3, -3, 4, -4, 5, 6, 7, 8, 16, 255, 1 << 16, 1 << 20, 1 << 30, 1 << 31, -(1 << 31), i64::MAX,
    i64::MIN,
];

/// Puts what was made into the fuzzer's buffer, where it fits in.
pub fn put(data: &mut [u8], max_size: usize, made: Option<Vec<u8>>) -> Option<usize> {
    let made = made.filter(|made| made.len() <= max_size.min(data.len()))?;
    data[..made.len()].copy_from_slice(&made);
    Some(made.len())
}

/// An ONNX file with one to four changes; `None` when these are not the bytes of one.
pub fn mutated(bytes: &[u8], seed: u64) -> Option<Vec<u8>> {
    let mut model = ModelProto::decode(bytes).ok()?;
    let graph = model.graph.as_mut().filter(|graph| !graph.node.is_empty())?;
    let mut dice = Dice(seed);
    for _ in 0..=dice.below(4) {
        change(graph, &mut dice);
    }
    if dice.below(50) == 0
        && let Some(opset) = model.opset_import.first_mut()
    {
        opset.version = 7 + dice.below(17) as i64;
    }
    Some(model.encode_to_vec())
}

/// Numbers that follow from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    /// 0 to `end` - 1; 0 when that is nothing.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 16) as usize % end.max(1)
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// Mostly what a small graph has, sometimes an edge.
    fn number(&mut self) -> i64 {
        if self.below(3) == 0 { self.of(&EDGES) } else { self.below(7) as i64 - 1 }
    }

    fn numbers(&mut self) -> Vec<i64> {
        (0..self.below(6)).map(|_| self.number()).collect()
    }
}

fn change(graph: &mut GraphProto, dice: &mut Dice) {
    let place = dice.below(graph.node.len());
    let names = names(graph);
    match dice.below(12) {
        0 => graph.node[place].op_type = dice.of(&OPERATORS).into(),
        1..=3 => attribute(&mut graph.node[place], dice),
        4 => {
            let node = &mut graph.node[place];
            let input = dice.below(node.input.len());
            if let Some(input) = node.input.get_mut(input) {
                *input = names[dice.below(names.len())].clone();
            }
        }
        5 => {
            let node = &mut graph.node[place];
            if dice.below(2) == 0 {
                node.input.pop();
            } else {
                node.input.push(if dice.below(4) == 0 {
                    String::new()
                } else {
                    names[dice.below(names.len())].clone()
                });
            }
        }
        6 | 7 => weight(graph, dice),
        8 => {
            graph.initializer.push(made_weight(format!("w{}", names.len()), dice));
        }
        9 if graph.node.len() > 1 => drop(graph.node.remove(place)),
        _ => insert(graph, place, &names, dice),
    }
}

/// All values that a node may read.
fn names(graph: &GraphProto) -> Vec<String> {
    let weights = graph.initializer.iter().map(|weight| weight.name.clone());
    let inputs = graph.input.iter().map(|input| input.name.clone());
    weights.chain(inputs).chain(graph.node.iter().flat_map(|node| node.output.clone())).collect()
}

/// A new node between a value and one who reads it.
fn insert(graph: &mut GraphProto, place: usize, names: &[String], dice: &mut Dice) {
    let output = format!("n{}", names.len());
    let reader = &mut graph.node[place];
    let input = dice.below(reader.input.len());
    let Some(wire) = reader.input.get_mut(input) else { return };
    let first = std::mem::replace(wire, output.clone());
    let others: Vec<String> = (0..dice.below(4)).map(|_| names[dice.below(names.len())].clone()).collect();
    let mut node = NodeProto {
        op_type: dice.of(&OPERATORS).into(),
        input: std::iter::once(first).chain(others).collect(),
        output: vec![output],
        ..Default::default()
    };
    // What operators read beside their first input are mostly small weights.
    for place in 1..node.input.len() {
        if dice.below(3) > 0 {
            let weight = made_weight(format!("w{}_{place}", names.len()), dice);
            node.input[place].clone_from(&weight.name);
            graph.initializer.push(weight);
        }
    }
    for _ in 0..dice.below(3) {
        attribute(&mut node, dice);
    }
    graph.node.insert(place, node);
}

/// Another value of an attribute that is there, or one more.
fn attribute(node: &mut NodeProto, dice: &mut Dice) {
    let place = dice.below(node.attribute.len());
    let chosen = dice.below(5);
    if let Some(there) = node.attribute.get_mut(place).filter(|_| chosen > 1) {
        let item = dice.below(there.ints.len());
        match (chosen, there.ints.get_mut(item)) {
            (2, Some(item)) => *item = dice.number(),
            (3, Some(_)) => there.ints.truncate(item),
            (_, Some(_)) => there.ints.push(dice.number()),
            _ if there.r#type == AttributeType::Int as i32 => there.i = dice.number(),
            _ if there.r#type == AttributeType::Float as i32 => there.f = dice.number() as f32,
            _ => drop(node.attribute.remove(place)),
        }
        return;
    }
    let mut made = AttributeProto::default();
    match dice.below(5) {
        0 | 1 => {
            (made.name, made.r#type) = (dice.of(&INT).into(), AttributeType::Int as i32);
            made.i = dice.number();
        }
        2 | 3 => {
            (made.name, made.r#type) = (dice.of(&INTS).into(), AttributeType::Ints as i32);
            made.ints = dice.numbers();
        }
        _ => {
            let (name, values) = dice.of(&TEXT);
            (made.name, made.r#type) = (name.into(), AttributeType::String as i32);
            made.s = dice.of(values).into();
        }
    }
    node.attribute.retain(|other| other.name != made.name);
    node.attribute.push(made);
}

/// Another shape or other numbers of a weight.
fn weight(graph: &mut GraphProto, dice: &mut Dice) {
    let place = dice.below(graph.initializer.len());
    let Some(weight) = graph.initializer.get_mut(place) else { return };
    match dice.below(4) {
        0 => {
            let axis = dice.below(weight.dims.len());
            match weight.dims.get_mut(axis) {
                Some(size) => *size = dice.number(),
                None => weight.dims.push(1),
            }
        }
        1 => {
            let byte = dice.below(weight.raw_data.len());
            let bytes = &mut weight.raw_data;
            if !bytes.is_empty() {
                // A number of eight bytes, where the weight has such.
                let start = byte / 8 * 8;
                let number = dice.number().to_le_bytes();
                let mut changed = bytes.to_vec();
                changed.iter_mut().skip(start).zip(number).for_each(|(to, from)| *to = from);
                *bytes = changed.into();
            } else if let Some(number) = weight.int64_data.first_mut() {
                *number = dice.number();
            }
        }
        2 => weight.data_type = dice.of(&[1, 2, 3, 6, 7, 9, 10, 11]),
        _ => {
            let name = weight.name.clone();
            *weight = made_weight(name, dice);
        }
    }
}

fn made_weight(name: String, dice: &mut Dice) -> TensorProto {
    let dims: Vec<i64> = (0..dice.below(4)).map(|_| dice.below(5) as i64).collect();
    let count = dims.iter().product::<i64>() as usize;
    let mut made = TensorProto { name, dims, ..Default::default() };
    match dice.below(3) {
        0 => {
            made.data_type = DataType::Float as i32;
            made.float_data = (0..count).map(|_| dice.number() as f32).collect();
        }
        _ => {
            made.data_type = DataType::Int64 as i32;
            made.int64_data = (0..count).map(|_| dice.number()).collect();
        }
    }
    made
}
