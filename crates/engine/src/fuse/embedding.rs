//! Rows of constant tables.

use tract_core::ops::array::Gather;
use tract_onnx::prelude::*;

use super::weight::Found;
use super::{Context, replace, shape_of};
use crate::ops::Embedding;

pub(super) fn embedding(
    context: &Context,
    model: &TypedModel,
    node: &TypedNode,
    _: &str,
    op: &Gather,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(found) = Found::new(model, node.inputs[0]) else { return Ok(None) };
    let Some(shape) = shape_of(model, node.id.into()) else { return Ok(None) };
    let &[rows, width] = found.shape() else { return Ok(None) };
    let indices = model.outlet_fact(node.inputs[1])?;
    if op.axis != 0 || op.output_type.is_some() || indices.datum_type != DatumType::I64 || width == 0 {
        return Ok(None);
    }
    let Some(table) = found.table(context)? else { return Ok(None) };
    replace(model, node, Embedding { table, rows, width, shape }, &node.inputs[1..], &[])
}
