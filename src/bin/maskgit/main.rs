//! The `maskgit` command: a thin face over the library. One file per subcommand.

#![deny(unsafe_code)]

#[cfg(unix)]
mod allocator;
mod args;
mod bench;
mod cancel;
mod completions;
mod draw;
mod edit;
mod failure;
mod generate;
mod info;
mod man;
mod memory;
mod model;
mod operation;
mod outpaint;
mod output;
mod pack;
mod reconstruct;
mod record;
mod reproduce;
mod run;
mod vary;
mod watch;

use std::process::ExitCode;

use clap::Parser;

/// Draws images with MaskGIT-family models, on this machine, without a network
#[derive(Parser)]
#[command(name = "maskgit", version, subcommand_required = true, arg_required_else_help = true, max_term_width = 110)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 128 and its number where a signal stopped it.\n\
    Environment: MASKGIT_MODEL is the model to use when --model is not given.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Generate(generate::Args),
    Edit(edit::Args),
    Outpaint(outpaint::Args),
    Vary(vary::Args),
    Reconstruct(reconstruct::Args),
    Reproduce(reproduce::Args),
    Info(info::Args),
    Bench(bench::Args),
    Pack(pack::Args),
    Run(run::Args),
    Completions(completions::Args),
    Man(man::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let done = match cancel::install() {
        Ok(()) => run(cli.command),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Generate(args) => generate::run(&args),
        Command::Edit(args) => edit::run(&args),
        Command::Outpaint(args) => outpaint::run(&args),
        Command::Vary(args) => vary::run(&args),
        Command::Reconstruct(args) => reconstruct::run(&args),
        Command::Reproduce(args) => reproduce::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Pack(args) => pack::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}
