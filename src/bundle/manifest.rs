//! What `bundle.json` says.

use serde::{Deserialize, Serialize};

use super::GraphKind;
use crate::error::{Error, Result};

/// The version of the bundle format that this library reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// The manifest of a bundle, read from `bundle.json` and checked. `docs/bundle.md` describes every field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format: [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The model's name, for people: 1 to 128 bytes.
    pub name: String,
    /// The model's licence, best as an SPDX expression such as `CC-BY-4.0`: 1 to 256 bytes.
    pub licence: String,
    /// Where the model comes from, a text or an address: at most 4096 bytes, may be empty.
    pub source: String,
    /// The size of the picture the decoder draws and the encoder reads.
    pub image: ImageSize,
    /// The size of the token grid. Its rows divide the image's height, its columns the image's width.
    pub grid: GridSize,
    /// K, the number of codes: the tokens of a finished picture are in `0..codes`.
    pub codes: usize,
    /// The token that stands for "not known yet". Never a code: at least `codes`, less than 2²¹.
    pub mask_id: i64,
    /// The names of the classes. A label is an index into this list.
    pub labels: Vec<String>,
    /// A second name of each class, in the same order: such as its WordNet synset, `n02099601`. `None`: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_ids: Option<Vec<String>>,
    /// The label that means "no class", for guidance. Never the index of a class: at least `labels.len()`, less
    /// than 2²¹. `None`: the model cannot be guided.
    #[serde(default)]
    pub null_label: Option<i64>,
    /// The precision of the weights.
    pub precision: Precision,
    /// The sampling settings that the model's author recommends.
    pub sampling: Sampling,
    /// The graphs' files.
    pub graphs: Graphs,
}

/// The size of a picture in pixels, each 1 to 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

/// The size of the token grid, each 1 to 128. Tokens are in raster order: row by row, left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridSize {
    /// Rows of tokens.
    pub rows: usize,
    /// Columns of tokens.
    pub cols: usize,
}

/// The precision of a bundle's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point (IEEE half).
    Fp16,
    /// 8-bit integers, symmetric, one scale per output channel.
    Int8,
}

impl Precision {
    /// The name in the manifest: `fp32`, `fp16` or `int8`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The recommended sampling settings. The names of schedules and samplers are the sampler's business: here they are
/// text, checked for size only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// T, the number of steps, 1 to 4096.
    pub steps: usize,
    /// The mask schedule: `cosine`, `linear`, `power:3.5`, ...
    pub schedule: String,
    /// The sampler: `confidence`, `confidence-remask`, `predictor-corrector`, `halton` or `halton-redraw`.
    pub sampler: String,
    /// The temperature of the Gumbel noise on the confidence, at least 0.
    pub choice_temperature: f32,
    /// The temperature of the categorical draw, at least 0.
    pub temperature: f32,
    /// The temperature of the draw in the last step, at least 0; between, it changes linearly. `None`: it stays `temperature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_temperature: Option<f32>,
    /// Draw from the `top_k` most likely codes only, 1 to `codes`. `None`: from all.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// The scale of classifier-free guidance, at least 0; 0 is none. Above 0 only with a null label.
    pub guidance: f32,
    /// Whether guidance grows linearly over the steps.
    pub guidance_ramp: bool,
}

/// The bundle's graphs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graphs {
    /// Tokens and label to logits.
    pub transformer: GraphFile,
    /// Tokens to picture.
    pub decoder: GraphFile,
    /// Picture to tokens. `None`: the bundle can draw but not edit.
    #[serde(default)]
    pub encoder: Option<GraphFile>,
}

/// One graph's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphFile {
    /// A plain file name beside `bundle.json`: ASCII letters, digits, `.`, `_` and `-`, not starting with `.`.
    pub file: String,
    /// The file's size in bytes, 1 to 2³².
    pub bytes: u64,
    /// The SHA-256 of the file: 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Graphs {
    /// The file of one graph; `None` for an encoder that is not there.
    pub fn get(&self, kind: GraphKind) -> Option<&GraphFile> {
        match kind {
            GraphKind::Transformer => Some(&self.transformer),
            GraphKind::Decoder => Some(&self.decoder),
            GraphKind::Encoder => self.encoder.as_ref(),
        }
    }

    /// The graphs that are there, in the order of the packed file.
    pub fn iter(&self) -> impl Iterator<Item = (GraphKind, &GraphFile)> {
        GraphKind::ALL.into_iter().filter_map(|kind| Some((kind, self.get(kind)?)))
    }
}

/// Only the version, so that a manifest of a later format gets the right error and not one about its new fields.
#[derive(Deserialize)]
struct Version {
    format_version: Option<u64>,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    ///
    /// An error of kind [`Bundle`](crate::ErrorKind::Bundle) that names the field at fault: not JSON, another format
    /// version, a field missing or unknown or of the wrong type, or a value out of its range.
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() > super::validate::MAX_MANIFEST_BYTES {
            return Err(Error::bundle(format!(
                "bundle.json has {} bytes; at most {} are allowed",
                json.len(),
                super::validate::MAX_MANIFEST_BYTES
            )));
        }
        let version: Version = serde_json::from_slice(json)
            .map_err(|e| Error::bundle("bundle.json is not a valid JSON object").with_source(e))?;
        match version.format_version {
            Some(v) if v == u64::from(FORMAT_VERSION) => {}
            Some(v) => {
                return Err(Error::bundle(format!(
                    "bundle.json has format_version {v}; this program reads version {FORMAT_VERSION}: \
                     use a program of the bundle's time, or export the model again"
                )));
            }
            None => return Err(Error::bundle("bundle.json has no format_version")),
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|e| Error::bundle("bundle.json").with_source(e))?;
        super::validate::validate(&manifest)?;
        Ok(manifest)
    }

    /// N, the number of tokens of one picture: rows times columns.
    pub fn tokens(&self) -> usize {
        self.grid.rows.saturating_mul(self.grid.cols)
    }

    /// The index of the class called `name`, exactly; `None` when there is none.
    pub fn label(&self, name: &str) -> Option<usize> {
        self.labels.iter().position(|l| l == name)
    }
}
