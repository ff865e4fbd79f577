//! What is printed on stdout.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::failure::StdoutClosed;

/// Prints text as it is.
pub fn text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to the standard output").map_err(StdoutClosed::or)
}

/// Prints one JSON object.
pub fn json(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string_pretty(value)?;
    line.push('\n');
    text(&line)
}
