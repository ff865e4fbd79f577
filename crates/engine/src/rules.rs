//! Which of ONNX's operators a graph may have, and what their attributes may be.
//!
//! What is known without the shapes (lists of sizes, kernels, groups) is checked when the file is read, what depends on
//! ranks (axes, permutations) when they are known. Both follow ONNX's operator specification: an axis of a tensor of r
//! axes is -r to r - 1.

use tract_onnx::pb::{AttributeProto, NodeProto};
use tract_onnx::tract_hir::internal::*;

/// Element by element, or without attributes that could be out of range.
const PLAIN: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BatchNormalization",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Constant",
    "ConstantLike",
    "ConstantOfShape",
    "Cos",
    "Cosh",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Floor",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "MatMul",
    "MatMulInteger",
    "Max",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "ParametricSoftplus",
    "Pow",
    "QLinearMatMul",
    "Range",
    "Reciprocal",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "Rsqrt",
    "ScaledTanh",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "Trilu",
    "Where",
    "Xor",
];

/// With one axis of the first input, and what it is where the node does not say.
const ONE_AXIS: &[(&str, i64)] = &[
    ("ArgMax", 0),
    ("ArgMin", 0),
    ("Concat", 0),
    ("Gather", 0),
    ("GatherElements", 0),
    ("Hardmax", -1),
    ("LayerNormalization", -1),
    ("LogSoftmax", -1),
    ("LpNormalization", -1),
    ("RMSNormalization", -1),
    ("Scatter", 0),
    ("ScatterElements", 0),
    ("Softmax", -1),
    ("Split", 0),
    ("TopK", -1),
];

/// With axes of the first input, in an attribute or in the input at this place.
const AXES: &[(&str, usize)] = &[
    ("ReduceL1", 1),
    ("ReduceL2", 1),
    ("ReduceLogSum", 1),
    ("ReduceLogSumExp", 1),
    ("ReduceMax", 1),
    ("ReduceMean", 1),
    ("ReduceMin", 1),
    ("ReduceProd", 1),
    ("ReduceSum", 1),
    ("ReduceSumSquare", 1),
    ("Slice", 3),
    ("Squeeze", 1),
    ("CumSum", 1),
    ("Pad", 3),
];

/// Over windows of an image.
const WINDOWS: &[&str] = &["AveragePool", "Conv", "ConvInteger", "ConvTranspose", "MaxPool", "QLinearConv"];

/// With a rule of their own below.
const OTHERS: &[&str] = &[
    "Attention",
    "DepthToSpace",
    "DequantizeLinear",
    "Flatten",
    "GatherND",
    "GroupNormalization",
    "OneHot",
    "QuantizeLinear",
    "RotaryEmbedding",
    "ScatterND",
    "SpaceToDepth",
    "Transpose",
    "Unsqueeze",
];

/// The longest list in an attribute, but for the values of constants.
const MAX_LIST: usize = 64;
/// The largest stride, dilation or padding, and the largest side of a pooling window.
const MAX_WINDOW: i64 = 1 << 14;
/// The most places of a pooling window.
const MAX_KERNEL: i64 = 1 << 20;
/// The most values of a Range.
const MAX_RANGE: f64 = 16_777_216.0;
/// The longest equation of an Einsum in bytes.
const MAX_EQUATION: usize = 256;

/// Whether a graph may have the operator.
pub(super) fn is_known(op_type: &str) -> bool {
    PLAIN.contains(&op_type)
        || WINDOWS.contains(&op_type)
        || OTHERS.contains(&op_type)
        || ONE_AXIS.iter().any(|&(name, _)| name == op_type)
        || AXES.iter().any(|&(name, _)| name == op_type)
}

/// The number of elements; none where that overflows or is not known.
pub(super) fn volume(shape: &[TDim]) -> Option<usize> {
    shape.iter().try_fold(1usize, |volume, dim| volume.checked_mul(dim.to_usize().ok()?))
}

