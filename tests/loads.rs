//! How often graphs are loaded and run, seen by an engine that counts.

use std::sync::{Arc, Mutex};

use maskgit::unstable::{CpuEngine, Engine, Input, Output, Session, Signature, Source};
use maskgit::{Bundle, Generator, LoadLimits, MemoryUse, OperatorCount, Request, Result};
use ndarray::ArrayViewMut3;

use crate::common::{TINY, Watch, boxes, noise, tiny};
use crate::generate::request;

/// What was done with a graph, by the name of its output.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Load(String),
    Rows(String, usize),
    /// The graph was thrown away.
    Drop(String),
}

type Calls = Arc<Mutex<Vec<Call>>>;

struct Counting {
    engine: CpuEngine,
    calls: Calls,
}

impl Engine for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn load(&self, graph: &Source, signature: &Signature, limits: &LoadLimits) -> Result<Box<dyn Session>> {
        let (name, calls) = (signature.outputs[0].name.clone(), Arc::clone(&self.calls));
        calls.lock().unwrap().push(Call::Load(name.clone()));
        Ok(Box::new(Counted { session: self.engine.load(graph, signature, limits)?, name, calls }))
    }
}

struct Counted {
    session: Box<dyn Session>,
    name: String,
    calls: Calls,
}

impl Counted {
    fn count(&self, rows: usize) {
        self.calls.lock().unwrap().push(Call::Rows(self.name.clone(), rows));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.calls.lock().unwrap().push(Call::Drop(self.name.clone()));
    }
}

impl Session for Counted {
    fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>> {
        self.count(1);
        self.session.run(inputs)
    }

