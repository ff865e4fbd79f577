//! The CPU, by tract.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rayon::prelude::*;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::{DimLike, Factoid};

use super::{DType, Engine, Input, Isa, OperatorCount, Output, Port, Session, Signature, Source};
use super::{check, fuse, lazy, pool, skeleton};
use crate::error::{Error, Result};

const MAX_THREADS: usize = 1024;
/// The largest tensor inside a graph, in elements. A file of a hundred bytes can ask for any size.
const MAX_ELEMENTS: usize = 1 << 30;
/// Longer causes are cut: tract may print a whole node, weights and all.
const MAX_CAUSE_CHARS: usize = 400;

/// Runs graphs on the CPU.
///
/// With one thread, everything runs on the thread that calls. With more, our operators share their work among a pool that belongs to this engine and to nothing else. The number of threads changes who
/// computes a number, never how: results are the same to the bit.
#[derive(Debug)]
pub struct CpuEngine {
    pool: pool::Threads,
    threads: usize,
    isa: Isa,
}

impl CpuEngine {
    /// An engine with `threads` threads, 1 to 1024.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) for another number, [`Engine`](crate::ErrorKind::Engine) when the
    /// system gives no more threads.
    pub fn new(threads: usize) -> Result<Self> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(Error::request(format!("{threads} threads were asked for; it must be 1 to {MAX_THREADS}")));
        }
        let pool = if threads == 1 {
            None
        } else {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|i| format!("maskgit-cpu-{i}"))
                .build()
                .map_err(|e| Error::engine(format!("cannot start {threads} threads")).with_source(e))?;
            Some(Arc::new(pool))
        };
        Ok(Self { pool, threads, isa: Isa::best() })
    }

    /// The same engine with the kernels of another instruction set.
    ///
    /// # Errors
    ///
    /// Kind [`Engine`](crate::ErrorKind::Engine) when this processor does not have it.
    pub fn with_isa(mut self, isa: Isa) -> Result<Self> {
        if !isa.is_available() {
            return Err(Error::engine(format!("this processor does not have the instruction set {isa}")));
        }
        self.isa = isa;
        Ok(self)
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }
}

impl Engine for CpuEngine {
    fn name(&self) -> &str {
        "cpu"
    }

    fn load(&self, graph: &Source, signature: &Signature) -> Result<Box<dyn Session>> {
        let plan = guarded(&self.pool, "load the graph", || import(graph, signature, self.isa))?;
        let (pool, signature) = (self.pool.clone(), signature.clone());
        Ok(Box::new(CpuSession { pool, signature, plan, states: Vec::new() }))
    }
}

/// Runs `work` with these threads, and turns a panic into an error.
///
/// tract checks most of what a file can get wrong, not all of it. The panic must be caught inside the scope: unwinding
/// through it would leave the threads set for this one.
fn guarded<T>(threads: &pool::Threads, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    pool::scope(threads, || catch_unwind(AssertUnwindSafe(work))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::engine(format!("cannot {what}: {}", clip(text.unwrap_or("it panicked")))))
    })
}

fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(MAX_CAUSE_CHARS).collect();
    if clipped.len() < text.len() {
        clipped.push_str("...");
    }
    clipped
}

fn failed(what: &str, error: &TractError) -> Error {
    Error::engine(format!("{what}: {}", clip(&format!("{error:#}"))))
}

fn datum_type(dtype: DType) -> DatumType {
    match dtype {
        DType::I64 => DatumType::I64,
        DType::F32 => DatumType::F32,
    }
}

/// From the bytes of an ONNX file to a plan.
fn import(source: &Source, signature: &Signature, isa: Isa) -> Result<Arc<TypedRunnableModel>> {
    // What the file says of the shapes inside is ignored: with concrete inputs, they all follow.
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    let skeleton = skeleton::skeleton(source)?;
    let mut proto =
        onnx.proto_model_for_read(&mut skeleton.bytes.as_slice()).map_err(|e| failed("it is not an ONNX model", &e))?;
    let places = check::check(&proto, signature, &onnx.op_register)?;
    lazy::take(&mut proto, &skeleton.raw, source)?;
    drop(skeleton);
    lazy::register(&mut onnx);
    let mut model = onnx.model_for_proto_model(&proto).map_err(|e| failed("cannot import the graph", &e))?;
    // The weights are in the model now: do not hold them twice.
    drop(proto);

    let cannot = |e: TractError| failed("cannot prepare the graph", &e);
    let inputs = permuted(model.input_outlets().map_err(cannot)?, &places.inputs)?;
    let outputs = permuted(model.output_outlets().map_err(cannot)?, &places.outputs)?;
    model.set_input_outlets(&inputs).map_err(cannot)?;
    model.select_output_outlets(&outputs).map_err(cannot)?;
    for (index, port) in signature.inputs.iter().enumerate() {
        let fact = InferenceFact::dt_shape(datum_type(port.dtype), port.shape.as_slice());
        model.set_input_fact(index, fact).map_err(cannot)?;
    }
    // The sizes, first as the analysis has them, then all of them: before anything that large is computed.
    model.analyse(false).map_err(cannot)?;
    for node in model.nodes() {
        let mut shapes = node.outputs.iter().filter_map(|o| o.fact.shape.concretize());
        shapes.try_for_each(|s| check_size(&node.name, &s))?;
    }
    let typed = model.into_typed().map_err(cannot)?;
    for node in typed.nodes() {
        for output in &node.outputs {
            check_size(&node.name, &output.fact.shape)?;
        }
    }
    for (index, port) in signature.outputs.iter().enumerate() {
        check_output(port, typed.output_fact(index).map_err(cannot)?)?;
    }
    let mut model = typed.into_decluttered().map_err(cannot)?;
    fuse::fuse(&mut model, isa, source).map_err(cannot)?;
    model.into_optimized().and_then(|m| m.into_runnable()).map_err(cannot)
}

