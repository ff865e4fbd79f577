//! The doors through which bytes of strangers come in, one function each: what the fuzz targets call, and, for the
//! files of `fuzz/seeds`, `tests/hostile.rs`. Whatever the bytes, each returns; a panic, a hang or memory without
//! bounds is a finding. What is returned says what became of the bytes.

mod geometry;
mod graph;

use std::io::Write;
use std::time::Duration;

use maskgit_bundle::{Bundle, GraphKind, Manifest};
use maskgit_core::{LoadLimits, Result, Sampling, SamplingChanges};
use maskgit_engine::{CpuEngine, Engine, Session};
use maskgit_image::{Limits, MaskOptions, read_hard_mask, read_image, read_mask, read_metadata};

pub use geometry::geometry;
pub use graph::{graph, signature};

/// How long a graph may take to load: the fuzzer's limit for one input is a second longer.
pub fn load_limits() -> LoadLimits {
    LoadLimits::default().with_time(Duration::from_secs(4))
}

/// The name of a target, and its door.
pub type Target = (&'static str, fn(&[u8]) -> Result<()>);

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("manifest", manifest),
    ("packed", packed),
    ("graph", graph),
    ("image", image),
    ("record", record),
    ("geometry", geometry),
];

/// A bundle's manifest: what is accepted is written and read again as it was.
pub fn manifest(bytes: &[u8]) -> Result<()> {
    let manifest = Manifest::parse(bytes)?;
    let json = serde_json::to_vec(&manifest).expect("a manifest can be written");
    assert_eq!(Manifest::parse(&json)?, manifest);
    assert!(manifest.tokens() > 0 && manifest.shape().check().is_ok());
    for label in &manifest.labels {
        assert!(manifest.label(label).is_some());
    }
    Ok(())
}

/// A packed bundle, and its graphs whether or not their hashes are right: a stranger's would be.
pub fn packed(bytes: &[u8]) -> Result<()> {
    let bundle = Bundle::from_bytes(bytes.to_vec())?;
    let kinds = || GraphKind::ALL.into_iter().filter(|&kind| bundle.has_graph(kind));
    let hashes = kinds().try_for_each(|kind| bundle.source(kind).map(drop));
    for kind in kinds() {
        let source = bundle.unchecked_source(kind)?;
        let signature = signature(bundle.manifest(), kind);
        loaded(CpuEngine::new(1)?.load(&source, &signature, &load_limits())?.as_ref());
    }
    hashes
}

/// What is asked of a graph that was accepted. It is not run: how long that takes is not promised.
fn loaded(session: &dyn Session) {
    assert!(session.rows_at_once() == 1);
    session.describe();
}

/// An image or mask file, in memory and in a file: readers take a path.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let builder = tempfile::Builder::new();
    // In memory, where there is such a place.
    let file = builder.tempfile_in("/dev/shm").or_else(|_| builder.tempfile());
    let mut file = file.expect("a temporary file can be made");
    file.write_all(bytes).expect("a temporary file can be written");
    file
}

/// An image, which is also its own mask.
pub fn image(bytes: &[u8]) -> Result<()> {
    let file = file(bytes);
    let mut limits = Limits::default();
    limits.bytes = 48 << 20;
    limits.side = 4096;
    limits.allow_damaged = bytes.len().is_multiple_of(2);
    let read = read_image(file.path(), &limits);
    let hard = read_hard_mask(file.path(), &limits);
    let image = read?;
    let size = image.rgb.dimensions();
    assert!(size.0 > 0 && size.1 > 0 && size.0.max(size.1) <= limits.side);
    assert!(image.alpha.as_ref().is_none_or(|alpha| alpha.dimensions() == size));
    if let Ok((mask, _)) = hard {
        // EXIF turns images; masks of old records were never turned.
        assert!([size, (size.1, size.0)].contains(&(mask.width(), mask.height())));
    }
    if let Ok(mask) = read_mask(file.path(), &limits, &image, &MaskOptions::default()) {
        assert_eq!((mask.mask.width(), mask.mask.height()), size);
    }
    image.transparent()?;
    image.encode_png(&image.rgb, Some("{}")).map(drop)
}

/// The record in a PNG, and the settings in it.
pub fn record(bytes: &[u8]) -> Result<()> {
    let text = read_metadata(file(bytes).path())?;
    let settings = text.as_deref().map(serde_json::from_str::<serde_json::Value>);
    if let Some(Ok(value)) = settings {
        settings_of(value.get("sampling").unwrap_or(&value));
    }
    Ok(())
}

/// What is accepted of sampling settings is in range, and is written and read again as it was.
fn settings_of(value: &serde_json::Value) {
    let Ok(changes) = serde_json::from_value::<SamplingChanges>(value.clone()) else { return };
    let sampling = Sampling::default().with(&changes);
    if sampling.validate().is_ok() {
        let json = serde_json::to_value(SamplingChanges::from(sampling)).expect("settings can be written");
        let again: SamplingChanges = serde_json::from_value(json).expect("what was written can be read");
        assert_eq!(Sampling::default().with(&again), sampling);
    }
}
