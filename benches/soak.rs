//! `make soak`: one process that draws, edits, fails, is cancelled and changes its model, thousands of times, and must
//! leave nothing behind.
//!
//! Usage: `soak IMAGES MODEL...`. After a tenth of the images it measures at equal intervals what is resident, how many
//! descriptors are open and how many threads there are. It fails when the line through the memory (least squares, for
//! each model by itself) rises by more than 1 %, or when a descriptor or a thread is left.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use maskgit::image::{Rgb, RgbImage};
use maskgit::{ErrorKind, Generator, Image, Mask, Observer, Outpaint, Progress, Rect, Request};

/// How often the model changes.
const SWAPS: usize = 200;
/// How much the memory may rise, as a part of it.
const GROWTH: f64 = 0.01;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let images = arguments.next().and_then(|images| images.parse().ok()).filter(|&images| images >= 100);
    let models: Vec<String> = arguments.collect();
    match images {
        Some(images) if !models.is_empty() => match soak(images, &models) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("soak: {error:#}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: soak IMAGES MODEL...: at least 100 images, at least one model with an encoder");
            ExitCode::from(2)
        }
    }
}

/// What the process holds.
#[derive(Clone, Copy)]
struct Held {
    bytes: u64,
    descriptors: usize,
    threads: usize,
}

impl Held {
    fn now() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let bytes = kibibytes.context("/proc/self/status does not say what is resident")?;
        // The one that reads the folder is among them, always.
        let entries = |folder: &str| std::fs::read_dir(folder).map(Iterator::count);
        Ok(Self { bytes: bytes << 10, descriptors: entries("/proc/self/fd")?, threads: entries("/proc/self/task")? })
    }
}

/// Whether nothing was left behind.
fn soak(images: usize, models: &[String]) -> Result<bool> {
    let before = Held::now()?;
    let packed = models.iter().map(|model| packed(model)).collect::<Result<Vec<_>>>()?;
    let mut samples = vec![Vec::new(); models.len()];
    let every = (images / 50).min(100);
    let mut generator = open(&models[0])?;
    for image in 0..images {
        let turn = image * SWAPS / images;
        let model = turn % models.len();
        if image > 0 && turn != (image - 1) * SWAPS / images {
            // The new one is there before the old one goes.
            generator = open(&models[model])?;
        }
        one(&mut generator, &packed[model], image).with_context(|| format!("{}, image {image}", models[model]))?;
        // Each model in turn, some changes later than the one before.
        let shift = image / every % models.len() * images / SWAPS;
        if image >= images / 10 && image % every == shift {
            samples[model].push((image, Held::now()?));
        }
    }
    drop(generator);
    let mut after = Held::now()?;
    // The system lists a thread for a moment after it has ended.
    for _ in 0..100 {
        if after.threads == before.threads {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        after = Held::now()?;
    }
    let mut kept = true;
    for (model, samples) in models.iter().zip(&samples) {
        kept &= judge(model, samples);
    }
    println!(
        "{images} images, {SWAPS} changes of the model; descriptors {} before, {} after; threads {} before, {} after",
        before.descriptors, after.descriptors, before.threads, after.threads
    );
    Ok(kept && before.descriptors == after.descriptors && before.threads == after.threads)
}

fn open(model: &str) -> Result<Generator> {
    Generator::builder().threads(2).open(model).with_context(|| model.to_owned())
}

/// The bytes of a model in one file.
fn packed(model: &str) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("model.maskgit");
    maskgit::pack(Path::new(model), &file)?;
    Ok(std::fs::read(file)?)
}

