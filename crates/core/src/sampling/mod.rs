//! Sampling settings: one struct for the manifest, a request, the record in a PNG and the faces.

mod sampler;
mod schedule;

use serde::{Deserialize, Serialize};

pub use sampler::Sampler;
pub use schedule::Schedule;

use crate::error::{Error, Result};

/// The most steps a schedule may have.
pub const MAX_STEPS: usize = 4096;

/// Temperatures and guidance scales are at most this.
pub const MAX_SCALE: f32 = 1e6;

/// How to sample: all that the decoding loop needs to know besides the model, the seed and the tokens.
///
/// `docs/sampler.md` states what each setting does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Sampling {
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
    /// The temperature of the last step; from `temperature` in the first, it changes linearly
    /// ([`temperature_at`](Self::temperature_at)). One that falls draws what an image is to be from more possibilities,
    /// and its details from fewer. `None`: it stays `temperature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_temperature: Option<f32>,
    /// Draws from this many of the likeliest tokens only, at least 1. `None`: from all.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// w, the scale of classifier-free guidance, at least 0; 0 is none ([`Guidance`]).
    pub guidance: f32,
    /// Whether guidance grows linearly over the steps.
    pub guidance_ramp: bool,
    /// The first step that is run, less than `steps`: r still counts from the whole schedule. Google's editing uses 2
    /// of 12.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_iter: usize,
    /// [`Sampler::PredictorCorrector`]: the share of the steps that are corrector steps, rounded down; 0 to below 1.
    #[serde(default = "corrector_share", skip_serializing_if = "is_corrector_share")]
    pub corrector_share: f32,
    /// [`Sampler::PredictorCorrector`]: the share of the drawn tokens that the first corrector step masks again, times
    /// 1 - r; above 0, at most 1.
    #[serde(default = "corrector_first", skip_serializing_if = "is_corrector_first")]
    pub corrector_first: f32,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

fn corrector_share() -> f32 {
    Sampling::default().corrector_share
}

fn is_corrector_share(value: &f32) -> bool {
    *value == corrector_share()
}

fn corrector_first() -> f32 {
    Sampling::default().corrector_first
}

fn is_corrector_first(value: &f32) -> bool {
    *value == corrector_first()
}

impl Default for Sampling {
    /// Google's published configuration: 12 steps of [`Sampler::Confidence`] on the cosine schedule, choice temperature
    /// 4.5.
    fn default() -> Self {
        Self {
            steps: 12,
            schedule: Schedule::Cosine,
            sampler: Sampler::Confidence,
            choice_temperature: 4.5,
            temperature: 1.0,
            final_temperature: None,
            top_k: None,
            guidance: 0.0,
            guidance_ramp: false,
            start_iter: 0,
            corrector_share: 0.6,
            corrector_first: 0.5,
        }
    }
}

impl Sampling {
    /// Checks every range.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request), naming the setting, its value and its range.
    pub fn validate(&self) -> Result<()> {
        // By field, so that a new one is not forgotten here.
        let &Self {
            steps,
            schedule,
            sampler: _,
            choice_temperature,
            temperature,
            final_temperature,
            top_k,
            guidance,
            guidance_ramp: _,
            start_iter,
            corrector_share,
            corrector_first,
        } = self;
        let fail = |name: &str, value: &dyn std::fmt::Display, range: &str| {
            Err(Error::request(format!("{name} is {value}; it must be {range}")))
        };
        if !(1..=MAX_STEPS).contains(&steps) {
            return fail("steps", &steps, &format!("1 to {MAX_STEPS}"));
        }
        if start_iter >= steps {
            return fail("start_iter", &start_iter, &format!("less than the number of steps, {steps}"));
        }
        if let Schedule::Power(x) = schedule
            && !(x.is_finite() && x > 0.0)
        {
            return fail("the schedule's power", &x, "a number above 0");
        }
        if top_k == Some(0) {
            return fail("top_k", &0, "at least 1, or none");
        }
        for (name, value) in [
            ("choice_temperature", choice_temperature),
            ("temperature", temperature),
            ("final_temperature", final_temperature.unwrap_or(temperature)),
            ("guidance", guidance),
        ] {
            // `contains` is false for NaN.
            if !(0.0..=MAX_SCALE).contains(&value) {
                return fail(name, &value, &format!("a number from 0 to {MAX_SCALE}"));
            }
        }
        if !(0.0..1.0).contains(&corrector_share) {
            return fail("corrector_share", &corrector_share, "a number from 0 to below 1");
        }
        if !(corrector_first > 0.0 && corrector_first <= 1.0) {
            return fail("corrector_first", &corrector_first, "a number above 0 and at most 1");
        }
        Ok(())
    }

