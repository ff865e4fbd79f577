//! The last dense layer of a graph, of which only some rows may be wanted.

use tract_core::internal::AxisOp;
use tract_core::ops::array::Slice;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::DimLike;

use super::{read_once, shape_of};
use crate::ops::{Head, Linear};

/// Tells the layer that gives an output [1, N, K], through nothing but changes of shape and a cut of rows, which of its
/// rows those are.
pub(super) fn mark(model: &mut TypedModel) {
    if let Some((node, head)) = find(model)
        && let Some(linear) = model.node_mut(node).op_as_mut::<Linear>()
    {
        linear.head = Some(head);
    }
}

fn find(model: &TypedModel) -> Option<(usize, Head)> {
    let &[output] = model.outputs.as_slice() else { return None };
    let &[1, count, columns] = shape_of(model, output)?.as_slice() else { return None };
    let (mut node, mut first) = (model.node(output.node), 0);
    loop {
        if node.id != output.node && !read_once(model, node) {
            return None;
        }
        if let Some(linear) = node.op_as::<Linear>() {
            let rows = linear.shape.iter().product::<usize>() / linear.columns;
            let fits = linear.columns == columns && first + count <= rows && !linear.residual;
            return fits.then_some((node.id, Head { first, count }));
        }
        let &input = node.inputs.first()?;
        if let Some(slice) = node.op_as::<Slice>() {
            let shape = shape_of(model, input)?;
            let (before, rest) = shape.split_at_checked(slice.axis)?;
            let row: usize = rest.get(1..)?.iter().product();
            if before.iter().any(|&d| d != 1) || row != columns {
                return None;
            }
            first += slice.start.to_usize().ok()?;
        } else if matches!(node.op_as::<AxisOp>()?, AxisOp::Move(..)) {
            return None;
        }
        node = model.node(input.node);
    }
}
