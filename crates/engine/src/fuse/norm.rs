//! Layer, RMS and group normalisation.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::math::{Add, Mul, Sub};
use tract_core::ops::nn::{Reduce, Reducer, RmsNorm};

use super::{Context, behind_axes, binary, constant, replace, scalar, shape_of};
use crate::ops::{GroupNorm, RowNorm, Vector};
use maskgit_kernels::Activation;

/// `x - mean(x)` along an axis: x, where the outlet is one.
fn centred(model: &TypedModel, outlet: OutletId, axis: usize) -> Option<OutletId> {
    let [x, mean] = binary::<Sub>(model, outlet)?;
    let [sum, factor] = binary::<Mul>(model, mean)?;
    let reduce = model.node(sum.node);
    let op = reduce.op_as::<Reduce>()?;
    let size = *shape_of(model, x)?.get(axis)?;
    let is_mean = (scalar(model, factor)? * size as f32 - 1.0).abs() < 1e-5;
    (op.axes.as_slice() == [axis] && op.reducer == Reducer::Sum && is_mean && *reduce.inputs.first()? == x).then_some(x)
}

/// tract has found the root mean square norm; where the mean was taken off before, it is a layer norm.
pub(super) fn row_norm(
    context: &Context,
    model: &TypedModel,
    node: &TypedNode,
    _: &str,
    op: &RmsNorm,
) -> TractResult<Option<TypedModelPatch>> {
    let input = node.inputs[0];
    let Some(shape) = shape_of(model, input) else { return Ok(None) };
    let Some(last) = shape.len().checked_sub(1) else { return Ok(None) };
    let (x, is_centred) = centred(model, input, op.axis).map_or((input, false), |x| (x, true));
    let mut moved = shape;
    let inner = moved.remove(op.axis);
    moved.push(inner);
    if moved.contains(&0) {
        return Ok(None);
    }
    let norm = RowNorm {
        shape: moved,
        inner,
        centred: is_centred,
        eps: op.eps.cast_to_scalar::<f32>()?.to_bits(),
        gamma: None,
        beta: None,
        isa: context.isa,
    };
    let mut patch = TypedModelPatch::default();
    let mut wire = patch.tap_model(model, x)?;
    if op.axis != last {
        wire = patch.wire_node(format!("{}.rows", node.name), AxisOp::Move(op.axis, last), &[wire])?[0];
    }
    wire = patch.wire_node(format!("{}.fused", node.name), norm, &[wire])?[0];
    if op.axis != last {
        wire = patch.wire_node(format!("{}.back", node.name), AxisOp::Move(last, op.axis), &[wire])?[0];
    }
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// An image reshaped to groups, normalised, and reshaped back.
pub(super) fn group_norm(
    context: &Context,
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    op: &RowNorm,
) -> TractResult<Option<TypedModelPatch>> {
    let before = model.node(node.inputs[0].node);
    let Some(AxisOp::Reshape(1, picture, groups)) = before.op_as::<AxisOp>() else { return Ok(None) };
    if !op.centred || op.gamma.is_some() || op.beta.is_some() || picture.len() != 3 || groups.len() != 2 {
        return Ok(None);
    }
    // What lies between is applied to each number alone, so it may as well come after.
    let mut between = Vec::new();
    let mut after = node;
    loop {
        let Some(next) = model.single_succ(after.id)? else { return Ok(None) };
        if model.outputs.iter().any(|o| o.node == after.id) {
            return Ok(None);
        }
        match next.op_as::<AxisOp>() {
            Some(AxisOp::Reshape(1, from, to)) if from == groups && to == picture => {
                after = next;
                break;
            }
            Some(_) => return Ok(None),
            None if super::epilogue::activation_of(next).is_some() => between.push(next.op.clone()),
            None => return Ok(None),
        }
        after = next;
    }
    let sizes: TVec<usize> = picture.iter().map(|d| d.to_usize()).collect::<Result<_, _>>()?;
    let (count, [channels, height, width]) = (groups[0].to_usize()?, [sizes[0], sizes[1], sizes[2]]);
    if count == 0 || !channels.is_multiple_of(count) || model.outlet_fact(before.inputs[0])?.shape[0] != 1.to_dim() {
        return Ok(None);
    }
    let norm = GroupNorm {
        shape: tvec!(1, height, width, channels),
        groups: count,
        eps: op.eps,
        gamma: None,
        beta: None,
        activation: Activation::None,
        isa: context.isa,
    };
    let mut patch = TypedModelPatch::default();
    let mut wire = patch.tap_model(model, before.inputs[0])?;
    wire = patch.wire_node(format!("{name}.nhwc"), AxisOp::Move(1, 3), &[wire])?[0];
    wire = patch.wire_node(format!("{name}.groups"), norm, &[wire])?[0];
    wire = patch.wire_node(format!("{name}.nchw"), AxisOp::Move(3, 1), &[wire])?[0];
    for (i, op) in between.into_iter().enumerate() {
        wire = patch.wire_node(format!("{name}.then{i}"), op, &[wire])?[0];
    }
    patch.shunt_outside(model, after.id.into(), wire)?;
    Ok(Some(patch))
}

/// A constant that has one number for each place along the last axis of what the norm gives, before `axes`.
fn along_rows(tensor: &Tensor, shape: &[usize], axes: &[AxisOp]) -> Option<Vector> {
    let inner = *shape.last()?;
    // Where the last axis is once the axes have moved.
    let mut probe: TVec<usize> = tvec![1; shape.len()];
    *probe.last_mut()? = inner;
    let mut shown = Tensor::zero::<f32>(&probe).ok()?;
    for axis in axes {
        axis.change_tensor(&mut shown, true).ok()?;
    }
    let padded = |shape: &[usize]| shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    let fits = tensor.rank() == shown.rank() && tensor.shape() == shown.shape() && padded(tensor.shape()).len() <= 1;
    fits.then(|| tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok().map(|s| Vector::from(s.to_vec())))?
}

/// Folds a multiplication or an addition of one number a place into the norm before it.
pub(super) fn affine(
    _: &Context,
    model: &TypedModel,
    node: &TypedNode,
    _: &str,
    op: &TypedBinOp,
) -> TractResult<Option<TypedModelPatch>> {
    let (scales, shifts) = (op.0.is::<Mul>(), op.0.is::<Add>());
    let &[a, b] = node.inputs.as_slice() else { return Ok(None) };
    if !scales && !shifts {
        return Ok(None);
    }
    for (x, other) in [(a, b), (b, a)] {
        let Some(tensor) = constant(model, other) else { continue };
        if let Some((norm, axes)) = behind_axes::<RowNorm>(model, x)
            && let Some(op) = norm.op_as::<RowNorm>()
            && let Some(vector) = along_rows(&tensor, &op.shape, &axes)
            && op.beta.is_none()
            && (shifts || op.gamma.is_none())
        {
            let (gamma, beta) = if scales { (Some(vector), None) } else { (op.gamma.clone(), Some(vector)) };
            return replace(model, node, RowNorm { gamma, beta, ..op.clone() }, &norm.inputs, &axes);
        }
        if let Some((norm, axes)) = behind_axes::<GroupNorm>(model, x)
            && let Some(op) = norm.op_as::<GroupNorm>()
            && let Some(vector) = along_rows(&tensor, &op.shape, &axes)
            && op.activation == Activation::None
            && op.beta.is_none()
            && (shifts || op.gamma.is_none())
        {
            let (gamma, beta) = if scales { (Some(vector), None) } else { (op.gamma.clone(), Some(vector)) };
            return replace(model, node, GroupNorm { gamma, beta, ..op.clone() }, &norm.inputs, &axes);
        }
    }
    Ok(None)
}
