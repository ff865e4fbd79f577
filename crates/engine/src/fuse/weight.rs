//! Constants that become packed weights: from the file, or computed while tract simplified the graph.

use tract_core::internal::*;
use tract_core::ops::array::Slice;
use tract_core::ops::konst::Const;

use super::Context;
use crate::Source;
use crate::ops::Table;

/// How the numbers of a weight stand in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stored {
    F32,
    F16,
    /// Symmetric: a weight is its number times its scale. The scales have the weight's rank; each dimension is the
    /// weight's or 1.
    I8 {
        scales: Arc<Tensor>,
    },
}

/// What has become of a weight since it was found in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Change {
    Axes(Box<AxisOp>),
    /// The places `start..end` along an axis.
    Part {
        axis: usize,
        start: usize,
        end: usize,
    },
}

/// A weight that is still in the file, and what has become of it since: tract sees an operator without inputs, so it
/// neither reads nor copies it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LazyWeight {
    /// The first byte in the file.
    start: u64,
    /// The shape in the file.
    original: TVec<usize>,
    stored: Stored,
    changes: Vec<Change>,
    shape: TVec<usize>,
}

impl LazyWeight {
    pub(crate) fn new(start: u64, shape: TVec<usize>, stored: Stored) -> Self {
        Self { start, original: shape.clone(), stored, changes: Vec::new(), shape }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn is_int8(&self) -> bool {
        matches!(self.stored, Stored::I8 { .. })
    }

    /// Whether its numbers have fewer than 32 bits in the file.
    pub(super) fn is_narrow(&self) -> bool {
        !matches!(self.stored, Stored::F32)
    }

    /// The weight after one more change of its axes.
    fn changed(&self, change: &AxisOp) -> Option<Self> {
        let mut new = self.clone();
        change.change_shape_array(&mut new.shape, false).ok()?;
        if let Stored::I8 { scales } = &self.stored {
            let mut scales = scales.as_ref().clone();
            match change {
                AxisOp::Reshape(at, from, to) => {
                    let part = scales.shape().get(*at..at + from.len())?;
                    let mut shape: TVec<usize> = scales.shape().into();
                    let sizes: TVec<usize> = if part.iter().all(|&d| d == 1) {
                        tvec!(1; to.len())
                    } else if part.iter().zip(from).all(|(d, f)| f.to_usize().is_ok_and(|f| f == *d)) {
                        to.iter().map(|d| d.to_usize().ok()).collect::<Option<_>>()?
                    } else {
                        return None;
                    };
                    shape.drain(*at..at + from.len());
                    shape.insert_many(*at, sizes);
                    scales.set_shape(&shape).ok()?;
                }
                other => other.change_tensor(&mut scales, false).ok()?,
            }
            new.stored = Stored::I8 { scales: scales.into() };
        }
        new.changes.push(Change::Axes(Box::new(change.clone())));
        Some(new)
    }

    /// A part of the weight: the places `start..end` along an axis.
    fn part(&self, axis: usize, start: usize, end: usize) -> Option<Self> {
        let mut new = self.clone();
        if start >= end || end > *self.shape.get(axis)? {
            return None;
        }
        if let Stored::I8 { scales } = &self.stored
            && scales.shape()[axis] != 1
        {
            new.stored = Stored::I8 { scales: scales.slice(axis, start, end).ok()?.into() };
        }
        new.shape[axis] = end - start;
        if axis == 0 && self.changes.is_empty() {
            // It is in one piece: the rest need not be read.
            let row: usize = self.original.iter().skip(1).product();
            new.start += start as u64 * row as u64 * self.number_size() as u64;
            new.original[0] = end - start;
        } else {
            new.changes.push(Change::Part { axis, start, end });
        }
        Some(new)
    }

    /// Bytes of a number in the file.
    fn number_size(&self) -> usize {
        match self.stored {
            Stored::F32 => 4,
            Stored::F16 => 2,
            Stored::I8 { .. } => 1,
        }
    }

    /// Reads its bytes.
    fn bytes(&self, source: &Source) -> TractResult<Vec<u8>> {
        let len = self.original.iter().try_fold(self.number_size(), |a, &d| a.checked_mul(d));
        Ok(source.read(self.start, len.context("a weight is too large for this processor")?)?)
    }

    /// Reads the numbers as they are, for looking rows up; none where rows are not what stands together, or the scales
    /// are not theirs.
    fn table(&self, source: &Source) -> TractResult<Option<Table>> {
        if !self.changes.is_empty() {
            return Ok(None);
        }
        Ok(match &self.stored {
            Stored::F32 => None,
            Stored::F16 => {
                let bytes = self.bytes(source)?;
                Some(Table::F16(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect()))
            }
            Stored::I8 { scales } => {
                if scales.shape().iter().skip(1).any(|&d| d != 1) {
                    return Ok(None);
                }
                let scales = scales.broadcast_to_shape(&[self.shape[0], 1])?;
                let scales = scales.try_as_plain_ram()?.as_slice::<f32>()?.into();
                let values = self.bytes(source)?.into_iter().map(|b| b as i8).collect();
                Some(Table::I8 { values, scales })
            }
        })
    }

    /// Reads the numbers.
    fn load(&self, source: &Source) -> TractResult<Constant> {
        let bytes = self.bytes(source)?;
        let mut tensor = match self.stored {
            Stored::F32 => {
                let numbers: Vec<f32> =
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                Tensor::from_shape(&self.original, &numbers)?
            }
            Stored::F16 => {
                let numbers: Vec<f32> =
                    bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
                Tensor::from_shape(&self.original, &numbers)?
            }
            Stored::I8 { .. } => {
                let numbers: Vec<i8> = bytes.into_iter().map(|b| b as i8).collect();
                Tensor::from_shape(&self.original, &numbers)?
            }
        };
        for change in &self.changes {
            match change {
                Change::Axes(axes) => axes.change_tensor(&mut tensor, false)?,
                Change::Part { axis, start, end } => tensor = tensor.slice(*axis, *start, *end)?,
            }
        }
        Ok(match &self.stored {
            Stored::I8 { scales } => Constant::I8 { values: tensor.into(), scales: Arc::clone(scales) },
            _ => Constant::F32(tensor.into()),
        })
    }
}

impl Op for LazyWeight {
    fn name(&self) -> StaticName {
        "LazyWeight".into()
    }

