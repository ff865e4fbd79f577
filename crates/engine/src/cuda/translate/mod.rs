//! From a graph to a plan. Every node becomes kernels or a view of a tensor, or the translation fails and says which
//! did not: nothing is left for the CPU.

mod map;
mod product;
mod tensor;

use std::collections::HashMap;

use tract_core::internal::*;
use tract_core::ops::array::{Gather, MultiBroadcastTo, Slice, TypedConcat};
use tract_core::ops::binary::TypedBinOp;
use tract_core::ops::cast::Cast;
use tract_core::ops::cnn::{MaxPool, SumPool};
use tract_core::ops::einsum::EinSum;
use tract_core::ops::element_wise::ElementWiseOp;
use tract_core::ops::identity::Identity;
use tract_core::ops::konst::Const;
use tract_core::ops::nn::{NearestUpsample, Reduce, Softmax};
use tract_core::ops::source::TypedSource;

use super::device::Precision;
use super::plan::{Arguments, At, Builder, Constant, Plan, numbers};
use crate::ops::{Attention, Conv2d, Embedding, GroupNorm, Linear, RowNorm};
use crate::{DType, Port, Signature};
use maskgit_core::{Error, Result};

/// What a tensor on the device is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Numbers in the plan's precision.
    Real,
    /// 64-bit integers.
    Int,
}

/// A tensor, or a part of one in another order.
#[derive(Clone, Debug)]
struct View {
    at: At,
    kind: Kind,
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<i64>,
}

fn row_major(shape: &[usize]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i] as i64;
    }
    strides
}

impl View {
    fn volume(&self) -> usize {
        self.shape.iter().product()
    }

    fn is_contiguous(&self) -> bool {
        let expected = row_major(&self.shape);
        self.shape.iter().zip(&self.strides).zip(&expected).all(|((&size, a), b)| size == 1 || a == b)
    }

    /// Whether it starts where 16 bytes can be read at once.
    fn is_aligned(&self) -> bool {
        match self.at {
            At::Buffer(_, offset) | At::Constant(offset) => offset % 16 == 0,
            At::Nowhere => false,
        }
    }

    /// The view that starts some elements later.
    fn moved(&self, elements: i64, size: usize) -> Result<Self> {
        let bytes = usize::try_from(elements).ok().and_then(|e| e.checked_mul(size));
        let bytes = bytes.ok_or_else(|| Error::internal("a view starts before its tensor"))?;
        let at = match self.at {
            At::Buffer(id, offset) => At::Buffer(id, offset + bytes),
            At::Constant(offset) => At::Constant(offset + bytes),
            At::Nowhere => return Err(Error::internal("a view of nothing")),
        };
        Ok(Self { at, ..self.clone() })
    }
}

/// The value of an outlet.
#[derive(Clone, Debug)]
enum Value {
    On(View),
    /// A constant, which comes to the device when a kernel reads it.
    Constant(Arc<Tensor>),
}

struct Translator {
    plan: Builder,
    values: HashMap<OutletId, Value>,
    /// Constants that are on the device.
    uploaded: HashMap<(usize, Kind), View>,
    /// Kept, so that no other tensor comes to stand at the address of one that was uploaded.
    kept: Vec<Arc<Tensor>>,
}

fn unsupported(node: &TypedNode) -> Error {
    let info = node.op.info().unwrap_or_default().join(", ");
    let text =
        format!("there is no GPU kernel for the operator {} ({info}) of the node \"{}\"", node.op.name(), node.name);
    Error::engine(crate::import::clip(&text))
}

