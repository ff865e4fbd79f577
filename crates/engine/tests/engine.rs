//! The CPU engine: what it computes, that threads do not change a bit, and what it says of wrong graphs.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use maskgit_core::{ErrorKind, LoadLimits, Source};
use maskgit_engine::{CpuEngine, DType, Engine, Input, Output, Port, Session, Signature};
use ndarray::{ArrayD, ArrayView2, aview1, aview2};
use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, FunctionProto, ModelProto, TensorProto};

/// The graphs that tests/data/make_graphs.py writes.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/graphs")
}

fn graph(name: &str) -> Vec<u8> {
    let path = folder().join(format!("{name}.onnx"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn signature(inputs: &[(&str, DType, &[usize])], outputs: &[(&str, DType, &[usize])]) -> Signature {
    let ports = |list: &[(&str, DType, &[usize])]| list.iter().map(|&(n, t, s)| Port::new(n, t, s)).collect();
    Signature { inputs: ports(inputs), outputs: ports(outputs) }
}

/// `x` f32\[2,3\] to `y` f32\[2,3\].
fn plain() -> Signature {
    signature(&[("x", DType::F32, &[2, 3])], &[("y", DType::F32, &[2, 3])])
}

fn load(threads: usize, name: &str, signature: &Signature) -> Box<dyn Session> {
    CpuEngine::new(threads)
        .unwrap()
        .load(&Source::from(graph(name)), signature, &LoadLimits::default())
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

const X: [[f32; 3]; 2] = [[-1.0, 2.0, -3.0], [4.0, -5.0, 6.0]];

fn x() -> Input<'static> {
    aview2(&X).into()
}

/// Runs a session and gives its only output, flat.
fn flat(session: &mut dyn Session, inputs: &[Input<'_>]) -> Vec<f32> {
    session.run(inputs).unwrap().remove(0).into_f32().unwrap().into_iter().collect()
}

#[test]
fn runs_graphs_with_open_and_closed_shapes() {
    for name in ["good", "open_batch", "no_shapes"] {
        let got = load(1, name, &plain()).run(&[x()]).unwrap();
        let want = ArrayD::from_shape_vec(vec![2, 3], vec![0.0, 2.0, 0.0, 4.0, 0.0, 6.0]).unwrap();
        assert_eq!(got, [Output::F32(want)], "{name}");
    }
}

#[test]
fn ports_follow_the_signature_not_the_file() {
    let both = [("x", DType::F32, &[2, 3][..]), ("w", DType::F32, &[2, 3])];
    let outputs = [("v", DType::F32, &[2, 3][..]), ("u", DType::F32, &[2, 3])];
    let w = aview2(&[[1f32; 3]; 2]).into();
    let got = load(1, "two_ports", &signature(&both, &outputs)).run(&[x(), w]).unwrap();
    let got: Vec<_> = got.into_iter().map(|o| o.into_f32().unwrap()).collect();
    assert_eq!(got, [(&aview2(&X) - 1.0).into_dyn(), (&aview2(&X) + 1.0).into_dyn()]);
}

#[test]
fn weights_listed_as_inputs_are_weights() {
    assert_eq!(flat(load(1, "listed_weight", &plain()).as_mut(), &[x()]), [0.0, 4.0, 0.0, 5.0, -3.0, 9.0]);
}

#[test]
fn threads_do_not_change_a_bit() {
    let wide =
        signature(&[("a", DType::F32, &[131, 257]), ("b", DType::F32, &[257, 515])], &[("y", DType::F32, &[131, 515])]);
    // A fixed sequence that fills the mantissa, so that another order of additions would show.
    let mut state = 1u32;
    let mut numbers = |n: usize| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    };
    let (a, b) = (numbers(131 * 257), numbers(257 * 515));
    let matrix = |shape, data| Input::from(ArrayView2::from_shape(shape, data).unwrap());
    let inputs = [matrix((131, 257), &a), matrix((257, 515), &b)];
    let bits = |session: &mut dyn Session| -> Vec<u32> { flat(session, &inputs).iter().map(|v| v.to_bits()).collect() };
    let mut one = load(1, "wide", &wide);
    let want = bits(one.as_mut());
    assert!(want.iter().any(|&b| f32::from_bits(b) != 0.0));
    assert_eq!(bits(one.as_mut()), want, "the same session again");
    for threads in [2, 3, 7] {
        let mut session = load(threads, "wide", &wide);
        for _ in 0..3 {
            assert!(bits(session.as_mut()) == want, "{threads} threads give other bits than 1");
        }
    }
    // On several threads at once.
    std::thread::scope(|scope| {
        let work: Vec<_> = (1..=3).map(|t| scope.spawn(move || (t, load(t, "wide", &wide_signature())))).collect();
        for handle in work {
            let (threads, mut session) = handle.join().unwrap();
            assert!(bits(session.as_mut()) == want, "{threads} threads, loaded on another thread");
        }
    });
}

fn wide_signature() -> Signature {
    signature(&[("a", DType::F32, &[131, 257]), ("b", DType::F32, &[257, 515])], &[("y", DType::F32, &[131, 515])])
}

#[test]
fn two_engines_do_not_know_of_each_other() {
    let (mut one, mut two) = (load(1, "good", &plain()), load(2, "listed_weight", &plain()));
    for _ in 0..3 {
        assert_eq!(flat(one.as_mut(), &[x()]), [0.0, 2.0, 0.0, 4.0, 0.0, 6.0]);
        assert_eq!(flat(two.as_mut(), &[x()]), [0.0, 4.0, 0.0, 5.0, -3.0, 9.0]);
    }
    // An engine may go before its sessions.
    drop(one);
    assert!(two.run(&[x()]).is_ok());
}

#[test]
fn a_session_works_after_a_failed_run() {
    for threads in [1, 2] {
        let gather = signature(&[("i", DType::I64, &[2])], &[("y", DType::F32, &[2, 3])]);
        let mut session = load(threads, "gather", &gather);
        for bad in [[0, 4], [i64::MAX, 0], [i64::MIN, 0]] {
            let error = session.run(&[aview1(&bad).into()]).expect_err("outside the table");
            assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
        }
        assert_eq!(flat(session.as_mut(), &[aview1(&[2i64, 0]).into()]), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }
}

#[test]
fn wrong_inputs_are_errors() {
    let mut session = load(1, "good", &plain());
    let cases: [(&str, &[Input<'_>]); 5] = [
        ("takes 1 inputs, it was given 0", &[]),
        ("takes 1 inputs, it was given 2", &[x(), x()]),
        ("\"x\" is i64", &[aview2(&[[0i64; 3]; 2]).into()]),
        ("[3, 2]", &[aview2(&[[0f32; 2]; 3]).into()]),
        ("[0]", &[aview1::<f32>(&[]).into()]),
    ];
    for (want, inputs) in cases {
        let error = session.run(inputs).expect_err(want);
        assert!(error.kind() == ErrorKind::Engine && error.to_string().contains(want), "{want}: {error}");
    }
}

#[test]
fn the_number_of_threads_has_limits() {
    for threads in [0, 1025, usize::MAX] {
        assert_eq!(CpuEngine::new(threads).expect_err("limits").kind(), ErrorKind::Request);
    }
    assert_eq!(CpuEngine::new(3).unwrap().threads(), 3);
}

/// Every wrong graph of tests/data/make_graphs.py, and what its error must say.
const WRONG: &[(&str, &str)] = &[
    ("bad_input_name", "has no input \"x\"; it has \"z\""),
    ("bad_input_type", "input \"x\" is int64; it must be f32"),
    ("bad_input_size", "input \"x\" has the shape [2, 4]; it must be [2, 3]"),
    ("bad_input_rank", "input \"x\" has the shape [2, 3, 1]; it must be [2, 3]"),
    ("extra_input", "has the inputs \"x\", \"z\"; it must have exactly \"x\""),
    ("twice_the_input", "has the inputs \"x\", \"x\"; it must have exactly \"x\""),
    ("no_input", "has no input \"x\"; it has none"),
    ("bad_output_name", "has no output \"y\"; it has \"z\""),
    ("bad_output_type", "output \"y\" is int64; it must be f32"),
    ("bad_output_size", "output \"y\" has the shape [3, 2]; it must be [2, 3]"),
    ("extra_output", "has the outputs \"y\", \"z\"; it must have exactly \"y\""),
    ("lying_output_type", "output \"y\" is"),
    ("lying_output_size", "output \"y\" is"),
    ("no_output", "has no output \"y\"; it has none"),
    ("undefined_output", "nothing gives the graph's output \"y\""),
    ("undefined_value", "uses \"nowhere\", which nothing before it gives"),
    ("cycle", "uses \"b\", which nothing before it gives"),
    ("defined_twice", "gives \"y\", which exists already"),
    ("weight_twice", "two weights called \"w\""),
    ("unknown_operator", "(\"\", Draw): the operator is not supported"),
    ("loop", "control flow is not supported"),
    ("external_data", "external"),
    ("string_weight", "cannot load the graph"),
    ("short_weight", "does not match shape"),
    ("overflowing_weight", "overflows"),
    ("negative_weight", "Negative dimension"),
    ("missing_arguments", "cannot"),
    ("mismatched_shapes", "cannot prepare the graph"),
    ("huge_constant", "elements are allowed"),
    ("huge_expand", "elements are allowed"),
    ("huge_tile", "elements are allowed"),
    ("huge_range", "values; it must have"),
    ("overflowing_expand", "elements are allowed"),
];

const RIGHT: [&str; 7] = ["good", "gather", "listed_weight", "no_shapes", "open_batch", "two_ports", "wide"];

thread_local! {
    /// Where this thread has panicked, whether the panic was caught or not: an engine turns a panic into an error, so
    /// nothing but a hook sees it.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` and says where it panicked. Of an engine with one thread, which runs everything here.
fn watched<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // The engine's own hook first, so that it is under this one and hides nothing.
        let _ = maskgit_core::panics::caught(|| ());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let mut place = info.location().map(ToString::to_string).unwrap_or_default();
            if place.contains("/rustc/") {
                // In the standard library: who called it?
                let trace = Backtrace::force_capture().to_string();
                let caller = trace.lines().find(|line| line.contains("tract_") || line.contains("maskgit_"));
                place.push_str(caller.unwrap_or_default());
            }
            // A test's own panic must still be told.
            if place.contains("tests/engine.rs") {
                before(info);
            }
            PANICS.with_borrow_mut(|panics| panics.push(place));
        }));
    });
    PANICS.take();
    let result = work();
    (result, PANICS.take())
}

/// Whether a panic was in this repository's code. Those of tract are its own, and the engine is there to catch them.
fn is_ours(place: &&String) -> bool {
    !place.contains("/tract-") && !place.contains(" tract_")
}

/// The error of loading, or what is wrong with how it failed.
fn refused(bytes: &[u8], want: &str) -> Result<(), String> {
    let engine = CpuEngine::new(1).unwrap();
    let load = || engine.load(&Source::from(bytes.to_vec()), &plain(), &LoadLimits::default()).map(|_| ());
    let (result, panics) = watched(|| catch_unwind(AssertUnwindSafe(load)));
    if let Some(place) = panics.iter().find(is_ours) {
        return Err(format!("panicked at {place}"));
    }
    match result {
        Err(_) => Err("panicked".to_owned()),
        Ok(Ok(())) => Err("loaded".to_owned()),
        Ok(Err(e)) if e.kind() != ErrorKind::Engine => Err(format!("kind {:?}", e.kind())),
        Ok(Err(e)) if e.to_string().contains(want) && e.to_string().lines().count() == 1 => Ok(()),
        Ok(Err(e)) => Err(format!("says: {e}")),
    }
}

/// What the tests of panics rest on: one that an engine turns into an error is seen all the same.
#[test]
fn a_panic_that_was_caught_is_seen() {
    let (result, panics) = watched(|| catch_unwind(|| panic!("of the test")));
    assert!(result.is_err() && panics.len() == 1, "{panics:?}");
    assert!(panics.iter().all(|place| is_ours(&place)), "{panics:?}");
    let tracts = "/somewhere/registry/src/index/tract-core-0.23.9/src/model.rs:1:1".to_owned();
    assert!(!is_ours(&&tracts));
    let of_the_library = "/rustc/abc/library/alloc/src/raw_vec.rs:1:1  12: tract_core::model::run".to_owned();
    assert!(!is_ours(&&of_the_library));
    let (result, panics) = watched(|| catch_unwind(|| Vec::<u8>::with_capacity(usize::MAX)));
    assert!(result.is_err() && panics.iter().all(|place| is_ours(&place)) && panics.len() == 1, "{panics:?}");
    assert!(watched(|| ()).1.is_empty());
}

fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_wrong_graph_has_its_own_error() {
    let cases = WRONG.iter().filter_map(|(name, want)| Some(format!("{name}: {}", refused(&graph(name), want).err()?)));
    report(cases.collect());
}

#[test]
fn every_graph_on_disk_is_tested() {
    let mut found: Vec<_> =
        std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut want: Vec<_> = WRONG.iter().map(|w| w.0).chain(RIGHT).map(|n| format!("{n}.onnx")).collect();
    want.sort();
    assert_eq!(found, want);
}

#[test]
fn damaged_bytes_are_errors_and_never_panics() {
    let good = graph("listed_weight");
    let mut failures = Vec::new();
    let mut try_bytes = |what: String, bytes: &[u8]| {
        // Damage may leave a graph that works; it may not panic.
        if let Err(e) = refused(bytes, "").or_else(|e| if e == "loaded" { Ok(()) } else { Err(e) }) {
            failures.push(format!("{what}: {e}"));
        }
    };
    for end in 0..good.len() {
        try_bytes(format!("the first {end} bytes"), &good[..end]);
    }
    for index in 0..good.len() {
        for bit in [0x01, 0x08, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[index] ^= bit;
            try_bytes(format!("byte {index} xor {bit:#x}"), &bad);
        }
    }
    try_bytes("text".to_owned(), b"this is not a model");
    try_bytes("zeros".to_owned(), &[0; 1000]);
    try_bytes("all ones".to_owned(), &[0xff; 1000]);
    report(failures);
    assert!(refused(b"", "it has no graph").is_ok());
}

/// A good graph, changed.
fn changed(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = ModelProto::decode(graph("good").as_slice()).unwrap();
    change(&mut model);
    model.encode_to_vec()
}

/// An operator of another domain is another operator, whatever it is called.
#[test]
fn operators_of_other_domains_are_refused() {
    let of = |domain: &str| changed(|model| model.graph.as_mut().unwrap().node[0].domain = domain.to_owned());
    for domain in ["", "ai.onnx"] {
        assert_eq!(refused(&of(domain), ""), Err("loaded".to_owned()), "{domain}");
    }
    for domain in ["com.microsoft", "ai.onnx.ml", "ai.onnx.", " "] {
        let want = format!("is of the domain \"{domain}\", which is not supported");
        assert_eq!(refused(&of(domain), &want), Ok(()), "{domain}");
    }
    assert_eq!(refused(&of(&"d".repeat(5000)), "which is not supported"), Ok(()));
}

/// A function of the model's own could give an operator's name another meaning.
#[test]
fn functions_of_the_model_are_refused() {
    let bytes = changed(|model| {
        model.functions.push(FunctionProto { name: Some("Relu".to_owned()), ..FunctionProto::default() });
    });
    assert_eq!(refused(&bytes, "functions of its own, which are not supported"), Ok(()));
}

/// A convolution of x f32\[1,1,6,6\] with a kernel of 2x2, to an output of `side` each way.
fn convolution(pads: i64, strides: i64, dilations: i64, side: i64) -> (Vec<u8>, Signature) {
    let bytes = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        let ints = |name: &str, ints: Vec<i64>| AttributeProto {
            name: name.to_owned(),
            r#type: 7,
            ints,
            ..AttributeProto::default()
        };
        graph.node[0].op_type = "Conv".to_owned();
        graph.node[0].input = vec!["x".to_owned(), "w".to_owned()];
        graph.node[0].attribute =
            vec![ints("pads", vec![pads; 4]), ints("strides", vec![strides; 2]), ints("dilations", vec![dilations; 2])];
        graph.initializer.push(TensorProto {
            name: "w".to_owned(),
            dims: vec![1, 1, 2, 2],
            data_type: DataType::Float as i32,
            float_data: vec![1.0; 4],
            ..TensorProto::default()
        });
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            let Some(tract_onnx::pb::type_proto::Value::TensorType(tensor)) =
                info.r#type.as_mut().and_then(|t| t.value.as_mut())
            else {
                panic!("a tensor")
            };
            tensor.shape = None;
        }
    });
    let side = usize::try_from(side).unwrap();
    (bytes, signature(&[("x", DType::F32, &[1, 1, 6, 6])], &[("y", DType::F32, &[1, 1, side, side])]))
}

