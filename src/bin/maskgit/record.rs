//! The parameters of an image: in the PNG's metadata, and in what `--json` prints.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use maskgit::{Manifest, Request, Resolved, Sampling, Seeds};
use maskgit_image::{self as image_io, Sheet};
use serde::{Deserialize, Serialize};

use crate::draw::SheetOptions;
use crate::operation::Edit;

/// The version of the record. A program refuses any other than its own.
const FORMAT: u32 = 1;

/// Everything that draws an image again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The version of this record.
    pub format: u32,
    /// The program that drew the image, for people.
    pub program: String,
    pub model: ModelId,
    /// None: drawn without a class.
    pub class: Option<String>,
    pub label: Option<usize>,
    /// The seed of the first image.
    pub seed: u64,
    pub count: usize,
    pub sampling: Sampling,
    pub layout: Layout,
    /// Per image, the SHA-256 of its tokens as little-endian 64-bit integers in raster order.
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

/// How the images lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Images in a row of the sheet.
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

impl Layout {
    /// The layout of files that hold `count` images each.
    pub fn new(count: usize, sheet: SheetOptions) -> Self {
        let Sheet { columns, gap } = Sheet::square(count);
        Self { columns, gap, scale: sheet.scale }
    }

    /// Lays out the images of one file.
    pub fn draw(&self, images: &[&image::RgbImage]) -> maskgit::Result<image::RgbImage> {
        let sheet = Sheet { columns: self.columns, gap: self.gap }.draw(images)?;
        if self.scale == 1 { Ok(sheet) } else { image_io::enlarge(&sheet, self.scale) }
    }

    /// Checks, before drawing, that the file's image will not be too large.
    pub fn check(&self, count: usize, manifest: &Manifest) -> maskgit::Result<()> {
        let sheet = Sheet { columns: self.columns, gap: self.gap };
        let (width, height) = sheet.size(count, manifest.image.width, manifest.image.height)?;
        let scale = u64::from(self.scale);
        maskgit_geometry::check_size(u64::from(width) * scale, u64::from(height) * scale)?;
        Ok(())
    }
}

impl Record {
    /// The record of a file that holds all images of a request; their hashes are still to come.
    pub fn new(manifest: &Manifest, seeds: Seeds, resolved: &Resolved, layout: Layout, edit: Option<Edit>) -> Self {
        Self {
            format: FORMAT,
            program: concat!("maskgit ", env!("CARGO_PKG_VERSION")).into(),
            model: ModelId::new(manifest),
            class: resolved.label.and_then(|label| manifest.labels.get(label).cloned()),
            label: resolved.label,
            seed: seeds.first,
            count: seeds.count,
            sampling: resolved.sampling,
            layout,
            tokens_sha256: Vec::new(),
            edit,
        }
    }

    /// The record of a file that holds only one image of this record's request.
    pub fn only(&self, seed: u64, tokens_sha256: &str) -> Self {
        Self { seed, count: 1, tokens_sha256: vec![tokens_sha256.to_owned()], ..self.clone() }
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
            "they name {} images, and hashes of {}",
            record.count,
            record.tokens_sha256.len()
        );
        Ok(record)
    }

    /// Puts what the record says of the class, the seeds and the sampling into a request. An error of a wrong model
    /// says so first.
    pub fn apply(&self, request: Request, manifest: &Manifest) -> Result<Request> {
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
                "it was drawn by another model: by '{}' ({}), and this is '{}' ({}); {what}; \
                 give that model with --model",
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
        self.sampling.validate().map_err(|e| anyhow!("{e}"))?;
        let request = request.with_seed(self.seed).with_count(self.count).with_sampling(self.sampling);
        Ok(match &self.class {
            Some(class) => request.with_class(class),
            None => request,
        })
    }
}
