//! What a step of the loop is.

use maskgit_core::{Sampler, Sampling};

use super::confidence::Categorical;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Masked positions compete by the probability of the token drawn; where it `judges`, the tokens revealed so far do
    /// too.
    Confidence { judges: bool },
    /// Masked positions compete by the entropy of their logits.
    Predictor,
    /// Masked positions are drawn and kept; the tokens revealed before compete by their probability.
    Corrector,
    /// Positions are revealed in the order of a sequence; where it `redraws`, the tokens revealed so far are drawn
    /// again.
    Halton { redraws: bool },
}

/// One step of the loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepPlan<'a> {
    pub(crate) settings: &'a Sampling,
    pub(crate) kind: Kind,
    /// The step, 0-based.
    pub(crate) step: usize,
    /// Whether it is the last one, which keeps every token.
    pub(crate) last: bool,
    /// The step among those of its kind, 0-based, and how many these are: what the schedule and the choice temperature
    /// count by.
    pub(crate) at: usize,
    pub(crate) of: usize,
    /// w of this step.
    pub(crate) guidance: f32,
}

impl<'a> StepPlan<'a> {
    pub(crate) fn new(step: usize, settings: &'a Sampling) -> Self {
        let steps = settings.steps;
        let last = step + 1 == steps;
        let correctors = settings.corrector_steps();
        let predictors = steps - correctors;
        let (kind, at, of) = match settings.sampler {
            Sampler::ConfidenceRemask => (Kind::Confidence { judges: !last }, step, steps),
            Sampler::PredictorCorrector if step < predictors => (Kind::Predictor, step, predictors),
            Sampler::PredictorCorrector => (Kind::Corrector, step - predictors, correctors),
            Sampler::Halton => (Kind::Halton { redraws: false }, step, steps),
            Sampler::HaltonRedraw => (Kind::Halton { redraws: true }, step, steps),
            // `Sampler` may grow; here is every one that it has.
            _ => (Kind::Confidence { judges: false }, step, steps),
        };
        Self { settings, kind, step, last, at, of, guidance: settings.guided().at(step, steps) }
    }

    /// Whether the step also runs the rows with the null label.
    pub(crate) fn is_guided(&self) -> bool {
        self.guidance != 0.0
    }

    /// r: (step + 1) / steps, among those of its kind.
    pub(crate) fn r(&self) -> f32 {
        (self.at + 1) as f32 / self.of as f32
    }

    /// How much Gumbel noise the confidence gets.
    pub(crate) fn tau(&self) -> f32 {
        if self.kind == Kind::Corrector { 0.0 } else { self.settings.choice_temperature * (1.0 - self.r()) }
    }

    /// Whether the step judges revealed tokens by their probability, instead of drawing them again.
    pub(crate) fn judges(&self) -> bool {
        matches!(self.kind, Kind::Confidence { judges: true } | Kind::Corrector)
    }

    /// Whether a revealed token may change, so that its logits are read too.
    pub(crate) fn revisits(&self) -> bool {
        match self.kind {
            Kind::Confidence { judges } => judges,
            Kind::Predictor => false,
            Kind::Corrector => !self.last,
            Kind::Halton { redraws } => redraws,
        }
    }

    /// How many revealed tokens of `unknown` this step may mask or draw again.
    pub(crate) fn remasked(&self, unknown: usize) -> usize {
        match self.kind {
            // Fewer from step to step, and none in the last.
            Kind::Corrector => {
                let left = unknown as f64 * (self.of - 1 - self.at) as f64;
                (left * f64::from(self.settings.corrector_first) / self.of as f64) as usize
            }
            _ if self.revisits() => unknown,
            _ => 0,
        }
    }
}

/// Memory that the steps of a run use again.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) categorical: Categorical,
    /// The logits of one position under guidance.
    pub(crate) guided: Vec<f32>,
    /// Position and confidence of each token that competes: it may be masked after this step.
    pub(crate) competing: Vec<(usize, f32)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Until the share was a setting, the corrector's count was this division of integers.
    #[test]
    fn a_half_is_a_half() {
        for steps in [2, 3, 5, 8, 10, 16, 61, 64] {
            let settings = Sampling::default().with(&corrected(steps));
            for step in 0..steps {
                let plan = StepPlan::new(step, &settings);
                if plan.kind == Kind::Corrector {
                    for unknown in (0..=1024).chain([4095, 16_384]) {
                        let expected = unknown * (plan.of - 1 - plan.at) / (2 * plan.of);
                        assert_eq!(plan.remasked(unknown), expected, "{step} of {steps}, {unknown}");
                    }
                }
            }
        }
    }

    fn corrected(steps: usize) -> maskgit_core::SamplingChanges {
        let mut changes = maskgit_core::SamplingChanges::default();
        changes.steps = Some(steps);
        changes.sampler = Some(Sampler::PredictorCorrector);
        changes
    }
}
