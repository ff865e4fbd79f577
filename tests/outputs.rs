//! Where the command's results go: links, pipes, the standard output, and what must not be lost.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::process::{Command, Stdio};

use crate::command::{Desk, copy_tiny, names};

const TINY: &str = crate::common::TINY;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A desk with an image on it, one to edit.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.ok(&["generate", "--class", "warm", "--seed", "3", "-o", "image.png"]);
    fs::write(desk.path("tokens"), [0; 16 * 8]).unwrap();
    desk
}

/// A command line for each command that writes one file, without its -o.
const WRITERS: [&str; 8] = [
    "generate --class warm",
    "generate --class warm --count 4 --grid",
    "edit --image image.png --box 0,0,4,4 --class warm",
    "outpaint --image image.png --left 8 --class warm",
    "vary --image image.png --strength 0.5 --class warm",
    "reconstruct --image image.png",
    "reproduce image.png",
    "run --graph decoder --tokens tokens",
];

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// The standard output of a command that must succeed.
fn stdout(desk: &Desk, args: &[&str]) -> Vec<u8> {
    let output = desk.run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn mkfifo(desk: &Desk, name: &str) {
    assert!(Command::new("mkfifo").arg(desk.path(name)).status().unwrap().success());
}

#[test]
fn every_command_writes_to_the_standard_output() {
    let desk = desk();
    let pack = format!("pack {TINY}");
    for line in WRITERS.into_iter().chain([pack.as_str()]) {
        let with = |output: &'static str| [words(line), vec!["-o", output]].concat();
        stdout(&desk, &with("file.png"));
        let before = desk.names();
        let file = fs::read(desk.path("file.png")).unwrap();
        assert!(stdout(&desk, &with("-")) == file, "{line}: -o -");
        assert!(stdout(&desk, &with("/dev/stdout")).starts_with(&file), "{line}: -o /dev/stdout");
        assert_eq!(desk.names(), before, "{line}");
    }
    assert!(stdout(&desk, &["man", "-o", "-"]).starts_with(b".ie"));
    for (line, expected) in [
        ("generate --class warm --count 2 -o -", "2 images"),
        ("generate --class warm --json -o -", "--json"),
        ("reproduce image.png --json -o -", "--json"),
        ("vary --image image.png --strength 0.5 --count 2 -o -", "2 images"),
    ] {
        let said = desk.fails(2, &words(line));
        assert!(said.contains(expected), "{line}: {said}");
    }
}

/// What a shell has put into the file before stays: the open file is written, not the name.
#[test]
fn dev_stdout_is_the_open_file() {
    let desk = desk();
    for line in WRITERS {
        fs::write(desk.path("log"), "before").unwrap();
        let inode = fs::metadata(desk.path("log")).unwrap().ino();
        let log = fs::File::options().append(true).open(desk.path("log")).unwrap();
        let mut command = desk.command(&[words(line), vec!["-o", "/dev/stdout"]].concat());
        assert!(command.stdout(log).status().unwrap().success(), "{line}");
        assert!(fs::read(desk.path("log")).unwrap().starts_with(b"before"), "{line}");
        assert!(fs::metadata(desk.path("log")).unwrap().len() > 100, "{line}");
        assert_eq!(fs::metadata(desk.path("log")).unwrap().ino(), inode, "{line}");
    }
}

#[test]
fn pipes_are_written_through() {
    let desk = desk();
    mkfifo(&desk, "fifo");
    let pack = format!("pack {TINY}");
    for line in WRITERS.into_iter().chain([pack.as_str()]) {
        desk.ok_or_said(&[words(line), vec!["-o", "file.png"]].concat());
        let fifo = desk.path("fifo");
        let reader = std::thread::spawn(move || fs::read(fifo).unwrap());
        desk.ok_or_said(&[words(line), vec!["-o", "fifo"]].concat());
        assert!(reader.join().unwrap() == fs::read(desk.path("file.png")).unwrap(), "{line}");
        assert!(fs::symlink_metadata(desk.path("fifo")).unwrap().file_type().is_fifo(), "{line}");
    }
}

#[test]
fn links_modes_and_owners_stay() {
    let desk = desk();
    symlink("new.png", desk.path("to-new")).unwrap();
    symlink("old.png", desk.path("to-old")).unwrap();
    let owner = fs::metadata(desk.path("image.png")).unwrap().uid();
    for line in WRITERS {
        fs::write(desk.path("old.png"), "old").unwrap();
        fs::set_permissions(desk.path("old.png"), fs::Permissions::from_mode(0o640)).unwrap();
        let other = if owner == 0 { 12345 } else { owner };
        chown(desk.path("old.png"), Some(other), None).unwrap();
        for link in ["to-new", "to-old"] {
            desk.ok_or_said(&[words(line), vec!["-o", link]].concat());
            assert!(fs::symlink_metadata(desk.path(link)).unwrap().is_symlink(), "{line}: {link}");
        }
        let found = fs::metadata(desk.path("old.png")).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o640, other), "{line}");
        let (new, old) = (fs::read(desk.path("new.png")).unwrap(), fs::read(desk.path("old.png")).unwrap());
        assert!(new == old && old.len() > 50, "{line}");
        fs::remove_file(desk.path("new.png")).unwrap();
    }
}

#[test]
fn a_model_is_not_packed_onto_itself() {
    let desk = Desk::new();
    copy_tiny(&desk.path("model"), |_| {});
    symlink("model/decoder.onnx", desk.path("link")).unwrap();
    fs::hard_link(desk.path("model/transformer.onnx"), desk.path("hard")).unwrap();
    let read = || names(&desk.path("model")).iter().map(|n| fs::read(desk.path("model").join(n)).unwrap()).collect();
    let before: Vec<Vec<u8>> = read();
    for output in ["model/bundle.json", "model/encoder.onnx", "link", "hard"] {
        let said = desk.fails(2, &["pack", "model", "-o", output]);
        assert!(said.contains(output) && said.contains("another file"), "{said}");
    }
    assert!(read() == before);
    desk.ok(&["pack", "model", "-o", "model/packed.maskgit"]);
}

