//! Bundles, right and wrong: every wrong one has its own error, from a folder, a packed file and memory.

use std::path::{Path, PathBuf};

use maskgit_bundle::{Bundle, GraphKind, Manifest, pack};
use maskgit_core::{Error, ErrorKind, Source, sha256};
use serde_json::{Value, json};
use tempfile::TempDir;

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny")
}

fn manifest() -> Value {
    serde_json::from_slice(&std::fs::read(tiny().join("bundle.json")).unwrap()).unwrap()
}

/// A copy of the tiny bundle that a test may spoil.
fn copy() -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn read(source: &Source) -> Vec<u8> {
    source.read(0, source.len() as usize).unwrap()
}

fn packed() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tiny.maskgit");
    pack(&tiny(), &path).unwrap();
    (dir, path)
}

/// Opens a bundle and reads all its graphs, as a program that uses it would.
fn use_all(bundle: Result<Bundle, Error>) -> Result<(), Error> {
    let bundle = bundle?;
    for kind in GraphKind::ALL.into_iter().filter(|&k| bundle.has_graph(k)) {
        bundle.source(kind)?;
    }
    Ok(())
}

/// None when the result is an error of this kind that says `want` on one line, else what is wrong.
fn wrong(case: &str, result: Result<(), Error>, kind: ErrorKind, want: &str) -> Option<String> {
    match result {
        Ok(()) => Some(format!("{case}: accepted")),
        Err(e) if e.kind() != kind => Some(format!("{case}: kind {:?}: {e}", e.kind())),
        Err(e) if !e.to_string().contains(want) => Some(format!("{case}: does not say \"{want}\": {e}")),
        Err(e) if e.to_string().lines().count() != 1 => Some(format!("{case}: more than one line: {e}")),
        Err(_) => None,
    }
}

fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn folder_packed_file_and_memory_are_the_same() {
    let (_dir, path) = packed();
    let bytes = std::fs::read(&path).unwrap();
    let folder = Bundle::open(tiny()).unwrap();
    assert_eq!(folder.manifest().labels, ["warm", "cool", "grey"]);
    assert_eq!((folder.manifest().tokens(), folder.manifest().label("grey")), (16, Some(2)));
    assert_eq!(folder.manifest().label("gray"), None);
    for other in [Bundle::open(&path).unwrap(), Bundle::from_bytes(bytes).unwrap()] {
        assert_eq!(other.manifest(), folder.manifest());
        for kind in GraphKind::ALL {
            let graph = read(&folder.source(kind).unwrap());
            assert!(graph.len() > 100 && read(&other.source(kind).unwrap()) == graph, "{kind}");
        }
    }
}

#[test]
fn packing_is_deterministic_and_laid_out_as_documented() {
    let (dir, path) = packed();
    let bytes = std::fs::read(&path).unwrap();
    pack(&copy().path().canonicalize().unwrap(), &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "packed again over the old file");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");

    let json = std::fs::read(tiny().join("bundle.json")).unwrap();
    let mut want = b"MASKGIT1".to_vec();
    want.extend((json.len() as u64).to_le_bytes());
    want.extend(json);
    for name in ["transformer", "decoder", "encoder"] {
        want.resize(want.len().next_multiple_of(64), 0);
        want.extend(std::fs::read(tiny().join(format!("{name}.onnx"))).unwrap());
    }
    assert!(bytes == want);
}

#[test]
fn packing_fails_whole() {
    let spoiled = copy();
    let graph = spoiled.path().join("encoder.onnx");
    let mut bytes = std::fs::read(&graph).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&graph, bytes).unwrap();
    let out = TempDir::new().unwrap();
    let path = out.path().join("x.maskgit");
    let result = pack(spoiled.path(), &path);
    report(wrong("pack", result, ErrorKind::Bundle, "SHA-256").into_iter().collect());
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "nothing is left behind");
    let missing = out.path().join("no/such/folder/x.maskgit");
    assert_eq!(pack(&tiny(), &missing).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(pack(&missing, &path).unwrap_err().kind(), ErrorKind::Bundle);
}

