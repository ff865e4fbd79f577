//! What every drawing subcommand shares: flags, and the way from a request to files.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use maskgit::{
    Generator, Image, MAX_COUNT, MaskOptions, MemoryUse, Request, Sampling, SourceImage, Subject, Summary, Timings,
};
use maskgit_core::files::{PendingFile, is_same};
use maskgit_image::encode_png;
use serde::Serialize;

use crate::failure::{self, StdoutClosed, Usage};
use crate::operation::{Auto, Edge, Edit, Fade, FileId, Inputs, MaskRead, Operation, name};
use crate::record::{Layout, ModelId, Record};
use crate::watch::{self, Previews};
use crate::{args, memory, model, output};

/// The version of what `--json` prints: docs/command.md. It grows when a field goes or changes its meaning.
pub const JSON_VERSION: u32 = 1;

/// The [`Image::fit`] above which a note says that the model does not know the image: docs/editing.md has the figures.
const FAR_OFF: f32 = 12.0;

/// What to draw.
#[derive(clap::Args)]
pub struct Drawing {
    /// The class to draw: its name, an unambiguous beginning of it, its index or its id (`maskgit info --labels`)
    /// [default: none]
    #[arg(long, value_name = "NAME|INDEX")]
    pub class: Option<String>,
    /// Seed of the first image; image i has seed + i
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// Number of images
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_COUNT as u64))]
    pub count: usize,
    /// Write the image after each step to this folder: step-01.png and so on; with --count step-01-000.png, with an
    /// edit in several stages stage-001-step-01.png
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
    /// Fade into the image over N pixels around the mask; 0 is a hard edge, auto as many pixels as the mask is thick, 2
    /// to 8, blur Google's blur of the tokens [default: auto; when outpainting blur]
    #[arg(long, value_name = "N|auto|blur", allow_negative_numbers = true, value_parser = parse_feather)]
    pub feather: Option<Fade>,
}

impl Border {
    pub fn edge(&self, initial: Fade) -> Edge {
        Edge { dilation: self.dilate, feather: self.feather.unwrap_or(initial) }
    }
}

fn parse_feather(text: &str) -> Result<Fade, String> {
    match text {
        "auto" => Ok(Fade::Auto(Auto::Auto)),
        "blur" => Ok(Fade::Blur),
        _ => text.parse().map(Fade::Pixels).map_err(|_| "give a number of pixels from 0 up, auto or blur".into()),
    }
}

/// The image to edit.
#[derive(clap::Args)]
pub struct Source {
    /// The image: PNG, JPEG, WebP, GIF, BMP or PNM
    ///
    /// It is turned as the camera says (EXIF). 16 bits become 8, CMYK and greyscale RGB. Opacity and an RGB colour
    /// profile go into the result as they are. The colour of pixels of opacity 0 is unknown to the model.
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// Read a JPEG that is damaged, one that ends too early for example, as far as it goes, with a warning
    #[arg(long)]
    pub allow_damaged: bool,
    /// Let -o be the file of --image or --mask, which is lost
    #[arg(long)]
    pub overwrite: bool,
}

/// Where results go, and what is said of them.
#[derive(clap::Args)]
pub struct Results {
    /// The PNG to write; with --count, NAME-000.png, NAME-001.png and so on; - is the standard output
    ///
    /// Each file appears whole, as soon as its image is finished, and replaces a file of the same name, whose mode and
    /// owner it keeps. Links, devices and pipes stay, and what they lead to is written.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Print one JSON object: every parameter, the tokens as SHA-256, times in seconds, peak memory in bytes
    /// (docs/command.md)
    #[arg(long)]
    pub json: bool,
    /// Show no progress, and say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// A command line, resolved.
pub struct Task<'a> {
    pub model: &'a args::Model,
    pub resources: &'a args::Resources,
    pub results: &'a Results,
    pub request: Request,
    /// The image that is edited, and how the record names it.
    pub edit: Option<(SourceImage, Edit)>,
    /// How the request was understood, for a line before it is drawn.
    pub said: Option<String>,
    pub sheet: SheetOptions,
    pub preview: Option<&'a Path>,
}

/// How images lie in files.
#[derive(Clone, Copy)]
pub struct SheetOptions {
    /// All images on one sheet.
    pub grid: bool,
    pub scale: u32,
}

