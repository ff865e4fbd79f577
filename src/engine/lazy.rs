//! Weights that stay in the file until an operator packs them.

use std::collections::HashMap;

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::Source;
use super::fuse::{LazyWeight, Stored};
use super::skeleton::Range;
use crate::error::Result;

/// The operator that stands for a weight. Files cannot have it: they are checked before it is known.
const NAME: &str = "MaskgitWeight";

/// Takes the weights of products out of a model whose large raw data was left out, and puts all other raw data back.
///
/// A weight is taken when only products use it, or look rows of it up: directly, or through `DequantizeLinear` (int8, symmetric) or a
/// `Cast` from fp16 to fp32. In its place comes a node that says where it is.
pub(super) fn take(model: &mut ModelProto, raw: &[Option<Range>], source: &Source) -> Result<()> {
    let Some(graph) = model.graph.as_mut() else { return Ok(()) };
    let read = |(start, len): Range| source.read(start, usize::try_from(len).unwrap_or(usize::MAX));
    // Scales are needed now; weights have two dimensions or more.
    let mut raw = raw.to_vec();
    for (tensor, place) in graph.initializer.iter_mut().zip(&mut raw) {
        if tensor.dims.len() < 2
            && let Some(range) = place.take()
        {
            tensor.raw_data = read(range)?;
        }
    }
    let mut weights = Vec::new();
    let mut kept = Vec::new();
    let plans = plan(graph);
    for (mut tensor, place) in std::mem::take(&mut graph.initializer).into_iter().zip(&raw) {
        let Some((start, len)) = *place else {
            kept.push(tensor);
            continue;
        };
        match plans.get(&tensor.name) {
            Some(plan) if fits(&tensor, len) => weights.push(node(&tensor, start, plan)),
            _ => {
                tensor.raw_data = read((start, len))?;
                kept.push(tensor);
            }
        }
    }
    let taken: Vec<&String> = weights.iter().flat_map(|weight| weight.output.iter()).collect();
    graph.node.retain(|node| !node.output.iter().any(|name| taken.contains(&name)));
    graph.initializer = kept;
    graph.node.splice(0..0, weights);
    Ok(())
}

/// How an initializer becomes a weight.
struct Plan {
    /// The value that the products read.
    output: String,
    /// Of int8 weights: one for all, or one for each place along an axis.
    scales: Option<(Vec<f32>, i64)>,
}

/// For each initializer that can be taken, how.
fn plan(graph: &GraphProto) -> HashMap<String, Plan> {
    let mut readers: HashMap<&str, Vec<(&NodeProto, usize)>> = HashMap::new();
    for node in &graph.node {
        for (place, name) in node.input.iter().enumerate() {
            readers.entry(name.as_str()).or_default().push((node, place));
        }
    }
    let is_output = |name: &str| graph.output.iter().any(|output| output.name == name);
    // A product reads its weights as its second input; a matrix may be cut and transposed before. `Gather` looks rows up.
    let for_operators = |name: &str| {
        let mut names = vec![name];
        // A damaged file may go round in circles.
        for _ in 0..graph.node.len() {
            let Some(name) = names.pop() else { return true };
            let Some(readers) = readers.get(name).filter(|_| !is_output(name)) else { return false };
            for (node, place) in readers {
                match (node.op_type.as_str(), *place) {
                    ("MatMul" | "Gemm" | "Conv", 1) => {}
                    ("Gather", 0) if integer(node, "axis").unwrap_or(0) == 0 => {}
                    ("Transpose" | "Slice", 0) => names.extend(node.output.iter().map(String::as_str)),
                    _ => return false,
                }
            }
        }
        names.is_empty()
    };
    let initializers: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut plans = HashMap::new();
    for tensor in &graph.initializer {
        let name = tensor.name.as_str();
        let kind = DataType::try_from(tensor.data_type);
        if is_output(name) {
            continue;
        }
        if kind == Ok(DataType::Float) && for_operators(name) {
            plans.insert(name.to_owned(), Plan { output: name.to_owned(), scales: None });
        }
        let Some(&[(node, 0)]) = readers.get(name).map(Vec::as_slice) else { continue };
        let [output] = node.output.as_slice() else { continue };
        if !for_operators(output) {
            continue;
        }
        let scales = match (kind, node.op_type.as_str()) {
            (Ok(DataType::Float16), "Cast") if integer(node, "to") == Some(DataType::Float as i64) => None,
            (Ok(DataType::Int8), "DequantizeLinear") => match scales(node, &initializers) {
                Some(scales) => Some(scales),
                None => continue,
            },
            _ => continue,
        };
        plans.insert(name.to_owned(), Plan { output: output.clone(), scales });
    }
    plans
}

fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.i)
}

/// The scales of symmetric int8 weights and their axis.
fn scales(node: &NodeProto, initializers: &HashMap<&str, &TensorProto>) -> Option<(Vec<f32>, i64)> {
    let zero = match node.input.get(2).filter(|name| !name.is_empty()) {
        None => true,
        Some(name) => {
            let zero = initializers.get(name.as_str())?;
            zero.data_type == DataType::Int8 as i32
                && zero.raw_data.iter().all(|&byte| byte == 0)
                && zero.int32_data.iter().all(|&value| value == 0)
        }
    };
    let scale = initializers.get(node.input.get(1)?.as_str())?;
    if !zero || integer(node, "block_size").is_some_and(|size| size != 0) || scale.data_type != DataType::Float as i32 {
        return None;
    }
    let values: Vec<f32> = if scale.raw_data.is_empty() {
        scale.float_data.clone()
    } else {
        scale.raw_data.chunks_exact(4).filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?))).collect()
    };
    let count: i64 = scale.dims.iter().product();
    (values.len() as i64 == count && count > 0).then(|| (values, integer(node, "axis").unwrap_or(1)))
}

/// Whether the raw data has the size that the type and the shape ask for.
fn fits(tensor: &TensorProto, len: u64) -> bool {
    let size = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => 4,
        Ok(DataType::Float16) => 2,
        Ok(DataType::Int8) => 1,
        _ => return false,
    };
    let volume = tensor.dims.iter().try_fold(size, |a: u64, &d| a.checked_mul(u64::try_from(d).ok()?));
    volume == Some(len)
}

/// The node that stands for a weight.
fn node(tensor: &TensorProto, start: u64, plan: &Plan) -> NodeProto {
    use tract_onnx::pb::AttributeProto;
    use tract_onnx::pb::attribute_proto::AttributeType;
    let ints = |name: &str, ints: Vec<i64>| AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints,
        ..AttributeProto::default()
    };
    let int = |name: &str, i: i64| AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i,
        ..AttributeProto::default()
    };
    let mut attribute =
        vec![ints("shape", tensor.dims.clone()), int("start", start as i64), int("type", tensor.data_type.into())];
    if let Some((scales, axis)) = &plan.scales {
        attribute.push(int("axis", *axis));
        attribute.push(AttributeProto {
            name: "scales".to_owned(),
            r#type: AttributeType::Floats as i32,
            floats: scales.clone(),
            ..AttributeProto::default()
        });
    }
    NodeProto {
        name: format!("{}.weight", tensor.name),
        op_type: NAME.to_owned(),
        output: vec![plan.output.clone()],
        attribute,
        ..NodeProto::default()
    }
}

/// Makes the operator known to the importer.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert(NAME, build);
}

fn build(_: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let dims: TVec<i64> = node.get_attr_tvec("shape")?;
    let shape: TVec<usize> = dims.iter().map(|&d| Ok(usize::try_from(d)?)).collect::<TractResult<_>>()?;
    let start = u64::try_from(node.get_attr::<i64>("start")?)?;
    let stored = match DataType::try_from(node.get_attr::<i32>("type")?) {
        Ok(DataType::Float) => Stored::F32,
        Ok(DataType::Float16) => Stored::F16,
        _ => {
            let scales: Vec<f32> = node.get_attr_vec("scales")?;
            let mut scale_shape: TVec<usize> = tvec![1; shape.len()];
            if scales.len() != 1 {
                let axis = node.get_attr::<i64>("axis")?;
                let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
                let axis = usize::try_from(axis)
                    .ok()
                    .filter(|&a| a < shape.len())
                    .context("the axis is outside the weights")?;
                ensure!(shape[axis] == scales.len(), "{} scales for an axis of {}", scales.len(), shape[axis]);
                scale_shape[axis] = scales.len();
            }
            Stored::I8 { scales: Tensor::from_shape(&scale_shape, &scales)?.into() }
        }
    };
    Ok((expand(Weight(LazyWeight::new(start, shape, stored))), vec![]))
}

/// The weight among tract's inference operators.
#[derive(Clone, Debug)]
struct Weight(LazyWeight);

impl Expansion for Weight {
    fn name(&self) -> StaticName {
        NAME.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 0)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        let shape: TVec<TDim> = self.0.shape().iter().map(|d| d.to_dim()).collect();
        solver.equals(&outputs[0].shape, shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, _: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.0.clone(), &[])
    }
}
