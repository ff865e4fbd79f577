//! Finding the model when none is named.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use maskgit::{Bundle, Error, find_label};

/// The environment variable that names a model.
const VARIABLE: &str = "MASKGIT_MODEL";
/// The model that ships with the repository.
const DEFAULT: &str = "models/avatars-128-int8";
/// The same where the program is installed, under the prefix.
const INSTALLED: &str = "share/maskgit/models/avatars-128-int8";
/// Folders above the program's that are searched: enough for `target/TRIPLE/release/` in the repository.
const PARENTS: usize = 3;

/// The model to use: the one given, else the one in the environment, else the first default that is there.
pub fn find(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_path_buf());
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(path);
        if !path.exists() {
            bail!("{VARIABLE} names {}, which does not exist", path.display());
        }
        return Ok(path);
    }
    let places = places(std::env::current_exe().ok().as_deref());
    match places.iter().find(|place| place.exists()) {
        Some(place) => Ok(place.clone()),
        None => {
            let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            bail!("no model found: give one with --model or {VARIABLE}; looked at {}", places.join(", "))
        }
    }
}

/// The error of a request to the model at `path`; where the class is the fault, with what helps: the command that lists
/// the classes, and a model beside this one that has it.
pub fn with_hint(error: Error, class: Option<&str>, path: &Path) -> anyhow::Error {
    let Some(class) = class else { return error.into() };
    let knows = |path: &Path| Bundle::open(path).is_ok_and(|bundle| find_label(bundle.manifest(), class).is_ok());
    if knows(path) {
        return error.into();
    }
    let beside = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut others: Vec<PathBuf> = beside.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    others.sort();
    let hint = match others.iter().find(|other| other.as_path() != path && knows(other)) {
        Some(other) => format!("the model {} has it (--model)", other.display()),
        None => "maskgit info --labels lists them".into(),
    };
    Error::new(error.kind(), format!("{error}; {hint}")).into()
}

/// Where a default model may be, most likely first.
fn places(program: Option<&Path>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    // The program may have been started through a link.
    let program = program.map(|p| p.canonicalize().unwrap_or_else(|_| p.to_path_buf()));
    for folder in program.iter().flat_map(|p| p.ancestors().skip(1).take(1 + PARENTS)) {
        places.push(folder.join(DEFAULT));
        places.push(folder.join(INSTALLED));
    }
    places.push(PathBuf::from(DEFAULT));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_in_a_repository_and_under_a_prefix() {
        let found = places(Some(Path::new("/nowhere/repo/target/release/maskgit")));
        assert!(found.contains(&PathBuf::from("/nowhere/repo/models/avatars-128-int8")), "{found:?}");
        assert_eq!(found.first(), Some(&PathBuf::from("/nowhere/repo/target/release/models/avatars-128-int8")));
        assert_eq!(found.last(), Some(&PathBuf::from("models/avatars-128-int8")));
        let found = places(Some(Path::new("/nowhere/prefix/bin/maskgit")));
        assert!(found.contains(&PathBuf::from("/nowhere/prefix/share/maskgit/models/avatars-128-int8")), "{found:?}");
        assert_eq!(places(None), [PathBuf::from("models/avatars-128-int8")]);
    }
}
