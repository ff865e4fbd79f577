//! Products with constant weights.

use tract_core::internal::AxisOp;
use tract_core::ops::change_axes::perm_to_ops;
use tract_core::ops::einsum::EinSum;
use tract_onnx::prelude::*;

use super::weight::{Constant, Found};
use super::{Context, shape_of, strides, wire_axes};
use crate::ops::{Linear, Weights};
use maskgit_kernels::{Activation, Matrix};

/// Longer sums of 8-bit products could overflow 32 bits.
const MAX_INNER: usize = 1 << 16;

/// The axes of a product, sizes of one left out: where each stands in the input, the weights and the output.
#[derive(Default)]
struct Axes {
    /// (input, output, size) in the order of the output.
    rows: Vec<(usize, usize, usize)>,
    /// (input, weight, size) in the order of the input.
    inner: Vec<(usize, usize, usize)>,
    /// (weight, output, size) in the order of the output.
    columns: Vec<(usize, usize, usize)>,
}

/// Sorts the axes of `op`, where input `w` is the weights; none when it is not a plain product.
fn sort(op: &EinSum, w: usize, input: &[usize], weight: &[usize]) -> Option<Axes> {
    let mut axes = Axes::default();
    let size = |places: (&[usize], &[usize])| match places {
        (&[x], &[]) => Some((input.get(x).copied()?, true, false)),
        (&[], &[w]) => Some((weight.get(w).copied()?, false, true)),
        (&[x], &[_]) => Some((input.get(x).copied()?, true, true)),
        _ => None,
    };
    for axis in op.axes.iter_all_axes() {
        let (x, w, out) = (axis.inputs[1 - w].as_slice(), axis.inputs[w].as_slice(), axis.outputs[0].as_slice());
        if x.is_empty() && w.is_empty() && out.len() == 1 {
            continue; // an axis of size one that only the output has
        }
        let (size, in_x, in_w) = size((x, w))?;
        match (in_x, in_w, out) {
            _ if size == 1 => {}
            (true, false, &[out]) => axes.rows.push((x[0], out, size)),
            (true, true, &[]) => axes.inner.push((x[0], w[0], size)),
            (false, true, &[out]) => axes.columns.push((w[0], out, size)),
            _ => return None,
        }
    }
    axes.rows.sort_by_key(|a| a.1);
    axes.inner.sort_by_key(|a| a.0);
    axes.columns.sort_by_key(|a| a.1);
    Some(axes)
}

/// Where each combination of places along some axes is in a tensor with the given strides; the last axis runs fastest.
fn places(axes: impl Iterator<Item = (usize, usize)>) -> Vec<usize> {
    let mut places = vec![0];
    for (size, stride) in axes {
        places = places.iter().flat_map(|&p| (0..size).map(move |i| p + i * stride)).collect();
    }
    places
}

/// Packs a constant: its inner places and its columns.
fn pack(context: &Context, found: &Found, axes: &Axes) -> TractResult<Option<Weights>> {
    let strides = strides(found.shape());
    let inner = places(axes.inner.iter().map(|a| (a.2, strides[a.1])));
    let columns = places(axes.columns.iter().map(|a| (a.2, strides[a.0])));
    Ok(match found.load(context)? {
        Constant::F32(tensor) => {
            let values = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
            let matrix = Matrix { values, taps: 1, tap: 0, inner: &inner, columns: &columns };
            let pack = if found.is_half() { Weights::half } else { Weights::f32 };
            Some(pack(context.target, &matrix))
        }
        Constant::I8 { values, scales } => {
            let by_column = scales
                .shape()
                .iter()
                .enumerate()
                .all(|(axis, &d)| d == 1 || axes.columns.iter().any(|column| column.0 == axis));
            if !by_column || inner.len() > MAX_INNER {
                return Ok(None);
            }
            let all = scales.broadcast_to_shape(&scale_shape(found.shape(), axes))?;
            let column_strides = super::strides(all.shape());
            let scales = all.try_as_plain_ram()?.as_slice::<f32>()?;
            let scales =
                places(axes.columns.iter().map(|a| (a.2, column_strides[a.0]))).iter().map(|&p| scales[p]).collect();
            let values = values.try_as_plain_ram()?.as_slice::<i8>()?;
            let matrix = Matrix { values, taps: 1, tap: 0, inner: &inner, columns: &columns };
            Some(Weights::i8(context.target, &matrix, scales))
        }
    })
}