impl SheetOptions {
    /// Each image in a file of its own, as it is.
    pub const SINGLE: Self = Self { grid: false, scale: 1 };
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    json_version: u32,
    program: &'a str,
    model: &'a ModelId,
    model_path: String,
    engine: &'a str,
    threads: usize,
    class: Option<&'a str>,
    label: Option<usize>,
    seed: u64,
    count: usize,
    sampling: &'a Sampling,
    grid: bool,
    scale: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    edit: Option<&'a Edit>,
    width: u32,
    height: u32,
    /// Left, top, width and height of each, in pixels of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<Vec<[i64; 4]>>,
    /// The share of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    repainted: Option<f64>,
    note: Option<&'a str>,
    images: Vec<ReportImage>,
    times: Times,
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct ReportImage {
    seed: u64,
    tokens_sha256: String,
    masked: Vec<usize>,
    /// The file that holds it.
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fit: Option<f32>,
}

/// Seconds.
#[derive(Serialize)]
pub struct Times {
    load: f64,
    encode: f64,
    steps: Vec<f64>,
    decode: f64,
    preview: f64,
    total: f64,
}

impl Times {
    pub fn new(generator: &Generator, timings: &Timings) -> Self {
        Self {
            load: generator.load_seconds(),
            encode: timings.encode,
            steps: timings.steps.clone(),
            decode: timings.decode,
            preview: timings.preview,
            total: generator.load_seconds() + timings.total,
        }
    }
}

/// Reads the files of an edit, and makes the request that does `operation`.
pub fn editing(
    source: &Source,
    mask: Option<(&Path, MaskOptions)>,
    drawing: Option<&Drawing>,
    results: &Results,
    operation: impl FnOnce(Option<MaskRead>) -> Operation,
) -> Result<(Request, (SourceImage, Edit))> {
    let given = [("--image", Some(source.image.as_path())), ("--mask", mask.map(|(path, _)| path))];
    let count = drawing.map_or(1, |drawing| drawing.count);
    files(&results.output, count)?.iter().try_for_each(|file| keep_inputs(file, &given, source.overwrite))?;
    let mask = mask.map(|(path, options)| (path, Some(options)));
    let mut inputs = Inputs::read(&source.image, mask, source.allow_damaged, results.quiet)?;
    let operation = operation(inputs.read.take());
    let mut request = operation.request(&mut inputs, true)?;
    let transparency = request.unknown.is_some();
    if let Some(drawing) = drawing {
        request = drawing.apply(request);
    }
    let image = FileId { name: name(&source.image), sha256: inputs.source.sha256.clone() };
    Ok((request, (operation.source(inputs.source)?, Edit { image, operation, transparency })))
}

impl Drawing {
    /// Puts what was given into a request.
    pub fn apply(&self, request: Request) -> Request {
        let request = request.with_seed(self.seed).with_count(self.count).with_sampling(self.sampling.changes());
        match &self.class {
            Some(class) => request.with_class(class),
            None => request,
        }
    }
}

/// Draws, and writes each file as its image is finished.
pub fn run(task: Task<'_>) -> Result<()> {
    let count = task.request.seeds.count;
    let files = files(&task.results.output, if task.sheet.grid { 1 } else { count })?;
    one_thing_on_stdout(&task.results.output, task.results.json)?;
    let (mut generator, model_path) = open(&task)?;
    let resolved = match task.request.resolve(generator.manifest()) {
        Ok(resolved) => resolved,
        Err(error) => return Err(model::with_hint(error, task.request.class.as_deref(), &model_path)),
    };
    let in_a_file = if task.sheet.grid { count } else { 1 };
    let layout = Layout::new(in_a_file, task.sheet);
    if task.edit.is_none() {
        layout.check(in_a_file, generator.manifest()).map_err(|e| Usage(e.to_string()))?;
    }
    let (source, edit) = task.edit.map_or((None, None), |(source, edit)| (Some(source), Some(edit)));
    let record = Record::new(generator.manifest(), task.request.seeds, &resolved, layout, edit);
    let previews = task.preview.map(|folder| Previews { folder, scale: task.sheet.scale, count });
    let (reports, held, images, size) = (task.results.json, Vec::new(), Vec::new(), (0, 0));
    let repainted = match &task.request.subject {
        Subject::Edit { mask, .. } => Some(mask.share()),
        _ => None,
    };
    let mut writer = Writer { files: &files, record, source, held, reports, images, size, repainted, worst: None };
    let show = !task.results.quiet;
    if let Some(said) = task.said.filter(|_| show) {
        failure::line(&said);
    }
    let summary = watch::watched(show, previews, &mut |image| writer.take(image, task.sheet.grid), |observer| {
        generator.generate_with(&task.request, observer)
    })?;
    writer.finish()?;
    writer.tell(task.results, &generator, &model_path, &summary, task.sheet)
}

/// Opens the model. A single image without previews never needs its transformer again.
fn open(task: &Task<'_>) -> Result<(Generator, PathBuf)> {
    let mut builder = task.resources.builder();
    let once = task.edit.is_none() && task.preview.is_none() && task.request.seeds.count == 1;
    if once && !task.resources.low_memory {
        builder = builder.memory(MemoryUse::DropTransformer);
    }
    args::open_with(task.model, &builder)
}

/// Writes files.
struct Writer<'a> {
    files: &'a [PathBuf],
    record: Record,
    /// The image that is edited: its opacity and colour profile go along.
    source: Option<SourceImage>,
    /// The images of a sheet.
    held: Vec<image::RgbImage>,
    /// Whether what `--json` prints of each image is kept.
    reports: bool,
    images: Vec<ReportImage>,
    size: (u32, u32),
    /// The share of the image that an edit repaints.
    repainted: Option<f64>,
    /// The largest [`Image::fit`] so far.
    worst: Option<f32>,
}

