//! The run of a plan: stages of windows, for some images at a time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

use image::RgbImage;
use maskgit_core::{Error, Result, filled};
use maskgit_geometry::Mask;
use maskgit_sample::{self as sample, StepReport, TokenGrid, TokenSpec, window_seed};

use super::plan::{Fit, Plan, Stage, copy};
use super::predict::{MaskedLogitsCache, Predictor};
use super::sessions::{Sessions, check_tokens, to_image};
use super::{Image, Observer, Preview, Progress, Resolved, Seeds, Timings};

/// Images whose graphs are unloaded between stages are drawn this many at a time, so that loading is shared by many.
const UNLOADING_CHUNK: usize = 64;

/// What images that wait between two stages may take together.
const CHUNK_BYTES: usize = 256 << 20;

/// A request on its way.
pub(super) struct Run<'a, 'o> {
    sessions: &'a Sessions,
    cache: &'a mut MaskedLogitsCache,
    plan: &'a Plan,
    seeds: Seeds,
    resolved: Resolved,
    logits_bytes: usize,
    observer: RefCell<&'o mut dyn Observer>,
    timings: Timings,
    /// The windows that show the same in every result, by their place in the plan.
    encoded: HashMap<usize, Encoded>,
    encodings: Count,
    predictions: Count,
    finished: usize,
    buffers: sample::Buffers,
}

/// A window that was encoded.
struct Encoded {
    tokens: Vec<i64>,
    /// What the encoder saw: red, green and blue of each pixel in turn.
    shown: Vec<u8>,
}

/// How far something is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) done: usize,
    pub(super) total: usize,
}

/// An image between two stages.
struct Draft {
    index: usize,
    seed: u64,
    /// What is painted so far; `None`: nothing.
    pixels: Option<RgbImage>,
    /// By window: the tokens, and how many were masked after each step.
    windows: Vec<(usize, Vec<i64>, Vec<usize>)>,
    /// How well the model knows what the windows show of the image as it was.
    fit: Fit,
}

/// A window of an image, on its way through the sampler: the places of the draft in its chunk and of the window in its
/// stage.
type Place = (usize, usize);

impl<'a, 'o> Run<'a, 'o> {
    pub(super) fn new(
        sessions: &'a Sessions,
        cache: &'a mut MaskedLogitsCache,
        plan: &'a Plan,
        (seeds, resolved): (Seeds, Resolved),
        logits_bytes: usize,
        observer: &'o mut dyn Observer,
    ) -> Self {
        let run_steps = resolved.sampling.run_steps();
        let jobs = || plan.stages.iter().flatten();
        let encodings = |shared| jobs().filter(|job| job.shared == shared).count();
        let encodings = if plan.encodes() { encodings(true) + encodings(false).saturating_mul(seeds.count) } else { 0 };
        let runs = run_steps.saturating_mul(resolved.sampling.passes());
        let predictions = jobs().count().saturating_mul(seeds.count).saturating_mul(runs);
        Self {
            sessions,
            cache,
            plan,
            seeds,
            resolved,
            logits_bytes,
            observer: RefCell::new(observer),
            timings: Timings { steps: vec![0.0; run_steps], ..Timings::default() },
            encoded: HashMap::new(),
            encodings: Count { done: 0, total: encodings },
            predictions: Count { done: 0, total: predictions },
            finished: 0,
            buffers: sample::Buffers::default(),
        }
    }

    /// Draws every image, some at a time.
    pub(super) fn run(mut self) -> Result<Timings> {
        let start = Instant::now();
        self.encode_shared()?;
        let chunk = self.chunk();
        for first in (0..self.seeds.count).step_by(chunk) {
            self.draw(first..self.seeds.count.min(first.saturating_add(chunk)))?;
        }
        self.timings.total = start.elapsed().as_secs_f64();
        Ok(self.timings)
    }

