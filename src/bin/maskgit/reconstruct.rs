//! `maskgit reconstruct`.

use anyhow::Result;

use crate::args;
use crate::editing::{self, Files, Task};
use crate::operation::Operation;

/// Encode and decode a picture: what the model's tokens can hold of it
///
/// The whole picture is brought to the model's size and back.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit reconstruct --image face.png -o again.png")]
pub struct Args {
    #[command(flatten)]
    files: Files,
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
        drawing: None,
        operation: &|_| Operation::Reconstruct,
    })
}
