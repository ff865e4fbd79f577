//! Files that appear whole or not at all.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};

/// Links in a chain that are followed, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The temporary files that there are, for [`remove_temporaries`].
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that will appear under its name, replacing what is there, when it is committed; dropped, it leaves nothing.
///
/// It is written beside its final place, so committing is one rename. A link is followed: what it names is replaced,
/// not the link, whether it is there already or not. What is replaced hands on its mode and its owner.
///
/// A device, a pipe and an open file of this process (`/dev/stdout`) cannot be replaced by a rename: they are written
/// to when the file is committed. So is a file whose owner a new one could not have, and one in a folder that takes no
/// new files.
pub struct PendingFile {
    /// As the caller named it.
    shown: String,
    contents: Contents,
}

enum Contents {
    /// What it will replace, links followed.
    Temporary(Temporary, PathBuf),
    /// For what cannot be replaced.
    Held(Vec<u8>, Place),
}

/// What is written to instead of being replaced.
enum Place {
    Stdout,
    Stderr,
    /// An open file by its number, which may have contents that stay.
    Descriptor(PathBuf),
    Path(PathBuf),
}

impl PendingFile {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io) when `path` is a folder, its folder does not exist, or nothing can be written
    /// there.
    pub fn create(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        match Self::begin(path) {
            Ok(contents) => Ok(Self { shown, contents }),
            Err(error) => Err(cannot_write(&shown, error)),
        }
    }

    /// A file for the standard output, which gets it all at once when it is committed.
    pub fn stdout() -> Self {
        Self { shown: "the standard output".into(), contents: Contents::Held(Vec::new(), Place::Stdout) }
    }

    /// Whether it goes to the standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.contents, Contents::Held(_, Place::Stdout))
    }

    fn begin(path: &Path) -> io::Result<Contents> {
        let held = |place| Ok(Contents::Held(Vec::new(), place));
        let target = match followed(path)? {
            Place::Path(target) => target,
            open => return held(open),
        };
        let old = match fs::metadata(&target) {
            Ok(found) if found.is_dir() => return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder")),
            Ok(found) if !found.is_file() => return held(Place::Path(target)),
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let file = match Temporary::beside(&target) {
            Ok(file) => file,
            // The folder takes no new files, but the file may be written.
            Err(error) if old.is_some() && error.kind() == io::ErrorKind::PermissionDenied => {
                return match File::options().write(true).open(&target) {
                    Ok(_) => held(Place::Path(target)),
                    Err(_) => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        match old {
            Some(old) if !inherit(file.file.as_file(), &old)? => held(Place::Path(target)),
            _ => Ok(Contents::Temporary(file, target)),
        }
    }

    /// Adds to the file.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io).
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.contents {
            Contents::Temporary(file, _) => file.file.write_all(bytes),
            // Exactly: a whole file comes at once, or parts that are large.
            Contents::Held(held, _) => match crate::memory::reserve(held, bytes.len()) {
                Ok(()) => {
                    held.extend_from_slice(bytes);
                    Ok(())
                }
                Err(_) => Err(io::ErrorKind::OutOfMemory.into()),
            },
        }
        .map_err(|e| cannot_write(&self.shown, e))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    ///
    /// Kind [`Io`](crate::ErrorKind::Io).
    pub fn commit(self) -> Result<()> {
        match self.contents {
            Contents::Temporary(temporary, target) => temporary.persist(&target),
            Contents::Held(bytes, place) => place.open().and_then(|mut file| file.write_all(&bytes)),
        }
        .map_err(|e| cannot_write(&self.shown, e))
    }
}

fn cannot_write(shown: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write {shown}")).with_source(error)
}

impl Place {
    /// Opens it for writing. A pipe that nobody reads makes this wait.
    fn open(&self) -> io::Result<File> {
        match self {
            // Of what the process has open, the very file: opening its name again would begin at its first byte.
            #[cfg(unix)]
            Self::Stdout => Ok(File::from(std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?)),
            #[cfg(unix)]
            Self::Stderr => Ok(File::from(std::os::fd::AsFd::as_fd(&io::stderr()).try_clone_to_owned()?)),
            #[cfg(windows)]
            Self::Stdout => {
                Ok(File::from(std::os::windows::io::AsHandle::as_handle(&io::stdout()).try_clone_to_owned()?))
            }
            #[cfg(windows)]
            Self::Stderr => {
                Ok(File::from(std::os::windows::io::AsHandle::as_handle(&io::stderr()).try_clone_to_owned()?))
            }
            Self::Descriptor(path) => File::options().append(true).open(path),
            // A device has nothing to cut off, and ignores this.
            Self::Path(path) => File::options().write(true).truncate(true).open(path),
        }
    }
}

/// What a path names, links followed. The last link may name what is not there yet.
fn followed(path: &Path) -> io::Result<Place> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        if let Some(open) = descriptor(&path) {
            return Ok(open);
        }
        match fs::read_link(&path) {
            // Joining an absolute path gives that path.
            Ok(link) => path = folder_of(&path).join(link),
            Err(_) => return Ok(Place::Path(path)),
        }
    }
    Err(io::Error::other("too many links name each other"))
}

/// The open file that `/proc/self/fd/1`, `/dev/fd/1` or the like names.
fn descriptor(path: &Path) -> Option<Place> {
    let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
    let folder = fs::canonicalize(folder_of(path)).ok()?;
    let of_a_process = folder.starts_with("/proc") && folder.ends_with("fd");
    if !of_a_process && folder != Path::new("/dev/fd") {
        return None;
    }
    let ours = !of_a_process || folder == Path::new("/proc").join(std::process::id().to_string()).join("fd");
    Some(match number {
        1 if ours => Place::Stdout,
        2 if ours => Place::Stderr,
        _ => Place::Descriptor(path.to_path_buf()),
    })
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Gives a new file the owner and the mode of the one that it will replace; false where it cannot have that owner.
#[cfg(unix)]
fn inherit(file: &File, old: &Metadata) -> io::Result<bool> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) && fchown(file, Some(old.uid()), Some(old.gid())).is_err() {
        return Ok(false);
    }
    file.set_permissions(old.permissions())?;
    Ok(true)
}

