//! Convolutions, with the nearest-neighbour upsampling before them.

use tract_core::internal::*;
use tract_core::ops::cnn::{Conv, KernelFormat};
use tract_core::ops::nn::{DataFormat, NearestUpsample};

use super::epilogue::activation_of;
use super::weight::{Constant, Found};
use super::{Context, constant, read_once, shape_of, wire_axes};
use crate::ops::{Before, Conv2d, GroupNorm, Vector, Weights};
use maskgit_kernels::{Activation, Matrix, winograd};

/// Longer sums of 8-bit products could overflow 32 bits.
const MAX_INNER: usize = 1 << 16;
/// Fewer channels than these, in or out, leave Winograd's products too thin to be worth their transforms.
const WINOGRAD_CHANNELS: usize = 32;
/// Winograd's weights up to this many numbers are worth their memory whatever the size of the image.
const WINOGRAD_NUMBERS: usize = 1 << 19;

pub(super) fn conv(
    context: &Context,
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    op: &Conv,
) -> TractResult<Option<TypedModelPatch>> {
    let (Some(input), Some(output)) = (shape_of(model, node.inputs[0]), shape_of(model, node.id.into())) else {
        return Ok(None);
    };
    let (&[1, channels, height, width], &[1, columns, out_height, out_width]) = (input.as_slice(), output.as_slice())
    else {
        return Ok(None);
    };
    if !is_plain(op) || node.inputs.len() != 3 || output.contains(&0) || input.contains(&0) {
        return Ok(None);
    }
    let (Some(kernel), Some(bias)) = (Found::new(model, node.inputs[1]), constant(model, node.inputs[2])) else {
        return Ok(None);
    };
    let &[_, _, kernel_height, kernel_width] = kernel.shape() else { return Ok(None) };
    if bias.len() != 1 && bias.len() != columns {
        return Ok(None);
    }
    let spec = &op.pool_spec;
    let (strides, dilations) = (spec.strides(), spec.dilations());
    let (strides, dilations) = ([strides[0], strides[1]], [dilations[0], dilations[1]]);
    let padded = spec.padding.compute(&[height, width], &[kernel_height, kernel_width], &dilations, &strides);
    let before = model.node(node.inputs[0].node);
    let upsample = before.op_as::<NearestUpsample>().is_some_and(|up| up.scales.as_slice() == [1, 1, 2, 2])
        && read_once(model, before);
    let winograd = !context.target.is_gpu()
        && [kernel_height, kernel_width] == [3, 3]
        && strides == [1, 1]
        && dilations == [1, 1]
        && suits_winograd(channels, [out_height, out_width, columns]);
    let Some(weights) = pack(context, &kernel, [columns, channels, kernel_height * kernel_width], winograd)? else {
        return Ok(None);
    };
    let conv = Conv2d {
        weights,
        input: if upsample { [height / 2, width / 2, channels] } else { [height, width, channels] },
        shape: tvec!(1, out_height, out_width, columns),
        kernel: [kernel_height, kernel_width],
        strides,
        dilations,
        padding: [padded[0].pad_before, padded[1].pad_before],
        upsample,
        before: Before::Activation(Activation::None),
        bias: bias_of(&bias, columns)?,
        activation: Activation::None,
        residual: false,
        isa: context.isa,
        fused: context.fused,
    };
    conv.check()?;
    channels_last(model, node, name, conv, if upsample { before.inputs[0] } else { node.inputs[0] }).map(Some)
}

/// Whether the operator computes convolutions of this kind.
fn is_plain(op: &Conv) -> bool {
    op.group == 1
        && op.q_params.is_none()
        && op.kernel_fmt == KernelFormat::OIHW
        && op.pool_spec.data_format == DataFormat::NCHW
}

/// Whether Winograd's products pay, which take 36 / 9 of the weights' memory: where the images are large beside them,
/// or all is small.
fn suits_winograd(channels: usize, [height, width, columns]: [usize; 3]) -> bool {
    let transformed = winograd::PRODUCTS.saturating_mul(channels).saturating_mul(columns);
    let image = height.saturating_mul(width).saturating_mul(channels + columns);
    channels.min(columns) >= WINOGRAD_CHANNELS
        && height.min(width) >= 2 * winograd::OUT
        && transformed <= image.max(WINOGRAD_NUMBERS)
}

