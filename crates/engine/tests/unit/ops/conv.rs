//! The convolution.

use super::*;

/// The cases of a convolution: sizes that fill tiles and panels, and sizes that do not.
#[test]
fn conv_is_the_convolution() {
    let mut random = Random(3);
    for case in 0..60 {
        let (height, width) = (1 + random.below(9), 1 + random.below(9));
        let (height, width) = if case == 0 { (70, 66) } else { (height, width) };
        let (channels, columns) = (1 + random.below(20), 1 + random.below(20));
        let kernel = [1 + random.below(3), 1 + random.below(3)];
        let strides = [1 + random.below(2), 1 + random.below(2)];
        let dilations = [1 + random.below(2), 1 + random.below(2)];
        let padding = [random.below(2), random.below(2)];
        let upsample = case % 3 == 0;
        let factor = if upsample { 2 } else { 1 };
        let reach = |axis: usize| (kernel[axis] - 1) * dilations[axis] + 1;
        let size = |axis: usize, n: usize| (n * factor + 2 * padding[axis]).checked_sub(reach(axis));
        let (Some(h), Some(w)) = (size(0, height), size(1, width)) else { continue };
        let (out_height, out_width) = (h / strides[0] + 1, w / strides[1] + 1);
        let x = random.numbers(height * width * channels);
        let taps = kernel[0] * kernel[1];
        let weights = random.numbers(taps * channels * columns);
        let levels: Vec<i8> = weights.iter().map(|v| (v * 127.0).round() as i8).collect();
        let scales: Vec<f32> = (0..columns).map(|_| 0.01 + random.number().abs()).collect();
        let (bias, residual) = (random.numbers(columns), random.numbers(out_height * out_width * columns));
        let at = |t: usize, k: usize, n: usize| (t * channels + k) * columns + n;
        for isa in Isa::available() {
            for int8 in [false, true] {
                let op = Conv2d {
                    weights: if int8 {
                        int8_weights(isa, taps, channels, scales.clone(), |t, k, n| levels[at(t, k, n)])
                    } else {
                        fp32_weights(taps, channels, columns, |t, k, n| weights[at(t, k, n)])
                    },
                    input: [height, width, channels],
                    shape: tvec!(1, out_height, out_width, columns),
                    kernel,
                    strides,
                    dilations,
                    padding,
                    upsample,
                    before: Before::Activation(Activation::None),
                    bias: Some(Vector::from(bias.clone())),
                    activation: ACTIVATIONS[case % 4],
                    residual: true,
                    isa,
                    fused: true,
                };
                let shape = [1, out_height, out_width, columns];
                let inputs = [tensor(&[1, height, width, channels], &x), tensor(&shape, &residual)];
                let found = numbers(&compute!(op, &inputs).unwrap());
                assert_eq!(found, numbers(&op.run(inputs.into_iter().collect()).unwrap()), "in place");
                let seen: Vec<f64> = if int8 { quantized(&x) } else { x.iter().map(|&v| v.into()).collect() };
                let (mut exact, mut magnitudes) = (Vec::new(), Vec::new());
                for (place, &rest) in residual.iter().enumerate() {
                    let (y, column, n) = (place / columns / out_width, place / columns % out_width, place % columns);
                    let (mut sum, mut magnitude) = (0.0, 1.0);
                    for t in 0..taps {
                        let row = (y * strides[0] + t / kernel[1] * dilations[0]).checked_sub(padding[0]);
                        let col = (column * strides[1] + t % kernel[1] * dilations[1]).checked_sub(padding[1]);
                        let (Some(row), Some(col)) = (row, col) else { continue };
                        if row >= height * factor || col >= width * factor {
                            continue;
                        }
                        for k in 0..channels {
                            let weight = if int8 {
                                f64::from(levels[at(t, k, n)]) * f64::from(scales[n])
                            } else {
                                f64::from(weights[at(t, k, n)])
                            };
                            let value = seen[((row / factor) * width + col / factor) * channels + k] * weight;
                            sum += value;
                            magnitude += value.abs();
                        }
                    }
                    exact.push(activate(op.activation, sum + f64::from(bias[n])) + f64::from(rest));
                    magnitudes.push(magnitude);
                }
                let what = format!("case {case}, {isa}, int8 {int8}: {op:?}");
                compare(&what[..what.len().min(200)], &found, &exact, &magnitudes, 3e-6);
            }
        }
    }
}

/// Winograd's products against plain sums, over sizes that fill tiles and lanes and sizes that do not.
#[test]
fn winograd_is_the_convolution() {
    let mut random = Random(9);
    for case in 0..40 {
        let (height, width) = if case == 0 { (70, 66) } else { (1 + random.below(20), 1 + random.below(20)) };
        let (channels, columns) = (1 + random.below(40), 1 + random.below(40));
        let upsample = case % 3 == 0;
        let factor = if upsample { 2 } else { 1 };
        let padding = if case % 5 == 0 { [0, 0] } else { [1, 1] };
        let size = |axis: usize, n: usize| (n * factor + 2 * padding[axis]).checked_sub(2).filter(|&n| n > 0);
        let (Some(out_height), Some(out_width)) = (size(0, height), size(1, width)) else { continue };
        let x = random.numbers(height * width * channels);
        let weights = random.numbers(9 * channels * columns);
        let (bias, residual) = (random.numbers(columns), random.numbers(out_height * out_width * columns));
        let inner: Vec<usize> = (0..channels).map(|k| k * 9).collect();
        let places: Vec<usize> = (0..columns).map(|n| n * channels * 9).collect();
        let matrix = Matrix { values: &weights, taps: 9, tap: 1, inner: &inner, columns: &places };
        for isa in Isa::available() {
            for fused in [false, true] {
                let plain = Conv2d {
                    weights: Weights::f32(Target::default(), &matrix),
                    input: [height, width, channels],
                    shape: tvec!(1, out_height, out_width, columns),
                    kernel: [3, 3],
                    strides: [1, 1],
                    dilations: [1, 1],
                    padding,
                    upsample,
                    before: Before::Activation(ACTIVATIONS[case / 4 % 4]),
                    bias: Some(Vector::from(bias.clone())),
                    activation: ACTIVATIONS[case % 4],
                    residual: true,
                    isa,
                    fused,
                };
                let winograd = Conv2d { weights: Weights::winograd(&matrix), ..plain.clone() };
                let inputs = [
                    tensor(&[1, height, width, channels], &x),
                    tensor(&[1, out_height, out_width, columns], &residual),
                ];
                let expected: Vec<f64> =
                    numbers(&compute!(plain, &inputs).unwrap()).iter().map(|&v| v.into()).collect();
                let found = numbers(&compute!(winograd, &inputs).unwrap());
                let size = vec![9.0 * channels as f64; expected.len()];
                compare(&format!("case {case}, {isa}, fused {fused}"), &found, &expected, &size, 2e-6);
                assert_eq!(found, numbers(&winograd.run(inputs.into_iter().collect()).unwrap()), "in place");
            }
        }
    }
}

