//! From an ONNX file to a graph that a device can run: checks, tract's simplification, our operators.

use tract_onnx::prelude::*;

use super::budget::Budget;
use super::fuse::{self, Target};
use super::{DType, Input, Port, Signature, Source};
use super::{check, guard, lazy, rules, skeleton};
use maskgit_core::{Error, LoadLimits, Result, panics};
use maskgit_kernels::pool;

/// The largest tensor inside a graph, in elements. A file of a hundred bytes can ask for any size.
pub(super) const MAX_ELEMENTS: usize = 1 << 30;
/// Longer causes are cut: tract may print a whole node, weights and all.
const MAX_CAUSE_CHARS: usize = 400;

pub(super) fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(MAX_CAUSE_CHARS).collect();
    if clipped.len() < text.len() {
        clipped.push_str("...");
    }
    clipped
}

pub(super) fn failed(what: &str, error: &TractError) -> Error {
    Error::engine(format!("{what}: {}", clip(&format!("{error:#}"))))
}

fn datum_type(dtype: DType) -> DatumType {
    match dtype {
        DType::I64 => DatumType::I64,
        DType::F32 => DatumType::F32,
    }
}

/// A graph of our operators and what is left of tract's.
pub(super) struct Imported {
    pub(super) model: TypedModel,
    /// Whether some weights have fewer than 32 bits in the file. The CPU does not ask: it computes those of fp16 in
    /// fp32.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(super) narrow: bool,
    /// What is left of the time and steps that the load may take.
    pub(super) budget: Arc<Budget>,
}

/// From the bytes of an ONNX file to a graph for a device.
pub(super) fn import(source: &Source, signature: &Signature, target: Target, limits: &LoadLimits) -> Result<Imported> {
    // What the file says of the shapes inside is ignored: with concrete inputs, they all follow.
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let skeleton = skeleton::skeleton(source)?;
    let mut proto =
        onnx.proto_model_for_read(&mut skeleton.bytes.as_slice()).map_err(|e| failed("it is not an ONNX model", &e))?;
    let places = check::check(&proto, signature, &onnx.op_register)?;
    lazy::take(&mut proto, &skeleton.raw, source)?;
    drop(skeleton);
    lazy::register(&mut onnx);
    let nodes = proto.graph.as_ref().map_or(&[][..], |graph| graph.node.as_slice());
    let budget = Arc::new(Budget::new(limits, nodes.len()));
    let cannot = |e: TractError| budget.error(failed("cannot prepare the graph", &e));
    let mut model = onnx.model_for_proto_model(&proto).map_err(|e| failed("cannot import the graph", &e))?;
    guard::guard(&mut model, nodes, &budget).map_err(cannot)?;
    // The weights are in the model now: do not hold them twice.
    drop(proto);

    let inputs = permuted(model.input_outlets().map_err(cannot)?, &places.inputs)?;
    let outputs = permuted(model.output_outlets().map_err(cannot)?, &places.outputs)?;
    model.set_input_outlets(&inputs).map_err(cannot)?;
    model.select_output_outlets(&outputs).map_err(cannot)?;
    for (index, port) in signature.inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(datum_type(port.dtype), port.shape.as_slice());
        model.set_input_fact(index, fact).map_err(cannot)?;
    }
    model.analyse(false).map_err(cannot)?;
    let typed = model.into_typed().map_err(cannot)?;
    for node in typed.nodes() {
        for output in &node.outputs {
            check_size(&node.name, &output.fact.shape)?;
        }
    }
    for (index, port) in signature.outputs.iter().enumerate() {
        check_output(port, typed.output_fact(index).map_err(cannot)?)?;
    }
    let mut model = typed;
    budget.declutter(&mut model).map_err(cannot)?;
    let narrow = fuse::fuse(&mut model, target, source, &budget).map_err(cannot)?;
    Ok(Imported { model, narrow, budget })
}

/// Refuses a tensor that is too large, or whose size is not known before the run.
fn check_size(name: &str, shape: &[TDim]) -> Result<()> {
    if rules::volume(shape).is_some_and(|volume| volume <= MAX_ELEMENTS) {
        return Ok(());
    }
    Err(Error::engine(format!(
        "\"{}\" in the graph has the shape {shape:?}; at most {MAX_ELEMENTS} elements are allowed",
        clip(name)
    )))
}

fn permuted(outlets: &[OutletId], places: &[usize]) -> Result<Vec<OutletId>> {
    let take = |&place: &usize| outlets.get(place).copied();
    places
        .iter()
        .map(take)
        .collect::<Option<Vec<_>>>()
        .filter(|_| outlets.len() == places.len())
        .ok_or_else(|| Error::engine("the graph's inputs and outputs are not those it lists"))
}

/// Compares an output, as tract has worked it out, with the signature.
fn check_output(port: &Port, fact: &TypedFact) -> Result<()> {
    // tract has a type of its own for integers that may be sizes.
    let dtype_fits =
        fact.datum_type == datum_type(port.dtype) || (port.dtype == DType::I64 && fact.datum_type == DatumType::TDim);
    if dtype_fits && fact.shape.as_concrete() == Some(port.shape.as_slice()) {
        return Ok(());
    }
    Err(Error::engine(format!(
        "the graph's output \"{}\" is {:?}{:?}; it must be {}{:?}",
        port.name, fact.datum_type, fact.shape, port.dtype, port.shape
    )))
}

/// Runs `work` with these threads, and turns a panic into an error.
///
/// tract checks most of what a file can get wrong, not all of it. The panic must be caught inside the scope: unwinding
/// through it would leave the threads set for this one.
pub(super) fn guarded<T>(threads: &pool::Threads, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    pool::scope(threads, || panics::caught(work))
        .unwrap_or_else(|panic| Err(Error::engine(format!("cannot {what}: {}", clip(&panic.text)))))
}

/// Compares what a caller gives with the signature.
pub(super) fn check_inputs(ports: &[Port], inputs: &[Input<'_>]) -> Result<()> {
    if inputs.len() != ports.len() {
        return Err(Error::engine(format!("the graph takes {} inputs, it was given {}", ports.len(), inputs.len())));
    }
    for (port, input) in ports.iter().zip(inputs) {
        if input.dtype() != port.dtype || input.shape() != port.shape {
            return Err(Error::engine(format!(
                "the input \"{}\" is {}{:?}; it must be {}{:?}",
                port.name,
                input.dtype(),
                input.shape(),
                port.dtype,
                port.shape
            )));
        }
    }
    Ok(())
}
