//! `maskgit generate`.

use anyhow::Result;
use maskgit::Request;

use crate::args;
use crate::draw::{self, Drawing, Results, SheetOptions, Task};
use crate::failure::Usage;

/// Draw images of a class
///
/// The same model, class, seed and sampling settings draw the same image, whatever the number of threads. Image i of
/// --count is the image of seed + i. The PNG carries the parameters: `maskgit reproduce` draws it again.
///
/// Each file appears whole as soon as its image is finished, and replaces a file of the same name; Ctrl-C keeps those
/// that are finished.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit generate --class lorelei --seed 7 -o lorelei.png")]
pub struct Args {
    #[command(flatten)]
    drawing: Drawing,
    #[command(flatten)]
    results: Results,
    /// Put all images on one sheet
    #[arg(long)]
    grid: bool,
    /// Enlarge N times, without smoothing
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=256))]
    scale: u32,
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    resources: args::Resources,
}

pub fn run(args: &Args) -> Result<()> {
    if args.drawing.class.is_none() {
        return Err(Usage("give --class: `maskgit info --labels` lists the model's classes".into()).into());
    }
    draw::run(Task {
        model: &args.model,
        resources: &args.resources,
        results: &args.results,
        request: args.drawing.apply(Request::generate()),
        edit: None,
        said: None,
        sheet: SheetOptions { grid: args.grid, scale: args.scale },
        preview: args.drawing.preview.as_deref(),
    })
}