/// Checks what does not depend on shapes; the error goes on after the node's name.
pub(super) fn check(node: &NodeProto) -> Result<(), String> {
    for attribute in &node.attribute {
        let is_value = node.op_type == "Constant";
        let length = attribute.ints.len().max(attribute.floats.len()).max(attribute.strings.len());
        if length > MAX_LIST && !is_value {
            return Err(format!(": its attribute \"{}\" has {length} values", attribute.name));
        }
        if attribute.name == "equation" && attribute.s.len() > MAX_EQUATION {
            return Err(format!(": its equation is longer than {MAX_EQUATION} bytes"));
        }
        within(attribute, "group", 1..=1 << 20)?;
        within(attribute, "num_groups", 1..=1 << 20)?;
        within(attribute, "blocksize", 1..=1 << 10)?;
        within(attribute, "num_heads", 0..=1 << 16)?;
        within(attribute, "q_num_heads", 0..=1 << 16)?;
        within(attribute, "kv_num_heads", 0..=1 << 16)?;
        within(attribute, "rotary_embedding_dim", 0..=1 << 16)?;
        within(attribute, "batch_dims", 0..=8)?;
        within(attribute, "num_outputs", 1..=1 << 16)?;
        if node.op_type == "LRN" {
            within(attribute, "size", 1..=MAX_WINDOW)?;
        }
    }
    if WINDOWS.contains(&node.op_type.as_str()) { windows(node) } else { Ok(()) }
}

/// Checks an integer attribute, if it is this one.
fn within(attribute: &AttributeProto, name: &str, range: std::ops::RangeInclusive<i64>) -> Result<(), String> {
    if attribute.name != name || range.contains(&attribute.i) {
        return Ok(());
    }
    Err(format!(": its {name} is {}; it must be {} to {}", attribute.i, range.start(), range.end()))
}

/// The lists of a convolution or of a pooling.
fn windows(node: &NodeProto) -> Result<(), String> {
    let list = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.as_slice());
    let mut rank = None;
    for (name, least, sides) in [
        ("kernel_shape", 1, 1),
        ("strides", 1, 1),
        ("dilations", 1, 1),
        ("pads", 0, 2),
        ("output_padding", 0, 1),
        ("output_shape", 1, 1),
    ] {
        let Some(values) = list(name) else { continue };
        if let Some(value) = values.iter().find(|value| !(least..=MAX_WINDOW).contains(*value)) {
            return Err(format!(": its {name} has {value}; it must be {least} to {MAX_WINDOW}"));
        }
        let axes = values.len() / sides;
        if !values.len().is_multiple_of(sides) || axes == 0 || rank.is_some_and(|rank| rank != axes) {
            return Err(format!(": its {name} has {} values, which its other attributes have not", values.len()));
        }
        rank = Some(axes);
    }
    let kernel = list("kernel_shape").unwrap_or_default();
    match kernel.iter().try_fold(1i64, |places, &side| places.checked_mul(side)) {
        Some(places) if places <= MAX_KERNEL => Ok(()),
        _ => Err(format!(": its window {kernel:?} has more than {MAX_KERNEL} places")),
    }
}

/// A node's operator and those attributes that a rule may ask for.
#[derive(Debug)]
pub(super) struct Attributes {
    op_type: String,
    attributes: Vec<AttributeProto>,
    /// Which of the node's inputs are there: the others have no name.
    present: Vec<bool>,
}

impl Attributes {
    /// Those of a node, without tensors.
    pub(super) fn new(node: &NodeProto) -> Self {
        let small = |a: &&AttributeProto| a.t.is_none() && a.ints.len() <= MAX_LIST && a.s.len() <= MAX_EQUATION;
        Self {
            op_type: node.op_type.clone(),
            attributes: node.attribute.iter().filter(small).cloned().collect(),
            present: node.input.iter().map(|name| !name.is_empty()).collect(),
        }
    }