#[cfg(unix)]
#[test]
fn a_packed_file_is_as_readable_as_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, path) = packed();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, b"").unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn an_encoder_may_be_missing() {
    for absent in [true, false] {
        let dir = copy();
        let mut m = manifest();
        let graphs = m["graphs"].as_object_mut().unwrap();
        if absent {
            graphs.remove("encoder");
        } else {
            graphs["encoder"] = Value::Null;
        }
        std::fs::write(dir.path().join("bundle.json"), m.to_string()).unwrap();
        let out = dir.path().join("x.maskgit");
        pack(dir.path(), &out).unwrap();
        for bundle in [Bundle::open(dir.path()).unwrap(), Bundle::open(&out).unwrap()] {
            assert!(!bundle.has_graph(GraphKind::Encoder) && bundle.source(GraphKind::Decoder).is_ok());
            let error = bundle.source(GraphKind::Encoder).unwrap_err();
            assert!(error.to_string().contains("the model has no encoder graph"), "{error}");
        }
    }
}

/// Edits to the manifest, by JSON pointer; `!` removes the field. And what the error must say.
fn manifest_cases() -> Vec<(&'static str, Value, &'static str)> {
    let gone = || json!("!");
    vec![
        ("/format_version", json!(2), "format_version 2; this program reads version 1"),
        ("/format_version", json!(0), "format_version 0"),
        ("/format_version", json!("1"), "not a valid JSON object"),
        ("/format_version", gone(), "no format_version"),
        ("/colour", json!(1), "unknown field `colour`"),
        ("/image/depth", json!(1), "unknown field `depth`"),
        ("/sampling/seed", json!(1), "unknown field `seed`"),
        ("/graphs/critic", json!(null), "unknown field `critic`"),
        ("/graphs/decoder/path", json!("x"), "unknown field `path`"),
        ("/name", gone(), "missing field `name`"),
        ("/graphs/decoder", gone(), "missing field `decoder`"),
        ("/graphs/decoder", json!(null), "expected"),
        ("/sampling/steps", gone(), "missing field `steps`"),
        ("/name", json!(""), "name has 0 bytes"),
        ("/name", json!("x".repeat(129)), "name has 129 bytes"),
        ("/name", json!("a\u{1b}[2Jb"), "name has a control character"),
        ("/licence", json!(""), "licence has 0 bytes"),
        ("/source", json!("s".repeat(4097)), "source has 4097 bytes"),
        ("/image/height", json!(0), "image.height is 0"),
        ("/image/width", json!(8192), "image.width is 8192"),
        ("/image/width", json!(-16), "invalid value"),
        ("/image/width", json!(1.5), "invalid type"),
        ("/image/height", json!(18), "image.height is 18, which is not a multiple of grid.rows, 4"),
        ("/image/width", json!(17), "image.width is 17, which is not a multiple of grid.cols, 4"),
        ("/grid/rows", json!(0), "grid.rows is 0"),
        ("/grid/cols", json!(129), "grid.cols is 129"),
        ("/grid/cols", json!(u64::MAX), "invalid value: integer `18446744073709551615`, expected u32"),
        ("/codes", json!(0), "codes is 0"),
        ("/codes", json!((1 << 20) + 1), "codes is 1048577"),
        ("/mask_id", json!(7), "mask_id is 7; it must be at least codes, 8"),
        ("/mask_id", json!(-1), "mask_id is -1"),
        ("/mask_id", json!(1 << 21), "mask_id is 2097152"),
        ("/labels", json!([]), "labels has 0 names"),
        ("/labels", json!(vec![""; 3]), "labels[0] has 0 bytes"),
        ("/labels", json!(["a", "b", "a"]), "labels[2] is \"a\", as an earlier one is"),
        ("/labels", json!(["a", "b\n"]), "labels[1] has a control character"),
        ("/labels", json!(["l".repeat(257)]), "labels[0] has 257 bytes"),
        ("/labels", json!((0..65537).map(|i| i.to_string()).collect::<Vec<_>>()), "labels has 65537 names"),
        ("/label_ids", json!(["a", "b"]), "label_ids has 2 names; it must have one for each of the 3 labels"),
        ("/label_ids", json!(["a", "b", "a"]), "label_ids[2] is \"a\", as an earlier one is"),
        ("/label_ids", json!(["a", "", "c"]), "label_ids[1] has 0 bytes"),
        ("/label_ids", json!(["a", "b", "l".repeat(65)]), "label_ids[2] has 65 bytes"),
        ("/label_ids", json!("abc"), "invalid type"),
        ("/null_label", json!(2), "null_label is 2; it must be at least the number of labels, 3"),
        ("/null_label", json!(-1), "null_label is -1"),
        ("/null_label", json!(1 << 21), "null_label is 2097152"),
        ("/precision", json!("fp8"), "unknown variant `fp8`"),
        ("/sampling/steps", json!(0), "sampling: steps is 0; it must be 1 to 4096"),
        ("/sampling/steps", json!(4097), "sampling: steps is 4097"),
        ("/sampling/schedule", json!(""), "unknown mask schedule ''; choose linear"),
        ("/sampling/sampler", json!("s".repeat(33)), "unknown sampler 'sss"),
        ("/sampling/temperature", json!(-0.5), "sampling: temperature is -0.5; it must be a number from 0"),
        ("/sampling/final_temperature", json!(-1), "sampling: final_temperature is -1"),
        ("/sampling/final_temperature", json!("low"), "invalid type"),
        ("/sampling/choice_temperature", json!(1e300), "sampling: choice_temperature is inf"),
        ("/sampling/guidance", json!(-1), "sampling: guidance is -1"),
        ("/sampling/top_k", json!(0), "sampling: top_k is 0; it must be at least 1, or none"),
        ("/sampling/top_k", json!(9), "sampling.top_k is 9; it must be 1 to 8"),
        ("/sampling/schedule", json!("power:0"), "unknown mask schedule 'power:0'"),
        ("/sampling/start_iter", json!(4), "sampling: start_iter is 4; it must be less than the number of steps, 4"),
        ("/sampling/corrector_share", json!(1), "sampling: corrector_share is 1"),
        ("/sampling/corrector_first", json!(0), "sampling: corrector_first is 0"),
        ("/graphs/decoder/file", json!(""), "graphs.decoder.file is \"\""),
        ("/graphs/decoder/file", json!("../decoder.onnx"), "must be a plain file name"),
        ("/graphs/decoder/file", json!(".."), "must be a plain file name"),
        ("/graphs/decoder/file", json!("."), "must be a plain file name"),
        ("/graphs/decoder/file", json!("sub/decoder.onnx"), "must be a plain file name"),
        ("/graphs/decoder/file", json!("sub\\decoder.onnx"), "must be a plain file name"),
        ("/graphs/decoder/file", json!("/etc/passwd"), "must be a plain file name"),
        ("/graphs/decoder/file", json!("C:decoder.onnx"), "must be a plain file name"),
        ("/graphs/decoder/file", json!("d\u{0}.onnx"), "must be a plain file name"),
        ("/graphs/decoder/file", json!("dé.onnx"), "must be a plain file name"),
        ("/graphs/decoder/file", json!("d".repeat(129)), "must be a plain file name"),
        ("/graphs/decoder/file", json!("Bundle.json"), "which is the manifest itself"),
        ("/graphs/decoder/file", json!("Encoder.onnx"), "which another graph uses too"),
        ("/graphs/decoder/bytes", json!(0), "graphs.decoder.bytes is 0"),
        ("/graphs/decoder/bytes", json!((1u64 << 32) + 1), "graphs.decoder.bytes is 4294967297"),
        ("/graphs/decoder/bytes", json!(u64::MAX), "graphs.decoder.bytes is"),
        ("/graphs/decoder/sha256", json!("ab"), "graphs.decoder.sha256 is not 64"),
        ("/graphs/decoder/sha256", json!("AB".repeat(32)), "graphs.decoder.sha256 is not 64"),
        ("/graphs/decoder/sha256", json!("é".repeat(32)), "graphs.decoder.sha256 is not 64"),
    ]
}

