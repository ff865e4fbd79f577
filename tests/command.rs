//! The built command, on the tiny bundle: what it writes, prints and refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use maskgit::{Limits, read_image};
use maskgit_image::{encode_png, read_metadata};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::program;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny");

fn read_png(path: impl AsRef<Path>) -> maskgit::Result<image::RgbImage> {
    Ok(read_image(path.as_ref(), &Limits::default())?.rgb)
}

/// A folder to work in, and the command started there.
pub struct Desk {
    folder: TempDir,
}

impl Desk {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program(env!("CARGO_BIN_EXE_maskgit").as_ref());
        command.current_dir(self.folder.path()).env("MASKGIT_MODEL", TINY).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed without a word on stderr; returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command that must succeed, whatever it says.
    pub fn ok_or_said(&self, args: &[&str]) {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    /// Runs a command that must fail with this status and one line on stderr; returns the line.
    pub fn fails(&self, status: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(stderr.starts_with("maskgit: ") && stderr.len() < 1500, "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?} printed something");
        stderr
    }

    /// The names in the folder, in order.
    pub fn names(&self) -> Vec<String> {
        names(self.folder.path())
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn hashes(report: &Value) -> Vec<&str> {
    report["images"].as_array().unwrap().iter().map(|image| image["tokens_sha256"].as_str().unwrap()).collect()
}

/// Copies the tiny bundle, with its manifest changed.
pub fn copy_tiny(to: &Path, change: impl FnOnce(&mut Value)) {
    fs::create_dir_all(to).unwrap();
    for name in names(Path::new(TINY)) {
        fs::copy(Path::new(TINY).join(&name), to.join(&name)).unwrap();
    }
    let manifest = to.join("bundle.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    change(&mut value);
    fs::write(manifest, value.to_string()).unwrap();
}

#[test]
fn same_seed_same_tokens() {
    let desk = Desk::new();
    let draw = |extra: &[&str]| {
        let mut args = vec!["generate", "--class", "warm", "--json", "-o", "a.png"];
        args.extend(extra);
        desk.json(&args)
    };
    let reference = draw(&["--seed", "7", "--threads", "1"]);
    let pixels = read_png(desk.path("a.png")).unwrap();
    desk.ok(&["pack", TINY, "-o", "tiny.maskgit"]);
    for extra in [
        &["--seed", "7", "--threads", "1"][..],
        &["--seed", "7", "--threads", "2"],
        &["--seed", "7"],
        &["--seed", "7", "--model", "tiny.maskgit"],
        &["--seed", "7", "--model", "tiny.maskgit", "--threads", "2"],
    ] {
        let report = draw(extra);
        assert_eq!(hashes(&report), hashes(&reference), "{extra:?}");
        assert_eq!(read_png(desk.path("a.png")).unwrap(), pixels, "{extra:?}");
    }
    let batch = draw(&["--seed", "5", "--count", "4", "--threads", "2"]);
    assert_eq!(hashes(&batch)[2], hashes(&reference)[0], "an image of a batch is the image of its seed");
    assert_eq!(read_png(desk.path("a-002.png")).unwrap(), pixels);
    let mut distinct = hashes(&batch);
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() >= 3, "seeds draw different images: {distinct:?}");
    let other = desk.json(&["generate", "--class", "cool", "--seed", "7", "--json", "-o", "a.png"]);
    assert_ne!(hashes(&other), hashes(&reference), "classes draw different images");
}

#[test]
fn json_says_what_was_done() {
    let desk = Desk::new();
    for (schedule, masked) in [("cosine", [14, 11, 6, 0]), ("linear", [12, 8, 4, 0]), ("power:2", [15, 12, 7, 0])] {
        let report = desk.json(&["generate", "--class", "1", "--schedule", schedule, "--json", "-o", "a.png"]);
        assert_eq!(report["images"][0]["masked"], json!(masked), "{schedule}");
        assert_eq!(report["sampling"]["schedule"], schedule);
    }
    let args = "generate --class cool --seed 3 --count 2 --steps 5 --choice-temperature 1.5 --temperature 0.5 \
                --top-k 4 --guidance 2 --guidance-ramp --threads 2 --grid --scale 3 --json -o a.png";
    let report = desk.json(&args.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        report["sampling"],
        json!({
            "steps": 5, "schedule": "cosine", "sampler": "confidence", "choice_temperature": 1.5, "temperature": 0.5,
            "top_k": 4, "guidance": 2.0, "guidance_ramp": true
        })
    );
    for (key, value) in [
        ("class", json!("cool")),
        ("label", json!(1)),
        ("seed", json!(3)),
        ("count", json!(2)),
        ("threads", json!(2)),
        ("grid", json!(true)),
        ("scale", json!(3)),
        ("engine", json!("cpu")),
        ("json_version", json!(1)),
    ] {
        assert_eq!(report[key], value, "{key}");
    }
    let record =
        |name: &str| -> Value { serde_json::from_str(&read_metadata(&desk.path(name)).unwrap().unwrap()).unwrap() };
    assert_eq!(record("a.png")["sampling"], report["sampling"], "the PNG says the same");
    assert_eq!(report["times"]["encode"], 0.0, "nothing was encoded");
    assert_eq!(report["model"]["name"], "tiny");
    assert_eq!(report["images"][1]["seed"], 4);
    assert_eq!(report["images"][1]["file"], "a.png");
    assert_eq!(report["times"]["steps"].as_array().unwrap().len(), 5);
    let total = report["times"]["total"].as_f64().unwrap();
    assert!(total > 0.0 && total >= report["times"]["load"].as_f64().unwrap());
    assert!(!cfg!(target_os = "linux") || report["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(read_png(desk.path("a.png")).unwrap().dimensions(), ((16 + 2 + 16) * 3, 16 * 3));
    // Settings that are seldom changed stand there only where they were changed.
    let rare = [("start_iter", "1"), ("corrector_share", "0.5"), ("corrector_first", "0.25")];
    let line = ["generate", "--class", "warm", "--sampler", "predictor-corrector", "--json", "-o", "b.png"];
    for (key, value) in rare {
        let sampling = desk.json(&line)["sampling"].take();
        assert_eq!(sampling.get(key), None, "{sampling}");
        assert_eq!(record("b.png")["sampling"], sampling);
        let option = format!("--{}", key.replace('_', "-"));
        let sampling = desk.json(&[&line[..], &[&option, value]].concat())["sampling"].take();
        assert_eq!(sampling[key], serde_json::from_str::<Value>(value).unwrap(), "{sampling}");
        assert_eq!(record("b.png")["sampling"], sampling);
    }
}

#[test]
fn json_objects_have_a_version() {
    let desk = Desk::new();
    for line in [
        "generate --class warm --json -o a.png",
        "reconstruct --image a.png --json -o b.png",
        "reproduce a.png --json",
        "reproduce b.png --json",
        "info --json",
        "bench --runs 1 --json",
    ] {
        let text = desk.ok(&line.split_whitespace().collect::<Vec<_>>());
        assert!(text.starts_with("{\n  \"json_version\": 1,\n"), "{line}: {text}");
    }
    assert_eq!(desk.json(&["info", "--devices", "--json"])["json_version"], 1);
    let operators = desk.json(&["info", "--graph", "--json"]);
    assert_eq!(operators["json_version"], 1);
    assert!(operators["graphs"]["decoder"][0]["count"].as_u64().is_some_and(|count| count > 0), "{operators}");
}

#[test]
fn quiet_says_nothing_but_errors() {
    let desk = Desk::new();
    for option in ["-q", "--quiet"] {
        assert_eq!(desk.ok(&["generate", "--class", "warm", option, "-o", "a.png"]), "");
        assert_eq!(desk.json(&["generate", "--class", "warm", option, "--json", "-o", "a.png"])["label"], 0);
        assert!(desk.fails(2, &["generate", "--class", "wram", option, "-o", "a.png"]).contains("warm"));
    }
}

#[test]
fn an_unknown_class_is_met_with_help() {
    let desk = Desk::new();
    copy_tiny(&desk.path("models/one"), |_| ());
    copy_tiny(&desk.path("models/two"), |m| m["labels"][0] = json!("cosy"));
    for (class, expected) in [
        ("wram", "there is no class 'wram' among the model's 3: did you mean warm?; maskgit info --labels lists them"),
        ("purple", "there is no class 'purple' among the model's 3; maskgit info --labels lists them"),
        ("cosy", "the model models/two has it (--model)"),
    ] {
        let message = desk.fails(2, &["generate", "--model", "models/one", "--class", class, "-o", "a.png"]);
        assert!(message.contains(&format!("there is no class '{class}' among the model's 3")), "{message}");
        assert!(message.trim_end().ends_with(expected), "{message}");
    }
}

#[test]
fn the_hash_is_over_little_endian_tokens() {
    let desk = Desk::new();
    let report = desk.json(&["generate", "--class", "warm", "--json", "-o", "a.png"]);
    // The decoder paints each token as a flat patch, so the encoder gives the tokens back.
    let image = read_png(desk.path("a.png")).unwrap();
    let planes: Vec<u8> = (0..3)
        .flat_map(|c| image.pixels().flat_map(move |p| (f32::from(p.0[c]) / 255.0).to_le_bytes()).collect::<Vec<u8>>())
        .collect();
    fs::write(desk.path("image.f32"), planes).unwrap();
    desk.ok(&["run", "--graph", "encoder", "--image", "image.f32", "-o", "tokens.i64"]);
    let hash = maskgit_core::sha256(&fs::read(desk.path("tokens.i64")).unwrap());
    assert_eq!(report["images"][0]["tokens_sha256"], hash);
}

#[test]
fn files_and_their_names() {
    let desk = Desk::new();
    desk.ok(&["generate", "--class", "w", "--count", "3", "-o", "b.png"]);
    assert_eq!(desk.names(), ["b-000.png", "b-001.png", "b-002.png"]);
    desk.ok(&["generate", "--class", "WARM", "--count", "3", "--grid", "-o", "sheet.png"]);
    assert_eq!(read_png(desk.path("sheet.png")).unwrap().dimensions(), (34, 34));
    fs::write(desk.path("old.png"), "something old").unwrap();
    desk.ok(&["generate", "--class", "grey", "-o", "old.png"]);
    assert_eq!(read_png(desk.path("old.png")).unwrap().dimensions(), (16, 16));
    desk.ok(&["generate", "--class", "grey", "--scale", "4", "--preview", "steps/a", "--steps", "3", "-o", "new.png"]);
    assert_eq!(names(&desk.path("steps/a")), ["step-01.png", "step-02.png", "step-03.png"]);
    let (last, result) = (desk.path("steps/a/step-03.png"), desk.path("new.png"));
    assert_eq!(read_png(&last).unwrap(), read_png(&result).unwrap(), "the last preview is the result");
    desk.ok(&["generate", "--class", "grey", "--count", "2", "--preview", "steps/b", "--steps", "1", "-o", "new.png"]);
    assert_eq!(names(&desk.path("steps/b")), ["step-01-000.png", "step-01-001.png"]);
}

#[cfg(unix)]
#[test]
fn a_result_has_the_permissions_of_a_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    fs::write(desk.path("plain"), "").unwrap();
    desk.ok(&["generate", "--class", "warm", "-o", "a.png"]);
    let mode = |name: &str| fs::metadata(desk.path(name)).unwrap().permissions().mode();
    assert_eq!(mode("a.png"), mode("plain"));
}

#[test]
fn wrong_usage_is_2_and_failure_is_1() {
    let desk = Desk::new();
    fs::create_dir(desk.path("folder")).unwrap();
    let no_null = desk.path("no_null");
    copy_tiny(&no_null, |m| m["null_label"] = Value::Null);
    let damaged = desk.path("damaged");
    copy_tiny(&damaged, |_| ());
    let graph = damaged.join("decoder.onnx");
    let mut bytes = fs::read(&graph).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&graph, bytes).unwrap();
    let before = desk.names();
    for (status, line, expected) in [
        (2, "generate -o a.png", "--class"),
        (2, "generate --class warm", "--output"),
        (2, "generate --class warm -o a.png --no-such", "--no-such"),
        (2, "generate --class warm -o a.png --seed -1", "--seed"),
        (2, "generate --class warm -o a.png --seed 18446744073709551616", "--seed"),
        (2, "generate --class warm -o a.png --count 0", "--count"),
        (2, "generate --class warm -o a.png --scale 0", "--scale"),
        (2, "generate --class warm -o a.png --threads 0", "--threads"),
        (2, "generate --class warm -o a.png --steps 0", "steps"),
        (2, "generate --class warm -o a.png --schedule sideways", "sideways"),
        (2, "generate --class warm -o a.png --schedule power:nan", "power"),
        (2, "generate --class warm -o a.png --sampler dice", "dice"),
        (2, "generate --class warm -o a.png --temperature -1", "temperature"),
        (2, "generate --class warm -o a.png --final-temperature -1", "final_temperature"),
        (2, "generate --class warm -o a.png --choice-temperature nan", "temperature"),
        (2, "generate --class warm -o a.png --guidance inf", "guidance"),
        (2, "generate --class warm -o a.png --corrector-share 1", "corrector_share"),
        (2, "generate --class warm -o a.png --corrector-first 0", "corrector_first"),
        (2, "generate --class warm -o a.png --top-k 9", "top_k is 9; the model has 8 codes"),
        (2, "generate --class wram -o a.png", "warm"),
        (2, "generate --class 3 -o a.png", "3 classes, 0 to 2"),
        (2, "generate --class warm -o a.jpg", ".png"),
        (2, "generate --class warm -o folder", "folder"),
        (2, "generate --class warm --count 10000 --grid --scale 256 -o a.png", "too large"),
        (2, "generate --class warm --model no_null --guidance 1 -o a.png", "null label"),
        (2, "frobnicate", "frobnicate"),
        (2, "run --graph decoder -o a", "--tokens"),
        (1, "generate --class warm -o nowhere/a.png", "nowhere"),
        (1, "generate --class warm --model nothing -o a.png", "nothing"),
        (1, "generate --class warm --model folder -o a.png", "bundle.json"),
        (1, "generate --class warm --model damaged -o a.png", "SHA-256"),
        (1, "pack damaged -o x.maskgit", "SHA-256"),
        (1, "info --model nothing", "nothing"),
        (1, "reproduce nothing.png", "nothing.png"),
        (1, "reproduce folder", "folder"),
        (1, "run --graph decoder --tokens nothing -o a", "nothing"),
    ] {
        let args: Vec<&str> = line.split_whitespace().collect();
        let message = desk.fails(status, &args);
        assert!(message.contains(expected), "{line}: {message}");
        assert_eq!(desk.names(), before, "{line} left a file");
    }
    let help = desk.run(&[]);
    assert_eq!(help.status.code(), Some(2), "no subcommand");
    assert!(String::from_utf8_lossy(&help.stderr).contains("Usage"));
}

#[test]
fn the_default_model() {
    // Beside the build, so that the program can be linked: while a copy is written, another test's fork may hold it
    // open.
    let desk = Desk { folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
    let program = |place: &str| {
        let program = desk.path(place);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_maskgit"), &program).unwrap();
        program
    };
    let run = |program: &Path, variable: Option<&str>| {
        let mut command = self::program(program);
        command.current_dir(desk.folder.path()).args(["info", "--labels"]).env_remove("MASKGIT_MODEL");
        command.envs(variable.map(|v| ("MASKGIT_MODEL", v))).output().unwrap()
    };
    // Deep enough that no parent that is searched lies outside the desk.
    let deep = program("a/b/c/d/e/maskgit");
    let missing = run(&deep, None);
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(1), "{message}");
    let here = fs::canonicalize(desk.folder.path()).unwrap();
    for place in [
        "a/b/c/d/e/models/avatars-128-int8",
        "a/b/models/avatars-128-int8",
        "a/b/share/maskgit/models/avatars-128-int8",
    ] {
        assert!(message.contains(here.join(place).to_str().unwrap()), "{place}: {message}");
    }
    assert!(message.contains("MASKGIT_MODEL") && message.contains(", models/avatars-128-int8"), "{message}");

    let wrong = run(&deep, Some("no/such/model"));
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("no/such/model"));

    copy_tiny(&desk.path("p/share/maskgit/models/avatars-128-int8"), |_| ());
    assert!(run(&program("p/bin/maskgit"), None).status.success(), "under a prefix");
    copy_tiny(&desk.path("r/models/avatars-128-int8"), |_| ());
    assert!(run(&program("r/target/release/maskgit"), None).status.success(), "in a repository");
    copy_tiny(&desk.path("models/avatars-128-int8"), |_| ());
    assert!(run(&deep, None).status.success(), "in the current folder");
}

#[test]
fn reproduce_draws_the_same_tokens() {
    let desk = Desk::new();
    for (file, line) in [
        ("a.png", "--class warm --seed 18446744073709551615 -o a.png"),
        ("b.png", "--class cool --count 5 --grid --scale 2 --seed 18446744073709551614 --steps 7 -o b.png"),
        ("c-002.png", "--class grey --count 3 --sampler halton --schedule arccos --steps 6 -o c.png"),
        ("d.png", "--class 0 --guidance 1.7 --guidance-ramp --temperature 0.9 --top-k 3 --schedule power:3.5 -o d.png"),
        ("e.png", "--class cool --temperature 1.5 --final-temperature 0 --steps 5 -o e.png"),
    ] {
        let mut args = vec!["generate"];
        args.extend(line.split_whitespace());
        desk.ok(&args);
        let report = desk.json(&["reproduce", file, "--json", "--threads", "1", "-o", "again.png"]);
        assert_eq!(report["same_tokens"], true, "{file}");
        assert_eq!(report["same_pixels"], true, "{file}");
        let (first, again) = (desk.path(file), desk.path("again.png"));
        assert_eq!(fs::read(first).unwrap(), fs::read(again).unwrap(), "{file}");
        assert!(desk.ok(&["reproduce", file]).contains("the same tokens, the same pixels"));
    }
}

#[test]
fn reproduce_refuses_another_model() {
    let desk = Desk::new();
    desk.ok(&["generate", "--class", "warm", "-o", "a.png"]);
    copy_tiny(&desk.path("renamed"), |m| m["name"] = json!("tiny two"));
    let message = desk.fails(1, &["reproduce", "a.png", "--model", "renamed"]);
    assert!(message.contains("another model: by 'tiny'") && message.contains("'tiny two'"), "{message}");
    change_record(&desk, "a.png", |r| r["model"]["graphs"]["transformer"] = json!("0".repeat(64)));
    let message = desk.fails(1, &["reproduce", "a.png"]);
    assert!(message.contains("transformer graphs differ"), "{message}");
}

/// Changes the parameters in a PNG.
fn change_record(desk: &Desk, name: &str, change: impl FnOnce(&mut Value)) {
    let path = desk.path(name);
    let mut record: Value = serde_json::from_str(&read_metadata(&path).unwrap().unwrap()).unwrap();
    change(&mut record);
    write_record(&path, &record.to_string());
}

fn write_record(path: &Path, text: &str) {
    let image = image::RgbImage::new(16, 16);
    fs::write(path, encode_png(&image, Some(text)).unwrap()).unwrap();
}

/// Sets a value of a record; what is as always was left out of it.
fn put(record: &mut Value, place: &str, value: &Value) {
    let (parent, name) = place.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() { record } else { record.pointer_mut(parent).unwrap() };
    match parent {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value.clone(),
        other => other[name] = value.clone(),
    }
}

#[test]
fn reproduce_survives_hostile_parameters() {
    let desk = Desk::new();
    desk.ok(&["generate", "--class", "warm", "-o", "good.png"]);
    let good: Value = serde_json::from_str(&read_metadata(&desk.path("good.png")).unwrap().unwrap()).unwrap();
    let fail = |what: &str| {
        let message = desk.fails(1, &["reproduce", "bad.png", "-o", "out.png"]);
        assert!(!message.contains("panicked"), "{what}: {message}");
        assert!(!desk.path("out.png").exists(), "{what} left a file");
        message
    };
    let changes: &[(&str, Value)] = &[
        ("/format", json!(2)),
        ("/format", json!("1")),
        ("/model", json!(null)),
        ("/class", json!("cool")),
        ("/label", json!(3)),
        ("/label", json!(-1)),
        ("/label", json!(u64::MAX)),
        ("/seed", json!(-1)),
        ("/seed", json!(1)), // draws other tokens
        ("/seed", json!(1.5)),
        ("/count", json!(0)),
        ("/count", json!(2)),
        ("/count", json!(u64::MAX)),
        ("/tokens_sha256", json!([])),
        ("/tokens_sha256", json!([""])),
        ("/tokens_sha256", json!(["\u{1b}[31m"])),
        ("/sampling/steps", json!(0)),
        ("/sampling/steps", json!(u64::MAX)),
        ("/sampling/start_iter", json!(u64::MAX)),
        ("/sampling/schedule", json!("power:-1")),
        ("/sampling/schedule", json!("x\n\u{1b}[2J")),
        ("/sampling/sampler", json!("")),
        ("/sampling/temperature", json!(-1)),
        ("/sampling/choice_temperature", json!(1e300)),
        ("/sampling/guidance", json!(1e39)),
        ("/sampling/top_k", json!(0)),
        ("/layout/columns", json!(0)),
        ("/layout/scale", json!(0)),
        ("/layout/scale", json!(u32::MAX)),
        ("/layout/scale", json!(2000)),
    ];
    for (place, value) in changes {
        let mut record = good.clone();
        put(&mut record, place, value);
        write_record(&desk.path("bad.png"), &record.to_string());
        fail(&format!("{place} = {value}"));
    }
    // A sheet so wide, or gaps so large, that its image would not fit.
    let mut record = good.clone();
    record["count"] = json!(2);
    record["tokens_sha256"] = json!(["", ""]);
    record["layout"] = json!({"columns": 2, "gap": u32::MAX, "scale": 1});
    write_record(&desk.path("bad.png"), &record.to_string());
    assert!(fail("gap").contains("too large"));
    let mut record = good.clone();
    record["surprise"] = json!(1);
    write_record(&desk.path("bad.png"), &record.to_string());
    assert!(fail("unknown field").contains("surprise"));

    let text = good.to_string();
    for length in (0..text.len()).step_by(7) {
        write_record(&desk.path("bad.png"), &text[..length]);
        fail(&format!("the first {length} bytes of the parameters"));
    }
    for (what, text) in [("nesting", "[".repeat(100_000)), ("a number", "7".into()), ("a list", "[1]".into())] {
        write_record(&desk.path("bad.png"), &text);
        fail(what);
    }
    fs::write(desk.path("bad.png"), encode_png(&image::RgbImage::new(1, 1), None).unwrap()).unwrap();
    assert!(fail("no parameters").contains("no parameters"));
    fs::write(desk.path("bad.png"), "not a PNG").unwrap();
    assert!(fail("no PNG").contains("not a valid PNG"));
    let bytes = fs::read(desk.path("good.png")).unwrap();
    for length in 0..bytes.len().min(200) {
        fs::write(desk.path("bad.png"), &bytes[..length]).unwrap();
        fail(&format!("the first {length} bytes of the PNG"));
    }
}

#[cfg(unix)]
#[test]
fn a_cancelled_run_leaves_no_file() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    for (signal, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let desk = Desk::new();
        fs::write(desk.path("a-001.png"), "old").unwrap();
        let mut command = desk.command(&["generate", "--class", "warm", "--count", "9", "--steps", "4096"]);
        command.args(["--preview", "steps", "-o", "a.png", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !desk.path("steps/step-0002-000.png").exists() {
            assert!(Instant::now() < deadline, "the run does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{signal}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "maskgit: cancelled\n");
        assert!(output.stdout.is_empty());
        assert_eq!(desk.names(), ["a-001.png", "steps"], "{signal}");
        assert_eq!(fs::read(desk.path("a-001.png")).unwrap(), b"old");
        for name in names(&desk.path("steps")) {
            assert!(read_png(desk.path("steps").join(&name)).is_ok(), "{name} is whole");
        }
    }
}

/// Images are written as they are finished: those that were finished stay, and each is whole.
#[cfg(unix)]
#[test]
fn a_cancelled_run_keeps_what_is_finished() {
    use std::time::{Duration, Instant};
    let desk = Desk::new();
    let mut command =
        desk.command(&["generate", "--class", "warm", "--count", "10000", "--steps", "200", "-o", "a.png"]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !desk.path("a-0002.png").exists() {
        assert!(Instant::now() < deadline, "no image comes");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let found = desk.names();
    assert!((3..10_000).contains(&found.len()), "{}", found.len());
    assert_eq!(
        found,
        (0..found.len()).map(|i| format!("a-{i:04}.png")).collect::<Vec<_>>(),
        "in order, and nothing else"
    );
    for name in [&found[0], &found[found.len() - 1]] {
        assert!(desk.ok(&["reproduce", name]).contains("the same tokens, the same pixels"), "{name}");
    }
}

#[test]
fn run_gives_raw_numbers() {
    let desk = Desk::new();
    let rows: [[i64; 16]; 2] = [[8; 16], std::array::from_fn(|i| i as i64 % 9)];
    let codes: Vec<i64> = (0..32).map(|i| i * 5 % 8).collect();
    let bytes = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    fs::write(desk.path("tokens"), bytes(rows.as_flattened())).unwrap();
    fs::write(desk.path("codes"), bytes(&codes)).unwrap();
    desk.ok(&["run", "--graph", "transformer", "--tokens", "tokens", "--label", "2,3", "-o", "logits"]);
    let logits: Vec<f32> =
        fs::read(desk.path("logits")).unwrap().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut generator = maskgit::Generator::open(TINY).unwrap();
    let mut expected = generator.logits(&rows[0], 2).unwrap();
    expected.extend(generator.logits(&rows[1], 3).unwrap());
    assert_eq!(logits, expected);
    assert_eq!(logits.len(), 2 * 16 * 8);

    desk.ok(&["run", "--graph", "decoder", "--tokens", "codes", "-o", "image"]);
    assert_eq!(fs::metadata(desk.path("image")).unwrap().len(), 2 * 3 * 16 * 16 * 4);
    desk.ok(&["run", "--graph", "encoder", "--image", "image", "-o", "again"]);
    assert_eq!(fs::read(desk.path("again")).unwrap(), bytes(&codes), "the tiny encoder undoes the decoder");

    fs::write(desk.path("short"), [0; 12]).unwrap();
    fs::write(desk.path("empty"), []).unwrap();
    fs::write(desk.path("nan"), f32::NAN.to_le_bytes().repeat(3 * 16 * 16)).unwrap();
    let before = desk.names();
    for (status, line, expected) in [
        (1, "run --graph decoder --tokens short -o x", "multiple of 8"),
        (1, "run --graph decoder --tokens empty -o x", "16 for each row"),
        (1, "run --graph encoder --image short -o x", "768 for each row"),
        (2, "run --graph encoder --image nan -o x", "NaN"),
        (2, "run --graph decoder --tokens tokens -o x", "0 to 7"),
        (2, "run --graph transformer --tokens tokens --label 4 -o x", "label 4"),
        (2, "run --graph transformer --tokens tokens --label 1,2,3 -o x", "3 labels for 2 rows"),
        (2, "run --graph transformer --tokens tokens -o x", "--label"),
    ] {
        let message = desk.fails(status, &line.split_whitespace().collect::<Vec<_>>());
        assert!(message.contains(expected), "{line}: {message}");
    }
    assert_eq!(desk.names(), before);
}

/// Where no GPU can be used, `cuda` is an error and `auto` says why and draws. tests/cuda.rs has a stand-in for a GPU.
#[test]
fn a_device_that_is_not_there() {
    let desk = Desk::new();
    assert!(desk.ok(&["info", "--devices"]).starts_with("cpu "));
    let listed = desk.json(&["info", "--devices", "--json"]);
    let devices = listed["devices"].as_array().unwrap();
    assert_eq!((devices[0]["device"].as_str(), &devices[0]["problem"]), (Some("cpu"), &Value::Null));
    let Some(problem) = devices[1]["problem"].as_str() else {
        return; // there is a GPU
    };
    if cfg!(not(feature = "cuda")) {
        assert!(problem.contains("feature cuda"), "{problem}");
    }
    let said = desk.fails(1, &["generate", "--class", "warm", "--device", "cuda", "-o", "a.png"]);
    assert!(said.contains("cuda:0: ") && said.contains(problem), "{said}");
    let output = desk.run(&["generate", "--class", "warm", "--device", "auto", "-o", "a.png"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said == format!("maskgit: running on the CPU: {problem}\n"), "{said}");
    desk.ok(&["generate", "--class", "warm", "-o", "b.png"]);
    assert_eq!(fs::read(desk.path("a.png")).unwrap(), fs::read(desk.path("b.png")).unwrap());
    assert!(desk.fails(2, &["generate", "--class", "warm", "--device", "gpu", "-o", "c.png"]).contains("cuda:N"));
}

#[test]
fn info_and_bench() {
    let desk = Desk::new();
    assert_eq!(desk.ok(&["info", "--labels"]), "0\twarm\n1\tcool\n2\tgrey\n");
    let text = desk.ok(&["info"]);
    for expected in ["tiny", "CC0-1.0", "16x16 pixels", "8 codes", "warm", "cosine schedule", "transformer.onnx"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let report = desk.json(&["info", "--json"]);
    let manifest: Value = serde_json::from_slice(&fs::read(Path::new(TINY).join("bundle.json")).unwrap()).unwrap();
    for (key, value) in manifest.as_object().unwrap() {
        assert_eq!(&report[key], value, "{key}");
    }
    let report = desk.json(&["bench", "--runs", "2", "--threads", "1", "--json"]);
    for key in ["load", "step", "decode", "image", "images_per_second"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(desk.ok(&["bench", "--runs", "1"]).contains("image"));
}

#[test]
fn help_completions_and_manual_pages() {
    let desk = Desk::new();
    let commands = [
        "generate",
        "edit",
        "outpaint",
        "vary",
        "reconstruct",
        "reproduce",
        "info",
        "bench",
        "pack",
        "run",
        "completions",
        "man",
    ];
    let help = desk.ok(&["--help"]);
    for command in commands {
        assert!(help.contains(command), "{command}");
        assert!(desk.ok(&["help", command]).contains("Usage"), "{command}");
    }
    assert!(desk.ok(&["--version"]).starts_with("maskgit "));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(desk.ok(&["completions", shell]).contains("choice-temperature"), "{shell}");
    }
    assert!(desk.ok(&["man"]).contains(".TH maskgit 1"));
    desk.ok(&["man", "-o", "pages"]);
    let mut expected: Vec<String> = commands.iter().map(|c| format!("maskgit-{c}.1")).collect();
    expected.push("maskgit.1".into());
    expected.sort();
    assert_eq!(names(&desk.path("pages")), expected);
    let page = fs::read_to_string(desk.path("pages/maskgit-generate.1")).unwrap();
    assert!(page.contains("choice\\-temperature"), "{page}");
}