/// Translates a graph that was prepared for a GPU; says how many of its nodes became kernels or views.
pub(super) fn translate(model: &TypedModel, signature: &Signature, precision: Precision) -> Result<(Plan, usize)> {
    let cannot = |e: TractError| crate::import::failed("cannot prepare the graph for the GPU", &e);
    let mut translator = Translator {
        plan: Builder::new(precision),
        values: HashMap::new(),
        uploaded: HashMap::new(),
        kept: Vec::new(),
    };
    let mut inputs = Vec::new();
    for (outlet, port) in model.input_outlets().map_err(cannot)?.iter().zip(&signature.inputs) {
        let buffer = translator.plan.buffer(port.shape.iter().product::<usize>() * 8, true);
        inputs.push((buffer, port.clone()));
        let kind = if port.dtype == DType::I64 { Kind::Int } else { Kind::Real };
        let strides = row_major(&port.shape);
        let mut view = View { at: At::Buffer(buffer, 0), kind, shape: port.shape.clone(), strides };
        if kind == Kind::Real && precision == Precision::F16 {
            view = translator.converted(&view, "float_to_real", Kind::Real);
        }
        translator.values.insert(*outlet, Value::On(view));
    }
    let mut translated = 0;
    for id in model.eval_order().map_err(cannot)? {
        let node = model.node(id);
        if node.op_is::<TypedSource>() {
            continue;
        }
        if let Some(konst) = node.op_as::<Const>() {
            translator.values.insert(id.into(), Value::Constant(Arc::clone(konst.val())));
            continue;
        }
        let value = translator.node(node)?;
        translated += 1;
        translator.values.insert(id.into(), value);
    }
    let (mut outputs, mut places) = (Vec::new(), None);
    for (outlet, port) in model.output_outlets().map_err(cannot)?.iter().zip(&signature.outputs) {
        let mut view = translator.view(*outlet)?;
        // Rows that are picked come first, so that no others need come back.
        if let (&[1, n, k], Kind::Real, 1) = (port.shape.as_slice(), view.kind, signature.outputs.len()) {
            let port = Port::new("places", DType::I64, &[n]);
            let buffer = translator.plan.buffer(n * 8, true);
            let picked = View { at: At::Buffer(buffer, 0), kind: Kind::Int, shape: vec![n], strides: vec![1] };
            let whole = translator.contiguous(&view)?;
            view = translator
                .looked_up(whole.at, &picked, [1, n, k], &whole.shape)
                .ok_or_else(|| Error::internal("rows cannot be picked"))?;
            places = Some((buffer, port));
        }
        let buffer = translator.plan.buffer(port.shape.iter().product::<usize>() * 8, true);
        let to = View { at: At::Buffer(buffer, 0), strides: row_major(&view.shape), ..view.clone() };
        if view.kind == Kind::Real && precision == Precision::F16 {
            let view = translator.contiguous(&view)?;
            translator.convert("real_to_float", &view, to.at);
        } else {
            translator.copy(&view, &to)?;
        }
        outputs.push((buffer, port.clone()));
    }
    Ok((translator.plan.finish(&inputs, &outputs, places.as_ref())?, translated))
}

impl Translator {
    /// Bytes of an element.
    fn size(&self, kind: Kind) -> usize {
        match kind {
            Kind::Real => self.plan.precision.size(),
            Kind::Int => 8,
        }
    }

    /// A new tensor.
    fn tensor(&mut self, kind: Kind, shape: &[usize]) -> View {
        let bytes = shape.iter().product::<usize>() * self.size(kind);
        let at = At::Buffer(self.plan.buffer(bytes, false), 0);
        View { at, kind, shape: shape.to_vec(), strides: row_major(shape) }
    }

    /// The tensor at an outlet, on the device.
    fn view(&mut self, outlet: OutletId) -> Result<View> {
        match self.values.get(&outlet) {
            Some(Value::On(view)) => Ok(view.clone()),
            Some(Value::Constant(tensor)) => self.upload(&Arc::clone(tensor)),
            None => Err(Error::internal("a node was translated before its input")),
        }
    }

    fn upload(&mut self, tensor: &Arc<Tensor>) -> Result<View> {
        let cannot = |e: TractError| crate::import::failed("cannot read a constant", &e);
        let kind = match tensor.datum_type() {
            DatumType::F32 | DatumType::F16 => Kind::Real,
            DatumType::I64 | DatumType::I32 | DatumType::TDim => Kind::Int,
            other => return Err(Error::engine(format!("there is no GPU kernel for constants of the type {other:?}"))),
        };
        let key = (Arc::as_ptr(tensor) as usize, kind);
        if let Some(view) = self.uploaded.get(&key) {
            return Ok(view.clone());
        }
        let mut bytes = Vec::new();
        if kind == Kind::Real {
            let wide = tensor.cast_to::<f32>().map_err(cannot)?;
            let values = wide.try_as_plain_ram().and_then(|t| t.as_slice::<f32>()).map_err(cannot)?;
            numbers(self.plan.precision, values.iter().copied(), &mut bytes);
        } else {
            let wide = tensor.cast_to::<i64>().map_err(cannot)?;
            let values = wide.try_as_plain_ram().and_then(|t| t.as_slice::<i64>()).map_err(cannot)?;
            values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        }
        let at = self.plan.constant(bytes.len(), Constant::Bytes(bytes));
        let shape = tensor.shape().to_vec();
        let view = View { at, kind, strides: row_major(&shape), shape };
        self.kept.push(Arc::clone(tensor));
        self.uploaded.insert(key, view.clone());
        Ok(view)
    }

    /// Constant numbers in the plan's precision.
    fn real_constant(&mut self, values: impl Iterator<Item = f32>) -> At {
        let mut bytes = Vec::new();
        numbers(self.plan.precision, values, &mut bytes);
        self.plan.constant(bytes.len(), Constant::Bytes(bytes))
    }

