//! Flags that several subcommands share.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use maskgit::{Device, Generator, GeneratorBuilder, MemoryUse, Sampler, SamplingChanges, Schedule};

use crate::{failure, model};

/// Which model.
#[derive(clap::Args)]
pub struct Model {
    /// The model: a folder, or one packed file
    ///
    /// Without it, the model is the one that MASKGIT_MODEL names, or models/avatars-128-int8 beside the program, above
    /// it, or in the current folder.
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
}

/// How to run it.
#[derive(clap::Args)]
pub struct Resources {
    /// Number of threads that compute [default: the number of cores]
    ///
    /// The tokens do not depend on it.
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub threads: Option<usize>,
    /// Hold one of the model's graphs at a time, and load it again when it is needed again
    ///
    /// Takes less memory and more time; the images do not depend on it.
    #[arg(long)]
    pub low_memory: bool,
    /// Where to compute: cpu; cuda or cuda:N, an NVIDIA GPU; auto, a GPU where there is one (`maskgit info --devices`)
    ///
    /// The tokens are the same on every run of a device; another device rounds differently, so a token may differ.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
}

impl Resources {
    /// How to open a model.
    pub fn builder(&self) -> GeneratorBuilder {
        let builder = Generator::builder().device(self.device);
        let builder = match self.threads {
            Some(threads) => builder.threads(threads),
            None => builder,
        };
        if self.low_memory { builder.memory(MemoryUse::OneAtATime) } else { builder }
    }
}

/// Opens the model; returns its path too.
pub fn open(model: &Model, resources: &Resources) -> Result<(Generator, PathBuf)> {
    open_with(model, &resources.builder())
}

/// As [`open`], otherwise.
pub fn open_with(model: &Model, builder: &GeneratorBuilder) -> Result<(Generator, PathBuf)> {
    let path = model::find(model.model.as_deref())?;
    let generator = builder.open(&path)?;
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
    /// Which tokens a step keeps: the most confident (confidence; confidence-remask takes back tokens kept so far that
    /// became unlikely given the rest), those where the model is surest, and then in three fifths of the steps all but
    /// the least likely (predictor-corrector), or the next in a Halton sequence (halton; halton-redraw draws those kept
    /// so far again in each step)
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
    /// Draw from the N most likely tokens only; 0 draws from all
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
    /// Leave out the first N steps; Google's editing leaves out 2 of 12
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub start_iter: Option<usize>,
    /// Of predictor-corrector: the share of the steps that are corrector steps, 0 to below 1
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub corrector_share: Option<f32>,
    /// Of predictor-corrector: the share of the drawn tokens that the first corrector step masks again, above 0 to 1
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub corrector_first: Option<f32>,
}

impl Sampling {
    /// What was given.
    pub fn changes(&self) -> SamplingChanges {
        let mut changes = SamplingChanges::default();
        changes.steps = self.steps;
        changes.schedule = self.schedule;
        changes.sampler = self.sampler;
        changes.choice_temperature = self.choice_temperature;
        changes.temperature = self.temperature;
        changes.final_temperature = self.final_temperature;
        changes.top_k = self.top_k;
        changes.guidance = self.guidance;
        changes.guidance_ramp = match (self.guidance_ramp, self.no_guidance_ramp) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        changes.start_iter = self.start_iter;
        changes.corrector_share = self.corrector_share;
        changes.corrector_first = self.corrector_first;
        changes
    }
}