#[test]
fn an_input_is_not_written_over_unasked() {
    let desk = desk();
    symlink("image.png", desk.path("link.png")).unwrap();
    fs::copy(desk.path("image.png"), desk.path("image-001.png")).unwrap();
    let before = fs::read(desk.path("image.png")).unwrap();
    for line in [
        "edit --image image.png --box 0,0,4,4 --class warm -o image.png",
        "edit --image image.png --box 0,0,4,4 --class warm -o link.png",
        "edit --image link.png --mask image.png --class warm -o ./image.png",
        "edit --image image-001.png --box 0,0,4,4 --class warm --count 3 -o image.png",
        "outpaint --image image.png --left 8 --class warm -o image.png",
        "vary --image image.png --strength 0.5 --class warm -o image.png",
        "reconstruct --image image.png -o image.png",
        "reproduce image.png -o image.png",
        "run --graph decoder --tokens tokens -o tokens",
    ] {
        let said = desk.fails(2, &words(line));
        assert!(said.contains("--overwrite"), "{line}: {said}");
        assert!(fs::read(desk.path("image.png")).unwrap() == before, "{line}");
    }
    desk.ok(&words("edit --image image.png --box 0,0,4,4 --class cool -o image.png --overwrite"));
    assert!(fs::read(desk.path("image.png")).unwrap() != before);
}

#[test]
fn more_results_than_open_files() {
    let desk = Desk::new();
    let command = desk.command(&["generate", "--class", "warm", "--count", "100", "--steps", "2", "-o", "a.png"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 40; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    limited.current_dir(desk.path("")).env("MASKGIT_MODEL", TINY);
    assert!(limited.status().unwrap().success());
    assert_eq!(desk.names().len(), 100);
}

/// The system stops a program with a signal, or it makes the write fail; no part of the file stays.
#[test]
fn a_file_above_the_limit_leaves_nothing() {
    let desk = Desk::new();
    for (args, shell) in [(vec!["pack", TINY, "-o", "out"], "ulimit -f 2"), (vec!["man", "-o", "pages"], "ulimit -f 0")]
    {
        let command = desk.command(&args);
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("{shell}; exec \"$@\"")).arg("sh");
        limited.arg(command.get_program()).args(command.get_args()).current_dir(desk.path(""));
        let output = limited.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("cannot write") && said.contains("too large"), "{said}");
        assert!(names(&desk.path("")).iter().all(|name| name == "pages"), "{:?}", desk.names());
    }
    assert!(names(&desk.path("pages")).is_empty());
}

/// Of a pipe or file that is not the standard output, a reader that went is a failure.
#[test]
fn a_reader_that_went() {
    let desk = Desk::new();
    mkfifo(&desk, "fifo");
    // Larger than a pipe holds.
    let model = crate::common::root("models/avatars-64-int8");
    let model = model.to_str().unwrap();
    let fifo = desk.path("fifo");
    let reader = std::thread::spawn(move || {
        use std::io::Read;
        let mut first = [0; 8];
        fs::File::open(fifo).unwrap().read_exact(&mut first).unwrap();
        first
    });
    let said = desk.fails(1, &["pack", model, "-o", "fifo"]);
    assert!(said.contains("fifo"), "{said}");
    assert_eq!(&reader.join().unwrap(), b"MASKGIT1");

    let mut command = desk.command(&["pack", model, "-o", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// On Linux a file's name is any bytes.
#[cfg(target_os = "linux")]
#[test]
fn reproduce_finds_names_that_are_not_text() {
    use std::os::unix::ffi::OsStrExt;
    let desk = desk();
    let named = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let (image, mask) = (named(b"caf\xe9.png"), named(b"m\xff.png"));
    fs::copy(desk.path("image.png"), desk.folder().join(&image)).unwrap();
    // One that reads alike, and is another.
    desk.ok(&["generate", "--class", "cool", "-o", "other.png"]);
    fs::copy(desk.path("other.png"), desk.folder().join(named(b"caf\xe8.png"))).unwrap();
    fs::copy(desk.path("other.png"), desk.folder().join(&mask)).unwrap();
    let mut command = desk.command(&["edit", "--class", "warm", "-o", "edited.png", "--box", "0,0,4,4", "--image"]);
    command.arg(&image).args(["--mask-from", "luma"]);
    assert!(command.arg("--mask").arg(&mask).status().unwrap().success());
    assert!(desk.ok(&["reproduce", "edited.png"]).contains("the same tokens, the same pixels"));
    fs::remove_file(desk.folder().join(&image)).unwrap();
    assert!(desk.fails(1, &["reproduce", "edited.png"]).contains("--image"));
}

#[test]
fn reproduce_finds_parameters_after_the_pixels() {
    let desk = desk();
    let bytes = fs::read(desk.path("image.png")).unwrap();
    let (mut head, mut text, mut tail) = (PNG.to_vec(), Vec::new(), Vec::new());
    let mut rest = &bytes[PNG.len()..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize + 12;
        let (chunk, after) = rest.split_at(length);
        match &chunk[4..8] {
            b"iTXt" => text.extend(chunk),
            b"IEND" => tail.extend(chunk),
            _ => head.extend(chunk),
        }
        rest = after;
    }
    assert!(!text.is_empty());
    fs::write(desk.path("moved.png"), [head, text, tail].concat()).unwrap();
    assert!(desk.ok(&["reproduce", "moved.png"]).contains("the same tokens, the same pixels"));
}
