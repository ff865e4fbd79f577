//! Norms, views, lookups, reductions.

use tract_core::internal::*;
use tract_core::ops::array::{Gather, Slice, TypedConcat};
use tract_core::ops::cnn::PoolSpec;
use tract_core::ops::nn::{NearestUpsample, Reduce, Reducer, Softmax, SoftmaxKind};

use super::{Kind, Translator, View, row_major};
use crate::cuda::plan::{Arguments, At};
use crate::ops::{Embedding, GroupNorm, RowNorm, Table};
use maskgit_core::Result;
use maskgit_kernels::Activation;

/// Pixels whose mean a block takes.
const CHUNK: usize = 64;

impl Translator {
    pub(super) fn row_norm(&mut self, node: &TypedNode, op: &RowNorm) -> Result<View> {
        let x = self.whole(node, 0)?;
        let (gamma, beta) = (self.vector(op.gamma.as_deref()), self.vector(op.beta.as_deref()));
        let out = self.tensor(Kind::Real, &op.shape);
        let rows = out.volume() / op.inner;
        let arguments = Arguments::default()
            .place(x.at)
            .place(gamma)
            .place(beta)
            .place(out.at)
            .ints(&[rows, op.inner, usize::from(op.centred)])
            .float(f32::from_bits(op.eps));
        self.plan.launch("row_norm", [rows.div_ceil(4), 1], 128, arguments);
        Ok(out)
    }

    pub(super) fn group_norm(&mut self, x: &View, op: &GroupNorm) -> Result<View> {
        let x = self.contiguous(x)?;
        let channels = op.shape.last().copied().unwrap_or(1);
        let pixels = x.volume() / channels;
        let chunks = pixels.div_ceil(CHUNK);
        let parts = At::Buffer(self.plan.buffer(chunks * channels * 8, false), 0);
        let affine = At::Buffer(self.plan.buffer(channels * 8, false), 0);
        let (gamma, beta) = (self.vector(op.gamma.as_deref()), self.vector(op.beta.as_deref()));
        let out = self.tensor(Kind::Real, &op.shape);
        let activation = match op.activation {
            Activation::None => 0,
            Activation::Silu => 1,
            Activation::GeluErf => 2,
            Activation::GeluTanh => 3,
        };
        let arguments = Arguments::default()
            .place(x.at)
            .place(parts)
            .place(affine)
            .place(gamma)
            .place(beta)
            .place(out.at)
            .ints(&[pixels, channels, op.groups, CHUNK, chunks, activation])
            .float(f32::from_bits(op.eps));
        self.plan.launch("group_parts", [chunks, channels.div_ceil(128)], 128, arguments.clone());
        self.plan.launch("group_affine", [op.groups, 1], 32, arguments.clone());
        self.plan.launch("group_apply", [(pixels * channels).div_ceil(256), 1], 256, arguments);
        Ok(out)
    }

    pub(super) fn axis(&mut self, node: &TypedNode, op: &AxisOp) -> Result<Option<View>> {
        let mut x = self.input(node, 0)?;
        match op {
            AxisOp::Add(at) => {
                x.shape.insert(*at, 1);
                x.strides.insert(*at, 0);
            }
            AxisOp::Rm(at) => {
                x.shape.remove(*at);
                x.strides.remove(*at);
            }
            AxisOp::Move(from, to) => {
                let (size, stride) = (x.shape.remove(*from), x.strides.remove(*from));
                x.shape.insert(*to, size);
                x.strides.insert(*to, stride);
            }
            AxisOp::Reshape(at, from, to) => {
                let sizes = to.iter().map(|d| d.to_usize().ok()).collect::<Option<Vec<_>>>();
                let (Some(sizes), old) = (sizes, *at..at + from.len()) else { return Ok(None) };
                // The axes that are joined must run through their numbers in one go.
                let inside = View {
                    shape: x.shape[old.clone()].to_vec(),
                    strides: x.strides[old.clone()].to_vec(),
                    ..x.clone()
                };
                let step = inside
                    .shape
                    .iter()
                    .zip(&inside.strides)
                    .rev()
                    .find(|(size, _)| **size != 1)
                    .map_or(1, |(_, stride)| *stride);
                let expected = row_major(&inside.shape);
                let runs = inside
                    .shape
                    .iter()
                    .zip(&inside.strides)
                    .zip(&expected)
                    .all(|((&size, &stride), &wanted)| size == 1 || stride == wanted * step);
                let step = if runs {
                    step
                } else {
                    x = self.contiguous(&x)?;
                    x.shape[old.end..].iter().product::<usize>() as i64
                };
                let strides: Vec<i64> = row_major(&sizes).iter().map(|s| s * step).collect();
                x.shape.splice(old.clone(), sizes);
                x.strides.splice(old, strides);
            }
        }
        Ok(Some(x))
    }

