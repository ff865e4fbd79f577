//! What an observer hears: totals that are right, images one by one.

use maskgit::{ErrorKind, Feather, Generator, Outpaint, Progress, Request};
use maskgit_geometry::{Windows, inpaint, stages};

use crate::common::{Event, TINY, Watch, boxes, noise, tiny};

/// Draws, and checks what must hold of every request's progress.
fn watched(generator: &mut Generator, request: &Request, what: &str) -> Watch {
    let mut watch = Watch::default();
    let summary = generator.generate_with(request, &mut watch).unwrap();
    let count = request.seeds.count;
    let runs = summary.resolved.sampling.run_steps() * summary.resolved.sampling.passes();
    let total = summary.windows.len() * count * runs;
    let rises = |told: &[(usize, usize)], total: usize| {
        told.iter().zip(told.iter().skip(1)).all(|(a, b)| a.0 < b.0)
            && told.iter().all(|&(done, of)| of == total && done <= of)
            && told.last().map_or(total == 0, |&(done, _)| done == total)
    };
    let predicted = watch.predicted();
    assert!(rises(&predicted, total), "{what}: {total} runs, but {predicted:?}");
    let encoded = watch.encoded();
    let windows = encoded.last().map_or(0, |&(_, total)| total);
    assert_eq!(encoded, (1..=windows).map(|done| (done, windows)).collect::<Vec<_>>(), "{what}");
    let finished: Vec<_> = watch
        .progress()
        .into_iter()
        .filter_map(|p| if let Progress::Finished { done, total } = p { Some((done, total)) } else { None })
        .collect();
    assert_eq!(finished, (1..=count).map(|done| (done, count)).collect::<Vec<_>>(), "{what}");
    let seeds: Vec<_> = watch.images().iter().map(|image| (image.index, image.seed)).collect();
    assert_eq!(seeds, (0..count).map(|i| (i, request.seeds.at(i))).collect::<Vec<_>>(), "{what}: order");
    // Each image is told of just after it is handed over.
    for pair in watch.events.windows(2) {
        let told = matches!(pair[1], Event::Progress(Progress::Finished { .. }));
        assert_eq!(matches!(pair[0], Event::Image(_)), told, "{what}");
    }
    watch
}

#[test]
fn totals_are_right_and_constant() {
    let image = noise(16, 16, 31);
    let three = boxes(120, 40, &[(5, 5, 6, 6), (40, 20, 6, 6), (100, 10, 9, 4)]);
    let wide = noise(120, 40, 32);
    let one = boxes(16, 16, &[(5, 5, 1, 1)]);
    let sides = Outpaint { left: 10, right: 30, ..Outpaint::default() };
    let cases = [
        ("a generation", Request::generate()),
        ("fewer tokens than steps", Request::generate().with_steps(40)),
        ("one token, many steps", Request::edit(image.clone(), one).with_dilation(0).with_steps(12)),
        ("strength 0", Request::vary(image.clone(), 0.0)),
        ("strength 0.1", Request::vary(image.clone(), 0.1).with_steps(12)),
        ("strength 1", Request::vary(image.clone(), 1.0)),
        ("reconstruction", Request::reconstruct(image.clone())),
        ("three windows", Request::edit(wide.clone(), three.clone())),
        ("three windows, many steps", Request::edit(wide, three).with_steps(30)),
        ("outpainting", Request::outpaint(image, sides)),
    ];
    for (what, request) in cases {
        for (guidance, count, start_iter) in [(0.0, 1, 0), (2.0, 1, 0), (2.0, 5, 1), (0.0, 11, 0)] {
            let mut request = request.clone().with_class("0").with_guidance(guidance).with_count(count);
            request.sampling.start_iter = Some(start_iter);
            let what = format!("{what}, guidance {guidance}, {count} images, from step {start_iter}");
            watched(&mut tiny(1), &request, &what);
            let mut little = Generator::builder().threads(1).logits_bytes(1).open(TINY).unwrap();
            watched(&mut little, &request, &format!("{what}, one at a time"));
        }
    }
}

