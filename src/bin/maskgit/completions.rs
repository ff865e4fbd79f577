//! `maskgit completions`.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, output};

/// Print the completions for a shell
#[derive(clap::Args)]
#[command(after_help = "Example: maskgit completions bash > ~/.local/share/bash-completion/completions/maskgit")]
pub struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "maskgit", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
