//! `maskgit vary`.

use anyhow::Result;

use crate::args;
use crate::editing::{self, Drawing, Files, Task};
use crate::operation::Operation;

/// Draw variations of a picture
///
/// Keeps a part of the picture's tokens, chosen by the seed, and draws the others anew. The whole picture is brought to the model's size
/// and back.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit vary --image face.png --strength 0.6 --class lorelei --count 8 -o other.png")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// The part of the tokens that is drawn anew: 0 is a reconstruction, 1 keeps nothing
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
    editing::run(&Task {
        model: &args.model,
        resources: &args.resources,
        files: &args.files,
        mask: None,
        drawing: Some(&args.drawing),
        operation: &|_| Operation::Vary { strength: args.strength },
    })
}
