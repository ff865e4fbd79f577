//! The loop against a second one, written straight from the papers and `docs/sampler.md`: slow, in float64, one
//! position at a time. They share the noise and nothing else, not even the schedule.

use std::f64::consts::FRAC_PI_2;
use std::ops::ControlFlow;

use maskgit_core::*;
use maskgit_sample::*;
use ndarray::ArrayViewMut3;

const MASK: i64 = -1;

/// Independent random logits for every (tokens of the row, label or not), spread over -`spread`..`spread`.
struct Random {
    spread: f32,
}

impl Random {
    fn row(&self, tokens: &[i64], unconditional: bool, size: usize) -> Vec<f32> {
        let start = 0xcbf2_9ce4_8422_2325 ^ u64::from(unconditional);
        let mut state = tokens.iter().fold(start, |h, &t| (h ^ t as u64).wrapping_mul(0x0100_0000_01b3));
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 16_777_216.0
        };
        (0..size).map(|_| (next() * 2.0 - 1.0) * self.spread).collect()
    }
}

impl Predict for Random {
    fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let out = out.as_slice_mut().expect("rows without gaps");
        let size = out.len() / rows.len();
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(size)) {
            out.copy_from_slice(&self.row(row.tokens, row.unconditional, size));
        }
        Ok(())
    }
}

/// gamma(r) in float64. The cases below have only such U and T that float32 gives the same counts.
fn gamma(schedule: Schedule, r: f64, unknown: f64) -> f64 {
    match schedule {
        Schedule::Linear => 1.0 - r,
        Schedule::Square => 1.0 - r * r,
        Schedule::Cubic => 1.0 - r * r * r,
        Schedule::Sqrt => 1.0 - r.sqrt(),
        Schedule::Power(x) => 1.0 - r.powf(f64::from(x)),
        Schedule::Cosine => (FRAC_PI_2 * r).cos(),
        Schedule::Log => -r.log2() / unknown.log2(),
        Schedule::Exp => 1.0 - (-unknown.log2() * (1.0 - r)).exp2(),
        Schedule::Arccos => r.acos() / FRAC_PI_2,
        other => unreachable!("{other} has no second definition here"),
    }
}

/// A Halton coordinate, by writing the digits out and reading them backwards.
fn halton_cell(index: usize, base: usize, size: usize) -> usize {
    let (mut digits, mut rest) = (Vec::new(), index);
    while rest > 0 {
        digits.push(rest % base);
        rest /= base;
    }
    let mirrored = digits.iter().fold(0, |value, digit| value * base + digit);
    mirrored * size / base.pow(digits.len() as u32)
}