/// One number a column; none where all are zero.
fn bias_of(bias: &Tensor, columns: usize) -> TractResult<Option<Vector>> {
    let values = bias.try_as_plain_ram()?.as_slice::<f32>()?;
    let all = || Vector::from(if values.len() == columns { values.to_vec() } else { vec![values[0]; columns] });
    Ok(values.iter().any(|&b| b != 0.0).then(all))
}

/// Puts the operator in the place of `node`, with its image's channels brought to the end and back.
fn channels_last(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    conv: Conv2d,
    x: OutletId,
) -> TractResult<TypedModelPatch> {
    let mut patch = TypedModelPatch::default();
    let mut wire = patch.tap_model(model, x)?;
    wire = patch.wire_node(format!("{name}.nhwc"), AxisOp::Move(1, 3), &[wire])?[0];
    wire = patch.wire_node(format!("{name}.fused"), conv, &[wire])?[0];
    wire = patch.wire_node(format!("{name}.nchw"), AxisOp::Move(3, 1), &[wire])?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(patch)
}

/// Folds the group norm or the activation before a convolution into it.
pub(super) fn before(
    _: &Context,
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    op: &Conv2d,
) -> TractResult<Option<TypedModelPatch>> {
    if op.before != Before::Activation(Activation::None) {
        return Ok(None);
    }
    let mut axes = Vec::new();
    let mut inner = model.node(node.inputs[0].node);
    while let Some(axis) = inner.op_as::<AxisOp>() {
        if !read_once(model, inner) {
            return Ok(None);
        }
        axes.push(axis.clone());
        inner = model.node(inner.inputs[0].node);
    }
    axes.reverse();
    let [height, width, channels] = op.input;
    let before = match inner.op_as::<GroupNorm>() {
        Some(norm) if axes.is_empty() && norm.shape.as_slice() == [1, height, width, channels] => {
            Before::Norm(Box::new(norm.clone()))
        }
        Some(_) => return Ok(None),
        None => match activation_of(inner) {
            Some(activation) => Before::Activation(activation),
            None => return Ok(None),
        },
    };
    if !read_once(model, inner) {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let mut inputs = patch.taps(model, &node.inputs)?;
    let x = patch.tap_model(model, inner.inputs[0])?;
    inputs[0] = wire_axes(&mut patch, &format!("{name}.before"), &axes, x)?;
    let wire = patch.wire_node(format!("{name}.fused"), Conv2d { before, ..op.clone() }, &inputs)?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// Packs a kernel laid out as columns, channels, taps.
fn pack(
    context: &Context,
    kernel: &Found,
    [columns, channels, taps]: [usize; 3],
    winograd: bool,
) -> TractResult<Option<Weights>> {
    let inner: Vec<usize> = (0..channels).map(|channel| channel * taps).collect();
    let places: Vec<usize> = (0..columns).map(|column| column * channels * taps).collect();
    Ok(match kernel.load(context)? {
        Constant::F32(tensor) => {
            let values = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
            let matrix = Matrix { values, taps, tap: 1, inner: &inner, columns: &places };
            Some(if winograd { Weights::winograd(&matrix) } else { Weights::f32(context.target, &matrix) })
        }
        Constant::I8 { values, scales } => {
            let by_column = scales.shape().iter().skip(1).all(|&d| d == 1);
            if !by_column || taps * channels > MAX_INNER {
                return Ok(None);
            }
            let scales = scales.try_as_plain_ram()?.as_slice::<f32>()?;
            let scales = if scales.len() == columns { scales.to_vec() } else { vec![scales[0]; columns] };
            let values = values.try_as_plain_ram()?.as_slice::<i8>()?;
            let matrix = Matrix { values, taps, tap: 1, inner: &inner, columns: &places };
            Some(Weights::i8(context.target, &matrix, scales))
        }
    })
}
