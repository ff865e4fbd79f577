//! `maskgit reproduce`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use image::RgbImage;
use maskgit::image_io::{self, PendingFile, SourceImage, encode_png};
use maskgit::{ErrorKind, Generator, Timings};
use serde::Serialize;

use crate::generate::{Times, check_output};
use crate::operation::Edit;
use crate::record::{Record, Settings};
use crate::{args, cancel, memory, output, watch};

/// Draw a picture again from the parameters in its PNG
///
/// Draws the pictures of FILE again with the parameters that `maskgit generate`, `edit`, `outpaint`, `vary` or `reconstruct` put
/// into it, and checks that their tokens
/// are the same, by SHA-256. It fails when they differ, and refuses a model that is not the one that drew FILE. Pixels
/// may differ by rounding between machines; the result says whether they do.
#[derive(clap::Args)]
pub struct Args {
    /// A PNG that this program drew
    #[arg(value_name = "FILE.png")]
    file: PathBuf,
    /// Write the pictures drawn again to this PNG
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Of an edit, the picture that was edited [default: the file of its name beside FILE, or here]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Of an edit, the mask [default: the file of its name beside FILE, or here]
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    resources: args::Resources,
}

#[derive(Serialize)]
struct Report<'a> {
    file: String,
    output: Option<String>,
    model_path: String,
    class: Option<&'a str>,
    label: Option<usize>,
    seed: u64,
    count: usize,
    sampling: &'a Settings,
    tokens_sha256: &'a [String],
    /// Always true: other tokens are an error.
    same_tokens: bool,
    same_pixels: bool,
    times: Times,
    peak_memory_bytes: Option<u64>,
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(output) = &args.output {
        check_output(output)?;
    }
    let shown = args.file.display();
    let record = Record::read(&args.file)?;
    cancel::install()?;
    let (mut generator, model_path) = args::open(&args.model, &args.resources)?;
    let again = match &record.edit {
        None => draw(args, &record, &mut generator)?,
        Some(edit) => edit_again(args, &record, edit, &mut generator)?,
    };
    if let Some(i) =
        again.record.tokens_sha256.iter().zip(&record.tokens_sha256).position(|(ours, theirs)| ours != theirs)
    {
        bail!(
            "picture {i} of {shown} came out with other tokens: it was drawn by {} on a machine that computes \
             differently, or its parameters were changed",
            record.program
        );
    }
    let same_pixels = image_io::read_png(&args.file).is_ok_and(|original| original == again.picture);
    if let Some(path) = &args.output {
        let metadata = again.record.to_json()?;
        let png = match &again.source {
            Some(source) => source.encode_png(&again.picture, Some(&metadata))?,
            None => encode_png(&again.picture, Some(&metadata))?,
        };
        let pending = PendingFile::new(path, png)?;
        cancel::stop_if_asked()?;
        pending.commit()?;
    }
    tell(args, &generator, &model_path, &again, same_pixels)
}

/// What came out.
struct Again {
    record: Record,
    picture: RgbImage,
    /// The picture that was edited.
    source: Option<SourceImage>,
    timings: Timings,
}

fn draw(args: &Args, record: &Record, generator: &mut Generator) -> Result<Again> {
    let shown = args.file.display();
    if args.image.is_some() || args.mask.is_some() {
        bail!("{shown} is no edit: leave --image and --mask out");
    }
    let request = record.request(generator.manifest()).with_context(|| format!("cannot draw {shown} again"))?;
    // What is wrong here is wrong in the file, not on the command line, so the error's kind is left behind.
    generator
        .check(&request)
        .and_then(|()| record.layout.check(request.count, generator.manifest()))
        .map_err(|e| anyhow!("{shown}: its parameters are not valid: {e}"))?;
    let drawn = watch::generate(generator, &request, None)?;
    let images: Vec<_> = drawn.images.iter().map(|picture| &picture.image).collect();
    Ok(Again {
        picture: record.layout.draw(&images)?,
        record: Record::new(generator.manifest(), &request, record.layout, &drawn.images),
        source: None,
        timings: drawn.timings,
    })
}

fn edit_again(args: &Args, record: &Record, edit: &Edit, generator: &mut Generator) -> Result<Again> {
    let shown = args.file.display();
    let again = || format!("cannot make {shown} again");
    let mut request = record.edit_request(generator.manifest()).with_context(again)?;
    edit.operation.apply(&mut request);
    let invalid = |e: maskgit::Error| match e.kind() {
        ErrorKind::Request => anyhow!("{shown}: its parameters are not valid: {e}"),
        _ => e.into(),
    };
    generator.check_edit(&request).map_err(invalid)?;
    if request.count != 1 {
        bail!("{shown}: its parameters are not valid: a file holds one result of an edit, not {}", request.count);
    }
    let mut inputs = edit.inputs(&args.file, args.image.as_deref(), args.mask.as_deref()).with_context(again)?;
    let edited = watch::watched(1, None, |observer| edit.operation.run(generator, &mut inputs, &request, observer))
        .map_err(|e| match e.downcast::<maskgit::Error>() {
            Ok(error) => invalid(error),
            Err(error) => error,
        })?;
    let record = Record::of_edit(generator.manifest(), &request, edit.clone(), &edited.images);
    let picture = edited.images.into_iter().next().context("the edit gave no result")?.image;
    Ok(Again { record, picture, source: Some(inputs.source), timings: edited.timings })
}

fn tell(args: &Args, generator: &Generator, model_path: &Path, again: &Again, same_pixels: bool) -> Result<()> {
    let (shown, record) = (args.file.display(), &again.record);
    if args.json {
        return output::json(&Report {
            file: shown.to_string(),
            output: args.output.as_ref().map(|path| path.display().to_string()),
            model_path: model_path.display().to_string(),
            class: record.class.as_deref(),
            label: record.label,
            seed: record.seed,
            count: record.count,
            sampling: &record.sampling,
            tokens_sha256: &record.tokens_sha256,
            same_tokens: true,
            same_pixels,
            times: Times::new(generator, &again.timings),
            peak_memory_bytes: memory::peak_bytes(),
        });
    }
    output::text(&format!(
        "{shown}: {}, seed {}, {} picture{}: the same tokens, {} pixels\n",
        record.class.as_deref().unwrap_or("no class"),
        record.seed,
        record.count,
        if record.count == 1 { "" } else { "s" },
        if same_pixels { "the same" } else { "other" }
    ))
}
