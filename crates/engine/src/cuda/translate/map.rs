//! Element-wise operations and copies.

use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::prelude::*;

use super::{Kind, Translator, View, broadcast};
use crate::cuda::plan::{Arguments, At};
use crate::fuse::activation_of;
use maskgit_core::{Error, Result};
use maskgit_kernels::Activation;

/// Axes of the kernel's struct.
const AXES: usize = 6;

/// The numbers of the operations in tensor.cu.
pub(super) mod op {
    pub(in super::super) const COPY: usize = 0;
    pub(super) const UNARY: [(&str, usize); 15] = [
        ("Neg", 1),
        ("Abs", 2),
        ("Sqrt", 3),
        ("Rsqrt", 4),
        ("Recip", 5),
        ("Square", 6),
        ("Exp", 7),
        ("Ln", 8),
        ("Tanh", 9),
        ("Sigmoid", 10),
        ("Erf", 11),
        ("Cos", 12),
        ("Sin", 13),
        ("Floor", 14),
        ("Ceil", 15),
    ];
    pub(super) const SILU: usize = 16;
    pub(super) const GELU_ERF: usize = 17;
    pub(super) const GELU_TANH: usize = 18;
    pub(super) const BINARY: [(&str, usize); 7] =
        [("Add", 32), ("Sub", 33), ("Mul", 34), ("Div", 35), ("Max", 36), ("Min", 37), ("Pow", 38)];
    /// Those that integers have.
    pub(super) const OF_INTEGERS: [usize; 7] = [COPY, 1, 32, 33, 34, 36, 37];
}

/// Joins neighbouring axes that all operands run through in one go, and drops those of one.
fn joined(shape: &[usize], operands: &[&[i64]]) -> (Vec<usize>, Vec<Vec<i64>>) {
    let mut sizes: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<i64>> = vec![Vec::new(); operands.len()];
    for (axis, &size) in shape.iter().enumerate() {
        if size == 1 {
            continue;
        }
        let joins =
            !sizes.is_empty() && operands.iter().zip(&strides).all(|(o, s)| s.last() == Some(&(o[axis] * size as i64)));
        match sizes.last_mut() {
            Some(last) if joins => {
                *last *= size;
                strides.iter_mut().zip(operands).for_each(|(s, o)| {
                    s.pop();
                    s.push(o[axis]);
                });
            }
            _ => {
                sizes.push(size);
                strides.iter_mut().zip(operands).for_each(|(s, o)| s.push(o[axis]));
            }
        }
    }
    (sizes, strides)
}

impl Translator {
    /// `to = op(a, b)`, all of one shape.
    fn map(&mut self, op: usize, a: &View, b: Option<&View>, to: &View) -> Result<()> {
        let second = b.unwrap_or(a);
        if a.kind != to.kind || second.kind != to.kind || a.shape != to.shape || second.shape != to.shape {
            return Err(Error::internal("an element-wise operation on tensors that differ"));
        }
        let (mut shape, strides) = joined(&to.shape, &[&a.strides, &second.strides, &to.strides]);
        if shape.len() > AXES {
            return Err(Error::engine(format!(
                "there is no GPU kernel for a tensor of {} axes in another order",
                shape.len()
            )));
        }
        let mut arguments = Arguments::default().place(a.at).place(b.map_or(At::Nowhere, |b| b.at)).place(to.at);
        for mut operand in strides {
            operand.resize(AXES, 0);
            arguments = arguments.longs(&operand);
        }
        shape.resize(AXES, 1);
        let count = to.volume();
        let kernel = if to.kind == Kind::Int { "map_int" } else { "map_real" };
        self.plan.launch(kernel, [count.div_ceil(256), 1], 256, arguments.ints(&shape).ints(&[count, op]));
        Ok(())
    }

    pub(super) fn copy(&mut self, from: &View, to: &View) -> Result<()> {
        self.map(op::COPY, from, None, to)
    }

    pub(super) fn binary(&mut self, node: &TypedNode, op: &TypedBinOp, shape: &[usize]) -> Result<Option<View>> {
        let Some(&(_, number)) = op::BINARY.iter().find(|(name, _)| *name == op.0.name()) else { return Ok(None) };
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        if a.kind != b.kind || (a.kind == Kind::Int && !op::OF_INTEGERS.contains(&number)) {
            return Ok(None);
        }
        let (Some(a), Some(b)) = (broadcast(&a, shape), broadcast(&b, shape)) else { return Ok(None) };
        let to = self.tensor(a.kind, shape);
        self.map(number, &a, Some(&b), &to)?;
        Ok(Some(to))
    }

    pub(super) fn unary(&mut self, node: &TypedNode, op: &ElementWiseOp) -> Result<Option<View>> {
        let number = match activation_of(node) {
            Some(activation) => activation_number(activation),
            None => match op::UNARY.iter().find(|(name, _)| *name == op.0.name()) {
                Some(&(_, number)) if op.1.is_none() => number,
                _ => return Ok(None),
            },
        };
        let x = self.input(node, 0)?;
        if x.kind == Kind::Int && !op::OF_INTEGERS.contains(&number) {
            return Ok(None);
        }
        Ok(Some(self.mapped(number, &x)?))
    }

    /// An operation on each number.
    fn mapped(&mut self, number: usize, x: &View) -> Result<View> {
        let to = self.tensor(x.kind, &x.shape);
        self.map(number, x, None, &to)?;
        Ok(to)
    }

    pub(super) fn activated(&mut self, activation: Activation, x: &View) -> Result<View> {
        self.mapped(activation_number(activation), x)
    }

    pub(super) fn cast(&mut self, node: &TypedNode, op: &Cast) -> Result<Option<View>> {
        let x = self.whole(node, 0)?;
        let kind = match op.to {
            DatumType::F32 => Kind::Real,
            DatumType::I64 | DatumType::TDim => Kind::Int,
            _ => return Ok(None),
        };
        Ok(Some(match (x.kind, kind) {
            (Kind::Int, Kind::Real) => self.converted(&x, "int_to_real", kind),
            (Kind::Real, Kind::Int) => self.converted(&x, "real_to_int", kind),
            _ => x,
        }))
    }
}

fn activation_number(activation: Activation) -> usize {
    match activation {
        Activation::None => op::COPY,
        Activation::Silu => op::SILU,
        Activation::GeluErf => op::GELU_ERF,
        Activation::GeluTanh => op::GELU_TANH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_run_on_are_joined() {
        assert_eq!(joined(&[2, 1, 3, 4], &[&[12, 12, 4, 1]]), (vec![24], vec![vec![1]]));
        assert_eq!(joined(&[2, 3, 4], &[&[12, 4, 1], &[0, 4, 1]]), (vec![2, 12], vec![vec![12, 1], vec![0, 1]]));
        assert_eq!(joined(&[2, 3], &[&[1, 2]]), (vec![2, 3], vec![vec![1, 2]]));
        assert_eq!(joined(&[1, 1], &[&[1, 1]]), (vec![], vec![vec![]]));
    }
}
