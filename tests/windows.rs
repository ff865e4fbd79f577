//! Edits in stages against the plain reading of docs/editing.md: one window after another, each encoded, drawn, decoded
//! and painted before the next one is looked at.

use image::RgbImage;
use maskgit::{Feather, Generator, Mask, Outpaint, Rect, Request, Sampling};
use maskgit_geometry::{Blend, Job, Planes, TokenMask, Windows, inpaint, outpaint, stages};
use maskgit_sample::{Predict, Row, TokenGrid, TokenSpec, run, window_seed};
use ndarray::{ArrayViewMut3, Axis};

use crate::common::{boxes, noise, tiny};

/// The model, one row after another.
struct Rows<'a> {
    generator: &'a mut Generator,
    label: i64,
    null_label: i64,
}

impl Predict for Rows<'_> {
    fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> maskgit::Result<()> {
        for (row, mut out) in rows.iter().zip(out.axis_iter_mut(Axis(0))) {
            let label = if row.unconditional { self.null_label } else { self.label };
            let logits = self.generator.logits(row.tokens, label)?;
            out.iter_mut().zip(logits).for_each(|(out, logit)| *out = logit);
        }
        Ok(())
    }
}

/// How an edit is drawn.
#[derive(Clone, Copy)]
struct Settings {
    seed: u64,
    dilation: usize,
    feather: Feather,
    sampling: Sampling,
}

