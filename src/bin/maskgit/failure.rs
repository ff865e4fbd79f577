//! Errors to one line on stderr and an exit status. Nothing else in the command decides a status.

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind as ClapKind;
use maskgit::ErrorKind;

use crate::cancel;

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

/// A value on the command line that cannot be.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Whoever read our standard output has closed it, as `head` does: nothing is wrong.
#[derive(Debug)]
pub struct StdoutClosed;

impl StdoutClosed {
    /// This in the place of an error of the standard output that says so.
    pub fn or(error: anyhow::Error) -> anyhow::Error {
        let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
        if error.chain().any(|cause| cause.downcast_ref().is_some_and(closed)) { Self.into() } else { error }
    }
}

impl std::fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the standard output is closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Prints why a subcommand failed; returns 2 for impossible values that the user typed, 128 and the signal's number
/// where one stopped it, else 1.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<StdoutClosed>() {
        return ExitCode::SUCCESS;
    }
    // The first of the library's errors decides: what a model gave may be called impossible by a cause of it.
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<maskgit::Error>()).map(maskgit::Error::kind);
    let usage = kind == Some(ErrorKind::Request) || error.chain().any(|cause| cause.is::<Usage>());
    if kind == Some(ErrorKind::Cancelled)
        && let Some(status) = cancel::status()
    {
        cancel::say();
        return ExitCode::from(status);
    }
    // The library's errors print their causes themselves, so causes that the text has already are left out.
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    line(&text);
    ExitCode::from(if usage { WRONG_USAGE } else { FAILED })
}

/// Prints help or version on stdout, or what is wrong with the command line as one line on stderr.
pub fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ClapKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(WRONG_USAGE)
        }
        _ => {
            let text = error.render().to_string();
            let text = text.split("\n\nUsage:").next().unwrap_or(&text);
            let text = text.split("\n\nFor more information").next().unwrap_or(text);
            let text = text.trim().trim_start_matches("error: ");
            line(&format!("{text} (--help says more)"));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

/// One line on stderr, whatever `text` holds.
pub fn line(text: &str) {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    // There is nowhere to report a closed stderr to.
    let _ = writeln!(std::io::stderr(), "maskgit: {}", words.join(" "));
}
