//! The decoding loop.

use super::confidence::Categorical;
use super::noise::Draws;
use super::{Canvas, Observe, Options, Outcome, Predict, Problem, Row, Sampler, StepReport, halton};
use crate::error::{Error, Result};

/// Draws every masked token of every canvas: Google's `parallel_decode`, or a Halton sampler, with guidance.
///
/// Each step predicts all masked tokens of a canvas at once, draws them, keeps some and masks the rest; the last step keeps all.
/// A canvas does not depend on the others. A canvas with nothing masked is left as it is.
///
/// # Errors
///
/// Kind [`Request`](crate::ErrorKind::Request) for options or tokens out of range, [`Cancelled`](crate::ErrorKind::Cancelled) when
/// `observe` says so, [`Engine`](crate::ErrorKind::Engine) when logits are no distribution, and whatever `predict` gives. The canvases
/// then hold what was known so far, and `mask_id` elsewhere.
pub fn decode(
    problem: &Problem,
    canvases: &mut [Canvas],
    options: &Options,
    predict: &mut dyn Predict,
    observe: Observe<'_>,
) -> Result<Outcome> {
    options.validate()?;
    check(problem, canvases)?;
    let (n, k) = (problem.grid.len(), problem.codes);
    let order = match options.sampler {
        Sampler::Confidence | Sampler::ConfidenceRemask | Sampler::PredictorCorrector => Vec::new(),
        Sampler::Halton | Sampler::HaltonRedraw => halton::order(problem.grid),
    };
    let starts: Vec<Start> = canvases.iter().map(|canvas| Start::new(problem, &order, canvas)).collect();
    let mut guesses: Vec<Vec<i64>> = canvases.iter().map(|canvas| canvas.tokens.clone()).collect();
    let mut known: Vec<Vec<bool>> =
        canvases.iter().map(|c| c.tokens.iter().map(|&token| token != problem.mask_id).collect()).collect();
    let given = known.clone();
    let mut masked: Vec<usize> = starts.iter().map(|start| start.unknown).collect();
    let mut outcome = Outcome { masked: vec![Vec::new(); canvases.len()] };
    let mut logits = Vec::new();
    let mut step_state =
        Step { n, k, options, categorical: Categorical::default(), guided: Vec::new(), drawn: Vec::new() };

    for step in options.start_iter..options.steps {
        let plan = Plan::of(step, options);
        let active: Vec<usize> = (0..canvases.len())
            .filter(|&image| masked[image] > 0 || plan.remasked(starts[image].unknown) > 0)
            .collect();
        let guidance = options.guidance.at(step, options.steps);
        let passes = if guidance == 0.0 { &[false][..] } else { &[false, true] };
        let rows: Vec<Row<'_>> = passes
            .iter()
            .flat_map(|&unconditional| active.iter().map(move |&image| (image, unconditional)))
            .filter_map(|(image, unconditional)| {
                let settled = if plan.revisits() { given.get(image) } else { known.get(image) }?;
                canvases.get(image).map(|canvas| Row { image, tokens: &canvas.tokens, settled, unconditional })
            })
            .collect();
        if !rows.is_empty() {
            resize(&mut logits, rows.len(), n * k)?;
            predict.logits(&rows, &mut logits)?;
        }
        let (conditional, unconditional) = logits.split_at(active.len() * n * k);
        for (place, &image) in active.iter().enumerate() {
            let row = place * n * k..(place + 1) * n * k;
            let rows = (&conditional[row.clone()], if guidance == 0.0 { None } else { unconditional.get(row) });
            let seed = canvases[image].seed;
            let settled = if plan.revisits() { &given[image] } else { &known[image] };
            step_state.draw(rows, guidance, (seed, &plan), settled, &known[image], &mut guesses[image])?;
            let unknown = starts[image].unknown;
            known[image] = match plan.kind {
                _ if plan.last => vec![true; n],
                Kind::Confidence { .. } | Kind::Predictor => {
                    let count = options.schedule.masked_after(plan.at, plan.of, unknown, masked[image]);
                    step_state.without_least(count, &known[image])
                }
                Kind::Corrector => step_state.without_least(plan.remasked(unknown), &vec![true; n]),
                Kind::Halton { .. } => starts[image].revealed(step, options, &known[image]),
            };
            masked[image] = known[image].iter().filter(|&&kept| !kept).count();
            for ((token, &guess), &kept) in canvases[image].tokens.iter_mut().zip(&guesses[image]).zip(&known[image]) {
                *token = if kept { guess } else { problem.mask_id };
            }
        }
        for (counts, &count) in outcome.masked.iter_mut().zip(&masked) {
            counts.push(count);
        }
        let report = StepReport { step, steps: options.steps, masked: &masked, tokens: &guesses, known: &known };
        if observe(&report).is_break() {
            return Err(Error::cancelled());
        }
    }
    Ok(outcome)
}

