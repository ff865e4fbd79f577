//! `maskgit vary`.

use anyhow::Result;

use crate::args;
use crate::draw::{self, Drawing, Results, SheetOptions, Source, Task};
use crate::operation::Operation;

/// Draw variations of an image
///
/// Keeps a part of the image's tokens, chosen by the seed, and draws the others anew. The whole image is brought to the
/// model's size and back.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit vary --image face.png --strength 0.6 --class lorelei --count 8 -o other.png")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    results: Results,
    /// The part of the tokens that is drawn anew: 0 is a reconstruction, 0.3 changes details, 0.7 much, 1 keeps nothing
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    strength: f32,
    #[command(flatten)]
    drawing: Drawing,
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    resources: args::Resources,
}

pub fn run(args: &Args) -> Result<()> {
    let operation = Operation::Vary { strength: args.strength };
    let (request, edit) = draw::editing(&args.source, None, Some(&args.drawing), &args.results, |_| operation)?;
    draw::run(Task {
        model: &args.model,
        resources: &args.resources,
        results: &args.results,
        request,
        edit: Some(edit),
        said: None,
        sheet: SheetOptions::SINGLE,
        preview: args.drawing.preview.as_deref(),
    })
}