#[cfg(not(unix))]
fn inherit(_: &File, _: &Metadata) -> io::Result<bool> {
    Ok(true)
}

/// A file that is removed when it is dropped, and by [`remove_temporaries`].
struct Temporary {
    file: NamedTempFile,
    /// After the file: it leaves the list when it is gone.
    listed: Listed,
}

impl Temporary {
    /// A new file in the folder of another.
    fn beside(target: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".maskgit-");
        // Temporary files are private by default; a result has the permissions of any new file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        // The list is held until the file is on it: it is never there without being listed.
        let mut list = temporaries();
        list.try_reserve(1).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let file = builder.tempfile_in(folder_of(target))?;
        let listed = Listed(file.path().to_path_buf());
        list.push(listed.0.clone());
        Ok(Self { file, listed })
    }

    /// Gives it its final name. Where that fails it is removed.
    fn persist(self, target: &Path) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let done = self.file.persist(target).map(drop).map_err(|e| e.error);
        drop(self.listed);
        done
    }
}

/// A place on the list of temporary files.
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        temporaries().retain(|path| *path != self.0);
    }
}

fn temporaries() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a process that is about to end without dropping what it has: removes the temporary files of all pending ones.
/// Whoever begins or commits a file after this waits for the end. Takes no memory, and a fifth of a second at most.
pub fn remove_temporaries() {
    for _ in 0..20 {
        let list = match TEMPORARIES.try_lock() {
            Ok(list) => list,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        for path in list.iter() {
            // One that was committed meanwhile has another name.
            let _ = fs::remove_file(path);
        }
        std::mem::forget(list);
        return;
    }
}

/// Whether two paths name one file, through links of any kind. False where one of them names none.
pub fn is_same(a: &Path, b: &Path) -> bool {
    let (Ok(first), Ok(second)) = (fs::metadata(a), fs::metadata(b)) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (first.dev(), first.ino()) == (second.dev(), second.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = (first, second);
        matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
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

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_what_is_not_there_yet_and_not_for_ever() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).expect("a folder");
        symlink("b", at("a")).expect("a link");
        symlink("sub/c", at("b")).expect("a link");
        write_file(&at("a"), b"new").expect("written");
        assert_eq!(fs::read(at("sub/c")).expect("there"), b"new");
        assert!(["a", "b"].iter().all(|name| fs::symlink_metadata(at(name)).expect("there").is_symlink()));
        symlink("round", at("round")).expect("a link");
        assert!(write_file(&at("round"), b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_replaced_hands_on_its_mode() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        for mode in [0o600, 0o640, 0o664, 0o755] {
            fs::write(&path, "old").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            write_file(&path, b"new").expect("written");
            assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, mode);
        }
    }

    #[test]
    fn folders_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path(), &folder.path().join("none").join("a")] {
            assert_eq!(write_file(path, b"x").expect_err("no file").kind(), ErrorKind::Io, "{}", path.display());
        }
    }
}