/// A window is encoded once for the whole request where no other window's part shows in it, else once for each image.
#[test]
fn windows_are_encoded_as_often_as_they_differ() {
    let mut generator = tiny(1);
    let shape = generator.manifest().shape();
    let mut mixed = 0;
    for (holes, feather) in [
        (&[(5, 5, 6, 6), (100, 10, 9, 4)][..], Feather::Gaussian),
        (&[(5, 5, 6, 6), (17, 8, 6, 6), (100, 10, 9, 4)], Feather::Pixels(1)),
        (&[(5, 5, 6, 6), (15, 20, 6, 6), (30, 8, 9, 9), (100, 10, 9, 4)], Feather::Gaussian),
    ] {
        let mask = boxes(120, 40, holes);
        let jobs = inpaint(&mask, shape, 2.0, feather, Windows::Shape).unwrap();
        let stages = stages(&jobs, feather, 1, shape, 120, 40);
        let shared = stages.iter().flatten().filter(|staged| staged.shared).count();
        let request = Request::edit(noise(120, 40, 33), mask).with_feather(feather).with_count(5);
        let watch = watched(&mut generator, &request, "edit");
        assert_eq!(watch.encoded().len(), shared + 5 * (jobs.len() - shared), "{holes:?}: {shared} of {}", jobs.len());
        mixed += usize::from(shared > 1 && shared < jobs.len());
    }
    assert!(mixed > 0, "the cases are too easy");
    for request in [Request::reconstruct(noise(9, 9, 34)), Request::vary(noise(9, 9, 34), 0.5)] {
        let watch = watched(&mut generator, &request.with_count(5), "vary");
        assert_eq!(watch.encoded(), [(1, 1)]);
    }
}

#[test]
fn images_arrive_before_the_request_is_done() {
    let mut generator = tiny(1);
    let mask = boxes(60, 20, &[(5, 5, 6, 6), (40, 8, 6, 6)]);
    for (what, request) in [("generation", Request::generate()), ("edit", Request::edit(noise(60, 20, 35), mask))] {
        let request = request.with_class("0").with_count(40);
        let watch = watched(&mut generator, &request, what);
        let place = |is: &dyn Fn(&Event) -> bool| watch.events.iter().position(is).unwrap();
        let first = place(&|event| matches!(event, Event::Image(_)));
        let drawn =
            place(&|event| matches!(event, Event::Progress(Progress::Predicted { done, total }) if done * 2 > *total));
        assert!(first < drawn, "{what}: the first image comes when half of all is drawn");
        let whole = generator.generate(&request).unwrap().images;
        assert_eq!(watch.images(), whole.iter().collect::<Vec<_>>(), "{what}");

        // Stopped at the sixth image, and in the midst of what comes after it.
        let sixth = watch.events.iter().position(|e| matches!(e, Event::Image(image) if image.index == 5)).unwrap() + 1;
        for (stop_at, arrived) in [(sixth, 6), (sixth + 1, 6)] {
            let mut stopped = Watch { stop_at: Some(stop_at), ..Watch::default() };
            let error = generator.generate_with(&request, &mut stopped).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{what}");
            assert_eq!(
                stopped.images(),
                whole.iter().take(arrived).collect::<Vec<_>>(),
                "{what}: those that arrived stay"
            );
        }
    }
}

/// How much memory there is for logits changes the batches and no token.
#[test]
fn little_memory_for_logits_gives_the_same_images() {
    let mut plenty = tiny(2);
    let mut little = Generator::builder().threads(2).logits_bytes(1).open(TINY).unwrap();
    let image = noise(120, 40, 36);
    let mask = boxes(120, 40, &[(5, 5, 6, 6), (15, 20, 6, 6), (30, 8, 9, 9), (100, 10, 9, 4)]);
    let sides = Outpaint { left: 10, bottom: 30, ..Outpaint::default() };
    for (what, request) in [
        ("generation", Request::generate()),
        ("edit", Request::edit(image.clone(), mask)),
        ("outpainting", Request::outpaint(image.clone(), sides)),
        ("variation", Request::vary(image, 0.5)),
    ] {
        for guidance in [0.0, 1.5] {
            let request = request.clone().with_class("2").with_seed(9).with_guidance(guidance).with_count(6);
            let (a, b) = (plenty.generate(&request).unwrap(), little.generate(&request).unwrap());
            assert!(a.images == b.images, "{what}, guidance {guidance}");
            assert_eq!((a.summary.resolved, a.summary.windows), (b.summary.resolved, b.summary.windows), "{what}");
        }
    }
}
