//! The library and the command, from outside. One binary, as linking takes longer than most tests.
//!
//! Run with `--features unstable`: some tests look at engines.

#[cfg(feature = "unstable")]
mod avatars;
mod command;
#[cfg(feature = "cuda")]
mod cuda;
mod edit;
mod edit_command;
mod edit_inputs;
mod generate;
#[cfg(feature = "unstable")]
mod precision;
mod program;
mod records;
