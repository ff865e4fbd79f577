//! `maskgit bench`.

use std::time::Instant;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use maskgit::{Request, Sampling};
use serde::Serialize;

use crate::draw::JSON_VERSION;
use crate::record::ModelId;
use crate::{args, cancel, memory, output};

/// Measure loading, one step, decoding, and whole images
///
/// Each time is the median over --runs runs, after one run that is not counted. A step is one run of the transformer;
/// the sampler's own work is in the whole image only.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: args::Model,
    #[command(flatten)]
    resources: args::Resources,
    /// Number of runs
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 5,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    runs: usize,
    /// Images that are drawn together
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    count: usize,
    /// Print one JSON object: seconds, and peak memory in bytes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: args::Sampling,
}

#[derive(Serialize)]
struct Report<'a> {
    json_version: u32,
    model: ModelId,
    model_path: String,
    engine: &'a str,
    threads: usize,
    runs: usize,
    count: usize,
    sampling: Sampling,
    load: f64,
    step: f64,
    decode: f64,
    /// All images that are drawn together.
    image: f64,
    images_per_second: f64,
    peak_memory_bytes: Option<u64>,
    /// Multiply-adds a second of one core's kernels.
    peak_fp32: f64,
    peak_int8: f64,
}

pub fn run(args: &Args) -> Result<()> {
    let (mut generator, path) = args::open(&args.model, &args.resources)?;
    let class = generator.manifest().labels.first().cloned().unwrap_or_default();
    let request = Request::generate().with_class(class).with_count(args.count).with_sampling(args.sampling.changes());
    let sampling = request.resolve(generator.manifest())?.sampling;
    let manifest = generator.manifest();
    let masked = vec![manifest.mask_id; manifest.tokens()];
    let first = vec![0; manifest.tokens()];
    let model = ModelId::new(manifest);

    let step = median(args.runs, || generator.logits(&masked, 0).map(drop))?;
    let decode = median(args.runs, || generator.decode_planes(&first).map(drop))?;
    let image = median(args.runs, || generator.generate_with(&request, &mut ()).map(drop))?;
    let peak = |int8| maskgit_kernels::peak_multiply_adds(maskgit_kernels::Isa::best(), int8);
    let report = Report {
        json_version: JSON_VERSION,
        model,
        model_path: path.display().to_string(),
        engine: generator.engine_name(),
        threads: generator.threads(),
        runs: args.runs,
        count: args.count,
        sampling,
        load: generator.load_seconds(),
        step,
        decode,
        image,
        images_per_second: args.count as f64 / image,
        peak_memory_bytes: memory::peak_bytes(),
        peak_fp32: peak(false),
        peak_int8: peak(true),
    };
    if args.json {
        return output::json(&report);
    }
    let memory = report.peak_memory_bytes.map_or("unknown".into(), |b| format!("{:.0} MB", b as f64 / 1e6));
    output::text(&format!(
        "model    {} ({}), {} thread{}, {}\n\
         load     {:>10.1} ms\n\
         step     {:>10.2} ms\n\
         decode   {:>10.2} ms\n\
         image    {:>10.1} ms ({} steps), {:.2} a second\n\
         memory   {memory} at most\n\
         kernels  {:.0} G multiply-adds a second and core in fp32, {:.0} in int8\n",
        report.model.name.replace(char::is_control, " "),
        report.model.precision,
        report.threads,
        if report.threads == 1 { "" } else { "s" },
        report.engine,
        report.load * 1e3,
        step * 1e3,
        decode * 1e3,
        image * 1e3,
        report.sampling.steps,
        report.images_per_second,
        report.peak_fp32 / 1e9,
        report.peak_int8 / 1e9
    ))
}

/// The median time of `work` in seconds, after one run that is not counted.
fn median(runs: usize, mut work: impl FnMut() -> maskgit::Result<()>) -> maskgit::Result<f64> {
    work()?;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        cancel::stop_if_asked()?;
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
