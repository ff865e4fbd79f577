//! Scaled dot product attention, from its two products and the softmax between them.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::array::Slice;
use tract_onnx::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_core::ops::math::Mul;
use tract_onnx::tract_core::ops::nn::{Softmax, SoftmaxKind};

use super::{Context, binary, read_once, scalar, shape_of};
use crate::engine::ops::{Attention, View};

/// An operand before it is an input of the operator: an outlet, and the stride of each of its axes in it.
struct Operand {
    outlet: OutletId,
    base: usize,
    strides: Vec<usize>,
}

impl Operand {
    /// What an outlet is made of: slices of a tensor are read where they stand, and factors are taken out.
    fn new(model: &TypedModel, mut outlet: OutletId, factor: &mut f32) -> Option<Self> {
        if let Some([a, b]) = binary::<Mul>(model, outlet)
            && read_once(model, model.node(outlet.node))
        {
            let (x, scale) = scalar(model, b).map(|s| (a, s)).or_else(|| Some((b, scalar(model, a)?)))?;
            if shape_of(model, x)? == shape_of(model, outlet)? {
                *factor *= scale;
                outlet = x;
            }
        }
        let node = model.node(outlet.node);
        let (outlet, axis, start) = match node.op_as::<Slice>() {
            Some(slice) => (*node.inputs.first()?, slice.axis, slice.start.to_usize().ok()?),
            None => (outlet, 0, 0),
        };
        let shape = shape_of(model, outlet)?;
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        Some(Self { outlet, base: start * strides.get(axis).copied().unwrap_or(0), strides })
    }

    fn stride(&self, place: Option<usize>) -> usize {
        place.and_then(|p| self.strides.get(p)).copied().unwrap_or(0)
    }
}

/// The axes of a product of two operands, sizes of one left out.
#[derive(Default)]
struct Axes {
    /// In both operands and the output: (first, second, output, size).
    head: Option<(usize, usize, usize, usize)>,
    /// In the first operand and the output: (first, output, size).
    row: Option<(usize, usize, usize)>,
    /// In the second operand and the output: (second, output, size).
    column: Option<(usize, usize, usize)>,
    /// In both operands only: (first, second, size).
    inner: Option<(usize, usize, usize)>,
}

fn sort(op: &EinSum, first: &[usize], second: &[usize]) -> Option<Axes> {
    fn put<T>(place: &mut Option<T>, value: T) -> Option<()> {
        place.replace(value).is_none().then_some(())
    }
    let mut axes = Axes::default();
    for axis in op.axes.iter_all_axes() {
        let (a, b, out) = (axis.inputs[0].as_slice(), axis.inputs[1].as_slice(), axis.outputs[0].as_slice());
        let size = match (a, b) {
            (&[a], _) => *first.get(a)?,
            (_, &[b]) => *second.get(b)?,
            _ => 1,
        };
        match (a, b, out) {
            _ if size == 1 => {}
            (&[a], &[b], &[out]) => put(&mut axes.head, (a, b, out, size))?,
            (&[a], &[], &[out]) => put(&mut axes.row, (a, out, size))?,
            (&[], &[b], &[out]) => put(&mut axes.column, (b, out, size))?,
            (&[a], &[b], &[]) => put(&mut axes.inner, (a, b, size))?,
            _ => return None,
        }
    }
    Some(axes)
}

/// The product that a node is, its two operands, and its axes.
fn product(model: &TypedModel, node: &TypedNode) -> Option<([OutletId; 2], Axes)> {
    let op = node.op_as::<EinSum>().filter(|op| op.q_params.is_none() && op.operating_dt == DatumType::F32)?;
    let &[a, b] = node.inputs.as_slice() else { return None };
    let axes = sort(op, &shape_of(model, a)?, &shape_of(model, b)?)?;
    Some(([a, b], axes))
}

pub(super) fn attention(
    context: &Context,
    model: &TypedModel,
    node: &TypedNode,
    _: &str,
    op: &Softmax,
) -> TractResult<Option<TypedModelPatch>> {
    if op.kind != SoftmaxKind::Softmax || op.quant_output_dt.is_some() || !read_once(model, node) {
        return Ok(None);
    }
    Ok(find(context, model, node, op)
        .map(|(attention, outside, inputs)| super::replace(model, outside, attention, &inputs, &[]))
        .transpose()?
        .flatten())
}