fn edited(pointer: &str, value: &Value) -> Vec<u8> {
    let mut m = manifest();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = m.pointer_mut(parent).and_then(Value::as_object_mut).unwrap();
    if value == "!" {
        parent.remove(field).unwrap();
    } else {
        parent.insert(field.to_owned(), value.clone());
    }
    m.to_string().into_bytes()
}

#[test]
fn every_wrong_value_in_the_manifest_has_its_own_error() {
    let dir = copy();
    let mut failures = Vec::new();
    for (pointer, value, want) in manifest_cases() {
        let json = edited(pointer, &value);
        let case: String = format!("{pointer} = {value}").chars().take(100).collect();
        failures.extend(wrong(&case, Manifest::parse(&json).map(|_| ()), ErrorKind::Bundle, want));
        std::fs::write(dir.path().join("bundle.json"), &json).unwrap();
        let path = dir.path().display().to_string();
        failures.extend(wrong(&case, use_all(Bundle::open(dir.path())), ErrorKind::Bundle, &path));
        let mut bytes = b"MASKGIT1".to_vec();
        bytes.extend((json.len() as u64).to_le_bytes());
        bytes.extend(json);
        failures.extend(wrong(&case, use_all(Bundle::from_bytes(bytes)), ErrorKind::Bundle, want));
    }
    report(failures);
}

