//! `maskgit outpaint`.

use anyhow::Result;

use crate::args;
use crate::draw::{self, Border, Drawing, Results, SheetOptions, Source, Task};
use crate::operation::{Fade, Operation};

/// Extend an image
///
/// Adds pixels on any sides, as many as you like, in windows that overlap, each drawn from what is there already: first
/// on the left and the right, then above and below.
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit outpaint --image face.png --left 64 --right 64 --class personas -o wide.png")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    results: Results,
    /// Pixels to add on the left
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    left: u32,
    /// Pixels to add on the right
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    right: u32,
    /// Pixels to add above
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    top: u32,
    /// Pixels to add below
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    bottom: u32,
    /// The shorter side of a window in pixels of the image [default: the image's]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    window: Option<u32>,
    /// The part of a window that shows what is there already, 0.1 to 0.9
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = 0.5)]
    overlap: f32,
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
    let edge = args.border.edge(Fade::Blur);
    let operation = Operation::Outpaint {
        left: args.left,
        right: args.right,
        top: args.top,
        bottom: args.bottom,
        window: args.window,
        overlap: args.overlap,
        edge,
    };
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
