//! `maskgit man`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man;
use maskgit_core::files::write_file;

use crate::draw::is_stdout;
use crate::{Cli, output};

/// Print the manual page, or write the pages of all subcommands to a folder
#[derive(clap::Args)]
pub struct Args {
    /// Write maskgit.1, maskgit-generate.1 and so on to this folder
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    let Some(folder) = args.output.as_ref().filter(|folder| !is_stdout(folder)) else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return output::text(&String::from_utf8_lossy(&page));
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let subcommands: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").cloned().collect();
    for page_command in subcommands.into_iter().chain([command]) {
        let man = Man::new(page_command);
        let mut page = Vec::new();
        man.render(&mut page)?;
        write_file(&folder.join(man.get_filename()), &page)?;
    }
    Ok(())
}
