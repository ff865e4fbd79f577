//! A dense layer: `activation(x W + b) + residual`.

use tract_core::internal::*;

use super::weights::Packed;
use super::{Vector, Weights, numbers, operator, output_over, residual, slice_mut};
use crate::wanted::{picked, wanted};
use maskgit_kernels::Isa;
#[cfg(target_arch = "aarch64")]
use maskgit_kernels::half::{HalfRows, gemm_f16};
use maskgit_kernels::{
    Activation, Epilogue, QuantRows, Residual, RowScales, Rows, SharedSlice, gemm_f32, gemm_i8, quantize_rows,
};

/// Products smaller than this are not worth waking a thread for, in multiply-adds.
pub(super) const PARALLEL: usize = 1 << 19;

/// `activation(x W + b) + residual` over rows.
///
/// Input 0 holds rows of `inner` numbers, whatever its shape; input 1, where there is a residual, has the output's
/// shape. With int8 weights, each row is quantised to 8 bits with its own scale, and the products are summed exactly;
/// with fp16 weights, each row is rounded to fp16, scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linear {
    pub(crate) weights: Weights,
    pub(crate) inner: usize,
    pub(crate) columns: usize,
    /// Its volume is rows times columns.
    pub(crate) shape: TVec<usize>,
    pub(crate) bias: Option<Vector>,
    pub(crate) activation: Activation,
    pub(crate) residual: bool,
    pub(crate) isa: Isa,
    /// Whether multiply-add may round once, where the instruction set does.
    pub(crate) fused: bool,
    /// Where this is the last layer of a graph: which rows are the output's.
    pub(crate) head: Option<Head>,
}

/// Rows `first` to `first + count - 1` are the places of the graph's output; nobody reads the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) first: usize,
    pub(crate) count: usize,
}

operator!(Linear, "Linear");

impl Linear {
    fn describe(&self) -> String {
        let mut text = format!("{} to {}, {}", self.inner, self.columns, self.weights.describe());
        for part in [self.bias.as_ref().map(|_| "bias"), self.activation.name(), self.residual.then_some("residual")]
            .into_iter()
            .flatten()
        {
            text.push_str(", ");
            text.push_str(part);
        }
        text
    }

    fn output_shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn run(&self, mut inputs: TVec<TValue>) -> TractResult<Tensor> {
        let volume: usize = self.shape.iter().product();
        let rows = volume / self.columns;
        let (mut result, in_place) = output_over(&mut inputs, self.residual, &self.shape)?;
        let x = numbers(&inputs, 0, rows * self.inner)?;
        let Some(wanted) = self.wanted_rows() else {
            let residual = residual(&inputs, self.residual, in_place, volume)?;
            self.product(x, rows, residual, slice_mut(&mut result)?, None)?;
            return Ok(result);
        };
        let some: Vec<f32> = wanted.iter().flat_map(|&row| &x[row * self.inner..][..self.inner]).copied().collect();
        let out = slice_mut(&mut result)?;
        let mut next = wanted.iter().copied().peekable();
        for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
            if next.next_if_eq(&row).is_none() {
                out.fill(0.0);
            }
        }
        self.product(&some, wanted.len(), Residual::None, out, Some(&wanted))?;
        Ok(result)
    }

    /// The rows to compute, where that is not all of them.
    fn wanted_rows(&self) -> Option<Vec<usize>> {
        let head = self.head?;
        let places = picked(wanted().as_deref(), head.count)?;
        Some(places.into_iter().map(|place| head.first + place).collect())
    }

    /// Computes `rows` rows, and puts them into `out`: in order, or to `places`.
    fn product(
        &self,
        x: &[f32],
        rows: usize,
        residual: Residual<'_>,
        out: &mut [f32],
        places: Option<&[usize]>,
    ) -> TractResult<()> {
        let parallel = rows.saturating_mul(self.columns).saturating_mul(self.inner) >= PARALLEL;
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            activation: self.activation,
            residual,
            out: SharedSlice::new(out),
            first: 0,
            stride: self.columns,
            places,
        };
        match &*self.weights {
            Packed::F32(weights) => {
                let a = Rows { data: x, count: rows, offset: &|row| row * self.inner, taps: &[0] };
                gemm_f32((self.isa, self.fused), &a, weights, &epilogue, parallel);
            }
            Packed::Winograd(_) => bail!("a dense layer has the weights of a convolution"),
            #[cfg(feature = "cuda")]
            Packed::Plain(_) => bail!("a dense layer has the weights of a GPU"),
            #[cfg(target_arch = "aarch64")]
            Packed::F16(weights) => gemm_f16(&HalfRows::new(x, self.inner), weights, &epilogue, parallel),
            Packed::I8(weights) => {
                let stride = weights.padded();
                let mut quantized = QuantRows { stride, ..QuantRows::default() };
                quantize_rows(self.isa, x, self.inner, &mut quantized);
                let a = Rows { data: &quantized.values, count: rows, offset: &|row| row * stride, taps: &[0] };
                let scales = RowScales { scales: &quantized.scales, zeros: &quantized.zeros };
                gemm_i8(self.isa, &a, scales, weights, &epilogue, parallel);
            }
        }
        Ok(())
    }
}
