//! Ctrl-C and termination: the work stops at its next safe point, and no result file is left.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C does not kill the process, it makes [`check`] say `Break`.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| CANCELLED.store(true, Ordering::Relaxed)).context("cannot watch for Ctrl-C")
}

/// Whether to go on.
pub fn check() -> ControlFlow<()> {
    if CANCELLED.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// An error when cancelled.
pub fn stop_if_asked() -> maskgit::Result<()> {
    if check().is_break() { Err(maskgit::Error::cancelled()) } else { Ok(()) }
}