/// Prints what was measured with one model, and says whether it did not grow.
fn judge(model: &str, samples: &[(usize, Held)]) -> bool {
    let [(_, first), .., (_, last)] = samples else {
        println!("{model}: not measured often enough");
        return false;
    };
    let count = samples.len() as f64;
    let mean = |value: &dyn Fn(&(usize, Held)) -> f64| samples.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(&|sample| sample.0 as f64), mean(&|sample| sample.1.bytes as f64));
    let covariance = mean(&|sample| (sample.0 as f64 - x) * (sample.1.bytes as f64 - y));
    let slope = covariance / mean(&|sample| (sample.0 as f64 - x).powi(2));
    let growth = slope * (samples[samples.len() - 1].0 - samples[0].0) as f64 / y;
    let same = samples.iter().all(|(_, held)| held.descriptors == first.descriptors && held.threads == first.threads);
    println!(
        "{model}: {} measurements; {:.1} MiB resident at first, {:.1} at last, {:+.2} % along the line; {} descriptors, \
         {} threads{}",
        samples.len(),
        first.bytes as f64 / f64::from(1 << 20),
        last.bytes as f64 / f64::from(1 << 20),
        growth * 100.0,
        last.descriptors,
        last.threads,
        if same { "" } else { ", not always" }
    );
    growth <= GROWTH && same
}

/// One image, or one that does not come to be: what, its number says.
fn one(generator: &mut Generator, packed: &[u8], number: usize) -> Result<()> {
    let labels = &generator.manifest().labels;
    let class = labels[number % labels.len()].clone();
    let blank = Request::generate().with_class(&*class).with_seed(number as u64).with_steps(4);
    let source = Arc::new(scene(40 + number as u32 % 50, 30 + number as u32 % 70, number as u32));
    let (width, height) = source.dimensions();
    let hole = |width, height| Mask::from_boxes(width, height, &[Rect::new(3, 5, width / 3, height / 2)]);
    match number % 10 {
        0..=3 => drop(generator.generate(&blank)?),
        4 | 5 => {
            let request = Request::edit(source, hole(width, height)?).with_class(&*class).with_steps(3);
            drop(generator.generate(&request.with_seed(number as u64))?);
        }
        6 => {
            let sides = Outpaint { right: 20, ..Outpaint::default() };
            drop(generator.generate(&Request::outpaint(source, sides).with_class(&*class).with_steps(2))?);
        }
        7 => {
            let mut stop = Stop { left: number / 10 % 4 };
            fails(generator.generate_with(&blank, &mut stop), ErrorKind::Cancelled)?;
        }
        8 if number % 20 == 8 => fails(generator.generate(&blank.with_class("no such class")), ErrorKind::Request)?,
        8 => {
            let request = Request::edit(source, hole(width + 1, height)?).with_class(&*class);
            fails(generator.generate(&request), ErrorKind::Request)?;
        }
        _ => {
            // A graph's hash is checked when it is loaded; an edit loads all three.
            let request = Request::edit(source, hole(width, height)?).with_class(&*class).with_steps(2);
            let opened = Generator::builder().threads(2).open_bytes(damaged(packed, number));
            let opened = opened.and_then(|mut generator| generator.generate(&request));
            fails(opened, ErrorKind::Bundle)?;
        }
    }
    Ok(())
}

/// The bytes of a model, cut off somewhere or with a byte of its last graph changed.
fn damaged(packed: &[u8], number: usize) -> Vec<u8> {
    if number % 20 < 10 {
        return packed[..number.wrapping_mul(0x9e37_79b9) % packed.len()].to_vec();
    }
    let mut bytes = packed.to_vec();
    let place = bytes.len() - 1 - number % 256;
    bytes[place] ^= 0x10;
    bytes
}

fn scene(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 5 + seed) as u8, (y * 3) as u8, (x * y + seed) as u8]))
}

/// Errors are what is asked for here.
fn fails<T>(result: maskgit::Result<T>, kind: ErrorKind) -> Result<()> {
    match result {
        Ok(_) => bail!("there was to be an error of the kind {kind:?}"),
        Err(error) => {
            ensure!(error.kind() == kind, "an error of the kind {:?}, not {kind:?}: {error}", error.kind());
            Ok(())
        }
    }
}

/// Lets some calls pass, and cancels.
struct Stop {
    left: usize,
}

impl Observer for Stop {
    fn progress(&mut self, _: &Progress) -> ControlFlow<()> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }

    fn image(&mut self, _: Image) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
