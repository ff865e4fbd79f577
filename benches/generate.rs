//! `cargo bench`: the parts of an image, on the bundled model.

use std::ops::ControlFlow;

use criterion::{Criterion, criterion_group, criterion_main};
use maskgit::{Generator, Request};
use maskgit_sample::{Predict, Row, StepReport, TokenGrid, TokenSpec};
use ndarray::{Array2, ArrayViewMut3};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/avatars-64");

/// Gives the same logits for every row.
struct Fixed(Array2<f32>);

impl Predict for Fixed {
    fn logits(&mut self, _: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> maskgit::Result<()> {
        out.assign(&self.0);
        Ok(())
    }
}

fn benches(c: &mut Criterion) {
    let mut generator = Generator::open(MODEL).unwrap_or_else(|e| panic!("{e}"));
    let request = Request::generate().with_class("0");
    let manifest = generator.manifest().clone();
    let masked = vec![manifest.mask_id; manifest.tokens()];
    let codes: Vec<i64> = (0..manifest.tokens()).map(|i| (i * 7 % manifest.codes) as i64).collect();
    let logits = generator.logits(&masked, 0).unwrap_or_else(|e| panic!("{e}"));

    let logits = Array2::from_shape_vec((manifest.tokens(), manifest.codes), logits).unwrap_or_else(|e| panic!("{e}"));

    let spec = TokenSpec { grid: manifest.grid, codes: manifest.codes, mask_id: manifest.mask_id };
    // One step with every position masked: no step of an image costs more.
    let mut settings = manifest.sampling;
    settings.steps = 12;
    settings.start_iter = 11;
    let mut predict = Fixed(logits);
    c.bench_function("sampler step", |b| {
        b.iter(|| {
            let mut grids = [TokenGrid { seed: 1, tokens: masked.clone() }];
            let observe = &mut |_: &StepReport<'_>| ControlFlow::Continue(());
            maskgit_sample::run(&spec, &mut grids, &settings, &mut predict, observe).map(|_| grids)
        })
    });
    c.bench_function("transformer step", |b| b.iter(|| generator.logits(&masked, 0)));
    c.bench_function("decode", |b| b.iter(|| generator.decode_planes(&codes)));
    c.bench_function("whole image", |b| b.iter(|| generator.generate(&request)));
}

criterion_group!(all, benches);
criterion_main!(all);