/// The operator, the node that it takes the place of, and its inputs.
fn find<'m>(
    context: &Context,
    model: &'m TypedModel,
    softmax: &TypedNode,
    op: &Softmax,
) -> Option<(Attention, &'m TypedNode, TVec<OutletId>)> {
    let mut factor = 1.0;
    // Before: a factor, perhaps, and the product of queries and keys.
    let mut scores = softmax.inputs[0];
    if let Some([a, b]) = binary::<Mul>(model, scores) {
        let (x, scale) = scalar(model, b).map(|s| (a, s)).or_else(|| Some((b, scalar(model, a)?)))?;
        if !read_once(model, model.node(scores.node)) || shape_of(model, x)? != shape_of(model, scores)? {
            return None;
        }
        factor *= scale;
        scores = x;
    }
    let before = model.node(scores.node);
    let ([q, k], mut first) = read_once(model, before).then(|| product(model, before))??;
    // After: the product of the weights and the values, in either order; perhaps of some queries' weights only.
    let mut after = model.node(softmax.outputs[0].successors[0].node);
    let mut weights = softmax.id;
    let mut part = None;
    if let Some(slice) = after.op_as::<Slice>() {
        let size = *shape_of(model, after.id.into())?.get(slice.axis)?;
        part = Some((slice.axis, slice.start.to_usize().ok()?, size));
        weights = after.id;
        after = read_once(model, after).then(|| model.node(after.outputs[0].successors[0].node))?;
    }
    let ([left, right], mut second) = product(model, after)?;
    let v = if left.node == weights {
        right
    } else {
        second = Axes {
            head: second.head.map(|(a, b, out, size)| (b, a, out, size)),
            row: second.column,
            column: second.row,
            inner: second.inner.map(|(a, b, size)| (b, a, size)),
        };
        left
    };
    // The softmax runs over the keys. Which operand of the first product the queries are, the softmax decides.
    let (mut q, mut k) = (q, k);
    if first.row.is_some_and(|row| op.axes.as_slice() == [row.1]) {
        (q, k) = (k, q);
        first = Axes {
            head: first.head.map(|(a, b, out, size)| (b, a, out, size)),
            row: first.column,
            column: first.row,
            inner: first.inner.map(|(a, b, size)| (b, a, size)),
        };
    }
    let (q_row, k_column) = (first.row?, first.column?);
    let (weights_row, weights_inner) = (second.row?, second.inner?);
    let fits = op.axes.as_slice() == [k_column.1]
        && weights_inner.0 == k_column.1
        && weights_row.0 == q_row.1
        && first.head.map(|h| h.2) == second.head.map(|h| h.0);
    // Only queries may be left out.
    let (first_query, queries) = match part {
        None => (0, q_row.2),
        Some((axis, start, size)) if axis == q_row.1 => (start, size),
        Some(_) => return None,
    };
    if !fits || weights_row.2 != queries {
        return None;
    }
    let (query, key) = (Operand::new(model, q, &mut factor)?, Operand::new(model, k, &mut factor)?);
    let mut value_factor = 1.0;
    let value = Operand::new(model, v, &mut value_factor)?;
    if value_factor != 1.0 {
        return None;
    }
    let shape = shape_of(model, after.id.into())?;
    let mut out_strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        out_strides[i - 1] = out_strides[i] * shape[i];
    }
    let out = |place: Option<usize>| place.and_then(|p| out_strides.get(p)).copied().unwrap_or(0);
    let mut inputs: TVec<OutletId> = tvec!();
    let mut view = |operand: &Operand, head: Option<usize>, token: usize, dim: Option<usize>| {
        let input = inputs.iter().position(|i| *i == operand.outlet).unwrap_or_else(|| {
            inputs.push(operand.outlet);
            inputs.len() - 1
        });
        View {
            input,
            base: operand.base,
            head: operand.stride(head),
            token: operand.stride(Some(token)),
            dim: operand.stride(dim),
        }
    };
    let mut q = view(&query, first.head.map(|h| h.0), q_row.0, first.inner.map(|i| i.0));
    q.base += first_query * q.token;
    let k = view(&key, first.head.map(|h| h.1), k_column.0, first.inner.map(|i| i.1));
    let v = view(&value, second.head.map(|h| h.1), weights_inner.1, second.column.map(|c| c.0));
    let volumes = inputs.iter().map(|i| shape_of(model, *i).map(|s| s.iter().product())).collect::<Option<_>>()?;
    let attention = Attention {
        heads: first.head.map_or(1, |h| h.3),
        queries,
        keys: k_column.2,
        dim: first.inner.map_or(1, |i| i.2),
        value_dim: second.column.map_or(1, |c| c.2),
        scale: factor.to_bits(),
        q,
        k,
        v,
        out: View {
            input: 0,
            base: 0,
            head: out(second.head.map(|h| h.2)),
            token: out(Some(weights_row.1)),
            dim: out(second.column.map(|c| c.1)),
        },
        shape,
        volumes,
        isa: context.isa,
        fused: context.fused,
    };
    Some((attention, after, inputs))
}