#[test]
fn values_that_only_together_are_wrong() {
    let mut failures = Vec::new();
    let mut check = |case: &str, edits: &[(&str, Value)], want: &str| {
        let mut m = manifest();
        for (pointer, value) in edits {
            *m.pointer_mut(pointer).unwrap() = value.clone();
        }
        let result = Manifest::parse(m.to_string().as_bytes()).map(|_| ());
        failures.extend(wrong(case, result, ErrorKind::Bundle, want));
    };
    let large = [
        ("/image", json!({"height": 1024, "width": 1024})),
        ("/grid", json!({"rows": 128, "cols": 128})),
        ("/codes", json!(1 << 20)),
        ("/mask_id", json!(1 << 20)),
    ];
    check("logits", &large, "grid.rows * grid.cols * codes is 128 * 128 * 1048576");
    let unguided = [("/null_label", json!(null)), ("/sampling/guidance", json!(1.5))];
    check("guidance", &unguided, "sampling.guidance is above 0, but there is no null_label");
    report(failures);
}

#[test]
fn text_that_is_not_a_manifest_is_an_error() {
    let good = std::fs::read(tiny().join("bundle.json")).unwrap();
    let mut failures = Vec::new();
    // The file ends with "}\n": everything but the last two prefixes lacks a bracket.
    for end in 0..good.len() - 1 {
        let result = Manifest::parse(&good[..end]).map(|_| ());
        failures.extend(wrong(&format!("the first {end} bytes"), result, ErrorKind::Bundle, "not a valid JSON object"));
    }
    assert!(Manifest::parse(&good[..good.len() - 1]).is_ok());
    let deep = "[".repeat(100_000);
    let twice = String::from_utf8(good.clone()).unwrap().replacen('{', "{\"name\": \"a\",", 1);
    let spaces = [good.as_slice(), &vec![b' '; 1 << 20]].concat();
    for (case, text, want) in [
        ("null", b"null".as_slice(), "not a valid JSON object"),
        ("not UTF-8", b"{\"format_version\": 1, \"name\": \"\xff\"}", "invalid unicode"),
        ("NaN", b"{\"format_version\": NaN}", "not a valid JSON object"),
        ("deep", deep.as_bytes(), "not a valid JSON object"),
        ("a field twice", twice.as_bytes(), "duplicate field `name`"),
        ("two objects", &[good.as_slice(), b"{}"].concat(), "not a valid JSON object"),
        ("too long", &spaces, "at most 1048576 are allowed"),
    ] {
        failures.extend(wrong(case, Manifest::parse(text).map(|_| ()), ErrorKind::Bundle, want));
    }
    report(failures);
}

