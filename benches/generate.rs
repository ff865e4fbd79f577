//! `cargo bench`: the parts of a picture, on the bundled model.

use criterion::{Criterion, criterion_group, criterion_main};
use maskgit::Generator;
use maskgit::sample::{self, Canvas, Grid, Predict, Problem, Row};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/avatars-64");

/// Gives the same logits for every row.
struct Fixed(Vec<f32>);

impl Predict for Fixed {
    fn logits(&mut self, rows: &[Row<'_>], out: &mut [f32]) -> maskgit::Result<()> {
        let length = out.len() / rows.len();
        out.chunks_exact_mut(length).for_each(|row| row.copy_from_slice(&self.0));
        Ok(())
    }
}

fn benches(c: &mut Criterion) {
    let mut generator = Generator::open(MODEL).unwrap_or_else(|e| panic!("{e}"));
    let request = generator.request("0").unwrap_or_else(|e| panic!("{e}"));
    let manifest = generator.manifest().clone();
    let masked = vec![manifest.mask_id; manifest.tokens()];
    let codes: Vec<i64> = (0..manifest.tokens()).map(|i| (i * 7 % manifest.codes) as i64).collect();
    let logits = generator.logits(&masked, 0).unwrap_or_else(|e| panic!("{e}"));

    let problem = Problem {
        grid: Grid { rows: manifest.grid.rows, cols: manifest.grid.cols },
        codes: manifest.codes,
        mask_id: manifest.mask_id,
    };
    // One step with every position masked: no step of a picture costs more.
    let mut options = request.options;
    options.steps = 12;
    options.start_iter = 11;
    let mut predict = Fixed(logits);
    c.bench_function("sampler step", |b| {
        b.iter(|| {
            let mut canvases = [Canvas { seed: 1, tokens: masked.clone() }];
            sample::decode(
                &problem,
                &mut canvases,
                &options,
                &mut predict,
                &mut |_| std::ops::ControlFlow::Continue(()),
            )
            .map(|_| canvases)
        })
    });
    c.bench_function("transformer step", |b| b.iter(|| generator.logits(&masked, 0)));
    c.bench_function("decode", |b| b.iter(|| generator.decode_raw(&codes)));
    c.bench_function("whole image", |b| b.iter(|| generator.generate(&request, &mut ())));
}

criterion_group!(all, benches);
criterion_main!(all);
