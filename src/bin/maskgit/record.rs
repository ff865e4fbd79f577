//! The parameters of a picture: in the PNG's metadata, and in what `--json` prints.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use maskgit::bundle::Manifest;
use maskgit::image_io::{self, Sheet};
use maskgit::pipeline::tokens_sha256;
use maskgit::sample::{Guidance, Options};
use maskgit::{EditRequest, Picture, Request};
use serde::{Deserialize, Serialize};

use crate::operation::Edit;

/// The version of the record. A program refuses any other than its own.
const FORMAT: u32 = 1;

/// Everything that draws a picture again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The version of this record.
    pub format: u32,
    /// The program that drew the picture, for people.
    pub program: String,
    pub model: ModelId,
    /// None: drawn without a class.
    pub class: Option<String>,
    pub label: Option<usize>,
    /// The seed of the first picture.
    pub seed: u64,
    pub count: usize,
    pub sampling: Settings,
    pub layout: Layout,
    /// Per picture, the SHA-256 of its tokens as little-endian 64-bit integers in raster order.
    pub tokens_sha256: Vec<String>,
    /// What was edited, and how; a generation has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<Edit>,
}

/// Which model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelId {
    pub name: String,
    pub precision: String,
    /// SHA-256 of each graph, by its kind.
    pub graphs: BTreeMap<String, String>,
}

/// How to sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub steps: usize,
    pub schedule: String,
    pub sampler: String,
    pub choice_temperature: f32,
    pub temperature: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub guidance: f32,
    pub guidance_ramp: bool,
    pub start_iter: usize,
}

/// How the pictures lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Pictures in a row of the sheet.
    pub columns: usize,
    /// White pixels between them, before enlarging.
    pub gap: u32,
    /// Each pixel is a square of this side.
    pub scale: u32,
}

impl ModelId {
    pub fn new(manifest: &Manifest) -> Self {
        let graphs = manifest.graphs.iter().map(|(kind, graph)| (kind.to_string(), graph.sha256.clone())).collect();
        Self { name: manifest.name.clone(), precision: manifest.precision.to_string(), graphs }
    }
}

impl From<&Options> for Settings {
    fn from(options: &Options) -> Self {
        Self {
            steps: options.steps,
            schedule: options.schedule.to_string(),
            sampler: options.sampler.to_string(),
            choice_temperature: options.choice_temperature,
            temperature: options.temperature,
            final_temperature: options.final_temperature,
            top_k: options.top_k,
            guidance: options.guidance.scale,
            guidance_ramp: options.guidance.ramp,
            start_iter: options.start_iter,
        }
    }
}

impl Settings {
    fn options(&self) -> maskgit::Result<Options> {
        Ok(Options {
            steps: self.steps,
            schedule: self.schedule.parse()?,
            sampler: self.sampler.parse()?,
            choice_temperature: self.choice_temperature,
            temperature: self.temperature,
            final_temperature: self.final_temperature,
            top_k: self.top_k,
            guidance: Guidance { scale: self.guidance, ramp: self.guidance_ramp },
            start_iter: self.start_iter,
        })
    }
}

impl Layout {
    /// Lays out the pictures of one file.
    pub fn draw(&self, images: &[&image::RgbImage]) -> maskgit::Result<image::RgbImage> {
        let sheet = Sheet { columns: self.columns, gap: self.gap }.draw(images)?;
        if self.scale == 1 { Ok(sheet) } else { image_io::enlarge(&sheet, self.scale) }
    }

    /// Checks, before drawing, that the file's picture will not be too large.
    pub fn check(&self, count: usize, manifest: &Manifest) -> maskgit::Result<()> {
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let sheet = Sheet { columns: self.columns, gap: self.gap };
        let (width, height) = sheet.size(count, side(manifest.image.width), side(manifest.image.height))?;
        let scale = u64::from(self.scale);
        image_io::check_size(u64::from(width) * scale, u64::from(height) * scale)?;
        Ok(())
    }
}

impl Record {
    /// The record of a file that holds all pictures of a request.
    pub fn new(manifest: &Manifest, request: &Request, layout: Layout, images: &[Picture]) -> Self {
        let &Request { label, seed, count, options } = request;
        let request = EditRequest { label: Some(label), seed, count, ..bare(options) };
        Self::of(manifest, &request, layout, images, None)
    }

