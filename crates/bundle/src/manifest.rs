//! What `bundle.json` says.

use maskgit_core::{Error, GridSize, ImageSize, Result, Sampling, Shape};
use serde::{Deserialize, Serialize};

use super::GraphKind;

/// The version of the bundle format that this library reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// The manifest of a bundle, read from `bundle.json` and checked. `docs/bundle.md` describes every field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// The version of the format: [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The model's name, for people: 1 to 128 bytes.
    pub name: String,
    /// The model's licence, best as an SPDX expression such as `CC-BY-4.0`: 1 to 256 bytes.
    pub licence: String,
    /// Where the model comes from, a text or an address: at most 4096 bytes, may be empty.
    pub source: String,
    /// The size of the image the decoder draws and the encoder reads, each side 1 to 4096.
    pub image: ImageSize,
    /// The size of the token grid, each side 1 to 128. Its rows divide the image's height, its columns the image's
    /// width.
    pub grid: GridSize,
    /// K, the number of codes: the tokens of a finished image are in `0..codes`.
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
    pub graphs: GraphFiles,
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

/// The bundle's graphs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphFiles {
    /// Tokens and label to logits.
    pub transformer: GraphFile,
    /// Tokens to image.
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

impl GraphFiles {
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
    /// An error of kind [`Bundle`](maskgit_core::ErrorKind::Bundle) that names the field at fault: not JSON, another
    /// format version, a field missing or unknown or of the wrong type, or a value out of its range.
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

    /// N, the number of tokens of one image: rows times columns.
    pub fn tokens(&self) -> usize {
        self.grid.len()
    }

    /// The model's image and its token grid.
    pub fn shape(&self) -> Shape {
        Shape { image: self.image, grid: self.grid }
    }

    /// The index of the class called `name`, exactly; `None` when there is none.
    pub fn label(&self, name: &str) -> Option<usize> {
        self.labels.iter().position(|l| l == name)
    }
}
