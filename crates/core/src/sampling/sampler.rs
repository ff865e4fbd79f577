//! The samplers by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::error::{Error, Result};

/// How the positions that keep their token are chosen.
///
/// Written and read as `confidence`, `confidence-remask`, `predictor-corrector`, `halton` and `halton-redraw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Sampler {
    /// The most confident predictions stay (Chang et al. 2022).
    Confidence,
    /// As [`Sampler::Confidence`], but the tokens revealed so far compete too, each with the probability that it has
    /// under logits that saw it: one that became unlikely given the rest is masked again (remasking: Wang et al. 2025).
    ConfidenceRemask,
    /// First predictor steps: the positions stay where the model is surest, by the entropy of their logits, whatever
    /// token was drawn there. Then corrector steps: all is there, and the tokens that the others bear out least are
    /// masked again and drawn anew (discrete predictor-corrector: Lezama et al. 2023). `docs/sampler.md` has both.
    PredictorCorrector,
    /// Positions stay in the order of a Halton sequence, whatever the confidence (Besnier et al. 2025).
    Halton,
    /// As [`Sampler::Halton`], and every position revealed so far is drawn again in each step, from logits that saw its
    /// present token: the loop of the method's published code.
    HaltonRedraw,
}

impl Sampler {
    /// Whether it reveals positions in the order of a Halton sequence.
    pub fn is_halton(self) -> bool {
        matches!(self, Self::Halton | Self::HaltonRedraw)
    }

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
                "unknown sampler '{text}'; choose confidence, confidence-remask, predictor-corrector, \
                 halton or halton-redraw"
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

impl From<Sampler> for String {
    fn from(sampler: Sampler) -> Self {
        sampler.to_string()
    }
}

impl TryFrom<String> for Sampler {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
