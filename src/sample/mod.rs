//! Which tokens to draw: mask schedule, confidence sampling, Halton sampling, guidance and the decoding loop.
//!
//! Plain Rust over slices of logits and tokens, after *MaskGIT: Masked Generative Image Transformer* (Chang et al. 2022) and
//! Google's `parallel_decode`. `docs/sampler.md` states every step.

mod confidence;
mod decode;
mod halton;
mod noise;
mod schedule;

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

pub use confidence::{Categorical, Drawn};
pub use decode::decode;
pub use halton::order as halton_order;
pub use noise::{Draws, part_seed};
pub use schedule::Schedule;

use crate::error::{Error, Result};

/// The most steps a request may ask for.
pub const MAX_STEPS: usize = 4096;

/// The size of a token grid. Positions count in raster order: row by row, left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows of tokens.
    pub rows: usize,
    /// Tokens in a row.
    pub cols: usize,
}

impl Grid {
    /// The number of positions, N.
    pub fn len(self) -> usize {
        self.rows.saturating_mul(self.cols)
    }

    /// Whether there is no position at all.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// How the positions that keep their token are chosen.
///
/// Written and read as `confidence`, `confidence-remask`, `predictor-corrector`, `halton` and `halton-redraw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sampler {
    /// The most confident predictions stay (Chang et al. 2022).
    Confidence,
    /// As [`Sampler::Confidence`], but the tokens revealed so far compete too, each with the probability that it has under logits that
    /// saw it: one that the rest no longer bears out is masked again (remasking: Wang et al. 2025).
    ConfidenceRemask,
    /// First predictor steps: the positions stay where the model is surest, by the entropy of their logits, whatever token was drawn
    /// there. Then corrector steps: all is there, and the tokens that the others bear out least are masked again and drawn anew
    /// (discrete predictor-corrector: Lezama et al. 2023). `docs/sampler.md` has both.
    PredictorCorrector,
    /// Positions stay in the order of a Halton sequence, whatever the confidence (Besnier et al. 2025).
    Halton,
    /// As [`Sampler::Halton`], and every position revealed so far is drawn again in each step, from logits that saw its present
    /// token: the loop of the method's published code.
    HaltonRedraw,
}

impl Sampler {
    /// The mask schedule that the method was published with.
    pub fn published_schedule(self) -> Schedule {
        match self {
            Self::Confidence | Self::ConfidenceRemask | Self::PredictorCorrector => Schedule::Cosine,
            Self::Halton | Self::HaltonRedraw => Schedule::Arccos,
        }
    }
}

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "confidence" => Ok(Self::Confidence),
            "confidence-remask" => Ok(Self::ConfidenceRemask),
            "predictor-corrector" => Ok(Self::PredictorCorrector),
            "halton" => Ok(Self::Halton),
            "halton-redraw" => Ok(Self::HaltonRedraw),
            _ => Err(Error::request(format!(
                "unknown sampler '{text}'; choose confidence, confidence-remask, predictor-corrector, halton or halton-redraw"
            ))),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confidence => "confidence",
            Self::ConfidenceRemask => "confidence-remask",
            Self::PredictorCorrector => "predictor-corrector",
            Self::Halton => "halton",
            Self::HaltonRedraw => "halton-redraw",
        })
    }
}

/// Classifier-free guidance (Ho & Salimans 2022): logits = c + w (c - u), where c are the logits for the label and u those for
/// the null label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// w, at least 0; 0 is no guidance and costs nothing, anything else runs the transformer twice a step.
    pub scale: f32,
    /// Whether w grows linearly over the steps: w (s + 1) / T in step s of T. Early tokens are then freer.
    pub ramp: bool,
}

impl Guidance {
    /// No guidance.
    pub const NONE: Self = Self { scale: 0.0, ramp: false };

    /// w in step `step` (0-based) of `steps`.
    pub fn at(self, step: usize, steps: usize) -> f32 {
        if self.ramp { self.scale * (step + 1) as f32 / steps as f32 } else { self.scale }
    }
}

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// T: the number of steps of the schedule, 1 to [`MAX_STEPS`].
    pub steps: usize,
    /// Which part of the tokens stays masked after each step.
    pub schedule: Schedule,
    /// Which tokens those are.
    pub sampler: Sampler,
    /// tau: how much Gumbel noise the confidence gets, tau (1 - r); 0 is none. The published configuration has 4.5. The
    /// Halton samplers and corrector steps do not use it.
    pub choice_temperature: f32,
    /// Divides the logits before a token is drawn; 1 is the model's own distribution, 0 takes the likeliest token.
    pub temperature: f32,
    /// The temperature of the last step; from `temperature` in the first, it changes linearly ([`temperature_at`](Self::temperature_at)).
    /// One that falls draws what a picture is to be from more possibilities, and its details from fewer. `None`: it stays `temperature`.
    pub final_temperature: Option<f32>,
    /// Draws from this many of the likeliest tokens only.
    pub top_k: Option<usize>,
    /// Classifier-free guidance.
    pub guidance: Guidance,
    /// The first step that is run, less than `steps`: r still counts from the whole schedule. Google's editing uses 2 of 12.
    pub start_iter: usize,
}

