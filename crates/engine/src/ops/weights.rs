//! Packed weights, shared by the copies that tract makes of an operator.

use std::ops::Deref;
use std::sync::Arc;

use crate::fuse::Target;
#[cfg(target_arch = "aarch64")]
use maskgit_kernels::PackedF16;
use maskgit_kernels::{Matrix, PackedF32, PackedI8, winograd};

/// A product's weights, in the order of its instruction set. Two are equal when they are the same object.
#[derive(Clone, Debug)]
pub(crate) struct Weights(Arc<Packed>);

#[derive(Debug)]
pub(crate) enum Packed {
    F32(PackedF32),
    /// Of a 3x3 convolution, for Winograd's products.
    Winograd(Vec<PackedF32>),
    I8(PackedI8),
    /// For processors that compute in fp16.
    #[cfg(target_arch = "aarch64")]
    F16(PackedF16),
    /// For a GPU.
    #[cfg(feature = "cuda")]
    Plain(Plain),
}

/// Weights column by column, the inner places of a column side by side, tap after tap.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) values: PlainValues,
    /// Numbers of a column.
    pub(crate) inner: usize,
    /// Of int8 weights, what one unit of a column is worth.
    pub(crate) scales: Option<Vec<f32>>,
}

#[cfg(feature = "cuda")]
#[derive(Debug)]
pub(crate) enum PlainValues {
    F32(Vec<f32>),
    I8(Vec<i8>),
}

#[cfg(feature = "cuda")]
fn plain<T: Copy>(matrix: &Matrix<'_, T>) -> Vec<T> {
    let mut values = Vec::with_capacity(matrix.columns.len() * matrix.taps * matrix.inner.len());
    for column in matrix.columns {
        for tap in 0..matrix.taps {
            let values_of_tap = &matrix.values[tap * matrix.tap + column..];
            values.extend(matrix.inner.iter().map(|&place| values_of_tap[place]));
        }
    }
    values
}

impl Weights {
    pub(crate) fn new(packed: Packed) -> Self {
        Self(Arc::new(packed))
    }

    /// Packs weights in f32.
    pub(crate) fn f32(target: Target, matrix: &Matrix<'_, f32>) -> Self {
        match target {
            Target::Cpu(_) => Self::new(Packed::F32(PackedF32::new(matrix))),
            #[cfg(feature = "cuda")]
            Target::Gpu => {
                let (values, inner) = (PlainValues::F32(plain(matrix)), matrix.taps * matrix.inner.len());
                Self::new(Packed::Plain(Plain { values, inner, scales: None }))
            }
        }
    }

    /// Packs weights that are in fp16 in the file, widened meanwhile, for products in fp16 where the target computes in
    /// it.
    pub(crate) fn half(target: Target, matrix: &Matrix<'_, f32>) -> Self {
        match target {
            #[cfg(target_arch = "aarch64")]
            Target::Cpu(isa) if isa.computes_half() => Self::new(Packed::F16(PackedF16::new(matrix))),
            _ => Self::f32(target, matrix),
        }
    }

    /// Packs the weights of a 3x3 convolution for Winograd's products.
    pub(crate) fn winograd(matrix: &Matrix<'_, f32>) -> Self {
        Self::new(Packed::Winograd(winograd::weights(matrix)))
    }

    /// Packs weights in int8 with a scale for each column.
    pub(crate) fn i8(target: Target, matrix: &Matrix<'_, i8>, scales: Vec<f32>) -> Self {
        match target {
            Target::Cpu(isa) => Self::new(Packed::I8(PackedI8::new(matrix, scales, isa.set()))),
            #[cfg(feature = "cuda")]
            Target::Gpu => {
                let (values, inner) = (PlainValues::I8(plain(matrix)), matrix.taps * matrix.inner.len());
                Self::new(Packed::Plain(Plain { values, inner, scales: Some(scales) }))
            }
        }
    }

    pub(crate) fn is_int8(&self) -> bool {
        matches!(*self.0, Packed::I8(_))
    }

    pub(super) fn describe(&self) -> &'static str {
        match *self.0 {
            Packed::F32(_) => "fp32",
            Packed::Winograd(_) => "fp32, Winograd",
            Packed::I8(_) => "int8",
            #[cfg(target_arch = "aarch64")]
            Packed::F16(_) => "fp16",
            #[cfg(feature = "cuda")]
            Packed::Plain(Plain { values: PlainValues::F32(_), .. }) => "fp32",
            #[cfg(feature = "cuda")]
            Packed::Plain(Plain { values: PlainValues::I8(_), .. }) => "int8",
        }
    }
}

impl Deref for Weights {
    type Target = Packed;

    fn deref(&self) -> &Packed {
        &self.0
    }
}

impl PartialEq for Weights {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Weights {}

/// A constant vector, compared by its bits.
#[derive(Clone, Debug)]
pub(crate) struct Vector(Arc<[f32]>);

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Self {
        Self(values.into())
    }
}

impl Deref for Vector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl PartialEq for Vector {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other.iter()).all(|(a, b)| a.to_bits() == b.to_bits())
    }
}

impl Eq for Vector {}
