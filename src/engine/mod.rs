//! How a graph runs: a device loads an ONNX graph and runs it. Nothing here knows of masks, labels or images.
//!
//! An [`Engine`] is a device. It loads a graph, whose bytes are untrusted, against a [`Signature`]: the inputs and outputs
//! the caller counts on, with concrete shapes. Graphs are made concrete at batch size 1, and a caller with several rows
//! runs them one after another: so every row is computed by the same instructions in the same order, alone or in a
//! batch, and its results are the same to the bit.

mod check;
mod cpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)] // calls of the driver; each block says why it is sound
mod cuda;
mod fuse;
mod import;
#[allow(unsafe_code)] // vector kernels; each block says why it is sound
mod kernel;
mod lazy;
#[allow(unsafe_code)] // outputs that threads share; each block says why it is sound
mod ops;
mod pool;
mod skeleton;
mod source;
mod wanted;

pub use cpu::CpuEngine;
#[cfg(feature = "cuda")]
pub use cuda::{CudaDevice, CudaEngine, cuda_devices};
pub use kernel::{Isa, peak_multiply_adds};
pub use source::Source;

use crate::error::{Error, Result};

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

/// A view of a tensor that goes into a graph: its shape, and its numbers in row-major order.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// 64-bit integers.
    I64 {
        /// The shape.
        shape: &'a [usize],
        /// The numbers, as many as the product of the shape.
        data: &'a [i64],
    },
    /// 32-bit floating point.
    F32 {
        /// The shape.
        shape: &'a [usize],
        /// The numbers, as many as the product of the shape.
        data: &'a [f32],
    },
}

impl Input<'_> {
    /// The type of the numbers.
    pub fn dtype(&self) -> DType {
        match self {
            Self::I64 { .. } => DType::I64,
            Self::F32 { .. } => DType::F32,
        }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::I64 { shape, .. } | Self::F32 { shape, .. } => shape,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::I64 { data, .. } => data.len(),
            Self::F32 { data, .. } => data.len(),
        }
    }
}

/// A tensor that came out of a graph: its shape, and its numbers in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// 64-bit integers.
    I64 {
        /// The shape.
        shape: Vec<usize>,
        /// The numbers, as many as the product of the shape.
        data: Vec<i64>,
    },
    /// 32-bit floating point.
    F32 {
        /// The shape.
        shape: Vec<usize>,
        /// The numbers, as many as the product of the shape.
        data: Vec<f32>,
    },
}

impl Output {
    /// The numbers of an `f32` tensor.
    ///
    /// # Errors
    ///
    /// Kind [`Internal`](crate::ErrorKind::Internal) when it holds integers.
    pub fn into_f32(self) -> Result<Vec<f32>> {
        match self {
            Self::F32 { data, .. } => Ok(data),
            Self::I64 { .. } => Err(Error::internal("a graph gave i64 where f32 was expected")),
        }
    }

    /// The numbers of an `i64` tensor.
    ///
    /// # Errors
    ///
    /// Kind [`Internal`](crate::ErrorKind::Internal) when it holds floating point.
    pub fn into_i64(self) -> Result<Vec<i64>> {
        match self {
            Self::I64 { data, .. } => Ok(data),
            Self::F32 { .. } => Err(Error::internal("a graph gave f32 where i64 was expected")),
        }
    }
}

/// A device that runs graphs.
pub trait Engine: Send + Sync {
    /// The device's name, such as `cpu`.
    fn name(&self) -> &str;

    /// Loads an ONNX graph: checks its inputs and outputs against `signature`, makes its shapes concrete, and prepares it
    /// to run.
    ///
    /// # Errors
    ///
    /// Kind [`Engine`](crate::ErrorKind::Engine) when the bytes are not an ONNX model, its inputs or outputs are not those
    /// of the signature, or it has an operator that the device cannot run. Never a panic, whatever the bytes.
    fn load(&self, graph: &Source, signature: &Signature) -> Result<Box<dyn Session>>;
}

/// A loaded graph.
pub trait Session: Send {
    /// Runs the graph once. Inputs and outputs are in the signature's order and have its types and shapes.
    ///
    /// # Errors
    ///
    /// Kind [`Engine`](crate::ErrorKind::Engine) when an input is not what the signature says, or the graph cannot be
    /// computed, for example when a token is outside its table. The session can be used again.
    fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>>;

    /// Runs the graph once for each row of inputs. A row's outputs are what [`Session::run`] gives for it alone, to the bit; a
    /// device may run several at the same time.
    ///
    /// # Errors
    ///
    /// As [`Session::run`], of the first row that fails.
    fn run_rows(&mut self, rows: &[&[Input<'_>]]) -> Result<Vec<Vec<Output>>> {
        rows.iter().map(|row| self.run(row)).collect()
    }

    /// [`Session::run_rows`] for a graph with one output of the shape [1, N, K], for a caller that reads only some of the N places: those where
    /// a row's `wanted` says so. What the others hold is not said; they are finite. A device may compute less for it.
    ///
    /// # Errors
    ///
    /// As [`Session::run_rows`].
    fn run_wanted(&mut self, rows: &[&[Input<'_>]], wanted: &[&[bool]]) -> Result<Vec<Vec<Output>>> {
        let _ = wanted;
        self.run_rows(rows)
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
