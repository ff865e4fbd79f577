//! A bundle's graphs on an engine.

use std::cell::{Cell, RefCell};

use image::RgbImage;
use maskgit_bundle::{Bundle, GraphKind, Manifest};
use maskgit_core::{Error, LoadLimits, Result, panics};
use maskgit_engine::{CpuEngine, DType, Engine, Input, OperatorCount, Output, Port, Session, Signature};
use ndarray::{ArrayD, ArrayView1, ArrayView4, ArrayViewD, ArrayViewMut3, Axis, Ix4};

/// The inputs and outputs that a graph must have, with batch 1.
fn signature(manifest: &Manifest, kind: GraphKind) -> Signature {
    let n = manifest.tokens();
    let (height, width) = (manifest.image.height as usize, manifest.image.width as usize);
    let tokens = Port::new("tokens", DType::I64, &[1, n]);
    let image = Port::new("image", DType::F32, &[1, 3, height, width]);
    match kind {
        GraphKind::Transformer => Signature {
            inputs: vec![tokens, Port::new("label", DType::I64, &[1])],
            outputs: vec![Port::new("logits", DType::F32, &[1, n, manifest.codes])],
        },
        GraphKind::Decoder => Signature { inputs: vec![tokens], outputs: vec![image] },
        GraphKind::Encoder => Signature { inputs: vec![image], outputs: vec![tokens] },
    }
}

/// Which graphs a generator holds in memory. It does not change a token or a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryUse {
    /// All that it has needed so far: the fastest.
    #[default]
    KeepAll,
    /// All but the transformer, which is unloaded when the decoder runs: nothing is loaded twice by a program that
    /// draws up to 64 images in one request without previews, and the decoder's feature maps take the memory that the
    /// transformer had.
    DropTransformer,
    /// One at a time: a graph is unloaded before another one is loaded. Each change costs a load, and so does each
    /// preview.
    OneAtATime,
}

impl MemoryUse {
    /// Whether a graph goes when another one is asked for.
    fn drops(self, held: GraphKind, wanted: GraphKind) -> bool {
        match self {
            Self::KeepAll => false,
            Self::DropTransformer => held == GraphKind::Transformer && wanted != held,
            Self::OneAtATime => held != wanted,
        }
    }
}

/// A row of the transformer: its tokens, its label, and which of its places will be read.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) tokens: &'a [i64],
    pub(super) label: i64,
    pub(super) wanted: &'a [bool],
}

/// A bundle and those of its graphs that are loaded.
pub(super) struct Sessions {
    pub(super) bundle: Bundle,
    pub(super) engine: Box<dyn Engine>,
    memory: MemoryUse,
    limits: LoadLimits,
    /// In the order of [`GraphKind::ALL`].
    sessions: RefCell<[Option<Box<dyn Session>>; 3]>,
    /// How many rows the transformer runs at the same time, once it is loaded.
    rows_at_once: Cell<usize>,
}

impl Sessions {
    pub(super) fn new(bundle: Bundle, engine: Box<dyn Engine>, memory: MemoryUse, limits: LoadLimits) -> Self {
        Self { bundle, engine, memory, limits, sessions: RefCell::default(), rows_at_once: Cell::new(1) }
    }

    /// Loads the decoder and the transformer, both to see that they are sound.
    pub(super) fn load(&self) -> Result<()> {
        self.with(GraphKind::Decoder, |_| Ok(()))?;
        self.with(GraphKind::Transformer, |transformer| {
            self.rows_at_once.set(transformer.rows_at_once().max(1));
            Ok(())
        })
    }

    /// How many rows the transformer runs at the same time: more at once are no faster.
    pub(super) fn rows_at_once(&self) -> usize {
        self.rows_at_once.get()
    }

    /// Whether graphs are unloaded between the stages of a request.
    pub(super) fn unloads(&self) -> bool {
        self.memory != MemoryUse::KeepAll
    }

    /// Goes on with another engine, and with nothing that the old one has loaded.
    pub(super) fn change_engine(&mut self, engine: Box<dyn Engine>) {
        self.sessions = RefCell::default();
        self.engine = engine;
    }

    pub(super) fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// Lends a graph, which is loaded first where it is not. `work` asks for no other.
    fn with<T>(&self, kind: GraphKind, work: impl FnOnce(&mut dyn Session) -> Result<T>) -> Result<T> {
        let mut sessions = self.sessions.borrow_mut();
        let [transformer, decoder, encoder] = &mut *sessions;
        let slots =
            [(GraphKind::Transformer, transformer), (GraphKind::Decoder, decoder), (GraphKind::Encoder, encoder)];
        let mut wanted = None;
        for (of, slot) in slots {
            if of == kind {
                wanted = Some(slot);
            } else if self.memory.drops(of, kind) {
                *slot = None;
            }
        }
        let slot = wanted.ok_or_else(|| Error::internal("a graph of an unknown kind"))?;
        let session = match slot {
            Some(session) => session,
            none => none.insert(load(&self.bundle, self.engine.as_ref(), kind, &self.limits)?),
        };
        work(session.as_mut())
    }

