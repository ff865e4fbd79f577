use std::cell::RefCell;
use std::ops::ControlFlow;

use maskgit_core::*;
use maskgit_sample::*;
use ndarray::ArrayViewMut3;

const MASK: i64 = 99;

const SAMPLERS: [Sampler; 5] = [
    Sampler::Confidence,
    Sampler::ConfidenceRemask,
    Sampler::PredictorCorrector,
    Sampler::Halton,
    Sampler::HaltonRedraw,
];

/// Logits that depend on every token of the row, so that an error in one step shows in the next.
struct Mixing {
    k: usize,
    calls: RefCell<Vec<Vec<(usize, bool)>>>,
}

impl Mixing {
    fn new(k: usize) -> Self {
        Self { k, calls: RefCell::default() }
    }

    fn row(&self, tokens: &[i64], unconditional: bool) -> Vec<f32> {
        let state: i64 = tokens.iter().enumerate().map(|(i, t)| (i as i64 + 3) * (t + 1)).sum();
        (0..tokens.len() * self.k)
            .map(|i| {
                ((i as f32 * 0.37 + (state % 1009) as f32).sin()
                    + f32::from(u8::from(unconditional)) * (i as f32).cos())
                    * 2.0
            })
            .collect()
    }
}

impl Predict for Mixing {
    fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let out = out.as_slice_mut().expect("rows without gaps");
        self.calls.borrow_mut().push(rows.iter().map(|row| (row.grid, row.unconditional)).collect());
        let size = out.len() / rows.len();
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(size)) {
            out.copy_from_slice(&self.row(row.tokens, row.unconditional));
        }
        Ok(())
    }
}

fn options(steps: usize) -> Sampling {
    changed!(Sampling::default();
        steps: steps, schedule: Schedule::Cosine, sampler: Sampler::Confidence, choice_temperature: 4.5,
        temperature: 1.0, final_temperature: None, top_k: None, guidance: 0.0, guidance_ramp: false, start_iter: 0
    )
}

fn spec(rows: usize, cols: usize, codes: usize) -> TokenSpec {
    TokenSpec { grid: GridSize { rows: rows as u32, cols: cols as u32 }, codes, mask_id: MASK }
}

fn blank(n: usize, seed: u64) -> TokenGrid {
    TokenGrid { seed, tokens: vec![MASK; n] }
}

fn run(spec: &TokenSpec, grids: &mut [TokenGrid], options: &Sampling) -> Vec<Vec<usize>> {
    let outcome =
        maskgit_sample::run(spec, grids, options, &mut Mixing::new(spec.codes), &mut |_| ControlFlow::Continue(()));
    outcome.expect("a valid request").masked
}

/// The reference, straight from the description in `docs/sampler.md`, in float64 with the standard library's functions
/// and without any of the code under test but the noise and the schedule's ratio.
fn reference(spec: &TokenSpec, grid: &TokenGrid, options: &Sampling) -> Vec<i64> {
    let n = spec.grid.len();
    let model = Mixing::new(spec.codes);
    let mut current = grid.tokens.clone();
    let u = current.iter().filter(|&&t| t == MASK).count();
    let mut result = current.clone();
    for s in options.start_iter..options.steps {
        let (c, nothing) = (model.row(&current, false), model.row(&current, true));
        let w = options.guided().at(s, options.steps);
        let r = (s + 1) as f32 / options.steps as f32;
        let mut confidence = vec![f64::INFINITY; n];
        let mut ids = current.clone();
        for p in (0..n).filter(|&p| current[p] == MASK) {
            let logits: Vec<f64> = (p * spec.codes..(p + 1) * spec.codes)
                .map(|i| f64::from(c[i]) + f64::from(w) * f64::from(c[i] - nothing[i]))
                .collect();
            let total: f64 = logits.iter().map(|l| l.exp()).sum();
            let draws = Draws::new(grid.seed, s, p);
            let mut cumulative = 0.0;
            let id = logits.iter().position(|l| {
                cumulative += l.exp() / total;
                cumulative > draws.token
            });
            let id = id.unwrap_or(spec.codes - 1);
            ids[p] = id as i64;
            let gumbel = -(-draws.choice.ln()).ln();
            confidence[p] =
                (logits[id].exp() / total).ln() + f64::from(options.choice_temperature * (1.0 - r)) * gumbel;
        }
        result = ids.clone();
        let now = current.iter().filter(|&&t| t == MASK).count();
        let planned = (u as f32 * options.schedule.mask_ratio(r, u)).floor() as i64;
        let count = 1.max((now as i64 - 1).min(planned)) as usize;
        let mut sorted = confidence.clone();
        sorted.sort_by(f64::total_cmp);
        let cut = sorted[count.min(n - 1)];
        current = (0..n).map(|p| if confidence[p] < cut { MASK } else { ids[p] }).collect();
    }
    result
}

