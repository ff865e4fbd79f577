//! `maskgit run`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use maskgit::Generator;

use crate::failure::Usage;
use crate::{args, cancel, draw};

/// The largest input file.
const MAX_BYTES: u64 = 1 << 30;

/// Run one graph on raw numbers, to compare with another runtime
///
/// Files are raw little-endian numbers in row-major order without a header: tokens as 64-bit integers (B x N), images
/// as 32-bit floating point (B x 3 x height x width, 0 to 1), logits as 32-bit floating point (B x N x K). B, the
/// number of rows, follows from the file's size.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    resources: args::Resources,
    /// The graph
    #[arg(long, value_enum)]
    graph: Graph,
    /// Tokens, for the transformer and the decoder
    #[arg(long, value_name = "FILE", conflicts_with = "image",
        required_if_eq_any = [("graph", "transformer"), ("graph", "decoder")])]
    tokens: Option<PathBuf>,
    /// The label of all rows, or one for each row separated by commas: indices, or the null label
    #[arg(
        long,
        value_name = "N[,N...]",
        allow_negative_numbers = true,
        required_if_eq("graph", "transformer"),
        value_delimiter = ',',
        conflicts_with = "image"
    )]
    label: Vec<i64>,
    /// Images, for the encoder
    #[arg(long, value_name = "FILE", required_if_eq("graph", "encoder"))]
    image: Option<PathBuf>,
    /// The file to write; - is the standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Let -o be the file of --tokens or --image, which is lost
    #[arg(long)]
    overwrite: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Graph {
    /// Tokens and a label to logits
    Transformer,
    /// Tokens to images
    Decoder,
    /// Images to tokens
    Encoder,
}

pub fn run(args: &Args) -> Result<()> {
    let inputs = [("--tokens", args.tokens.as_deref()), ("--image", args.image.as_deref())];
    draw::keep_inputs(&args.output, &inputs, args.overwrite)?;
    let (mut generator, _) = args::open(&args.model, &args.resources)?;
    let mut out = Vec::new();
    match (args.graph, &args.tokens, &args.image) {
        (Graph::Encoder, _, Some(image)) => {
            let size = generator.manifest().image;
            let values: Vec<f32> = numbers(image)?.into_iter().map(f32::from_le_bytes).collect();
            let row = size.area().saturating_mul(3);
            check_rows(image, values.len(), row)?;
            for planes in values.chunks(row) {
                cancel::stop_if_asked()?;
                out.extend(generator.encode_planes(planes)?.into_iter().flat_map(i64::to_le_bytes));
            }
        }
        (graph, Some(path), _) => {
            let tokens: Vec<i64> = numbers(path)?.into_iter().map(i64::from_le_bytes).collect();
            let row = generator.manifest().tokens();
            let rows = check_rows(path, tokens.len(), row)?;
            if args.label.len() > 1 && args.label.len() != rows {
                return Err(Usage(format!("--label has {} labels for {rows} rows", args.label.len())).into());
            }
            for (i, tokens) in tokens.chunks(row).enumerate() {
                cancel::stop_if_asked()?;
                let label = args.label.get(i).or(args.label.first()).copied().unwrap_or_default();
                out.extend(one(&mut generator, graph, tokens, label)?.into_iter().flat_map(f32::to_le_bytes));
            }
        }
        _ => bail!("the graph needs --tokens or --image"),
    }
    draw::put(&args.output, &out)
}

fn one(generator: &mut Generator, graph: Graph, tokens: &[i64], label: i64) -> maskgit::Result<Vec<f32>> {
    if graph == Graph::Transformer { generator.logits(tokens, label) } else { generator.decode_planes(tokens) }
}

/// Checks that a file holds whole rows, and at least one; returns how many.
fn check_rows(path: &Path, values: usize, row: usize) -> Result<usize> {
    ensure!(
        values > 0 && values.is_multiple_of(row),
        "{} holds {values} numbers; it must hold {row} for each row",
        path.display()
    );
    Ok(values / row)
}

/// The numbers of `BYTES` bytes that a file holds.
fn numbers<const BYTES: usize>(path: &Path) -> Result<Vec<[u8; BYTES]>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= MAX_BYTES, "{} has more than {MAX_BYTES} bytes", path.display());
    let (numbers, rest) = bytes.as_chunks::<BYTES>();
    ensure!(rest.is_empty(), "{} has {} bytes, not a multiple of {BYTES}", path.display(), bytes.len());
    Ok(numbers.to_vec())
}