    /// Runs the transformer for several rows: the logits of the wanted places go to `out`, `[rows, N, K]`; those of
    /// others are finite.
    pub(super) fn logits(&self, rows: &[Pass<'_>], out: ArrayViewMut3<'_, f32>) -> Result<()> {
        let inputs: Vec<[Input<'_>; 2]> = rows
            .iter()
            .map(|row| {
                let tokens = ArrayView1::from(row.tokens).insert_axis(Axis(0));
                [tokens.into(), ArrayView1::from(std::slice::from_ref(&row.label)).into()]
            })
            .collect();
        let inputs: Vec<&[Input<'_>]> = inputs.iter().map(|row| row.as_slice()).collect();
        let wanted: Vec<&[bool]> = rows.iter().map(|row| row.wanted).collect();
        self.with(GraphKind::Transformer, |session| session.run_into(&inputs, &wanted, out))
    }

    /// Runs the decoder once: `[1, 3, height, width]`.
    pub(super) fn decode(&self, tokens: &[i64]) -> Result<ArrayD<f32>> {
        let input = [ArrayView1::from(tokens).insert_axis(Axis(0)).into()];
        one(self.with(GraphKind::Decoder, |session| session.run(&input))?)?.into_f32()
    }

    /// Runs the encoder once: three planes of the model's size to N tokens.
    pub(super) fn encode(&self, planes: &[f32]) -> Result<Vec<i64>> {
        if !self.bundle.has_graph(GraphKind::Encoder) {
            return Err(Error::request("this model has no encoder: it can draw but not read images"));
        }
        let image = &self.manifest().image;
        let shape = (1, 3, image.height as usize, image.width as usize);
        let view = ArrayView4::from_shape(shape, planes).map_err(|_| {
            Error::request(format!("the image has {} values; the encoder takes {shape:?}", planes.len()))
        })?;
        let tokens = one(self.with(GraphKind::Encoder, |session| session.run(&[view.into()]))?)?.into_i64()?;
        let tokens = tokens.into_raw_vec_and_offset().0;
        check_tokens(self.manifest(), &tokens, false)
            .map_err(|e| Error::engine("the encoder's output").with_source(e))?;
        Ok(tokens)
    }
}

/// Reads, checks and prepares one graph of a bundle.
///
/// Where there is a second core, the hash is computed while the graph is prepared: an engine takes any bytes, and what
/// it makes of damaged ones is thrown away.
fn load(bundle: &Bundle, engine: &dyn Engine, kind: GraphKind, limits: &LoadLimits) -> Result<Box<dyn Session>> {
    let graph = bundle.unchecked_source(kind)?;
    let checked = |result: std::result::Result<Result<()>, panics::Caught>| {
        result.unwrap_or_else(|panic| Err(Error::internal(panic.text).context("checking a graph's hash")))
    };
    let prepare = || {
        engine
            .load(&graph, &signature(bundle.manifest(), kind), limits)
            .map_err(|e| e.context(format!("{}, the {kind} graph", bundle.manifest().name)))
    };
    let check = || panics::caught(|| bundle.check_source(kind, &graph));
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let checker = (cores > 1)
            .then(|| std::thread::Builder::new().name("maskgit-hash".to_owned()).spawn_scoped(scope, check).ok())
            .flatten();
        let Some(checker) = checker else {
            checked(check())?;
            return prepare();
        };
        let session = prepare();
        checked(checker.join().map_err(|_| Error::internal("checking a graph's hash panicked"))?)?;
        session
    })
}

/// The operators of every graph of a bundle as the CPU runs them, ours first, in the order of the packed file.
///
/// # Errors
///
/// As [`GeneratorBuilder::open_bundle`](super::GeneratorBuilder::open_bundle).
pub fn operators(bundle: &Bundle) -> Result<Vec<(GraphKind, Vec<OperatorCount>)>> {
    let engine = CpuEngine::new(1)?;
    let kinds = GraphKind::ALL.into_iter().filter(|&kind| bundle.has_graph(kind));
    kinds.map(|kind| Ok((kind, load(bundle, &engine, kind, &LoadLimits::default())?.describe()))).collect()
}

/// The only output of a graph.
fn one(outputs: Vec<Output>) -> Result<Output> {
    outputs.into_iter().next().ok_or_else(|| Error::engine("a graph gave no output"))
}

/// Checks the number of tokens and their range, which holds the mask id where that is allowed.
pub(super) fn check_tokens(manifest: &Manifest, tokens: &[i64], mask_allowed: bool) -> Result<()> {
    if tokens.len() != manifest.tokens() {
        return Err(Error::request(format!("{} tokens; the model has {}", tokens.len(), manifest.tokens())));
    }
    let fits = |&token: &i64| {
        usize::try_from(token).is_ok_and(|t| t < manifest.codes) || (mask_allowed && token == manifest.mask_id)
    };
    match tokens.iter().position(|token| !fits(token)) {
        None => Ok(()),
        Some(place) => Err(Error::request(format!(
            "the token at position {place} is {}; it must be 0 to {}{}",
            tokens.get(place).copied().unwrap_or_default(),
            manifest.codes.saturating_sub(1),
            if mask_allowed { format!(" or the mask id {}", manifest.mask_id) } else { String::new() }
        ))),
    }
}

/// Three planes in 0..1, `[1, 3, height, width]`, clipped, to pixels.
pub(super) fn to_image(manifest: &Manifest, planes: ArrayViewD<'_, f32>) -> Result<RgbImage> {
    if planes.iter().any(|v| !v.is_finite()) {
        return Err(Error::engine("the decoder gave a value that is not a finite number"));
    }
    let (width, height) = (manifest.image.width, manifest.image.height);
    let planes = planes
        .into_dimensionality::<Ix4>()
        .ok()
        .filter(|planes| planes.shape() == [1, 3, height as usize, width as usize]);
    let planes =
        planes.ok_or_else(|| Error::engine("the decoder's output does not have the size of the model's images"))?;
    let byte = |v: f32| (v.clamp(0.0, 1.0) * 255.0).round() as u8;
    Ok(RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([0, 1, 2].map(|channel| byte(planes[[0, channel, y as usize, x as usize]])))
    }))
}
