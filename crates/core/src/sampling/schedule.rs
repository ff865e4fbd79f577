//! Mask schedules: which part of the tokens stays masked after a step.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A mask scheduling function gamma(r) (Chang et al. 2022, section 3.3): the part of the tokens that is still masked
/// when the part r of the steps is done. Decreasing, gamma(0) = 1 and gamma(1) = 0.
///
/// Written and read as `linear`, `square`, `cubic`, `sqrt`, `power:X`, `cosine`, `log`, `exp`, `arccos`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Schedule {
    /// 1 - r
    Linear,
    /// 1 - r²
    Square,
    /// 1 - r³
    Cubic,
    /// 1 - √r
    Sqrt,
    /// 1 - rˣ, x > 0
    Power(f32),
    /// cos(π r / 2), the paper's choice
    Cosine,
    /// -log₂ r / log₂ U, where U is the number of tokens masked at the start
    Log,
    /// 1 - 2^(-(1 - r) log₂ U)
    Exp,
    /// arccos(r) · 2 / π, the Halton sampler's choice (Besnier et al. 2025)
    Arccos,
}

/// The least and the greatest ratio, as in Google's code.
const RATIO_MIN: f32 = 1e-6;

impl Schedule {
    /// gamma(r) clipped to 1e-6..1, for r in (0, 1] and U = `unknown` tokens masked at the start, in float32 as the
    /// reference computes it.
    pub fn mask_ratio(self, r: f32, unknown: usize) -> f32 {
        let total = unknown.max(2) as f32;
        let ratio = match self {
            Self::Linear => 1.0 - r,
            Self::Square => 1.0 - libm::powf(r, 2.0),
            Self::Cubic => 1.0 - libm::powf(r, 3.0),
            Self::Sqrt => 1.0 - libm::powf(r, 0.5),
            Self::Power(x) => 1.0 - libm::powf(r, x),
            Self::Cosine => libm::cosf(std::f32::consts::FRAC_PI_2 * r),
            Self::Log => -libm::log2f(r) / libm::log2f(total),
            Self::Exp => 1.0 - libm::exp2f(-libm::log2f(total) * (1.0 - r)),
            Self::Arccos => libm::acosf(r) / std::f32::consts::FRAC_PI_2,
        };
        ratio.clamp(RATIO_MIN, 1.0)
    }

    /// How many tokens are masked after step `step` (0-based) of `steps`: max(1, min(`now` - 1, floor(U gamma(r))))
    /// with r = (step + 1) / steps, where `unknown` is U and `now` the number masked before the step. The last step of
    /// a decode keeps every token whatever this says.
    pub fn masked_after(self, step: usize, steps: usize, unknown: usize, now: usize) -> usize {
        let r = (step + 1) as f32 / steps as f32;
        let planned = (unknown as f32 * self.mask_ratio(r, unknown)) as usize;
        planned.min(now.saturating_sub(1)).max(1)
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "linear" => Self::Linear,
            "square" => Self::Square,
            "cubic" => Self::Cubic,
            "sqrt" => Self::Sqrt,
            "cosine" => Self::Cosine,
            "log" => Self::Log,
            "exp" => Self::Exp,
            "arccos" => Self::Arccos,
            _ => match text.strip_prefix("power:").and_then(|x| x.parse::<f32>().ok()) {
                Some(x) if x.is_finite() && x > 0.0 => Self::Power(x),
                _ => {
                    return Err(Error::request(format!(
                        "unknown mask schedule '{text}'; choose linear, square, cubic, sqrt, power:X (X > 0), \
                         cosine, log, exp or arccos"
                    )));
                }
            },
        })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Square => "square",
            Self::Cubic => "cubic",
            Self::Sqrt => "sqrt",
            Self::Power(x) => return write!(f, "power:{x}"),
            Self::Cosine => "cosine",
            Self::Log => "log",
            Self::Exp => "exp",
            Self::Arccos => "arccos",
        })
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

impl TryFrom<String> for Schedule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Schedule; 9] = [
        Schedule::Linear,
        Schedule::Square,
        Schedule::Cubic,
        Schedule::Sqrt,
        Schedule::Power(3.5),
        Schedule::Cosine,
        Schedule::Log,
        Schedule::Exp,
        Schedule::Arccos,
    ];

    fn table(schedule: Schedule, steps: usize) -> Vec<usize> {
        let mut now = 256;
        (0..steps)
            .map(|step| {
                now = schedule.masked_after(step, steps, 256, now);
                now
            })
            .collect()
    }

    #[test]
    fn cosine_tables_of_the_reference() {
        assert_eq!(table(Schedule::Cosine, 8), [251, 236, 212, 181, 142, 97, 49, 1]);
        // In float64 the 127 would be 128: the reference computes in float32.
        assert_eq!(table(Schedule::Cosine, 12), [253, 247, 236, 221, 203, 181, 155, 127, 97, 66, 33, 1]);
    }

    #[test]
    fn other_tables_follow_their_formula() {
        // Computed by hand with NumPy in float64, where no value is near an integer.
        assert_eq!(table(Schedule::Linear, 8), [224, 192, 160, 128, 96, 64, 32, 1]);
        assert_eq!(table(Schedule::Square, 4), [240, 192, 112, 1]);
        assert_eq!(table(Schedule::Cubic, 4), [252, 224, 148, 1]);
        assert_eq!(table(Schedule::Sqrt, 4), [128, 74, 34, 1]);
        assert_eq!(table(Schedule::Power(2.0), 4), table(Schedule::Square, 4));
        assert_eq!(table(Schedule::Log, 4), [64, 32, 13, 1]);
        assert_eq!(table(Schedule::Exp, 4), [252, 240, 192, 1]);
        assert_eq!(table(Schedule::Arccos, 4), [214, 170, 117, 1]);
    }

    #[test]
    fn every_schedule_decreases_from_one_to_the_floor() {
        for schedule in ALL {
            let mut last = 1.0;
            for i in 1..=1000 {
                let ratio = schedule.mask_ratio(i as f32 / 1000.0, 256);
                assert!((RATIO_MIN..=last).contains(&ratio), "{schedule} at {i}: {ratio} after {last}");
                last = ratio;
            }
            assert!(last <= 1e-5, "{schedule} ends at {last}");
        }
    }

    #[test]
    fn at_least_one_token_is_unmasked_a_step_until_one_is_left() {
        for schedule in ALL {
            let mut now = 5;
            for step in 0..64 {
                let next = schedule.masked_after(step, 64, 5, now);
                assert!(next == 1 || next < now, "{schedule} step {step}: {now} to {next}");
                now = next;
            }
        }
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for schedule in ALL {
            assert_eq!(schedule.to_string().parse::<Schedule>().expect("own name"), schedule);
        }
        for bad in ["", "Cosine", "power", "power:", "power:0", "power:-1", "power:nan", "power:inf", "cosine "] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad}");
        }
    }
}
