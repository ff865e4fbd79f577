//! The operators against plain sums in f64, over random shapes, on every instruction set of this processor.

use random::Random;
use tract_onnx::prelude::*;

use super::weights::Weights;
use super::{Attention, Before, Conv2d, Embedding, GroupNorm, Linear, RowNorm, Table, Vector, View};
use crate::fuse::Target;
use maskgit_kernels::Isa;
use maskgit_kernels::{Activation, Matrix};

/// A small generator, so that every case is the same at every run.
mod random {
    pub(super) struct Random(pub(super) u64);

    impl Random {
        pub(super) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.0 >> 33
        }

        pub(super) fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }

        /// About -1 to 1.
        pub(super) fn number(&mut self) -> f32 {
            self.next() as f32 / (1u64 << 30) as f32 - 1.0
        }

        pub(super) fn numbers(&mut self, n: usize) -> Vec<f32> {
            (0..n).map(|_| self.number()).collect()
        }
    }
}

/// Weights in f32 from `value(tap, inner, column)`, laid out as matrix products have them or as convolutions do.
fn fp32_weights(taps: usize, inner: usize, columns: usize, value: impl Fn(usize, usize, usize) -> f32) -> Weights {
    dense(taps, inner, columns, value, |matrix| Weights::f32(Target::default(), &matrix))
}

/// The same in int8.
fn int8_weights(
    isa: Isa,
    taps: usize,
    inner: usize,
    scales: Vec<f32>,
    value: impl Fn(usize, usize, usize) -> i8,
) -> Weights {
    dense(taps, inner, scales.len(), value, |matrix| Weights::i8(Target::Cpu(isa), &matrix, scales))
}

fn dense<T: Copy>(
    taps: usize,
    inner: usize,
    columns: usize,
    value: impl Fn(usize, usize, usize) -> T,
    pack: impl FnOnce(Matrix<'_, T>) -> Weights,
) -> Weights {
    let all = |order: [usize; 3], place: &dyn Fn([usize; 3]) -> (usize, usize, usize)| -> Vec<T> {
        let mut values = Vec::new();
        for a in 0..order[0] {
            for b in 0..order[1] {
                for c in 0..order[2] {
                    let (t, k, n) = place([a, b, c]);
                    values.push(value(t, k, n));
                }
            }
        }
        values
    };
    if taps == 1 {
        let values = all([1, inner, columns], &|[t, k, n]| (t, k, n));
        let (rows, places): (Vec<_>, Vec<_>) = ((0..inner).map(|k| k * columns).collect(), (0..columns).collect());
        pack(Matrix { values: &values, taps, tap: 0, inner: &rows, columns: &places })
    } else {
        let values = all([columns, inner, taps], &|[n, k, t]| (t, k, n));
        let rows: Vec<_> = (0..inner).map(|k| k * taps).collect();
        let places: Vec<_> = (0..columns).map(|n| n * inner * taps).collect();
        pack(Matrix { values: &values, taps, tap: 1, inner: &rows, columns: &places })
    }
}

/// A dense layer without bias, activation and residual.
fn linear(weights: Weights, [rows, inner, columns]: [usize; 3], isa: Isa) -> Linear {
    Linear {
        weights,
        inner,
        columns,
        shape: tvec!(rows, columns),
        bias: None,
        activation: Activation::None,
        residual: false,
        isa,
        fused: true,
        head: None,
    }
}

fn tensor(shape: &[usize], values: &[f32]) -> TValue {
    Tensor::from_shape(shape, values).unwrap().into()
}

/// Runs an operator whose inputs somebody else holds as well.
macro_rules! compute {
    ($op:expr, $inputs:expr) => {{
        let inputs: &[TValue] = $inputs;
        $op.run(inputs.iter().cloned().collect())
    }};
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

/// Fails where a value is farther from the exact one than `tolerance` times the sum of magnitudes behind it.
fn compare(what: &str, found: &[f32], exact: &[f64], magnitudes: &[f64], tolerance: f64) {
    assert_eq!(found.len(), exact.len(), "{what}");
    for (i, ((&f, &e), &m)) in found.iter().zip(exact).zip(magnitudes).enumerate() {
        let error = (f64::from(f) - e).abs();
        assert!(error <= tolerance * (m + 1e-3), "{what}: number {i} is {f}, not {e}");
    }
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluErf => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }
    }
}

