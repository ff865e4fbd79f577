//! The limits a manifest must keep. Everything after this may trust its numbers.

use std::collections::HashSet;

use super::manifest::{GraphFile, Manifest};
use maskgit_core::{Error, Result};

/// The largest manifest.
pub(super) const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// The largest graph file.
const MAX_GRAPH_BYTES: u64 = 1 << 32;
const MAX_LABELS: usize = 1 << 16;
const MAX_LABEL_BYTES: usize = 256;
const MAX_LABEL_ID_BYTES: usize = 64;
const MAX_GRID: u32 = 128;
const MAX_IMAGE: u32 = 4096;
const MAX_CODES: usize = 1 << 20;
/// Above the largest K and the largest number of labels, with room for other special tokens.
const MAX_ID: i64 = 1 << 21;
/// Logits of one image, N times K: 1 GiB in f32.
const MAX_LOGITS: usize = 1 << 28;

/// Checks every value of a manifest that has been read.
pub(super) fn validate(m: &Manifest) -> Result<()> {
    text("name", &m.name, 1, 128)?;
    text("licence", &m.licence, 1, 256)?;
    text("source", &m.source, 0, 4096)?;
    range("image.height", m.image.height, 1, MAX_IMAGE)?;
    range("image.width", m.image.width, 1, MAX_IMAGE)?;
    range("grid.rows", m.grid.rows, 1, MAX_GRID)?;
    range("grid.cols", m.grid.cols, 1, MAX_GRID)?;
    multiple("image.height", m.image.height, "grid.rows", m.grid.rows)?;
    multiple("image.width", m.image.width, "grid.cols", m.grid.cols)?;
    range("codes", m.codes, 1, MAX_CODES)?;
    // At most 2^14 tokens and 2^20 codes: no overflow, even in 32 bits' worth of usize once saturated.
    if m.tokens().saturating_mul(m.codes) > MAX_LOGITS {
        return fail(format!(
            "grid.rows * grid.cols * codes is {} * {} * {}; at most {MAX_LOGITS} logits are allowed",
            m.grid.rows, m.grid.cols, m.codes
        ));
    }
    id("mask_id", m.mask_id, m.codes, "codes")?;
    labels(&m.labels)?;
    label_ids(m)?;
    if let Some(null) = m.null_label {
        id("null_label", null, m.labels.len(), "the number of labels")?;
    }
    sampling(m)?;
    let mut files = HashSet::new();
    for (kind, graph) in m.graphs.iter() {
        graph_file(kind.as_str(), graph)?;
        // Without case: on some systems "A.onnx" and "a.onnx" are one file.
        if !files.insert(graph.file.to_ascii_lowercase()) {
            return fail(format!("graphs.{kind}.file is \"{}\", which another graph uses too", graph.file));
        }
    }
    Ok(())
}

fn fail<T>(message: impl std::fmt::Display) -> Result<T> {
    Err(Error::bundle(format!("bundle.json: {message}")))
}

fn text(field: &str, value: &str, min: usize, max: usize) -> Result<()> {
    if value.len() < min || value.len() > max {
        return fail(format!("{field} has {} bytes; it must have {min} to {max}", value.len()));
    }
    if value.chars().any(char::is_control) {
        return fail(format!("{field} has a control character"));
    }
    Ok(())
}

fn range<T: PartialOrd + Copy + std::fmt::Display>(field: &str, value: T, min: T, max: T) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    fail(format!("{field} is {value}; it must be {min} to {max}"))
}

fn multiple(field: &str, value: u32, by: &str, divisor: u32) -> Result<()> {
    if value.checked_rem(divisor) == Some(0) {
        return Ok(());
    }
    fail(format!("{field} is {value}, which is not a multiple of {by}, {divisor}"))
}

/// A special id: past the ordinary ones, below [`MAX_ID`].
fn id(field: &str, value: i64, from: usize, what: &str) -> Result<()> {
    if value >= from as i64 && value < MAX_ID {
        return Ok(());
    }
    fail(format!("{field} is {value}; it must be at least {what}, {from}, and less than {MAX_ID}"))
}

fn labels(labels: &[String]) -> Result<()> {
    if labels.is_empty() || labels.len() > MAX_LABELS {
        return fail(format!("labels has {} names; it must have 1 to {MAX_LABELS}", labels.len()));
    }
    names("labels", labels, MAX_LABEL_BYTES)
}

fn label_ids(m: &Manifest) -> Result<()> {
    let Some(ids) = &m.label_ids else { return Ok(()) };
    if ids.len() != m.labels.len() {
        return fail(format!(
            "label_ids has {} names; it must have one for each of the {} labels",
            ids.len(),
            m.labels.len()
        ));
    }
    names("label_ids", ids, MAX_LABEL_ID_BYTES)
}

/// Texts that all differ.
fn names(field: &str, names: &[String], max: usize) -> Result<()> {
    let mut seen = HashSet::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        text(&format!("{field}[{index}]"), name, 1, max)?;
        if !seen.insert(name.as_str()) {
            return fail(format!("{field}[{index}] is \"{name}\", as an earlier one is; give each class its own"));
        }
    }
    Ok(())
}

fn sampling(m: &Manifest) -> Result<()> {
    m.sampling.validate().map_err(|e| Error::bundle(format!("bundle.json: sampling: {e}")))?;
    if let Some(k) = m.sampling.top_k {
        range("sampling.top_k", k, 1, m.codes)?;
    }
    if m.sampling.guidance > 0.0 && m.null_label.is_none() {
        return fail("sampling.guidance is above 0, but there is no null_label to guide away from");
    }
    Ok(())
}

fn graph_file(kind: &str, graph: &GraphFile) -> Result<()> {
    let GraphFile { file, bytes, sha256 } = graph;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if file.is_empty() || file.len() > 128 || file.starts_with('.') || !file.chars().all(plain) {
        return fail(format!(
            "graphs.{kind}.file is {file:?}; it must be a plain file name of 1 to 128 letters, digits, '.', '_' \
             and '-', not starting with '.'"
        ));
    }
    if file.eq_ignore_ascii_case(super::MANIFEST_FILE) {
        return fail(format!("graphs.{kind}.file is \"{file}\", which is the manifest itself"));
    }
    if !(1..=MAX_GRAPH_BYTES).contains(bytes) {
        return fail(format!("graphs.{kind}.bytes is {bytes}; it must be 1 to {MAX_GRAPH_BYTES}"));
    }
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return fail(format!("graphs.{kind}.sha256 is not 64 lower-case hexadecimal digits"));
    }
    Ok(())
}
