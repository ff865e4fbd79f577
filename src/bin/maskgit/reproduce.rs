//! `maskgit reproduce`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use image::RgbImage;
use maskgit::{ErrorKind, Generator, Image, Limits, Request, Sampling, SourceImage, Timings, read_image};
use maskgit_image::encode_png;
use serde::Serialize;

use crate::draw::{JSON_VERSION, Times, check_output, is_stdout, keep_inputs, one_thing_on_stdout, put};
use crate::record::Record;
use crate::{args, cancel, memory, output, watch};

/// Draw an image again from the parameters in its PNG
///
/// Draws the images of FILE again with the parameters that `maskgit generate`, `edit`, `outpaint`, `vary` or
/// `reconstruct` put into it, and checks that their tokens are the same, by SHA-256. It fails when they differ, and
/// refuses a model that is not the one that drew FILE. Pixels may differ by rounding between machines; the result says
/// whether they do.
#[derive(clap::Args)]
pub struct Args {
    /// A PNG that this program drew
    #[arg(value_name = "FILE.png")]
    file: PathBuf,
    /// Write the images drawn again to this PNG; - is the standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Let -o be FILE.png, or the file of --image or --mask, which is lost
    #[arg(long)]
    overwrite: bool,
    /// Of an edit, the image that was edited [default: the file of its name beside FILE, or here]
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
    json_version: u32,
    file: String,
    output: Option<String>,
    model_path: String,
    class: Option<&'a str>,
    label: Option<usize>,
    seed: u64,
    count: usize,
    sampling: &'a Sampling,
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
        one_thing_on_stdout(output, args.json)?;
        let inputs = [
            ("the image that is drawn again", Some(args.file.as_path())),
            ("--image", args.image.as_deref()),
            ("--mask", args.mask.as_deref()),
        ];
        keep_inputs(output, &inputs, args.overwrite)?;
    }
    let shown = args.file.display();
    let record = Record::read(&args.file)?;
    let (mut generator, model_path) = args::open(&args.model, &args.resources)?;
    let again = draw(args, &record, &mut generator)?;
    if let Some(i) =
        again.record.tokens_sha256.iter().zip(&record.tokens_sha256).position(|(ours, theirs)| ours != theirs)
    {
        bail!(
            "image {i} of {shown} came out with other tokens: it was drawn by {} on a machine that computes \
             differently, or its parameters were changed",
            record.program
        );
    }
    let same_pixels = read_image(&args.file, &Limits::default()).is_ok_and(|original| original.rgb == again.image);
    if let Some(path) = &args.output {
        let metadata = again.record.to_json()?;
        let png = match &again.source {
            Some(source) => source.encode_png(&again.image, Some(&metadata))?,
            None => encode_png(&again.image, Some(&metadata))?,
        };
        cancel::stop_if_asked()?;
        put(path, &png)?;
    }
    tell(args, &generator, &model_path, &again, same_pixels)
}

/// What came out.
struct Reproduced {
    record: Record,
    image: RgbImage,
    /// The image that was edited.
    source: Option<SourceImage>,
    timings: Timings,
}

fn draw(args: &Args, record: &Record, generator: &mut Generator) -> Result<Reproduced> {
    let shown = args.file.display();
    // What is wrong here is wrong in the file, not on the command line, so the error's kind is left behind.
    let invalid = |e: maskgit::Error| match e.kind() {
        ErrorKind::Request => anyhow!("{shown}: its parameters are not valid: {e}"),
        _ => e.into(),
    };
    let (request, source) = match &record.edit {
        None if args.image.is_some() || args.mask.is_some() => {
            bail!("{shown} is no edit: leave --image and --mask out")
        }
        None => (Request::generate(), None),
        Some(edit) => {
            // A wrong model is said before a missing file.
            record.apply(Request::generate(), generator.manifest()).with_context(|| again(args))?;
            if record.count != 1 {
                bail!(
                    "{shown}: its parameters are not valid: a file holds one result of an edit, not {}",
                    record.count
                );
            }
            let mut inputs = edit
                .inputs(&args.file, args.image.as_deref(), args.mask.as_deref(), args.json)
                .with_context(|| again(args))?;
            let request = edit.operation.request(&mut inputs, edit.transparency).map_err(invalid)?;
            (request, Some(edit.operation.source(inputs.source)?))
        }
    };
    let request = record.apply(request, generator.manifest()).with_context(|| again(args))?;
    let resolved = request.resolve(generator.manifest()).map_err(invalid)?;
    if record.edit.is_none() {
        record.layout.check(record.count, generator.manifest()).map_err(invalid)?;
    }
    let mut reproduced =
        Record::new(generator.manifest(), request.seeds, &resolved, record.layout, record.edit.clone());
    let mut images = Vec::new();
    let mut take = |image: Image| {
        reproduced.tokens_sha256.push(maskgit::tokens_sha256(&image.tokens));
        images.push(image.pixels);
        Ok(())
    };
    let summary = watch::watched(!args.json, None, &mut take, |observer| generator.generate_with(&request, observer))
        .map_err(|e| match e.downcast::<maskgit::Error>() {
        Ok(error) => invalid(error),
        Err(error) => error,
    })?;
    let image = match (&record.edit, images.as_slice()) {
        (Some(_), [image]) => image.clone(),
        (_, images) => record.layout.draw(&images.iter().collect::<Vec<_>>())?,
    };
    Ok(Reproduced { record: reproduced, image, source, timings: summary.timings })
}

fn again(args: &Args) -> String {
    format!("cannot draw {} again", args.file.display())
}

fn tell(args: &Args, generator: &Generator, model_path: &Path, again: &Reproduced, same_pixels: bool) -> Result<()> {
    let (shown, record) = (args.file.display(), &again.record);
    if args.json {
        return output::json(&Report {
            json_version: JSON_VERSION,
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
    let said = format!(
        "{shown}: {}, seed {}, {} image{}: the same tokens, {} pixels\n",
        record.class.as_deref().unwrap_or("no class"),
        record.seed,
        record.count,
        if record.count == 1 { "" } else { "s" },
        if same_pixels { "the same" } else { "other" }
    );
    if args.output.as_deref().is_some_and(is_stdout) {
        // The image is there; stderr may be closed.
        let _ = write!(std::io::stderr(), "{said}");
        return Ok(());
    }
    output::text(&said)
}
