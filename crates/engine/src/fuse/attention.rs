//! Scaled dot product attention, from its two products and the softmax between them.

use tract_core::internal::*;
use tract_core::ops::array::Slice;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::math::Mul;
use tract_core::ops::nn::{Softmax, SoftmaxKind};

use super::{Context, binary, read_once, scalar, shape_of, strides};
use crate::ops::{Attention, View};

/// An operand before it is an input of the operator: an outlet, and the stride of each of its axes in it.
struct Operand {
    outlet: OutletId,
    base: usize,
    strides: Vec<usize>,
}

impl Operand {
    /// What an outlet is made of: slices of a tensor are read where they stand, and factors are taken out.
    fn new(model: &TypedModel, mut outlet: OutletId, factor: &mut f32) -> Option<Self> {
        if let Some(factors) = binary::<Mul>(model, outlet)
            && read_once(model, model.node(outlet.node))
        {
            let (x, scale) = scaled(model, factors)?;
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
        let strides = strides(&shape_of(model, outlet)?);
        Some(Self { outlet, base: start * strides.get(axis).copied().unwrap_or(0), strides })
    }

    fn stride(&self, place: Option<usize>) -> usize {
        place.and_then(|p| self.strides.get(p)).copied().unwrap_or(0)
    }
}

/// Of two factors, one of which is a single number: the other, and the number.
fn scaled(model: &TypedModel, [a, b]: [OutletId; 2]) -> Option<(OutletId, f32)> {
    scalar(model, b).map(|s| (a, s)).or_else(|| Some((b, scalar(model, a)?)))
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

impl Axes {
    /// The axes of the same product with its operands the other way round.
    fn swapped(self) -> Self {
        Self {
            head: self.head.map(|(a, b, out, size)| (b, a, out, size)),
            row: self.column,
            column: self.row,
            inner: self.inner.map(|(a, b, size)| (b, a, size)),
        }
    }
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
    let scores = Scores::find(model, softmax, op)?;
    let weighted = Weighted::find(model, softmax)?;
    let tokens = Tokens::find(&scores, &weighted, op)?;
    let (attention, inputs) = wire(context, model, &scores, &weighted, &tokens)?;
    Some((attention, weighted.node, inputs))
}

/// What comes before the softmax: the product of queries and keys, times a factor perhaps.
struct Scores {
    queries: OutletId,
    keys: OutletId,
    /// Of the queries, then the keys.
    axes: Axes,
    factor: f32,
}

impl Scores {
    fn find(model: &TypedModel, softmax: &TypedNode, op: &Softmax) -> Option<Self> {
        let (mut outlet, mut factor) = (softmax.inputs[0], 1.0);
        if let Some(factors) = binary::<Mul>(model, outlet) {
            let (x, scale) = scaled(model, factors)?;
            if !read_once(model, model.node(outlet.node)) || shape_of(model, x)? != shape_of(model, outlet)? {
                return None;
            }
            factor *= scale;
            outlet = x;
        }
        let node = model.node(outlet.node);
        let ([queries, keys], axes) = read_once(model, node).then(|| product(model, node))??;
        // The softmax runs over the keys, so it decides which operand the queries are.
        Some(if axes.row.is_some_and(|row| op.axes.as_slice() == [row.1]) {
            Self { queries: keys, keys: queries, axes: axes.swapped(), factor }
        } else {
            Self { queries, keys, axes, factor }
        })
    }
}

/// What comes after the softmax: the product of its weights and the values, in either order.
struct Weighted<'m> {
    node: &'m TypedNode,
    values: OutletId,
    /// Of the weights, then the values.
    axes: Axes,
    /// Where only a part of the weights is used: along which axis, from where, how many.
    part: Option<(usize, usize, usize)>,
}

impl<'m> Weighted<'m> {
    fn find(model: &'m TypedModel, softmax: &TypedNode) -> Option<Self> {
        let (mut weights, mut part) = (softmax.id, None);
        let mut node = model.node(softmax.outputs[0].successors[0].node);
        if let Some(slice) = node.op_as::<Slice>() {
            let size = *shape_of(model, node.id.into())?.get(slice.axis)?;
            part = Some((slice.axis, slice.start.to_usize().ok()?, size));
            weights = node.id;
            node = read_once(model, node).then(|| model.node(node.outputs[0].successors[0].node))?;
        }
        let ([left, right], axes) = product(model, node)?;
        Some(if left.node == weights {
            Self { node, values: right, axes, part }
        } else {
            Self { node, values: left, axes: axes.swapped(), part }
        })
    }
}

/// The axes that queries and keys run along in the two products.
struct Tokens {
    /// The queries' axis in their tensor.
    query: usize,
    /// The keys' axis in theirs, and in the values.
    key: usize,
    value: usize,
    /// The queries' axis in the output.
    out: usize,
    /// The first query that is used, and how many are.
    first: usize,
    queries: usize,
    keys: usize,
}

impl Tokens {
    /// None where the two products do not belong to one attention.
    fn find(scores: &Scores, weighted: &Weighted<'_>, op: &Softmax) -> Option<Self> {
        let (query, key) = (scores.axes.row?, scores.axes.column?);
        let (row, inner) = (weighted.axes.row?, weighted.axes.inner?);
        let fits = op.axes.as_slice() == [key.1]
            && inner.0 == key.1
            && row.0 == query.1
            && scores.axes.head.map(|h| h.2) == weighted.axes.head.map(|h| h.0);
        // Only queries may be left out.
        let (first, queries) = match weighted.part {
            None => (0, query.2),
            Some((axis, start, size)) if axis == query.1 => (start, size),
            Some(_) => return None,
        };
        let tokens = Self { query: query.0, key: key.0, value: inner.1, out: row.1, first, queries, keys: key.2 };
        (fits && row.2 == queries).then_some(tokens)
    }
}

/// The inputs of the operator while its operands are added to them.
#[derive(Default)]
struct Inputs(TVec<OutletId>);

impl Inputs {
    /// How an operand stands in its input, which other operands may share.
    fn view(&mut self, operand: &Operand, head: Option<usize>, token: usize, dim: Option<usize>) -> View {
        let input = self.0.iter().position(|i| *i == operand.outlet).unwrap_or_else(|| {
            self.0.push(operand.outlet);
            self.0.len() - 1
        });
        View {
            input,
            base: operand.base,
            head: operand.stride(head),
            token: operand.stride(Some(token)),
            dim: operand.stride(dim),
        }
    }
}

/// The operator and its inputs.
fn wire(
    context: &Context,
    model: &TypedModel,
    scores: &Scores,
    weighted: &Weighted<'_>,
    tokens: &Tokens,
) -> Option<(Attention, TVec<OutletId>)> {
    let (first, second) = (&scores.axes, &weighted.axes);
    let (mut factor, mut value_factor) = (scores.factor, 1.0);
    let query = Operand::new(model, scores.queries, &mut factor)?;
    let key = Operand::new(model, scores.keys, &mut factor)?;
    let value = Operand::new(model, weighted.values, &mut value_factor)?;
    if value_factor != 1.0 {
        return None;
    }
    let mut inputs = Inputs::default();
    let mut q = inputs.view(&query, first.head.map(|h| h.0), tokens.query, first.inner.map(|i| i.0));
    q.base += tokens.first * q.token;
    let k = inputs.view(&key, first.head.map(|h| h.1), tokens.key, first.inner.map(|i| i.1));
    let v = inputs.view(&value, second.head.map(|h| h.1), tokens.value, second.column.map(|c| c.0));
    let Inputs(inputs) = inputs;
    let volumes = inputs.iter().map(|i| shape_of(model, *i).map(|s| s.iter().product())).collect::<Option<_>>()?;
    let shape = shape_of(model, weighted.node.id.into())?;
    let out_strides = strides(&shape);
    let out = |place: Option<usize>| place.and_then(|p| out_strides.get(p)).copied().unwrap_or(0);
    let attention = Attention {
        heads: first.head.map_or(1, |h| h.3),
        queries: tokens.queries,
        keys: tokens.keys,
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
            token: out(Some(tokens.out)),
            dim: out(second.column.map(|c| c.1)),
        },
        shape,
        volumes,
        isa: context.isa,
        fused: context.fused,
    };
    Some((attention, inputs))
}