/// Makes room for `rows` times `size` logits; an error when there is no memory for so many.
fn resize(logits: &mut Vec<f32>, rows: usize, size: usize) -> Result<()> {
    let total = rows.checked_mul(size);
    let room = total.map(|total| logits.try_reserve_exact(total.saturating_sub(logits.len())));
    match (total, room) {
        (Some(total), Some(Ok(()))) => {
            logits.resize(total, 0.0);
            Ok(())
        }
        _ => Err(Error::request(format!(
            "no memory for the logits of {rows} passes, {size} numbers each; draw fewer pictures at once"
        ))),
    }
}

/// Checks the problem and the tokens.
fn check(problem: &Problem, canvases: &[Canvas]) -> Result<()> {
    let n = problem.grid.len();
    if n == 0 || problem.codes == 0 || n.checked_mul(problem.codes).is_none_or(|size| size > 1 << 40) {
        return Err(Error::request(format!("a grid of {n} tokens with {} codes cannot be drawn", problem.codes)));
    }
    let is_code = |token: i64| usize::try_from(token).is_ok_and(|token| token < problem.codes);
    if is_code(problem.mask_id) {
        return Err(Error::request(format!("the mask id {} is one of the {} codes", problem.mask_id, problem.codes)));
    }
    for (image, canvas) in canvases.iter().enumerate() {
        if canvas.tokens.len() != n {
            return Err(Error::request(format!("canvas {image} has {} tokens; the grid has {n}", canvas.tokens.len())));
        }
        if let Some(position) = canvas.tokens.iter().position(|&t| t != problem.mask_id && !is_code(t)) {
            return Err(Error::request(format!(
                "canvas {image}: token {} at position {position} is neither a code (0 to {}) nor the mask id {}",
                canvas.tokens[position],
                problem.codes - 1,
                problem.mask_id
            )));
        }
    }
    Ok(())
}

/// Corrector steps are this many fifths of all steps, rounded down.
const CORRECTOR_FIFTHS: usize = 3;

/// Corrector steps mask one in so many tokens again, times 1 - r: fewer from step to step, and none in the last.
const CORRECTED_OF: usize = 2;

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Masked positions compete by the probability of the token drawn; where it `judges`, the tokens revealed so far do too.
    Confidence { judges: bool },
    /// Masked positions compete by the entropy of their logits.
    Predictor,
    /// Masked positions are drawn and kept; the tokens revealed before compete by their probability.
    Corrector,
    /// Positions are revealed in the order of a sequence; where it `redraws`, the tokens revealed so far are drawn again.
    Halton { redraws: bool },
}

/// One step of the loop.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Kind,
    /// The step, 0-based.
    step: usize,
    /// Whether it is the last one, which keeps every token.
    last: bool,
    /// The step among those of its kind, 0-based, and how many these are: what the schedule and the choice temperature count by.
    at: usize,
    of: usize,
}

impl Plan {
    fn of(step: usize, options: &Options) -> Self {
        let steps = options.steps;
        let last = step + 1 == steps;
        let correctors = steps * CORRECTOR_FIFTHS / 5;
        let predictors = steps - correctors;
        let (kind, at, of) = match options.sampler {
            Sampler::Confidence => (Kind::Confidence { judges: false }, step, steps),
            Sampler::ConfidenceRemask => (Kind::Confidence { judges: !last }, step, steps),
            Sampler::PredictorCorrector if step < predictors => (Kind::Predictor, step, predictors),
            Sampler::PredictorCorrector => (Kind::Corrector, step - predictors, correctors),
            Sampler::Halton => (Kind::Halton { redraws: false }, step, steps),
            Sampler::HaltonRedraw => (Kind::Halton { redraws: true }, step, steps),
        };
        Self { kind, step, last, at, of }
    }

    /// r: (step + 1) / steps, among those of its kind.
    fn r(&self) -> f32 {
        (self.at + 1) as f32 / self.of as f32
    }

    /// Whether a revealed token may change, so that its logits are read too.
    fn revisits(&self) -> bool {
        match self.kind {
            Kind::Confidence { judges } => judges,
            Kind::Predictor => false,
            Kind::Corrector => !self.last,
            Kind::Halton { redraws } => redraws,
        }
    }

    /// How many revealed tokens of `unknown` this step may mask or draw again.
    fn remasked(&self, unknown: usize) -> usize {
        match self.kind {
            Kind::Corrector => unknown * (self.of - 1 - self.at) / (CORRECTED_OF * self.of),
            _ if self.revisits() => unknown,
            _ => 0,
        }
    }
}

/// What is fixed for a canvas from the start.
struct Start {
    /// U, the number of tokens masked at the start.
    unknown: usize,
    /// The masked positions in Halton order; empty for the confidence sampler.
    order: Vec<usize>,
}

