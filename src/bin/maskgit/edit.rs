//! `maskgit edit`.

use std::path::PathBuf;

use anyhow::Result;

use crate::args;
use crate::editing::{self, Border, Drawing, Files, Task};
use crate::operation::Operation;

/// Repaint a part of a picture
///
/// Repaints what the mask or the boxes cover, from what is around it, as the class that is given or as none. The picture may have any
/// size: each part of the mask is painted in a window around it. Pixels farther from the mask than the feather keep their values.
/// `maskgit reproduce` makes the result again from its PNG and the same picture.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit edit --image face.png --box 8,0,48,20 --class lorelei -o hair.png")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// A picture of the same size: what is white is repainted
    #[arg(long, value_name = "FILE", required_unless_present = "boxes")]
    mask: Option<PathBuf>,
    /// A box to repaint: left, top, width and height in pixels; may be given several times
    #[arg(long = "box", id = "boxes", value_name = "X,Y,W,H", value_parser = parse_box)]
    boxes: Vec<[u32; 4]>,
    /// How many times as large as the part that is repainted a window is, where the picture is large enough
    ///
    /// Never smaller than the model's picture. More context is seen more coarsely.
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = 2.0)]
    context: f32,
    #[command(flatten)]
    border: Border,
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
        mask: args.mask.as_deref(),
        drawing: Some(&args.drawing),
        operation: &|mask| Operation::Edit {
            mask,
            boxes: args.boxes.clone(),
            context: args.context,
            edge: args.border.edge(),
        },
    })
}

fn parse_box(text: &str) -> Result<[u32; 4], String> {
    let numbers: Vec<u32> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    match <[u32; 4]>::try_from(numbers) {
        Ok(numbers) if text.split(',').count() == 4 => Ok(numbers),
        _ => Err("give four numbers from 0 up: left, top, width and height, as in 16,16,32,32".into()),
    }
}
