//! The CPU, by tract.

use std::sync::{Arc, Mutex};

use tract_onnx::prelude::*;

use super::fuse::{self, Target};
use super::import::{Imported, check_inputs, failed, guarded, import};
use super::wanted::{self, Row};
use super::{DType, Engine, Input, Isa, OperatorCount, Output, Port, Session, Signature, Source, wrong_shape};
use maskgit_core::{Error, LoadLimits, Result};
use maskgit_kernels::pool;
use ndarray::{ArrayD, ArrayView2, ArrayViewMut3};

const MAX_THREADS: usize = 1024;

/// Runs graphs on the CPU.
///
/// With one thread, everything runs on the thread that calls. With more, our operators share their work with helpers
/// that belong to this engine and to nothing else. The number of threads changes who computes a number, never how:
/// results are the same to the bit.
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
    /// Kind [`Request`](maskgit_core::ErrorKind::Request) for another number,
    /// [`Engine`](maskgit_core::ErrorKind::Engine) when the system gives no more threads.
    pub fn new(threads: usize) -> Result<Self> {
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(Error::request(format!("{threads} threads were asked for; it must be 1 to {MAX_THREADS}")));
        }
        let pool = if threads == 1 {
            None
        } else {
            let pool = pool::Pool::new(threads);
            Some(Arc::new(pool.map_err(|e| Error::engine(format!("cannot start {threads} threads")).with_source(e))?))
        };
        Ok(Self { pool, threads, isa: Isa::best() })
    }

    /// The same engine with the kernels of another instruction set.
    #[must_use]
    pub fn with_isa(mut self, isa: Isa) -> Self {
        self.isa = isa;
        self
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

    fn load(&self, graph: &Source, signature: &Signature, limits: &LoadLimits) -> Result<Box<dyn Session>> {
        let plan = guarded(&self.pool, "load the graph", || {
            let Imported { mut model, budget, .. } = import(graph, signature, Target::Cpu(self.isa), limits)?;
            let cannot = |e| budget.error(failed("cannot prepare the graph", &e));
            budget.declutter(&mut model).and_then(|()| budget.codegen(&mut model)).map_err(cannot)?;
            model.into_runnable().map_err(cannot)
        })?;
        let (pool, signature) = (self.pool.clone(), signature.clone());
        Ok(Box::new(CpuSession { pool, signature, plan, states: Vec::new() }))
    }
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
        self.pool.as_ref().map_or(1, |pool| pool.threads())
    }

    fn spawn(&self) -> Result<TypedSimpleState> {
        self.plan.spawn().map_err(|e| failed("cannot prepare the graph", &e))
    }
}

/// What becomes of a row's outputs: given the row's place and its values.
type Take<'a, T> = &'a (dyn Fn(usize, &[TValue]) -> Result<T> + Sync);

/// A prepared graph, without the states that run it.
struct Graph<'a> {
    signature: &'a Signature,
    plan: &'a Arc<TypedRunnableModel>,
}

impl Graph<'_> {
    /// Runs the graph once, and puts its state in order when that fails.
    fn run<T>(
        &self,
        threads: &pool::Threads,
        state: &mut TypedSimpleState,
        (inputs, wanted): Row<'_, '_>,
        take: impl FnOnce(&[TValue]) -> Result<T>,
    ) -> Result<T> {
        let tensors = tensors(&self.signature.inputs, inputs)?;
        let result = wanted::scope(wanted, || {
            guarded(threads, "run the graph", || {
                let values = state.run(tensors).map_err(|e| failed("cannot run the graph", &e))?;
                if values.len() != self.signature.outputs.len() {
                    return Err(Error::engine("the graph gave a wrong number of outputs"));
                }
                for (port, value) in self.signature.outputs.iter().zip(&values) {
                    check_shape(port, value)?;
                }
                take(&values)
            })
        });
        if result.is_err() {
            // A state that stopped half-way still holds that turn's values.
            *state = self.plan.spawn().map_err(|e| failed("cannot prepare the graph again", &e))?;
        }
        result
    }
}