    /// These settings with some changed.
    ///
    /// A setting that belongs to another one comes with it unless it is given too: another `sampler` brings the
    /// schedule that it was published with, and `temperature` alone is the temperature of all steps.
    #[must_use]
    pub fn with(mut self, changes: &SamplingChanges) -> Self {
        fn set<T: Copy>(to: &mut T, from: Option<T>) {
            *to = from.unwrap_or(*to);
        }
        let &SamplingChanges {
            steps,
            schedule,
            sampler,
            choice_temperature,
            temperature,
            final_temperature,
            top_k,
            guidance,
            guidance_ramp,
            start_iter,
            corrector_share,
            corrector_first,
        } = changes;
        if let Some(sampler) = sampler.filter(|sampler| *sampler != self.sampler) {
            self.sampler = sampler;
            self.schedule = sampler.published_schedule();
        }
        if temperature.is_some() || final_temperature.is_some() {
            self.final_temperature = final_temperature;
        }
        set(&mut self.steps, steps);
        set(&mut self.schedule, schedule);
        set(&mut self.choice_temperature, choice_temperature);
        set(&mut self.temperature, temperature);
        set(&mut self.top_k, top_k.map(|k| (k > 0).then_some(k)));
        set(&mut self.guidance, guidance);
        set(&mut self.guidance_ramp, guidance_ramp);
        set(&mut self.start_iter, start_iter);
        set(&mut self.corrector_share, corrector_share);
        set(&mut self.corrector_first, corrector_first);
        self
    }

    /// The guidance of these settings.
    pub fn guided(&self) -> Guidance {
        Guidance { scale: self.guidance, ramp: self.guidance_ramp }
    }

    /// How many steps are run: `steps` less `start_iter`.
    pub fn run_steps(&self) -> usize {
        self.steps.saturating_sub(self.start_iter)
    }

    /// How often a step runs the transformer for each token grid: twice with guidance, else once.
    pub fn passes(&self) -> usize {
        if self.guidance == 0.0 { 1 } else { 2 }
    }

    /// How many of the steps are corrector steps, the last ones; 0 for other samplers than
    /// [`Sampler::PredictorCorrector`].
    pub fn corrector_steps(&self) -> usize {
        match self.sampler {
            Sampler::PredictorCorrector => {
                let steps = (self.steps as f64 * f64::from(self.corrector_share)).floor() as usize;
                steps.min(self.steps.saturating_sub(1))
            }
            _ => 0,
        }
    }

    /// The temperature of step `step` (0-based) of the schedule: (1 - f) `temperature` + f `final_temperature`,
    /// f = step / (`steps` - 1). A schedule of one step has `temperature`.
    pub fn temperature_at(&self, step: usize) -> f32 {
        let Some(last) = self.final_temperature.filter(|_| self.steps > 1) else { return self.temperature };
        let f = step as f32 / (self.steps - 1) as f32;
        (1.0 - f) * self.temperature + f * last
    }
}

/// Some of the sampling settings: what is `None` stays as it is, which for a request is as the model recommends
/// ([`Sampling::with`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SamplingChanges {
    /// [`Sampling::steps`]
    pub steps: Option<usize>,
    /// [`Sampling::schedule`]
    pub schedule: Option<Schedule>,
    /// [`Sampling::sampler`]
    pub sampler: Option<Sampler>,
    /// [`Sampling::choice_temperature`]
    pub choice_temperature: Option<f32>,
    /// [`Sampling::temperature`]
    pub temperature: Option<f32>,
    /// [`Sampling::final_temperature`]
    pub final_temperature: Option<f32>,
    /// [`Sampling::top_k`]; 0 draws from all.
    pub top_k: Option<usize>,
    /// [`Sampling::guidance`]
    pub guidance: Option<f32>,
    /// [`Sampling::guidance_ramp`]
    pub guidance_ramp: Option<bool>,
    /// [`Sampling::start_iter`]
    pub start_iter: Option<usize>,
    /// [`Sampling::corrector_share`]
    pub corrector_share: Option<f32>,
    /// [`Sampling::corrector_first`]
    pub corrector_first: Option<f32>,
}

impl From<Sampling> for SamplingChanges {
    /// Changes that give exactly these settings, whatever was there.
    fn from(sampling: Sampling) -> Self {
        Self {
            steps: Some(sampling.steps),
            schedule: Some(sampling.schedule),
            sampler: Some(sampling.sampler),
            choice_temperature: Some(sampling.choice_temperature),
            temperature: Some(sampling.temperature),
            final_temperature: sampling.final_temperature,
            top_k: Some(sampling.top_k.unwrap_or(0)),
            guidance: Some(sampling.guidance),
            guidance_ramp: Some(sampling.guidance_ramp),
            start_iter: Some(sampling.start_iter),
            corrector_share: Some(sampling.corrector_share),
            corrector_first: Some(sampling.corrector_first),
        }
    }
}

/// Classifier-free guidance (Ho & Salimans 2022): logits = c + w (c - u), where c are the logits for the label and u
/// those for the null label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// w, at least 0; 0 is no guidance and costs nothing, anything else runs the transformer twice a step.
    pub scale: f32,
    /// Whether w grows linearly over the steps: w (s + 1) / T in step s of T. Early tokens are then freer.
    pub ramp: bool,
}