    /// The record of a file that holds all results of an edit.
    pub fn of_edit(manifest: &Manifest, request: &EditRequest, edit: Edit, images: &[Picture]) -> Self {
        let layout = Layout { columns: 1, gap: Sheet::square(1).gap, scale: 1 };
        Self::of(manifest, request, layout, images, Some(edit))
    }

    fn of(manifest: &Manifest, request: &EditRequest, layout: Layout, images: &[Picture], edit: Option<Edit>) -> Self {
        Self {
            format: FORMAT,
            program: concat!("maskgit ", env!("CARGO_PKG_VERSION")).into(),
            model: ModelId::new(manifest),
            class: request.label.and_then(|label| manifest.labels.get(label).cloned()),
            label: request.label,
            seed: request.seed,
            count: request.count,
            sampling: Settings::from(&request.options),
            layout,
            tokens_sha256: images.iter().map(|picture| tokens_sha256(&picture.tokens)).collect(),
            edit,
        }
    }

    /// The record of a file that holds only picture `index` of this record's request.
    pub fn only(&self, index: usize) -> Self {
        Self {
            seed: self.seed.wrapping_add(index as u64),
            count: 1,
            tokens_sha256: self.tokens_sha256.get(index).cloned().into_iter().collect(),
            ..self.clone()
        }
    }

    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Reads the record of a PNG. It may say anything: the model's own checks come later.
    pub fn read(path: &Path) -> Result<Self> {
        let Some(text) = image_io::read_metadata(path)? else {
            bail!("{} has no parameters in it: it was not drawn by maskgit, or a program removed them", path.display());
        };
        Self::parse(&text).with_context(|| format!("{}: its parameters are not valid", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u64,
        }
        let version: Version = serde_json::from_str(text)?;
        ensure!(
            version.format == u64::from(FORMAT),
            "they have format {}; this program reads format {FORMAT}",
            version.format
        );
        let record: Self = serde_json::from_str(text)?;
        ensure!(
            record.tokens_sha256.len() == record.count,
            "they name {} pictures, and hashes of {}",
            record.count,
            record.tokens_sha256.len()
        );
        Ok(record)
    }

    /// The request that draws the pictures again. An error of a wrong model says so first.
    pub fn request(&self, manifest: &Manifest) -> Result<Request> {
        let EditRequest { label, seed, count, options, .. } = self.edit_request(manifest)?;
        let label = label.context("they name no class")?;
        Ok(Request { label, seed, count, options })
    }

    /// The request that edits again, as far as it is not in the record of the edit.
    pub fn edit_request(&self, manifest: &Manifest) -> Result<EditRequest> {
        let here = ModelId::new(manifest);
        if here != self.model {
            let what = match (&self.model.graphs, &here.graphs) {
                (theirs, ours) if theirs != ours => {
                    let differs = |kind: &&String| theirs.get(*kind) != ours.get(*kind);
                    let kinds: std::collections::BTreeSet<&String> =
                        theirs.keys().chain(ours.keys()).filter(differs).collect();
                    let kinds: Vec<&str> = kinds.into_iter().map(String::as_str).collect();
                    format!("their {} graphs differ", kinds.join(" and "))
                }
                _ => "only their names or precisions differ".into(),
            };
            bail!(
                "it was drawn by another model: by '{}' ({}), and this is '{}' ({}); {what}; give that model with --model",
                self.model.name,
                self.model.precision,
                here.name,
                here.precision
            );
        }
        ensure!(
            self.label.and_then(|label| manifest.labels.get(label)) == self.class.as_ref()
                && self.label.is_some() == self.class.is_some(),
            "its class {} ('{}') is not a class of the model",
            self.label.map_or("none".into(), |label| label.to_string()),
            self.class.as_deref().unwrap_or("none")
        );
        // The values come from a file, not from the command line: they are not wrong usage.
        let options = self.sampling.options().map_err(|e| anyhow!("{e}"))?;
        Ok(EditRequest { label: self.label, seed: self.seed, count: self.count, ..bare(options) })
    }
}

/// A request with these options that edits nothing in particular.
fn bare(options: Options) -> EditRequest {
    let feather = maskgit::Feather::default();
    EditRequest { label: None, seed: 0, count: 1, options, dilation: 1, feather, context: 2.0 }
}
