//! The import of int8 weights.

use tract_onnx::Onnx;
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{NodeProto, TensorProto};
use tract_onnx::tract_hir::internal::*;

use super::fuse::QuantWeight;

/// Makes `DequantizeLinear` of symmetric int8 weights keep them in int8; of anything else, it stays what it was.
pub(super) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert(NAME, build);
}

const NAME: &str = "DequantizeLinear";

fn build(context: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    if is_symmetric_weight(context, node) {
        let axis = node.get_attr_opt::<i64>("axis")?.unwrap_or(1);
        return Ok((expand(Dequantize { axis }), vec![]));
    }
    let original = tract_onnx::onnx();
    let builder = original.op_register.0.get(NAME).context("tract has no DequantizeLinear")?;
    builder(context, node)
}

/// Whether a node's input is an int8 initializer without a zero point other than 0.
fn is_symmetric_weight(context: &ParsingContext<'_>, node: &NodeProto) -> bool {
    let initializer = |index: usize| -> Option<&TensorProto> {
        let name = node.input.get(index).filter(|name| !name.is_empty())?;
        context.model.graph.as_ref()?.initializer.iter().find(|t| t.name == *name)
    };
    let blocked = node.get_attr_opt::<i64>("block_size").ok().flatten().is_some_and(|size| size != 0);
    let int8 = |t: &TensorProto| t.data_type == DataType::Int8 as i32;
    let zero = match node.input.get(2).filter(|name| !name.is_empty()) {
        None => true,
        Some(_) => initializer(2).is_some_and(|t| {
            int8(t) && t.raw_data.iter().all(|&byte| byte == 0) && t.int32_data.iter().all(|&value| value == 0)
        }),
    };
    !blocked && zero && initializer(0).is_some_and(int8) && initializer(1).is_some()
}

/// `values * scales`, where scales has one number, or one for each place along `axis`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Dequantize {
    axis: i64,
}

impl Expansion for Dequantize {
    fn name(&self) -> StaticName {
        "DequantizeLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        ensure!(matches!(inputs.len(), 2 | 3), "DequantizeLinear takes two or three inputs");
        check_output_arity(outputs, 1)?;
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let constant = |index: usize| -> TractResult<std::sync::Arc<Tensor>> {
            model.outlet_fact(inputs[index])?.konst.clone().context("int8 weights and their scales must be constants")
        };
        let (values, scales) = (constant(0)?, constant(1)?);
        ensure!(scales.datum_type() == f32::datum_type(), "the scales of int8 weights must be f32");
        let rank = values.rank();
        let mut shape: TVec<usize> = tvec![1; rank];
        if scales.len() != 1 {
            let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
            let axis = usize::try_from(axis).ok().filter(|&a| a < rank).context("the axis is outside the weights")?;
            ensure!(
                values.shape()[axis] == scales.len(),
                "{} scales for an axis of {}",
                scales.len(),
                values.shape()[axis]
            );
            shape[axis] = scales.len();
        }
        let scales = scales.as_ref().clone().into_shape(&shape)?.into_arc_tensor();
        model.wire_node(prefix, QuantWeight { values, scales }, &[])
    }
}
