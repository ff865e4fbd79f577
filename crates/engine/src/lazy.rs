//! Weights that stay in the file until an operator packs them.

use std::collections::{HashMap, HashSet};

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::Source;
use super::fuse::{LazyWeight, Stored};
use super::skeleton::Range;
use maskgit_core::Result;

/// The operator that stands for a weight. Files cannot have it: they are checked before it is known.
const NAME: &str = "MaskgitWeight";

/// Takes the weights of products out of a model whose large raw data was left out, and puts all other raw data back.
///
/// A weight is taken when only products use it, or look rows of it up: directly, or through `DequantizeLinear` (int8,
/// symmetric) or a `Cast` from fp16 to fp32. In its place comes a node that says where it is.
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
    let taken: HashSet<&String> = weights.iter().flat_map(|weight| weight.output.iter()).collect();
    graph.node.retain(|node| !node.output.iter().any(|name| taken.contains(name)));
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

/// A graph's nodes by the names that they read, each with the place at which it does.
struct Readers<'a> {
    graph: &'a GraphProto,
    of: HashMap<&'a str, Vec<(&'a NodeProto, usize)>>,
}

impl<'a> Readers<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut of: HashMap<&str, Vec<(&NodeProto, usize)>> = HashMap::new();
        for node in &graph.node {
            for (place, name) in node.input.iter().enumerate() {
                of.entry(name.as_str()).or_default().push((node, place));
            }
        }
        Self { graph, of }
    }

    fn is_output(&self, name: &str) -> bool {
        self.graph.output.iter().any(|output| output.name == name)
    }

    /// Whether only our operators read a value. A product reads its weights as its second input; a matrix may be cut
    /// and transposed before. `Gather` looks rows up.
    fn are_operators(&self, name: &'a str) -> bool {
        let mut names = vec![name];
        // A damaged file may go round in circles.
        for _ in 0..self.graph.node.len() {
            let Some(name) = names.pop() else { return true };
            let Some(readers) = self.of.get(name).filter(|_| !self.is_output(name)) else { return false };
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
    }

    /// The only node that reads a value, where that is as its first input.
    fn only(&self, name: &str) -> Option<&'a NodeProto> {
        match self.of.get(name)?.as_slice() {
            &[(node, 0)] => Some(node),
            _ => None,
        }
    }
}

/// For each initializer that can be taken, how.
fn plan(graph: &GraphProto) -> HashMap<String, Plan> {
    let readers = Readers::new(graph);
    let initializers: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
    let plans = graph.initializer.iter().filter(|tensor| !readers.is_output(&tensor.name)).filter_map(|tensor| {
        let plan = widened(tensor, &readers, &initializers).or_else(|| plain(tensor, &readers))?;
        Some((tensor.name.clone(), plan))
    });
    plans.collect()
}

/// Of a weight that is read as it is.
fn plain(tensor: &TensorProto, readers: &Readers<'_>) -> Option<Plan> {
    let is_float = DataType::try_from(tensor.data_type) == Ok(DataType::Float);
    let output = tensor.name.clone();
    (is_float && readers.are_operators(&tensor.name)).then_some(Plan { output, scales: None })
}

/// Of a weight that a node makes fp32 of first.
fn widened(tensor: &TensorProto, readers: &Readers<'_>, initializers: &HashMap<&str, &TensorProto>) -> Option<Plan> {
    let node = readers.only(&tensor.name)?;
    let [output] = node.output.as_slice() else { return None };
    if !readers.are_operators(output) {
        return None;
    }
    let scales = match (DataType::try_from(tensor.data_type), node.op_type.as_str()) {
        (Ok(DataType::Float16), "Cast") if integer(node, "to") == Some(DataType::Float as i64) => None,
        (Ok(DataType::Int8), "DequantizeLinear") => Some(scales(node, initializers)?),
        _ => return None,
    };
    Some(Plan { output: output.clone(), scales })
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
    let count = volume(scale)?;
    (values.len() as u64 == count && count > 0).then(|| (values, integer(node, "axis").unwrap_or(1)))
}

/// Whether the raw data has the size that the type and the shape ask for.
fn fits(tensor: &TensorProto, len: u64) -> bool {
    let size = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => 4,
        Ok(DataType::Float16) => 2,
        Ok(DataType::Int8) => 1,
        _ => return false,
    };
    volume(tensor).and_then(|volume| volume.checked_mul(size)) == Some(len)
}

/// How many numbers a tensor's shape asks for; none where no tensor can have it.
fn volume(tensor: &TensorProto) -> Option<u64> {
    tensor.dims.iter().try_fold(1u64, |a, &d| a.checked_mul(u64::try_from(d).ok()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Products of as many weights as a file may have nodes. Beside each weight every node's outputs are looked at
    /// once, not once a weight.
    #[test]
    fn many_weights_are_taken_in_little_time() {
        const COUNT: usize = 1 << 16;
        let weight = |i: usize| TensorProto {
            name: format!("the weights of the layer with the number {i}"),
            dims: vec![16, 16],
            data_type: DataType::Float as i32,
            ..TensorProto::default()
        };
        let node = |i: usize| NodeProto {
            op_type: "MatMul".to_owned(),
            input: vec!["x".to_owned(), weight(i).name],
            output: vec![format!("the output of the layer with the number {i}")],
            ..NodeProto::default()
        };
        let graph = GraphProto {
            node: (0..COUNT).map(node).collect(),
            initializer: (0..COUNT).map(weight).collect(),
            ..GraphProto::default()
        };
        let mut model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        let start = std::time::Instant::now();
        take(&mut model, &vec![Some((0, 1024)); COUNT], &Source::from(vec![0; 1024])).unwrap();
        let graph = model.graph.unwrap();
        assert_eq!((graph.node.len(), graph.initializer.len()), (2 * COUNT, 0));
        let took = start.elapsed();
        // Some tenths of a second on an idle machine; more than a minute where it grows with the square.
        assert!(took.as_secs() < 20, "{took:?}");
    }

    #[test]
    fn scales_of_an_impossible_shape_are_none() {
        let scale = TensorProto {
            name: "scale".to_owned(),
            dims: vec![i64::MAX, 4],
            data_type: DataType::Float as i32,
            float_data: vec![1.0],
            ..TensorProto::default()
        };
        let node = NodeProto { input: vec!["w".to_owned(), "scale".to_owned()], ..NodeProto::default() };
        for (dims, count) in [(vec![i64::MAX, 4], 1), (vec![-1, -1], 1), (vec![i64::MIN, 2], 0)] {
            let scale = TensorProto { dims, float_data: vec![1.0; count], ..scale.clone() };
            assert!(scales(&node, &HashMap::from([("scale", &scale)])).is_none(), "{:?}", scale.dims);
        }
        let scale = TensorProto { dims: vec![1], ..scale };
        assert!(scales(&node, &HashMap::from([("scale", &scale)])).is_some());
    }
}
