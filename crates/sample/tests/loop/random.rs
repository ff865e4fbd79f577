//! What holds for every grid, every model and all settings.
//!
//! `PROPTEST_CASES=20000` tries more of them.

use std::ops::ControlFlow;

use maskgit_core::*;
use maskgit_sample::*;
use ndarray::ArrayViewMut3;
use proptest::prelude::*;

const MASK: i64 = -1;

fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if asked { config } else { ProptestConfig { cases: usual, ..config } }
}

/// A model whose logits hang on every token of a row and on its label, and on nothing else. They are not of any scale:
/// some rows are nearly sure, some have equal logits.
struct Model {
    codes: usize,
    seed: u64,
    /// The rows that it was asked for, call by call: the grid, and whether without the label.
    asked: Vec<Vec<(usize, bool)>>,
    /// The logits for the null label are those for the label.
    same: bool,
}

fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    (value ^ (value >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d) ^ (value >> 33)
}

impl Model {
    fn new(codes: usize, seed: u64) -> Self {
        Self { codes, seed, asked: Vec::new(), same: false }
    }

    fn row(&self, tokens: &[i64], unconditional: bool) -> Vec<f32> {
        let label = u64::from(unconditional && !self.same);
        let state =
            tokens.iter().fold(self.seed ^ mixed(label), |state, &token| mixed(state.wrapping_add(token as u64)));
        let scale = [0.0, 1.0, 4.0, 20.0][(state % 4) as usize];
        let logit = |place: usize| (mixed(state ^ mixed(place as u64 + 1)) % 64) as f32 / 32.0 * scale;
        (0..tokens.len() * self.codes).map(logit).collect()
    }
}

impl Predict for Model {
    fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
        self.asked.push(rows.iter().map(|row| (row.grid, row.unconditional)).collect());
        for (row, mut out) in rows.iter().zip(out.outer_iter_mut()) {
            let logits = self.row(row.tokens, row.unconditional);
            for (position, mut out) in out.outer_iter_mut().enumerate() {
                for (code, out) in out.iter_mut().enumerate() {
                    // What is not wanted is never read.
                    *out = if row.wanted[position] { logits[position * self.codes + code] } else { f32::NAN };
                }
            }
        }
        Ok(())
    }
}

fn schedule() -> impl Strategy<Value = Schedule> {
    prop_oneof![
        prop::sample::select(vec![
            Schedule::Linear,
            Schedule::Square,
            Schedule::Cubic,
            Schedule::Sqrt,
            Schedule::Cosine,
            Schedule::Log,
            Schedule::Exp,
            Schedule::Arccos,
        ]),
        (0.01f32..20.0).prop_map(Schedule::Power),
    ]
}

fn sampler() -> impl Strategy<Value = Sampler> {
    prop::sample::select(vec![
        Sampler::Confidence,
        Sampler::ConfidenceRemask,
        Sampler::PredictorCorrector,
        Sampler::Halton,
        Sampler::HaltonRedraw,
    ])
}

fn settings() -> impl Strategy<Value = Sampling> {
    let temperature = || prop_oneof![Just(1f32), Just(0.0), 0f32..3.0];
    (
        (1..16usize, schedule(), sampler(), any::<prop::sample::Index>()),
        (prop_oneof![Just(0f32), 0f32..9.0], temperature(), prop::option::of(temperature())),
        (prop::option::of(1..40usize), prop_oneof![Just(0f32), 0f32..4.0], any::<bool>()),
        (0f32..1.0, 0.01f32..=1.0),
    )
        .prop_map(
            |((steps, schedule, sampler, start), (choice, temperature, last), (top_k, guidance, ramp), correct)| {
                changed!(Sampling::default();
                    steps: steps, schedule: schedule, sampler: sampler, start_iter: start.index(steps),
                    choice_temperature: choice, temperature: temperature, final_temperature: last, top_k: top_k,
                    guidance: guidance, guidance_ramp: ramp, corrector_share: correct.0, corrector_first: correct.1
                )
            },
        )
}