/// The probabilities that a token is drawn with.
fn proposal(logits: &[f64], temperature: f64, top_k: Option<usize>) -> Vec<f64> {
    let mut by_size: Vec<usize> = (0..logits.len()).collect();
    by_size.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    by_size.truncate(if temperature == 0.0 { 1 } else { top_k.unwrap_or(usize::MAX) });
    let max = logits[by_size[0]];
    let heat = if temperature == 0.0 { 1.0 } else { temperature };
    let weight = |i: usize| if by_size.contains(&i) { ((logits[i] - max) / heat).exp() } else { 0.0 };
    let weights: Vec<f64> = (0..logits.len()).map(weight).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// The whole decode of one grid; also the numbers masked after each step.
fn reference(model: &Random, spec: &TokenSpec, grid: &TokenGrid, options: &Sampling) -> (Vec<i64>, Vec<usize>) {
    let (n, k) = (spec.grid.len(), spec.codes);
    let mut tokens = grid.tokens.clone();
    let unknown = tokens.iter().filter(|&&t| t == MASK).count();
    let mut order: Vec<usize> = Vec::new();
    for index in 1.. {
        if order.len() == unknown {
            break;
        }
        let row = halton_cell(index, 2, spec.grid.rows as usize);
        let position = row * spec.grid.cols as usize + halton_cell(index, 3, spec.grid.cols as usize);
        if tokens[position] == MASK && !order.contains(&position) {
            order.push(position);
        }
    }
    let mut counts = Vec::new();
    for step in options.start_iter..options.steps {
        let r = (step + 1) as f64 / options.steps as f64;
        let ramp = if options.guidance_ramp { r } else { 1.0 };
        let first = f64::from(options.temperature);
        let last = options.final_temperature.map_or(first, f64::from);
        let temperature = first + (last - first) * step as f64 / (options.steps - 1) as f64;
        let w = f64::from(options.guidance) * ramp;
        let (with, without) = (model.row(&tokens, false, n * k), model.row(&tokens, true, n * k));
        // Of the predictor and corrector: two fifths of the steps, rounded up, are the predictor's.
        let predictors = (options.steps * 2).div_ceil(5);
        let split = options.sampler == Sampler::PredictorCorrector;
        let corrects = split && step >= predictors;
        let predicts = split && !corrects;
        let schedule_r = if predicts { (step + 1) as f64 / predictors as f64 } else { r };
        let mut confidence = vec![f64::INFINITY; n];
        let mut guess = tokens.clone();
        let redrawn = corrects || matches!(options.sampler, Sampler::HaltonRedraw | Sampler::ConfidenceRemask);
        for position in (0..n).filter(|&p| tokens[p] == MASK || (redrawn && grid.tokens[p] == MASK)) {
            let logit = |i: usize| {
                let (c, u) = (f64::from(with[position * k + i]), f64::from(without[position * k + i]));
                c + w * (c - u)
            };
            let logits: Vec<f64> = (0..k).map(logit).collect();
            let draws = Draws::new(grid.seed, step, position);
            let mut cumulative = 0.0;
            let chances = proposal(&logits, temperature, options.top_k);
            let token = chances.iter().position(|p| {
                cumulative += p;
                cumulative > draws.token
            });
            let mut token = token.expect("the noise is below the sum");
            let revealed = tokens[position] != MASK;
            if options.sampler != Sampler::HaltonRedraw && revealed {
                token = tokens[position] as usize;
            }
            guess[position] = token as i64;
            let gumbel = -(-draws.choice.ln()).ln();
            let p = proposal(&logits, 1.0, None);
            let sure = if predicts { p.iter().map(|p| p * p.ln()).sum() } else { p[token].ln() };
            let noise = f64::from(options.choice_temperature) * (1.0 - schedule_r) * gumbel;
            confidence[position] = match corrects {
                true if revealed => sure,
                true => f64::INFINITY,
                false => sure + noise,
            };
        }
        let now = tokens.iter().filter(|&&t| t == MASK).count();
        let ratio = gamma(options.schedule, schedule_r, unknown as f64).clamp(1e-6, 1.0);
        let planned = (unknown as f64 * ratio).floor() as usize;
        let masked: Vec<usize> = if step + 1 == options.steps || (now == 0 && !corrects) {
            Vec::new()
        } else if matches!(options.sampler, Sampler::Halton | Sampler::HaltonRedraw) {
            let share = 1.0 - gamma(options.schedule, r, unknown as f64);
            let revealed = ((unknown as f64 * share).floor() as usize).max(step + 1);
            order.iter().copied().skip(revealed).collect()
        } else if corrects {
            let left = (options.steps - 1 - step) as f64 / (options.steps - predictors) as f64;
            let mut least: Vec<usize> = (0..n).filter(|&p| confidence[p].is_finite()).collect();
            least.sort_by(|&a, &b| confidence[a].total_cmp(&confidence[b]));
            least.truncate((unknown as f64 / 2.0 * left + 1e-9).floor() as usize);
            least.sort_unstable();
            least
        } else {
            let mut ascending = confidence.clone();
            ascending.sort_by(f64::total_cmp);
            let cut = ascending[planned.min(now - 1).max(1).min(n - 1)];
            (0..n).filter(|&p| confidence[p] < cut).collect()
        };
        tokens = guess;
        for &position in &masked {
            tokens[position] = MASK;
        }
        counts.push(masked.len());
    }
    (tokens, counts)
}

#[test]
fn equals_a_loop_written_from_the_papers() {
    let (mut failures, mut cases) = (Vec::new(), 0);
    let schedules = [
        Schedule::Cosine,
        Schedule::Square,
        Schedule::Cubic,
        Schedule::Sqrt,
        Schedule::Power(2.5),
        Schedule::Log,
        Schedule::Exp,
        Schedule::Arccos,
    ];
    for (number, schedule) in schedules.into_iter().enumerate() {
        for (rows, cols, codes, steps, start_iter) in [(8, 8, 16, 10, 0), (5, 7, 33, 11, 2), (9, 18, 5, 8, 0)] {
            for (temperature, final_temperature, top_k) in [
                (1.0, None, None),
                (0.6, None, None),
                (1.5, Some(0.3), Some(4)),
                (1.0, None, Some(3)),
                (0.0, None, None),
                (1.2, Some(0.0), None),
                (0.5, Some(1.1), None),
            ] {
                for (sampler, choice_temperature, scale, ramp) in [
                    (Sampler::Confidence, 4.5, 0.0, false),
                    (Sampler::Confidence, 0.0, 1.5, true),
                    (Sampler::ConfidenceRemask, 2.0, 0.5, false),
                    (Sampler::PredictorCorrector, 2.0, 0.5, true),
                    (Sampler::Halton, 4.5, 0.8, false),
                    (Sampler::HaltonRedraw, 0.0, 0.8, false),
                ] {
                    let options = changed!(Sampling::default();
                        steps: steps, schedule: schedule, sampler: sampler, choice_temperature: choice_temperature,
                        temperature: temperature, final_temperature: final_temperature, top_k: top_k, guidance: scale,
                        guidance_ramp: ramp, start_iter: start_iter
                    );
                    let spec = TokenSpec { grid: GridSize { rows, cols }, codes, mask_id: MASK };
                    let mut tokens = vec![MASK; (rows * cols) as usize];
                    tokens.iter_mut().step_by(4 + number).for_each(|token| *token = 2);
                    let mut grids = [TokenGrid { seed: 1000 + number as u64, tokens }];
                    let mut model = Random { spread: 3.0 };
                    let expected = reference(&model, &spec, &grids[0], &options);
                    let go_on = &mut |_: &StepReport<'_>| ControlFlow::Continue(());
                    let outcome = maskgit_sample::run(&spec, &mut grids, &options, &mut model, go_on).expect("valid");
                    cases += 1;
                    if grids[0].tokens != expected.0 || outcome.masked[0] != expected.1 {
                        failures
                            .push(format!("{rows}x{cols} {options:?}: {:?} for {:?}", outcome.masked[0], expected.1));
                    }
                }
            }
        }
    }
    assert_eq!(cases, 1008);
    assert!(failures.is_empty(), "{} of {cases}: {failures:#?}", failures.len());
}

/// The tokens of a whole decode, one step, follow the softmax of the guided logits: Pearson's statistic over all
/// positions and codes stays under its 99.99% quantile (12 positions of 5 degrees of freedom each: 60, quantile 107).
#[test]
fn decoded_tokens_follow_the_guided_softmax() {
    const N: usize = 12;
    const K: usize = 6;
    let mut model = Random { spread: 1.2 };
    let w = 0.5;
    let (with, without) = (model.row(&[MASK; N], false, N * K), model.row(&[MASK; N], true, N * K));
    let options = changed!(Sampling::default();
        steps: 1, schedule: Schedule::Cosine, sampler: Sampler::Confidence, choice_temperature: 4.5, temperature: 1.0,
        final_temperature: None, top_k: None, guidance: w, guidance_ramp: false, start_iter: 0
    );
    let spec = TokenSpec { grid: GridSize { rows: 3, cols: 4 }, codes: K, mask_id: MASK };
    let pictures = 40_000;
    let mut grids: Vec<TokenGrid> = (0..pictures).map(|seed| TokenGrid { seed, tokens: vec![MASK; N] }).collect();
    maskgit_sample::run(&spec, &mut grids, &options, &mut model, &mut |_| ControlFlow::Continue(())).expect("valid");
    let mut chi2 = 0.0;
    for position in 0..N {
        let logit = |i: usize| {
            let (c, u) = (f64::from(with[position * K + i]), f64::from(without[position * K + i]));
            c + f64::from(w) * (c - u)
        };
        let chances = proposal(&(0..K).map(logit).collect::<Vec<_>>(), 1.0, None);
        for (code, chance) in chances.iter().enumerate() {
            let count = grids.iter().filter(|grid| grid.tokens[position] == code as i64).count() as f64;
            let expected = pictures as f64 * chance;
            chi2 += (count - expected).powi(2) / expected;
        }
    }
    assert!(chi2 < 107.0, "chi-square {chi2}");
}