#[test]
fn equals_the_reference() {
    let mut failures = Vec::new();
    for (case, schedule) in [
        Schedule::Cosine,
        Schedule::Linear,
        Schedule::Square,
        Schedule::Sqrt,
        Schedule::Log,
        Schedule::Exp,
        Schedule::Arccos,
    ]
    .into_iter()
    .enumerate()
    {
        for (rows, cols, codes, steps) in [(8, 8, 17, 8), (5, 7, 40, 12), (1, 9, 3, 4), (16, 16, 32, 6)] {
            for (scale, ramp, start_iter) in [(0.0, false, 0), (1.5, false, 1), (2.0, true, 0)] {
                let spec = spec(rows, cols, codes);
                let options = changed!(options(steps);
                    schedule: schedule, guidance: scale, guidance_ramp: ramp, start_iter: start_iter
                );
                let mut grid = blank(spec.grid.len(), case as u64 * 100 + steps as u64);
                for p in (0..grid.tokens.len()).step_by(3 + case) {
                    grid.tokens[p] = (p % codes) as i64;
                }
                let expected = reference(&spec, &grid, &options);
                let mut grids = [grid];
                run(&spec, &mut grids, &options);
                if grids[0].tokens != expected {
                    failures.push(format!("{schedule} {rows}x{cols} K={codes} T={steps} w={scale} start={start_iter}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn cosine_mask_counts_of_the_published_grid() {
    let spec = spec(16, 16, 8);
    let masked = run(&spec, &mut [blank(256, 1)], &options(8));
    assert_eq!(masked, [[251, 236, 212, 181, 142, 97, 49, 0]]);
    let masked = run(&spec, &mut [blank(256, 1)], &options(12));
    assert_eq!(masked, [[253, 247, 236, 221, 203, 181, 155, 127, 97, 66, 33, 0]]);
}

#[test]
fn halton_reveals_as_published() {
    let spec = spec(16, 16, 8);
    let options = changed!(options(8); sampler: Sampler::Halton, schedule: Schedule::Arccos);
    let masked = run(&spec, &mut [blank(256, 1)], &options);
    let revealed: Vec<usize> = masked[0].iter().map(|m| 256 - m).collect();
    assert_eq!(revealed, [20, 41, 62, 85, 110, 138, 173, 256]);
    let order = halton_order(spec.grid);
    let mut first = Vec::new();
    let mut observe = |report: &StepReport<'_>| {
        first = (0..256).filter(|&p| report.grids[0].known()[p]).collect();
        ControlFlow::Break(())
    };
    let stopped = maskgit_sample::run(&spec, &mut [blank(256, 1)], &options, &mut Mixing::new(8), &mut observe);
    assert_eq!(stopped.expect_err("stopped").kind(), ErrorKind::Cancelled);
    let mut expected = order[..20].to_vec();
    expected.sort_unstable();
    assert_eq!(first, expected);
}

/// Three masked positions, eight steps: all are revealed after the third, and drawn again in each of the others.
#[test]
fn redraw_goes_on_after_all_are_revealed_and_leaves_given_tokens() {
    let spec = spec(4, 4, 11);
    let mut grid = blank(16, 5);
    (0..13).for_each(|i| grid.tokens[i] = (i % 11) as i64);
    let mut seen: Vec<Vec<i64>> = Vec::new();
    for (sampler, calls) in [(Sampler::Halton, 3), (Sampler::HaltonRedraw, 8)] {
        let options = changed!(options(8); sampler: sampler, schedule: Schedule::Arccos);
        let (mut model, mut grids) = (Mixing::new(11), [grid.clone()]);
        let mut observe = |report: &StepReport<'_>| {
            assert_eq!(report.grids[0].guess()[..13], grid.tokens[..13]);
            assert!(report.step < 2 || report.grids[0].masked() == 0);
            if sampler == Sampler::HaltonRedraw && report.step >= 2 {
                seen.push(report.grids[0].guess()[13..].to_vec());
            }
            ControlFlow::Continue(())
        };
        maskgit_sample::run(&spec, &mut grids, &options, &mut model, &mut observe).expect("valid");
        assert_eq!(model.calls.borrow().iter().filter(|rows| !rows.is_empty()).count(), calls, "{sampler}");
    }
    seen.dedup();
    assert!(seen.len() > 1, "the tokens are drawn again: {seen:?}");
}

/// Everything is 1, and surely so; but position 3 is taken for a 2, by `at_three`, until so many of the others are
/// `seen`.
struct Critic {
    seen: usize,
    at_three: f32,
}

impl Predict for Critic {
    fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let out = out.as_slice_mut().expect("rows without gaps");
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(8 * 4)) {
            let seen = row.tokens.iter().filter(|&&token| token == 1).count();
            for (position, logits) in out.chunks_exact_mut(4).enumerate() {
                let token = if position == 3 && seen < self.seen { 2 } else { 1 };
                logits.fill(0.0);
                logits[token] = if position == 3 { self.at_three } else { 3.0 + position as f32 / 8.0 };
            }
        }
        Ok(())
    }
}

/// The plain sampler keeps the token that the others find out of place, remasking draws it again.
#[test]
fn remasking_takes_back_what_the_rest_does_not_bear_out() {
    let spec = spec(2, 4, 4);
    for (sampler, kept, drawn) in [
        (Sampler::Confidence, [true; 8], 2),
        (Sampler::ConfidenceRemask, [true, true, true, true, true, false, true, true], 1),
    ] {
        let options = changed!(options(8);
            sampler: sampler, choice_temperature: 0.0, temperature: 0.0, schedule: Schedule::Linear
        );
        let (mut grids, mut known) = ([blank(8, 1)], Vec::new());
        let mut critic = Critic { seen: 4, at_three: 9.0 };
        let mut observe = |report: &StepReport<'_>| {
            known.push(report.grids[0].known()[3]);
            ControlFlow::Continue(())
        };
        let outcome = maskgit_sample::run(&spec, &mut grids, &options, &mut critic, &mut observe).expect("valid");
        assert_eq!(outcome.masked, [[7, 6, 5, 4, 3, 2, 1, 0]], "{sampler}");
        assert_eq!(known, kept, "{sampler}");
        assert_eq!(grids[0].tokens, [1, 1, 1, drawn, 1, 1, 1, 1], "{sampler}");
    }
}

/// 12 steps of 64 tokens are five of the predictor, with the cosine schedule's counts for five, and seven of the
/// corrector, which take back 64/2 times 6/7, 5/7 ... 1/7, rounded down; of 8 that are unknown 8/2 times that, so that
/// the last two have nothing to do.
#[test]
fn predictor_then_corrector() {
    let spec = spec(8, 8, 11);
    let options = changed!(options(12); sampler: Sampler::PredictorCorrector);
    assert_eq!(run(&spec, &mut [blank(64, 3)], &options), [[60, 51, 37, 19, 1, 27, 22, 18, 13, 9, 4, 0]]);
    let mut grid = blank(64, 3);
    grid.tokens[8..].fill(7);
    let (mut model, mut grids) = (Mixing::new(11), [grid]);
    let outcome = maskgit_sample::run(&spec, &mut grids, &options, &mut model, &mut |_| ControlFlow::Continue(()));
    assert_eq!(outcome.expect("valid").masked, [[7, 6, 4, 2, 1, 3, 2, 2, 1, 1, 0, 0]]);
    assert_eq!(model.calls.borrow().len(), 11, "nothing is asked of the model where nothing can change");
}

/// As the test of remasking above: the corrector takes back the token that the others do not bear out, with two of the
/// right ones, which are drawn again as they were.
#[test]
fn the_corrector_takes_back_what_the_rest_does_not_bear_out() {
    let sampler = Sampler::PredictorCorrector;
    let options =
        changed!(options(8); sampler: sampler, choice_temperature: 0.0, temperature: 0.0, schedule: Schedule::Linear);
    let (mut grids, mut steps) = ([blank(8, 1)], Vec::new());
    let mut critic = Critic { seen: 5, at_three: 3.375 };
    let mut observe = |report: &StepReport<'_>| {
        steps.push((report.grids[0].guess()[3], report.grids[0].masked(), report.grids[0].known()[3]));
        ControlFlow::Continue(())
    };
    maskgit_sample::run(&spec(2, 4, 4), &mut grids, &options, &mut critic, &mut observe).expect("valid");
    // The predictor keeps the 2; the first corrector step, which sees six others, masks it, the second, which sees
    // five, draws it.
    assert_eq!(steps[3..], [(2, 1, true), (2, 3, false), (1, 2, true), (1, 1, true), (1, 0, true)]);
    assert_eq!(grids[0].tokens, [1; 8]);
}