impl Guidance {
    /// w in step `step` (0-based) of `steps`.
    pub fn at(self, step: usize, steps: usize) -> f32 {
        if self.ramp { self.scale * (step + 1) as f32 / steps as f32 } else { self.scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Sampling {
        Sampling { schedule: Schedule::Linear, final_temperature: Some(0.5), ..Sampling::default() }
    }

    fn parsed(changes: &str) -> Sampling {
        base().with(&serde_json::from_str(changes).expect("valid changes"))
    }

    #[test]
    fn another_sampler_brings_its_schedule_unless_one_is_given() {
        for (changes, schedule) in [
            ("{}", Schedule::Linear),
            (r#"{"sampler": "confidence"}"#, Schedule::Linear),
            (r#"{"sampler": "halton"}"#, Schedule::Arccos),
            (r#"{"sampler": "halton", "schedule": "square"}"#, Schedule::Square),
        ] {
            assert_eq!(parsed(changes).schedule, schedule, "{changes}");
        }
    }

    #[test]
    fn a_temperature_alone_is_that_of_all_steps() {
        for (changes, expected) in [
            ("{}", (1.0, Some(0.5))),
            (r#"{"temperature": 0}"#, (0.0, None)),
            (r#"{"final_temperature": 0.2}"#, (1.0, Some(0.2))),
            (r#"{"temperature": 2, "final_temperature": 0}"#, (2.0, Some(0.0))),
        ] {
            let settings = parsed(changes);
            assert_eq!((settings.temperature, settings.final_temperature), expected, "{changes}");
        }
    }

    #[test]
    fn changes_made_of_settings_give_those_settings() {
        let all = Sampling {
            steps: 7,
            schedule: Schedule::Power(3.5),
            sampler: Sampler::HaltonRedraw,
            choice_temperature: 1.5,
            temperature: 0.9,
            final_temperature: None,
            top_k: None,
            guidance: 2.0,
            guidance_ramp: true,
            start_iter: 3,
            corrector_share: 0.25,
            corrector_first: 0.75,
        };
        let before = Sampling { top_k: Some(3), ..base() };
        assert_eq!(before.with(&all.into()), all);
        let with_more = Sampling { top_k: Some(9), final_temperature: Some(0.1), ..all };
        assert_eq!(before.with(&with_more.into()), with_more);
    }

    #[test]
    fn settings_are_written_and_read() {
        let text = serde_json::to_string(&base()).expect("json");
        let written =
            r#"{"steps":12,"schedule":"linear","sampler":"confidence","choice_temperature":4.5,"temperature":1.0,"#;
        assert!(text.starts_with(written), "{text}");
        assert!(!text.contains("corrector") && !text.contains("start_iter"), "what is as always is left out: {text}");
        assert_eq!(serde_json::from_str::<Sampling>(&text).expect("its own text"), base());
        let other = Sampling { corrector_share: 0.4, corrector_first: 0.25, start_iter: 2, top_k: Some(5), ..base() };
        let text = serde_json::to_string(&other).expect("json");
        assert_eq!(serde_json::from_str::<Sampling>(&text).expect("its own text"), other);
        for bad in [r#"{"steps": 8}"#, r#"{"sampler": "best"}"#, r#"{"schedule": "Cosine"}"#, r#"{"more": 1}"#] {
            assert!(serde_json::from_str::<Sampling>(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<SamplingChanges>(r#"{"stepz": 8}"#).is_err());
    }

    #[test]
    fn ranges_are_checked_and_named() {
        type Case = (&'static str, fn(&mut Sampling));
        let cases: [Case; 16] = [
            ("steps", |s| s.steps = 0),
            ("steps", |s| s.steps = MAX_STEPS + 1),
            ("start_iter", |s| s.start_iter = 12),
            ("power", |s| s.schedule = Schedule::Power(f32::NAN)),
            ("top_k", |s| s.top_k = Some(0)),
            ("choice_temperature", |s| s.choice_temperature = -1.0),
            ("temperature", |s| s.temperature = f32::NAN),
            ("final_temperature", |s| s.final_temperature = Some(f32::INFINITY)),
            ("guidance", |s| s.guidance = -0.5),
            ("guidance", |s| s.guidance = f32::INFINITY),
            ("corrector_share", |s| s.corrector_share = 1.0),
            ("corrector_share", |s| s.corrector_share = -0.1),
            ("corrector_share", |s| s.corrector_share = f32::NAN),
            ("corrector_first", |s| s.corrector_first = 0.0),
            ("corrector_first", |s| s.corrector_first = 1.1),
            ("corrector_first", |s| s.corrector_first = f32::NAN),
        ];
        base().validate().expect("valid settings");
        for (name, spoil) in cases {
            let mut settings = base();
            spoil(&mut settings);
            let error = settings.validate().expect_err(name);
            assert_eq!(error.kind(), crate::ErrorKind::Request);
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
    }

    /// The shares are numbers; until they were settings, they were three fifths in integers.
    #[test]
    fn three_fifths_are_three_fifths() {
        for steps in 1..=MAX_STEPS {
            let settings = Sampling { steps, sampler: Sampler::PredictorCorrector, ..Sampling::default() };
            assert_eq!(settings.corrector_steps(), steps * 3 / 5, "{steps}");
            assert_eq!(Sampling { sampler: Sampler::Halton, ..settings }.corrector_steps(), 0);
        }
    }
}