impl Options {
    /// Checks every range.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request), naming the option, its value and its range.
    pub fn validate(&self) -> Result<()> {
        let finite = |name: &str, value: f32| {
            if value.is_finite() && value >= 0.0 {
                Ok(())
            } else {
                Err(Error::request(format!("{name} is {value}; it must be a number of at least 0")))
            }
        };
        if !(1..=MAX_STEPS).contains(&self.steps) {
            return Err(Error::request(format!("steps is {}; it must be 1 to {MAX_STEPS}", self.steps)));
        }
        if self.start_iter >= self.steps {
            return Err(Error::request(format!(
                "start_iter is {}; it must be less than the number of steps, {}",
                self.start_iter, self.steps
            )));
        }
        if let Schedule::Power(x) = self.schedule
            && !(x.is_finite() && x > 0.0)
        {
            return Err(Error::request(format!("the schedule's power is {x}; it must be a number above 0")));
        }
        if self.top_k == Some(0) {
            return Err(Error::request("top_k is 0; it must be at least 1, or none"));
        }
        finite("choice_temperature", self.choice_temperature)?;
        finite("temperature", self.temperature)?;
        finite("final_temperature", self.final_temperature.unwrap_or(self.temperature))?;
        finite("guidance", self.guidance.scale)
    }

    /// Sets what was given of `temperature` and `final_temperature`: the first alone is that of all steps.
    pub fn set_temperatures(&mut self, first: Option<f32>, last: Option<f32>) {
        if first.is_some() || last.is_some() {
            self.temperature = first.unwrap_or(self.temperature);
            self.final_temperature = last;
        }
    }

    /// The temperature of step `step` (0-based) of the schedule: (1 - f) `temperature` + f `final_temperature`, f = step / (`steps` - 1). A
    /// schedule of one step has `temperature`.
    pub fn temperature_at(&self, step: usize) -> f32 {
        let Some(last) = self.final_temperature.filter(|_| self.steps > 1) else { return self.temperature };
        let f = step as f32 / (self.steps - 1) as f32;
        (1.0 - f) * self.temperature + f * last
    }
}

/// What the tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The token grid.
    pub grid: Grid,
    /// K: codes are 0..K.
    pub codes: usize,
    /// The token of a position that is not yet known.
    pub mask_id: i64,
}

/// One picture being drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canvas {
    /// All its random numbers follow from this.
    pub seed: u64,
    /// N tokens, `mask_id` where one is to be drawn. Known tokens never change.
    pub tokens: Vec<i64>,
}

/// One forward pass that the loop asks for.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The index of the canvas.
    pub image: usize,
    /// N tokens, `mask_id` where masked.
    pub tokens: &'a [i64],
    /// The N positions whose logits nobody will read: those that have their token and keep it.
    pub settled: &'a [bool],
    /// Whether the null label takes the place of the label, for guidance.
    pub unconditional: bool,
}

/// The model, as the loop sees it.
pub trait Predict {
    /// Writes the logits of each row, `[rows, N, K]`. Only those of positions that are not [`settled`](Row::settled) are read.
    ///
    /// # Errors
    ///
    /// Any; the loop stops and passes it on.
    fn logits(&mut self, rows: &[Row<'_>], out: &mut [f32]) -> Result<()>;
}

/// What the loop tells after each step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport<'a> {
    /// The step just done, 0-based, from `start_iter`.
    pub step: usize,
    /// T.
    pub steps: usize,
    /// Per canvas, the number of tokens still masked.
    pub masked: &'a [usize],
    /// Per canvas, the guess so far: kept tokens, and the drawn ones that were masked again. No `mask_id` in it.
    pub tokens: &'a [Vec<i64>],
    /// Per canvas and position, whether the token is kept.
    pub known: &'a [Vec<bool>],
}

/// What a decode did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Per canvas, the number of tokens masked after each step that was run.
    pub masked: Vec<Vec<usize>>,
}

/// Hears of each step; [`ControlFlow::Break`] stops the decode.
pub type Observe<'a> = &'a mut dyn FnMut(&StepReport<'_>) -> ControlFlow<()>;

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
