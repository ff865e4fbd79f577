//! `maskgit generate`.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use maskgit::image_io::{PendingFile, Sheet, encode_png};
use maskgit::pipeline::MAX_COUNT;
use maskgit::{Generator, Timings};
use serde::Serialize;

use crate::failure::Usage;
use crate::record::{Layout, ModelId, Record, Settings};
use crate::{args, cancel, memory, output, watch};

/// Draw pictures of a class
///
/// The same model, class, seed and sampling settings draw the same picture, whatever the number of threads. Picture i of
/// --count is the picture of seed + i. The PNG carries the parameters: `maskgit reproduce` draws it again.
///
/// The result replaces a file of the same name. It appears whole or not at all: Ctrl-C leaves none (previews of steps
/// that were over stay).
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit generate --class lorelei --seed 7 -o lorelei.png")]
pub struct Args {
    #[command(flatten)]
    model: args::Model,
    /// The class: its name, an unambiguous beginning of it, its index or its id (`maskgit info --labels`)
    #[arg(long, value_name = "NAME|INDEX")]
    class: String,
    /// The PNG to write; with --count and without --grid, NAME-000.png, NAME-001.png and so on
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Seed of the first picture
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    seed: u64,
    /// Number of pictures
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_COUNT as u64))]
    count: usize,
    /// Put all pictures on one sheet
    #[arg(long)]
    grid: bool,
    /// Enlarge N times, without smoothing
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    scale: u32,
    /// Write the picture after each step to this folder: step-01.png and so on, with --count step-01-000.png
    #[arg(long, value_name = "FOLDER")]
    preview: Option<PathBuf>,
    /// Print one JSON object: every parameter, the pictures' tokens as SHA-256, times in seconds, peak memory in bytes
    ///
    /// The SHA-256 is over the tokens as little-endian 64-bit integers in raster order. `masked` is the number of tokens
    /// still masked after each step. `times.total` is loading and drawing; `times.steps` are for all pictures together.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: args::Sampling,
    #[command(flatten)]
    resources: args::Resources,
}

/// What `--json` prints.
#[derive(Serialize)]
pub struct Report<'a> {
    program: &'a str,
    model: ModelId,
    model_path: String,
    engine: &'a str,
    threads: usize,
    class: &'a str,
    label: usize,
    seed: u64,
    count: usize,
    grid: bool,
    scale: u32,
    sampling: Settings,
    images: Vec<ReportImage>,
    times: Times,
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
pub struct ReportImage {
    pub seed: u64,
    pub tokens_sha256: String,
    pub masked: Vec<usize>,
    /// The file that holds it.
    pub file: String,
}

/// Seconds.
#[derive(Serialize)]
pub struct Times {
    load: f64,
    steps: Vec<f64>,
    decode: f64,
    preview: f64,
    total: f64,
}

impl Times {
    pub fn new(generator: &Generator, timings: &Timings) -> Self {
        Self {
            load: generator.load_seconds(),
            steps: timings.steps.clone(),
            decode: timings.decode,
            preview: timings.preview,
            total: generator.load_seconds() + timings.total,
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let files = files(&args.output, if args.grid { 1 } else { args.count })?;
    cancel::install()?;
    let open = if args.preview.is_some() { args::open } else { args::open_once };
    let (mut generator, model_path) = open(&args.model, &args.resources)?;
    let mut request = generator.request(&args.class)?;
    request.seed = args.seed;
    request.count = args.count;
    args.sampling.apply(&mut request.options);
    generator.check(&request)?;
    let columns = if args.grid { Sheet::square(args.count).columns } else { 1 };
    let layout = Layout { columns, gap: Sheet::square(1).gap, scale: args.scale };
    let in_a_file = if args.grid { args.count } else { 1 };
    layout.check(in_a_file, generator.manifest()).map_err(|e| Usage(e.to_string()))?;

    let drawn = watch::generate(&mut generator, &request, args.preview.as_deref().map(|p| (p, args.scale)))?;

    let record = Record::new(generator.manifest(), &request, layout, &drawn.images);
    let mut pending = Vec::with_capacity(files.len());
    if args.grid {
        let images: Vec<_> = drawn.images.iter().map(|picture| &picture.image).collect();
        let png = encode_png(&layout.draw(&images)?, Some(&record.to_json()?))?;
        pending.extend(files.first().map(|file| PendingFile::new(file, png)));
    } else {
        for (i, (picture, file)) in drawn.images.iter().zip(&files).enumerate() {
            let png = encode_png(&layout.draw(&[&picture.image])?, Some(&record.only(i).to_json()?))?;
            pending.push(PendingFile::new(file, png));
            cancel::stop_if_asked()?;
        }
    }
    let pending = pending.into_iter().collect::<maskgit::Result<Vec<_>>>()?;
    cancel::stop_if_asked()?;
    for file in pending {
        file.commit()?;
    }

    if args.json {
        let report = Report {
            program: &record.program,
            model: record.model.clone(),
            model_path: model_path.display().to_string(),
            engine: generator.engine_name(),
            threads: args.resources.options().threads,
            class: record.class.as_deref().unwrap_or_default(),
            label: request.label,
            seed: record.seed,
            count: record.count,
            grid: args.grid,
            scale: args.scale,
            sampling: record.sampling.clone(),
            images: drawn
                .images
                .iter()
                .zip(&record.tokens_sha256)
                .enumerate()
                .map(|(i, (picture, sha256))| ReportImage {
                    seed: picture.seed,
                    tokens_sha256: sha256.clone(),
                    masked: picture.masked.clone(),
                    file: files.get(i).or(files.first()).map(|f| f.display().to_string()).unwrap_or_default(),
                })
                .collect(),
            times: Times::new(&generator, &drawn.timings),
            peak_memory_bytes: memory::peak_bytes(),
        };
        output::json(&report)?;
    } else if std::io::stderr().is_terminal() {
        let _ = writeln!(
            std::io::stderr(),
            "{}: {}, seed {}, {:.2} s",
            args.output.display(),
            record.class.as_deref().unwrap_or_default(),
            record.seed,
            generator.load_seconds() + drawn.timings.total
        );
    }
    Ok(())
}

/// The files to write for `count` pictures, checked before the work begins.
pub fn files(output: &Path, count: usize) -> Result<Vec<PathBuf>> {
    check_output(output)?;
    if count == 1 {
        return Ok(vec![output.to_path_buf()]);
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
    let shown = path.display();
    if path.file_name().is_none() || path.is_dir() {
        return Err(Usage(format!("-o {shown} is a folder; give a file name that ends in .png")).into());
    }
    if let Some(extension) = path.extension()
        && !extension.eq_ignore_ascii_case("png")
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
