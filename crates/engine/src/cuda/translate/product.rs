//! Dense layers, convolutions, attention, and products of two tensors.

use tract_core::ops::einsum::EinSum;
use tract_onnx::prelude::*;

use super::{Kind, Translator, View, row_major};
use crate::cuda::device::Precision;
use crate::cuda::plan::{Arguments, At, Constant, Launch, Work};
use crate::ops::{self, Attention, Before, Conv2d, Linear, Packed, PlainValues, Weights};
use maskgit_core::{Error, Result};
use maskgit_kernels::Activation;

/// The longest value that the attention kernels hold.
const LONGEST_VALUE: usize = 512;

fn activation_code(activation: Activation) -> usize {
    match activation {
        Activation::None => 0,
        Activation::Silu => 1,
        Activation::GeluErf => 2,
        Activation::GeluTanh => 3,
    }
}

/// What the struct `Gemm` of gemm.cu has beside sizes.
struct Product<'a> {
    x: &'a View,
    weights: At,
    scales: At,
    bias: At,
    residual: At,
    out: &'a View,
    rows: usize,
    columns: usize,
    inner: usize,
    pitch: usize,
    int8: bool,
    activation: Activation,
    /// Numbers of x that lie side by side, and of the weights.
    runs: [usize; 2],
    picture: Option<&'a Conv2d>,
}

impl Translator {
    fn product(&mut self, p: &Product<'_>) {
        let wide = self.plan.precision.wide();
        let geometry = match p.picture {
            None => [0; 12],
            Some(conv) => [
                conv.input[2],
                conv.input[0],
                conv.input[1],
                conv.shape[2],
                conv.kernel[1],
                conv.strides[0],
                conv.strides[1],
                conv.dilations[0],
                conv.dilations[1],
                conv.padding[0],
                conv.padding[1],
                usize::from(conv.upsample),
            ],
        };
        let wide_x = p.x.is_aligned() && p.runs[0].is_multiple_of(wide);
        let wide_w = p.runs[1].is_multiple_of(wide)
            && match p.weights {
                At::Constant(offset) | At::Buffer(_, offset) => offset.is_multiple_of(16),
                At::Nowhere => false,
            };
        let arguments = Arguments::default()
            .place(p.x.at)
            .place(p.weights)
            .place(p.scales)
            .place(p.bias)
            .place(p.residual)
            .place(p.out.at)
            .ints(&[p.rows, p.columns, p.inner, p.pitch, usize::from(p.picture.is_none())])
            .ints(&geometry)
            .ints(&[activation_code(p.activation), usize::from(wide_x), usize::from(wide_w)]);
        let work = Work::Product { rows: p.rows, columns: p.columns, int8: p.int8 };
        self.plan.launches.push(Launch { work, arguments });
    }

    /// Weights on the device: where, their scales, the numbers from one column to the next, and whether they are int8.
    fn weights(&mut self, weights: &Weights, columns: usize, inner: usize) -> Result<(At, At, usize, bool)> {
        let Packed::Plain(plain) = &**weights else {
            return Err(Error::internal("a product has weights that were packed for the CPU"));
        };
        if plain.inner != inner {
            return Err(Error::internal("a product has weights of another size"));
        }
        let pitch = inner.next_multiple_of(self.plan.precision.wide());
        let int8 = matches!(plain.values, PlainValues::I8(_));
        let bytes = columns * pitch * if int8 { 1 } else { self.plan.precision.size() };
        let at = self.plan.constant(bytes, Constant::Weights { weights: weights.clone(), pitch });
        Ok((at, self.vector(plain.scales.as_deref()), pitch, int8))
    }

    fn residual(&mut self, node: &TypedNode, wanted: bool) -> Result<At> {
        Ok(if wanted { self.whole(node, 1)?.at } else { At::Nowhere })
    }