/// A norm or an activation inside a convolution gives the very numbers that it gives before one.
#[test]
fn what_comes_before_a_convolution_may_be_part_of_it() {
    let mut random = Random(8);
    for case in 0..24 {
        let (height, width) = if case == 0 { (80, 70) } else { (1 + random.below(20), 1 + random.below(20)) };
        let (groups, columns) = (1 + random.below(4), 1 + random.below(20));
        let channels = groups * (1 + random.below(6));
        let side = if case % 4 == 3 { 1 } else { 3 };
        let upsample = case % 3 == 0;
        let factor = if upsample { 2 } else { 1 };
        let x = random.numbers(height * width * channels);
        let weights = random.numbers(side * side * channels * columns);
        let at = |t: usize, k: usize, n: usize| (t * channels + k) * columns + n;
        let (gamma, beta) = (random.numbers(channels), random.numbers(channels));
        for isa in Isa::available() {
            for int8 in [false, true] {
                let norm = GroupNorm {
                    shape: tvec!(1, height, width, channels),
                    groups,
                    eps: 1e-6f32.to_bits(),
                    gamma: Some(Vector::from(gamma.clone())),
                    beta: Some(Vector::from(beta.clone())),
                    activation: ACTIVATIONS[case % 4],
                    isa,
                };
                let conv = Conv2d {
                    weights: if int8 {
                        let level = |t, k, n| (weights[at(t, k, n)] * 127.0).round() as i8;
                        int8_weights(isa, side * side, channels, vec![0.01; columns], level)
                    } else {
                        fp32_weights(side * side, channels, columns, |t, k, n| weights[at(t, k, n)])
                    },
                    input: [height, width, channels],
                    shape: tvec!(1, height * factor, width * factor, columns),
                    kernel: [side, side],
                    strides: [1, 1],
                    dilations: [1, 1],
                    padding: [side / 2, side / 2],
                    upsample,
                    before: Before::Activation(Activation::None),
                    bias: None,
                    activation: Activation::None,
                    residual: false,
                    isa,
                    fused: !int8,
                };
                let picture = tensor(&[1, height, width, channels], &x);
                let apart = compute!(conv, &[compute!(norm, std::slice::from_ref(&picture)).unwrap().into()]).unwrap();
                let together = Conv2d { before: Before::Norm(Box::new(norm)), ..conv.clone() };
                let found = numbers(&compute!(together, std::slice::from_ref(&picture)).unwrap());
                assert_eq!(found, numbers(&apart), "case {case}, {isa}, int8 {int8}, norm");
                let activation = ACTIVATIONS[case % 4];
                let mut activated = x.clone();
                activated.iter_mut().for_each(|v| activation.apply(std::array::from_mut(v)));
                let apart = compute!(conv, &[tensor(&[1, height, width, channels], &activated)]).unwrap();
                let together = Conv2d { before: Before::Activation(activation), ..conv };
                let found = numbers(&compute!(together, &[picture]).unwrap());
                // One number alone and a vector of them may fuse differently where that is allowed.
                if int8 {
                    assert_eq!(found, numbers(&apart), "case {case}, {isa}, activation");
                } else {
                    let exact: Vec<f64> = numbers(&apart).iter().map(|&v| v.into()).collect();
                    compare(&format!("case {case}, {isa}"), &found, &exact, &vec![50.0; exact.len()], 1e-6);
                }
            }
        }
    }
}

/// A stride may leave an output of nothing but padding.
#[test]
fn padding_may_be_all_that_is_read() {
    for isa in Isa::available() {
        for int8 in [false, true] {
            let op = Conv2d {
                weights: if int8 {
                    int8_weights(isa, 1, 2, vec![0.5; 3], |_, _, _| 3)
                } else {
                    fp32_weights(1, 2, 3, |_, _, _| 1.0)
                },
                input: [1, 1, 2],
                shape: tvec!(1, 1, 1, 3),
                kernel: [1, 1],
                strides: [1, 7],
                dilations: [1, 1],
                padding: [0, 3],
                upsample: false,
                before: Before::Activation(Activation::None),
                bias: Some(Vector::from(vec![1.0, 2.0, 3.0])),
                activation: Activation::None,
                residual: false,
                isa,
                fused: true,
            };
            let found = numbers(&compute!(op, &[tensor(&[1, 1, 1, 2], &[5.0, 6.0])]).unwrap());
            assert_eq!(found, [1.0, 2.0, 3.0], "{isa}, int8 {int8}");
        }
    }
}