    /// Whether the operator multiplies all of one input with all of another.
    pub(super) fn is_product(&self) -> bool {
        let product = matches!(self.op_type.as_str(), "Gemm" | "MatMul" | "MatMulInteger" | "QLinearMatMul" | "Einsum");
        product || (WINDOWS.contains(&self.op_type.as_str()) && !self.op_type.ends_with("Pool"))
    }

    fn integer(&self, name: &str) -> Option<i64> {
        self.attributes.iter().find(|a| a.name == name).map(|a| a.i)
    }

    fn list(&self, name: &str) -> Option<&[i64]> {
        self.attributes.iter().find(|a| a.name == name).map(|a| a.ints.as_slice())
    }

    /// The fact of the node's input at a place, where it has one.
    fn input<'a>(&self, place: usize, facts: &[&'a InferenceFact]) -> Option<&'a InferenceFact> {
        if !*self.present.get(place)? {
            return None;
        }
        let before = self.present.iter().take(place).filter(|&&present| present).count();
        facts.get(before).copied()
    }

    /// The integers of an input, where they are known.
    fn values(&self, place: usize, facts: &[&InferenceFact]) -> Option<Vec<i64>> {
        let tensor = self.input(place, facts)?.value.concretize()?;
        let tensor = tensor.cast_to::<i64>().ok()?;
        tensor.to_plain_array_view::<i64>().ok().map(|view| view.iter().copied().collect())
    }

    /// Checks the attributes against what is known of the inputs.
    pub(super) fn check(&self, facts: &[&InferenceFact]) -> Result<(), String> {
        let op_type = self.op_type.as_str();
        if matches!(op_type, "Gather" | "GatherElements" | "GatherND" | "Scatter" | "ScatterElements" | "ScatterND")
            && let Some(dtype) = self.input(1, facts).and_then(|fact| fact.datum_type.concretize())
            && !dtype.is_integer()
            && !dtype.is_tdim()
        {
            return Err(format!("its indices are {dtype:?}; they must be integers"));
        }
        let Some(rank) = self.input(0, facts).and_then(rank) else { return Ok(()) };
        if let Some(&(_, default)) = ONE_AXIS.iter().find(|(name, _)| *name == op_type) {
            return axis(self.integer("axis").unwrap_or(default), -rank..rank, rank);
        }
        if let Some(&(_, place)) = AXES.iter().find(|(name, _)| *name == op_type) {
            let axes = self.list("axes").map(<[i64]>::to_vec).or_else(|| self.values(place, facts));
            return self.axes(&axes.unwrap_or_default(), rank);
        }
        match op_type {
            "Range" => self.range(facts),
            "Flatten" => axis(self.integer("axis").unwrap_or(1), -rank..rank + 1, rank),
            "OneHot" => axis(self.integer("axis").unwrap_or(-1), -rank - 1..rank + 1, rank),
            "Transpose" => self.permutation(rank),
            "Unsqueeze" => {
                let axes = self.list("axes").map(<[i64]>::to_vec).or_else(|| self.values(1, facts));
                let axes = axes.unwrap_or_default();
                self.axes(&axes, rank + axes.len() as i64)
            }
            "GatherND" | "ScatterND" => self.coordinates(rank, facts),
            "QuantizeLinear" | "DequantizeLinear" => {
                // One scale for all has no axis.
                let scales = self.input(1, facts).and_then(|fact| fact.shape.concretize());
                let many = scales.is_some_and(|shape| volume(&shape).is_some_and(|volume| volume > 1));
                if many { axis(self.integer("axis").unwrap_or(1), -rank..rank, rank) } else { Ok(()) }
            }
            "DepthToSpace" | "SpaceToDepth" if rank != 4 => Err(format!("it reads {rank} axes; it must be 4")),
            _ if WINDOWS.contains(&op_type) => self.spatial(rank),
            _ => Ok(()),
        }
    }

    fn axes(&self, axes: &[i64], rank: i64) -> Result<(), String> {
        if axes.len() as i64 > rank.max(1) {
            return Err(format!("it has {} axes of {rank}", axes.len()));
        }
        axes.iter().try_for_each(|&one| axis(one, -rank..rank, rank))?;
        let mut places: Vec<_> = axes.iter().map(|&axis| if axis < 0 { axis + rank } else { axis }).collect();
        places.sort_unstable();
        match places.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(format!("it has the axis {} twice", pair.first().unwrap_or(&0))),
            None => Ok(()),
        }
    }

    /// The importer counts in whole steps upwards. A range of sizes that are not known ends up with an unknown size.
    fn range(&self, facts: &[&InferenceFact]) -> Result<(), String> {
        let number = |place| -> Option<f64> {
            let tensor = self.input(place, facts)?.value.concretize()?;
            let tensor = tensor.cast_to::<f64>().ok()?;
            tensor.to_plain_array_view::<f64>().ok()?.first().copied()
        };
        let (Some(start), Some(limit), Some(delta)) = (number(0), number(1), number(2)) else { return Ok(()) };
        if [start, limit, delta].iter().any(|value| value.fract() != 0.0) || delta < 1.0 {
            return Err(format!(
                "it counts from {start} to {limit} in steps of {delta}; whole numbers and steps of 1 or more are supported"
            ));
        }
        let count = ((limit - start) / delta).ceil();
        if (0.0..=MAX_RANGE).contains(&count) {
            return Ok(());
        }
        Err(format!("it has {count} values; it must have 0 to {MAX_RANGE}"))
    }

    fn permutation(&self, rank: i64) -> Result<(), String> {
        let Some(perm) = self.list("perm") else { return Ok(()) };
        let mut sorted = perm.to_vec();
        sorted.sort_unstable();
        let is = sorted.iter().copied().eq(0..rank);
        if is { Ok(()) } else { Err(format!("its perm {perm:?} is no permutation of {rank} axes")) }
    }

    /// Indices of places: `[..., depth]`, depth at most the rank of what they point into.
    fn coordinates(&self, rank: i64, facts: &[&InferenceFact]) -> Result<(), String> {
        let Some(shape) = self.input(1, facts).and_then(|fact| fact.shape.concretize()) else {
            // Of an unknown shape the rank may be known.
            return match self.input(1, facts).and_then(self::rank) {
                Some(0) => Err("its indices are a scalar; they must have an axis".to_owned()),
                _ => Ok(()),
            };
        };
        let batch = self.integer("batch_dims").unwrap_or(0);
        let depth = shape.last().map(|dim| dim.to_i64().unwrap_or(i64::MAX));
        match depth {
            None => Err("its indices are a scalar; they must have an axis".to_owned()),
            Some(_) if batch >= rank.min(shape.len() as i64) => {
                Err(format!("its batch_dims {batch} is not below the axes of its inputs"))
            }
            Some(depth) if !(1..=rank - batch).contains(&depth) => {
                Err(format!("its indices have {depth} coordinates for {} axes", rank - batch))
            }
            Some(_) => Ok(()),
        }
    }

    /// As many values as there are axes beside those of the batch and the channels.
    fn spatial(&self, rank: i64) -> Result<(), String> {
        if rank < 3 {
            return Err(format!("it reads {rank} axes; it must be a batch, channels and at least one more"));
        }
        for (name, sides) in [("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 2)] {
            let Some(values) = self.list(name) else { continue };
            if values.len() as i64 != (rank - 2) * sides {
                return Err(format!("its {name} has {} values for {} axes", values.len(), rank - 2));
            }
        }
        Ok(())
    }
}

fn rank(fact: &InferenceFact) -> Option<i64> {
    fact.shape.rank().concretize()
}

fn axis(axis: i64, range: std::ops::Range<i64>, rank: i64) -> Result<(), String> {
    // A scalar has no axis; along its "axis 0" it is reduced to itself, as ONNX Runtime takes it.
    if range.contains(&axis) || (rank == 0 && matches!(axis, 0 | -1)) {
        return Ok(());
    }
    Err(format!("its axis {axis} does not exist: its input has {rank} axes"))
}