impl Writer<'_> {
    /// Writes a finished image, or keeps it for the sheet.
    fn take(&mut self, image: Image, grid: bool) -> Result<()> {
        let file = self.files.get(if grid { 0 } else { image.index }).cloned().unwrap_or_default();
        let sha256 = maskgit::tokens_sha256(&image.tokens);
        self.size = image.pixels.dimensions();
        self.worst = image.fit.map(|fit| self.worst.map_or(fit, |worst| worst.max(fit))).or(self.worst);
        if grid {
            self.record.tokens_sha256.push(sha256.clone());
            self.held.push(image.pixels);
        } else {
            let record = self.record.only(image.seed, &sha256).to_json()?;
            let png = match &self.source {
                Some(source) => source.encode_png(&image.pixels, Some(&record))?,
                None => encode_png(&self.record.layout.draw(&[&image.pixels])?, Some(&record))?,
            };
            put(&file, &png)?;
        }
        if self.reports {
            let Image { seed, masked, fit, .. } = image;
            self.images.push(ReportImage {
                seed,
                tokens_sha256: sha256,
                masked,
                file: file.display().to_string(),
                fit,
            });
        }
        Ok(())
    }

    /// Writes the sheet.
    fn finish(&mut self) -> Result<()> {
        let Some(file) = self.files.first().filter(|_| !self.held.is_empty()) else { return Ok(()) };
        let images: Vec<_> = self.held.iter().collect();
        put(file, &encode_png(&self.record.layout.draw(&images)?, Some(&self.record.to_json()?))?)
    }

    /// What else there is to say.
    fn note(&self, summary: &Summary) -> Option<String> {
        if summary.windows.is_empty() {
            return Some("the mask is empty: the result is the image as it was".into());
        }
        let worst = self.worst.filter(|&worst| worst > FAR_OFF)?;
        Some(format!(
            "the model does not know images like this one: what it makes of the parts that it keeps is off by \
             {worst:.0} of 255 on average (fit), where {FAR_OFF:.0} is much; what it draws will hardly match"
        ))
    }

    /// Says what was done: as JSON on stdout, or on a terminal in a line.
    fn tell(
        self,
        results: &Results,
        generator: &Generator,
        model_path: &Path,
        summary: &Summary,
        sheet: SheetOptions,
    ) -> Result<()> {
        let Record { program, model, class, label, seed, count, sampling, edit, .. } = &self.record;
        let note = self.note(summary);
        if results.json {
            let windows = || summary.windows.iter().map(|w| [w.x, w.y, w.width.into(), w.height.into()]).collect();
            return output::json(&Report {
                json_version: JSON_VERSION,
                program,
                model,
                model_path: model_path.display().to_string(),
                engine: generator.engine_name(),
                threads: generator.threads(),
                class: class.as_deref(),
                label: *label,
                seed: *seed,
                count: *count,
                sampling,
                grid: sheet.grid,
                scale: sheet.scale,
                edit: edit.as_ref(),
                width: self.size.0,
                height: self.size.1,
                windows: edit.as_ref().map(|_| windows()),
                repainted: self.repainted,
                note: note.as_deref(),
                images: self.images,
                times: Times::new(generator, &summary.timings),
                peak_memory_bytes: memory::peak_bytes(),
            });
        }
        let mut stderr = std::io::stderr();
        if results.quiet {
            return Ok(());
        }
        if let Some(note) = note {
            let _ = writeln!(stderr, "maskgit: note: {note}");
        }
        if stderr.is_terminal() {
            let written = match self.files {
                [first, .., last] => format!("{} to {}", first.display(), last.display()),
                files => files.first().map(|file| file.display().to_string()).unwrap_or_default(),
            };
            let seconds = generator.load_seconds() + summary.timings.total;
            let class = class.as_deref().unwrap_or("no class");
            let _ = writeln!(stderr, "{written}: {class}, seed {seed}, {seconds:.2} s");
        }
        Ok(())
    }
}