#[test]
fn every_wrong_folder_has_its_own_error() {
    type Spoil = fn(&Path);
    fn change(dir: &Path, name: &str, edit: fn(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(dir.join(name)).unwrap();
        edit(&mut bytes);
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    let cases: &[(&str, ErrorKind, &str, Spoil)] = &[
        ("empty", ErrorKind::Bundle, "there is no bundle.json in it", |d| {
            for entry in std::fs::read_dir(d).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }),
        ("gone", ErrorKind::Io, "cannot open the model", |d| std::fs::remove_dir_all(d).unwrap()),
        ("no transformer", ErrorKind::Io, "cannot open transformer.onnx, the transformer graph", |d| {
            std::fs::remove_file(d.join("transformer.onnx")).unwrap();
        }),
        ("no encoder", ErrorKind::Io, "cannot open encoder.onnx, the encoder graph", |d| {
            std::fs::remove_file(d.join("encoder.onnx")).unwrap();
        }),
        ("empty graph", ErrorKind::Bundle, "decoder.onnx, the decoder graph, has 0 bytes", |d| {
            change(d, "decoder.onnx", Vec::clear);
        }),
        ("short graph", ErrorKind::Bundle, "bytes; the manifest says", |d| {
            change(d, "decoder.onnx", |b| b.truncate(b.len() - 1));
        }),
        ("long graph", ErrorKind::Bundle, "bytes; the manifest says", |d| change(d, "decoder.onnx", |b| b.push(0))),
        ("damaged graph", ErrorKind::Bundle, "decoder.onnx, the decoder graph, is damaged: its SHA-256", |d| {
            change(d, "decoder.onnx", |b| b[100] ^= 1);
        }),
        ("folder for a graph", ErrorKind::Bundle, "decoder.onnx, the decoder graph is not a plain file", |d| {
            std::fs::remove_file(d.join("decoder.onnx")).unwrap();
            std::fs::create_dir(d.join("decoder.onnx")).unwrap();
        }),
        ("folder for the manifest", ErrorKind::Bundle, "bundle.json is not a plain file", |d| {
            std::fs::remove_file(d.join("bundle.json")).unwrap();
            std::fs::create_dir(d.join("bundle.json")).unwrap();
        }),
        ("huge manifest", ErrorKind::Bundle, "at most 1048576 are allowed", |d| {
            // Sparse: 1 TiB that nobody may read.
            std::fs::File::create(d.join("bundle.json")).unwrap().set_len(1 << 40).unwrap();
        }),
    ];
    let mut failures = Vec::new();
    for &(case, kind, want, spoil) in cases {
        let dir = copy();
        spoil(dir.path());
        failures.extend(wrong(case, use_all(Bundle::open(dir.path())), kind, want));
    }
    report(failures);
}

#[test]
fn a_file_that_changes_after_opening_is_noticed() {
    let dir = copy();
    let folder = Bundle::open(dir.path()).unwrap();
    let graph = dir.path().join("decoder.onnx");
    let mut bytes = std::fs::read(&graph).unwrap();
    bytes.reverse();
    std::fs::write(&graph, &bytes).unwrap();
    let mut failures = Vec::new();
    failures.extend(wrong("reversed", folder.source(GraphKind::Decoder).map(|_| ()), ErrorKind::Bundle, "SHA-256"));
    std::fs::remove_file(&graph).unwrap();
    failures.extend(wrong("removed", folder.source(GraphKind::Decoder).map(|_| ()), ErrorKind::Io, "cannot open"));

    let (_dir, path) = packed();
    let file = Bundle::open(&path).unwrap();
    std::fs::write(&path, b"MASKGIT1").unwrap();
    failures.extend(wrong("packed", file.source(GraphKind::Decoder).map(|_| ()), ErrorKind::Bundle, "cut short"));
    report(failures);
}

#[test]
fn every_prefix_of_a_packed_file_is_an_error() {
    let (dir, path) = packed();
    let bytes = std::fs::read(&path).unwrap();
    let mut failures = Vec::new();
    for end in 0..bytes.len() {
        let want = "cut short";
        let case = format!("the first {end} of {} bytes", bytes.len());
        failures.extend(wrong(&case, use_all(Bundle::from_bytes(bytes[..end].to_vec())), ErrorKind::Bundle, want));
        // Files as well, at every length near a border and at some others.
        if end < 32 || end % 16 < 2 || end % 97 == 0 {
            let cut = dir.path().join("cut");
            std::fs::write(&cut, &bytes[..end]).unwrap();
            failures.extend(wrong(&case, use_all(Bundle::open(&cut)), ErrorKind::Bundle, want));
        }
    }
    report(failures);
}

#[test]
fn every_wrong_packed_file_has_its_own_error() {
    let (dir, path) = packed();
    let good = std::fs::read(&path).unwrap();
    let json = u64::from_le_bytes(good[8..16].try_into().unwrap()) as usize;
    let gap = 16 + json;
    assert_ne!(gap % 64, 0, "the tiny bundle has a gap after its manifest");
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        bytes
    };
    let length = |n: u64| with(&|b| b[8..16].copy_from_slice(&n.to_le_bytes()));
    let cases = [
        ("magic", with(&|b| b[7] = b'2'), "does not start with MASKGIT1"),
        ("a PNG", with(&|b| b[..4].copy_from_slice(b"\x89PNG")), "does not start with MASKGIT1"),
        ("a manifest alone", std::fs::read(tiny().join("bundle.json")).unwrap(), "give the folder"),
        ("length 0", length(0), "not a valid JSON object"),
        ("length less one", length(json as u64 - 2), "not a valid JSON object"),
        ("length 1 MiB", length(1 << 20), "cut short"),
        ("length over 1 MiB", length((1 << 20) + 1), "declares a manifest of 1048577 bytes"),
        ("length 2^63", length(1 << 63), "declares a manifest of 9223372036854775808 bytes"),
        ("length 2^64-1", length(u64::MAX), "declares a manifest of 18446744073709551615 bytes"),
        ("gap", with(&|b| b[gap] = 1), "something other than zeros"),
        ("trailing byte", with(&|b| b.push(0)), "followed by something else"),
        ("last byte", with(&|b| *b.last_mut().unwrap() ^= 1), "encoder.onnx, the encoder graph, is damaged"),
    ];
    let mut failures = Vec::new();
    for (case, bytes, want) in cases {
        let file = dir.path().join("bad");
        std::fs::write(&file, &bytes).unwrap();
        failures.extend(wrong(case, use_all(Bundle::open(&file)), ErrorKind::Bundle, want));
        failures.extend(wrong(case, use_all(Bundle::from_bytes(bytes)), ErrorKind::Bundle, want));
    }
    report(failures);
}

#[test]
fn every_damaged_byte_of_a_packed_file_is_noticed() {
    let (_dir, path) = packed();
    let good = std::fs::read(&path).unwrap();
    let json = 16 + u64::from_le_bytes(good[8..16].try_into().unwrap()) as usize;
    let mut failures = Vec::new();
    // Outside the manifest, which has no hash of its own, nothing may change.
    for index in (0..16).chain(json..good.len()) {
        let mut bad = good.clone();
        bad[index] ^= 0x10;
        failures.extend(wrong(&format!("byte {index}"), use_all(Bundle::from_bytes(bad)), ErrorKind::Bundle, ""));
    }
    report(failures);
}

#[test]
fn the_hashes_of_the_tiny_bundle_are_real() {
    let m = manifest();
    for kind in GraphKind::ALL {
        let bytes = std::fs::read(tiny().join(format!("{kind}.onnx"))).unwrap();
        assert_eq!(m["graphs"][kind.as_str()]["sha256"], sha256(&bytes), "{kind}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_at_once() {
    let dir = copy();
    let graph = dir.path().join("decoder.onnx");
    std::fs::remove_file(&graph).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&graph).status().is_ok_and(|s| s.success());
    assert!(made, "mkfifo");
    let error = use_all(Bundle::open(dir.path()));
    report(wrong("pipe", error, ErrorKind::Bundle, "is not a plain file").into_iter().collect());
    let error = use_all(Bundle::open(&graph));
    report(wrong("pipe", error, ErrorKind::Bundle, "neither a folder nor a file").into_iter().collect());
}
