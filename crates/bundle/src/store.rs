//! Where a bundle's bytes are, and how they are read without trusting a declared length.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::{GraphFile, Manifest};
use super::packed::{HEADER_BYTES, Layout, manifest_length};
use super::validate::MAX_MANIFEST_BYTES;
use super::{GraphKind, MANIFEST_FILE};
use maskgit_core::{Error, Result, Source};

/// Where a bundle's graphs are.
pub(super) enum Store {
    Folder(PathBuf),
    PackedFile { path: PathBuf, layout: Layout },
    Memory { bytes: Arc<Cow<'static, [u8]>>, layout: Layout },
}

/// A store, the manifest's bytes, and the manifest.
type Opened = (Store, Vec<u8>, Manifest);

/// Whether `path` is a folder; an error when it is neither a folder nor a plain file.
pub(super) fn is_folder(path: &Path) -> Result<bool> {
    let meta = fs::metadata(path).map_err(|e| Error::io(format!("cannot open the model {}", path.display()), e))?;
    if !meta.is_dir() && !meta.is_file() {
        return Err(Error::bundle(format!("{} is neither a folder nor a file", path.display())));
    }
    Ok(meta.is_dir())
}

impl Store {
    /// Opens a folder.
    pub(super) fn folder(dir: &Path) -> Result<Opened> {
        let path = dir.join(MANIFEST_FILE);
        if !path.exists() {
            return Err(Error::bundle(format!("there is no {MANIFEST_FILE} in it")));
        }
        let (file, size) = open_file(&path, MANIFEST_FILE)?;
        // One byte over the limit is enough for `Manifest::parse` to see it.
        let limit = size.min(MAX_MANIFEST_BYTES as u64 + 1);
        let json = read_exactly(file, limit, MANIFEST_FILE)?;
        let manifest = Manifest::parse(&json)?;
        for (kind, graph) in manifest.graphs.iter() {
            let (_, size) = open_file(&dir.join(&graph.file), &format!("{}, the {kind} graph", graph.file))?;
            check_size(kind, graph, size)?;
        }
        Ok((Self::Folder(dir.to_owned()), json, manifest))
    }

    /// Opens one packed file.
    pub(super) fn packed_file(path: &Path) -> Result<Opened> {
        let (mut file, size) = open_file(path, "the packed file")?;
        let header: [u8; HEADER_BYTES] = read_exactly(&mut file, (HEADER_BYTES as u64).min(size), "the packed file")?
            .try_into()
            .map_err(|_| too_short())?;
        let length = manifest_length(&header)?;
        if size < (HEADER_BYTES as u64).saturating_add(length as u64) {
            return Err(too_short());
        }
        let json = read_exactly(&mut file, length as u64, "the packed manifest")?;
        let manifest = Manifest::parse(&json)?;
        let layout = Layout::new(&manifest, json.len());
        layout.check_total(size)?;
        for &(from, to) in layout.gaps() {
            file.seek(SeekFrom::Start(from)).map_err(|e| Error::io("cannot read the packed file", e))?;
            check_gap(&read_exactly(&mut file, to.saturating_sub(from), "the packed file")?)?;
        }
        Ok((Self::PackedFile { path: path.to_owned(), layout }, json, manifest))
    }

    /// Opens a packed file in memory.
    pub(super) fn memory(bytes: Cow<'static, [u8]>) -> Result<Opened> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(too_short)?;
        let length = manifest_length(header)?;
        let json = bytes.get(HEADER_BYTES..).and_then(|b| b.get(..length)).ok_or_else(too_short)?.to_vec();
        let manifest = Manifest::parse(&json)?;
        let layout = Layout::new(&manifest, json.len());
        layout.check_total(bytes.len() as u64)?;
        for &(from, to) in layout.gaps() {
            check_gap(slice(&bytes, from, to.saturating_sub(from))?)?;
        }
        Ok((Self::Memory { bytes: Arc::new(bytes), layout }, json, manifest))
    }

    /// Where one graph's bytes are; checks their number.
    pub(super) fn source(&self, kind: GraphKind, graph: &GraphFile) -> Result<Source> {
        let what = format!("{}, the {kind} graph", graph.file);
        let missing = || Error::internal(format!("no place for {what}"));
        match self {
            Self::Folder(dir) => {
                let (file, size) = open_file(&dir.join(&graph.file), &what)?;
                check_size(kind, graph, size)?;
                Ok(Source::file(file, 0, size))
            }
            Self::PackedFile { path, layout } => {
                let (start, length) = layout.part(kind).ok_or_else(missing)?;
                let (file, size) = open_file(path, "the packed file")?;
                layout.check_total(size)?;
                Ok(Source::file(file, start, length))
            }
            Self::Memory { bytes, layout } => {
                let (start, length) = layout.part(kind).ok_or_else(missing)?;
                slice(bytes, start, length)?;
                Source::part(Arc::clone(bytes), start as usize, length as usize)
            }
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) | Self::PackedFile { path, .. } => path.display().fmt(f),
            Self::Memory { .. } => f.write_str("the bundle in memory"),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({self})")
    }
}

fn too_short() -> Error {
    Error::bundle("the packed file is cut short: it ends before its manifest does")
}

fn check_size(kind: GraphKind, graph: &GraphFile, actual: u64) -> Result<()> {
    if actual == graph.bytes {
        return Ok(());
    }
    Err(Error::bundle(format!(
        "{}, the {kind} graph, has {actual} bytes; the manifest says {}",
        graph.file, graph.bytes
    )))
}

fn check_gap(gap: &[u8]) -> Result<()> {
    if gap.iter().all(|&b| b == 0) {
        return Ok(());
    }
    Err(Error::bundle("the packed file has something other than zeros between its graphs"))
}

fn slice(bytes: &[u8], start: u64, length: u64) -> Result<&[u8]> {
    let range = || {
        let start = usize::try_from(start).ok()?;
        bytes.get(start..)?.get(..usize::try_from(length).ok()?)
    };
    range().ok_or_else(too_short)
}

/// Opens a plain file and gives its size. A pipe or a device, which might never end, is an error.
fn open_file(path: &Path, what: &str) -> Result<(File, u64)> {
    let cannot = |e| Error::io(format!("cannot open {what}"), e);
    // Before opening: opening a pipe waits for a writer.
    if !fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(Error::bundle(format!("{what} is not a plain file")));
    }
    let file = File::open(path).map_err(cannot)?;
    let size = file.metadata().map_err(cannot)?.len();
    Ok((file, size))
}

/// Reads exactly `length` bytes, which the caller has compared with the file's size.
fn read_exactly(file: impl Read, length: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let capacity = usize::try_from(length).unwrap_or(usize::MAX);
    maskgit_core::memory::reserve(&mut bytes, capacity).map_err(|e| {
        Error::new(maskgit_core::ErrorKind::Memory, format!("out of memory: {what}, {length} bytes")).with_source(e)
    })?;
    file.take(length).read_to_end(&mut bytes).map_err(|e| Error::io(format!("cannot read {what}"), e))?;
    if bytes.len() as u64 != length {
        return Err(Error::bundle(format!("{what} ended after {} of {length} bytes", bytes.len())));
    }
    Ok(bytes)
}
