//! Who may use whom (ARCHITECTURE.md), by the crates' Cargo.toml and by what the folders of src/ name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::common::root;

/// What a crate may use of the others, and what its tests may use besides.
const CRATES: [(&str, &[&str], &[&str]); 7] = [
    ("core", &[], &[]),
    ("kernels", &["core"], &[]),
    ("sample", &["core"], &[]),
    ("geometry", &["core"], &[]),
    ("bundle", &["core"], &[]),
    ("engine", &["core", "kernels"], &["bundle", "sample"]),
    ("image", &["core", "geometry"], &[]),
];

/// The workspace's crates that each section of a manifest names, by the section. `maskgit` itself is the empty name.
fn used(manifest: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(manifest).unwrap_or_else(|e| panic!("{}: {e}", manifest.display()));
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
            // [dependencies.maskgit-core] is another way to say it.
            if let Some((of, name)) = section.rsplit_once('.')
                && of.ends_with("dependencies")
                && let Some(name) = own(name)
            {
                found.entry(of.to_owned()).or_default().insert(name);
            }
        } else if section.ends_with("dependencies")
            && let Some((key, value)) = line.split_once('=')
        {
            let key = key.trim();
            let key = key.strip_suffix(".workspace").unwrap_or(key);
            let renamed = value.split('"').collect::<Vec<_>>();
            let renamed = renamed.iter().find(|part| part.starts_with("maskgit")).and_then(|part| own(part));
            found.entry(section.clone()).or_default().extend(own(key).into_iter().chain(renamed));
        }
    }
    found
}

/// A crate of the workspace by its package's name.
fn own(package: &str) -> Option<String> {
    match package.trim_matches('"') {
        "maskgit" => Some(String::new()),
        name => name.strip_prefix("maskgit-").map(str::to_owned),
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn crates_use_only_those_below_them() {
    let folders: BTreeSet<String> = fs::read_dir(root("crates"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, names(&CRATES.map(|(name, ..)| name)), "a crate without a place in the layers");
    for (name, allowed, in_tests) in CRATES {
        let manifest = root("crates").join(name).join("Cargo.toml");
        for (section, used) in used(&manifest) {
            let mut allowed = names(allowed);
            if section.ends_with("dev-dependencies") {
                allowed.extend(names(in_tests));
            }
            assert!(used.is_subset(&allowed), "{name}, [{section}]: {used:?}; it may use {allowed:?}");
        }
    }
    let uses = used(&root("Cargo.toml"));
    assert_eq!(uses["dependencies"], folders, "maskgit uses them all");
}

/// The lines of code in a folder that name one of these words.
fn naming(folder: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root(folder)];
    let mut lines = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                for line in fs::read_to_string(&path).unwrap().lines() {
                    let code = line.split("//").next().unwrap_or_default();
                    let named =
                        code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| words.contains(&word));
                    if named {
                        found.push(format!("{}: {}", path.display(), code.trim()));
                    }
                    lines += 1;
                }
            }
        }
    }
    assert!(lines > 100, "{folder} is somewhere else");
    found
}

/// Both faces are written against the pipeline; it knows of neither, and they do not know of each other.
#[test]
fn faces_do_not_know_each_other() {
    // What the command is made of.
    const COMMAND: [&str; 5] = ["anyhow", "clap", "ctrlc", "indicatif", "bin"];
    const ESCAPES: [&str; 1] = ["include"];
    for (folder, words) in [
        ("src/pipeline", [&COMMAND[..], &["capi"], &ESCAPES].concat()),
        ("src/capi", [&COMMAND[..], &ESCAPES].concat()),
        ("src/bin", [&["capi", "maskgit_engine", "maskgit_sample"][..], &ESCAPES].concat()),
    ] {
        let found = naming(folder, &words);
        assert!(found.is_empty(), "{folder}:\n{}", found.join("\n"));
    }
    let direct: Vec<String> = naming("src", &["path"]).into_iter().filter(|line| line.contains("#[path")).collect();
    assert!(direct.is_empty(), "a module from elsewhere:\n{}", direct.join("\n"));
    // The check sees what it looks for.
    assert!(!naming("src/bin", &["clap"]).is_empty() && !naming("src/capi", &["pipeline"]).is_empty());
}

/// The pipeline's own code reaches the rest of the library through its crates only.
#[test]
fn the_pipeline_stands_on_the_crates() {
    let upward = naming("src/pipeline", &["crate"]);
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}
