//! What follows a product: bias, activation, residual.

use tract_core::internal::*;
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::math::Add;
use tract_core::ops::nn::{GeluApproximate, GeluExact, Silu};

use super::{Context, behind_axes, constant, replace, shape_of, wire_axes};
use crate::ops::{Conv2d, GroupNorm, Linear, Vector};
use maskgit_kernels::Activation;

/// The activation that a node is.
pub(crate) fn activation_of(node: &TypedNode) -> Option<Activation> {
    let op = node.op_as::<ElementWiseOp>().filter(|op| op.1.is_none())?;
    if op.0.is::<Silu>() {
        Some(Activation::Silu)
    } else if op.0.is::<GeluExact>() {
        Some(Activation::GeluErf)
    } else if op.0.downcast_ref::<GeluApproximate>().is_some_and(|gelu| !gelu.fast_impl) {
        Some(Activation::GeluTanh)
    } else {
        None
    }
}

/// Folds an activation into the operator before it, unless a residual has been added in between.
pub(super) fn activation(
    _: &Context,
    model: &TypedModel,
    node: &TypedNode,
    _: &str,
    _: &ElementWiseOp,
) -> TractResult<Option<TypedModelPatch>> {
    let Some(activation) = activation_of(node) else { return Ok(None) };
    let x = node.inputs[0];
    if let Some((inner, axes)) = behind_axes::<Linear>(model, x)
        && let Some(op) = inner.op_as::<Linear>()
        && op.activation == Activation::None
        && !op.residual
    {
        return replace(model, node, Linear { activation, ..op.clone() }, &inner.inputs, &axes);
    }
    if let Some((inner, axes)) = behind_axes::<Conv2d>(model, x)
        && let Some(op) = inner.op_as::<Conv2d>()
        && op.activation == Activation::None
        && !op.residual
    {
        return replace(model, node, Conv2d { activation, ..op.clone() }, &inner.inputs, &axes);
    }
    if let Some((inner, axes)) = behind_axes::<GroupNorm>(model, x)
        && let Some(op) = inner.op_as::<GroupNorm>()
        && op.activation == Activation::None
    {
        return replace(model, node, GroupNorm { activation, ..op.clone() }, &inner.inputs, &axes);
    }
    Ok(None)
}

/// Folds the addition of one number a column into the product before it.
pub(super) fn bias(
    _: &Context,
    model: &TypedModel,
    node: &TypedNode,
    _: &str,
    op: &TypedBinOp,
) -> TractResult<Option<TypedModelPatch>> {
    let &[a, b] = node.inputs.as_slice() else { return Ok(None) };
    if !op.0.is::<Add>() {
        return Ok(None);
    }
    for (x, other) in [(a, b), (b, a)] {
        let (Some(tensor), Some(shape)) = (constant(model, other), shape_of(model, x)) else { continue };
        let Some((inner, axes)) = behind_axes::<Linear>(model, x) else { continue };
        let Some(op) = inner.op_as::<Linear>() else { continue };
        if op.bias.is_some() || op.activation != Activation::None || tensor.len() != op.columns {
            continue;
        }
        // The columns must be the last axes of the sum, before and after the axis operations, and the constant lie
        // along them.
        let trailing = |shape: &[usize]| {
            let mut volume = 1;
            shape.iter().rposition(|&d| {
                volume *= d;
                volume >= op.columns
            })
        };
        let Some(start) = trailing(&shape) else { continue };
        let along = tensor.rank() == shape.len()
            && tensor.shape()[start..] == shape[start..]
            && shape[start..].iter().product::<usize>() == op.columns;
        if !along || !axes.iter().all(keeps_columns) {
            continue;
        }
        let bias = Vector::from(tensor.try_as_plain_ram()?.as_slice::<f32>()?.to_vec());
        return replace(model, node, Linear { bias: Some(bias), ..op.clone() }, &inner.inputs, &axes);
    }
    Ok(None)
}

/// Whether an axis operation leaves the numbers of a row side by side and in order: it does not move anything.
fn keeps_columns(axis: &AxisOp) -> bool {
    !matches!(axis.canonical().as_ref(), AxisOp::Move(..))
}

/// Folds the addition of a tensor of the same shape into the product before it.
pub(super) fn residual(
    _: &Context,
    model: &TypedModel,
    node: &TypedNode,
    _: &str,
    op: &TypedBinOp,
) -> TractResult<Option<TypedModelPatch>> {
    let &[a, b] = node.inputs.as_slice() else { return Ok(None) };
    if !op.0.is::<Add>() || shape_of(model, a).is_none() || shape_of(model, a) != shape_of(model, b) {
        return Ok(None);
    }
    for (x, other) in [(a, b), (b, a)] {
        if let Some((inner, axes)) = behind_axes::<Linear>(model, x)
            && let Some(op) = inner.op_as::<Linear>()
            && !op.residual
        {
            let op = Linear { residual: true, ..op.clone() };
            return add(model, node, op, inner.inputs[0], other, &axes);
        }
        if let Some((inner, axes)) = behind_axes::<Conv2d>(model, x)
            && let Some(op) = inner.op_as::<Conv2d>()
            && !op.residual
        {
            let op = Conv2d { residual: true, ..op.clone() };
            return add(model, node, op, inner.inputs[0], other, &axes);
        }
    }
    Ok(None)
}

/// Wires `op` with a residual that is first brought from the outside of `axes` to the inside.
fn add(
    model: &TypedModel,
    node: &TypedNode,
    op: impl Into<Box<dyn TypedOp>>,
    x: OutletId,
    residual: OutletId,
    axes: &[AxisOp],
) -> TractResult<Option<TypedModelPatch>> {
    let mut patch = TypedModelPatch::default();
    let x = patch.tap_model(model, x)?;
    let residual = patch.tap_model(model, residual)?;
    let back: Vec<AxisOp> = axes.iter().rev().map(AxisOp::recip).collect();
    let name = &node.name;
    let residual = wire_axes(&mut patch, &format!("{name}.residual"), &back, residual)?;
    let wire = patch.wire_node(format!("{name}.fused"), op, &[x, residual])?[0];
    let wire = wire_axes(&mut patch, name, axes, wire)?;
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}