    /// A vector in fp32, whatever the precision.
    fn vector(&mut self, values: Option<&[f32]>) -> At {
        let Some(values) = values else { return At::Nowhere };
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.plan.constant(bytes.len(), Constant::Bytes(bytes))
    }

    fn convert(&mut self, kernel: &'static str, from: &View, to: At) {
        let count = from.volume();
        let arguments = Arguments::default().place(from.at).place(to).ints(&[count]);
        self.plan.launch(kernel, [count.div_ceil(256), 1], 256, arguments);
    }

    /// A contiguous tensor of another kind.
    fn converted(&mut self, from: &View, kernel: &'static str, kind: Kind) -> View {
        let to = self.tensor(kind, &from.shape);
        self.convert(kernel, from, to.at);
        to
    }

    /// The same numbers, row by row.
    fn contiguous(&mut self, view: &View) -> Result<View> {
        if view.is_contiguous() {
            return Ok(View { strides: row_major(&view.shape), ..view.clone() });
        }
        let to = self.tensor(view.kind, &view.shape);
        self.copy(view, &to)?;
        Ok(to)
    }

    /// What a node comes to.
    fn node(&mut self, node: &TypedNode) -> Result<Value> {
        let refuse = || unsupported(node);
        if node.outputs.len() != 1 {
            return Err(refuse());
        }
        let shape: Vec<usize> = node.outputs[0].fact.shape.as_concrete().ok_or_else(refuse)?.to_vec();
        if shape.contains(&0) {
            return Err(refuse());
        }
        let view = if let Some(op) = node.op_as::<Linear>() {
            self.linear(node, op)?
        } else if let Some(op) = node.op_as::<Conv2d>() {
            self.conv(node, op)?
        } else if let Some(op) = node.op_as::<Attention>() {
            self.attention(node, op)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<Embedding>() {
            self.embedding(node, op)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<RowNorm>() {
            self.row_norm(node, op)?
        } else if let Some(op) = node.op_as::<GroupNorm>() {
            let x = self.input(node, 0)?;
            self.group_norm(&x, op)?
        } else if let Some(op) = node.op_as::<AxisOp>() {
            self.axis(node, op)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<Slice>() {
            self.slice(node, op, &shape)?.ok_or_else(refuse)?
        } else if node.op_is::<MultiBroadcastTo>() {
            let x = self.input(node, 0)?;
            broadcast(&x, &shape).ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<NearestUpsample>() {
            self.upsample(node, op)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<TypedConcat>() {
            self.concat(node, op, &shape)?
        } else if let Some(op) = node.op_as::<Gather>() {
            self.gather(node, op, &shape)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<TypedBinOp>() {
            self.binary(node, op, &shape)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<ElementWiseOp>() {
            self.unary(node, op)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<Reduce>() {
            self.reduce(node, op)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<Softmax>() {
            self.softmax(node, op)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<EinSum>() {
            self.einsum(node, op, &shape)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<SumPool>() {
            let how = match (op.normalize, op.count_include_pad) {
                (false, _) => 0,
                (true, false) => 1,
                (true, true) => 2,
            };
            self.pool(node, &op.pool_spec, how, &shape)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<MaxPool>().filter(|op| op.with_index_outputs.is_none()) {
            self.pool(node, &op.pool_spec, 3, &shape)?.ok_or_else(refuse)?
        } else if let Some(op) = node.op_as::<Cast>() {
            self.cast(node, op)?.ok_or_else(refuse)?
        } else if node.op_is::<Identity>() {
            self.input(node, 0)?
        } else {
            return Err(refuse());
        };
        if view.shape != shape {
            return Err(Error::internal(format!("the translation of {} has a wrong shape", node.op.name())));
        }
        Ok(Value::On(view))
    }

    fn input(&mut self, node: &TypedNode, index: usize) -> Result<View> {
        let outlet = node.inputs.get(index).ok_or_else(|| Error::internal("a node lacks an input"))?;
        self.view(*outlet)
    }

    /// An input, row by row.
    fn whole(&mut self, node: &TypedNode, index: usize) -> Result<View> {
        let view = self.input(node, index)?;
        self.contiguous(&view)
    }
}

/// A view that repeats its numbers along the axes that are longer in `shape`.
fn broadcast(view: &View, shape: &[usize]) -> Option<View> {
    let extra = shape.len().checked_sub(view.shape.len())?;
    let mut strides = vec![0; extra];
    for (axis, (&size, &stride)) in view.shape.iter().zip(&view.strides).enumerate() {
        match shape[extra + axis] {
            wanted if wanted == size => strides.push(stride),
            _ if size == 1 => strides.push(0),
            _ => return None,
        }
    }
    Some(View { shape: shape.to_vec(), strides, ..view.clone() })
}