    /// How many images are drawn together: enough to keep the device busy, more where each chunk loads graphs anew, no
    /// more than the memory for drafts allows.
    fn chunk(&self) -> usize {
        let rows = self.plan.widest().saturating_mul(self.resolved.sampling.passes());
        let busy = self.sessions.rows_at_once().saturating_mul(2).max(8).div_ceil(rows);
        let chunk = if self.sessions.unloads() { UNLOADING_CHUNK } else { busy };
        let bytes = CHUNK_BYTES.checked_div(self.plan.bytes()).unwrap_or(usize::MAX);
        chunk.min(bytes).max(1)
    }

    /// How many windows go through the sampler together: as many as the memory for logits holds, at least one.
    fn batch(&self) -> usize {
        let manifest = self.sessions.manifest();
        let row = manifest.tokens().saturating_mul(manifest.codes).saturating_mul(size_of::<f32>());
        let bytes = row.saturating_mul(self.resolved.sampling.passes()).max(1);
        (self.logits_bytes / bytes).max(1)
    }

    /// Draws some images, stage by stage, and hands them over.
    fn draw(&mut self, images: Range<usize>) -> Result<()> {
        let mut drafts: Vec<Draft> = images
            .map(|index| Draft {
                index,
                seed: self.seeds.at(index),
                pixels: None,
                windows: Vec::new(),
                fit: Fit::default(),
            })
            .collect();
        let mut left = self.plan.mask()?;
        for index in 0..self.plan.stages.len() {
            let stage = self.plan.stage(index, left.as_ref())?;
            let last = index + 1 == self.plan.stages.len();
            let (places, grids) = self.grids(&stage, left.as_ref(), &drafts)?;
            let drawn = self.sample(&stage, &places, grids, &drafts)?;
            self.decode(&stage, places, drawn, &mut drafts, last)?;
            let painted: Vec<_> = stage.jobs.iter().map(|staged| staged.job.paint).collect();
            drop(stage);
            if let Some(left) = &mut left {
                painted.into_iter().for_each(|paint| left.clear(paint));
            }
        }
        if self.plan.stages.is_empty() {
            for draft in drafts {
                self.hand_over(draft)?;
            }
        }
        Ok(())
    }

    /// Encodes the windows that show the same in every result.
    fn encode_shared(&mut self) -> Result<()> {
        let Some(mask) = self.plan.mask()? else { return Ok(()) };
        for staged in self.plan.stages.iter().flatten().filter(|staged| staged.shared) {
            let planes = self.plan.planes(None, &mask, staged.job.window)?;
            let tokens = self.encode(&planes)?;
            let shown = interleaved(&planes)?;
            self.encoded.insert(staged.index, Encoded { tokens, shown });
        }
        Ok(())
    }

    fn encode(&mut self, planes: &[f32]) -> Result<Vec<i64>> {
        let start = Instant::now();
        let tokens = self.sessions.encode(planes)?;
        self.timings.encode += start.elapsed().as_secs_f64();
        self.encodings.done += 1;
        let Count { done, total } = self.encodings;
        go_on(self.observer.borrow_mut().progress(&Progress::Encoded { done, total }))?;
        Ok(tokens)
    }

    /// The token grids of a stage, those of each image together, with what is to be drawn masked.
    fn grids(
        &mut self,
        stage: &Stage<'_>,
        left: Option<&Mask>,
        drafts: &[Draft],
    ) -> Result<(Vec<Place>, Vec<TokenGrid>)> {
        let (n, mask_id) = (self.sessions.manifest().tokens(), self.sessions.manifest().mask_id);
        let (mut places, mut grids) = (Vec::new(), Vec::new());
        for (at, draft) in drafts.iter().enumerate() {
            for (place, staged) in stage.jobs.iter().enumerate() {
                let mut tokens = match (left, self.encoded.get(&staged.index)) {
                    (None, _) => vec![mask_id; n],
                    (Some(_), Some(encoded)) => encoded.tokens.clone(),
                    (Some(left), None) => {
                        self.encode(&self.plan.planes(draft.pixels.as_ref(), left, staged.job.window)?)?
                    }
                };
                stage.mask_tokens(place, draft.seed, &mut tokens, mask_id);
                check_tokens(self.sessions.manifest(), &tokens, true)?;
                places.push((at, place));
                grids.push(TokenGrid { seed: window_seed(draft.seed, staged.index), tokens });
            }
        }
        Ok((places, grids))
    }

