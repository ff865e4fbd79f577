//! The CPU engine: what it computes, that threads do not change a bit, and what it says of wrong graphs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use maskgit::ErrorKind;
use maskgit::engine::{CpuEngine, DType, Engine, Input, Output, Port, Session, Signature, Source};

fn graph(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/graphs/{name}.onnx"));
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
        .load(&Source::from(graph(name)), signature)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

const X: [f32; 6] = [-1.0, 2.0, -3.0, 4.0, -5.0, 6.0];

fn x() -> Input<'static> {
    Input::F32 { shape: &[2, 3], data: &X }
}

#[test]
fn runs_graphs_with_open_and_closed_shapes() {
    for name in ["good", "open_batch", "no_shapes"] {
        let got = load(1, name, &plain()).run(&[x()]).unwrap();
        let want = Output::F32 { shape: vec![2, 3], data: vec![0.0, 2.0, 0.0, 4.0, 0.0, 6.0] };
        assert_eq!(got, [want], "{name}");
    }
}

#[test]
fn ports_follow_the_signature_not_the_file() {
    let both = [("x", DType::F32, &[2, 3][..]), ("w", DType::F32, &[2, 3])];
    let outputs = [("v", DType::F32, &[2, 3][..]), ("u", DType::F32, &[2, 3])];
    let ones = [1.0; 6];
    let w = Input::F32 { shape: &[2, 3], data: &ones };
    let got = load(1, "two_ports", &signature(&both, &outputs)).run(&[x(), w]).unwrap();
    let got: Vec<_> = got.into_iter().map(|o| o.into_f32().unwrap()).collect();
    assert_eq!(got, [X.map(|x| x - 1.0), X.map(|x| x + 1.0)]);
}

#[test]
fn weights_listed_as_inputs_are_weights() {
    let got = load(1, "listed_weight", &plain()).run(&[x()]).unwrap().remove(0).into_f32().unwrap();
    assert_eq!(got, [0.0, 4.0, 0.0, 5.0, -3.0, 9.0]);
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
    let inputs = [Input::F32 { shape: &[131, 257], data: &a }, Input::F32 { shape: &[257, 515], data: &b }];
    let bits = |session: &mut dyn Session| -> Vec<u32> {
        let y = session.run(&inputs).unwrap().remove(0).into_f32().unwrap();
        y.iter().map(|v| v.to_bits()).collect()
    };
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
        assert_eq!(one.run(&[x()]).unwrap().remove(0).into_f32().unwrap(), X.map(|x| x.max(0.0)));
        assert_eq!(two.run(&[x()]).unwrap().remove(0).into_f32().unwrap(), [0.0, 4.0, 0.0, 5.0, -3.0, 9.0]);
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
            let error = session.run(&[Input::I64 { shape: &[2], data: &bad }]).expect_err("outside the table");
            assert_eq!(error.kind(), ErrorKind::Engine, "{error}");
        }
        let got = session.run(&[Input::I64 { shape: &[2], data: &[2, 0] }]).unwrap().remove(0).into_f32().unwrap();
        assert_eq!(got, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }
}

#[test]
fn wrong_inputs_are_errors() {
    let mut session = load(1, "good", &plain());
    let integers = [0; 6];
    let cases: [(&str, &[Input<'_>]); 6] = [
        ("takes 1 inputs, it was given 0", &[]),
        ("takes 1 inputs, it was given 2", &[x(), x()]),
        ("\"x\" is i64", &[Input::I64 { shape: &[2, 3], data: &integers }]),
        ("[3, 2]", &[Input::F32 { shape: &[3, 2], data: &X }]),
        ("with 5 numbers", &[Input::F32 { shape: &[2, 3], data: &X[..5] }]),
        ("with 0 numbers", &[Input::F32 { shape: &[2, 3], data: &[] }]),
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
    ("huge_constant", "failed to allocate"),
    ("huge_expand", "elements are allowed"),
    ("huge_tile", "failed to allocate"),
    ("huge_range", "failed to allocate"),
    ("overflowing_expand", "elements are allowed"),
];

const RIGHT: [&str; 7] = ["good", "gather", "listed_weight", "no_shapes", "open_batch", "two_ports", "wide"];

/// The error of loading, or what is wrong with how it failed.
fn refused(bytes: &[u8], want: &str) -> Result<(), String> {
    let engine = CpuEngine::new(1).unwrap();
    match catch_unwind(AssertUnwindSafe(|| engine.load(&Source::from(bytes.to_vec()), &plain()).map(|_| ()))) {
        Err(_) => Err("panicked".to_owned()),
        Ok(Ok(())) => Err("loaded".to_owned()),
        Ok(Err(e)) if e.kind() != ErrorKind::Engine => Err(format!("kind {:?}", e.kind())),
        Ok(Err(e)) if e.to_string().contains(want) && e.to_string().lines().count() == 1 => Ok(()),
        Ok(Err(e)) => Err(format!("says: {e}")),
    }
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/graphs");
    let mut found: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
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