/// Strides, dilations and padding of a file may ask for a padded picture of any size, whatever the input's and the
/// output's.
#[test]
fn a_convolution_that_asks_for_a_huge_padded_picture_is_refused() {
    let engine = CpuEngine::new(1).unwrap();
    let load = |pads, strides, dilations, side| {
        let (bytes, signature) = convolution(pads, strides, dilations, side);
        watched(|| engine.load(&Source::from(bytes), &signature, &LoadLimits::default()))
    };
    let (session, _) = load(1, 2, 1, 4);
    let x = ArrayD::from_elem(vec![1, 1, 6, 6], 1f32);
    let y = flat(session.unwrap_or_else(|e| panic!("{e}")).as_mut(), &[x.view().into()]);
    assert_eq!((y.len(), y[0], y[5]), (16, 1.0, 4.0));
    let exact = |pads: i64, strides: i64, dilations: i64| (6 + 2 * pads - dilations - 1) / strides + 1;
    for (pads, strides, dilations) in [
        (1 << 20, 1 << 20, 1),
        (1 << 20, 1 << 20, 1 << 20),
        (1 << 20, 1, (1 << 21) + 4),
        (1 << 40, 1 << 40, 1),
        (1 << 40, 1, (1 << 41) + 4),
        (1 << 60, 1 << 60, 1),
        (1, 1 << 62, 1),
        (1, i64::MAX, 1),
        (1, 0, 1),
        (i64::MAX, 1, 1),
        (1, 1, i64::MAX),
        (-1, 1, 1),
        (1, -1, 1),
        (1, 1, -1),
    ] {
        let side = if strides > 0 && (0..1 << 61).contains(&pads) && (0..i64::MAX).contains(&dilations) {
            exact(pads, strides, dilations)
        } else {
            1
        };
        let (result, panics) = load(pads, strides, dilations, side);
        let what = format!("pads {pads}, strides {strides}, dilations {dilations}");
        let ours: Vec<_> = panics.iter().filter(is_ours).collect();
        assert!(ours.is_empty(), "{what}: panicked at {ours:?}");
        match result {
            Ok(_) => panic!("{what}: loaded"),
            Err(e) => println!("{what}: {e}"),
        }
    }
}
