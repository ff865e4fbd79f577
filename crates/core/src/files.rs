//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};

/// A file that will appear under its name, replacing what is there, when it is committed; dropped, it leaves nothing.
///
/// It is written beside its final place, so committing is one rename. A link is followed: what it names is replaced,
/// not the link. A device or a pipe cannot be replaced by a rename: it is written to when the file is committed.
pub struct PendingFile {
    /// As the caller named it.
    shown: PathBuf,
    /// Where it goes, links followed.
    target: PathBuf,
    contents: Contents,
}

enum Contents {
    Temporary(NamedTempFile),
    /// For what cannot be replaced.
    Held(Vec<u8>),
}

impl PendingFile {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io) when `path` is a folder, its folder does not exist, or nothing can be written
    /// there.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = |e| Error::io(format!("cannot write {}", path.display()), e);
        let shown = path.to_path_buf();
        let target = fs::canonicalize(path).unwrap_or_else(|_| shown.clone());
        match fs::metadata(&target) {
            Ok(found) if found.is_dir() => {
                return Err(Error::new(ErrorKind::Io, format!("cannot write {}: it is a folder", path.display())));
            }
            Ok(found) if !found.is_file() => {
                return Ok(Self { shown, target, contents: Contents::Held(Vec::new()) });
            }
            _ => {}
        }
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".maskgit-");
        // Temporary files are private by default; a result has the permissions of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(failed)?;
        Ok(Self { shown, target, contents: Contents::Temporary(file) })
    }

    /// Adds to the file.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io).
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.contents {
            Contents::Temporary(file) => file.write_all(bytes),
            Contents::Held(held) => match held.try_reserve(bytes.len()) {
                Ok(()) => {
                    held.extend_from_slice(bytes);
                    Ok(())
                }
                Err(_) => Err(io::ErrorKind::OutOfMemory.into()),
            },
        }
        .map_err(|e| Error::io(format!("cannot write {}", self.shown.display()), e))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io).
    pub fn commit(self) -> Result<()> {
        let failed = |e| Error::io(format!("cannot write {}", self.shown.display()), e);
        match self.contents {
            Contents::Temporary(file) => {
                file.as_file().sync_all().map_err(failed)?;
                file.persist(&self.target).map(drop).map_err(|e| failed(e.error))
            }
            Contents::Held(bytes) => {
                File::options().write(true).open(&self.target).and_then(|mut f| f.write_all(&bytes)).map_err(failed)
            }
        }
    }
}

/// Writes a file that appears whole or not at all, replacing what is there.
///
/// # Errors
///
/// As [`PendingFile::create`] and [`PendingFile::commit`].
pub fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let mut file = PendingFile::create(path)?;
    file.write(contents)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_committed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        let mut file = PendingFile::create(&path).expect("a file");
        file.write(b"one ").expect("written");
        assert!(!path.exists());
        file.write(b"two").expect("written");
        file.commit().expect("committed");
        assert_eq!(fs::read(&path).expect("there"), b"one two");
        let mut dropped = PendingFile::create(&path).expect("a file");
        dropped.write(b"three").expect("written");
        drop(dropped);
        assert_eq!(fs::read(&path).expect("there"), b"one two");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("a.txt"), folder.path().join("link"));
        fs::write(&path, "old").expect("written");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        write_file(&link, b"new").expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"new");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink(), "the link stays");
    }

    #[test]
    fn folders_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path(), &folder.path().join("none").join("a")] {
            assert_eq!(write_file(path, b"x").expect_err("no file").kind(), ErrorKind::Io, "{}", path.display());
        }
    }
}
