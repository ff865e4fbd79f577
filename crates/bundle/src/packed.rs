//! The packed file: one bundle in one file.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `MASKGIT1` |
//! | 8 | the manifest's length, little-endian |
//! | that many | the manifest, `bundle.json` to the byte |
//! | | zeros up to a multiple of 64 |
//! | `graphs.transformer.bytes` | the transformer |
//! | | zeros up to a multiple of 64, then the decoder; the same for the encoder, where there is one |
//!
//! The file ends with the last graph.

use std::path::Path;

use super::validate::MAX_MANIFEST_BYTES;
use super::{Bundle, GraphKind, MANIFEST_FILE, Manifest};
use maskgit_core::files::PendingFile;
use maskgit_core::{Error, Result};

/// The first eight bytes of a packed file.
pub(super) const MAGIC: &[u8; 8] = b"MASKGIT1";
/// The magic and the manifest's length.
pub(super) const HEADER_BYTES: usize = 16;
const ALIGN: u64 = 64;

/// Where each part of a packed file lies.
#[derive(Debug)]
pub(super) struct Layout {
    /// Kind, first byte, and number of bytes, in the order of the file.
    parts: Vec<(GraphKind, u64, u64)>,
    /// The size of the whole file.
    pub(super) total: u64,
    /// The gaps, first byte and end, which hold zeros.
    gaps: Vec<(u64, u64)>,
}

impl Layout {
    /// The layout for a manifest of `manifest_bytes` bytes. Both come from [`Manifest::parse`], so nothing overflows:
    /// at most 2²⁰ bytes of manifest and three graphs of 2³².
    pub(super) fn new(manifest: &Manifest, manifest_bytes: usize) -> Self {
        let mut end = (HEADER_BYTES as u64).saturating_add(manifest_bytes as u64);
        let (mut parts, mut gaps) = (Vec::new(), Vec::new());
        for (kind, graph) in manifest.graphs.iter() {
            let start = end.next_multiple_of(ALIGN);
            gaps.push((end, start));
            parts.push((kind, start, graph.bytes));
            end = start.saturating_add(graph.bytes);
        }
        Self { parts, total: end, gaps }
    }

    /// First byte and number of bytes of one graph.
    pub(super) fn part(&self, kind: GraphKind) -> Option<(u64, u64)> {
        self.parts.iter().find(|p| p.0 == kind).map(|p| (p.1, p.2))
    }

    /// The gaps, first byte and end.
    pub(super) fn gaps(&self) -> &[(u64, u64)] {
        &self.gaps
    }

    /// Checks the size of the whole file.
    pub(super) fn check_total(&self, actual: u64) -> Result<()> {
        if actual == self.total {
            return Ok(());
        }
        Err(Error::bundle(format!(
            "the packed file has {actual} bytes, but its manifest describes {}: it is {}",
            self.total,
            if actual < self.total { "cut short" } else { "followed by something else" }
        )))
    }
}

/// The manifest's length, from the first 16 bytes.
pub(super) fn manifest_length(header: &[u8; HEADER_BYTES]) -> Result<usize> {
    let (magic, length) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Error::bundle(
            "it is not a packed bundle: it does not start with MASKGIT1 (for a bundle in a folder, give the folder)",
        ));
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(length);
    let length = u64::from_le_bytes(bytes);
    match usize::try_from(length) {
        Ok(n) if n <= MAX_MANIFEST_BYTES => Ok(n),
        _ => Err(Error::bundle(format!(
            "the packed file declares a manifest of {length} bytes; at most {MAX_MANIFEST_BYTES} are allowed"
        ))),
    }
}

/// Packs the bundle in the folder `dir` into the one file `out`.
///
/// Every graph's size and hash are checked first. The same folder always gives the same bytes. The file appears whole
/// or not at all; one that was there is replaced.
///
/// # Errors
///
/// Kind [`Bundle`](maskgit_core::ErrorKind::Bundle) when the folder is not a valid bundle,
/// [`Io`](maskgit_core::ErrorKind::Io) when a file cannot be read or written,
/// [`Request`](maskgit_core::ErrorKind::Request) when `out` is one of the folder's own files.
pub fn pack(dir: &Path, out: &Path) -> Result<()> {
    let bundle = Bundle::open_folder(dir)?;
    refuse_source(&bundle, dir, out)?;
    pack_into(&bundle, PendingFile::create(out)?)
}

/// Packs the bundle in the folder `dir` into any file that is yet to be written.
///
/// # Errors
///
/// As [`pack`].
pub fn pack_folder_into(dir: &Path, file: PendingFile) -> Result<()> {
    pack_into(&Bundle::open_folder(dir)?, file)
}

/// Refuses to write over a file that is packed.
fn refuse_source(bundle: &Bundle, dir: &Path, out: &Path) -> Result<()> {
    let graphs = bundle.manifest.graphs.iter().map(|(_, graph)| graph.file.as_str());
    match graphs.chain([MANIFEST_FILE]).find(|name| maskgit_core::files::is_same(&dir.join(name), out)) {
        Some(name) => Err(Error::request(format!(
            "{} is the model's own {name}: give another file to pack it into",
            out.display()
        ))),
        None => Ok(()),
    }
}

fn pack_into(bundle: &Bundle, mut file: PendingFile) -> Result<()> {
    let layout = Layout::new(&bundle.manifest, bundle.manifest_json.len());
    file.write(MAGIC)?;
    file.write(&(bundle.manifest_json.len() as u64).to_le_bytes())?;
    file.write(&bundle.manifest_json)?;
    let mut buffer = vec![0; 1 << 20];
    for (&(kind, _, _), &(from, to)) in layout.parts.iter().zip(&layout.gaps) {
        file.write(&vec![0; to.saturating_sub(from) as usize])?;
        let source = bundle.source(kind)?;
        let mut at = 0;
        while at < source.len() {
            let part = usize::try_from(source.len() - at).unwrap_or(usize::MAX).min(buffer.len());
            source.read_into(at, &mut buffer[..part])?;
            file.write(&buffer[..part])?;
            at += part as u64;
        }
    }
    file.commit()
}
