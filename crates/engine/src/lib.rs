//! How a graph runs: a device loads an ONNX graph and runs it. Nothing here knows of masks, labels or images.
//!
//! An [`Engine`] is a device. It loads a graph, whose bytes are untrusted, against a [`Signature`]: the inputs and
//! outputs the caller counts on, with concrete shapes. Graphs are made concrete at batch size 1, and a caller with
//! several rows runs them one after another: so every row is computed by the same instructions in the same order, alone
//! or in a batch, and its results are the same to the bit.
//!
//! An app uses the crate `maskgit`; this one may change with every version.

#![deny(unsafe_code)]
#![deny(missing_docs)]

mod budget;
mod check;
mod cpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)] // calls of the driver; each block says why it is sound
mod cuda;
mod fuse;
mod guard;
mod import;
mod lazy;
#[allow(unsafe_code)] // outputs that threads share; each block says why it is sound
mod ops;
mod rules;
mod skeleton;
mod wanted;

pub use cpu::CpuEngine;
#[cfg(feature = "cuda")]
pub use cuda::{CudaDevice, CudaEngine, cuda_devices};

use maskgit_core::{Error, LoadLimits, Result, Source};
pub use maskgit_kernels::Isa;
use ndarray::{ArrayD, ArrayView, ArrayViewD, ArrayViewMut3, Dimension};

/// The types of numbers that cross the border of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 64-bit integers.
    I64,
    /// 32-bit floating point.
    F32,
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::I64 => "i64",
            Self::F32 => "f32",
        })
    }
}

/// An input or an output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Its type.
    pub dtype: DType,
    /// Its concrete shape; where the graph has a batch dimension, 1 stands for it.
    pub shape: Vec<usize>,
}

impl Port {
    /// A port called `name`.
    pub fn new(name: impl Into<String>, dtype: DType, shape: &[usize]) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_vec() }
    }
}

/// The inputs and outputs that a graph must have: exactly these, by name, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The inputs, in the order in which [`Session::run`] takes them.
    pub inputs: Vec<Port>,
    /// The outputs, in the order in which [`Session::run`] gives them.
    pub outputs: Vec<Port>,
}

/// A tensor that goes into a graph.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// 64-bit integers.
    I64(ArrayViewD<'a, i64>),
    /// 32-bit floating point.
    F32(ArrayViewD<'a, f32>),
}

impl Input<'_> {
    /// The type of the numbers.
    pub fn dtype(&self) -> DType {
        match self {
            Self::I64(_) => DType::I64,
            Self::F32(_) => DType::F32,
        }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::I64(view) => view.shape(),
            Self::F32(view) => view.shape(),
        }
    }
}

impl<'a, D: Dimension> From<ArrayView<'a, i64, D>> for Input<'a> {
    fn from(view: ArrayView<'a, i64, D>) -> Self {
        Self::I64(view.into_dyn())
    }
}

impl<'a, D: Dimension> From<ArrayView<'a, f32, D>> for Input<'a> {
    fn from(view: ArrayView<'a, f32, D>) -> Self {
        Self::F32(view.into_dyn())
    }
}

/// A tensor that came out of a graph.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// 64-bit integers.
    I64(ArrayD<i64>),
    /// 32-bit floating point.
    F32(ArrayD<f32>),
}

impl Output {
    /// An `f32` tensor.
    ///
    /// # Errors
    ///
    /// Kind [`Internal`](maskgit_core::ErrorKind::Internal) when it holds integers.
    pub fn into_f32(self) -> Result<ArrayD<f32>> {
        match self {
            Self::F32(data) => Ok(data),
            Self::I64(_) => Err(Error::internal("a graph gave i64 where f32 was expected")),
        }
    }

    /// An `i64` tensor.
    ///
    /// # Errors
    ///
    /// Kind [`Internal`](maskgit_core::ErrorKind::Internal) when it holds floating point.
    pub fn into_i64(self) -> Result<ArrayD<i64>> {
        match self {
            Self::I64(data) => Ok(data),
            Self::F32(_) => Err(Error::internal("a graph gave f32 where i64 was expected")),
        }
    }
}

/// A device that runs graphs.
pub trait Engine: Send + Sync {
    /// The device's name, such as `cpu`.
    fn name(&self) -> &str;

    /// Loads an ONNX graph: checks its inputs and outputs against `signature`, makes its shapes concrete, and prepares
    /// it to run.
    ///
    /// # Errors
    ///
    /// Kind [`Engine`](maskgit_core::ErrorKind::Engine) when the bytes are not an ONNX model, its inputs or outputs are
    /// not those of the signature, it has an operator that the device cannot run, or it would take more than `limits`
    /// allow; [`Cancelled`](maskgit_core::ErrorKind::Cancelled) when the limits' handle was pulled. Never a panic,
    /// whatever the bytes.
    fn load(&self, graph: &Source, signature: &Signature, limits: &LoadLimits) -> Result<Box<dyn Session>>;
}

/// A loaded graph.
pub trait Session: Send {
    /// Runs the graph once. Inputs and outputs are in the signature's order and have its types and shapes.
    ///
    /// # Errors
    ///
    /// Kind [`Engine`](maskgit_core::ErrorKind::Engine) when an input is not what the signature says, or the graph
    /// cannot be computed, for example when a token is outside its table. The session can be used again.
    fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>>;

    /// Runs the graph once for each row of inputs. A row's outputs are what [`Session::run`] gives for it alone, to the
    /// bit; a device may run several at the same time.
    ///
    /// # Errors
    ///
    /// As [`Session::run`], of the first row that fails.
    fn run_rows(&mut self, rows: &[&[Input<'_>]]) -> Result<Vec<Vec<Output>>> {
        rows.iter().map(|row| self.run(row)).collect()
    }

    /// [`Session::run_rows`] for a graph with one output of the shape `[1, N, K]`, written to `out`, `[rows, N, K]`.
    /// For a caller that reads only some of the N places: those where a row's `wanted` says so. What the others hold is
    /// not said; they are finite. A device may compute less for it.
    ///
    /// # Errors
    ///
    /// As [`Session::run_rows`]; kind [`Engine`](maskgit_core::ErrorKind::Engine) when the output has another shape.
    fn run_into(&mut self, rows: &[&[Input<'_>]], wanted: &[&[bool]], out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let _ = wanted;
        write_rows(self.run_rows(rows)?, out)
    }

    /// How many rows the device runs at the same time: more at once are no faster.
    fn rows_at_once(&self) -> usize {
        1
    }

    /// How many operators of each kind the prepared graph has.
    fn describe(&self) -> Vec<OperatorCount>;
}

/// How often a prepared graph has an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorCount {
    /// The operator's name.
    pub name: String,
    /// What it computes, where it is one of ours.
    pub detail: Option<String>,
    /// How many there are.
    pub count: usize,
}

/// Writes the only output of each row, `[1, N, K]`, to its place in `out`, `[rows, N, K]`.
fn write_rows(rows: Vec<Vec<Output>>, mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
    for (outputs, mut out) in rows.into_iter().zip(out.outer_iter_mut()) {
        let output = outputs.into_iter().next().ok_or_else(|| Error::engine("a graph gave no output"))?;
        let output = output.into_f32()?;
        let output = output.to_shape(out.raw_dim()).map_err(|_| wrong_shape(output.shape(), out.shape()))?;
        out.assign(&output);
    }
    Ok(())
}

/// An output that does not fit its place.
fn wrong_shape(is: &[usize], wanted: &[usize]) -> Error {
    Error::engine(format!("the graph gave the shape {is:?} where {wanted:?} was expected"))
}
