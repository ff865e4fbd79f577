//! What several of the tests use.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use maskgit::{Generator, Image, Mask, Observer, Preview, Progress, Rect};
use serde_json::Value;

/// A model of 16x16 pixels, 4x4 tokens and 8 codes. Its decoder paints each token as a flat patch, and its encoder
/// undoes that.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny");
/// A bundled model.
pub const AVATARS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/avatars-64");

/// A place in the repository.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn open(model: &str, threads: usize) -> Generator {
    Generator::builder().threads(threads).open(model).unwrap()
}

pub fn tiny(threads: usize) -> Generator {
    open(TINY, threads)
}

/// Whether an emulator runs the tests, which takes minutes for what takes seconds.
pub fn emulated() -> bool {
    std::env::var_os("MASKGIT_TEST_RUNNER").is_some()
}

/// Copies the tiny bundle, with its manifest changed.
pub fn copy_tiny(to: &Path, change: impl FnOnce(&mut Value)) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(TINY).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let manifest = to.join("bundle.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(manifest, value.to_string()).unwrap();
}

/// An image in which no two neighbours are alike.
pub fn noise(width: u32, height: u32, salt: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let v = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(2_246_822_519) ^ salt.wrapping_mul(3_266_489_917))
            .wrapping_mul(668_265_263);
        Rgb([(v >> 24) as u8, (v >> 16) as u8, (v >> 8) as u8])
    })
}

pub fn boxes(width: u32, height: u32, boxes: &[(u32, u32, u32, u32)]) -> Mask {
    let boxes: Vec<Rect> = boxes.iter().map(|&(x, y, w, h)| Rect::new(x, y, w, h)).collect();
    Mask::from_boxes(width, height, &boxes).unwrap()
}

/// What an observer was told.
#[derive(Debug)]
pub enum Event {
    Progress(Progress),
    Preview(Preview),
    Image(Image),
}

/// Keeps what it is told, and stops when told to.
#[derive(Default)]
pub struct Watch {
    pub events: Vec<Event>,
    pub want_previews: bool,
    /// Stops at this event, from 1.
    pub stop_at: Option<usize>,
}

impl Watch {
    pub fn with_previews() -> Self {
        Self { want_previews: true, ..Self::default() }
    }

    fn take(&mut self, event: Event) -> ControlFlow<()> {
        self.events.push(event);
        if self.stop_at == Some(self.events.len()) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub fn progress(&self) -> Vec<Progress> {
        let progress = |event: &Event| if let Event::Progress(progress) = event { Some(*progress) } else { None };
        self.events.iter().filter_map(progress).collect()
    }

    /// Runs done and to do, of each time it was told of them.
    pub fn predicted(&self) -> Vec<(usize, usize)> {
        let predicted = |progress: &Progress| match *progress {
            Progress::Predicted { done, total } => Some((done, total)),
            _ => None,
        };
        self.progress().iter().filter_map(predicted).collect()
    }

    /// Windows encoded and to encode, of each time it was told of them.
    pub fn encoded(&self) -> Vec<(usize, usize)> {
        let encoded = |progress: &Progress| match *progress {
            Progress::Encoded { done, total } => Some((done, total)),
            _ => None,
        };
        self.progress().iter().filter_map(encoded).collect()
    }

    pub fn steps(&self) -> Vec<(usize, usize)> {
        let step = |progress: &Progress| match *progress {
            Progress::Step { step, steps } => Some((step, steps)),
            _ => None,
        };
        self.progress().iter().filter_map(step).collect()
    }

    pub fn previews(&self) -> Vec<&Preview> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Preview(preview) = event { Some(preview) } else { None })
            .collect()
    }

    pub fn images(&self) -> Vec<&Image> {
        self.events
            .iter()
            .filter_map(|event| if let Event::Image(image) = event { Some(image) } else { None })
            .collect()
    }
}

impl Observer for Watch {
    fn image(&mut self, image: Image) -> ControlFlow<()> {
        self.take(Event::Image(image))
    }

    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        self.take(Event::Progress(*progress))
    }

    fn wants_preview(&self) -> bool {
        self.want_previews
    }

    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        self.take(Event::Preview(preview))
    }
}
