//! `maskgit reconstruct`.

use anyhow::Result;

use crate::args;
use crate::draw::{self, Results, SheetOptions, Source, Task};
use crate::operation::Operation;

/// Encode and decode an image: what the model's tokens can hold of it
///
/// The whole image is brought to the model's size and back.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit reconstruct --image face.png -o again.png")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    results: Results,
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    resources: args::Resources,
}

pub fn run(args: &Args) -> Result<()> {
    let operation = Operation::Reconstruct;
    let (request, edit) = draw::editing(&args.source, None, None, &args.results, |_| operation)?;
    draw::run(Task {
        model: &args.model,
        resources: &args.resources,
        results: &args.results,
        request,
        edit: Some(edit),
        said: None,
        sheet: SheetOptions::SINGLE,
        preview: None,
    })
}
