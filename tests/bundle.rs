//! Bundles whose manifests are right in themselves; what is wrong in a manifest alone is tested in crates/bundle.

use std::path::Path;

use maskgit::Generator;
use serde_json::{Value, json};

use crate::common::{TINY, copy_tiny};

/// Manifests whose graphs are not what they promise.
#[test]
fn graphs_that_do_not_fit_the_manifest_are_errors() {
    let manifest: Value = serde_json::from_slice(&std::fs::read(Path::new(TINY).join("bundle.json")).unwrap()).unwrap();
    let entry = |name: &str| manifest["graphs"][name].clone();
    type Case<'a> = (&'a str, &'a [(&'a str, Value)], &'a str);
    let cases: [Case<'_>; 6] = [
        ("as it is", &[], ""),
        (
            "fewer codes",
            &[("/codes", json!(7))],
            "output \"logits\" has the shape [batch, 16, 8]; it must be [1, 16, 7]",
        ),
        ("more tokens", &[("/grid/cols", json!(8))], "input \"tokens\" has the shape [batch, 16]; it must be [1, 32]"),
        (
            "larger",
            &[("/image/width", json!(32))],
            "output \"image\" has the shape [batch, 3, 16, 16]; it must be [1, 3, 16, 32]",
        ),
        (
            "no label",
            &[("/graphs/transformer", entry("decoder")), ("/graphs/decoder", entry("transformer"))],
            "the graph has the inputs \"tokens\", \"label\"; it must have exactly \"tokens\"",
        ),
        (
            "swapped",
            &[("/graphs/encoder", entry("decoder")), ("/graphs/decoder", entry("encoder"))],
            "has no input \"tokens\"",
        ),
    ];
    let mut failures = Vec::new();
    for (case, edits, want) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy_tiny(dir.path(), |m| {
            for (pointer, value) in edits {
                *m.pointer_mut(pointer).unwrap() = value.clone();
            }
        });
        match Generator::builder().threads(1).open(dir.path()).map(|_| ()) {
            Ok(()) if edits.is_empty() => {}
            // Which kind the pipeline gives is its business; what it says is the user's.
            Err(e) if !edits.is_empty() && e.to_string().contains(want) => {}
            Ok(()) => failures.push(format!("{case}: accepted")),
            Err(e) => failures.push(format!("{case}: {e}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