/// The weights' shape with the inner axes at one.
fn scale_shape(shape: &[usize], axes: &Axes) -> Vec<usize> {
    let column = |axis: usize| axes.columns.iter().any(|c| c.0 == axis);
    shape.iter().enumerate().map(|(axis, &d)| if column(axis) { d } else { 1 }).collect()
}

/// How the output of a product, rows first and columns last, becomes the output that is asked for.
struct Outside {
    shape: TVec<usize>,
    axes: Vec<AxisOp>,
}

impl Outside {
    fn new(axes: &Axes, shape: &[usize]) -> Self {
        let order: Vec<usize> = axes.rows.iter().map(|a| a.1).chain(axes.columns.iter().map(|a| a.1)).collect();
        if order.is_sorted() {
            return Self { shape: shape.into(), axes: Vec::new() };
        }
        let inside = order.iter().map(|&axis| shape[axis]).collect();
        // Places in `order` by place in the output, then the sizes of one that `order` leaves out.
        let mut sorted: Vec<usize> = (0..order.len()).collect();
        sorted.sort_by_key(|&place| order[place]);
        let ones = (0..shape.len()).filter(|axis| !order.contains(axis)).map(AxisOp::Add);
        Self { shape: inside, axes: perm_to_ops(&sorted).into_iter().chain(ones).collect() }
    }
}

pub(super) fn linear(
    context: &Context,
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    op: &EinSum,
) -> TractResult<Option<TypedModelPatch>> {
    if op.q_params.is_some() || op.operating_dt != DatumType::F32 || node.inputs.len() != 2 {
        return Ok(None);
    }
    for w in [1, 0] {
        let Some(constant) = Found::new(model, node.inputs[w]) else { continue };
        let x = node.inputs[1 - w];
        let (Some(input), Some(shape)) = (shape_of(model, x), shape_of(model, node.id.into())) else { continue };
        let Some(axes) = sort(op, w, &input, constant.shape()) else { continue };
        if axes.inner.is_empty() || axes.columns.is_empty() {
            continue;
        }
        let Some(weights) = pack(context, &constant, &axes)? else { continue };
        let outside = Outside::new(&axes, &shape);
        let columns = axes.columns.iter().map(|a| a.2).product();
        let inner = axes.inner.iter().map(|a| a.2).product();
        let linear = Linear {
            weights,
            inner,
            columns,
            shape: outside.shape.clone(),
            bias: None,
            activation: Activation::None,
            residual: false,
            isa: context.isa,
            fused: context.fused,
            head: None,
        };
        let mut patch = TypedModelPatch::default();
        let mut wire = patch.tap_model(model, x)?;
        // Rows first, then the inner axes; sizes of one do not matter and go first.
        let mut order: Vec<usize> = (0..input.len()).filter(|&i| input[i] == 1).collect();
        order.extend(axes.rows.iter().map(|a| a.0).chain(axes.inner.iter().map(|a| a.0)));
        let real = |order: &[usize]| order.iter().copied().filter(|&i| input[i] != 1).collect::<Vec<_>>();
        if !real(&order).is_sorted() {
            for (i, axis) in perm_to_ops(&order).into_iter().enumerate() {
                wire = patch.wire_node(format!("{name}.rows{i}"), axis, &[wire])?[0];
            }
        }
        wire = patch.wire_node(format!("{name}.fused"), linear, &[wire])?[0];
        wire = wire_axes(&mut patch, name, &outside.axes, wire)?;
        patch.shunt_outside(model, node.id.into(), wire)?;
        return Ok(Some(patch));
    }
    Ok(None)
}