/// One token of probability 0.4 and thirty of 0.02 each, everywhere, of which those that are seen are found right.
/// Where the token drawn decides what is kept, the likely one is drawn again and again until it is there; the predictor
/// keeps the proportion.
#[test]
fn the_predictor_prefers_no_token() {
    struct Independent;
    impl Predict for Independent {
        fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
            let out = out.as_slice_mut().expect("rows without gaps");
            for (row, out) in rows.iter().zip(out.chunks_exact_mut(64 * 31)) {
                for (&token, logits) in row.tokens.iter().zip(out.chunks_exact_mut(31)) {
                    logits.fill(0.02f32.ln());
                    logits[0] = 0.4f32.ln();
                    if let Some(seen) = logits.get_mut(token as usize) {
                        *seen = 9.0;
                    }
                }
            }
            Ok(())
        }
    }
    let likely =
        |sampler| {
            let options = changed!(options(16); sampler: sampler);
            let mut grids: Vec<TokenGrid> = (0..64).map(|seed| blank(64, seed)).collect();
            maskgit_sample::run(&spec(8, 8, 31), &mut grids, &options, &mut Independent, &mut |_| {
                ControlFlow::Continue(())
            })
            .expect("valid");
            grids.iter().flat_map(|grid| &grid.tokens).filter(|&&token| token == 0).count() as f64 / 4096.0
        };
    let (confidence, predictor) = (likely(Sampler::Confidence), likely(Sampler::PredictorCorrector));
    // Six standard deviations of 4096 draws.
    assert!((predictor - 0.4).abs() < 0.046, "{predictor}");
    assert!(confidence > 0.6, "{confidence}");
}