    /// Draws the masked tokens of the grids; gives the tokens, and how many were masked after each step.
    fn sample(
        &mut self,
        stage: &Stage<'_>,
        places: &[Place],
        mut grids: Vec<TokenGrid>,
        drafts: &[Draft],
    ) -> Result<Vec<(Vec<i64>, Vec<usize>)>> {
        let manifest = self.sessions.manifest();
        let spec = TokenSpec { grid: manifest.grid, codes: manifest.codes, mask_id: manifest.mask_id };
        let (settings, batch) = (self.resolved.sampling, self.batch());
        let null = manifest.null_label;
        // With neither, `Request::resolve` has let through only what draws nothing, so that no label is asked for.
        let label = self.resolved.label.map(super::label_input).transpose()?.or(null).unwrap_or_default();
        let mut drawn = Vec::with_capacity(grids.len());
        for (grids, places) in grids.chunks_mut(batch).zip(places.chunks(batch)) {
            let runs = grids.len().saturating_mul(settings.run_steps()).saturating_mul(settings.passes());
            let end = self.predictions.done.saturating_add(runs);
            let mut predictor = Predictor {
                sessions: self.sessions,
                cache: &mut *self.cache,
                mask_id: spec.mask_id,
                label,
                null_label: null,
                observer: &self.observer,
                count: self.predictions,
            };
            let watch = Watch { sessions: self.sessions, stage, places, drafts, observer: &self.observer };
            let with = (&mut self.buffers, &mut self.timings);
            let outcome = watch.run(&spec, grids, &settings, &mut predictor, with)?;
            // Some runs may not have been needed: where fewer tokens are masked than there are steps.
            if predictor.count.done < end {
                predictor.tell(end.saturating_sub(predictor.count.done))?;
            }
            self.predictions = predictor.count;
            drawn.extend(grids.iter_mut().map(|grid| std::mem::take(&mut grid.tokens)).zip(outcome.masked));
        }
        Ok(drawn)
    }

    /// Decodes the windows of a stage into their images; after the last stage the images are handed over.
    fn decode(
        &mut self,
        stage: &Stage<'_>,
        places: Vec<Place>,
        drawn: Vec<(Vec<i64>, Vec<usize>)>,
        drafts: &mut Vec<Draft>,
        last: bool,
    ) -> Result<()> {
        let mut drawn = places.into_iter().zip(drawn).peekable();
        for (at, mut draft) in std::mem::take(drafts).into_iter().enumerate() {
            while let Some(((_, place), (tokens, masked))) = drawn.next_if(|((of, _), _)| *of == at) {
                let start = Instant::now();
                let decoded = to_image(self.sessions.manifest(), self.sessions.decode(&tokens)?.view())?;
                let mut pixels = match draft.pixels.take() {
                    Some(pixels) => pixels,
                    None => self.plan.start()?,
                };
                let index = stage.jobs.get(place).map_or(0, |staged| staged.index);
                if let Some(encoded) = self.encoded.get(&index) {
                    draft.fit.add(stage.fit(place, draft.seed, &encoded.shown, &decoded));
                }
                stage.apply(place, &mut pixels, decoded)?;
                draft.pixels = Some(pixels);
                draft.windows.push((index, tokens, masked));
                self.timings.decode += start.elapsed().as_secs_f64();
            }
            if last {
                self.hand_over(draft)?;
            } else {
                drafts.push(draft);
            }
        }
        Ok(())
    }

    /// Gives a finished image to the observer.
    fn hand_over(&mut self, mut draft: Draft) -> Result<()> {
        draft.windows.sort_unstable_by_key(|window| window.0);
        let (mut tokens, mut masked) = (Vec::new(), Vec::new());
        for (_, of_window, counts) in draft.windows {
            tokens.extend(of_window);
            masked.extend(counts);
        }
        let pixels = match draft.pixels {
            Some(pixels) => pixels,
            None => self.plan.start()?,
        };
        let (index, seed, fit) = (draft.index, draft.seed, draft.fit.mean());
        let image = Image { index, seed, pixels, tokens, masked, fit };
        let mut observer = self.observer.borrow_mut();
        go_on(observer.image(image))?;
        self.finished += 1;
        go_on(observer.progress(&Progress::Finished { done: self.finished, total: self.seeds.count }))
    }
}

