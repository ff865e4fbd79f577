//! Errors to one line on stderr and an exit status. Nothing else in the command decides a status.

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind as ClapKind;
use maskgit::ErrorKind;

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

/// Prints why a subcommand failed; returns 2 for impossible values that the user typed, else 1.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let mut usage = false;
    for cause in error.chain() {
        usage |= cause.is::<Usage>();
        usage |= cause.downcast_ref::<maskgit::Error>().is_some_and(|e| e.kind() == ErrorKind::Request);
        // Whoever read our output has closed it, as `head` does: nothing is wrong.
        if cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
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
