//! Constants that become packed weights: in f32, or in int8 behind ONNX's `DequantizeLinear`.

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::konst::Const;

/// Weights in int8 that stand for `values * scales`. tract would compute the product when it loads the graph, and four bytes
/// a weight would be left of one; this operator hides it from tract until a rule has taken the weights.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QuantWeight {
    /// int8.
    pub(crate) values: Arc<Tensor>,
    /// f32, of the same rank; each dimension is that of `values` or 1.
    pub(crate) scales: Arc<Tensor>,
}

impl QuantWeight {
    /// The product.
    fn dequantized(&self) -> TractResult<Tensor> {
        let values = self.values.cast_to::<f32>()?;
        let product = values.to_plain_array_view::<f32>()?.to_owned() * &self.scales.to_plain_array_view::<f32>()?;
        Ok(product.into_tensor())
    }

    fn changed(&self, change: &AxisOp) -> Option<Self> {
        let mut values = self.values.as_ref().clone();
        change.change_tensor(&mut values, false).ok()?;
        let mut scales = self.scales.as_ref().clone();
        match change {
            AxisOp::Reshape(at, from, to) => {
                let part = scales.shape().get(*at..at + from.len())?;
                let mut shape: TVec<usize> = scales.shape().into();
                let new: TVec<usize> = if part.iter().all(|&d| d == 1) {
                    tvec!(1; to.len())
                } else if part.iter().zip(from).all(|(d, f)| f.to_usize().is_ok_and(|f| f == *d)) {
                    to.iter().map(|d| d.to_usize().ok()).collect::<Option<_>>()?
                } else {
                    return None;
                };
                shape.drain(*at..at + from.len());
                shape.insert_many(*at, new);
                scales.set_shape(&shape).ok()?;
            }
            other => other.change_tensor(&mut scales, false).ok()?,
        }
        Some(Self { values: values.into(), scales: scales.into() })
    }
}

impl Op for QuantWeight {
    fn name(&self) -> StaticName {
        "QuantWeight".into()
    }

    fn as_typed(&self) -> Option<&dyn TypedOp> {
        Some(self)
    }
}

impl EvalOp for QuantWeight {
    /// Not before the graph runs.
    fn eval_out_of_plan(&self, _: TVec<TValue>) -> TractResult<Option<TVec<TValue>>> {
        Ok(None)
    }

    fn eval(&self, _: &EvalContext, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.dequantized()?.into()))
    }
}

impl TypedOp for QuantWeight {
    fn as_op(&self) -> &dyn Op {
        self
    }

    fn as_op_mut(&mut self) -> &mut dyn Op {
        self
    }

    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(self.values.shape())))
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

/// A constant operand of a product.
pub(crate) enum Constant {
    F32(Arc<Tensor>),
    I8(QuantWeight),
}

impl Constant {
    /// The constant behind an outlet, if there is one.
    pub(super) fn find(model: &TypedModel, outlet: OutletId) -> Option<Self> {
        let node = model.node(outlet.node);
        if let Some(op) = node.op_as::<QuantWeight>() {
            return Some(Self::I8(op.clone()));
        }
        if let Some(axis) = node.op_as::<AxisOp>() {
            // tract leaves axis operations that it could not push into the constant.
            return match Self::find(model, *node.inputs.first()?)? {
                Self::I8(op) => op.changed(axis).map(Self::I8),
                Self::F32(tensor) => {
                    let mut tensor = tensor.as_ref().clone();
                    axis.change_tensor(&mut tensor, false).ok()?;
                    Some(Self::F32(tensor.into()))
                }
            };
        }
        super::constant(model, outlet).map(Self::F32)
    }

    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::F32(tensor) => tensor.shape(),
            Self::I8(weight) => weight.values.shape(),
        }
    }
}

/// Turns what no rule has taken back into f32 constants, so that nothing is computed anew at each run.
pub(super) fn materialize(model: &mut TypedModel) -> TractResult<()> {
    let left: Vec<(usize, QuantWeight)> =
        model.nodes().iter().filter_map(|n| Some((n.id, n.op_as::<QuantWeight>()?.clone()))).collect();
    for (id, weight) in left {
        if model.node(id).outputs[0].successors.is_empty() {
            continue;
        }
        let tensor = weight.dequantized()?.into_arc_tensor();
        let fact = TypedFact::try_from(&tensor)?;
        let node = model.node_mut(id);
        node.op = Box::new(Const::new(tensor)?);
        node.outputs[0].fact = fact;
    }
    Ok(())
}
