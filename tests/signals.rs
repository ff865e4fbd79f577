//! What signals do to the command. Linux tells which a process catches, so that no test has to guess when.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::Desk;
use crate::common::{TINY, root};

const SIGNALS: [(&str, u32, i32); 3] = [("INT", 2, 130), ("TERM", 15, 143), ("HUP", 1, 129)];

/// Waits until something is there.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: it does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The signals of a line of a process's status, such as `SigCgt`.
fn signals(child: &Child, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
    mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap())
}

fn bit(number: u32) -> u64 {
    1 << (number - 1)
}

fn start(desk: &Desk, args: &[&str]) -> Child {
    let child = desk.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the command's handler", || (signals(&child, "SigCgt") & bit(15) != 0).then_some(()));
    child
}

fn send(child: &Child, signal: &str) {
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
}

/// The status that it ends with, and what it said.
fn end(mut child: Child) -> (Option<i32>, String) {
    wait_for("the end", || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn mkfifo(desk: &Desk, name: &str) {
    assert!(Command::new("mkfifo").arg(desk.path(name)).status().unwrap().success());
}

/// Reading, writing and loading do not ask whether to go on: the process ends all the same.
#[test]
fn the_first_signal_ends_what_waits() {
    let desk = Desk::new();
    for pipe in ["in", "out.png"] {
        mkfifo(&desk, pipe);
    }
    for args in [
        &["run", "--graph", "decoder", "--tokens", "in", "-o", "x"][..],
        &["generate", "--class", "warm", "-o", "out.png"],
        &["pack", TINY, "-o", "out.png"],
    ] {
        for (signal, _, status) in SIGNALS {
            let child = start(&desk, args);
            send(&child, signal);
            assert_eq!(end(child), (Some(status), "maskgit: cancelled\n".into()), "{args:?}, {signal}");
        }
    }
    assert_eq!(desk.names(), ["in", "out.png"]);
}

#[test]
fn loading_and_benches_end() {
    let desk = Desk::new();
    let model = root("models/avatars-128-int8");
    for (signal, _, status) in SIGNALS {
        let child = start(&desk, &["bench", "--runs", "1000", "--model", model.to_str().unwrap()]);
        let sent = Instant::now();
        send(&child, signal);
        assert_eq!(end(child), (Some(status), "maskgit: cancelled\n".into()), "{signal}");
        assert!(sent.elapsed() < Duration::from_secs(30), "a bench of thousand runs takes minutes");
    }
}

/// Two signals one after the other; the process is in the middle of writing a file.
#[test]
fn no_temporary_file_outlives_a_signal() {
    let desk = Desk::new();
    let model = root("models/avatars-128");
    let is_temporary = |name: &String| name.starts_with(".maskgit-");
    for (signal, _, status) in SIGNALS {
        // The file may be whole before the signal comes.
        let ended = (0..50).find_map(|_| {
            let mut child = start(&desk, &["pack", model.to_str().unwrap(), "-o", "packed"]);
            wait_for("a temporary file", || {
                (desk.names().iter().any(is_temporary) || child.try_wait().unwrap().is_some()).then_some(())
            });
            send_if_there(&child, signal);
            send_if_there(&child, signal);
            let (code, _) = end(child);
            assert!(!desk.names().iter().any(is_temporary), "{signal}: {:?}", desk.names());
            (code != Some(0)).then_some(code)
        });
        assert_eq!(ended, Some(Some(status)), "{signal}");
    }
}

fn send_if_there(child: &Child, signal: &str) {
    let _ = Command::new("kill").args(["-s", signal, &child.id().to_string()]).stderr(Stdio::null()).status();
}

/// As nohup starts a program, and a shell one in the background.
#[test]
fn ignored_signals_stay_ignored() {
    let desk = Desk::new();
    let run = desk.command(&["generate", "--class", "warm", "--count", "40", "--steps", "400", "-o", "a.png"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT HUP; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    command.current_dir(desk.folder()).env("MASKGIT_MODEL", TINY).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_for("the command's handler", || (signals(&child, "SigCgt") & bit(15) != 0).then_some(()));
    assert_eq!(signals(&child, "SigIgn") & (bit(1) | bit(2)), bit(1) | bit(2));
    send(&child, "INT");
    send(&child, "HUP");
    wait_for("an image after the signals", || {
        (desk.names().len() > 2 || child.try_wait().unwrap().is_some()).then_some(())
    });
    send(&child, "INT");
    assert_eq!(end(child), (Some(0), String::new()));
    assert_eq!(desk.names().len(), 40);
}