const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::Silu, Activation::GeluErf, Activation::GeluTanh];

/// Quantises as the operators do, in f64 where it does not matter: what a value becomes after the way to 8 bits and
/// back.
fn quantized(values: &[f32]) -> Vec<f64> {
    let low = values.iter().fold(0f32, |a, &b| a.min(b));
    let high = values.iter().fold(0f32, |a, &b| a.max(b));
    let scale = (high - low) * (1.0 / 255.0);
    if scale < f32::MIN_POSITIVE {
        return vec![0.0; values.len()];
    }
    let zero = (-low / scale).round_ties_even();
    let inverse = 1.0 / scale;
    let level = |x: f32| f64::from((x * inverse + zero).clamp(0.0, 255.0).round_ties_even() - zero);
    values.iter().map(|&x| level(x) * f64::from(scale)).collect()
}

#[test]
fn linear_is_the_product() {
    let mut random = Random(1);
    for case in 0..60 {
        let (rows, inner, columns) = (1 + random.below(20), 1 + random.below(70), 1 + random.below(40));
        let (rows, inner) = if case % 10 == 0 { (rows + 290, inner + 1100) } else { (rows, inner) };
        let x = random.numbers(rows * inner);
        let w = random.numbers(inner * columns);
        let (bias, residual) = (random.numbers(columns), random.numbers(rows * columns));
        let levels: Vec<i8> = w.iter().map(|v| (v * 127.0).round() as i8).collect();
        let scales: Vec<f32> = (0..columns).map(|_| 0.01 + random.number().abs()).collect();
        let activation = ACTIVATIONS[case % 4];
        for isa in Isa::available() {
            for int8 in [false, true] {
                let at = |k: usize, n: usize| k * columns + n;
                let op = Linear {
                    bias: Some(Vector::from(bias.clone())),
                    activation,
                    residual: true,
                    ..linear(
                        if int8 {
                            int8_weights(isa, 1, inner, scales.clone(), |_, k, n| levels[at(k, n)])
                        } else {
                            fp32_weights(1, inner, columns, |_, k, n| w[at(k, n)])
                        },
                        [rows, inner, columns],
                        isa,
                    )
                };
                let inputs = [tensor(&[rows, inner], &x), tensor(&[rows, columns], &residual)];
                let found = numbers(&compute!(op, &inputs).unwrap());
                // Nobody else holds the residual now: it becomes the output.
                let place = inputs[1].try_as_plain_ram().unwrap().as_ptr::<f32>().unwrap();
                let in_place = op.run(inputs.into_iter().collect()).unwrap();
                assert_eq!(place, in_place.try_as_plain_ram().unwrap().as_ptr::<f32>().unwrap());
                assert_eq!(found, numbers(&in_place));
                let (mut exact, mut magnitudes) = (Vec::new(), Vec::new());
                for (m, row) in x.chunks(inner).enumerate() {
                    let row: Vec<f64> = if int8 { quantized(row) } else { row.iter().map(|&v| v.into()).collect() };
                    for n in 0..columns {
                        let weight = |k: usize| {
                            if int8 {
                                f64::from(levels[at(k, n)]) * f64::from(scales[n])
                            } else {
                                f64::from(w[at(k, n)])
                            }
                        };
                        let sum: f64 = (0..inner).map(|k| row[k] * weight(k)).sum();
                        magnitudes.push(1.0 + (0..inner).map(|k| (row[k] * weight(k)).abs()).sum::<f64>());
                        exact.push(
                            activate(activation, sum + f64::from(bias[n])) + f64::from(residual[m * columns + n]),
                        );
                    }
                }
                let what = format!("case {case}, {isa}, int8 {int8}: {rows}x{inner}x{columns}, {activation:?}");
                compare(&what, &found, &exact, &magnitudes, 3e-6);
            }
        }
    }
}