/// Whether a result goes to the standard output. A file of this name is `./-`.
pub fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Begins a result, a file or the standard output.
pub fn pending(path: &Path) -> maskgit::Result<PendingFile> {
    if is_stdout(path) { Ok(PendingFile::stdout()) } else { PendingFile::create(path) }
}

/// Writes one result.
pub fn put(path: &Path, contents: &[u8]) -> Result<()> {
    let mut file = pending(path)?;
    file.write(contents)?;
    commit(file)
}

/// Puts a result in its place.
pub fn commit(file: PendingFile) -> Result<()> {
    let stdout = file.is_stdout();
    file.commit().map_err(|error| if stdout { StdoutClosed::or(error.into()) } else { error.into() })
}

/// Refuses a result that would take the place of what it is made from.
pub fn keep_inputs(output: &Path, inputs: &[(&str, Option<&Path>)], overwrite: bool) -> Result<()> {
    if overwrite || is_stdout(output) {
        return Ok(());
    }
    match inputs.iter().find(|(_, input)| input.is_some_and(|input| is_same(input, output))) {
        Some((name, _)) => Err(Usage(format!(
            "-o {} is the file of {name}, which would be lost: give another, or --overwrite",
            output.display()
        ))
        .into()),
        None => Ok(()),
    }
}

/// Refuses a result and a JSON object on the standard output together.
pub fn one_thing_on_stdout(output: &Path, json: bool) -> Result<()> {
    if json && is_stdout(output) {
        return Err(Usage("--json and -o - both write to the standard output: give one of them".into()).into());
    }
    Ok(())
}

/// The files to write for `count` images, checked before the work begins.
fn files(output: &Path, count: usize) -> Result<Vec<PathBuf>> {
    check_output(output)?;
    if count == 1 {
        return Ok(vec![output.to_path_buf()]);
    }
    if is_stdout(output) {
        return Err(Usage(format!("{count} images do not go to one standard output: give -o a file name")).into());
    }
    let stem = output.file_stem().unwrap_or_default();
    let extension = output.extension();
    let digits = count.saturating_sub(1).to_string().len().max(3);
    let name = |i: usize| {
        let mut name = OsString::from(stem);
        name.push(format!("-{i:0digits$}"));
        if let Some(extension) = extension {
            name.push(".");
            name.push(extension);
        }
        output.with_file_name(name)
    };
    Ok((0..count).map(name).collect())
}

/// Checks that a PNG can be written to `path`, as far as its name tells.
pub fn check_output(path: &Path) -> Result<()> {
    if is_stdout(path) {
        return Ok(());
    }
    let shown = path.display();
    // A device or a pipe may have any name.
    let is_special = path.metadata().is_ok_and(|found| !found.is_file());
    if path.file_name().is_none() || path.is_dir() {
        return Err(Usage(format!("-o {shown} is a folder; give a file name that ends in .png")).into());
    }
    if let Some(extension) = path.extension()
        && !extension.eq_ignore_ascii_case("png")
        && !is_special
    {
        return Err(Usage(format!("-o {shown}: only PNG is written; give a file name that ends in .png")).into());
    }
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty())
        && !folder.is_dir()
    {
        anyhow::bail!("cannot write {shown}: the folder {} does not exist", folder.display());
    }
    Ok(())
}
