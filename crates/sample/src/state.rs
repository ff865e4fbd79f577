//! A token grid on its way through the steps.

use maskgit_core::Result;
use ndarray::ArrayView2;

use super::noise::Draws;
use super::step::{Kind, Scratch, StepPlan};
use super::{TokenGrid, TokenSpec};

/// A token grid after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridState {
    /// U, the number of tokens masked at the start.
    unknown: usize,
    /// Which positions those are.
    drawn: Vec<bool>,
    /// The same in Halton order; empty for other samplers.
    order: Vec<usize>,
    guess: Vec<i64>,
    known: Vec<bool>,
    /// The opposite of `known`.
    open: Vec<bool>,
    masked: usize,
}

impl GridState {
    /// The number of tokens still masked.
    pub fn masked(&self) -> usize {
        self.masked
    }

    /// The guess so far: kept tokens, and the drawn ones that were masked again. After the first step there is no
    /// `mask_id` in it.
    pub fn guess(&self) -> &[i64] {
        &self.guess
    }

    /// For each position whether its token is kept.
    pub fn known(&self) -> &[bool] {
        &self.known
    }

    pub(crate) fn new(spec: &TokenSpec, order: &[usize], grid: &TokenGrid) -> Self {
        let drawn: Vec<bool> = grid.tokens.iter().map(|&token| token == spec.mask_id).collect();
        let unknown = drawn.iter().filter(|&&drawn| drawn).count();
        Self {
            unknown,
            order: order.iter().copied().filter(|&position| drawn[position]).collect(),
            guess: grid.tokens.clone(),
            known: drawn.iter().map(|drawn| !drawn).collect(),
            open: drawn.clone(),
            masked: unknown,
            drawn,
        }
    }

    /// Whether the step has anything to do here.
    pub(crate) fn is_active(&self, plan: &StepPlan<'_>) -> bool {
        self.masked > 0 || plan.remasked(self.unknown) > 0
    }

    /// The positions whose logits the step reads.
    pub(crate) fn wanted(&self, plan: &StepPlan<'_>) -> &[bool] {
        if plan.revisits() { &self.drawn } else { &self.open }
    }

    /// Draws tokens from the logits `[N, K]`, with guidance also those for the null label, and decides which are kept.
    pub(crate) fn step(
        &mut self,
        plan: &StepPlan<'_>,
        logits: (ArrayView2<'_, f32>, Option<ArrayView2<'_, f32>>),
        seed: u64,
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.draw(plan, logits, seed, scratch)?;
        self.known = self.kept(plan, &scratch.competing);
        self.open = self.known.iter().map(|known| !known).collect();
        self.masked = self.open.iter().filter(|&&open| open).count();
        Ok(())
    }

    /// Writes what is kept; the rest is masked.
    pub(crate) fn write(&self, tokens: &mut [i64], mask_id: i64) {
        for ((token, &guess), &kept) in tokens.iter_mut().zip(&self.guess).zip(&self.known) {
            *token = if kept { guess } else { mask_id };
        }
    }

    /// Draws a token for each position that is wanted, but for those known whose token is only judged, and notes by
    /// what each competes that does: ln p of its token, or, in a predictor step, minus the entropy; plus tau (1 - r)
    /// Gumbel.
    fn draw(
        &mut self,
        plan: &StepPlan<'_>,
        (conditional, unconditional): (ArrayView2<'_, f32>, Option<ArrayView2<'_, f32>>),
        seed: u64,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (step, tau) = (plan.step, plan.tau());
        scratch.competing.clear();
        for position in 0..self.known.len() {
            if !self.wanted(plan)[position] {
                continue;
            }
            let row = conditional.row(position);
            let mut logits = row.as_slice().unwrap_or_default();
            if let Some(unconditional) = &unconditional {
                let null = unconditional.row(position);
                let guided = logits.iter().zip(null).map(|(&c, &u)| c + plan.guidance * (c - u));
                scratch.guided.clear();
                scratch.guided.extend(guided);
                logits = &scratch.guided;
            }
            // The seed and not the index of the grid: a caller may hand over its images in parts.
            let draws = Draws::new(seed, step, position);
            let judged = plan.judges() && self.known[position];
            let confidence = if judged {
                scratch.categorical.log_probability(logits, self.guess[position] as usize)
            } else {
                let (temperature, top_k) = (plan.settings.temperature_at(step), plan.settings.top_k);
                scratch.categorical.draw(logits, temperature, top_k, draws.token).and_then(|drawn| {
                    self.guess[position] = drawn.token as i64;
                    match plan.kind {
                        Kind::Predictor => scratch.categorical.entropy(logits).map(|entropy| -entropy),
                        _ => Ok(drawn.log_probability),
                    }
                })
            }
            .map_err(|error| error.context(format!("seed {seed}, step {step}, position {position}")))?;
            if judged || plan.kind != Kind::Corrector {
                let noise = if tau > 0.0 { tau * draws.gumbel() as f32 } else { 0.0 };
                scratch.competing.push((position, confidence + noise));
            }
        }
        Ok(())
    }

    /// What is known after the step.
    fn kept(&self, plan: &StepPlan<'_>, competing: &[(usize, f32)]) -> Vec<bool> {
        match plan.kind {
            _ if plan.last => vec![true; self.known.len()],
            Kind::Confidence { .. } | Kind::Predictor => {
                let count = plan.settings.schedule.masked_after(plan.at, plan.of, self.unknown, self.masked);
                without_least(competing, count, self.known.clone())
            }
            Kind::Corrector => without_least(competing, plan.remasked(self.unknown), vec![true; self.known.len()]),
            Kind::Halton { .. } => self.revealed(plan),
        }
    }

    /// What is known after a step of a Halton sampler: the first floor(U (1 - gamma(r))) masked positions of the order,
    /// at least one more a step.
    fn revealed(&self, plan: &StepPlan<'_>) -> Vec<bool> {
        let planned = self.unknown as f32 * (1.0 - plan.settings.schedule.mask_ratio(plan.r(), self.unknown));
        let mut known = self.known.clone();
        for &position in self.order.iter().take((planned as usize).max(plan.step + 1)) {
            known[position] = true;
        }
        known
    }
}

/// `known`, and what competes and is not among the `count` least confident. The cut is the `count`-th (0-based) of all
/// confidences in ascending order, positions that do not compete counting as +infinity; what lies strictly below it is
/// masked, so ties mask fewer.
fn without_least(competing: &[(usize, f32)], count: usize, mut known: Vec<bool>) -> Vec<bool> {
    let mut ascending: Vec<f32> = competing.iter().map(|&(_, confidence)| confidence).collect();
    ascending.sort_unstable_by(f32::total_cmp);
    let any_without = ascending.len() < known.len();
    let beyond = if any_without { Some(f32::INFINITY) } else { ascending.last().copied() };
    let cut = ascending.get(count).copied().or(beyond).unwrap_or(f32::INFINITY);
    for &(position, confidence) in competing {
        known[position] = confidence >= cut;
    }
    known
}