/// What an edit's windows give when they are painted one after another: the image and the tokens of all windows.
fn one_after_another(
    generator: &mut Generator,
    mut image: RgbImage,
    mut left: Mask,
    jobs: &[Job],
    settings: Settings,
) -> (RgbImage, Vec<i64>) {
    let manifest = generator.manifest().clone();
    let (shape, mask_id) = (manifest.shape(), manifest.mask_id);
    let spec = TokenSpec { grid: manifest.grid, codes: manifest.codes, mask_id };
    let everywhere = Rect::new(0, 0, image.width(), image.height());
    let mut all = Vec::new();
    for (index, &job) in jobs.iter().enumerate() {
        let planes = Planes::read(&image, &left, None, job.window, shape).unwrap().to_planes();
        let mut tokens = generator.encode_planes(&planes).unwrap();
        let touched = TokenMask::touched(&left, job.window, everywhere, shape).dilated(settings.dilation);
        for (token, _) in tokens.iter_mut().zip(touched.marks()).filter(|(_, mark)| **mark) {
            *token = mask_id;
        }
        let mut grids = [TokenGrid { seed: window_seed(settings.seed, index), tokens }];
        let mut rows = Rows { generator, label: 1, null_label: manifest.null_label.unwrap() };
        run(&spec, &mut grids, &settings.sampling, &mut rows, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        let [TokenGrid { tokens, .. }] = grids;
        let decoded = generator.decode(&tokens).unwrap();
        let blend = Blend::new(&left, job, settings.feather, settings.dilation, shape).unwrap();
        blend.apply(&mut image, &left, &decoded).unwrap();
        left.clear(job.paint);
        all.extend(tokens);
    }
    (image, all)
}

fn compare(generator: &mut Generator, what: &str, request: Request, (image, mask, jobs): (RgbImage, Mask, Vec<Job>)) {
    let request = request.with_class("1").with_seed(u64::MAX).with_count(2).with_steps(3).with_guidance(1.5);
    let drawn = generator.generate(&request).unwrap();
    assert_eq!(drawn.summary.windows, jobs.iter().map(|job| job.window).collect::<Vec<_>>(), "{what}");
    for result in drawn.images {
        let settings = Settings {
            seed: result.seed,
            dilation: request.edge.dilation,
            feather: request.edge.feather,
            sampling: drawn.summary.resolved.sampling,
        };
        let (pixels, tokens) = one_after_another(generator, image.clone(), mask.clone(), &jobs, settings);
        assert_eq!(result.tokens, tokens, "{what}");
        assert!(result.pixels == pixels, "{what}: the pixels differ");
    }
}

/// Boxes from a seed, of all sizes, some beside each other.
fn some_boxes(width: u32, height: u32, seed: u32) -> Vec<Rect> {
    let mut state = seed;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    (0..3 + seed % 5)
        .map(|_| {
            let (x, y) = (random(width - 2), random(height - 2));
            Rect::new(x, y, 1 + random(12.min(width - x - 1)), 1 + random(12.min(height - y - 1)))
        })
        .collect()
}

#[test]
fn an_inpainting_in_stages_is_that_of_one_window_after_another() {
    let mut generator = tiny(2);
    let shape = generator.manifest().shape();
    let (mut several_stages, mut shared_stages) = (0, 0);
    for seed in 0..30 {
        let (width, height) = (60 + seed * 3, 90 - seed);
        let image = noise(width, height, seed);
        let mask = Mask::from_boxes(width, height, &some_boxes(width, height, seed)).unwrap();
        for (dilation, feather, context) in
            [(1, Feather::Gaussian, 2.0), (0, Feather::Pixels(0), 1.0), (2, Feather::Pixels(7), 3.0)]
        {
            let jobs = inpaint(&mask, shape, context, feather, Windows::Shape).unwrap();
            let staged = stages(&jobs, feather, dilation, shape, width, height);
            several_stages += usize::from(staged.len() > 1);
            shared_stages += usize::from(staged.iter().any(|stage| stage.len() > 1));
            let request = Request::edit(image.clone(), mask.clone())
                .with_dilation(dilation)
                .with_feather(feather)
                .with_context(context);
            let what = format!("seed {seed}, {dilation} rings, {feather:?}, context {context}");
            compare(&mut generator, &what, request, (image.clone(), mask.clone(), jobs));
        }
    }
    assert!(several_stages > 10 && shared_stages > 10, "{several_stages}, {shared_stages}: the cases are too easy");
}

#[test]
fn an_outpainting_in_stages_is_that_of_one_window_after_another() {
    let mut generator = tiny(2);
    let shape = generator.manifest().shape();
    for (width, height, sides) in [
        (16, 16, Outpaint { left: 10, right: 30, top: 5, ..Outpaint::default() }),
        (40, 20, Outpaint { left: 7, right: 9, top: 20, bottom: 33, ..Outpaint::default() }),
        (20, 33, Outpaint { right: 40, bottom: 8, overlap: 0.25, ..Outpaint::default() }),
        (30, 30, Outpaint { top: 50, window: Some(13), overlap: 0.7, ..Outpaint::default() }),
    ] {
        let image = noise(width, height, 21);
        let (jobs, mask) = outpaint(width, height, &sides, shape).unwrap();
        let extended = sides.extend(&image).unwrap();
        for feather in [Feather::Gaussian, Feather::Pixels(3)] {
            let what = format!("{sides:?}, {feather:?}");
            let request = Request::outpaint(image.clone(), sides).with_feather(feather);
            compare(&mut generator, &what, request, (extended.clone(), mask.clone(), jobs.clone()));
        }
    }
}

/// Without noise nothing depends on a window's place in the plan, so boxes whose windows do not meet may be edits of
/// their own.
#[test]
fn boxes_far_apart_may_be_edited_one_by_one() {
    let mut generator = tiny(1);
    let image = noise(120, 90, 22);
    let far = [(5, 5, 6, 6), (90, 10, 9, 4), (50, 60, 12, 12)];
    let mut still = Sampling::default();
    (still.steps, still.temperature, still.choice_temperature) = (4, 0.0, 0.0);
    let mut edit = |image: RgbImage, holes: &[(u32, u32, u32, u32)]| {
        let request = Request::edit(image, boxes(120, 90, holes)).with_class("0").with_sampling(still);
        generator.generate(&request).unwrap().images.remove(0).pixels
    };
    let together = edit(image.clone(), &far);
    let one_by_one = far.into_iter().rev().fold(image.clone(), |image, hole| edit(image, &[hole]));
    assert_ne!(together, image);
    assert!(together == one_by_one, "the pixels differ");
}