    pub(super) fn linear(&mut self, node: &TypedNode, op: &Linear) -> Result<View> {
        let x = self.whole(node, 0)?;
        let (weights, scales, pitch, int8) = self.weights(&op.weights, op.columns, op.inner)?;
        let bias = self.vector(op.bias.as_deref());
        let residual = self.residual(node, op.residual)?;
        let out = self.tensor(Kind::Real, &op.shape);
        self.product(&Product {
            x: &x,
            weights,
            scales,
            bias,
            residual,
            out: &out,
            rows: out.volume() / op.columns,
            columns: op.columns,
            inner: op.inner,
            pitch,
            int8,
            activation: op.activation,
            runs: [op.inner, pitch],
            picture: None,
        });
        Ok(out)
    }

    pub(super) fn conv(&mut self, node: &TypedNode, op: &Conv2d) -> Result<View> {
        let mut x = self.whole(node, 0)?;
        match &op.before {
            Before::Activation(Activation::None) => {}
            Before::Activation(activation) => x = self.activated(*activation, &x)?,
            Before::Norm(norm) => x = self.group_norm(&x, norm)?,
        }
        let inner = op.kernel[0] * op.kernel[1] * op.input[2];
        let columns = op.shape[3];
        let (weights, scales, pitch, int8) = self.weights(&op.weights, columns, inner)?;
        let bias = self.vector(op.bias.as_deref());
        let residual = self.residual(node, op.residual)?;
        let out = self.tensor(Kind::Real, &op.shape);
        let pointwise = op.kernel == [1, 1] && op.strides == [1, 1] && op.padding == [0, 0] && !op.upsample;
        self.product(&Product {
            x: &x,
            weights,
            scales,
            bias,
            residual,
            out: &out,
            rows: op.shape[1] * op.shape[2],
            columns,
            inner,
            pitch,
            int8,
            activation: op.activation,
            runs: [op.input[2], pitch],
            picture: (!pointwise).then_some(op),
        });
        Ok(out)
    }

    pub(super) fn attention(&mut self, node: &TypedNode, op: &Attention) -> Result<Option<View>> {
        if op.value_dim > LONGEST_VALUE || op.keys == 0 {
            return Ok(None);
        }
        let inputs = (0..node.inputs.len()).map(|i| self.whole(node, i)).collect::<Result<Vec<_>>>()?;
        let out = self.tensor(Kind::Real, &op.shape);
        let size = self.plan.precision.size();
        let mut arguments = Arguments::default();
        let wide = self.plan.precision.wide();
        let mut is_wide = true;
        for view in [&op.q, &op.k, &op.v] {
            let Some(input) = inputs.get(view.input) else { return Ok(None) };
            let start = input.moved(view.base as i64, size)?;
            is_wide &= start.is_aligned()
                && view.dim == 1
                && view.head.is_multiple_of(wide)
                && view.token.is_multiple_of(wide);
            arguments = arguments.place(start.at);
        }
        is_wide &= op.dim.is_multiple_of(wide) && op.value_dim.is_multiple_of(wide);
        arguments = arguments.place(out.moved(op.out.base as i64, size)?.at);
        let strides = |view: &ops::View| [view.head as i64, view.token as i64, view.dim as i64];
        for view in [&op.q, &op.k, &op.v, &op.out] {
            arguments = arguments.longs(&strides(view));
        }
        let arguments = arguments
            .ints(&[op.queries, op.keys, op.dim, op.value_dim])
            .float(f32::from_bits(op.scale))
            .ints(&[usize::from(is_wide)]);
        let longest = op.dim.max(op.value_dim);
        let (kernel, queries) = match (self.plan.precision, longest) {
            (Precision::F16, ..=32) => ("attention_tensor_32", 64),
            (Precision::F16, ..=48) => ("attention_tensor_48", 64),
            (Precision::F16, ..=64) => ("attention_tensor_64", 64),
            (Precision::F16, ..=96) => ("attention_tensor_96", 64),
            (Precision::F16, ..=128) => ("attention_tensor_128", 64),
            _ if op.value_dim <= 128 => ("attention_128", 16),
            _ => ("attention_512", 16),
        };
        self.plan.launch(kernel, [op.queries.div_ceil(queries), op.heads], 128, arguments);
        Ok(Some(out))
    }

