//! Watching a generation: the progress bar, Ctrl-C, and previews.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use maskgit::{Image, Observer, Preview, Progress};

use crate::cancel;
use crate::draw::put;

/// Where images go after each step.
pub struct Previews<'a> {
    pub folder: &'a Path,
    /// How much they are enlarged.
    pub scale: u32,
    /// How many images are drawn.
    pub count: usize,
}

/// Does `work` with a progress bar on stderr, where that is a terminal and `show` says so, stopping on Ctrl-C. Each
/// finished image goes to `take`.
pub fn watched<T>(
    show: bool,
    previews: Option<Previews<'_>>,
    take: &mut dyn FnMut(Image) -> Result<()>,
    work: impl FnOnce(&mut dyn Observer) -> maskgit::Result<T>,
) -> Result<T> {
    cancel::stop_if_asked()?;
    if let Some(Previews { folder, .. }) = &previews {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mut watcher =
        Watcher { bar: (show && std::io::stderr().is_terminal()).then(bar), previews, take, failed: None };
    let done = work(&mut watcher);
    if let Some(bar) = &watcher.bar {
        bar.finish_and_clear();
    }
    match watcher.failed {
        Some(error) => Err(error),
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

struct Watcher<'a> {
    bar: Option<ProgressBar>,
    previews: Option<Previews<'a>>,
    take: &'a mut dyn FnMut(Image) -> Result<()>,
    /// Why an image could not be written: the library knows only that we wanted to stop.
    failed: Option<anyhow::Error>,
}

impl Watcher<'_> {
    /// Stops where `done` failed, or Ctrl-C asks for it.
    fn go_on(&mut self, done: Result<()>) -> ControlFlow<()> {
        if let Err(error) = done {
            self.failed = Some(error);
            return ControlFlow::Break(());
        }
        cancel::check()
    }
}

impl Previews<'_> {
    fn write(&self, preview: &Preview) -> Result<()> {
        let digits = preview.steps.to_string().len().max(2);
        let mut name = String::new();
        if preview.stages > 1 {
            name.push_str(&format!("stage-{:03}-", preview.stage.saturating_add(1)));
        }
        name.push_str(&format!("step-{:0digits$}", preview.step.saturating_add(1)));
        if self.count > 1 {
            name.push_str(&format!("-{:03}", preview.index));
        }
        let image = maskgit_image::enlarge(&preview.image, self.scale)?;
        put(&self.folder.join(name + ".png"), &maskgit_image::encode_png(&image, None)?)
    }
}

impl Observer for Watcher<'_> {
    fn image(&mut self, image: Image) -> ControlFlow<()> {
        let done = (self.take)(image);
        self.go_on(done)
    }

    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        if let Some(bar) = &self.bar {
            match progress {
                Progress::Encoded { .. } => bar.set_message("encoding"),
                Progress::Predicted { done, total } => {
                    bar.set_length(*total as u64);
                    bar.set_position(*done as u64);
                }
                Progress::Step { step, steps } => {
                    bar.set_message(format!("step {}/{steps}", step.saturating_add(1)));
                }
                Progress::Finished { done, total } => bar.set_message(format!("{done}/{total} done")),
                _ => {}
            }
        }
        cancel::check()
    }

    fn wants_preview(&self) -> bool {
        self.previews.is_some()
    }

    fn preview(&mut self, preview: Preview) -> ControlFlow<()> {
        let done = self.previews.as_ref().map_or(Ok(()), |previews| previews.write(&preview));
        self.go_on(done)
    }
}
