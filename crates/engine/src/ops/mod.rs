//! The operators that carry the weight of the family's graphs, one a file. The rules in [`fuse`](super::fuse) put them
//! in the place of what was imported.
//!
//! Images are held with their channels last: `[1, height, width, channels]`.

mod attention;
mod conv;
mod embedding;
mod group_norm;
mod linear;
mod row_norm;
#[cfg(test)]
#[path = "../../tests/unit/ops/mod.rs"]
mod tests;
mod weights;

pub(crate) use attention::{Attention, View};
pub(crate) use conv::{Before, Conv2d};
pub(crate) use embedding::{Embedding, Table};
pub(crate) use group_norm::GroupNorm;
pub(crate) use linear::{Head, Linear};
pub(crate) use row_norm::RowNorm;
#[cfg(feature = "cuda")]
pub(crate) use weights::{Packed, PlainValues};
pub(crate) use weights::{Vector, Weights};

use tract_core::internal::*;

use maskgit_kernels::Residual;

/// What every operator here has in common for tract.
macro_rules! operator {
    ($type:ty, $name:literal) => {
        impl tract_core::ops::Op for $type {
            fn name(&self) -> tract_core::internal::StaticName {
                $name.into()
            }

            fn info(&self) -> tract_onnx::prelude::TractResult<Vec<String>> {
                Ok(vec![self.describe()])
            }

            fn as_typed(&self) -> Option<&dyn tract_core::ops::TypedOp> {
                Some(self)
            }
        }

        impl tract_core::ops::EvalOp for $type {
            fn eval_out_of_plan(
                &self,
                inputs: tract_onnx::prelude::TVec<tract_onnx::prelude::TValue>,
            ) -> tract_onnx::prelude::TractResult<Option<tract_onnx::prelude::TVec<tract_onnx::prelude::TValue>>> {
                self.run(inputs).map(|value| Some(tract_onnx::prelude::tvec!(value.into())))
            }

            fn eval(
                &self,
                _: &tract_core::internal::EvalContext,
                inputs: tract_onnx::prelude::TVec<tract_onnx::prelude::TValue>,
            ) -> tract_onnx::prelude::TractResult<tract_onnx::prelude::TVec<tract_onnx::prelude::TValue>> {
                self.run(inputs).map(|value| tract_onnx::prelude::tvec!(value.into()))
            }
        }

        impl tract_core::ops::TypedOp for $type {
            fn as_op(&self) -> &dyn tract_core::ops::Op {
                self
            }

            fn as_op_mut(&mut self) -> &mut dyn tract_core::ops::Op {
                self
            }

            fn output_facts(
                &self,
                _: &[&tract_onnx::prelude::TypedFact],
            ) -> tract_onnx::prelude::TractResult<tract_onnx::prelude::TVec<tract_onnx::prelude::TypedFact>> {
                let shape = self.output_shape();
                Ok(tract_onnx::prelude::tvec!(tract_onnx::prelude::TypedFact::dt_shape(
                    tract_onnx::prelude::DatumType::F32,
                    shape
                )))
            }
        }
    };
}
pub(crate) use operator;

/// The numbers of an input, which must be `len` of them.
fn numbers(inputs: &[TValue], index: usize, len: usize) -> TractResult<&[f32]> {
    let value = inputs.get(index).with_context(|| format!("input {index} is missing"))?;
    let slice = value.try_as_plain_ram()?.as_slice::<f32>()?;
    ensure!(slice.len() == len, "input {index} has {} numbers, not {len}", slice.len());
    Ok(slice)
}

/// The output of a product with or without a residual, input 1, and how the residual gets there: where nothing else
/// will read it, it becomes the output.
fn output_over(inputs: &mut TVec<TValue>, residual: bool, shape: &[usize]) -> TractResult<(Tensor, bool)> {
    if residual
        && inputs.len() == 2
        && inputs[1].shape() == shape
        && inputs[1].datum_type() == DatumType::F32
        && let Some(value) = inputs.pop()
    {
        match Arc::try_unwrap(value.into_arc_tensor()) {
            Ok(tensor) => return Ok((tensor, true)),
            Err(shared) => inputs.push(shared.into_tvalue()),
        }
    }
    Ok((output(shape)?, false))
}

/// The residual of a product with an output of `len` numbers.
fn residual(inputs: &[TValue], wanted: bool, in_place: bool, len: usize) -> TractResult<Residual<'_>> {
    Ok(match (wanted, in_place) {
        (false, _) => Residual::None,
        (true, true) => Residual::InPlace,
        (true, false) => Residual::Add(numbers(inputs, 1, len)?),
    })
}

/// A tensor to be filled. Its zeros cost nothing that can be measured beside what fills it.
fn output(shape: &[usize]) -> TractResult<Tensor> {
    Tensor::zero::<f32>(shape)
}

fn slice_mut(tensor: &mut Tensor) -> TractResult<&mut [f32]> {
    // SAFETY: `output` made it a plain, contiguous tensor of f32, or `output_over` took one.
    Ok(unsafe { tensor.as_slice_mut_unchecked::<f32>() })
}