    fn as_typed(&self) -> Option<&dyn TypedOp> {
        Some(self)
    }
}

impl EvalOp for LazyWeight {
    /// Not while the graph is simplified.
    fn eval_out_of_plan(&self, _: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        Ok(None)
    }
}

impl TypedOp for LazyWeight {
    fn as_op(&self) -> &dyn Op {
        self
    }

    fn as_op_mut(&mut self) -> &mut dyn Op {
        self
    }

    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }

    fn change_axes(
        &self,
        model: &TypedModel,
        node: &TypedNode,
        io: InOut,
        change: &AxisOp,
    ) -> TractResult<Option<AxisChangeConsequence>> {
        ensure!(io == InOut::Out(0));
        Ok(self.changed(change).map(|op| AxisChangeConsequence::new(model, node, Some(Box::new(op)), change)))
    }
}

/// A weight's place in the graph, before its numbers are read.
pub(super) enum Found {
    Computed(Arc<Tensor>),
    InFile(LazyWeight),
}

/// The numbers of a constant operand of a product.
pub(super) enum Constant {
    F32(Arc<Tensor>),
    /// As [`Stored::I8`].
    I8 {
        values: Arc<Tensor>,
        scales: Arc<Tensor>,
    },
}

impl Found {
    /// The constant behind an outlet, if there is one.
    pub(super) fn new(model: &TypedModel, outlet: OutletId) -> Option<Self> {
        let node = model.node(outlet.node);
        if let Some(op) = node.op_as::<LazyWeight>() {
            return Some(Self::InFile(op.clone()));
        }
        if let Some(axis) = node.op_as::<AxisOp>() {
            // tract leaves axis operations that it could not push into the constant.
            return match Self::new(model, *node.inputs.first()?)? {
                Self::InFile(op) => op.changed(axis).map(Self::InFile),
                Self::Computed(tensor) => {
                    let mut tensor = tensor.as_ref().clone();
                    axis.change_tensor(&mut tensor, false).ok()?;
                    Some(Self::Computed(tensor.into()))
                }
            };
        }
        if let Some(slice) = node.op_as::<Slice>() {
            // tract cuts a product in parts where its output is.
            let (start, end) = (slice.start.to_usize().ok()?, slice.end.to_usize().ok()?);
            return match Self::new(model, *node.inputs.first()?)? {
                Self::InFile(op) => op.part(slice.axis, start, end).map(Self::InFile),
                Self::Computed(tensor) => Some(Self::Computed(tensor.slice(slice.axis, start, end).ok()?.into())),
            };
        }
        super::constant(model, outlet).map(Self::Computed)
    }

    /// Whether its numbers are in fp16 in the file.
    pub(super) fn is_half(&self) -> bool {
        matches!(self, Self::InFile(weight) if weight.stored == Stored::F16)
    }

    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Computed(tensor) => tensor.shape(),
            Self::InFile(weight) => weight.shape(),
        }
    }

    /// The constant as a table of rows, in the precision of the file where that can be.
    pub(super) fn table(&self, context: &Context) -> TractResult<Option<Table>> {
        if let Self::InFile(weight) = self
            && let Some(table) = weight.table(&context.source)?
        {
            return Ok(Some(table));
        }
        Ok(match self.load(context)? {
            Constant::F32(tensor) => Some(Table::F32(tensor)),
            Constant::I8 { .. } => None,
        })
    }

    pub(super) fn load(&self, context: &Context) -> TractResult<Constant> {
        match self {
            Self::Computed(tensor) => Ok(Constant::F32(Arc::clone(tensor))),
            Self::InFile(weight) => weight.load(&context.source),
        }
    }
}

/// Reads what no rule has taken, as f32.
pub(super) fn materialize(context: &Context, model: &mut TypedModel) -> TractResult<()> {
    let left: Vec<(usize, LazyWeight)> =
        model.nodes().iter().filter_map(|n| Some((n.id, n.op_as::<LazyWeight>()?.clone()))).collect();
    for (id, weight) in left {
        if model.node(id).outputs[0].successors.is_empty() {
            continue;
        }
        let tensor = match weight.load(&context.source)? {
            Constant::F32(tensor) => tensor,
            Constant::I8 { values, scales } => {
                let values = values.cast_to::<f32>()?;
                let product = values.to_plain_array_view::<f32>()?.to_owned() * &scales.to_plain_array_view::<f32>()?;
                product.into_tensor().into_arc_tensor()
            }
        };
        let fact = TypedFact::try_from(&tensor)?;
        let node = model.node_mut(id);
        node.op = Box::new(Const::new(tensor)?);
        node.outputs[0].fact = fact;
    }
    Ok(())
}
