//! The library and the command, from outside. One binary, as linking takes longer than most tests.
//!
//! Run with `--features unstable`: some tests bring an engine of their own.

mod avatars;
mod bundle;
mod common;
mod edit;
mod generate;
mod hostile;
mod layers;
#[cfg(feature = "unstable")]
mod loads;
mod precision;
mod progress;
mod requests;
mod stacks;
mod windows;

#[cfg(feature = "cli")]
mod command;
#[cfg(all(feature = "cuda", feature = "cli", target_os = "linux"))]
mod cuda;
#[cfg(feature = "cli")]
mod edit_command;
#[cfg(feature = "cli")]
mod numbers;
#[cfg(all(feature = "cli", unix))]
mod outputs;
#[cfg(feature = "cli")]
mod program;
#[cfg(feature = "cli")]
mod records;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod signals;