#[test]
fn known_tokens_never_change_and_all_become_known() {
    for sampler in SAMPLERS {
        for keep in [0, 1, 5, 40, 62, 63, 64] {
            let spec = spec(8, 8, 11);
            let mut grid = blank(64, 3);
            (0..keep).for_each(|i| grid.tokens[i * 29 % 64] = (i % 11) as i64);
            let before = grid.tokens.clone();
            let mut last = 65;
            let mut observe = |report: &StepReport<'_>| {
                let corrects = sampler == Sampler::PredictorCorrector && report.step >= 4;
                assert!(
                    corrects || report.grids[0].masked() < last || last == 0 || report.grids[0].masked() == 1,
                    "{} after {last}",
                    report.grids[0].masked()
                );
                last = report.grids[0].masked();
                assert!(report.grids[0].guess().iter().all(|&t| t != MASK));
                for (p, &token) in before.iter().enumerate().filter(|(_, t)| **t != MASK) {
                    assert!(report.grids[0].known()[p] && report.grids[0].guess()[p] == token, "position {p}");
                }
                ControlFlow::Continue(())
            };
            let mut grids = [grid];
            let options = changed!(options(8); sampler: sampler);
            maskgit_sample::run(&spec, &mut grids, &options, &mut Mixing::new(11), &mut observe).expect("valid");
            assert_eq!(last, 0);
            for (after, before) in grids[0].tokens.iter().zip(&before) {
                assert!((0..11).contains(after) && (*before == MASK || before == after));
            }
        }
    }
}

