//! The command's editing, on the tiny bundle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use image::{Rgb, RgbImage, Rgba, RgbaImage};
use maskgit::{Limits, read_image};
use maskgit_image::{encode_png, read_metadata};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::program;

const HOSTILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/hostile");
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny");

fn read_png(path: impl AsRef<Path>) -> maskgit::Result<image::RgbImage> {
    Ok(read_image(path.as_ref(), &Limits::default())?.rgb)
}

struct Desk {
    folder: TempDir,
}

impl Desk {
    /// A folder with an image, a mask of its size, and one of another size.
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        desk.save("face.png", &RgbImage::from_fn(40, 30, |x, y| Rgb([x as u8 * 6, y as u8 * 8, 90])));
        let white = |x: u32, y: u32| Rgb([if (5..12).contains(&x) && (4..9).contains(&y) { 255 } else { 0 }; 3]);
        desk.save("mask.png", &RgbImage::from_fn(40, 30, white));
        desk.save("black.png", &RgbImage::new(40, 30));
        desk.save("small-mask.png", &RgbImage::new(39, 30));
        desk
    }

    fn save(&self, name: &str, image: &RgbImage) {
        fs::write(self.path(name), encode_png(image, None).unwrap()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self, name: &str) -> RgbImage {
        read_png(self.path(name)).unwrap()
    }

    fn run(&self, line: &str) -> Output {
        let mut command = program(env!("CARGO_BIN_EXE_maskgit").as_ref());
        command.current_dir(self.folder.path()).env("MASKGIT_MODEL", TINY).args(line.split_whitespace());
        command.output().unwrap()
    }

    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {stderr}");
        // How a mask was read is said, and that the tiny model, which knows no images, does not know this one.
        let expected =
            |said: &str| said.starts_with("maskgit: mask: ") || said.contains("the model does not know images");
        assert!(stderr.lines().all(expected), "{line}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said of the mask.
    fn said(&self, line: &str) -> String {
        let output = self.run(line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {stderr}");
        let said: Vec<&str> = stderr.lines().filter_map(|said| said.strip_prefix("maskgit: mask: ")).collect();
        assert_eq!(said.len(), 1, "{line}: {stderr}");
        said[0].to_owned()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    fn fails(&self, status: i32, line: &str) -> String {
        let output = self.run(line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{line}: {stderr}");
        assert!(stderr.starts_with("maskgit: ") && stderr.lines().count() == 1, "{line}: {stderr}");
        assert!(!stderr.contains("panicked") && output.stdout.is_empty(), "{line}: {stderr}");
        stderr
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

const EDITS: [(&str, &str); 6] = [
    ("a.png", "edit --image face.png --mask mask.png --class warm --seed 3 -o a.png"),
    ("b.png", "edit --image face.png --mask mask.png --box 30,20,4,4 --dilate 0 --feather 3 --context 1.5 -o b.png"),
    ("c-001.png", "edit --image face.png --box 1,2,3,4 --class cool --count 2 --start-iter 1 --guidance 2 -o c.png"),
    ("d.png", "outpaint --image face.png --left 9 --bottom 40 --class grey --overlap 0.3 --window 20 -o d.png"),
    ("e.png", "vary --image face.png --strength 0.7 --class cool --temperature 0.5 -o e.png"),
    ("f.png", "reconstruct --image face.png -o f.png"),
];

#[test]
fn every_edit_is_reproduced() {
    let desk = Desk::new();
    for (file, line) in EDITS {
        desk.ok(line);
        let report = desk.json(&format!("reproduce {file} --threads 1 -o again.png"));
        assert_eq!((&report["same_tokens"], &report["same_pixels"]), (&json!(true), &json!(true)), "{line}");
        assert_eq!(fs::read(desk.path(file)).unwrap(), fs::read(desk.path("again.png")).unwrap(), "{line}");
        assert!(desk.ok(&format!("reproduce {file}")).contains("the same tokens, the same pixels"));
    }
    // From elsewhere the files are found beside the result, or are given.
    fs::create_dir(desk.path("sub")).unwrap();
    fs::rename(desk.path("a.png"), desk.path("sub/a.png")).unwrap();
    desk.ok("reproduce sub/a.png");
    fs::rename(desk.path("face.png"), desk.path("sub/face.png")).unwrap();
    desk.ok("reproduce sub/a.png");
    fs::rename(desk.path("sub/face.png"), desk.path("other.png")).unwrap();
    assert!(desk.fails(1, "reproduce sub/a.png").contains("--image"));
    desk.ok("reproduce sub/a.png --image other.png --mask mask.png");
    // Another image of the same name is not the one.
    desk.save("face.png", &RgbImage::new(40, 30));
    assert!(desk.fails(1, "reproduce sub/a.png").contains("is not the file that was used"));
    fs::rename(desk.path("other.png"), desk.path("face.png")).unwrap();
    assert!(desk.fails(1, "reproduce sub/a.png --mask black.png").contains("is not the file"));
    assert!(desk.fails(1, "reproduce d.png --mask black.png").contains("leave --mask out"));
}

#[test]
fn results_and_reports() {
    let desk = Desk::new();
    let report =
        desk.json("edit --image face.png --mask mask.png --class warm --seed 8 --count 2 --threads 2 -o a.png");
    for (key, value) in [
        ("class", json!("warm")),
        ("label", json!(0)),
        ("seed", json!(8)),
        ("width", json!(40)),
        ("height", json!(30)),
        ("windows", json!([[0, 0, 16, 16]])),
    ] {
        assert_eq!(report[key], value, "{key}");
    }
    assert_eq!(report["json_version"], 1);
    assert!(report["times"]["encode"].as_f64().unwrap() > 0.0);
    assert_eq!(report["edit"]["image"]["name"], "face.png");
    assert_eq!(report["edit"]["operation"]["edit"]["mask"]["name"], "mask.png");
    assert_eq!(report["images"][1]["file"], "a-001.png");
    assert_eq!(report["images"][1]["masked"].as_array().unwrap().last(), Some(&json!(0)));
    let again = desk.json("edit --image face.png --mask mask.png --class warm --seed 9 --threads 1 -o b.png");
    assert_eq!(again["images"][0]["tokens_sha256"], report["images"][1]["tokens_sha256"], "of its seed, on one thread");
    assert_eq!(desk.image("b.png"), desk.image("a-001.png"));
    // The metadata name files, not folders.
    let line = format!("edit --image {} --box 1,1,2,2 -o c.png", desk.path("face.png").display());
    desk.ok(&line);
    assert!(!read_metadata(&desk.path("c.png")).unwrap().unwrap().contains(desk.folder.path().to_str().unwrap()));
    let report = desk.json("outpaint --image face.png --right 8 --top 2 -o d.png");
    assert_eq!((&report["width"], &report["height"], &report["class"]), (&json!(48), &json!(32), &Value::Null));
    assert_eq!(desk.image("d.png").dimensions(), (48, 32));
}

#[test]
fn unmasked_pixels_and_opacity_stay() {
    let desk = Desk::new();
    let rgba = RgbaImage::from_fn(40, 30, |x, y| Rgba([x as u8 * 6, y as u8 * 8, 90, (x * y % 256) as u8]));
    rgba.save(desk.path("alpha.png")).unwrap();
    desk.ok("edit --image alpha.png --mask mask.png --class warm --feather 0 -o a.png");
    let result = image::open(desk.path("a.png")).unwrap().into_rgba8();
    let mut changed = 0;
    for (x, y, pixel) in result.enumerate_pixels() {
        assert_eq!(pixel.0[3], rgba.get_pixel(x, y).0[3]);
        let inside = (5..12).contains(&x) && (4..9).contains(&y);
        assert!(inside || pixel == rgba.get_pixel(x, y), "({x},{y})");
        changed += usize::from(pixel != rgba.get_pixel(x, y));
    }
    assert!(changed > 20);
    desk.ok("outpaint --image alpha.png --left 3 -o b.png");
    let wide = image::open(desk.path("b.png")).unwrap().into_rgba8();
    assert_eq!((wide.dimensions(), wide.get_pixel(0, 0).0[3], wide.get_pixel(3 + 7, 5).0[3]), ((43, 30), 255, 35));
}

/// Whatever is stored under opacity 0, the same is drawn; and a result of a program that looked at it is known as such.
#[test]
fn the_colour_of_transparent_pixels_is_unknown() {
    let desk = Desk::new();
    let save = |name: &str, hidden: [u8; 3]| {
        let image = RgbaImage::from_fn(40, 30, |x, y| match x {
            0..15 => Rgba([hidden[0], hidden[1], hidden[2], 0]),
            _ => Rgba([x as u8 * 6, y as u8 * 8, 90, 255]),
        });
        image.save(desk.path(name)).unwrap();
        image
    };
    let (black, _) = (save("black-there.png", [0; 3]), save("green-there.png", [9, 200, 9]));
    let draw = |line: &str| desk.json(line)["images"][0]["tokens_sha256"].clone();
    for (file, line) in EDITS.iter().filter(|(_, line)| !line.contains("--count")) {
        let on = |image: &str, name: &str| {
            line.replace("face.png", image).replace(&format!("-o {file}"), &format!("-o {name}"))
        };
        let one = draw(&on("black-there.png", "one.png"));
        assert_eq!(one, draw(&on("green-there.png", "two.png")), "{line}");
        assert!(desk.ok("reproduce one.png").contains("the same tokens, the same pixels"));
    }
    desk.ok("edit --image black-there.png --box 10,4,12,9 --class warm -o a.png");
    let result = image::open(desk.path("a.png")).unwrap().into_rgba8();
    let outside = |x: u32, y: u32| x < 15 && !((10..22).contains(&x) && (4..13).contains(&y));
    assert!(result.enumerate_pixels().filter(|(x, y, _)| outside(*x, *y)).all(|(x, y, p)| p == black.get_pixel(x, y)));

    desk.ok("reconstruct --image black-there.png -o c.png");
    let record = read_metadata(&desk.path("c.png")).unwrap().unwrap();
    let mut old: Value = serde_json::from_str(&record).unwrap();
    assert_eq!(old["edit"]["transparency"], json!(true));
    old["edit"].as_object_mut().unwrap().remove("transparency");
    fs::write(desk.path("old.png"), encode_png(&desk.image("c.png"), Some(&old.to_string())).unwrap()).unwrap();
    assert!(desk.fails(1, "reproduce old.png").contains("other tokens"));
}

#[test]
fn a_damaged_image_is_an_error_or_a_warning() {
    let desk = Desk::new();
    fs::copy(HOSTILE.to_owned() + "/trunc-30-p1.jpg", desk.path("cut.jpg")).unwrap();
    let said = desk.fails(1, "edit --image cut.jpg --box 1,1,9,9 -o a.png");
    assert!(said.contains("damaged") && said.contains("--allow-damaged"), "{said}");
    assert!(!desk.path("a.png").exists());
    for quiet in ["", "--quiet"] {
        let output = desk.run(&format!("edit --image cut.jpg --box 1,1,9,9 --allow-damaged {quiet} -o a.png"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.lines().count() == 1, "{stderr}");
        assert!(stderr.starts_with("maskgit: warning: cut.jpg: the image is damaged"), "{stderr}");
    }
    assert!(desk.run("reproduce a.png").status.success());
    // A mask is never read so.
    assert!(desk.fails(1, "edit --image face.png --mask cut.jpg --allow-damaged -o b.png").contains("not of a mask"));

    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/inputs/cmyk.jpg"), desk.path("cmyk.jpg")).unwrap();
    let said = desk.run("reconstruct --image cmyk.jpg -o c.png").stderr;
    let expected = "maskgit: note: cmyk.jpg: the image's CMYK was converted to RGB without a colour profile";
    assert!(String::from_utf8_lossy(&said).starts_with(expected));
    assert_eq!(desk.ok("reconstruct --image cmyk.jpg --quiet -o c.png"), "");
}

/// Memory that cannot be had is an error in a line, never an abort.
#[cfg(target_os = "linux")]
#[test]
fn hostile_images_in_little_memory() {
    let desk = Desk::new();
    for name in ["large-canvas.gif", "anim-11000.webp", "webp-exif-4g.webp"] {
        fs::copy(format!("{HOSTILE}/{name}"), desk.path(name)).unwrap();
    }
    // A lossless WebP of one colour, which is legal: 10,200 by 10,200 pixels in 30 bytes.
    let size: u32 = 10_199 | 10_199 << 14;
    let webp = [b"RIFF\x16\0\0\0WEBPVP8L\x0A\0\0\0\x2F", &size.to_le_bytes()[..], &[0x88, 0x88, 0x08, 0, 0]].concat();
    fs::write(desk.path("one-colour.webp"), webp).unwrap();
    for (name, expected) in [
        ("large-canvas.gif", "first frame has 1x1"),
        ("anim-11000.webp", "first frame has 1x1"),
        ("webp-exif-4g.webp", "chunk EXIF declares"),
        ("one-colour.webp", "of memory to read, which cannot be had"),
    ] {
        let mut shell = std::process::Command::new("sh");
        let line = format!("ulimit -v 600000; exec \"$0\" edit --image {name} --box 0,0,1,1 -o a.png");
        shell.current_dir(desk.folder.path()).env("MASKGIT_MODEL", TINY);
        let output = shell.args(["-c", &line, env!("CARGO_BIN_EXE_maskgit")]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(expected), "{name}: {stderr}");
    }
}

#[test]
fn an_empty_mask_is_said() {
    let desk = Desk::new();
    let error = desk.fails(1, "edit --image face.png --mask black.png -o a.png");
    assert!(
        error.contains("the mask is empty: it was read as white pixels of black.png")
            && error.contains("--allow-empty-mask")
    );
    assert!(!desk.path("a.png").exists());
    let line = "edit --image face.png --mask black.png --allow-empty-mask -o a.png";
    let output = desk.run(line);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "maskgit: mask: white pixels of black.png, 0 % of the image is repainted\n\
         maskgit: note: the mask is empty: the result is the image as it was\n"
    );
    assert_eq!(desk.image("a.png"), desk.image("face.png"));
    let report = desk.json(line);
    assert_eq!((&report["windows"], report["note"].is_string(), &report["repainted"]), (&json!([]), true, &json!(0.0)));
    desk.ok("reproduce a.png");
    let output = desk.run(&format!("{line} --quiet"));
    assert!(output.status.success() && output.stderr.is_empty(), "--quiet leaves the lines out");
    // A box beside it is something to repaint.
    desk.ok("edit --image face.png --mask black.png --box 1,1,2,2 -o b.png");
}

#[test]
fn masks_are_read_as_they_are_meant_and_the_reading_is_said_and_recorded() {
    let desk = Desk::new();
    let inside = |x: u32, y: u32| (5..12).contains(&x) && (4..9).contains(&y);
    let face = desk.image("face.png");
    let save = |name: &str, pixel: &dyn Fn(u32, u32) -> [u8; 4]| {
        RgbaImage::from_fn(40, 30, |x, y| Rgba(pixel(x, y))).save(desk.path(name)).unwrap();
    };
    save("erased.png", &|x, y| {
        let [r, g, b] = face.get_pixel(x, y).0;
        if inside(x, y) { [0; 4] } else { [r, g, b, 255] }
    });
    save("layer.png", &|x, y| [0, 0, 0, u8::from(inside(x, y)) * 255]);
    save("brush.png", &|x, y| [0, 0, u8::from(inside(x, y)) * 200, 255]);
    save("inverse.png", &|x, y| [[255, 255, 255, 255], [0, 0, 0, 255]][usize::from(inside(x, y))]);
    let large = RgbImage::from_fn(80, 60, |x, y| Rgb([u8::from(inside(x / 2, y / 2)) * 255; 3]));
    desk.save("large.png", &large);
    desk.save("square.png", &RgbImage::new(30, 30));
    let edit = "edit --image face.png --class warm --feather 0 --steps 2";
    desk.ok(&format!("{edit} --mask mask.png -o plain.png"));
    for (mask, said, reading) in [
        ("erased.png", "transparent pixels of erased.png", json!({"from": "alpha", "invert": true, "resize": false})),
        ("layer.png", "opaque pixels of layer.png", json!({"from": "alpha", "invert": false, "resize": false})),
        ("brush.png", "coloured pixels of brush.png", json!({"from": "any", "invert": false, "resize": false})),
        (
            "inverse.png --invert-mask",
            "black pixels of inverse.png",
            json!({"from": "luma", "invert": true, "resize": false}),
        ),
        (
            "large.png --resize-mask",
            "white pixels of large.png, resized from 80x60",
            json!({"from": "luma", "invert": false, "resize": true}),
        ),
        ("layer.png --mask-from alpha", "opaque", json!({"from": "alpha", "invert": false, "resize": false})),
    ] {
        let line = format!("{edit} --mask {mask} -o a.png");
        let found = desk.said(&line);
        assert!(found.starts_with(said) && found.ends_with(", 2.9 % of the image is repainted"), "{mask}: {found}");
        assert_eq!(desk.image("a.png"), desk.image("plain.png"), "{mask}");
        let report = desk.json(&line);
        assert_eq!(report["edit"]["operation"]["edit"]["reading"], reading, "{mask}");
        assert!((report["repainted"].as_f64().unwrap() - 35.0 / 1200.0).abs() < 1e-9);
        desk.ok("reproduce a.png");
    }
    let said = desk.said(&format!("{edit} --mask inverse.png -o a.png"));
    assert_eq!(
        said,
        "white pixels of inverse.png, 97.1 % of the image is repainted; --invert-mask repaints the rest instead"
    );
    for (status, mask, expected) in [
        (1, "face.png", "--mask-from alpha"),
        (2, "large.png", "--resize-mask"),
        (2, "square.png --resize-mask", "proportions"),
        (1, "face.png --mask-from alpha", "no transparent pixel"),
        (2, "mask.png --mask-from red", "--mask-from"),
    ] {
        let error = desk.fails(status, &format!("{edit} --mask {mask} -o b.png"));
        assert!(error.contains(expected), "{mask}: {error}");
    }
    assert!(desk.fails(2, "edit --image face.png --box 1,1,2,2 --invert-mask -o b.png").contains("--mask"));
    assert!(!desk.path("b.png").exists());
}

#[test]
fn values_between_mix_the_old_and_the_new() {
    let desk = Desk::new();
    let grey = |x: u32, y: u32| (255 - 30 * (x.abs_diff(20).max(y.abs_diff(15)) as i32)).clamp(0, 255) as u8;
    desk.save("soft.png", &RgbImage::from_fn(40, 30, |x, y| Rgb([grey(x, y); 3])));
    desk.save("hard.png", &RgbImage::from_fn(40, 30, |x, y| Rgb([if grey(x, y) > 0 { 255 } else { 0 }; 3])));
    let edit = "edit --image face.png --class warm --feather 0 --steps 2 -o";
    let said = desk.said(&format!("{edit} soft.out.png --mask soft.png"));
    assert!(said.starts_with("white pixels of soft.png"), "{said}");
    desk.ok("reproduce soft.out.png");
    let (old, soft) = (desk.image("face.png"), desk.image("soft.out.png"));
    let mut between = 0;
    for (x, y, pixel) in soft.enumerate_pixels() {
        let weight = f32::from(grey(x, y)) / 255.0;
        let most = pixel.0.iter().zip(old.get_pixel(x, y).0).map(|(a, b)| a.abs_diff(b)).max().unwrap();
        assert!(f32::from(most) <= 255.0 * weight + 0.5, "({x},{y}): {most} of {weight}");
        between += usize::from(weight > 0.0 && weight < 1.0 && most > 0);
    }
    assert!(between > 100, "{between}");
}

#[test]
fn masks_of_old_records_are_read_and_painted_as_they_were() {
    let desk = Desk::new();
    let grey = |x: u32, y: u32| (255 - 30 * (x.abs_diff(20).max(y.abs_diff(15)) as i32)).clamp(0, 255) as u8;
    desk.save("soft.png", &RgbImage::from_fn(40, 30, |x, y| Rgb([grey(x, y); 3])));
    desk.save("half.png", &RgbImage::from_fn(40, 30, |x, y| Rgb([if grey(x, y) >= 128 { 255 } else { 0 }; 3])));
    let edit = "edit --image face.png --class warm --feather blur --steps 2 -o";
    let soft = desk.json(&format!("{edit} soft.out.png --mask soft.png"));
    desk.ok(&format!("{edit} half.out.png --mask half.png"));
    // Version 0.1 wrote neither `reading` nor `windows`, and read the soft mask as the hard one.
    let mut record: Value = serde_json::from_str(&read_metadata(&desk.path("half.out.png")).unwrap().unwrap()).unwrap();
    let operation = record.pointer_mut("/edit/operation/edit").unwrap().as_object_mut().unwrap();
    assert_eq!(operation["edge"]["feather"], Value::Null);
    assert!(operation.remove("reading").is_some() && operation.remove("windows").is_some());
    operation.insert("mask".into(), soft["edit"]["operation"]["edit"]["mask"].clone());
    let old = encode_png(&desk.image("half.out.png"), Some(&record.to_string())).unwrap();
    fs::write(desk.path("old.png"), old).unwrap();
    let again = desk.json("reproduce old.png");
    assert_eq!((&again["same_tokens"], &again["same_pixels"]), (&json!(true), &json!(true)));
    assert_ne!(desk.image("soft.out.png"), desk.image("half.out.png"));
}

#[test]
fn an_image_that_the_model_does_not_know_is_said() {
    let desk = Desk::new();
    let model = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::copy(model("tests/data/records/lorelei.png"), desk.path("drawing.png")).unwrap();
    desk.save(
        "photo.png",
        &RgbImage::from_fn(96, 96, |x, y| {
            let wave = |a: u32, b: u32| (127.0 + 120.0 * f64::from(a * x + b * y).to_radians().sin()) as u8;
            Rgb([wave(31, 17), wave(11, 43), wave(29, 5)])
        }),
    );
    let run = |image: &str| {
        let line = format!("edit --image {image} --box 30,30,20,20 --steps 1 --context 9 -o a.png --json --model");
        let output = desk.run(&format!("{line} {}", model("models/avatars-64-int8").display()));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        // With --json the note is in the object.
        assert!(output.stderr.is_empty());
        (report["images"][0]["fit"].as_f64().unwrap(), report["note"].as_str().map(str::to_owned))
    };
    let (known, note) = run("drawing.png");
    assert!(known < 6.0 && note.is_none(), "{known} {note:?}");
    let (unknown, note) = run("photo.png");
    assert!(unknown > 14.0 && note.as_ref().is_some_and(|note| note.contains("does not know")), "{unknown} {note:?}");
}

#[test]
fn previews_are_whole_images() {
    let desk = Desk::new();
    desk.ok("edit --image face.png --mask mask.png --steps 3 --preview steps -o a.png");
    assert_eq!(desk.image("steps/step-03.png"), desk.image("a.png"), "the last preview is the result");
    desk.ok("edit --image face.png --box 1,1,2,2 --box 35,25,2,2 --steps 2 --preview two -o a.png");
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(desk.path(folder)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("two"), ["step-01.png", "step-02.png"], "two windows that do not read each other are one stage");
    assert_eq!(desk.image("two/step-02.png"), desk.image("a.png"), "both windows are in it");
    desk.ok("edit --image face.png --box 5,5,6,6 --box 15,8,6,6 --steps 2 --preview near -o a.png");
    let staged = ["stage-001-step-01.png", "stage-001-step-02.png", "stage-002-step-01.png", "stage-002-step-02.png"];
    assert_eq!(names("near"), staged, "the second window shows what the first has painted");
    assert_eq!(desk.image("near/stage-002-step-02.png"), desk.image("a.png"));
}

#[test]
fn wrong_usage_is_2_and_failure_is_1() {
    let desk = Desk::new();
    fs::write(desk.path("text.png"), "no image").unwrap();
    let bomb = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/inputs/wide-bomb.png");
    fs::copy(bomb, desk.path("bomb.png")).unwrap();
    let before = desk.names();
    for (status, line, expected) in [
        (2, "edit --image face.png -o a.png", "--mask"),
        (2, "edit --image face.png -o a.png", "--box"),
        (2, "edit --box 1,1,2,2 -o a.png", "--image"),
        (2, "edit --image face.png --box 1,1,2,2", "--output"),
        (2, "edit --image face.png --box 1,1,2 -o a.png", "four numbers"),
        (2, "edit --image face.png --box 1,1,2,2,3 -o a.png", "four numbers"),
        (2, "edit --image face.png --box 1,1,-2,2 -o a.png", "four numbers"),
        (2, "edit --image face.png --box 1,1,0,2 -o a.png", "40x30"),
        (2, "edit --image face.png --box 39,1,2,2 -o a.png", "40x30"),
        (2, "edit --image face.png --mask small-mask.png -o a.png", "39x30"),
        (2, "edit --image face.png --mask small-mask.png --box 1,1,2,2 -o a.png", "39x30"),
        (2, "edit --image face.png --mask mask.png --class wram -o a.png", "warm"),
        (2, "edit --image face.png --mask mask.png --feather 5000 -o a.png", "feather"),
        (2, "edit --image face.png --mask mask.png --feather wide -o a.png", "blur"),
        (2, "edit --image face.png --mask mask.png --context 0.5 -o a.png", "context"),
        (2, "edit --image face.png --mask mask.png --start-iter 99 -o a.png", "start_iter"),
        (2, "edit --image face.png --mask mask.png --count 0 -o a.png", "--count"),
        (2, "edit --image face.png --mask mask.png -o a.jpg", ".png"),
        (2, "outpaint --image face.png -o a.png", "at least one side"),
        (2, "outpaint --image face.png --left -3 -o a.png", "--left"),
        (2, "outpaint --image face.png --left 10 --overlap 1 -o a.png", "overlap"),
        (1, "outpaint --image face.png --left 20000 -o a.png", "too large"),
        (2, "vary --image face.png -o a.png", "--strength"),
        (2, "vary --image face.png --strength 1.5 -o a.png", "strength"),
        (1, "edit --image nothing.png --box 1,1,2,2 -o a.png", "nothing.png"),
        (1, "edit --image text.png --box 1,1,2,2 -o a.png", "PNG"),
        (1, "edit --image bomb.png --box 1,1,2,2 -o a.png", "60000x60000"),
        (1, "edit --image face.png --mask nothing.png -o a.png", "nothing.png"),
        (1, "reconstruct --image . -o a.png", "not a file"),
        (1, "reproduce face.png --image face.png", "no parameters"),
    ] {
        let message = desk.fails(status, line);
        assert!(message.contains(expected), "{line}: {message}");
        assert_eq!(desk.names(), before, "{line} left a file");
    }
}

#[test]
fn reproduce_survives_hostile_parameters() {
    let desk = Desk::new();
    desk.ok(EDITS[0].1);
    desk.ok(EDITS[3].1);
    let bad = |file: &str, place: &str, value: Value| {
        let mut record: Value = serde_json::from_str(&read_metadata(&desk.path(file)).unwrap().unwrap()).unwrap();
        // What is as always is left out of a record.
        let (parent, name) = place.rsplit_once('/').unwrap();
        record.pointer_mut(parent).unwrap_or_else(|| panic!("{place}"))[name] = value.clone();
        fs::write(desk.path("bad.png"), encode_png(&RgbImage::new(4, 4), Some(&record.to_string())).unwrap()).unwrap();
        desk.fails(1, "reproduce bad.png -o out.png");
        assert!(!desk.path("out.png").exists(), "{place} = {value} left a file");
    };
    for (place, value) in [
        ("/class", Value::Null),
        ("/label", Value::Null),
        ("/label", json!(7)),
        ("/count", json!(2)),
        ("/sampling/start_iter", json!(u64::MAX)),
        ("/edit/image/name", json!("../../etc/passwd")),
        ("/edit/image/name", json!("")),
        ("/edit/image/name", json!("..")),
        ("/edit/image/sha256", json!("")),
        ("/edit/operation", json!("erase")),
        ("/edit/operation", json!("reconstruct")),
        ("/edit/operation", json!({"vary": {"strength": 1e300}})),
        ("/edit/operation/edit/mask", Value::Null),
        ("/edit/operation/edit/mask/name", json!("face.png")),
        ("/edit/operation/edit/boxes", json!([[0, 0, u32::MAX, u32::MAX]])),
        ("/edit/operation/edit/boxes", json!([[0, 0, 1]])),
        ("/edit/operation/edit/context", json!(-1)),
        ("/edit/operation/edit/edge/feather", json!(u32::MAX)),
        ("/edit/operation/edit/edge/feather", json!("wide")),
        ("/edit/operation/edit/windows", json!("tiles")),
        ("/edit/operation/edit/reading/from", json!("auto")),
        ("/edit/operation/edit/edge/dilation", json!(-1)),
    ] {
        bad("a.png", place, value);
    }
    for (place, value) in [
        ("/edit/operation/outpaint/left", json!(u32::MAX)),
        ("/edit/operation/outpaint/window", json!(0)),
        ("/edit/operation/outpaint/window", json!(u32::MAX)),
        ("/edit/operation/outpaint/overlap", json!(0)),
        ("/edit/operation/outpaint/bottom", json!(16_384)),
    ] {
        bad("d.png", place, value);
    }
}
