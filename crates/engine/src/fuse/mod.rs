//! Rewrite rules: the operators of an imported graph, after tract has simplified it, become ours.
//!
//! A rule looks at what a node computes, not at its name, so it does not matter which exporter wrote the graph. Where
//! no rule matches, tract's own operators stay: slower, and right.

mod attention;
mod conv;
mod embedding;
mod epilogue;
mod head;
mod linear;
mod norm;
mod weight;

#[cfg(feature = "cuda")]
pub(crate) use epilogue::activation_of;
pub(crate) use weight::{LazyWeight, Stored};

use tract_core::internal::*;
use tract_core::ops::array::Gather;
use tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_core::ops::cnn::Conv;
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::konst::Const;
use tract_core::ops::nn::{RmsNorm, Softmax};
use tract_core::ops::source::TypedSource;

use super::budget::Budget;
use super::ops::{Attention, Conv2d, Embedding, GroupNorm, Linear, RowNorm};
use super::{Isa, OperatorCount, Source};

/// What a graph is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The CPU, whose instruction set decides how weights are packed.
    Cpu(Isa),
    /// A GPU, which gets the weights as they are.
    #[cfg(feature = "cuda")]
    Gpu,
}

impl Default for Target {
    fn default() -> Self {
        Self::Cpu(Isa::default())
    }
}

impl Target {
    pub(crate) fn is_gpu(self) -> bool {
        !matches!(self, Self::Cpu(_))
    }

    /// The instruction set of what runs on the CPU.
    fn isa(self) -> Isa {
        match self {
            Self::Cpu(isa) => isa,
            #[cfg(feature = "cuda")]
            Self::Gpu => Isa::PORTABLE,
        }
    }
}

/// What the rules need to know.
#[derive(Default)]
pub(crate) struct Context {
    pub(crate) target: Target,
    pub(crate) isa: Isa,
    /// Whether f32 products may use fused multiply-add. Not beside int8 weights, so that such a graph gives the same
    /// numbers on every processor.
    pub(crate) fused: bool,
    /// Where the weights are.
    pub(crate) source: Source,
}

/// Puts our operators into a simplified model. Says whether some weights of products have fewer than 32 bits in the
/// file.
pub(crate) fn fuse(model: &mut TypedModel, target: Target, source: &Source, budget: &Arc<Budget>) -> TractResult<bool> {
    let narrow = model.nodes().iter().any(|n| n.op_as::<LazyWeight>().is_some_and(LazyWeight::is_narrow));
    let fused = !model.nodes().iter().any(|n| n.op_as::<LazyWeight>().is_some_and(LazyWeight::is_int8));
    let context = Context { target, isa: target.isa(), fused, source: source.clone() };
    round(&context, model)?;
    // What tract simplifies once our operators are in place may match a rule that did not match before.
    budget.declutter(model)?;
    round(&context, model)?;
    Rewriter::default().with_rule_for::<Conv2d>("before a convolution", conv::before).rewrite(&context, model)?;
    budget.declutter(model)?;
    weight::materialize(&context, model)?;
    head::mark(model);
    Ok(narrow)
}

fn round(context: &Context, model: &mut TypedModel) -> TractResult<()> {
    Rewriter::default()
        .with_rule_for::<RmsNorm>("row norm", norm::row_norm)
        .with_rule_for::<Softmax>("attention", attention::attention)
        .with_rule_for::<Gather>("embedding", embedding::embedding)
        .rewrite(context, model)?;
    Rewriter::default()
        .with_rule_for::<RowNorm>("group norm", norm::group_norm)
        .with_rule_for::<EinSum>("linear", linear::linear)
        .with_rule_for::<Conv>("convolution", conv::conv)
        .rewrite(context, model)?;
    Rewriter::default()
        .with_rule_for::<TypedBinOp>("scale and shift of a norm", norm::affine)
        .with_rule_for::<TypedBinOp>("bias", epilogue::bias)
        .with_rule_for::<ElementWiseOp>("activation", epilogue::activation)
        .rewrite(context, model)?;
    Rewriter::default().with_rule_for::<TypedBinOp>("residual", epilogue::residual).rewrite(context, model)
}

