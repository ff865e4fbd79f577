//! Starting a built program, in an emulator where the tests were built for another processor.

use std::path::Path;
use std::process::Command;

/// The program, started by what `MASKGIT_TEST_RUNNER` says, if anything, such as `qemu-aarch64 -cpu max`.
pub fn program(path: &Path) -> Command {
    let runner = std::env::var("MASKGIT_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(path);
            command
        }
        None => Command::new(path),
    }
}