/// A specification, and some grids with known tokens.
fn grids() -> impl Strategy<Value = (TokenSpec, Vec<TokenGrid>)> {
    (1..7u32, 1..7u32, 1..24usize).prop_flat_map(|(rows, cols, codes)| {
        let token = prop_oneof![3 => Just(MASK), 1 => 0..codes as i64];
        let tokens = prop_oneof![
            Just(vec![MASK; (rows * cols) as usize]),
            prop::collection::vec(token, (rows * cols) as usize),
        ];
        let grid = (any::<u64>(), tokens).prop_map(|(seed, tokens)| TokenGrid { seed, tokens });
        let spec = TokenSpec { grid: GridSize { rows, cols }, codes, mask_id: MASK };
        (Just(spec), prop::collection::vec(grid, 1..4))
    })
}

/// The tokens of every grid in the end, and what was masked after each step.
fn drawn(
    spec: &TokenSpec,
    grids: &[TokenGrid],
    settings: &Sampling,
    model: &mut Model,
) -> (Vec<Vec<i64>>, Vec<Vec<usize>>) {
    let mut grids = grids.to_vec();
    let outcome = run(spec, &mut grids, settings, model, &mut |_| ControlFlow::Continue(()));
    (grids.into_iter().map(|grid| grid.tokens).collect(), outcome.expect("a valid request").masked)
}

/// Logits of all sizes, or of few values, so that many are equal.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let all = prop_oneof![-9f32..9.0, Just(0f32), Just(f32::NEG_INFINITY)];
    let few = (0..3u8).prop_map(f32::from);
    prop_oneof![prop::collection::vec(all, 1..200), prop::collection::vec(few, 1..20)]
}