#[test]
fn all_known_asks_the_model_nothing() {
    let spec = spec(4, 4, 5);
    let mut grids = [TokenGrid { seed: 0, tokens: vec![2; 16] }];
    let mut model = Mixing::new(5);
    let outcome = maskgit_sample::run(&spec, &mut grids, &options(3), &mut model, &mut |_| ControlFlow::Continue(()));
    assert_eq!(outcome.expect("valid").masked, [[0, 0, 0]]);
    assert_eq!(grids[0].tokens, [2; 16]);
    assert!(model.calls.borrow().is_empty());
}

/// With one position unknown the reference masks it again in every step but the last.
#[test]
fn one_unknown_is_drawn_in_the_last_step() {
    let spec = spec(4, 4, 5);
    let mut grid = TokenGrid { seed: 0, tokens: vec![2; 16] };
    grid.tokens[7] = MASK;
    assert_eq!(run(&spec, &mut [grid], &options(4)), [[1, 1, 1, 0]]);
    assert_eq!(run(&self::spec(1, 1, 5), &mut [blank(1, 0)], &options(4)), [[0, 0, 0, 0]]);
}

/// Equal confidences are not below the cut: nothing is masked again.
#[test]
fn ties_mask_fewer() {
    struct Flat;
    impl Predict for Flat {
        fn logits(&mut self, _: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
            let out = out.as_slice_mut().expect("rows without gaps");
            out.fill(0.25);
            Ok(())
        }
    }
    let spec = spec(4, 4, 6);
    let options = changed!(options(8); choice_temperature: 0.0);
    let outcome =
        maskgit_sample::run(&spec, &mut [blank(16, 1)], &options, &mut Flat, &mut |_| ControlFlow::Continue(()));
    assert_eq!(outcome.expect("valid").masked[0][0], 0);
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let spec = spec(6, 6, 13);
    for (sampler, scale) in [
        (Sampler::Confidence, 0.0),
        (Sampler::Confidence, 1.0),
        (Sampler::ConfidenceRemask, 0.0),
        (Sampler::PredictorCorrector, 0.5),
        (Sampler::Halton, 0.5),
    ] {
        let options = changed!(options(7); sampler: sampler, guidance: scale, guidance_ramp: true);
        let mut batch: Vec<TokenGrid> = (0..5).map(|i| blank(36, 40 + i)).collect();
        batch[1].tokens[..30].fill(3);
        batch[3].tokens.fill(1);
        let mut single = batch.clone();
        run(&spec, &mut batch, &options);
        for grid in &mut single {
            run(&spec, std::slice::from_mut(grid), &options);
        }
        assert_eq!(batch, single);
        assert_ne!(batch[0].tokens, batch[2].tokens);
    }
}

#[test]
fn start_iter_skips_steps_but_keeps_their_schedule() {
    let spec = spec(16, 16, 8);
    let masked = run(&spec, &mut [blank(256, 1)], &changed!(options(8); start_iter: 2));
    assert_eq!(masked, [[212, 181, 142, 97, 49, 0]]);
}

#[test]
fn guidance_runs_the_model_twice_and_only_when_asked() {
    let spec = spec(2, 2, 3);
    let mut model = Mixing::new(3);
    let go_on = &mut |_: &StepReport<'_>| ControlFlow::Continue(());
    maskgit_sample::run(&spec, &mut [blank(4, 1), blank(4, 2)], &options(1), &mut model, go_on).expect("valid");
    let guided = changed!(options(1); guidance: 2.0, guidance_ramp: false);
    maskgit_sample::run(&spec, &mut [blank(4, 1), blank(4, 2)], &guided, &mut model, go_on).expect("valid");
    let expected = [vec![(0, false), (1, false)], vec![(0, false), (1, false), (0, true), (1, true)]];
    assert_eq!(*model.calls.borrow(), expected);
    let ramp = Guidance { scale: 3.0, ramp: true };
    assert_eq!([ramp.at(0, 4), ramp.at(1, 4), ramp.at(3, 4)], [0.75, 1.5, 3.0]);
}

