//! `maskgit edit`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use maskgit::{MaskFrom, MaskOptions, Request, Subject};

use crate::args;
use crate::draw::{self, Border, Drawing, Results, SheetOptions, Source, Task};
use crate::failure::Usage;
use crate::operation::{Auto, Fade, Layout, Operation};

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
    /// What to repaint: an image of the same size, such as one that is white where it is repainted
    ///
    /// White on black, paint on a transparent layer, a coloured brush on black, or the image itself with a part erased
    /// to transparent; a line on stderr says how it was read. Values between mix the old and the new.
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// What of the mask's file is repainted: alpha is what is opaque, luma what is white, any what is not black; auto
    /// takes what the file plainly is
    #[arg(long, value_name = "auto|alpha|luma|any", hide_possible_values = true, requires = "mask",
        default_value = "auto", value_parser = mask_from())]
    mask_from: MaskFrom,
    /// Repaint what the mask would keep, and keep what it would repaint
    #[arg(long, requires = "mask")]
    invert_mask: bool,
    /// Bring a mask of another size, but of the image's proportions, to the image's size
    #[arg(long, requires = "mask")]
    resize_mask: bool,
    /// Give the image back where the mask is empty, instead of an error
    #[arg(long)]
    allow_empty_mask: bool,
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
    let (boxes, context, edge) = (args.boxes.clone(), args.context, args.border.edge(Fade::Auto(Auto::Auto)));
    let options =
        MaskOptions::new().with_from(args.mask_from).with_invert(args.invert_mask).with_resize(args.resize_mask);
    let mask = args.mask.as_deref().map(|path| (path, options));
    let mut said = None;
    let (request, edit) = draw::editing(&args.source, mask, Some(&args.drawing), &args.results, |read| {
        let (mask, reading) = match read {
            Some(read) => {
                said = Some(read.said);
                (Some(read.id), read.reading)
            }
            None => (None, None),
        };
        Operation::Edit { mask, reading, boxes, context, windows: Layout::Shape, edge }
    })?;
    let said = said.map(|said| reading(args, &said, &request)).transpose()?;
    draw::run(Task {
        model: &args.model,
        resources: &args.resources,
        results: &args.results,
        request,
        edit: Some(edit),
        said,
        sheet: SheetOptions::SINGLE,
        preview: args.drawing.preview.as_deref(),
    })
}

/// What there is to say of a mask: which pixels of its file are repainted, and the share of the image. An error where
/// it is empty and must not be.
fn reading(args: &Args, said: &str, request: &Request) -> Result<String> {
    let share = match &request.subject {
        Subject::Edit { mask, .. } if mask.is_empty() && !args.allow_empty_mask => bail!(
            "the mask is empty: it was read as {said}, and no pixel is at least half that; --mask-from and \
             --invert-mask read it otherwise, --allow-empty-mask gives the image back"
        ),
        Subject::Edit { mask, .. } => mask.share(),
        _ => 0.0,
    };
    let rest = if share > 0.5 { "; --invert-mask repaints the rest instead" } else { "" };
    Ok(format!("mask: {said}, {} of the image is repainted{rest}", percent(share)))
}

/// A share as a percentage.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent == 0.0 || percent >= 99.95 {
        0
    } else if percent >= 0.995 {
        1
    } else {
        2
    };
    if percent > 0.0 && percent < 0.005 { "less than 0.01 %".into() } else { format!("{percent:.digits$} %") }
}

fn mask_from() -> impl clap::builder::TypedValueParser<Value = MaskFrom> {
    PossibleValuesParser::new(MaskFrom::NAMES.map(|(name, _)| name)).map(|text| {
        MaskFrom::NAMES.iter().find(|(name, _)| *name == text).map_or_else(MaskFrom::default, |(_, from)| *from)
    })
}

fn parse_box(text: &str) -> Result<[u32; 4], String> {
    let numbers: Vec<u32> = text.split(',').filter_map(|part| part.trim().parse().ok()).collect();
    match <[u32; 4]>::try_from(numbers) {
        Ok(numbers) if text.split(',').count() == 4 => Ok(numbers),
        _ => Err("give four numbers from 0 up: left, top, width and height, as in 16,16,32,32".into()),
    }
}
