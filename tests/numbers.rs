//! Numbers that cannot be, from every side; and those that a model gets wrong.

use std::fs;
use std::path::Path;

use maskgit::{ErrorKind, Feather, Outpaint, Request, SamplingChanges};
use prost::Message;
use serde_json::{Value, json};
use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

use crate::command::{Desk, copy_tiny};
use crate::common::{boxes, noise, tiny};

const BAD: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0];
const BAD_TEXT: [&str; 7] = ["nan", "NaN", "inf", "-inf", "infinity", "1e39", "-1"];
/// Settings that are numbers with a fraction.
const SETTINGS: [&str; 6] =
    ["guidance", "temperature", "final_temperature", "choice_temperature", "corrector_share", "corrector_first"];

#[test]
fn the_library_refuses_them() {
    let generator = &mut tiny(1);
    let image = noise(16, 16, 1);
    for bad in BAD {
        let mut requests = Vec::new();
        for set in [
            |c: &mut SamplingChanges, bad| c.guidance = Some(bad),
            |c: &mut SamplingChanges, bad| c.temperature = Some(bad),
            |c: &mut SamplingChanges, bad| c.final_temperature = Some(bad),
            |c: &mut SamplingChanges, bad| c.choice_temperature = Some(bad),
            |c: &mut SamplingChanges, bad| c.corrector_share = Some(bad),
            |c: &mut SamplingChanges, bad| c.corrector_first = Some(bad),
        ] {
            let mut changes = SamplingChanges::default();
            set(&mut changes, bad);
            requests.push(Request::generate().with_sampling(changes));
        }
        let mask = || boxes(16, 16, &[(0, 0, 8, 8)]);
        requests.push(Request::edit(image.clone(), mask()).with_context(bad));
        requests.push(Request::vary(image.clone(), bad));
        let sides = Outpaint { left: 8, overlap: bad, ..Outpaint::default() };
        requests.push(Request::outpaint(image.clone(), sides));
        for (i, request) in requests.into_iter().enumerate() {
            for request in [request.clone(), request.with_class("warm")] {
                let refused = request.resolve(generator.manifest()).map(drop).expect_err("an impossible number");
                assert_eq!(refused.kind(), ErrorKind::Request, "{i}, {bad}: {refused}");
                let refused = generator.generate(&request).map(drop).expect_err("an impossible number");
                assert_eq!(refused.kind(), ErrorKind::Request, "{i}, {bad}: {refused}");
            }
        }
    }
    let wide = Request::edit(image.clone(), boxes(16, 16, &[(0, 0, 8, 8)])).with_feather(Feather::Pixels(u32::MAX));
    assert_eq!(generator.generate(&wide).map(drop).expect_err("too wide").kind(), ErrorKind::Request);
}

#[test]
fn the_command_refuses_them() {
    let desk = Desk::new();
    desk.ok(&["generate", "--class", "warm", "-o", "image.png"]);
    let before = desk.names();
    let edit = ["edit", "--image", "image.png", "--box", "0,0,4,4", "-o", "x.png"];
    for bad in BAD_TEXT {
        for class in [&["--class", "warm"][..], &[]] {
            for name in SETTINGS {
                let flag = format!("--{}", name.replace('_', "-"));
                desk.fails(2, &[&edit, class, &[&flag, bad]].concat());
            }
            desk.fails(2, &[&edit, class, &["--context", bad]].concat());
            desk.fails(2, &[&edit, class, &["--schedule", &format!("power:{bad}")]].concat());
            desk.fails(2, &[&["vary", "--image", "image.png", "-o", "x.png", "--strength", bad], class].concat());
            let outpaint = ["outpaint", "--image", "image.png", "-o", "x.png", "--left", "8", "--overlap", bad];
            desk.fails(2, &[&outpaint, class].concat());
        }
    }
    assert_eq!(desk.names(), before);
}

/// JSON has no NaN, but numbers that are infinite in 32 bits.
#[test]
fn a_manifest_does_not_have_them() {
    let desk = Desk::new();
    for name in SETTINGS {
        for bad in [json!(1e39), json!(1e308), json!(-1), json!(null)] {
            if bad == Value::Null && name == "final_temperature" {
                continue; // none
            }
            copy_tiny(&desk.path("model"), |manifest| manifest["sampling"][name] = bad.clone());
            let said = desk.fails(1, &["generate", "--model", "model", "--class", "warm", "-o", "x.png"]);
            assert!(said.contains(name) || said.contains("bundle.json"), "{name}, {bad}: {said}");
            assert!(!desk.path("x.png").exists());
        }
    }
}

/// Changes a graph of the tiny model, and its manifest to match.
fn with_graph(to: &Path, kind: &str, change: impl FnOnce(&mut ModelProto)) {
    copy_tiny(to, |_| {});
    let file = to.join(format!("{kind}.onnx"));
    let mut model = ModelProto::decode(fs::read(&file).unwrap().as_slice()).unwrap();
    change(&mut model);
    let bytes = model.encode_to_vec();
    fs::write(&file, &bytes).unwrap();
    let mut manifest: Value = serde_json::from_slice(&fs::read(to.join("bundle.json")).unwrap()).unwrap();
    manifest["graphs"][kind]["bytes"] = json!(bytes.len());
    manifest["graphs"][kind]["sha256"] = json!(maskgit_core::sha256(&bytes));
    fs::write(to.join("bundle.json"), manifest.to_string()).unwrap();
}

/// Adds a constant to the output of a graph.
fn add_to_output(model: &mut ModelProto, data_type: i32, constant: Vec<u8>) {
    let graph = model.graph.as_mut().unwrap();
    let name = graph.output[0].name.clone();
    for output in graph.node.iter_mut().flat_map(|node| &mut node.output).filter(|output| **output == name) {
        *output = "before".into();
    }
    let (data_type, raw_data) = (data_type, constant);
    graph.initializer.push(TensorProto { name: "more".into(), data_type, raw_data, ..TensorProto::default() });
    graph.node.push(NodeProto {
        op_type: "Add".into(),
        name: "last".into(),
        input: vec!["before".into(), "more".into()],
        output: vec![name],
        ..NodeProto::default()
    });
}

/// What the model did wrong is a failure, and not the user's.
#[test]
fn what_the_model_gives_is_not_wrong_usage() {
    const FLOAT: i32 = 1;
    const INT64: i32 = 7;
    let desk = Desk::new();
    desk.ok(&["generate", "--class", "warm", "-o", "image.png"]);
    let float = |value: f32| value.to_le_bytes().to_vec();
    let edit = "edit --image image.png --box 0,0,4,4 --class warm -o x.png --model model";
    for (kind, data_type, constant, line) in [
        ("transformer", FLOAT, float(f32::NAN), "generate --class warm -o x.png --model model"),
        ("transformer", FLOAT, float(f32::INFINITY), "generate --class warm -o x.png --model model"),
        ("decoder", FLOAT, float(f32::NAN), "generate --class warm -o x.png --model model"),
        ("encoder", INT64, 1000i64.to_le_bytes().to_vec(), edit),
        ("encoder", INT64, (-1000i64).to_le_bytes().to_vec(), edit),
        ("encoder", INT64, 1000i64.to_le_bytes().to_vec(), "reconstruct --image image.png -o x.png --model model"),
    ] {
        with_graph(&desk.path("model"), kind, |model| add_to_output(model, data_type, constant));
        let said = desk.fails(1, &line.split(' ').collect::<Vec<_>>());
        assert!(said.contains(kind), "{kind}: {said}");
        assert_eq!(desk.names(), ["image.png", "model"], "{kind}");
    }
}
