//! `maskgit pack`.

use std::path::PathBuf;

use anyhow::Result;

/// Pack a model's folder into one file
#[derive(clap::Args)]
pub struct Args {
    /// The folder with bundle.json and the graphs; all are checked first
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The file to write; its name ends in .maskgit by custom
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    Ok(maskgit::pack(&args.folder, &args.output)?)
}
