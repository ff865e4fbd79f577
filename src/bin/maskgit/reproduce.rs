//! `maskgit reproduce`.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use maskgit::image_io::{self, PendingFile, encode_png};
use serde::Serialize;

use crate::generate::{Times, check_output};
use crate::record::{Record, Settings};
use crate::{args, cancel, memory, output, watch};

/// Draw a picture again from the parameters in its PNG
///
/// Draws the pictures of FILE again with the parameters that `maskgit generate` put into it, and checks that their tokens
/// are the same, by SHA-256. It fails when they differ, and refuses a model that is not the one that drew FILE. Pixels
/// may differ by rounding between machines; the result says whether they do.
#[derive(clap::Args)]
pub struct Args {
    /// A PNG that `maskgit generate` wrote
    #[arg(value_name = "FILE.png")]
    file: PathBuf,
    /// Write the pictures drawn again to this PNG
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    threads: args::Threads,
}

#[derive(Serialize)]
struct Report<'a> {
    file: String,
    output: Option<String>,
    model_path: String,
    class: &'a str,
    label: usize,
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
    let (mut generator, model_path) = args::open(&args.model, &args.threads)?;
    let request = record.request(generator.manifest()).with_context(|| format!("cannot draw {shown} again"))?;
    // What is wrong here is wrong in the file, not on the command line, so the error's kind is left behind.
    generator
        .check(&request)
        .and_then(|()| record.layout.check(request.count, generator.manifest()))
        .map_err(|e| anyhow!("{shown}: its parameters are not valid: {e}"))?;

    let drawn = watch::generate(&mut generator, &request, None)?;

    let again = Record::new(generator.manifest(), &request, record.layout, &drawn);
    if let Some(i) = again.tokens_sha256.iter().zip(&record.tokens_sha256).position(|(ours, theirs)| ours != theirs) {
        bail!(
            "picture {i} of {shown} came out with other tokens: it was drawn by {} on a machine that computes \
             differently, or its parameters were changed",
            record.program
        );
    }
    let images: Vec<_> = drawn.images.iter().map(|picture| &picture.image).collect();
    let picture = record.layout.draw(&images)?;
    let same_pixels = image_io::read_png(&args.file).is_ok_and(|original| original == picture);
    if let Some(path) = &args.output {
        let pending = PendingFile::new(path, encode_png(&picture, Some(&again.to_json()?))?)?;
        cancel::stop_if_asked()?;
        pending.commit()?;
    }
    if args.json {
        return output::json(&Report {
            file: shown.to_string(),
            output: args.output.as_ref().map(|path| path.display().to_string()),
            model_path: model_path.display().to_string(),
            class: &again.class,
            label: again.label,
            seed: again.seed,
            count: again.count,
            sampling: &again.sampling,
            tokens_sha256: &again.tokens_sha256,
            same_tokens: true,
            same_pixels,
            times: Times::new(&generator, &drawn),
            peak_memory_bytes: memory::peak_bytes(),
        });
    }
    output::text(&format!(
        "{shown}: {}, seed {}, {} picture{}: the same tokens, {} pixels\n",
        again.class,
        again.seed,
        again.count,
        if again.count == 1 { "" } else { "s" },
        if same_pixels { "the same" } else { "other" }
    ))
}
