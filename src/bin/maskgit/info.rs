//! `maskgit info`.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use maskgit::{Bundle, Manifest};
use serde::Serialize;

use crate::draw::JSON_VERSION;
use crate::{args, model, output};

/// Say what a model is: its classes, sizes, graphs and recommended settings
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: args::Model,
    /// List the classes only: index, tab, name; a tab and its id (a WordNet synset, say) where it has one
    #[arg(long, conflicts_with = "json")]
    labels: bool,
    /// List the operators of each graph as the engine runs them, with how many there are: ours say what they compute,
    /// others are tract's
    #[arg(long, conflicts_with = "labels")]
    graph: bool,
    /// List the devices of this machine, and why one cannot be used; no model is needed
    #[arg(long, conflicts_with_all = ["labels", "graph", "model"])]
    devices: bool,
    /// Print one JSON object: the manifest and the model's path
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    json_version: u32,
    path: String,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

pub fn run(args: &Args) -> Result<()> {
    if args.devices {
        return devices(args.json);
    }
    let path = model::find(args.model.model.as_deref())?;
    let bundle = Bundle::open(&path)?;
    let manifest = bundle.manifest();
    if args.graph {
        return graphs(&bundle, args.json);
    }
    if args.json {
        output::json(&Report { json_version: JSON_VERSION, path: path.display().to_string(), manifest })
    } else if args.labels {
        let ids = manifest.label_ids.as_deref().unwrap_or_default();
        let mut lines = String::new();
        for (i, name) in manifest.labels.iter().enumerate() {
            let id = ids.get(i).map(|id| format!("\t{}", plain(id))).unwrap_or_default();
            writeln!(lines, "{i}\t{}{id}", plain(name))?;
        }
        output::text(&lines)
    } else {
        output::text(&describe(&path, manifest)?)
    }
}

/// What could compute.
fn devices(json: bool) -> Result<()> {
    let devices = maskgit::devices();
    if json {
        let rows = devices.iter().map(
            |d| serde_json::json!({"device": d.device.to_string(), "description": d.description, "problem": d.problem}),
        );
        return output::json(&serde_json::json!({"json_version": JSON_VERSION, "devices": rows.collect::<Vec<_>>()}));
    }
    let mut text = String::new();
    for device in &devices {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(Some(plain(&device.description)).filter(|d| !d.is_empty()));
        parts.extend(device.problem.as_deref().map(|why| format!("not usable: {}", plain(why))));
        writeln!(text, "{:<12} {}", device.device.to_string(), parts.join("; "))?;
    }
    output::text(&text)
}

/// What `--graph --json` prints.
#[derive(Serialize)]
struct Graphs {
    json_version: u32,
    /// The operators of each graph, by its kind.
    graphs: std::collections::BTreeMap<&'static str, Vec<serde_json::Value>>,
}

/// The operators of every graph.
fn graphs(bundle: &Bundle, json: bool) -> Result<()> {
    let mut report = std::collections::BTreeMap::new();
    let mut text = String::new();
    for (kind, operators) in maskgit::operators(bundle)? {
        writeln!(text, "{kind}")?;
        for operator in &operators {
            let detail = operator.detail.as_deref().map(|d| format!("  {d}")).unwrap_or_default();
            writeln!(text, "{:>6}  {}{detail}", operator.count, plain(&operator.name))?;
        }
        let rows =
            operators.into_iter().map(|o| serde_json::json!({"name": o.name, "detail": o.detail, "count": o.count}));
        report.insert(kind.as_str(), rows.collect::<Vec<_>>());
    }
    if json { output::json(&Graphs { json_version: JSON_VERSION, graphs: report }) } else { output::text(&text) }
}

fn describe(path: &Path, manifest: &Manifest) -> Result<String> {
    let mut text = String::new();
    let mut line = |name: &str, value: String| writeln!(text, "{name:<12} {}", plain(&value));
    line("model", manifest.name.clone())?;
    line("path", path.display().to_string())?;
    line("licence", manifest.licence.clone())?;
    line("source", manifest.source.clone())?;
    line("precision", manifest.precision.to_string())?;
    line("image", format!("{}x{} pixels", manifest.image.width, manifest.image.height))?;
    line("tokens", format!("{} columns, {} rows, {} codes", manifest.grid.cols, manifest.grid.rows, manifest.codes))?;
    line(
        "classes",
        format!(
            "{}{}",
            manifest.labels.len(),
            if manifest.null_label.is_some() { ", and none (guidance)" } else { "" }
        ),
    )?;
    for (i, name) in manifest.labels.iter().take(32).enumerate() {
        line("", format!("{i:>4}  {name}"))?;
    }
    if manifest.labels.len() > 32 {
        line("", format!("      and {} more: info --labels", manifest.labels.len() - 32))?;
    }
    let settings = &manifest.sampling;
    line(
        "recommended",
        format!(
            "{} steps, {} schedule, {} sampler, choice temperature {}, temperature {}{}, top-k {}, guidance {}{}",
            settings.steps,
            settings.schedule,
            settings.sampler,
            settings.choice_temperature,
            settings.temperature,
            settings.final_temperature.map_or(String::new(), |last| format!(" to {last}")),
            settings.top_k.map_or("off".to_string(), |k| k.to_string()),
            settings.guidance,
            if settings.guidance_ramp { " (ramped)" } else { "" }
        ),
    )?;
    for (kind, graph) in manifest.graphs.iter() {
        line(kind.as_str(), format!("{}, {:.2} MB, SHA-256 {}", graph.file, graph.bytes as f64 / 1e6, graph.sha256))?;
    }
    Ok(text)
}

/// A file's text for a terminal: without control characters, which could take it over.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
