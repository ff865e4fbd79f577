//! The command and `--device` where there is no GPU, and against a stand-in for the driver, which runs the kernels on
//! the CPU: it is what a machine with a GPU has, or lacks one thing that such a machine needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::program::program;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A folder with a libcuda.so.1, which is NVRTC too, for a precision.
fn stand_in(fp16: bool) -> &'static Path {
    static FOLDERS: [OnceLock<TempDir>; 2] = [const { OnceLock::new() }; 2];
    let folder = FOLDERS[usize::from(fp16)].get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let status = Command::new(&compiler)
            .args(["-std=c++17", "-O2", "-ffp-contract=off", "-Wno-unused-function", "-shared", "-fPIC", "-pthread"])
            .arg(format!("-DFP16={}", u8::from(fp16)))
            .arg(Path::new(ROOT).join("crates/engine/tests/unit/cuda/emulator/driver.cpp"))
            .arg("-o")
            .arg(folder.path().join("libcuda.so.1"))
            .status()
            .unwrap();
        assert!(status.success(), "{compiler} cannot compile the stand-in");
        folder
    });
    folder.path()
}

/// Runs the command with nothing of NVIDIA's but the stand-in, whose fault is `wrong`.
fn run(args: &[&str], fp16: bool, wrong: &str) -> Output {
    let folder = stand_in(fp16);
    let mut command = program(env!("CARGO_BIN_EXE_maskgit").as_ref());
    command.args(args).current_dir(ROOT).env("LD_LIBRARY_PATH", folder).env("MASKGIT_FAKE_GPU", wrong);
    if wrong != "nvrtc" {
        command.env("MASKGIT_NVRTC", folder.join("libcuda.so.1"));
    } else {
        command.env("MASKGIT_NVRTC", folder.join("nothing.so"));
    }
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn out(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

const TINY: &str = "tests/data/tiny";

/// One line that says what is missing, status 1, no panic.
#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = out(&folder, "a.png");
    let file = file.to_str().unwrap();
    let cases = [
        ("old", "cuda", "driver is too old: it knows CUDA 11.4"),
        ("none", "cuda", "the driver finds no GPU"),
        ("weak", "cuda", "compute capability is 5.3; it must be 7.5"),
        ("nvrtc", "cuda", "cannot load NVRTC from"),
        ("memory", "cuda", "out of memory"),
        ("kernels", "cuda", "NVRTC 12.4 cannot compile the kernels for compute capability 8.7"),
        ("", "cuda:1", "there is no GPU cuda:1: there is cuda:0 only"),
    ];
    for (wrong, device, text) in cases {
        let output = run(&["generate", "--model", TINY, "--class", "0", "--device", device, "-o", file], false, wrong);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{wrong}: {said}");
        assert!(said.lines().count() == 1 && said.starts_with("maskgit: ") && said.contains(text), "{wrong}: {said}");
        assert!(!Path::new(file).exists(), "{wrong}");
        if device != "cuda" {
            continue;
        }
        // `auto` says the same, and draws.
        let output = run(&["generate", "--model", TINY, "--class", "0", "--device", "auto", "-o", file], false, wrong);
        let said = stderr(&output);
        assert!(output.status.success(), "{wrong}: {said}");
        assert!(said.lines().count() == 1 && said.starts_with("maskgit: running on the CPU: "), "{wrong}: {said}");
        assert!(said.contains(text), "{wrong}: {said}");
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn devices_are_listed() {
    let listed = |wrong: &str| String::from_utf8(run(&["info", "--devices"], false, wrong).stdout).unwrap();
    let text = listed("");
    assert!(text.starts_with("cpu "), "{text}");
    assert!(
        text.contains(
            "cuda:0       Stand-in, compute capability 8.7, 8 multiprocessors, 8.0 GB shared with the processor\n"
        ),
        "{text}"
    );
    assert!(listed("weak").contains("not usable: its compute capability is 5.3"));
    assert!(listed("old").contains("not usable: NVIDIA's driver is too old"));
    assert!(listed("nvrtc").contains("not usable: cannot load NVRTC"));
}

/// Whole images through the driver's interface: the tokens of the CPU.
#[test]
fn the_command_draws_on_the_stand_in() {
    let folder = tempfile::tempdir().unwrap();
    for model in [TINY, "tests/data/small/google"] {
        let report = |device: &str| {
            let file = out(&folder, "a.png");
            let args = ["generate", "--model", model, "--class", "1", "--seed", "3", "--count", "2", "--guidance", "0"];
            let rest = ["--device", device, "--json", "-o", file.to_str().unwrap()];
            let output = run(&[args.as_slice(), rest.as_slice()].concat(), false, "");
            assert!(output.status.success() && output.stderr.is_empty(), "{model}, {device}: {}", stderr(&output));
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            report["images"].as_array().unwrap().iter().map(|i| i["tokens_sha256"].clone()).collect::<Vec<_>>()
        };
        let cpu = report("cpu");
        assert!(cpu.iter().all(|sha| sha.is_string()), "{cpu:?}");
        assert_eq!(report("cuda"), cpu, "{model}");
        assert_eq!(report("auto"), cpu, "{model}");
    }
}

/// int8 weights go to fp16.
#[test]
fn an_int8_bundle_runs_on_the_stand_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = out(&folder, "tokens");
    std::fs::write(&file, (0..256).flat_map(|i: i64| (i * 7 % 512).to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let decoded = |device: &str| {
        let to = out(&folder, device);
        let args = ["run", "--model", "models/avatars-64-int8", "--graph", "decoder", "--device", device, "--tokens"];
        let rest = [file.to_str().unwrap(), "-o", to.to_str().unwrap()];
        let output = run(&[args.as_slice(), rest.as_slice()].concat(), true, "");
        assert!(output.status.success(), "{}", stderr(&output));
        let bytes = std::fs::read(to).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>()
    };
    let (cpu, gpu) = (decoded("cpu"), decoded("cuda"));
    let worst = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(cpu.len() == gpu.len() && worst < 0.1, "{worst}");
}

/// Without the stand-in, and without a GPU, the real search for the driver fails as it should.
#[test]
fn a_machine_without_a_driver_says_so() {
    let listed = Command::new(env!("CARGO_BIN_EXE_maskgit")).args(["info", "--devices", "--json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let problem = listed["devices"][1]["problem"].as_str();
    let output = Command::new(env!("CARGO_BIN_EXE_maskgit"))
        .args(["run", "--model", TINY, "--graph", "decoder", "--device", "cuda", "--tokens", "nothing", "-o", "x"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    match problem {
        Some(problem) => assert!(said.contains(problem), "{said}, {problem}"),
        // There is a GPU: then it is the file that is missing.
        None => assert!(said.contains("nothing"), "{said}"),
    }
}
