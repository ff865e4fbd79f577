//! Embeddings: rows of a table.

use tract_core::internal::*;

use super::{operator, output, slice_mut};

/// The rows of a table, `[rows, width]`, as the file has them.
#[derive(Clone, Debug)]
pub(crate) enum Table {
    F32(Arc<Tensor>),
    F16(Arc<[f16]>),
    /// A number is its integer times the scale of its row.
    I8 {
        values: Arc<[i8]>,
        scales: Arc<[f32]>,
    },
}

/// Two are equal when they are the same object.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F32(a), Self::F32(b)) => Arc::ptr_eq(a, b),
            (Self::F16(a), Self::F16(b)) => Arc::ptr_eq(a, b),
            (Self::I8 { values: a, .. }, Self::I8 { values: b, .. }) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Table {}

/// Looks rows up: i64 indices of any shape become f32 vectors of `width` along a new last axis.
///
/// As in ONNX, an index below zero counts from the end; one outside the table is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Embedding {
    pub(crate) table: Table,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// The output's.
    pub(crate) shape: TVec<usize>,
}

operator!(Embedding, "Embedding");

impl Embedding {
    fn describe(&self) -> String {
        let precision = match self.table {
            Table::F32(_) => "fp32",
            Table::F16(_) => "fp16",
            Table::I8 { .. } => "int8",
        };
        format!("{} of {}, {precision}", self.rows, self.width)
    }

    fn output_shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn run(&self, inputs: TVec<TValue>) -> TractResult<Tensor> {
        let indices = inputs.first().context("the indices are missing")?.try_as_plain_ram()?.as_slice::<i64>()?;
        let mut result = output(&self.shape)?;
        let out = slice_mut(&mut result)?;
        ensure!(out.len() == indices.len() * self.width, "{} indices for an output of {:?}", indices.len(), self.shape);
        let floats = match &self.table {
            Table::F32(table) => table.try_as_plain_ram()?.as_slice::<f32>()?,
            _ => &[],
        };
        for (&index, out) in indices.iter().zip(out.chunks_exact_mut(self.width)) {
            let row = usize::try_from(if index < 0 { index.saturating_add(self.rows as i64) } else { index })
                .ok()
                .filter(|&row| row < self.rows)
                .with_context(|| format!("index {index} is outside a table of {} rows", self.rows))?;
            let range = row * self.width..(row + 1) * self.width;
            match &self.table {
                Table::F32(_) => out.copy_from_slice(&floats[range]),
                Table::F16(values) => out.iter_mut().zip(&values[range]).for_each(|(y, x)| *y = x.to_f32()),
                Table::I8 { values, scales } => {
                    out.iter_mut().zip(&values[range]).for_each(|(y, &q)| *y = f32::from(q) * scales[row]);
                }
            }
        }
        Ok(result)
    }
}
