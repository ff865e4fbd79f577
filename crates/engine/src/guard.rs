//! tract's operators under guard: before each is analysed, its attributes are held against the ranks and sizes of what
//! it reads, and after it, the sizes that it gives against what a tensor may have. The importer itself checks few of
//! them, and an axis that does not exist can cost all memory.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::budget::Budget;
use super::import::{MAX_ELEMENTS, clip};
use super::rules::{self, Attributes};

/// A constant that the import computes from smaller ones may have as many bytes.
const MAX_MADE: usize = 64 << 20;
/// The most multiplications of one product of constants.
const MAX_FOLDED: usize = 1 << 34;
/// The most axes of a tensor.
const MAX_RANK: usize = 12;

/// Puts the operators of a freshly parsed model under guard; `nodes` are the file's.
pub(super) fn guard(model: &mut InferenceModel, nodes: &[NodeProto], budget: &Arc<Budget>) -> TractResult<()> {
    // Sources and constants come first; the others are the file's, in its order.
    let first = model.nodes().len().checked_sub(nodes.len()).context("nodes were lost")?;
    for (node, proto) in model.nodes.iter_mut().skip(first).zip(nodes) {
        let op = std::mem::replace(&mut node.op, Box::new(tract_onnx::tract_core::ops::dummy::Dummy::new()));
        node.op = Box::new(Guarded { op, attributes: Arc::new(Attributes::new(proto)), budget: Arc::clone(budget) });
    }
    Ok(())
}

/// An operator of the file.
#[derive(Clone, Debug)]
struct Guarded {
    op: Box<dyn InferenceOp>,
    attributes: Arc<Attributes>,
    budget: Arc<Budget>,
}

impl PartialEq for Guarded {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}
impl Eq for Guarded {}

impl Op for Guarded {
    fn name(&self) -> StaticName {
        self.op.name()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        self.op.info()
    }

    fn validation(&self) -> Validation {
        self.op.validation()
    }

    not_a_typed_op!();
}

impl EvalOp for Guarded {
    fn eval(&self, context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        self.op.eval(context, inputs)
    }

    fn eval_out_of_plan(&self, inputs: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        self.op.eval_out_of_plan(inputs)
    }

    fn state(&self, context: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        self.op.state(context)
    }
}

type Facts = TVec<InferenceFact>;

impl InferenceOp for Guarded {
    fn infer(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(Facts, Facts, Facts)> {
        self.budget.step()?;
        self.attributes.check(&inputs).map_err(|what| format_err!("{what}"))?;
        let (inputs, outputs, observed) = self.op.infer_facts(inputs, outputs, observed)?;
        for fact in inputs.iter().chain(&outputs) {
            check_fact(fact)?;
        }
        if let Some(values) = self.fold(&inputs, &outputs)? {
            return Ok((inputs, values, observed));
        }
        Ok((inputs, outputs, observed))
    }

    fn infer_facts(
        &mut self,
        inputs: TVec<&InferenceFact>,
        outputs: TVec<&InferenceFact>,
        observed: TVec<&InferenceFact>,
    ) -> TractResult<(Facts, Facts, Facts)> {
        self.op.infer_facts(inputs, outputs, observed)
    }

    fn observe_outlets(&self, model: &InferenceModel, node: &InferenceNode) -> TractResult<Vec<OutletId>> {
        self.op.observe_outlets(model, node)
    }

    fn incorporate(&self, model: &InferenceModel, node: &InferenceNode) -> TractResult<Option<InferenceModelPatch>> {
        self.op.incorporate(model, node)
    }

    fn nboutputs(&self) -> TractResult<usize> {
        self.op.nboutputs()
    }

    // What looks for an operator by its type finds the one under guard.
    fn as_op(&self) -> &dyn Op {
        self.op.as_op()
    }

    fn as_op_mut(&mut self) -> &mut dyn Op {
        self.op.as_op_mut()
    }

    fn to_typed(
        &self,
        source: &InferenceModel,
        node: &InferenceNode,
        target: &mut TypedModel,
        mapping: &HashMap<OutletId, OutletId>,
    ) -> TractResult<TVec<OutletId>> {
        self.budget.step()?;
        self.op.to_typed(source, node, target, mapping)
    }
}

impl Guarded {
    /// The outputs' values, where all inputs are known and none of the values is large beside them. What is not
    /// computed here is computed when the graph runs.
    fn fold(&self, inputs: &[InferenceFact], outputs: &[InferenceFact]) -> TractResult<Option<Facts>> {
        let values: Option<TVec<Arc<Tensor>>> = inputs.iter().map(|fact| fact.value.concretize()).collect();
        let Some(values) = values.filter(|values| !values.is_empty()) else { return Ok(None) };
        if values.iter().any(|value| !value.is_plain_ram()) {
            return Ok(None);
        }
        let made = outputs.iter().filter_map(bytes).fold(0, usize::saturating_add);
        let read = values.iter().map(|v| v.volume() * v.datum_type().size_of()).fold(0, usize::saturating_add);
        ensure!(
            made <= MAX_MADE.max(read),
            "it makes a constant of {made} bytes out of {read}; at most {MAX_MADE} are allowed"
        );
        if self.attributes.is_product() {
            let work = values.iter().map(|v| v.volume()).fold(1, usize::saturating_mul);
            ensure!(work <= MAX_FOLDED, "it is a product of constants that takes too long to compute");
        }
        if made.max(read) > tract_onnx::tract_core::optim::CONST_FOLD_MEM_BUDGET as usize {
            return Ok(None);
        }
        let computed = self.op.eval_out_of_plan(values.into_iter().map(|v| v.into_tvalue()).collect());
        match computed {
            Ok(None) => Ok(None),
            Ok(Some(values)) => {
                let facts = values.into_iter().map(|value| value.into_arc_tensor().try_into());
                facts.collect::<TractResult<Facts>>().map(Some)
            }
            Err(e) if e.root_cause().downcast_ref::<tract_onnx::tract_core::tract_data::TooEarly>().is_some() => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// The bytes of a tensor, where its type and shape are known.
fn bytes(fact: &InferenceFact) -> Option<usize> {
    let shape = fact.shape.concretize()?;
    let volume = rules::volume(&shape)?;
    Some(volume.saturating_mul(fact.datum_type.concretize().map_or(8, |dt| dt.size_of())))
}

/// Refuses a tensor that no graph of the family has, as soon as its shape is known.
fn check_fact(fact: &InferenceFact) -> TractResult<()> {
    if let Some(rank) = fact.shape.rank().concretize() {
        ensure!(rank <= MAX_RANK as i64, "a tensor has {rank} axes; at most {MAX_RANK} are allowed");
    }
    for dim in fact.shape.dims().filter_map(|dim| dim.concretize()) {
        let size = dim
            .to_i64()
            .map_err(|_| format_err!("a size is {}: it depends on what the graph computes", clip(&dim.to_string())))?;
        ensure!(size >= 0, "a size is {size}");
    }
    if let Some(shape) = fact.shape.concretize() {
        let allowed = rules::volume(&shape).is_some_and(|volume| volume <= MAX_ELEMENTS);
        ensure!(allowed, "a tensor has the shape {shape:?}; at most {MAX_ELEMENTS} elements are allowed");
    }
    Ok(())
}