proptest! {
    #![proptest_config(cases(192))]

    /// Every schedule falls, and what it leaves masked falls with each step, to one that the last step then takes.
    #[test]
    fn schedules_fall(schedule in schedule(), steps in 1..64usize, unknown in 1..5000usize) {
        let (mut ratio, mut now) = (1.0, unknown);
        for step in 0..steps {
            let next = schedule.mask_ratio((step + 1) as f32 / steps as f32, unknown);
            prop_assert!(next <= ratio, "{} after {}", next, ratio);
            let masked = schedule.masked_after(step, steps, unknown, now);
            prop_assert!(masked == 1 || (1..now).contains(&masked), "{} to {}", now, masked);
            prop_assert!(masked <= 1.max((unknown as f32 * next) as usize));
            (ratio, now) = (next, masked);
        }
        prop_assert_eq!(now, 1);
    }

    /// All tokens are drawn in the end, and are codes; those that were known stay, in every step and by every sampler.
    #[test]
    fn all_is_drawn_and_what_was_known_stays((spec, grids) in grids(), settings in settings(), seed: u64) {
        let mut after = grids.clone();
        let mut observe = |report: &StepReport<'_>| {
            for (grid, state) in grids.iter().zip(report.grids) {
                assert_eq!(state.masked(), state.known().iter().filter(|known| !**known).count());
                for ((&before, &guess), &known) in grid.tokens.iter().zip(state.guess()).zip(state.known()) {
                    assert!(before == MASK || known && guess == before);
                }
            }
            ControlFlow::Continue(())
        };
        let outcome = run(&spec, &mut after, &settings, &mut Model::new(spec.codes, seed), &mut observe);
        for masked in outcome.expect("a valid request").masked {
            prop_assert_eq!((masked.len(), masked.last().copied()), (settings.run_steps(), Some(0)));
        }
        for (before, after) in grids.iter().zip(&after) {
            prop_assert!(after.tokens.iter().all(|&token| (0..spec.codes as i64).contains(&token)));
            prop_assert!(before.tokens.iter().zip(&after.tokens).all(|(b, a)| *b == MASK || a == b));
        }
    }

    /// The paper's sampler never changes a token that it has kept, and leaves exactly as many masked as its schedule
    /// says, which the noise sees to: without noise, ties of confidence leave fewer.
    #[test]
    fn the_papers_sampler_keeps_and_counts(
        (spec, grids) in grids(), settings in settings(), halton: bool, choice in 0.5f32..9.0, seed: u64,
    ) {
        let sampler = if halton { Sampler::Halton } else { Sampler::Confidence };
        let settings = changed!(settings; sampler: sampler, choice_temperature: choice);
        let mut kept: Vec<Vec<i64>> = grids.iter().map(|grid| grid.tokens.clone()).collect();
        let order = halton_order(spec.grid);
        let mut after = grids.clone();
        let mut observe = |report: &StepReport<'_>| {
            let (step, steps) = (report.step, report.steps);
            for ((kept, state), grid) in kept.iter_mut().zip(report.grids).zip(&grids) {
                let unknown = grid.tokens.iter().filter(|&&token| token == MASK).count();
                let now = kept.iter().filter(|&&token| token == MASK).count();
                let ratio = settings.schedule.mask_ratio((step + 1) as f32 / steps as f32, unknown);
                let expected = match sampler {
                    _ if step + 1 == steps => 0,
                    Sampler::Halton => {
                        let revealed = ((unknown as f32 * (1.0 - ratio)) as usize).max(step + 1).min(unknown);
                        now.min(unknown - revealed)
                    }
                    // One that is left alone stays until the last step, unless nothing else is on the grid.
                    _ => settings.schedule.masked_after(step, steps, unknown, now).min(now),
                };
                let alone = sampler == Sampler::Confidence && now == 1 && kept.len() == 1;
                assert!(alone || state.masked() == expected, "step {step}: {now} to {}, not {expected}", state.masked());
                for (position, kept) in kept.iter_mut().enumerate() {
                    assert!(*kept == MASK || state.known()[position] && state.guess()[position] == *kept);
                    if state.known()[position] {
                        *kept = state.guess()[position];
                    }
                }
                if halton {
                    let masked = |&&position: &&usize| grid.tokens[position] == MASK;
                    let revealed: Vec<bool> = order.iter().filter(masked).map(|&p| state.known()[p]).collect();
                    assert!(revealed.is_sorted_by(|before, after| before >= after), "not in Halton order");
                }
            }
            ControlFlow::Continue(())
        };
        run(&spec, &mut after, &settings, &mut Model::new(spec.codes, seed), &mut observe).expect("a valid request");
    }

    /// A grid is what it is alone, whatever stands beside it and in whatever order.
    #[test]
    fn grids_do_not_depend_on_each_other((spec, grids) in grids(), settings in settings(), seed: u64, turn: usize) {
        let (tokens, masked) = drawn(&spec, &grids, &settings, &mut Model::new(spec.codes, seed));
        let mut turned = grids.clone();
        turned.rotate_left(turn % grids.len());
        turned.reverse();
        let (mut tokens_turned, mut masked_turned) =
            drawn(&spec, &turned, &settings, &mut Model::new(spec.codes, seed));
        tokens_turned.reverse();
        tokens_turned.rotate_right(turn % grids.len());
        masked_turned.reverse();
        masked_turned.rotate_right(turn % grids.len());
        prop_assert_eq!((&tokens, &masked), (&tokens_turned, &masked_turned));
        for (index, grid) in grids.iter().enumerate() {
            let alone = drawn(&spec, std::slice::from_ref(grid), &settings, &mut Model::new(spec.codes, seed));
            prop_assert_eq!((&alone.0[0], &alone.1[0]), (&tokens[index], &masked[index]));
        }
    }

    /// A token is among the k likeliest at its position (of equal ones those with the lower index), at any temperature,
    /// and has a weight; its probability is that under all logits.
    #[test]
    fn nothing_is_drawn_outside_of_the_top_k(
        logits in logits(),
        temperature in prop_oneof![Just(0f32), Just(1.0), 0.01f32..4.0], k in prop::option::of(prop_oneof![1..20usize, 1..210usize]),
        uniform in 0f64..1.0,
    ) {
        prop_assume!(logits.iter().any(|&logit| logit > f32::NEG_INFINITY));
        let mut categorical = Categorical::default();
        let drawn = categorical.draw(&logits, temperature, k, uniform).expect("a distribution");
        let before = |other: usize| {
            logits[other] > logits[drawn.token] || logits[other] == logits[drawn.token] && other < drawn.token
        };
        let rank = (0..logits.len()).filter(|&other| before(other)).count();
        prop_assert!(rank < k.unwrap_or(usize::MAX), "rank {} of {:?}", rank, k);
        prop_assert!(temperature > 0.0 || rank == 0);
        prop_assert!(logits[drawn.token] > f32::NEG_INFINITY);
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&logit| f64::from(logit - greatest).exp()).sum();
        let expected = f64::from(logits[drawn.token] - greatest) - total.ln();
        prop_assert!((f64::from(drawn.log_probability) - expected).abs() < 1e-5 * (1.0 + expected.abs()));
        let entropy = f64::from(categorical.entropy(&logits).expect("a distribution"));
        prop_assert!((-1e-5..=(logits.len() as f64).ln() + 1e-5).contains(&entropy), "{}", entropy);
    }

    /// Guidance of scale 0 asks for no row without the label. Any other asks for both, and where the two say the same
    /// it changes nothing; scale 1 draws from twice the logits for the label less those for the null label.
    #[test]
    fn guidance_is_as_documented((spec, grids) in grids(), settings in settings(), seed: u64, scale in 0.1f32..4.0) {
        let none = changed!(settings; guidance: 0.0);
        let mut model = Model::new(spec.codes, seed);
        let unguided = drawn(&spec, &grids, &none, &mut model);
        prop_assert!(model.asked.iter().flatten().all(|&(_, unconditional)| !unconditional));
        let mut model = Model { same: true, ..Model::new(spec.codes, seed) };
        let guided = drawn(&spec, &grids, &changed!(settings; guidance: scale), &mut model);
        prop_assert_eq!(guided, unguided);
        for rows in &model.asked {
            let of = |null: bool| rows.iter().filter(move |row| row.1 == null).map(|row| row.0);
            prop_assert!(of(false).eq(of(true)));
        }

        /// Twice the logits for the label less the others, without being asked for the latter.
        struct Twice(Model);
        impl Predict for Twice {
            fn logits(&mut self, rows: &[Row<'_>], mut out: ArrayViewMut3<'_, f32>) -> Result<()> {
                for (row, mut out) in rows.iter().zip(out.outer_iter_mut()) {
                    let (label, null) = (self.0.row(row.tokens, false), self.0.row(row.tokens, true));
                    out.iter_mut().zip(label.iter().zip(&null)).for_each(|(out, (c, u))| *out = c + (c - u));
                }
                Ok(())
            }
        }
        let one = changed!(settings; guidance: 1.0, guidance_ramp: false);
        let guided = drawn(&spec, &grids, &one, &mut Model::new(spec.codes, seed));
        let mut by_hand = grids.clone();
        let outcome = run(&spec, &mut by_hand, &none, &mut Twice(Model::new(spec.codes, seed)), &mut |_| {
            ControlFlow::Continue(())
        });
        let tokens: Vec<Vec<i64>> = by_hand.into_iter().map(|grid| grid.tokens).collect();
        prop_assert_eq!(guided, (tokens, outcome.expect("a valid request").masked));
    }

    /// The draws are a function of seed, step and position, lie between 0 and 1, and differ where any of the three does.
    #[test]
    fn noise_is_a_function(seed: u64, step in 0..4096usize, position in 0..16384usize, other in 1..4096usize) {
        let draws = Draws::new(seed, step, position);
        // Others between do not move them.
        let around = [
            Draws::new(seed ^ other as u64, step, position),
            Draws::new(seed, step + other, position),
            Draws::new(seed, step, position + other),
        ];
        prop_assert_eq!(draws, Draws::new(seed, step, position));
        for one in around {
            prop_assert!(one != draws);
        }
        for value in [draws.token, draws.choice] {
            prop_assert!(value > 0.0 && value < 1.0);
        }
        prop_assert!(draws.gumbel().is_finite());
        prop_assert_eq!(window_seed(seed, 0), seed);
        prop_assert!(window_seed(seed, other) != seed);
    }

    /// Every position once; and the same rows from the top whichever grid it is, since the sequence is.
    #[test]
    fn the_halton_order_is_a_permutation(rows in 1..65u32, cols in 1..65u32) {
        let order = halton_order(GridSize { rows, cols });
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..(rows * cols) as usize));
        // 1/2 and 1/3 are the first point.
        prop_assert_eq!(order[0], (rows / 2 * cols + cols / 3) as usize);
    }
}