    fn run_rows(&mut self, rows: &[&[Input<'_>]]) -> Result<Vec<Vec<Output>>> {
        self.count(rows.len());
        self.session.run_rows(rows)
    }

    fn run_into(&mut self, rows: &[&[Input<'_>]], wanted: &[&[bool]], out: ArrayViewMut3<'_, f32>) -> Result<()> {
        self.count(rows.len());
        self.session.run_into(rows, wanted, out)
    }

    fn rows_at_once(&self) -> usize {
        self.session.rows_at_once()
    }

    fn describe(&self) -> Vec<OperatorCount> {
        self.session.describe()
    }
}

/// A generator whose engine counts, and what it counted.
fn counting(memory: MemoryUse, threads: usize) -> (Generator, Calls) {
    let calls = Calls::default();
    let engine = Counting { engine: CpuEngine::new(threads).unwrap(), calls: Arc::clone(&calls) };
    let builder = Generator::builder().memory(memory);
    let generator = builder.open_on(Bundle::open(TINY).unwrap(), Box::new(engine)).unwrap();
    assert_eq!(generator.engine_name(), "counting");
    (generator, calls)
}

fn take(calls: &Calls) -> Vec<Call> {
    std::mem::take(&mut calls.lock().unwrap())
}

/// The graphs that were loaded, in order.
fn loads(calls: &[Call]) -> Vec<&str> {
    calls.iter().filter_map(|call| if let Call::Load(name) = call { Some(name.as_str()) } else { None }).collect()
}

fn rows(calls: &[Call], name: &str) -> usize {
    calls
        .iter()
        .map(|call| {
            if let Call::Rows(of, rows) = call
                && of == name
            {
                *rows
            } else {
                0
            }
        })
        .sum()
}

const ALL: [MemoryUse; 3] = [MemoryUse::KeepAll, MemoryUse::DropTransformer, MemoryUse::OneAtATime];

/// What is dropped is loaded again, and the images are those of a generator that holds everything.
#[test]
fn memory_use_changes_no_image() {
    let mut whole = tiny(1);
    let request = request(1);
    let drawn = whole.generate(&request).unwrap().images;
    let codes = whole.encode(&drawn[0].pixels).unwrap();
    // The first step starts from logits that are kept, so it loads nothing. Loads after opening, after one request,
    // after two, after one with previews at every step, after encoding.
    for (memory, expected) in ALL.into_iter().zip([[2, 2, 2, 2, 3], [2, 2, 3, 8, 9], [2, 3, 5, 15, 16]]) {
        let (mut generator, calls) = counting(memory, 1);
        let counted = || loads(&calls.lock().unwrap()).len();
        let mut found = vec![counted()];
        for _ in 0..2 {
            assert_eq!(generator.generate(&request).unwrap().images, drawn, "{memory:?}");
            found.push(counted());
        }
        let mut previews = Watch::with_previews();
        generator.generate_with(&request, &mut previews).unwrap();
        assert_eq!(previews.images(), drawn.iter().collect::<Vec<_>>(), "{memory:?}");
        found.push(counted());
        assert_eq!(generator.encode(&drawn[0].pixels).unwrap(), codes, "{memory:?}");
        found.push(counted());
        assert_eq!(found, expected, "{memory:?}");
    }
}

/// At no time are more graphs held than the memory use says.
#[test]
fn no_more_is_held_than_was_said() {
    let mask = boxes(60, 20, &[(5, 5, 6, 6), (15, 8, 6, 6), (40, 8, 6, 6)]);
    let edit = Request::edit(noise(60, 20, 41), mask).with_class("0").with_count(3);
    for memory in ALL {
        let (mut generator, calls) = counting(memory, 1);
        generator.generate(&request(0)).unwrap();
        generator.generate_with(&edit, &mut Watch::with_previews()).unwrap();
        drop(generator);
        let mut held: Vec<String> = Vec::new();
        for call in take(&calls) {
            match call {
                Call::Load(name) => held.push(name),
                Call::Drop(name) => held.retain(|other| *other != name),
                Call::Rows(name, _) => {
                    assert!(held.contains(&name));
                    let transformer = held.contains(&"logits".to_owned());
                    assert!(memory == MemoryUse::KeepAll || name == "logits" || !transformer, "{held:?}");
                }
            }
            match memory {
                MemoryUse::OneAtATime => assert!(held.len() <= 1, "{held:?}"),
                _ => assert!(held.len() <= 3, "{held:?}"),
            }
        }
        assert!(held.is_empty(), "all is given back: {held:?}");
    }
}

/// A graph is loaded at most once for a stage of at most 64 images.
#[test]
fn loading_is_shared_by_many_images() {
    let many = request(0).with_count(70);
    let expected = tiny(1).generate(&many).unwrap().images;
    // The transformer is loaded when the model is opened; 70 images are two parts.
    let generation = [vec![], vec!["logits"], vec!["image", "logits", "image"]];
    // All windows are one stage: encoder, transformer, decoder, once each.
    let apart = boxes(60, 20, &[(5, 5, 6, 6), (40, 8, 6, 6)]);
    let one_stage = [vec!["tokens"], vec!["tokens", "logits"], vec!["tokens", "logits", "image"]];
    // The second stage shows what the first has painted, so it encodes anew.
    let beside = boxes(60, 20, &[(5, 5, 6, 6), (15, 8, 6, 6)]);
    let image = noise(60, 20, 42);
    for (i, memory) in ALL.into_iter().enumerate() {
        let (mut generator, calls) = counting(memory, 1);
        assert_eq!(loads(&take(&calls)), ["image", "logits"]);
        assert!(generator.generate(&many).unwrap().images == expected, "{memory:?}");
        assert_eq!(loads(&take(&calls)), generation[i], "{memory:?}, 70 images");

        let (mut generator, calls) = counting(memory, 1);
        take(&calls);
        let edit = Request::edit(image.clone(), apart.clone()).with_class("0").with_count(5);
        generator.generate(&edit).unwrap();
        let found = take(&calls);
        // With all but the transformer held, it goes when the encoder is asked for.
        assert_eq!(loads(&found), one_stage[i], "{memory:?}, two windows in a stage");
        assert_eq!(rows(&found, "tokens"), 2, "{memory:?}: each window is encoded once");
        assert_eq!(rows(&found, "image"), 10, "{memory:?}: each window of each image is decoded once");

        let (mut generator, calls) = counting(memory, 1);
        take(&calls);
        let edit = Request::edit(image.clone(), beside.clone()).with_class("0").with_count(5);
        let mut watch = Watch::with_previews();
        watch.want_previews = false;
        generator.generate_with(&edit, &mut watch).unwrap();
        let found = take(&calls);
        for name in ["tokens", "logits", "image"] {
            let count = loads(&found).iter().filter(|of| **of == name).count();
            assert!(count <= 2, "{memory:?}: {name} is loaded {count} times in two stages");
        }
        assert_eq!(rows(&found, "tokens"), 1 + 5, "{memory:?}: the first window once, the second for each image");
        assert_eq!(watch.encoded(), (1..=6).map(|done| (done, 6)).collect::<Vec<_>>());
    }
}

/// What the transformer runs is what the progress says, less the runs with every token masked, which are kept.
#[test]
fn runs_are_counted_as_they_are() {
    let (mut generator, calls) = counting(MemoryUse::KeepAll, 1);
    take(&calls);
    let request = request(1).with_count(3);
    let mut watch = Watch::default();
    generator.generate_with(&request, &mut watch).unwrap();
    // Six steps, two passes; the first step's two rows are the same for all images.
    assert_eq!(rows(&take(&calls), "logits"), 2 + 3 * 5 * 2);
    assert_eq!(watch.predicted().last(), Some(&(36, 36)));
    generator.generate_with(&request, &mut watch).unwrap();
    assert_eq!(rows(&take(&calls), "logits"), 3 * 5 * 2, "the first step is known");

    // Of 16 tokens 2 are drawn: one stays masked until the last step.
    let vary = Request::vary(noise(16, 16, 43), 0.125).with_class("0").with_steps(12);
    let mut watch = Watch::default();
    generator.generate_with(&vary, &mut watch).unwrap();
    let found = take(&calls);
    assert_eq!((rows(&found, "tokens"), rows(&found, "image")), (1, 1));
    assert_eq!(rows(&found, "logits"), 12);
    assert_eq!(watch.predicted().last(), Some(&(12, 12)));
    let reconstruct = Request::reconstruct(noise(16, 16, 43)).with_count(4);
    generator.generate(&reconstruct).unwrap();
    assert_eq!(rows(&take(&calls), "logits"), 0, "nothing is drawn");
}
