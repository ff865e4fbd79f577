//! `maskgit edit`.

use std::path::PathBuf;

use anyhow::Result;

use crate::args;
use crate::draw::{self, Border, Drawing, Results, SheetOptions, Source, Task};
use crate::failure::Usage;
use crate::operation::Operation;

/// Repaint a part of an image
///
/// Repaints what the mask or the boxes cover, from what is around it, as the class that is given or as none. The image
/// may have any size: each part of the mask is painted in a window around it. Pixels farther from the mask than the
/// feather keep their values. `maskgit reproduce` makes the result again from its PNG and the same image.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit edit --image face.png --box 8,0,48,20 --class lorelei -o hair.png")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// What to repaint: an image of the same size, white where it is repainted
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// A box to repaint: left, top, width and height in pixels; may be given several times
    #[arg(long = "box", id = "boxes", value_name = "X,Y,W,H", value_parser = parse_box)]
    boxes: Vec<[u32; 4]>,
    /// How many times as large as the part that is repainted a window is, where the image is large enough
    ///
    /// Never smaller than the model's image. More context is seen more coarsely.
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = 2.0)]
    context: f32,
    #[command(flatten)]
    border: Border,
    #[command(flatten)]
    drawing: Drawing,
    #[command(flatten)]
    results: Results,
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    resources: args::Resources,
}

pub fn run(args: &Args) -> Result<()> {
    if args.mask.is_none() && args.boxes.is_empty() {
        return Err(
            Usage("what is to be repainted? Give --mask FILE, or --box X,Y,W,H (several if you like)".into()).into()
        );
    }
    let (boxes, context, edge) = (args.boxes.clone(), args.context, args.border.edge());
    let (request, edit) =
        draw::editing(&args.source, args.mask.as_deref(), Some(&args.drawing), &args.results, |mask| {
            Operation::Edit { mask, boxes, context, edge }
        })?;
    draw::run(Task {
        model: &args.model,
        resources: &args.resources,
        results: &args.results,
        request,
        edit: Some(edit),
        sheet: SheetOptions::SINGLE,
        preview: args.drawing.preview.as_deref(),
    })
}

fn parse_box(text: &str) -> Result<[u32; 4], String> {
    let numbers: Vec<u32> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    match <[u32; 4]>::try_from(numbers) {
        Ok(numbers) if text.split(',').count() == 4 => Ok(numbers),
        _ => Err("give four numbers from 0 up: left, top, width and height, as in 16,16,32,32".into()),
    }
}
