//! What an edit does, as it stands in the metadata of its result and as it runs.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use maskgit::{
    Feather, Limits, Mask, MaskFrom, MaskOptions, Outpaint, Rect, Request, SourceImage, Windows, read_hard_mask,
    read_image, read_mask,
};
use maskgit_core::Sha256;
use serde::{Deserialize, Serialize};

/// An edit of an image: with the sampling settings, all that makes the result again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    pub image: FileId,
    pub operation: Operation,
    /// Whether the image has pixels of opacity 0, whose colour the model did not see. Records of earlier programs
    /// lack it: there the model saw what is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transparency: bool,
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
        /// How the mask's file was read; none of a mask that version 0.1 read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reading: Option<Reading>,
        /// Left, top, width and height of each.
        boxes: Vec<[u32; 4]>,
        context: f32,
        /// How windows lie; records of version 0.1 do not say it.
        #[serde(default)]
        windows: Layout,
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
    pub feather: Fade,
}

/// A feather.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fade {
    Pixels(u32),
    Auto(Auto),
    /// Google's Gaussian: null.
    Blur,
}

/// The text `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    Auto,
}

/// How windows lie over a mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    #[default]
    Parts,
    Shape,
}

/// How a mask's file was read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    pub from: From,
    pub invert: bool,
    pub resize: bool,
}

/// What of a mask's file counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    Alpha,
    Luma,
    Any,
}

impl Reading {
    fn new(options: MaskOptions) -> Self {
        let from = match options.from {
            MaskFrom::Alpha => From::Alpha,
            MaskFrom::Any => From::Any,
            _ => From::Luma,
        };
        Self { from, invert: options.invert, resize: options.resize }
    }

    fn options(self) -> MaskOptions {
        let from = match self.from {
            From::Alpha => MaskFrom::Alpha,
            From::Luma => MaskFrom::Luma,
            From::Any => MaskFrom::Any,
        };
        MaskOptions::new().with_from(from).with_invert(self.invert).with_resize(self.resize)
    }
}

/// The files of an edit, read.
pub struct Inputs {
    pub source: SourceImage,
    mask: Option<Mask>,
    /// What there is to say of the mask's file.
    pub read: Option<MaskRead>,
}

/// A mask's file.
pub struct MaskRead {
    pub id: FileId,
    /// None: as version 0.1 read masks.
    pub reading: Option<Reading>,
    /// Which of its pixels are repainted, in words.
    pub said: String,
}

impl Inputs {
    /// Reads the files, and says on stderr what is wrong with the image; and, unless `quiet`, what else is to be known.
    /// A mask is read with options, or without as version 0.1 did.
    pub fn read(
        image: &Path,
        mask: Option<(&Path, Option<MaskOptions>)>,
        allow_damaged: bool,
        quiet: bool,
    ) -> Result<Self> {
        let mut limits = Limits::default();
        limits.allow_damaged = allow_damaged;
        let source = read_image(image, &limits)?;
        let mut stderr = std::io::stderr();
        for warning in &source.warnings {
            let _ = writeln!(stderr, "maskgit: warning: {}: {warning}", image.display());
        }
        for note in source.notes.iter().filter(|_| !quiet) {
            let _ = writeln!(stderr, "maskgit: note: {}: {note}", image.display());
        }
        let Some((path, options)) = mask else { return Ok(Self { source, mask: None, read: None }) };
        let name = name(path);
        let (mask, sha256, reading, said) = match options {
            Some(options) => {
                let read = read_mask(path, &limits, &source, &options)?;
                let said = read.describe(&name);
                (read.mask, read.sha256, Some(Reading::new(read.options)), said)
            }
            None => {
                let (mask, sha256) = read_hard_mask(path, &limits)?;
                (mask, sha256, None, format!("white pixels of {name}"))
            }
        };
        let read = MaskRead { id: FileId { name, sha256 }, reading, said };
        Ok(Self { source, mask: Some(mask), read: Some(read) })
    }
}

/// The last part of a path.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Operation {
    /// The request that does it to an image: takes the colours and the mask out of the inputs, as nobody else needs
    /// them.
    ///
    /// With `transparency`, the colour of entirely transparent pixels is unknown.
    pub fn request(&self, inputs: &mut Inputs, transparency: bool) -> maskgit::Result<Request> {
        let unknown = if transparency { inputs.source.transparent()? } else { None };
        let image = std::mem::take(&mut inputs.source.rgb);
        let request = match self {
            Self::Edit { boxes, context, windows, edge, .. } => {
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
                let windows = match windows {
                    Layout::Parts => Windows::Parts,
                    Layout::Shape => Windows::Shape,
                };
                edge.apply(Request::edit(image, mask)).with_context(*context).with_windows(windows)
            }
            Self::Outpaint { edge, .. } => edge.apply(Request::outpaint(image, self.sides().unwrap_or_default())),
            Self::Vary { strength } => Request::vary(image, *strength),
            Self::Reconstruct => Request::reconstruct(image),
        };
        Ok(match unknown {
            Some(unknown) => request.with_unknown(unknown),
            None => request,
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
        let feather = match self.feather {
            Fade::Pixels(pixels) => Feather::Pixels(pixels),
            Fade::Auto(_) => Feather::Auto,
            Fade::Blur => Feather::Gaussian,
        };
        request.with_dilation(self.dilation).with_feather(feather)
    }
}

impl Edit {
    /// Finds the files that went in: the ones given, else those of the recorded names beside the result or in the
    /// current folder. They must be the same files.
    pub fn inputs(&self, result: &Path, image: Option<&Path>, mask: Option<&Path>, quiet: bool) -> Result<Inputs> {
        let image = find(&self.image, result, image, "--image")?;
        let (mask_id, reading) = match &self.operation {
            Operation::Edit { mask, reading, .. } => (mask.as_ref(), *reading),
            _ => (None, None),
        };
        let mask = match (mask_id, mask) {
            (Some(id), given) => Some(find(id, result, given, "--mask")?),
            (None, Some(_)) => bail!("it was made without a mask file: leave --mask out"),
            (None, None) => None,
        };
        let options = reading.map(Reading::options);
        // Whoever made it allowed what is damaged; other files are refused by their hash.
        let inputs = Inputs::read(&image, mask.as_deref().map(|path| (path, options)), true, quiet)?;
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
        if let (Some(path), Some(found), Some(id)) = (&mask, &inputs.read, mask_id) {
            same(path, &found.id.sha256, id)?;
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
