//! The CPU, by tract.

use std::sync::{Arc, Mutex};

use tract_onnx::prelude::*;

use super::fuse::{self, Target};
use super::import::{check_inputs, failed, guarded, import};
use super::pool;
use super::wanted::{self, Row};
use super::{DType, Engine, Input, Isa, OperatorCount, Output, Port, Session, Signature, Source};
use crate::error::{Error, Result};

const MAX_THREADS: usize = 1024;

/// Runs graphs on the CPU.
///
/// With one thread, everything runs on the thread that calls. With more, our operators share their work with helpers that belong to this engine and to nothing else. The number of threads changes who
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
            let pool = pool::Pool::new(threads);
            Some(Arc::new(pool.map_err(|e| Error::engine(format!("cannot start {threads} threads")).with_source(e))?))
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
        let plan = guarded(&self.pool, "load the graph", || {
            let imported = import(graph, signature, Target::Cpu(self.isa))?;
            let plan = imported.model.into_optimized().and_then(|m| m.into_runnable());
            plan.map_err(|e| failed("cannot prepare the graph", &e))
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

/// Runs a graph once, and puts its state in order when that fails.
fn run_one(
    threads: &pool::Threads,
    signature: &Signature,
    plan: &Arc<TypedRunnableModel>,
    state: &mut TypedSimpleState,
    (inputs, wanted): Row<'_>,
) -> Result<Vec<Output>> {
    let tensors = tensors(&signature.inputs, inputs)?;
    let result = wanted::scope(wanted, || {
        guarded(threads, "run the graph", || {
            let values = state.run(tensors).map_err(|e| failed("cannot run the graph", &e))?;
            if values.len() != signature.outputs.len() {
                return Err(Error::engine("the graph gave a wrong number of outputs"));
            }
            signature.outputs.iter().zip(&values).map(|(port, value)| output(port, value)).collect()
        })
    });
    if result.is_err() {
        // A state that stopped half-way still holds that turn's values.
        *state = plan.spawn().map_err(|e| failed("cannot prepare the graph again", &e))?;
    }
    result
}

impl CpuSession {
    /// Runs the graph once, all threads on it.
    fn one(&mut self, row: Row<'_>) -> Result<Vec<Output>> {
        if self.states.is_empty() {
            self.states.push(self.spawn()?);
        }
        let state = self.states.first_mut().ok_or_else(|| Error::internal("a graph has no state"))?;
        run_one(&self.pool, &self.signature, &self.plan, state, row)
    }

    /// Runs the graph for each row: side by side, a thread each, where there are enough of them.
    fn rows(&mut self, rows: &[Row<'_>]) -> Result<Vec<Vec<Output>>> {
        let mut results = Vec::with_capacity(rows.len());
        let threads = self.threads();
        for group in rows.chunks(threads) {
            let pool = match &self.pool {
                Some(pool) if group.len() == threads => Arc::clone(pool),
                // Too few rows to keep every thread busy with one: all threads share each.
                _ => {
                    for &row in group {
                        results.push(self.one(row)?);
                    }
                    continue;
                }
            };
            while self.states.len() < threads {
                self.states.push(self.spawn()?);
            }
            let Self { signature, plan, states, .. } = self;
            let turns: Vec<_> = states.iter_mut().zip(group).map(|turn| Mutex::new((turn, None))).collect();
            pool.run(turns.len(), &|index| {
                if let Some(Ok(mut turn)) = turns.get(index).map(Mutex::lock) {
                    let ((state, row), done) = &mut *turn;
                    *done = Some(run_one(&None, signature, plan, state, **row));
                }
            });
            for turn in turns {
                let done = turn.into_inner().ok().and_then(|(_, done)| done);
                results.push(done.unwrap_or_else(|| Err(Error::internal("a row was not computed")))?);
            }
        }
        Ok(results)
    }
}

impl Session for CpuSession {
    fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>> {
        self.one((inputs, None))
    }

    fn run_rows(&mut self, rows: &[&[Input<'_>]]) -> Result<Vec<Vec<Output>>> {
        self.rows(&wanted::rows(rows, &[]))
    }

    fn run_wanted(&mut self, rows: &[&[Input<'_>]], wanted: &[&[bool]]) -> Result<Vec<Vec<Output>>> {
        self.rows(&wanted::rows(rows, wanted))
    }

    fn describe(&self) -> Vec<OperatorCount> {
        fuse::count(self.plan.model())
    }
}

fn tensors(ports: &[Port], inputs: &[Input<'_>]) -> Result<TVec<TValue>> {
    check_inputs(ports, inputs)?;
    let tensor = |input: &Input<'_>| match input {
        Input::I64 { shape, data } => Tensor::from_shape(shape, data),
        Input::F32 { shape, data } => Tensor::from_shape(shape, data),
    };
    inputs.iter().map(|input| Ok(tensor(input).map_err(|e| failed("cannot make a tensor", &e))?.into())).collect()
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