/// Three planes of values in 0..1 as bytes, the three of a pixel together.
fn interleaved(planes: &[f32]) -> Result<Vec<u8>> {
    let pixels = planes.len() / 3;
    let mut bytes = filled(planes.len(), 0u8, "what a window shows")?;
    for (plane, values) in planes.chunks_exact(pixels.max(1)).enumerate() {
        for (byte, value) in bytes.iter_mut().skip(plane).step_by(3).zip(values) {
            *byte = (value * 255.0).round() as u8;
        }
    }
    Ok(bytes)
}

/// What watches the sampler.
struct Watch<'a, 'o> {
    sessions: &'a Sessions,
    stage: &'a Stage<'a>,
    places: &'a [Place],
    drafts: &'a [Draft],
    observer: &'a RefCell<&'o mut dyn Observer>,
}

impl Watch<'_, '_> {
    /// Runs the sampler, takes the time of each step and shows previews.
    fn run(
        &self,
        spec: &TokenSpec,
        grids: &mut [TokenGrid],
        settings: &maskgit_core::Sampling,
        predictor: &mut Predictor<'_, '_>,
        (buffers, timings): (&mut sample::Buffers, &mut Timings),
    ) -> Result<sample::Outcome> {
        // The sampler knows one way to stop, so an error of a preview waits here for it to return.
        let mut failed = None;
        let mut mark = Instant::now();
        let mut observe = |report: &StepReport<'_>| {
            if let Some(seconds) = timings.steps.get_mut(report.step.saturating_sub(settings.start_iter)) {
                *seconds += mark.elapsed().as_secs_f64();
            }
            let preview_start = Instant::now();
            let flow = self.step(report).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            });
            timings.preview += preview_start.elapsed().as_secs_f64();
            mark = Instant::now();
            flow
        };
        let outcome = sample::run_with(buffers, spec, grids, settings, predictor, &mut observe);
        match failed {
            Some(error) => Err(error),
            None => outcome,
        }
    }

    /// Tells the observer of a step, with previews when it wants them.
    fn step(&self, report: &StepReport<'_>) -> Result<ControlFlow<()>> {
        let mut observer = self.observer.borrow_mut();
        let progress = Progress::Step { step: report.step, steps: report.steps };
        if observer.progress(&progress).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if observer.wants_preview() {
            let mut windows = self.places.iter().zip(report.grids).peekable();
            while let Some(&((at, _), _)) = windows.peek() {
                let Some(draft) = self.drafts.get(*at) else { break };
                let mut shown = self.before(draft)?;
                while let Some(((_, place), state)) = windows.next_if(|((of, _), _)| of == at) {
                    let decoded = self.sessions.decode(state.guess())?;
                    let decoded = to_image(self.sessions.manifest(), decoded.view())?;
                    self.stage.apply(*place, &mut shown, decoded)?;
                }
                if observer.preview(self.preview(report, draft, shown)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The image as it was before the stage.
    fn before(&self, draft: &Draft) -> Result<RgbImage> {
        match &draft.pixels {
            Some(pixels) => copy(pixels),
            None => self.stage.start(),
        }
    }

    fn preview(&self, report: &StepReport<'_>, draft: &Draft, image: RgbImage) -> Preview {
        Preview {
            step: report.step,
            steps: report.steps,
            index: draft.index,
            seed: draft.seed,
            stage: self.stage.index,
            stages: self.stage.of(),
            image,
        }
    }
}

/// An error of kind [`Cancelled`](maskgit_core::ErrorKind::Cancelled) where an observer said so.
pub(super) fn go_on(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::cancelled()) } else { Ok(()) }
}
