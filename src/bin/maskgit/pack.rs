//! `maskgit pack`.

use std::path::PathBuf;

use anyhow::Result;
use maskgit_core::files::PendingFile;

use crate::draw;
use crate::failure::StdoutClosed;

/// Pack a model's folder into one file
#[derive(clap::Args)]
pub struct Args {
    /// The folder with bundle.json and the graphs; all are checked first
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The file to write; its name ends in .maskgit by custom; - is the standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    if draw::is_stdout(&args.output) {
        return maskgit_bundle::pack_folder_into(&args.folder, PendingFile::stdout())
            .map_err(|error| StdoutClosed::or(error.into()));
    }
    Ok(maskgit::pack(&args.folder, &args.output)?)
}
