//! What a request means for a model, and what is said of one that means nothing.

use image::RgbImage;
use maskgit::{
    Bundle, ErrorKind, Feather, Mask, Outpaint, Request, Resolved, Sampler, Sampling, SamplingChanges, Schedule,
    Subject,
};
use serde_json::Value;

use crate::common::{TINY, boxes, copy_tiny, noise};

fn bundle() -> Bundle {
    Bundle::open(TINY).unwrap()
}

/// The tiny model, changed.
fn changed(change: impl FnOnce(&mut Value)) -> Bundle {
    let folder = tempfile::tempdir().unwrap();
    copy_tiny(folder.path(), change);
    Bundle::open(folder.path()).unwrap()
}

fn resolved(request: &Request) -> Resolved {
    request.resolve(bundle().manifest()).unwrap()
}

#[test]
fn every_error_names_the_value() {
    let draw = || Request::generate().with_class("warm");
    let sampling = |change: fn(&mut SamplingChanges)| {
        let mut changes = SamplingChanges::default();
        change(&mut changes);
        draw().with_sampling(changes)
    };
    let image = noise(20, 30, 51);
    let edit = || Request::edit(image.clone(), boxes(20, 30, &[(1, 1, 2, 2)])).with_class("warm");
    let out = |sides: Outpaint| Request::outpaint(image.clone(), sides).with_class("warm");
    let right = Outpaint { right: 5, ..Outpaint::default() };
    let cases = [
        (Request::generate().with_class("blue"), "'blue'"),
        (Request::generate().with_class("wram"), "'wram' among the model's 3: did you mean warm"),
        (Request::generate().with_class("3"), "no class 3: the model has 3 classes, 0 to 2"),
        (Request::generate().with_class(""), "no class ''"),
        (draw().with_count(0), "the count must be 1 to 10000, not 0"),
        (draw().with_count(10_001), "not 10001"),
        (draw().with_steps(0), "steps is 0; it must be 1 to 4096"),
        (draw().with_steps(4097), "steps is 4097"),
        (sampling(|s| s.start_iter = Some(4)), "start_iter is 4; it must be less than the number of steps, 4"),
        (sampling(|s| s.schedule = Some(Schedule::Power(-2.0))), "power is -2"),
        (sampling(|s| s.choice_temperature = Some(-0.5)), "choice_temperature is -0.5"),
        (sampling(|s| s.temperature = Some(2e6)), "temperature is 2000000; it must be a number from 0 to 1000000"),
        (sampling(|s| s.final_temperature = Some(f32::NAN)), "final_temperature is NaN"),
        (sampling(|s| s.top_k = Some(9)), "top_k is 9; the model has 8 codes"),
        (draw().with_guidance(-1.0), "guidance is -1"),
        (sampling(|s| s.corrector_share = Some(1.0)), "corrector_share is 1"),
        (sampling(|s| s.corrector_first = Some(0.0)), "corrector_first is 0"),
        (edit().with_context(0.25), "the context is 0.25; it must be 1 to 1000000"),
        (edit().with_feather(Feather::Pixels(5000)), "5000"),
        (
            Request::edit(image.clone(), Mask::all(30, 20).unwrap()),
            "the mask is 30x20 pixels, and the image 20x30: they must have one size",
        ),
        (Request::vary(image.clone(), 1.5), "the strength is 1.5; it must be 0 to 1"),
        (Request::vary(image.clone(), f32::NAN), "the strength is NaN"),
        (out(Outpaint::default()), "nothing to add"),
        (out(Outpaint { overlap: 0.95, ..right }), "the overlap is 0.95; it must be 0.1 to 0.9"),
        (out(Outpaint { window: Some(0), ..right }), "the window has 0 pixels"),
        (out(Outpaint { right: 20_000, ..right }), "20020x30"),
        (Request::outpaint(RgbImage::new(0, 7), right), "0x7"),
    ];
    for (request, said) in cases {
        let error = request.resolve(bundle().manifest()).unwrap_err();
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert!(matches!(error.kind(), ErrorKind::Request | ErrorKind::Image), "{said}: {:?}", error.kind());
        assert_eq!(error.to_string().lines().count(), 1, "{said}");
    }
}

#[test]
fn what_a_model_cannot_do_is_said() {
    let plain = changed(|m| m["null_label"] = Value::Null);
    let blind = changed(|m| m["graphs"]["encoder"] = Value::Null);
    let image = noise(16, 16, 52);
    for (model, request, said) in [
        (&plain, Request::generate(), "give a class"),
        (&plain, Request::vary(image.clone(), 0.5), "give a class"),
        (&plain, Request::generate().with_class("0").with_guidance(2.0), "no null label, so it cannot be guided"),
        (&blind, Request::reconstruct(image.clone()), "no encoder"),
        (&blind, Request::edit(image.clone(), Mask::all(16, 16).unwrap()), "no encoder"),
    ] {
        let error = request.resolve(model.manifest()).unwrap_err();
        assert!(error.kind() == ErrorKind::Request && error.to_string().contains(said), "{said}: {error}");
    }
    assert_eq!(Request::reconstruct(image).resolve(plain.manifest()).unwrap().label, None);
    assert_eq!(Request::generate().with_class("cool").resolve(blind.manifest()).unwrap().label, Some(1));
}

#[test]
fn a_request_is_the_models_settings_with_changes() {
    let recommended = bundle().manifest().sampling;
    let draw = || Request::generate().with_class("GREY");
    assert_eq!(resolved(&draw()).sampling, recommended);
    assert_eq!(resolved(&draw()).label, Some(2));
    let found = resolved(&draw().with_steps(9).with_guidance(1.5)).sampling;
    assert_eq!((found.steps, found.guidance, found.schedule), (9, 1.5, recommended.schedule));
    let mut changes = SamplingChanges::default();
    changes.sampler = Some(Sampler::Halton);
    assert_eq!(resolved(&draw().with_sampling(changes)).sampling.schedule, Schedule::Arccos, "with its sampler");
    let mut all = Sampling::default();
    (all.steps, all.top_k, all.temperature) = (3, Some(4), 0.25);
    assert_eq!(resolved(&draw().with_sampling(all)).sampling, all);
    changes = SamplingChanges::default();
    changes.top_k = Some(0);
    let model = changed(|m| m["sampling"]["top_k"] = 2.into());
    assert_eq!(draw().resolve(model.manifest()).unwrap().sampling.top_k, Some(2));
    assert_eq!(draw().with_sampling(changes).resolve(model.manifest()).unwrap().sampling.top_k, None, "0 is all");
    // Without a class there is nothing to guide away from.
    let unguided = resolved(&Request::generate().with_guidance(3.0));
    assert_eq!((unguided.label, unguided.sampling.guidance), (None, 0.0));
}

#[test]
fn seeds_and_subjects_are_as_given() {
    let image = noise(20, 30, 53);
    let request = Request::edit(image.clone(), Mask::all(20, 30).unwrap()).with_context(3.0).with_seed(u64::MAX);
    assert_eq!((request.seeds.at(0), request.seeds.at(1), request.seeds.count), (u64::MAX, 0, 1));
    assert_eq!((request.edge.dilation, request.edge.feather), (1, Feather::Auto));
    assert!(matches!(request.subject, Subject::Edit { context: 3.0, .. }));
    let vary = Request::reconstruct(image).with_context(3.0);
    assert!(matches!(vary.subject, Subject::Vary { strength: 0.0, .. }), "other subjects have no context");
}