    /// A product of two tensors, neither of them constant. Its axes are in both operands and the output, in one operand
    /// and the output, or summed.
    pub(super) fn einsum(&mut self, node: &TypedNode, op: &EinSum, shape: &[usize]) -> Result<Option<View>> {
        if op.q_params.is_some() || node.inputs.len() != 2 {
            return Ok(None);
        }
        let operands = [self.input(node, 0)?, self.input(node, 1)?];
        if operands.iter().any(|o| o.kind != Kind::Real) {
            return Ok(None);
        }
        // For each part of the product, the places of its axes in the operands and the output; sizes of one are left
        // out.
        let (mut batch, mut rows, mut columns, mut inner) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for axis in op.axes.iter_all_axes() {
            let (a, b, out) = (axis.inputs[0].as_slice(), axis.inputs[1].as_slice(), axis.outputs[0].as_slice());
            let size = |operand: &View, places: &[usize]| places.first().map_or(1, |&p| operand.shape[p]);
            if size(&operands[0], a).max(size(&operands[1], b)) == 1 {
                continue;
            }
            match (a, b, out) {
                (&[a], &[b], &[out]) if operands[0].shape[a] == operands[1].shape[b] => batch.push((a, b, out)),
                (&[a], &[], &[out]) => rows.push((a, 0, out)),
                (&[], &[b], &[out]) => columns.push((0, b, out)),
                (&[a], &[b], &[]) if operands[0].shape[a] == operands[1].shape[b] => inner.push((a, b, 0)),
                _ => return Ok(None),
            }
        }
        batch.sort_by_key(|a| a.2);
        rows.sort_by_key(|a| a.2);
        columns.sort_by_key(|a| a.2);
        let pick = |view: &View, places: Vec<usize>| View {
            shape: places.iter().map(|&p| view.shape[p]).collect(),
            strides: places.iter().map(|&p| view.strides[p]).collect(),
            ..view.clone()
        };
        let left = pick(&operands[0], batch.iter().chain(&rows).chain(&inner).map(|a| a.0).collect());
        let right = pick(&operands[1], batch.iter().chain(&columns).chain(&inner).map(|a| a.1).collect());
        let (left, right) = (self.contiguous(&left)?, self.contiguous(&right)?);
        let order: Vec<usize> = batch.iter().chain(&rows).chain(&columns).map(|a| a.2).collect();
        let inside: Vec<usize> = order.iter().map(|&p| shape[p]).collect();
        let out = self.tensor(Kind::Real, &inside);
        let volume = |axes: &[(usize, usize, usize)]| axes.iter().map(|a| shape[a.2]).product::<usize>();
        let (count, m, n) = (volume(&batch), volume(&rows), volume(&columns));
        let k = inner.iter().map(|a| operands[0].shape[a.0]).product::<usize>();
        let size = self.plan.precision.size();
        for i in 0..count {
            let part = |view: &View, len: usize| view.moved((i * len) as i64, size);
            let (x, w, to) = (part(&left, m * k)?, part(&right, n * k)?, part(&out, m * n)?);
            self.product(&Product {
                x: &x,
                weights: w.at,
                scales: At::Nowhere,
                bias: At::Nowhere,
                residual: At::Nowhere,
                out: &to,
                rows: m,
                columns: n,
                inner: k,
                pitch: k,
                int8: false,
                activation: Activation::None,
                runs: [k, k],
                picture: None,
            });
        }
        // Back to the order of the output.
        let strides = row_major(&inside);
        let mut outside = vec![0; shape.len()];
        order.iter().zip(&strides).for_each(|(&p, &stride)| outside[p] = stride);
        Ok(Some(View { shape: shape.to_vec(), strides: outside, ..out }))
    }
}