/// Where tasks are cut must not be seen: the same row alone and among many.
#[test]
fn rows_do_not_know_each_other() {
    let mut random = Random(2);
    let (rows, inner, columns) = (300, 1500, 33);
    let (x, w) = (random.numbers(rows * inner), random.numbers(inner * columns));
    let scales = vec![0.01; columns];
    for isa in Isa::available() {
        for int8 in [false, true] {
            let weights = if int8 {
                int8_weights(isa, 1, inner, scales.clone(), |_, k, n| (w[k * columns + n] * 127.0) as i8)
            } else {
                fp32_weights(1, inner, columns, |_, k, n| w[k * columns + n])
            };
            let run = |rows: usize, x: &[f32]| {
                let op = linear(weights.clone(), [rows, inner, columns], isa);
                numbers(&compute!(op, &[tensor(&[rows, inner], x)]).unwrap())
            };
            let all = run(rows, &x);
            for row in [0, 1, 7, 287, 288, 299] {
                let alone = run(1, &x[row * inner..][..inner]);
                assert_eq!(alone, all[row * columns..][..columns], "{isa}, int8 {int8}, row {row}");
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_stay_so() {
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for int8 in [false, true] {
                let op = linear(
                    if int8 {
                        int8_weights(isa, 1, 20, vec![0.5; 3], |_, _, _| 1)
                    } else {
                        fp32_weights(1, 20, 3, |_, _, _| 1.0)
                    },
                    [2, 20, 3],
                    isa,
                );
                let mut x = vec![0.25; 40];
                x[5] = bad;
                let found = numbers(&compute!(op, &[tensor(&[2, 20], &x)]).unwrap());
                assert!(found[..3].iter().all(|v| !v.is_finite()), "{isa}, int8 {int8}, {bad}: {found:?}");
                assert!(found[3..].iter().all(|v| (v - if int8 { 2.5 } else { 5.0 }).abs() < 1e-5), "{found:?}");
                let zero = numbers(&compute!(op, &[tensor(&[2, 20], &[0.0; 40])]).unwrap());
                assert_eq!(zero, [0.0; 6]);
            }
        }
    }
}

#[test]
fn row_norms_follow_their_definitions() {
    let mut random = Random(4);
    for case in 0..40 {
        let (rows, inner) = (1 + random.below(9), 1 + random.below(50));
        let x: Vec<f32> = random.numbers(rows * inner).iter().map(|v| v * 3.0 + 1.0).collect();
        let (gamma, beta) = (random.numbers(inner), random.numbers(inner));
        let centred = case % 2 == 0;
        for isa in Isa::available() {
            let op = RowNorm {
                shape: tvec!(rows, inner),
                inner,
                centred,
                eps: 1e-5f32.to_bits(),
                gamma: Some(Vector::from(gamma.clone())),
                beta: Some(Vector::from(beta.clone())),
                isa,
            };
            let found = numbers(&compute!(op, &[tensor(&[rows, inner], &x)]).unwrap());
            let mut exact = Vec::new();
            for row in x.chunks(inner) {
                let n = inner as f64;
                let mean = if centred { row.iter().map(|&v| f64::from(v)).sum::<f64>() / n } else { 0.0 };
                let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
                let scale = 1.0 / (variance + f64::from(1e-5f32)).sqrt();
                for (i, &v) in row.iter().enumerate() {
                    exact.push((f64::from(v) - mean) * scale * f64::from(gamma[i]) + f64::from(beta[i]));
                }
            }
            // A row of one number less its mean is all rounding, which the small variance magnifies.
            let tolerance = if inner < 3 { 1e-3 } else { 2e-5 };
            compare(&format!("case {case}, {isa}"), &found, &exact, &vec![1.0; exact.len()], tolerance);
        }
    }
}

#[test]
fn group_norm_follows_its_definition() {
    let mut random = Random(5);
    for case in 0..30 {
        let (height, width) = (1 + random.below(30), 1 + random.below(30));
        let (groups, of) = (1 + random.below(5), 1 + random.below(7));
        let channels = groups * of;
        let x: Vec<f32> = random.numbers(height * width * channels).iter().map(|v| v * 2.0 + 5.0).collect();
        let (gamma, beta) = (random.numbers(channels), random.numbers(channels));
        let activation = ACTIVATIONS[case % 2];
        for isa in Isa::available() {
            let op = GroupNorm {
                shape: tvec!(1, height, width, channels),
                groups,
                eps: 1e-3f32.to_bits(),
                gamma: Some(Vector::from(gamma.clone())),
                beta: Some(Vector::from(beta.clone())),
                activation,
                isa,
            };
            let found = numbers(&compute!(op, &[tensor(&[1, height, width, channels], &x)]).unwrap());
            let value = |p: usize, c: usize| f64::from(x[p * channels + c]);
            let mut exact = vec![0.0; x.len()];
            for g in 0..groups {
                let all: Vec<f64> = (0..height * width)
                    .flat_map(|p| (g * of..(g + 1) * of).map(move |c| (p, c)))
                    .map(|(p, c)| value(p, c))
                    .collect();
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
                let scale = 1.0 / (variance + f64::from(1e-3f32)).sqrt();
                for p in 0..height * width {
                    for c in g * of..(g + 1) * of {
                        let y = (value(p, c) - mean) * scale * f64::from(gamma[c]) + f64::from(beta[c]);
                        exact[p * channels + c] = activate(activation, y);
                    }
                }
            }
            compare(&format!("case {case}, {isa}"), &found, &exact, &vec![1.0; exact.len()], 2e-4);
        }
    }
}

#[test]
fn attention_is_softmax_of_products() {
    let mut random = Random(6);
    for case in 0..30 {
        let (heads, queries, keys) = (1 + random.below(4), 1 + random.below(40), 1 + random.below(40));
        let (dim, value_dim) = (1 + random.below(40), 1 + random.below(40));
        // Tokens, then heads, then numbers, as our exporter lays them out; and on odd cases heads first.
        let view = |input: usize, tokens: usize, dim: usize| {
            if case % 2 == 0 {
                View { input, base: 0, head: dim, token: heads * dim, dim: 1 }
            } else {
                View { input, base: 0, head: tokens * dim, token: 1, dim: tokens }
            }
        };
        let scale = 1.0 / (dim as f32).sqrt();
        let q = random.numbers(heads * queries * dim);
        let k = random.numbers(heads * keys * dim);
        let v = random.numbers(heads * keys * value_dim);
        for isa in Isa::available() {
            let op = Attention {
                heads,
                queries,
                keys,
                dim,
                value_dim,
                scale: scale.to_bits(),
                q: view(0, queries, dim),
                k: view(1, keys, dim),
                v: view(2, keys, value_dim),
                out: view(0, queries, value_dim),
                shape: tvec!(heads * queries * value_dim),
                volumes: tvec!(q.len(), k.len(), v.len()),
                isa,
                fused: true,
            };
            let inputs = [tensor(&[q.len()], &q), tensor(&[k.len()], &k), tensor(&[v.len()], &v)];
            let found = numbers(&compute!(op, &inputs).unwrap());
            let read = |values: &[f32], view: &View, h: usize, t: usize, d: usize| {
                f64::from(values[h * view.head + t * view.token + d * view.dim])
            };
            let mut exact = vec![0.0; found.len()];
            for h in 0..heads {
                for m in 0..queries {
                    let scores: Vec<f64> = (0..keys)
                        .map(|n| (0..dim).map(|d| read(&q, &op.q, h, m, d) * read(&k, &op.k, h, n, d)).sum::<f64>())
                        .map(|s| (s * f64::from(scale)).exp())
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for d in 0..value_dim {
                        let value: f64 = (0..keys).map(|n| scores[n] * read(&v, &op.v, h, n, d)).sum();
                        exact[h * op.out.head + m * op.out.token + d * op.out.dim] = value / total;
                    }
                }
            }
            compare(&format!("case {case}, {isa}"), &found, &exact, &vec![1.0; exact.len()], 1e-5);
        }
    }
}

/// int8 sums are exact: no instruction set gives another bit, even with the largest weights and activations.
#[test]
fn int8_is_the_same_on_every_instruction_set() {
    let mut random = Random(7);
    let (rows, inner, columns) = (13, 4608, 17);
    let x: Vec<f32> = (0..rows * inner).map(|_| if random.below(2) == 0 { -1.0 } else { 1.0 }).collect();
    let signs: Vec<i8> = (0..inner * columns).map(|_| if random.below(8) == 0 { -127 } else { 127 }).collect();
    let mut first = None;
    for isa in Isa::available() {
        let op = Linear {
            activation: Activation::GeluErf,
            ..linear(
                int8_weights(isa, 1, inner, vec![0.003; columns], |_, k, n| signs[k * columns + n]),
                [rows, inner, columns],
                isa,
            )
        };
        let bits: Vec<u32> =
            numbers(&compute!(op, &[tensor(&[rows, inner], &x)]).unwrap()).iter().map(|v| v.to_bits()).collect();
        assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "{isa}");
    }
}

/// Without fused multiply-add, f32 products too are the same on every instruction set.
#[test]
fn unfused_products_are_the_same_on_every_instruction_set() {
    let mut random = Random(8);
    let (rows, inner, columns) = (31, 1200, 19);
    let (x, w) = (random.numbers(rows * inner), random.numbers(inner * columns));
    let mut first: Option<(Vec<u32>, Vec<u32>)> = None;
    for isa in Isa::available() {
        let linear = Linear {
            activation: Activation::GeluErf,
            fused: false,
            ..linear(fp32_weights(1, inner, columns, |_, k, n| w[k * columns + n]), [rows, inner, columns], isa)
        };
        let view = View { input: 0, base: 0, head: 40, token: 120, dim: 1 };
        let attention = Attention {
            heads: 3,
            queries: rows,
            keys: rows,
            dim: 40,
            value_dim: 40,
            scale: 0.7f32.to_bits(),
            q: view,
            k: view,
            v: view,
            out: view,
            shape: tvec!(rows * 120),
            volumes: tvec!(rows * 120),
            isa,
            fused: false,
        };
        let bits = |tensor: Tensor| numbers(&tensor).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let found = (
            bits(compute!(linear, &[tensor(&[rows, inner], &x)]).unwrap()),
            bits(compute!(attention, &[tensor(&[rows * 120], &x[..rows * 120])]).unwrap()),
        );
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{isa}");
    }
}

#[test]
fn embeddings_are_rows_of_the_table() {
    let (rows, width) = (5, 7);
    let mut random = Random(8);
    let values = random.numbers(rows * width);
    let levels: Vec<i8> = (0..rows * width).map(|_| random.next() as i8).collect();
    let scales = random.numbers(rows);
    let f32_table = Tensor::from_shape(&[rows, width], &values).expect("a table");
    let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
    let number = |kind: usize, index: usize| match kind {
        0 => values[index],
        1 => halves[index].to_f32(),
        _ => f32::from(levels[index]) * scales[index / width],
    };
    let tables = [
        Table::F32(f32_table.into()),
        Table::F16(halves.clone().into()),
        Table::I8 { values: levels.clone().into(), scales: scales.clone().into() },
    ];
    let indices =
        |values: &[i64]| tvec![Tensor::from_shape(&[2, values.len() / 2], values).expect("indices").into_tvalue()];
    for (kind, table) in tables.into_iter().enumerate() {
        let op = Embedding { table, rows, width, shape: tvec![2, 2, width] };
        let found = numbers(&op.run(indices(&[4, 0, -1, 2])).expect("rows"));
        let places = [4, 0, 4, 2].into_iter().flat_map(|place| place * width..(place + 1) * width);
        let exact: Vec<f32> = places.map(|index| number(kind, index)).collect();
        assert_eq!(found, exact);
        for outside in [5, -6, i64::MIN] {
            let error = op.run(indices(&[0, 0, outside, 0])).expect_err("outside").to_string();
            assert!(error.contains("outside a table of 5 rows"), "{error}");
        }
    }
}

// After the macro that it uses.
mod conv;
