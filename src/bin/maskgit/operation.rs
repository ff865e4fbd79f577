//! What an edit does, as it stands in the metadata of its result and as it runs.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use maskgit::{Feather, Limits, Mask, Outpaint, Rect, Request, SourceImage, read_image, read_mask};
use maskgit_core::Sha256;
use serde::{Deserialize, Serialize};

/// An edit of an image: with the sampling settings, all that makes the result again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    pub image: FileId,
    pub operation: Operation,
}

/// A file that went in. Its folder is nobody's business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileId {
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Operation {
    Edit {
        mask: Option<FileId>,
        /// Left, top, width and height of each.
        boxes: Vec<[u32; 4]>,
        context: f32,
        edge: Edge,
    },
    Outpaint {
        left: u32,
        right: u32,
        top: u32,
        bottom: u32,
        window: Option<u32>,
        overlap: f32,
        edge: Edge,
    },
    Vary {
        strength: f32,
    },
    Reconstruct,
}

/// The border of what is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// Rings of tokens.
    pub dilation: usize,
    /// Pixels; none is Google's Gaussian.
    pub feather: Option<u32>,
}

/// The files of an edit, read.
pub struct Inputs {
    pub source: SourceImage,
    mask: Option<Mask>,
    /// The name and the hash of the mask's file.
    pub mask_id: Option<FileId>,
}

impl Inputs {
    pub fn read(image: &Path, mask: Option<&Path>) -> Result<Self> {
        let limits = Limits::default();
        let source = read_image(image, &limits)?;
        let (mask, mask_id) = match mask {
            Some(path) => {
                let (mask, sha256) = read_mask(path, &limits)?;
                (Some(mask), Some(FileId { name: name(path), sha256 }))
            }
            None => (None, None),
        };
        Ok(Self { source, mask, mask_id })
    }
}

/// The last part of a path.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Operation {
    /// The request that does it to an image: takes the colours and the mask out of the inputs, as nobody else needs
    /// them.
    pub fn request(&self, inputs: &mut Inputs) -> maskgit::Result<Request> {
        let image = std::mem::take(&mut inputs.source.rgb);
        Ok(match self {
            Self::Edit { boxes, context, edge, .. } => {
                let mut mask = match inputs.mask.take() {
                    Some(mask) => mask,
                    None => Mask::none(image.width(), image.height())?,
                };
                // Of a mask of another size the library says so.
                if (mask.width(), mask.height()) == image.dimensions() {
                    for &[x, y, width, height] in boxes {
                        mask.add(Rect::new(x, y, width, height))?;
                    }
                }
                edge.apply(Request::edit(image, mask)).with_context(*context)
            }
            Self::Outpaint { edge, .. } => edge.apply(Request::outpaint(image, self.sides().unwrap_or_default())),
            Self::Vary { strength } => Request::vary(image, *strength),
            Self::Reconstruct => Request::reconstruct(image),
        })
    }

    /// The image that results are written like: of an outpainting, its opacity is extended.
    pub fn source(&self, mut source: SourceImage) -> maskgit::Result<SourceImage> {
        if let (Some(sides), Some(alpha)) = (self.sides(), &source.alpha) {
            source.alpha = Some(sides.extend_alpha(alpha)?);
        }
        Ok(source)
    }

    fn sides(&self) -> Option<Outpaint> {
        match *self {
            Self::Outpaint { left, right, top, bottom, window, overlap, .. } => {
                Some(Outpaint { left, right, top, bottom, window, overlap })
            }
            _ => None,
        }
    }
}

impl Edge {
    fn apply(self, request: Request) -> Request {
        let feather = self.feather.map_or(Feather::Gaussian, Feather::Pixels);
        request.with_dilation(self.dilation).with_feather(feather)
    }
}

impl Edit {
    /// Finds the files that went in: the ones given, else those of the recorded names beside the result or in the
    /// current folder. They must be the same files.
    pub fn inputs(&self, result: &Path, image: Option<&Path>, mask: Option<&Path>) -> Result<Inputs> {
        let image = find(&self.image, result, image, "--image")?;
        let mask_id = if let Operation::Edit { mask, .. } = &self.operation { mask.as_ref() } else { None };
        let mask = match (mask_id, mask) {
            (Some(id), given) => Some(find(id, result, given, "--mask")?),
            (None, Some(_)) => bail!("it was made without a mask file: leave --mask out"),
            (None, None) => None,
        };
        let inputs = Inputs::read(&image, mask.as_deref())?;
        let same = |path: &Path, ours: &str, id: &FileId| {
            ensure!(
                ours == id.sha256,
                "{} is not the file that was used, '{}' with SHA-256 {}",
                path.display(),
                id.name,
                id.sha256
            );
            Ok(())
        };
        same(&image, &inputs.source.sha256, &self.image)?;
        if let (Some(path), Some(found), Some(id)) = (&mask, &inputs.mask_id, mask_id) {
            same(path, &found.sha256, id)?;
        }
        Ok(inputs)
    }
}

fn find(id: &FileId, result: &Path, given: Option<&Path>, option: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_path_buf());
    }
    // The record may say anything: only a name counts, never a path out of these folders.
    let name = Path::new(&id.name).file_name().context("the record does not name the file that was edited")?;
    let places = [result.with_file_name(name), PathBuf::from(name)];
    let is_file = |place: &&PathBuf| fs::metadata(place).is_ok_and(|found| found.is_file());
    match places.iter().find(is_file).cloned().or_else(|| places.iter().find_map(|place| unreadable(place, id))) {
        Some(place) => Ok(place),
        None => bail!("the file '{}' that was used is neither beside it nor here: give it with {option}", id.name),
    }
}

/// The file whose name is not text, and stands in the record as the name of `place`: of several, the one that was used.
fn unreadable(place: &Path, id: &FileId) -> Option<PathBuf> {
    if !id.name.contains(char::REPLACEMENT_CHARACTER) {
        return None;
    }
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = fs::read_dir(folder).ok()?.flatten();
    let mut named = found.filter(|entry| name(entry.file_name().as_ref()) == id.name).map(|entry| entry.path());
    named.find(|path| sha256_of(path).is_ok_and(|sha256| sha256 == id.sha256))
}

fn sha256_of(path: &Path) -> Result<String> {
    ensure!(fs::metadata(path)?.is_file(), "it is not a file");
    let (mut hash, mut file, mut part) = (Sha256::default(), fs::File::open(path)?, [0; 1 << 14]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hash.hex()),
            length => hash.update(part.get(..length).unwrap_or_default()),
        }
    }
}
