//! Flags that several subcommands share.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use maskgit::sample::{Options, Sampler, Schedule};
use maskgit::{Device, Generator, MemoryUse, OpenOptions};

use crate::{failure, model};

/// Which model.
#[derive(clap::Args)]
pub struct Model {
    /// The model: a folder, or one packed file
    ///
    /// Without it, the model is the one that MASKGIT_MODEL names, or models/avatars-64-int8 beside the program, above it, or
    /// in the current folder.
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
}

/// How to run it.
#[derive(clap::Args)]
pub struct Resources {
    /// Number of threads that compute [default: the number of cores]
    ///
    /// The tokens do not depend on it.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub threads: Option<usize>,
    /// Hold one of the model's graphs at a time, and load it again when it is needed again
    ///
    /// Takes less memory and more time; the pictures do not depend on it.
    #[arg(long)]
    pub low_memory: bool,
    /// Where to compute: cpu; cuda or cuda:N, an NVIDIA GPU; auto, a GPU where there is one (`maskgit info --devices`)
    ///
    /// The tokens are the same on every run of a device; another device rounds differently, so a token may differ.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
}

impl Resources {
    /// The options to open a model with.
    pub fn options(&self) -> OpenOptions {
        let mut options = self.threads.map_or_else(OpenOptions::default, OpenOptions::with_threads);
        if self.low_memory {
            options.memory = MemoryUse::OneAtATime;
        }
        options.device = self.device;
        options
    }
}

/// Opens the model; returns its path too.
pub fn open(model: &Model, resources: &Resources) -> Result<(Generator, PathBuf)> {
    open_with(model, &resources.options())
}

/// As [`open`], for one request whose tokens are all drawn before a picture is decoded.
pub fn open_once(model: &Model, resources: &Resources) -> Result<(Generator, PathBuf)> {
    let mut options = resources.options();
    if options.memory == MemoryUse::KeepAll {
        options.memory = MemoryUse::DropTransformer;
    }
    open_with(model, &options)
}

fn open_with(model: &Model, options: &OpenOptions) -> Result<(Generator, PathBuf)> {
    let path = model::find(model.model.as_deref())?;
    let generator = Generator::open_with(&path, options)?;
    if let Some(note) = generator.device_note() {
        failure::line(note);
    }
    Ok((generator, path))
}

/// How to sample. Whatever is not given is as the model recommends.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling (default: as the model recommends)")]
pub struct Sampling {
    /// Number of steps
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub steps: Option<usize>,
    /// Mask schedule: linear, square, cubic, sqrt, power:X, cosine, log, exp or arccos
    ///
    /// Where --sampler names another sampler than the model recommends, the default is that sampler's own: cosine for
    /// confidence, arccos for halton.
    #[arg(long, value_name = "S")]
    pub schedule: Option<Schedule>,
    /// Which tokens a step keeps: the most confident (confidence; confidence-remask takes back tokens kept so far that the others no
    /// longer bear out), those where the model is surest, and then in three fifths of the steps all but the least likely
    /// (predictor-corrector), or the next in a Halton sequence (halton; halton-redraw draws those kept so far again in each step)
    #[arg(long, value_name = "SAMPLER")]
    pub sampler: Option<Sampler>,
    /// Temperature of the noise on the confidence; 0 keeps the most confident tokens
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub choice_temperature: Option<f32>,
    /// Temperature of the draw of tokens; 0 draws the most likely. Without --final-temperature, that of all steps
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Temperature of the draw in the last step, to which it changes linearly over the steps
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub final_temperature: Option<f32>,
    /// Draw from the N most likely tokens only
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Scale of classifier-free guidance; 0 is none
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub guidance: Option<f32>,
    /// Let the guidance grow linearly over the steps, up to its scale
    #[arg(long, overrides_with = "no_guidance_ramp")]
    pub guidance_ramp: bool,
    /// Keep the guidance constant
    #[arg(long)]
    pub no_guidance_ramp: bool,
}

impl Sampling {
    /// Puts what was given into `options`.
    pub fn apply(&self, options: &mut Options) {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        set(&mut options.steps, &self.steps);
        if let Some(sampler) = self.sampler.filter(|sampler| *sampler != options.sampler) {
            options.sampler = sampler;
            options.schedule = sampler.published_schedule();
        }
        set(&mut options.schedule, &self.schedule);
        set(&mut options.choice_temperature, &self.choice_temperature);
        options.set_temperatures(self.temperature, self.final_temperature);
        if self.top_k.is_some() {
            options.top_k = self.top_k;
        }
        set(&mut options.guidance.scale, &self.guidance);
        options.guidance.ramp = (options.guidance.ramp || self.guidance_ramp) && !self.no_guidance_ramp;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use maskgit::sample::Guidance;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        sampling: Sampling,
    }

    fn applied(flags: &[&str]) -> Options {
        let mut options = Options {
            steps: 12,
            schedule: Schedule::Linear,
            sampler: Sampler::Confidence,
            choice_temperature: 4.5,
            temperature: 1.0,
            final_temperature: Some(0.5),
            top_k: None,
            guidance: Guidance::NONE,
            start_iter: 0,
        };
        Flags::parse_from([&["maskgit"], flags].concat()).sampling.apply(&mut options);
        options
    }

    #[test]
    fn another_sampler_brings_its_schedule_unless_one_is_given() {
        let schedule = |flags: &[&str]| applied(flags).schedule;
        assert_eq!(schedule(&[]), Schedule::Linear);
        assert_eq!(schedule(&["--sampler", "confidence"]), Schedule::Linear);
        assert_eq!(schedule(&["--sampler", "halton"]), Schedule::Arccos);
        assert_eq!(schedule(&["--sampler", "halton", "--schedule", "square"]), Schedule::Square);
    }

    #[test]
    fn a_temperature_alone_is_that_of_all_steps() {
        let temperatures = |flags: &[&str]| {
            let options = applied(flags);
            (options.temperature, options.final_temperature)
        };
        assert_eq!(temperatures(&[]), (1.0, Some(0.5)));
        assert_eq!(temperatures(&["--temperature", "0"]), (0.0, None));
        assert_eq!(temperatures(&["--final-temperature", "0.2"]), (1.0, Some(0.2)));
        assert_eq!(temperatures(&["--temperature", "2", "--final-temperature", "0"]), (2.0, Some(0.0)));
    }
}