#[test]
fn the_temperature_goes_from_the_first_to_the_last_step() {
    let over = |steps, temperature, final_temperature| {
        let options = changed!(options(steps); temperature: temperature, final_temperature: final_temperature);
        (0..steps).map(|step| options.temperature_at(step)).collect::<Vec<_>>()
    };
    assert_eq!(over(3, 1.5, None), [1.5; 3]);
    assert_eq!(over(5, 1.0, Some(0.0)), [1.0, 0.75, 0.5, 0.25, 0.0]);
    assert_eq!(over(1, 2.0, Some(0.5)), [2.0]);
    // Both ends exactly, whatever rounding does between.
    let falling = over(24, 1.2, Some(0.4));
    assert_eq!((falling[0], falling[23]), (1.2, 0.4));
    assert!(falling.windows(2).all(|pair| pair[1] < pair[0]));
    // The step counts in the whole schedule, also when the first ones are left out.
    assert_eq!(changed!(options(5); final_temperature: Some(0.0), start_iter: 2).temperature_at(2), 0.5);
}

#[test]
fn bad_options_and_tokens_are_refused() {
    let good = options(8);
    let bad = [
        changed!(good; steps: 0),
        changed!(good; steps: maskgit_core::sampling::MAX_STEPS + 1),
        changed!(good; start_iter: 8),
        changed!(good; choice_temperature: -1.0),
        changed!(good; choice_temperature: f32::NAN),
        changed!(good; temperature: f32::INFINITY),
        changed!(good; final_temperature: Some(f32::NAN)),
        changed!(good; final_temperature: Some(-0.5)),
        changed!(good; top_k: Some(0)),
        changed!(good; guidance: -0.5, guidance_ramp: false),
        changed!(good; schedule: Schedule::Power(0.0)),
    ];
    for options in bad {
        assert_eq!(options.validate().expect_err("out of range").kind(), ErrorKind::Request, "{options:?}");
    }
    let go_on = &mut |_: &StepReport<'_>| ControlFlow::Continue(());
    for (spec, tokens) in [
        (spec(2, 2, 4), vec![MASK; 3]),
        (spec(2, 2, 4), vec![0, 1, 4, MASK]),
        (spec(2, 2, 4), vec![0, 1, -1, MASK]),
        (spec(2, 2, 100), vec![0; 4]),
        (spec(0, 2, 4), vec![]),
        (spec(usize::MAX, 2, 4), vec![]),
    ] {
        let result =
            maskgit_sample::run(&spec, &mut [TokenGrid { seed: 0, tokens }], &good, &mut Mixing::new(4), go_on);
        assert_eq!(result.expect_err("invalid").kind(), ErrorKind::Request, "{spec:?}");
    }
}

#[test]
fn a_model_that_gives_nan_is_an_error() {
    struct Broken;
    impl Predict for Broken {
        fn logits(&mut self, _: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
            let out = out.as_slice_mut().expect("rows without gaps");
            out.fill(f32::NAN);
            Ok(())
        }
    }
    let result = maskgit_sample::run(&spec(2, 2, 3), &mut [blank(4, 0)], &options(2), &mut Broken, &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(result.expect_err("no distribution").kind(), ErrorKind::Engine);
}

#[test]
fn options_have_names() {
    for sampler in SAMPLERS {
        assert_eq!(sampler.to_string().parse::<Sampler>().expect("own name"), sampler);
    }
    assert!("random".parse::<Sampler>().is_err());
}

/// Fills every row with the same logits.
struct Constant(Vec<f32>, Vec<f32>);

impl Predict for Constant {
    fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let out = out.as_slice_mut().expect("rows without gaps");
        let size = out.len() / rows.len();
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(size)) {
            out.copy_from_slice(if row.unconditional { &self.1 } else { &self.0 });
        }
        Ok(())
    }
}

