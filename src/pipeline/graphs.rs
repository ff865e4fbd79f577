//! A bundle's graphs on an engine, one row at a time.

use image::RgbImage;

use crate::bundle::{Bundle, GraphKind, Manifest};
use crate::engine::{CpuEngine, DType, Engine, Input, OperatorCount, Output, Port, Session, Signature};
use crate::error::{Error, Result};

/// The inputs and outputs that a graph must have, with batch 1.
fn signature(manifest: &Manifest, kind: GraphKind) -> Signature {
    let n = manifest.tokens();
    let tokens = Port::new("tokens", DType::I64, &[1, n]);
    let image = Port::new("image", DType::F32, &[1, 3, manifest.image.height, manifest.image.width]);
    match kind {
        GraphKind::Transformer => Signature {
            inputs: vec![tokens, Port::new("label", DType::I64, &[1])],
            outputs: vec![Port::new("logits", DType::F32, &[1, n, manifest.codes])],
        },
        GraphKind::Decoder => Signature { inputs: vec![tokens], outputs: vec![image] },
        GraphKind::Encoder => Signature { inputs: vec![image], outputs: vec![tokens] },
    }
}

/// Reads, checks and prepares one graph of a bundle.
pub(super) fn load(bundle: &Bundle, engine: &dyn Engine, kind: GraphKind) -> Result<Box<dyn Session>> {
    let graph = bundle.source(kind)?;
    engine
        .load(&graph, &signature(bundle.manifest(), kind))
        .map_err(|e| e.context(format!("{}, the {kind} graph", bundle.manifest().name)))
}

/// The operators of every graph of a bundle as the CPU runs them, ours first, in the order of the packed file.
///
/// # Errors
///
/// As [`Generator::from_bundle`](super::Generator::from_bundle).
pub fn operators(bundle: &Bundle) -> Result<Vec<(GraphKind, Vec<OperatorCount>)>> {
    let engine = CpuEngine::new(1)?;
    let kinds = GraphKind::ALL.into_iter().filter(|&kind| bundle.has_graph(kind));
    kinds.map(|kind| Ok((kind, load(bundle, &engine, kind)?.describe()))).collect()
}

/// Runs the transformer once: N times K logits.
pub(super) fn transformer_row(session: &mut dyn Session, tokens: &[i64], label: i64) -> Result<Vec<f32>> {
    let inputs = [Input::I64 { shape: &[1, tokens.len()], data: tokens }, Input::I64 { shape: &[1], data: &[label] }];
    one(session.run(&inputs)?)?.into_f32()
}

/// Runs the transformer for several rows of tokens, each with its label: a row's logits are those it has alone.
pub(super) fn transformer_rows(session: &mut dyn Session, rows: &[(&[i64], i64)]) -> Result<Vec<Vec<f32>>> {
    let shapes: Vec<[usize; 2]> = rows.iter().map(|(tokens, _)| [1, tokens.len()]).collect();
    let inputs: Vec<[Input<'_>; 2]> = rows
        .iter()
        .zip(&shapes)
        .map(|((tokens, label), shape)| {
            [Input::I64 { shape, data: tokens }, Input::I64 { shape: &[1], data: std::slice::from_ref(label) }]
        })
        .collect();
    let inputs: Vec<&[Input<'_>]> = inputs.iter().map(|row| row.as_slice()).collect();
    session.run_rows(&inputs)?.into_iter().map(|outputs| one(outputs)?.into_f32()).collect()
}

/// Runs the decoder once: three planes.
pub(super) fn decode_row(manifest: &Manifest, session: &mut dyn Session, tokens: &[i64]) -> Result<Vec<f32>> {
    let data = one(session.run(&[Input::I64 { shape: &[1, tokens.len()], data: tokens }])?)?.into_f32()?;
    let expected = manifest.image.height.saturating_mul(manifest.image.width).saturating_mul(3);
    if data.len() != expected {
        return Err(Error::engine(format!("the decoder gave {} values, not {expected}", data.len())));
    }
    Ok(data)
}

/// The only output of a graph.
pub(super) fn one(outputs: Vec<Output>) -> Result<Output> {
    outputs.into_iter().next().ok_or_else(|| Error::engine("a graph gave no output"))
}

/// Checks the number of tokens and their range, which holds the mask id where that is allowed.
pub(super) fn check_tokens(manifest: &Manifest, tokens: &[i64], mask_allowed: bool) -> Result<()> {
    if tokens.len() != manifest.tokens() {
        return Err(Error::request(format!("{} tokens; the model has {}", tokens.len(), manifest.tokens())));
    }
    let fits = |&token: &i64| {
        usize::try_from(token).is_ok_and(|t| t < manifest.codes) || (mask_allowed && token == manifest.mask_id)
    };
    match tokens.iter().position(|token| !fits(token)) {
        None => Ok(()),
        Some(place) => Err(Error::request(format!(
            "the token at position {place} is {}; it must be 0 to {}{}",
            tokens.get(place).copied().unwrap_or_default(),
            manifest.codes.saturating_sub(1),
            if mask_allowed { format!(" or the mask id {}", manifest.mask_id) } else { String::new() }
        ))),
    }
}

/// Three planes in 0..1, clipped, to pixels.
pub(super) fn to_image(manifest: &Manifest, planes: &[f32]) -> Result<RgbImage> {
    if planes.iter().any(|v| !v.is_finite()) {
        return Err(Error::engine("the decoder gave a value that is not a finite number"));
    }
    let area = manifest.image.height.saturating_mul(manifest.image.width);
    let (red, rest) = planes.split_at_checked(area).unwrap_or((&[], &[]));
    let (green, blue) = rest.split_at_checked(area).unwrap_or((&[], &[]));
    let byte = |v: &f32| (v.clamp(0.0, 1.0) * 255.0).round() as u8;
    let pixels: Vec<u8> = red.iter().zip(green).zip(blue).flat_map(|((r, g), b)| [byte(r), byte(g), byte(b)]).collect();
    u32::try_from(manifest.image.width)
        .ok()
        .zip(u32::try_from(manifest.image.height).ok())
        .and_then(|(width, height)| RgbImage::from_raw(width, height, pixels))
        .ok_or_else(|| Error::internal("a decoded picture does not have the size of the model's pictures"))
}
