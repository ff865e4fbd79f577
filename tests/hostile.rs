//! Every seed of the fuzz targets, what once failed among them: each is an error or not, but no panic and no hang.
//! `make fuzz` goes on from them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use maskgit::{Bundle, ErrorKind, Result};

use crate::common::{emulated, root};

// The same doors that the fuzzer goes through.
#[path = "../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

/// All seeds together take less than a second.
const LONG: Duration = Duration::from_secs(20);

/// The largest seed, and all of them together, in bytes: git keeps every version for ever.
const MAX_SEED: u64 = 20_000;
const MAX_SEEDS: u64 = 300_000;

/// The files of a target's folder, by name.
fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = root("fuzz/seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn seeds_are_small_and_each_has_its_target() {
    let folders: BTreeSet<String> = fs::read_dir(root("fuzz/seeds"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect());
    let programs: BTreeSet<String> = fs::read_to_string(root("fuzz/Cargo.toml"))
        .unwrap()
        .lines()
        .filter_map(|line| Some(line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\"")?.to_owned()))
        .collect();
    assert_eq!(folders, programs);
    let mut total = 0;
    for (name, _) in TARGETS {
        assert!(seeds(name).len() >= 3, "{name}");
        for seed in seeds(name) {
            let bytes = fs::metadata(&seed).unwrap().len();
            assert!(bytes <= MAX_SEED, "{}: {bytes} bytes", seed.display());
            total += bytes;
        }
    }
    assert!(total <= MAX_SEEDS, "{total} bytes");
}

/// Each file in turn, on a thread, so that one that never ends is named.
#[test]
fn no_seed_panics_or_hangs() {
    let (tell, told) = channel();
    let worker = thread::spawn(move || {
        for (name, target) in TARGETS {
            for seed in seeds(name) {
                let bytes = fs::read(&seed).unwrap();
                tell.send(seed).unwrap();
                if let Err(error) = target(&bytes) {
                    let text = error.to_string();
                    assert!(!text.is_empty() && text.lines().count() == 1 && text.len() < 1000, "{name}: {text}");
                    assert_ne!(error.kind(), ErrorKind::Internal, "{name}: {text}");
                }
            }
        }
    });
    let end = Instant::now() + if emulated() { LONG * 30 } else { LONG };
    let mut last = None;
    loop {
        match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(seed) => last = Some(seed),
            Err(RecvTimeoutError::Timeout) => panic!("{last:?} has not ended after all seeds' {LONG:?}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(worker.join().is_ok(), "{last:?} panicked");
    assert_eq!(last, seeds("geometry").pop());
}

/// Bundles that once aborted, hung, or took all memory: each is refused by what is wrong with it, hashes and all.
#[test]
fn graphs_that_once_took_everything() {
    for (name, operator, what) in [
        ("abort-maxpool-kernel", "MaxPool", "kernel_shape has 1099511627776"),
        ("hang-layernorm-axis", "LayerNorm", "axis 2147483648 does not exist"),
        ("oom-gathernd-scalar-index", "GatherNd", "indices are a scalar"),
        ("oom-transpose-perm-2-2-1", "PermuteAxes", "perm [2, 2, 1] is no permutation"),
        ("range-1.5e9-over-limit", "Range", "1500000000 values"),
    ] {
        let path = root(&format!("fuzz/seeds/packed/{name}.maskgit"));
        let read: Result<_> = Bundle::open(&path).and_then(|bundle| maskgit::operators(&bundle));
        let error = read.err().unwrap_or_else(|| panic!("{name} was accepted")).to_string();
        assert!(error.contains(operator) && error.contains(what) && error.contains("decoder"), "{name}: {error}");
    }
}