/// c + w (c - u) by hand for one position: c = (2, 1, 0), u = (2, 0, -4). w = 0.5 gives (2, 1.5, 2), w = 0.25 (2, 1.25,
/// 1), w = 1 (2, 2, 4).
#[test]
fn guidance_equals_hand_computation() {
    let mut model = Constant(vec![2.0, 1.0, 0.0], vec![2.0, 0.0, -4.0]);
    let go_on = &mut |_: &StepReport<'_>| ControlFlow::Continue(());
    let mut likeliest = |guidance: Guidance, steps, start_iter| {
        let mut grids = [blank(1, 0)];
        let options = changed!(options(steps); temperature: 0.0, guidance: guidance.scale, guidance_ramp: guidance.ramp,
            start_iter: start_iter);
        maskgit_sample::run(&spec(1, 1, 3), &mut grids, &options, &mut model, go_on).expect("valid");
        grids[0].tokens[0]
    };
    let constant = |scale| Guidance { scale, ramp: false };
    assert_eq!([0.0, 0.25, 0.5, 1.0].map(|w| likeliest(constant(w), 1, 0)), [0, 0, 0, 2]);
    // A ramp to 1 has w = 0.25 in the first of four steps, which keeps the one token there is, and 1 in the last.
    let ramp = Guidance { scale: 1.0, ramp: true };
    assert_eq!([likeliest(ramp, 4, 0), likeliest(ramp, 4, 3)], [0, 2]);
}

/// The logits of known positions, with the label and without, are NaN here.
#[test]
fn only_masked_positions_are_read() {
    let known = [true, false, true, false];
    let row: Vec<f32> = known.iter().flat_map(|&known| if known { [f32::NAN; 3] } else { [0.0, 1.0, 2.0] }).collect();
    let guided = changed!(options(1); guidance: 1.0, guidance_ramp: false);
    let mut grids = [TokenGrid { seed: 5, tokens: known.map(|known| if known { 1 } else { MASK }).to_vec() }];
    let mut model = Constant(row.clone(), row);
    maskgit_sample::run(&spec(2, 2, 3), &mut grids, &guided, &mut model, &mut |_| ControlFlow::Continue(()))
        .expect("valid");
    assert_eq!([grids[0].tokens[0], grids[0].tokens[2]], [1, 1]);
}

#[test]
fn bad_logits_are_an_error_that_says_where() {
    let inf = f32::INFINITY;
    for bad in [[f32::NAN, 0.0, 0.0], [0.0, inf, 0.0], [-inf, -inf, -inf]] {
        let mut logits = vec![0.0; 12];
        logits[6..9].copy_from_slice(&bad);
        let mut model = Constant(logits, vec![]);
        let mut grids = [blank(4, 77)];
        let go_on = &mut |_: &StepReport<'_>| ControlFlow::Continue(());
        let error =
            maskgit_sample::run(&spec(2, 2, 3), &mut grids, &options(2), &mut model, go_on).expect_err("bad logits");
        assert_eq!(error.kind(), ErrorKind::Engine);
        assert!(error.to_string().starts_with("seed 77, step 0, position 2: "), "{error}");
        assert_eq!(grids[0].tokens, [MASK; 4], "no guess of a failed step is kept");
    }
}

#[test]
fn cancelling_keeps_what_is_known_so_far() {
    let spec = spec(8, 8, 11);
    let mut grids = [blank(64, 3)];
    let mut seen = (Vec::new(), Vec::new());
    let mut observe = |report: &StepReport<'_>| {
        seen = (report.grids[0].guess().to_vec(), report.grids[0].known().to_vec());
        if report.step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut model = Mixing::new(11);
    let error = maskgit_sample::run(&spec, &mut grids, &options(8), &mut model, &mut observe).expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(model.calls.borrow().len(), 4, "no step is run after the cancel");
    let expected: Vec<i64> = seen.0.iter().zip(&seen.1).map(|(&t, &known)| if known { t } else { MASK }).collect();
    assert_eq!(grids[0].tokens, expected);
    assert!(expected.contains(&MASK) && expected.iter().any(|&t| t != MASK));
}

#[test]
fn an_error_of_the_model_stops_the_loop() {
    struct Failing(usize);
    impl Predict for Failing {
        fn logits(&mut self, _: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
            let out = out.as_slice_mut().expect("rows without gaps");
            self.0 += 1;
            out.fill(0.5);
            if self.0 == 2 { Err(Error::engine("the device is gone")) } else { Ok(()) }
        }
    }
    let mut model = Failing(0);
    let go_on = &mut |_: &StepReport<'_>| ControlFlow::Continue(());
    let result = maskgit_sample::run(&spec(4, 4, 3), &mut [blank(16, 1)], &options(6), &mut model, go_on);
    assert_eq!((result.expect_err("failed").to_string().as_str(), model.0), ("the device is gone", 2));
}
