//! Ctrl-C and termination. The first signal makes the work stop at its next safe point; where that is far, as in
//! loading a model or reading a pipe, the process ends shortly after. The second signal ends it at once. Either way no
//! temporary file is left.

#![allow(unsafe_code)] // asking what a signal does

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long the work may take to come to a safe point.
const PATIENCE: Duration = Duration::from_millis(700);
/// What a signal's threads need, with room to spare: they sleep, write a line and remove files.
#[cfg(unix)]
const STACK_BYTES: usize = 256 << 10;

/// The first signal; 0: none.
static SIGNAL: AtomicU8 = AtomicU8::new(0);
static SAID: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP do not kill the process, but make [`check`] say `Break`, and the process ends
/// within a second. Those that are ignored, as nohup makes them, stay so.
#[cfg(unix)]
pub fn install() -> Result<()> {
    use std::sync::Arc;
    use std::thread::Builder;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

    let watched = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals = signal_hook::iterator::Signals::new(watched).context("cannot watch for signals")?;
    // A file that grows above the limit is an error of writing, not the end.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).context("cannot watch for signals")?;
    let watch = move || {
        for signal in signals.forever() {
            let signal = u8::try_from(signal).unwrap_or_default();
            let first = SIGNAL.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            let wait = || Builder::new().name("maskgit-end".into()).stack_size(STACK_BYTES).spawn(end_soon);
            if !first || wait().is_err() {
                end(signal);
            }
        }
    };
    Builder::new()
        .name("maskgit-signals".into())
        .stack_size(STACK_BYTES)
        .spawn(watch)
        .context("cannot watch for signals")?;
    Ok(())
}

/// As above, for Ctrl-C alone.
#[cfg(not(unix))]
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if SIGNAL.swap(2, Ordering::Relaxed) != 0 {
            end(2);
        }
        std::thread::spawn(end_soon);
    })
    .context("cannot watch for Ctrl-C")
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a value of this struct of numbers and pointers that C may write.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and what is written to is a `sigaction`.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Ends the process unless it ends by itself meanwhile.
fn end_soon() {
    std::thread::sleep(PATIENCE);
    maskgit_core::files::remove_temporaries();
    say();
    end(SIGNAL.load(Ordering::Relaxed));
}

/// Ends the process now, whatever its threads do.
fn end(signal: u8) {
    maskgit_core::files::remove_temporaries();
    exit(128_u8.saturating_add(signal))
}

#[cfg(unix)]
fn exit(status: u8) -> ! {
    // Nothing that runs at an ordinary exit may wait for a thread that is stuck.
    signal_hook::low_level::exit(status.into())
}

#[cfg(not(unix))]
fn exit(status: u8) -> ! {
    std::process::exit(status.into())
}

/// Says once that the work was stopped.
pub fn say() {
    if !SAID.swap(true, Ordering::Relaxed) {
        crate::failure::line("cancelled");
    }
}

/// The exit status of what a signal stopped; none where there was no signal.
pub fn status() -> Option<u8> {
    let signal = SIGNAL.load(Ordering::Relaxed);
    (signal != 0).then(|| 128_u8.saturating_add(signal))
}

/// Whether to go on.
pub fn check() -> ControlFlow<()> {
    if status().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// An error when cancelled.
pub fn stop_if_asked() -> maskgit::Result<()> {
    if check().is_break() { Err(maskgit::Error::cancelled()) } else { Ok(()) }
}