    pub(super) fn slice(&mut self, node: &TypedNode, op: &Slice, shape: &[usize]) -> Result<Option<View>> {
        let x = self.input(node, 0)?;
        let Ok(start) = op.start.to_usize() else { return Ok(None) };
        let start = start as i64 * x.strides[op.axis];
        let part = x.moved(start, self.size(x.kind))?;
        Ok(Some(View { shape: shape.to_vec(), ..part }))
    }

    /// Nearest neighbours, where no convolution has taken it in: every pixel is repeated.
    pub(super) fn upsample(&mut self, node: &TypedNode, op: &NearestUpsample) -> Result<Option<View>> {
        let mut x = self.input(node, 0)?;
        if op.scales.len() != x.shape.len() {
            return Ok(None);
        }
        let (mut shape, mut strides, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for ((&size, &stride), &scale) in x.shape.iter().zip(&x.strides).zip(op.scales.iter()) {
            shape.extend([size, scale]);
            strides.extend([stride, 0]);
            out.push(size * scale);
        }
        (x.shape, x.strides) = (shape, strides);
        let to = self.tensor(x.kind, &x.shape);
        self.copy(&x, &to)?;
        Ok(Some(View { strides: row_major(&out), shape: out, ..to }))
    }

    pub(super) fn concat(&mut self, node: &TypedNode, op: &TypedConcat, shape: &[usize]) -> Result<View> {
        let mut parts = Vec::new();
        for index in 0..node.inputs.len() {
            parts.push(self.input(node, index)?);
        }
        let kind = parts.first().map_or(Kind::Real, |p| p.kind);
        let out = self.tensor(kind, shape);
        let mut start = 0;
        for part in &parts {
            let to = out.moved(start * out.strides[op.axis], self.size(kind))?;
            start += part.shape[op.axis] as i64;
            self.copy(part, &View { shape: part.shape.clone(), ..to })?;
        }
        Ok(out)
    }

    pub(super) fn gather(&mut self, node: &TypedNode, op: &Gather, shape: &[usize]) -> Result<Option<View>> {
        let (table, indices) = (self.whole(node, 0)?, self.whole(node, 1)?);
        if table.kind != Kind::Real || op.output_type.is_some_and(|t| t != DatumType::F32) {
            return Ok(None);
        }
        let outer: usize = table.shape[..op.axis].iter().product();
        let inner: usize = table.shape[op.axis + 1..].iter().product();
        Ok(self.looked_up(table.at, &indices, [outer, table.shape[op.axis], inner], shape))
    }

    pub(super) fn embedding(&mut self, node: &TypedNode, op: &Embedding) -> Result<Option<View>> {
        let indices = self.whole(node, 0)?;
        let at = match &op.table {
            Table::F32(table) => self.upload(table)?.at,
            Table::F16(values) => self.real_constant(values.iter().map(|v| v.to_f32())),
            // Looked up in the plan's precision: a table is read so little that its size is all that int8 would save.
            Table::I8 { values, scales } => {
                let rows = values.chunks_exact(op.width).zip(scales.iter());
                self.real_constant(rows.flat_map(|(row, scale)| row.iter().map(move |&q| f32::from(q) * scale)))
            }
        };
        Ok(self.looked_up(at, &indices, [1, op.rows, op.width], &op.shape))
    }

    /// Rows of a table of `[outer, entries, inner]`.
    pub(super) fn looked_up(&mut self, table: At, indices: &View, sizes: [usize; 3], shape: &[usize]) -> Option<View> {
        if indices.kind != Kind::Int {
            return None;
        }
        let [outer, entries, inner] = sizes;
        let out = self.tensor(Kind::Real, shape);
        let arguments = Arguments::default()
            .place(table)
            .place(indices.at)
            .place(out.at)
            .place(At::Buffer(self.plan.fault, 0))
            .ints(&[outer, entries, indices.volume(), inner]);
        self.plan.launch("gather", [out.volume().div_ceil(256), 1], 256, arguments);
        Some(out)
    }

    pub(super) fn reduce(&mut self, node: &TypedNode, op: &Reduce) -> Result<Option<View>> {
        let (kernel, number, kind) = match op.reducer {
            Reducer::Sum => ("reduce", 0, Kind::Real),
            Reducer::Prod => ("reduce", 1, Kind::Real),
            Reducer::Max => ("reduce", 2, Kind::Real),
            Reducer::Min => ("reduce", 3, Kind::Real),
            Reducer::MeanOfSquares => ("reduce", 4, Kind::Real),
            Reducer::ArgMax(last) => ("arg_greatest", if last { 2 } else { 0 }, Kind::Int),
            Reducer::ArgMin(last) => ("arg_greatest", if last { 3 } else { 1 }, Kind::Int),
            _ => return Ok(None),
        };
        let mut x = self.whole(node, 0)?;
        // Squares are not summed again, and a place is that of one axis.
        if x.kind != Kind::Real || op.axes.is_empty() || (number == 4 || kind == Kind::Int) && op.axes.len() != 1 {
            return Ok(None);
        }
        for &axis in &op.axes {
            let [outer, length, inner] = around(&x.shape, axis);
            let mut shape = x.shape.clone();
            shape[axis] = 1;
            let out = self.tensor(kind, &shape);
            let arguments = Arguments::default().place(x.at).place(out.at).ints(&[outer, length, inner, number]);
            self.plan.launch(kernel, [(outer * inner).div_ceil(4), 1], 128, arguments);
            x = out;
        }
        Ok(Some(x))
    }

    pub(super) fn softmax(&mut self, node: &TypedNode, op: &Softmax) -> Result<Option<View>> {
        let x = self.whole(node, 0)?;
        let &[axis] = op.axes.as_slice() else { return Ok(None) };
        if x.kind != Kind::Real || op.quant_output_dt.is_some() {
            return Ok(None);
        }
        let log = usize::from(op.kind == SoftmaxKind::LogSoftmax);
        let [outer, length, inner] = around(&x.shape, axis);
        let out = self.tensor(Kind::Real, &x.shape);
        let arguments = Arguments::default().place(x.at).place(out.at).ints(&[outer, length, inner, log]);
        self.plan.launch("softmax", [(outer * inner).div_ceil(4), 1], 128, arguments);
        Ok(Some(out))
    }

    pub(super) fn pool(
        &mut self,
        node: &TypedNode,
        spec: &PoolSpec,
        how: usize,
        out: &[usize],
    ) -> Result<Option<View>> {
        let x = self.whole(node, 0)?;
        let (h, w, c) = match spec.data_format {
            tract_core::ops::nn::DataFormat::NCHW => (2, 3, 1),
            tract_core::ops::nn::DataFormat::NHWC => (1, 2, 3),
            _ => return Ok(None),
        };
        if x.kind != Kind::Real || x.shape.len() != 4 || x.shape[0] != 1 || spec.kernel_shape.len() != 2 {
            return Ok(None);
        }
        let size = [x.shape[h], x.shape[w]];
        let (strides, dilations) = (spec.strides(), spec.dilations());
        let padding = spec.padding.compute(&size, &spec.kernel_shape, &dilations, &strides);
        let to = self.tensor(Kind::Real, out);
        let arguments = Arguments::default()
            .place(x.at)
            .place(to.at)
            .longs(&[x.strides[h], x.strides[w], x.strides[c], to.strides[h], to.strides[w], to.strides[c]])
            .ints(&[size[0], size[1], out[h], out[w], out[c], spec.kernel_shape[0], spec.kernel_shape[1]])
            .ints(&[strides[0], strides[1], dilations[0], dilations[1], padding[0].pad_before, padding[1].pad_before])
            .ints(&[how]);
        self.plan.launch("pool", [to.volume().div_ceil(256), 1], 256, arguments);
        Ok(Some(to))
    }
}

/// The volumes before an axis, of it, and after it.
fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}