impl CpuSession {
    /// Runs the graph for each row: side by side, a thread each, where there are enough of them.
    fn rows<T: Send>(&mut self, rows: &[Row<'_, '_>], take: Take<'_, T>) -> Result<Vec<T>> {
        let mut results = Vec::with_capacity(rows.len());
        let threads = self.threads();
        for (group, first) in rows.chunks(threads).zip((0..).step_by(threads)) {
            let side_by_side = if group.len() == threads { self.pool.clone() } else { None };
            while self.states.len() < side_by_side.as_ref().map_or(1, |_| threads) {
                self.states.push(self.spawn()?);
            }
            let Self { pool, signature, plan, states } = self;
            let graph = Graph { signature, plan };
            let Some(shared) = side_by_side else {
                // Too few rows to keep every thread busy with one: all threads share each.
                let state = states.first_mut().ok_or_else(|| Error::internal("a graph has no state"))?;
                for (&row, place) in group.iter().zip(first..) {
                    results.push(graph.run(pool, state, row, |values| take(place, values))?);
                }
                continue;
            };
            let turns: Vec<_> = states.iter_mut().zip(group).map(|turn| Mutex::new((turn, None))).collect();
            shared.run(turns.len(), &|index| {
                if let Some(Ok(mut turn)) = turns.get(index).map(Mutex::lock) {
                    let ((state, row), done) = &mut *turn;
                    *done = Some(graph.run(&None, state, **row, |values| take(first + index, values)));
                }
            });
            for turn in turns {
                let done = turn.into_inner().ok().and_then(|(_, done)| done);
                results.push(done.unwrap_or_else(|| Err(Error::internal("a row was not computed")))?);
            }
        }
        Ok(results)
    }

    fn outputs(&mut self, rows: &[Row<'_, '_>]) -> Result<Vec<Vec<Output>>> {
        let ports = self.signature.outputs.clone();
        self.rows(rows, &|_, values| ports.iter().zip(values).map(|(port, value)| output(port, value)).collect())
    }
}

impl Session for CpuSession {
    fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>> {
        self.outputs(&[(inputs, None)])?.pop().ok_or_else(|| Error::internal("a run gave no row"))
    }

    fn run_rows(&mut self, rows: &[&[Input<'_>]]) -> Result<Vec<Vec<Output>>> {
        self.outputs(&wanted::rows(rows, &[]))
    }

    fn run_into(&mut self, rows: &[&[Input<'_>]], wanted: &[&[bool]], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let places: Vec<_> = out.outer_iter_mut().map(Mutex::new).collect();
        let write = |row: usize, values: &[TValue]| {
            let place = places.get(row).and_then(|place| place.lock().ok());
            let (Some(mut place), Some(value)) = (place, values.first()) else {
                return Err(Error::internal("a row has no place for its logits"));
            };
            let logits = floats(value)?;
            let shape = place.raw_dim();
            let logits =
                ArrayView2::from_shape(shape, logits).map_err(|_| wrong_shape(value.shape(), place.shape()))?;
            place.assign(&logits);
            Ok(())
        };
        self.rows(&wanted::rows(rows, wanted), &write).map(drop)
    }

    fn rows_at_once(&self) -> usize {
        self.threads()
    }

    fn describe(&self) -> Vec<OperatorCount> {
        fuse::count(self.plan.model())
    }
}

fn tensors(ports: &[Port], inputs: &[Input<'_>]) -> Result<TVec<TValue>> {
    check_inputs(ports, inputs)?;
    let tensor = |input: &Input<'_>| -> TValue {
        match input {
            Input::I64(view) => Tensor::from(view.to_owned()).into(),
            Input::F32(view) => Tensor::from(view.to_owned()).into(),
        }
    };
    Ok(inputs.iter().map(tensor).collect())
}

fn check_shape(port: &Port, value: &TValue) -> Result<()> {
    if value.shape() == port.shape {
        return Ok(());
    }
    Err(Error::engine(format!(
        "the output \"{}\" came with the shape {:?}; it must be {:?}",
        port.name,
        value.shape(),
        port.shape
    )))
}

fn floats(value: &TValue) -> Result<&[f32]> {
    value.try_as_plain_ram().and_then(|plain| plain.as_slice::<f32>()).map_err(|e| failed("cannot read an output", &e))
}

fn output(port: &Port, value: &TValue) -> Result<Output> {
    let cannot = |e: TractError| failed("cannot read an output", &e);
    let fits = |_| wrong_shape(value.shape(), &port.shape);
    match port.dtype {
        DType::F32 => {
            Ok(Output::F32(ArrayD::from_shape_vec(port.shape.clone(), floats(value)?.to_vec()).map_err(fits)?))
        }
        DType::I64 => {
            let value = value.cast_to::<i64>().map_err(cannot)?;
            let data = value.view().as_slice::<i64>().map_err(cannot)?.to_vec();
            Ok(Output::I64(ArrayD::from_shape_vec(port.shape.clone(), data).map_err(fits)?))
        }
    }
}
