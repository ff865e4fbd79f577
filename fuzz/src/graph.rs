//! ONNX graphs.

use maskgit_bundle::{GraphKind, Manifest};
use maskgit_core::{Error, Result, Source};
use maskgit_engine::{CpuEngine, DType, Engine, Port, Signature};

use super::{load_limits, loaded};

/// What a graph of a bundle takes and gives (`docs/bundle.md`).
pub fn signature(manifest: &Manifest, kind: GraphKind) -> Signature {
    let size = (manifest.image.height as usize, manifest.image.width as usize);
    bundled(kind, manifest.tokens(), manifest.codes, size)
}

fn bundled(kind: GraphKind, n: usize, codes: usize, (height, width): (usize, usize)) -> Signature {
    let tokens = Port::new("tokens", DType::I64, &[1, n]);
    let image = Port::new("image", DType::F32, &[1, 3, height, width]);
    match kind {
        GraphKind::Transformer => Signature {
            inputs: vec![tokens, Port::new("label", DType::I64, &[1])],
            outputs: vec![Port::new("logits", DType::F32, &[1, n, codes])],
        },
        GraphKind::Decoder => Signature { inputs: vec![tokens], outputs: vec![image] },
        GraphKind::Encoder => Signature { inputs: vec![image], outputs: vec![tokens] },
    }
}

/// The signatures that the seeds have: of the graphs of `tests/data/tiny` and `tests/data/graphs`.
fn signatures() -> impl Iterator<Item = Signature> {
    let x = |shape: &[usize]| Signature {
        inputs: vec![Port::new("x", DType::F32, shape)],
        outputs: vec![Port::new("y", DType::F32, shape)],
    };
    let kinds = GraphKind::ALL.into_iter().map(|kind| bundled(kind, 16, 8, (16, 16)));
    kinds.chain([x(&[2, 3]), x(&[1, 4, 6, 6])])
}

/// An ONNX file: it is loaded as each of the graphs that the seeds are.
pub fn graph(bytes: &[u8]) -> Result<()> {
    let source = Source::from(bytes.to_vec());
    let engine = CpuEngine::new(1)?;
    let mut refused = Error::internal("there are no signatures");
    for signature in signatures() {
        match engine.load(&source, &signature, &load_limits()) {
            Ok(session) => {
                loaded(session.as_ref());
                return Ok(());
            }
            Err(e) => refused = e,
        }
    }
    Err(refused)
}
