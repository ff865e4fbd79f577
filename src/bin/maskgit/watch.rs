//! Watching a generation: the progress bar, Ctrl-C, and previews.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use maskgit::image_io;
use maskgit::{Generated, Generator, Observer, Preview, Progress, Request};

use crate::cancel;

/// Draws with a progress bar on stderr when it is a terminal, stopping on Ctrl-C.
///
/// `previews` is a folder for each step's pictures, and the scale to enlarge them by.
pub fn generate(generator: &mut Generator, request: &Request, previews: Option<(&Path, u32)>) -> Result<Generated> {
    watched(request.count, previews, |observer| generator.generate(request, observer))
}

/// Does `work`, which draws `count` pictures, with the same bar, previews and Ctrl-C.
pub fn watched<T>(
    count: usize,
    previews: Option<(&Path, u32)>,
    work: impl FnOnce(&mut dyn Observer) -> maskgit::Result<T>,
) -> Result<T> {
    cancel::stop_if_asked()?;
    if let Some((folder, _)) = previews {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mut watcher = Watcher {
        bar: std::io::stderr().is_terminal().then(bar),
        previews: previews.map(|(folder, scale)| (folder.to_path_buf(), scale)),
        count,
        failed: None,
    };
    let done = work(&mut watcher);
    if let Some(bar) = &watcher.bar {
        bar.finish_and_clear();
    }
    match watcher.failed {
        Some(error) => Err(error.into()),
        None => Ok(done?),
    }
}

fn bar() -> ProgressBar {
    // Not 0, which would show as complete; the first event sets the length.
    let bar = ProgressBar::new(1);
    // The template is fixed; were it wrong, the default style would do.
    if let Ok(style) = ProgressStyle::with_template("{msg:>14} {bar:30} {percent:>3}% {elapsed_precise}") {
        bar.set_style(style);
    }
    bar.set_message("drawing");
    bar
}

struct Watcher {
    bar: Option<ProgressBar>,
    previews: Option<(PathBuf, u32)>,
    count: usize,
    /// Why a preview could not be written: the library knows only that we wanted to stop.
    failed: Option<maskgit::Error>,
}

impl Watcher {
    fn write(&self, folder: &Path, scale: u32, preview: &Preview) -> maskgit::Result<()> {
        let digits = preview.steps.to_string().len().max(2);
        let mut name = String::new();
        if preview.windows > 1 {
            name.push_str(&format!("window-{:03}-", preview.window.saturating_add(1)));
        }
        name.push_str(&format!("step-{:0digits$}", preview.step.saturating_add(1)));
        if self.count > 1 {
            name.push_str(&format!("-{:03}", preview.index));
        }
        let image = image_io::enlarge(&preview.image, scale)?;
        image_io::write_file(&folder.join(name + ".png"), image_io::encode_png(&image, None)?)
    }
}

impl Observer for Watcher {
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            match progress {
                Progress::Predicted { done, total } => {
                    bar.set_length(*total as u64);
                    bar.set_position(*done as u64);
                }
                Progress::Step { report, .. } => {
                    bar.set_message(format!("step {}/{}", report.step.saturating_add(1), report.steps));
                }
                _ => bar.set_message("decoding"),
            }
        }
        cancel::check()
    }

    fn wants_preview(&self) -> bool {
        self.previews.is_some()
    }

    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        if let Some((folder, scale)) = &self.previews
            && let Err(error) = self.write(folder, *scale, &preview)
        {
            self.failed = Some(error);
            return ControlFlow::Break(());
        }
        cancel::check()
    }
}
