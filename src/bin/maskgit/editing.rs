//! What `edit`, `outpaint`, `vary` and `reconstruct` share: flags, and the way from arguments to files.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use maskgit::image_io::PendingFile;
use maskgit::pipeline::MAX_COUNT;
use maskgit::{EditRequest, Edited, Generator};
use serde::Serialize;

use crate::generate::{ReportImage, Times, files};
use crate::operation::{Edge, Edit, FileId, Inputs, Operation, name};
use crate::record::{ModelId, Record, Settings};
use crate::{args, cancel, memory, output, watch};

/// What goes in and out.
#[derive(clap::Args)]
pub struct Files {
    /// The picture: PNG, JPEG, WebP, GIF, BMP or PNM
    ///
    /// It is turned as the camera says (EXIF). 16 bits become 8, CMYK and greyscale RGB. Opacity and an RGB colour profile go into the
    /// result as they are.
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// The PNG to write; with --count, NAME-000.png, NAME-001.png and so on
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Print one JSON object: every parameter, the windows, the tokens as SHA-256, times in seconds, peak memory in bytes
    #[arg(long)]
    pub json: bool,
}

/// What to draw.
#[derive(clap::Args)]
pub struct Drawing {
    /// The class to draw: its name, an unambiguous beginning of it, its index or its id [default: none]
    #[arg(long, value_name = "NAME|INDEX")]
    pub class: Option<String>,
    /// Seed of the first result
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// Number of results
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_COUNT as u64))]
    pub count: usize,
    /// Leave out the first N steps; Google's editing leaves out 2 of 12
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub start_iter: usize,
    /// Write the picture after each step to this folder: step-01.png and so on, with several windows window-001-step-01.png
    #[arg(long, value_name = "FOLDER")]
    pub preview: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: args::Sampling,
}

/// The border of what is drawn.
#[derive(clap::Args)]
pub struct Border {
    /// Rings of tokens to draw around those that the mask touches
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1)]
    pub dilate: usize,
    /// Fade into the picture over N pixels around the mask; 0 is a hard edge [default: Google's blur of the tokens]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub feather: Option<u32>,
}

impl Border {
    pub fn edge(&self) -> Edge {
        Edge { dilation: self.dilate, feather: self.feather }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    program: &'a str,
    model: &'a ModelId,
    model_path: String,
    engine: &'a str,
    threads: usize,
    class: &'a Option<String>,
    label: Option<usize>,
    seed: u64,
    count: usize,
    sampling: &'a Settings,
    edit: &'a Edit,
    width: u32,
    height: u32,
    /// Left, top, width and height of each, in pixels of the result.
    windows: Vec<[i64; 4]>,
    note: Option<&'a str>,
    images: Vec<ReportImage>,
    times: Times,
    peak_memory_bytes: Option<u64>,
}

/// One command line, resolved.
pub struct Task<'a> {
    pub model: &'a args::Model,
    pub resources: &'a args::Resources,
    pub files: &'a Files,
    pub mask: Option<&'a Path>,
    pub drawing: Option<&'a Drawing>,
    /// Given the mask's file, what to do.
    pub operation: &'a dyn Fn(Option<FileId>) -> Operation,
}

/// Edits and writes.
pub fn run(task: &Task<'_>) -> Result<()> {
    let count = task.drawing.map_or(1, |drawing| drawing.count);
    let files = files(&task.files.output, count)?;
    cancel::install()?;
    let mut inputs = Inputs::read(&task.files.image, task.mask)?;
    let (mut generator, model_path) = args::open(task.model, task.resources)?;
    let mut request = request(&generator, task.drawing)?;
    let operation = (task.operation)(inputs.mask_id.take());
    operation.apply(&mut request);
    generator.check_edit(&request)?;

    let previews = task.drawing.and_then(|drawing| drawing.preview.as_deref()).map(|folder| (folder, 1));
    let edited =
        watch::watched(count, previews, |observer| operation.run(&mut generator, &mut inputs, &request, observer))?;

    let image = FileId { name: name(&task.files.image), sha256: inputs.source.sha256.clone() };
    let record = Record::of_edit(generator.manifest(), &request, Edit { image, operation }, &edited.images);
    let mut pending = Vec::with_capacity(files.len());
    for (i, (picture, file)) in edited.images.iter().zip(&files).enumerate() {
        let png = inputs.source.encode_png(&picture.image, Some(&record.only(i).to_json()?))?;
        pending.push(PendingFile::new(file, png)?);
        cancel::stop_if_asked()?;
    }
    for file in pending {
        file.commit()?;
    }
    tell(task, &generator, &model_path, &record, &edited, &files)
}

/// The request; without drawing flags, one that draws nothing.
fn request(generator: &Generator, drawing: Option<&Drawing>) -> Result<EditRequest> {
    let Some(drawing) = drawing else {
        // A model without a null label wants a class, though none is drawn.
        let class = if generator.manifest().null_label.is_some() { None } else { Some("0") };
        return Ok(generator.edit_request(class)?);
    };
    let mut request = generator.edit_request(drawing.class.as_deref())?;
    request.seed = drawing.seed;
    request.count = drawing.count;
    request.options.start_iter = drawing.start_iter;
    drawing.sampling.apply(&mut request.options);
    Ok(request)
}

/// Says what was done: as JSON on stdout, or on a terminal in a line.
fn tell(
    task: &Task<'_>,
    generator: &Generator,
    model_path: &Path,
    record: &Record,
    edited: &Edited,
    files: &[PathBuf],
) -> Result<()> {
    let note = edited.windows.is_empty().then_some("the mask is empty: the result is the picture as it was");
    let Some(edit) = &record.edit else { return Ok(()) };
    if task.files.json {
        let images = edited.images.iter().zip(&record.tokens_sha256).zip(files);
        let (width, height) = edited.images.first().map(|picture| picture.image.dimensions()).unwrap_or_default();
        return output::json(&Report {
            program: &record.program,
            model: &record.model,
            model_path: model_path.display().to_string(),
            engine: generator.engine_name(),
            threads: task.resources.options().threads,
            class: &record.class,
            label: record.label,
            seed: record.seed,
            count: record.count,
            sampling: &record.sampling,
            edit,
            width,
            height,
            windows: edited.windows.iter().map(|w| [w.x, w.y, w.width.into(), w.height.into()]).collect(),
            note,
            images: images
                .map(|((picture, sha256), file)| ReportImage {
                    seed: picture.seed,
                    tokens_sha256: sha256.clone(),
                    masked: picture.masked.clone(),
                    file: file.display().to_string(),
                })
                .collect(),
            times: Times::new(generator, &edited.timings),
            peak_memory_bytes: memory::peak_bytes(),
        });
    }
    let mut stderr = std::io::stderr();
    if let Some(note) = note {
        let _ = writeln!(stderr, "maskgit: note: {note}");
    } else if stderr.is_terminal() {
        let seconds = generator.load_seconds() + edited.timings.total;
        let _ = writeln!(stderr, "{}: {} windows, {seconds:.2} s", task.files.output.display(), edited.windows.len());
    }
    Ok(())
}
