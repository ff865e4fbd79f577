//! What a model is: a manifest and its graphs, from a folder, from one packed file, or from bytes in memory.
//!
//! Nothing in a bundle is trusted. The manifest's every value is checked when the bundle is opened, and the sizes of
//! the files with it; a graph's size and SHA-256 are checked each time it is read. Whether a graph's inputs and outputs
//! are those the manifest promises is checked when an engine loads it. `docs/bundle.md` describes the format.
//!
//! An app uses the crate `maskgit`; this one may change with every version.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod manifest;
mod packed;
mod store;
mod validate;

use std::borrow::Cow;
use std::path::Path;

pub use manifest::{FORMAT_VERSION, GraphFile, GraphFiles, Manifest, Precision};
pub use packed::{pack, pack_folder_into};

use maskgit_core::{Error, Result, Sha256, Source};
use store::Store;

/// The manifest's file name in a folder.
pub const MANIFEST_FILE: &str = "bundle.json";

/// The graphs a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GraphKind {
    /// `tokens` i64\[B,N\] and `label` i64\[B\] to `logits` f32\[B,N,K\].
    Transformer,
    /// `tokens` i64\[B,N\] to `image` f32\[B,3,H,W\] in 0..1.
    Decoder,
    /// `image` f32\[B,3,H,W\] in 0..1 to `tokens` i64\[B,N\].
    Encoder,
}

impl GraphKind {
    /// Every kind, in the order of the packed file.
    pub const ALL: [Self; 3] = [Self::Transformer, Self::Decoder, Self::Encoder];

    /// The name in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Decoder => "decoder",
            Self::Encoder => "encoder",
        }
    }
}

impl std::fmt::Display for GraphKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An opened bundle: a checked manifest, and where its graphs are.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    /// `bundle.json` to the byte.
    manifest_json: Vec<u8>,
    store: Store,
}

impl Bundle {
    /// Opens a bundle: a folder that holds `bundle.json`, or one packed file.
    ///
    /// The manifest is read and checked, and every file's size. Graphs are read later, by [`Bundle::source`].
    ///
    /// # Errors
    ///
    /// Kind [`Io`](maskgit_core::ErrorKind::Io) when a file cannot be read, [`Bundle`](maskgit_core::ErrorKind::Bundle)
    /// when it is not a valid bundle. The message starts with `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if store::is_folder(path)? {
            Self::open_folder(path)
        } else {
            let (store, json, manifest) = Store::packed_file(path).map_err(|e| e.context(path.display()))?;
            Ok(Self { manifest, manifest_json: json, store })
        }
    }

    /// Opens a packed bundle that is in memory. `Vec<u8>` and `&'static [u8]` are taken without a copy.
    ///
    /// # Errors
    ///
    /// As [`Bundle::open`].
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let (store, json, manifest) = Store::memory(bytes.into()).map_err(|e| e.context("the bundle in memory"))?;
        Ok(Self { manifest, manifest_json: json, store })
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let (store, json, manifest) = Store::folder(path).map_err(|e| e.context(path.display()))?;
        Ok(Self { manifest, manifest_json: json, store })
    }

    /// What the bundle says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Whether the bundle has a graph of this kind. Only an encoder may be missing.
    pub fn has_graph(&self, kind: GraphKind) -> bool {
        self.manifest.graphs.get(kind).is_some()
    }

    /// Where one graph's bytes are, after checking their number and their SHA-256. Nothing but a small buffer is held
    /// in memory.
    ///
    /// # Errors
    ///
    /// Kind [`Bundle`](maskgit_core::ErrorKind::Bundle) when there is no such graph or it is not what the manifest
    /// says, [`Io`](maskgit_core::ErrorKind::Io) when it cannot be read.
    pub fn source(&self, kind: GraphKind) -> Result<Source> {
        let source = self.unchecked_source(kind)?;
        self.check_source(kind, &source)?;
        Ok(source)
    }

    /// Where one graph's bytes are, after checking their number only; [`Bundle::check_source`] is still to come.
    ///
    /// # Errors
    ///
    /// As [`Bundle::source`].
    pub fn unchecked_source(&self, kind: GraphKind) -> Result<Source> {
        let Some(graph) = self.manifest.graphs.get(kind) else {
            return Err(Error::bundle(format!("the model has no {kind} graph")).context(&self.store));
        };
        self.store.source(kind, graph).map_err(|e| e.context(&self.store))
    }

    /// Checks the SHA-256 of a graph.
    ///
    /// # Errors
    ///
    /// As [`Bundle::source`].
    pub fn check_source(&self, kind: GraphKind, source: &Source) -> Result<()> {
        let Some(graph) = self.manifest.graphs.get(kind) else { return Ok(()) };
        let mut hash = Sha256::default();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < source.len() {
            let len = usize::try_from(source.len() - at).unwrap_or(usize::MAX).min(buffer.len());
            source.read_into(at, &mut buffer[..len]).map_err(|e| e.context(&self.store))?;
            hash.update(&buffer[..len]);
            at += len as u64;
        }
        self.check_hash(kind, graph, &hash.hex())
    }

    fn check_hash(&self, kind: GraphKind, graph: &GraphFile, actual: &str) -> Result<()> {
        if actual == graph.sha256 {
            return Ok(());
        }
        Err(Error::bundle(format!(
            "{}, the {kind} graph, is damaged: its SHA-256 is {actual}, the manifest says {}",
            graph.file, graph.sha256
        ))
        .context(&self.store))
    }
}
