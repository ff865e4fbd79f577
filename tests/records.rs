//! Images that version 0.1.0 of the command wrote are drawn again: the same tokens and the same pixels.

use std::fs;

use serde_json::Value;

use crate::common::root;
use crate::program::program;

fn reproduces(names: &[&str], model: &str) {
    // The test reads what it needs in a folder of its own: the images that were edited stand beside the results.
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for entry in fs::read_dir(root("tests/data/records")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        count += 1;
    }
    assert!(count > names.len());
    for name in names {
        let output = program(env!("CARGO_BIN_EXE_maskgit").as_ref())
            .current_dir(folder.path())
            .args(["reproduce", &format!("{name}.png"), "--json", "--model"])
            .arg(root(model))
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["same_tokens"], true, "{name}");
        // Pixels of the fp32 layers of a decoder are promised per kind of processor.
        assert!(report["same_pixels"] == true || !cfg!(target_arch = "x86_64"), "{name}");
    }
}

#[test]
fn generated_and_edited_by_avatars_64() {
    let names = ["generate", "sheet", "edit", "outpaint", "vary", "reconstruct", "windows", "windows-feather"];
    reproduces(&names, "models/avatars-64-int8");
}

#[test]
fn corrected_by_avatars_128() {
    reproduces(&["corrected"], "models/avatars-128-int8");
}
