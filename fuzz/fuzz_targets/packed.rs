#![no_main]

mod onnx;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use maskgit_bundle::{Bundle, GraphKind};
use maskgit_core::sha256;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let _ = maskgit_fuzz::packed(bytes);
});

// A packed file says the size and the hash of each graph: a change in a graph gets no farther unless it says them anew.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = if seed % 4 == 0 { None } else { repacked(&data[..size], seed.into()) };
    onnx::put(data, max_size, changed).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});

/// The packed file with one of its graphs changed.
fn repacked(bytes: &[u8], seed: u64) -> Option<Vec<u8>> {
    let bundle = Bundle::from_bytes(bytes.to_vec()).ok()?;
    let mut manifest: Value = serde_json::to_value(bundle.manifest()).ok()?;
    let kinds: Vec<GraphKind> = GraphKind::ALL.into_iter().filter(|&kind| bundle.has_graph(kind)).collect();
    let chosen = *kinds.get(seed as usize / 4 % kinds.len())?;
    let mut graphs = Vec::new();
    for &kind in &kinds {
        let source = bundle.unchecked_source(kind).ok()?;
        let mut graph = source.read(0, source.len() as usize).ok()?;
        if kind == chosen {
            graph = onnx::mutated(&graph, seed)?;
            let said = &mut manifest["graphs"][kind.as_str()];
            said["bytes"] = json!(graph.len());
            said["sha256"] = json!(sha256(&graph));
        }
        graphs.push(graph);
    }
    let manifest = serde_json::to_vec(&manifest).ok()?;
    let mut packed = b"MASKGIT1".to_vec();
    packed.extend((manifest.len() as u64).to_le_bytes());
    packed.extend(manifest);
    for graph in graphs {
        packed.resize(packed.len().next_multiple_of(64), 0);
        packed.extend(graph);
    }
    Some(packed)
}