/// Refuses a tensor that is too large. A size that is not known before the run is taken for 1.
fn check_size(name: &str, shape: &[TDim]) -> Result<()> {
    let volume = shape.iter().map(|d| d.to_usize().unwrap_or(1)).try_fold(1usize, |a, d| a.checked_mul(d));
    if volume.is_some_and(|v| v <= MAX_ELEMENTS) {
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

struct CpuSession {
    pool: pool::Threads,
    signature: Signature,
    plan: Arc<TypedRunnableModel>,
    /// One for each row that runs at the same time.
    states: Vec<TypedSimpleState>,
}

impl CpuSession {
    fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    fn spawn(&self) -> Result<TypedSimpleState> {
        self.plan.spawn().map_err(|e| failed("cannot prepare the graph", &e))
    }
}

/// Runs a graph once, and puts its state in order when that fails.
fn run_one(
    threads: &pool::Threads,
    signature: &Signature,
    plan: &Arc<TypedRunnableModel>,
    state: &mut TypedSimpleState,
    inputs: &[Input<'_>],
) -> Result<Vec<Output>> {
    let tensors = tensors(&signature.inputs, inputs)?;
    let result = guarded(threads, "run the graph", || {
        let values = state.run(tensors).map_err(|e| failed("cannot run the graph", &e))?;
        if values.len() != signature.outputs.len() {
            return Err(Error::engine("the graph gave a wrong number of outputs"));
        }
        signature.outputs.iter().zip(&values).map(|(port, value)| output(port, value)).collect()
    });
    if result.is_err() {
        // A state that stopped half-way still holds that turn's values.
        *state = plan.spawn().map_err(|e| failed("cannot prepare the graph again", &e))?;
    }
    result
}

impl Session for CpuSession {
    fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>> {
        if self.states.is_empty() {
            self.states.push(self.spawn()?);
        }
        let state = self.states.first_mut().ok_or_else(|| Error::internal("a graph has no state"))?;
        run_one(&self.pool, &self.signature, &self.plan, state, inputs)
    }

    fn run_rows(&mut self, rows: &[&[Input<'_>]]) -> Result<Vec<Vec<Output>>> {
        let mut results = Vec::with_capacity(rows.len());
        let threads = self.threads();
        for group in rows.chunks(threads) {
            let Some(pool) = &self.pool else {
                results.push(self.run(group.first().copied().unwrap_or_default())?);
                continue;
            };
            if group.len() < threads {
                // Too few rows to keep every thread busy with one: all threads share each.
                for row in group {
                    results.push(self.run(row)?);
                }
                continue;
            }
            let pool = Arc::clone(pool);
            while self.states.len() < threads {
                self.states.push(self.spawn()?);
            }
            let Self { signature, plan, states, .. } = self;
            let done: Vec<Result<Vec<Output>>> = pool.install(|| {
                states
                    .par_iter_mut()
                    .zip(group)
                    .map(|(state, row)| run_one(&None, signature, plan, state, row))
                    .collect()
            });
            for result in done {
                results.push(result?);
            }
        }
        Ok(results)
    }

    fn describe(&self) -> Vec<OperatorCount> {
        fuse::count(self.plan.model())
    }
}

fn tensors(ports: &[Port], inputs: &[Input<'_>]) -> Result<TVec<TValue>> {
    if inputs.len() != ports.len() {
        return Err(Error::engine(format!("the graph takes {} inputs, it was given {}", ports.len(), inputs.len())));
    }
    let mut tensors = tvec!();
    for (port, input) in ports.iter().zip(inputs) {
        if input.dtype() != port.dtype
            || input.shape() != port.shape
            || input.len() != port.shape.iter().product::<usize>()
        {
            return Err(Error::engine(format!(
                "the input \"{}\" is {}{:?} with {} numbers; it must be {}{:?}",
                port.name,
                input.dtype(),
                input.shape(),
                input.len(),
                port.dtype,
                port.shape
            )));
        }
        let tensor = match input {
            Input::I64 { shape, data } => Tensor::from_shape(shape, data),
            Input::F32 { shape, data } => Tensor::from_shape(shape, data),
        };
        tensors.push(tensor.map_err(|e| failed("cannot make a tensor", &e))?.into());
    }
    Ok(tensors)
}

fn output(port: &Port, value: &TValue) -> Result<Output> {
    let cannot = |e: TractError| failed("cannot read an output", &e);
    let shape = value.shape().to_vec();
    if shape != port.shape {
        return Err(Error::engine(format!(
            "the output \"{}\" came with the shape {shape:?}; it must be {:?}",
            port.name, port.shape
        )));
    }
    match port.dtype {
        DType::F32 => {
            let data = value.view().as_slice::<f32>().map_err(cannot)?.to_vec();
            Ok(Output::F32 { shape, data })
        }
        DType::I64 => {
            let value = value.cast_to::<i64>().map_err(cannot)?;
            let data = value.view().as_slice::<i64>().map_err(cannot)?.to_vec();
            Ok(Output::I64 { shape, data })
        }
    }
}