/// How many operators of each kind a model has: ours first, with what they compute, then tract's.
pub(crate) fn count(model: &TypedModel) -> Vec<OperatorCount> {
    let mut counts = std::collections::BTreeMap::new();
    for node in model.nodes().iter().filter(|node| !node.op_is::<Const>() && !node.op_is::<TypedSource>()) {
        let ours = node.op_is::<Linear>()
            || node.op_is::<Conv2d>()
            || node.op_is::<Attention>()
            || node.op_is::<Embedding>()
            || node.op_is::<RowNorm>()
            || node.op_is::<GroupNorm>();
        let detail = if ours { node.op.info().unwrap_or_default().pop() } else { None };
        *counts.entry((!ours, node.op.name().into_owned(), detail)).or_insert(0) += 1;
    }
    counts.into_iter().map(|((_, name, detail), count)| OperatorCount { name, detail, count }).collect()
}

/// The concrete shape of an outlet in f32.
fn shape_of(model: &TypedModel, outlet: OutletId) -> Option<TVec<usize>> {
    let fact = model.outlet_fact(outlet).ok()?;
    (fact.datum_type == DatumType::F32).then_some(())?;
    fact.shape.as_concrete().map(Into::into)
}

/// From one place along each axis to the next, in a tensor whose last axis runs fastest.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// The numbers of a constant in f32.
fn constant(model: &TypedModel, outlet: OutletId) -> Option<Arc<Tensor>> {
    let tensor = model.outlet_fact(outlet).ok()?.konst.clone()?;
    (tensor.datum_type() == DatumType::F32).then_some(tensor)
}

/// A constant with one number in f32.
fn scalar(model: &TypedModel, outlet: OutletId) -> Option<f32> {
    let tensor = constant(model, outlet)?;
    (tensor.len() == 1).then_some(())?;
    tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.first().copied()
}

/// Whether exactly one node reads the node's only output.
fn read_once(model: &TypedModel, node: &TypedNode) -> bool {
    node.outputs.len() == 1
        && node.outputs[0].successors.len() == 1
        && !model.outputs.iter().any(|output| output.node == node.id)
}

/// The two inputs of a binary operation of type `B`.
fn binary<B: BinMiniOp>(model: &TypedModel, outlet: OutletId) -> Option<[OutletId; 2]> {
    let node = model.node(outlet.node);
    node.op_as::<TypedBinOp>().filter(|op| op.0.is::<B>())?;
    node.inputs.as_slice().try_into().ok()
}

/// The node of type `O` behind an outlet, seen through axis operations; every node on the way is read once. The
/// operations are in the order in which they are applied.
fn behind_axes<O: Op>(model: &TypedModel, outlet: OutletId) -> Option<(&TypedNode, Vec<AxisOp>)> {
    let mut axes = Vec::new();
    let mut node = model.node(outlet.node);
    loop {
        if !read_once(model, node) {
            return None;
        }
        if node.op_is::<O>() {
            axes.reverse();
            return Some((node, axes));
        }
        axes.push(node.op_as::<AxisOp>()?.clone());
        node = model.node(node.inputs.first()?.node);
    }
}

/// Applies axis operations.
fn wire_axes(patch: &mut TypedModelPatch, name: &str, axes: &[AxisOp], mut wire: OutletId) -> TractResult<OutletId> {
    for (i, op) in axes.iter().enumerate() {
        wire = patch.wire_node(format!("{name}.axes{i}"), op.clone(), &[wire])?[0];
    }
    Ok(wire)
}

/// Puts `op` in the place of `node`, seen through `axes`: what `outside` gave is now what the operator and the axes
/// give.
fn replace(
    model: &TypedModel,
    outside: &TypedNode,
    op: impl Into<Box<dyn TypedOp>>,
    inputs: &[OutletId],
    axes: &[AxisOp],
) -> TractResult<Option<TypedModelPatch>> {
    let mut patch = TypedModelPatch::default();
    let taps = patch.taps(model, inputs)?;
    let name = &outside.name;
    let wire = patch.wire_node(format!("{name}.fused"), op, &taps)?[0];
    let wire = wire_axes(&mut patch, name, axes, wire)?;
    patch.shunt_outside(model, outside.id.into(), wire)?;
    Ok(Some(patch))
}