impl Start {
    fn new(problem: &Problem, order: &[usize], canvas: &Canvas) -> Self {
        let is_masked = |position: usize| canvas.tokens.get(position) == Some(&problem.mask_id);
        Self {
            unknown: canvas.tokens.iter().filter(|&&token| token == problem.mask_id).count(),
            order: order.iter().copied().filter(|&position| is_masked(position)).collect(),
        }
    }

    /// What is known after a step of a Halton sampler: the first floor(U (1 - gamma(r))) masked positions of the order, at
    /// least one more a step.
    fn revealed(&self, step: usize, options: &Options, known: &[bool]) -> Vec<bool> {
        let r = (step + 1) as f32 / options.steps as f32;
        let planned = self.unknown as f32 * (1.0 - options.schedule.mask_ratio(r, self.unknown));
        let mut known = known.to_vec();
        for &position in self.order.iter().take((planned as usize).max(step + 1)) {
            known[position] = true;
        }
        known
    }
}

/// One step of one canvas, with the memory it needs.
struct Step<'a> {
    n: usize,
    k: usize,
    options: &'a Options,
    categorical: Categorical,
    guided: Vec<f32>,
    /// Position and confidence of each token that competes: it may be masked after this step.
    drawn: Vec<(usize, f32)>,
}

impl Step<'_> {
    /// Draws a token for each position that is not `settled`, but for those `known` whose token is only judged, and notes by what each
    /// competes that does: ln p of its token, or, in a predictor step, minus the entropy; plus tau (1 - r) Gumbel.
    fn draw(
        &mut self,
        (conditional, unconditional): (&[f32], Option<&[f32]>),
        guidance: f32,
        (seed, plan): (u64, &Plan),
        settled: &[bool],
        known: &[bool],
        guess: &mut [i64],
    ) -> Result<()> {
        let step = plan.step;
        let tau = if plan.kind == Kind::Corrector { 0.0 } else { self.options.choice_temperature * (1.0 - plan.r()) };
        let (temperature, top_k) = (self.options.temperature_at(step), self.options.top_k);
        let judges = matches!(plan.kind, Kind::Confidence { judges: true } | Kind::Corrector);
        self.drawn.clear();
        for position in (0..self.n).filter(|&position| !settled[position]) {
            let place = position * self.k..(position + 1) * self.k;
            let mut logits = &conditional[place.clone()];
            if let Some(unconditional) = unconditional {
                self.guided.clear();
                self.guided.extend(logits.iter().zip(&unconditional[place]).map(|(&c, &u)| c + guidance * (c - u)));
                logits = &self.guided;
            }
            let draws = Draws::new(seed, step, position);
            let judged = judges && known[position];
            let found = if judged {
                self.categorical.log_probability(logits, guess[position] as usize)
            } else {
                // The seed and not the index of the canvas: a caller may hand over its pictures in parts.
                self.categorical.draw(logits, temperature, top_k, draws.token).and_then(|drawn| {
                    guess[position] = drawn.token as i64;
                    match plan.kind {
                        Kind::Predictor => self.categorical.entropy(logits).map(|entropy| -entropy),
                        _ => Ok(drawn.log_probability),
                    }
                })
            };
            let confidence =
                found.map_err(|error| error.context(format!("seed {seed}, step {step}, position {position}")))?;
            if judged || plan.kind != Kind::Corrector {
                let noise = if tau > 0.0 { tau * draws.gumbel() as f32 } else { 0.0 };
                self.drawn.push((position, confidence + noise));
            }
        }
        Ok(())
    }

    /// `known`, and what competed and is not among the `count` least confident. The cut is the `count`-th (0-based) of all confidences
    /// in ascending order, positions that do not compete counting as +infinity; what lies strictly below it is masked, so ties
    /// mask fewer.
    fn without_least(&self, count: usize, known: &[bool]) -> Vec<bool> {
        let mut ascending: Vec<f32> = self.drawn.iter().map(|&(_, confidence)| confidence).collect();
        ascending.sort_unstable_by(f32::total_cmp);
        let any_without = ascending.len() < known.len();
        let beyond = if any_without { Some(f32::INFINITY) } else { ascending.last().copied() };
        let cut = ascending.get(count).copied().or(beyond).unwrap_or(f32::INFINITY);
        let mut known = known.to_vec();
        for &(position, confidence) in &self.drawn {
            known[position] = confidence >= cut;
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_no_memory_holds_are_an_error() {
        let mut logits = Vec::new();
        for (rows, size) in [(3, usize::MAX / 2), (1, usize::MAX), (1, isize::MAX as usize)] {
            let error = resize(&mut logits, rows, size).expect_err("too many");
            assert_eq!(error.kind(), crate::ErrorKind::Request, "{rows} x {size}");
        }
        resize(&mut logits, 2, 6).expect("little");
        assert_eq!(logits.len(), 12);
        resize(&mut logits, 1, 6).expect("less");
        assert_eq!(logits.len(), 6);
    }
}
