//! Operators alone, of many shapes, odd ones among them.

use ndarray::{ArrayView2, ArrayViewD};
use tract_core::ops::TypedOp;
use tract_onnx::prelude::*;

use super::{Emulated, Random, compare};
use crate::cuda::device::Precision;
use crate::cuda::session::{CudaSession, Prepared};
use crate::cuda::translate::translate;
use crate::fuse::Target;
use crate::ops::{Attention, Before, Conv2d, Embedding, GroupNorm, Linear, RowNorm, Table, Vector, View, Weights};
use crate::{DType, Input, Isa, Port, Session, Signature};
use maskgit_kernels::{Activation, Matrix};

const ACTIVATIONS: [Activation; 4] = [Activation::None, Activation::Silu, Activation::GeluErf, Activation::GeluTanh];

/// Runs an operator on the emulation, and another on the CPU.
fn both(
    what: &str,
    gpu: impl TypedOp + Clone,
    cpu: &dyn TypedOp,
    inputs: &[(Vec<usize>, Vec<f32>)],
    precision: Precision,
) {
    let mut model = TypedModel::default();
    let wires: Vec<OutletId> = inputs
        .iter()
        .enumerate()
        .map(|(i, (shape, _))| model.add_source(format!("input{i}"), f32::fact(shape.as_slice())).unwrap())
        .collect();
    let out = model.wire_node("op", gpu, &wires).unwrap();
    model.select_output_outlets(&out).unwrap();
    let shape = model.outlet_fact(out[0]).unwrap().shape.as_concrete().unwrap().to_vec();
    let ports = inputs.iter().enumerate().map(|(i, (shape, _))| Port::new(format!("input{i}"), DType::F32, shape));
    let signature = Signature { inputs: ports.collect(), outputs: vec![Port::new("out", DType::F32, &shape)] };
    let (plan, translated) = translate(&model, &signature, precision).unwrap();
    assert_eq!(translated, 1);
    let device = Emulated::new(precision).device();
    let mut session = CudaSession::new(device, Prepared { plan, translated, operators: Vec::new() }).unwrap();
    // What the device holds in fp16 is what the CPU is given.
    let held = |values: &[f32]| -> Vec<f32> {
        match precision {
            Precision::F32 => values.to_vec(),
            Precision::F16 => values.iter().map(|v| f16::from_f32(*v).to_f32()).collect(),
        }
    };
    let given: Vec<Vec<f32>> = inputs.iter().map(|(_, values)| held(values)).collect();
    let views: Vec<Input<'_>> = inputs
        .iter()
        .zip(&given)
        .map(|((shape, _), data)| Input::from(ArrayViewD::from_shape(shape.as_slice(), data).unwrap()))
        .collect();
    let found = session.run(&views).unwrap_or_else(|e| panic!("{what}: {e}")).remove(0).into_f32().unwrap();
    let tensors: TVec<TValue> =
        inputs.iter().zip(&given).map(|((shape, _), v)| Tensor::from_shape(shape, v).unwrap().into()).collect();
    let expected = cpu.eval_out_of_plan(tensors).unwrap().unwrap().remove(0);
    let expected = expected.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap();
    let (cosine, worst) = compare(expected, found.as_slice().unwrap());
    let largest = expected.iter().fold(1f32, |a, b| a.max(b.abs()));
    match precision {
        Precision::F32 => assert!(worst < 2e-5 * f64::from(largest), "{what}: {worst} of {largest}"),
        Precision::F16 => {
            assert!(
                worst < 4e-3 * f64::from(largest) && cosine > 0.99999,
                "{what}: {worst} of {largest}, cosine {cosine}"
            );
        }
    }
}

/// Rounded to fp16 where the device holds them so, so that both compute with the same.
fn weights(random: &mut Random, n: usize, precision: Precision) -> Vec<f32> {
    let scale = 0.3;
    let round = |v: f32| if precision == Precision::F16 { f16::from_f32(v).to_f32() } else { v };
    random.numbers(n).iter().map(|v| round(v * scale)).collect()
}

fn pair(precision: Precision, int8: bool, matrix: &Matrix<'_, f32>, scales: &[f32]) -> (Weights, Weights) {
    // The CPU's int8 products quantise x as well: it is given what the weights are worth.
    let _ = precision;
    if !int8 {
        return (Weights::f32(Target::Gpu, matrix), Weights::f32(Target::Cpu(Isa::PORTABLE), matrix));
    }
    let levels: Vec<i8> = matrix.values.iter().map(|v| (v * 400.0).round().clamp(-127.0, 127.0) as i8).collect();
    let column_of = |place: usize| matrix.columns.iter().rposition(|&c| c <= place).unwrap_or(0);
    let by_rows = matrix.columns.windows(2).all(|c| c[1] == c[0] + 1);
    let worth: Vec<f32> = levels
        .iter()
        .enumerate()
        .map(|(i, &v)| f32::from(v) * scales[if by_rows { i % matrix.columns.len() } else { column_of(i) }])
        .collect();
    let gpu = Weights::i8(Target::Gpu, &Matrix { values: &levels, ..int8_matrix(matrix) }, scales.to_vec());
    (gpu, Weights::f32(Target::Cpu(Isa::PORTABLE), &Matrix { values: &worth, ..*matrix }))
}

fn int8_matrix<'a>(matrix: &Matrix<'a, f32>) -> Matrix<'a, i8> {
    Matrix { values: &[], taps: matrix.taps, tap: matrix.tap, inner: matrix.inner, columns: matrix.columns }
}

#[test]
fn dense_layers() {
    let mut random = Random(1);
    for case in 0..36 {
        let precision = [Precision::F32, Precision::F16][case % 2];
        let int8 = case % 3 == 0;
        // Multiples of eight are read in wide steps, others one by one.
        let inner = if case % 4 < 2 { 8 * (1 + random.below(20)) } else { 1 + random.below(90) };
        let (rows, columns) = (
            1 + random.below(if case % 5 == 0 { 200 } else { 40 }),
            1 + random.below(if case % 7 == 0 { 150 } else { 50 }),
        );
        let values = weights(&mut random, inner * columns, precision);
        let (places, along): (Vec<usize>, Vec<usize>) =
            ((0..inner).map(|k| k * columns).collect(), (0..columns).collect());
        let matrix = Matrix { values: &values, taps: 1, tap: 0, inner: &places, columns: &along };
        let scales: Vec<f32> = (0..columns).map(|_| 0.001 + random.number().abs() * 0.01).collect();
        let (gpu, cpu) = pair(precision, int8, &matrix, &scales);
        let op = Linear {
            weights: gpu,
            inner,
            columns,
            shape: tvec!(rows, columns),
            bias: (case % 2 == 0).then(|| Vector::from(random.numbers(columns))),
            activation: ACTIVATIONS[random.below(4)],
            residual: random.below(2) == 0,
            isa: Isa::PORTABLE,
            fused: true,
            head: None,
        };
        let mut inputs = vec![(vec![rows, inner], random.numbers(rows * inner))];
        if op.residual {
            inputs.push((vec![rows, columns], random.numbers(rows * columns)));
        }
        let what = format!("{rows}x{inner} by {columns}, {precision:?}, int8 {int8}");
        both(&what, op.clone(), &Linear { weights: cpu, ..op }, &inputs, precision);
    }
}

#[test]
fn convolutions() {
    let mut random = Random(2);
    for case in 0..36 {
        let precision = [Precision::F32, Precision::F16][case % 2];
        let int8 = case % 3 == 0;
        let channels = if case % 4 < 2 { 8 * (1 + random.below(3)) } else { 1 + random.below(11) };
        let columns = 1 + random.below(40);
        let (height, width) = (1 + random.below(11), 1 + random.below(11));
        let kernel = [[1, 1], [3, 3], [3, 3], [4, 4], [2, 3]][random.below(5)];
        let stride = 1 + random.below(2);
        let dilation = if kernel == [3, 3] { 1 + random.below(2) } else { 1 };
        let upsample = random.below(3) == 0;
        let padding = [random.below(2) + kernel[0] / 2, random.below(2) + kernel[1] / 2];
        let factor = if upsample { 2 } else { 1 };
        let reach = |axis: usize| (kernel[axis] - 1) * dilation + 1;
        let size = |size: usize, axis: usize| {
            (size * factor + 2 * padding[axis]).checked_sub(reach(axis)).map(|s| s / stride + 1)
        };
        let (Some(out_height), Some(out_width)) = (size(height, 0), size(width, 1)) else { continue };
        let taps = kernel[0] * kernel[1];
        let values = weights(&mut random, taps * channels * columns, precision);
        let inner: Vec<usize> = (0..channels).map(|c| c * taps).collect();
        let along: Vec<usize> = (0..columns).map(|n| n * channels * taps).collect();
        let matrix = Matrix { values: &values, taps, tap: 1, inner: &inner, columns: &along };
        let scales: Vec<f32> = (0..columns).map(|_| 0.001 + random.number().abs() * 0.01).collect();
        let (gpu, cpu) = pair(precision, int8, &matrix, &scales);
        let before = match random.below(4) {
            0 => Before::Activation(Activation::Silu),
            1 if channels % 2 == 0 => Before::Norm(Box::new(norm(&mut random, [height, width, channels], 2))),
            _ => Before::Activation(Activation::None),
        };
        let op = Conv2d {
            weights: gpu,
            input: [height, width, channels],
            shape: tvec!(1, out_height, out_width, columns),
            kernel,
            strides: [stride, stride],
            dilations: [dilation, dilation],
            padding,
            upsample,
            before,
            bias: (case % 2 == 0).then(|| Vector::from(random.numbers(columns))),
            activation: ACTIVATIONS[random.below(4)],
            residual: random.below(2) == 0,
            isa: Isa::PORTABLE,
            fused: true,
        };
        let mut inputs = vec![(vec![1, height, width, channels], random.numbers(height * width * channels))];
        if op.residual {
            inputs.push((op.shape.to_vec(), random.numbers(out_height * out_width * columns)));
        }
        let what = format!(
            "case {case}: {kernel:?} of {height}x{width}x{channels} to {columns}, stride {stride}, \
             dilation {dilation}, padding {padding:?}, upsample {upsample}, {precision:?}, int8 {int8}"
        );
        both(&what, op.clone(), &Conv2d { weights: cpu, ..op }, &inputs, precision);
    }
}

fn norm(random: &mut Random, [height, width, channels]: [usize; 3], groups: usize) -> GroupNorm {
    GroupNorm {
        shape: tvec!(1, height, width, channels),
        groups,
        eps: 1e-5f32.to_bits(),
        gamma: Some(Vector::from(random.numbers(channels))),
        beta: (random.below(2) == 0).then(|| Vector::from(random.numbers(channels))),
        activation: ACTIVATIONS[random.below(2)],
        isa: Isa::PORTABLE,
    }
}

#[test]
fn norms() {
    let mut random = Random(3);
    for case in 0..24 {
        let precision = [Precision::F32, Precision::F16][case % 2];
        let (rows, inner) = (1 + random.below(20), 2 + random.below(300));
        let op = RowNorm {
            shape: tvec!(rows, inner),
            inner,
            centred: case % 3 != 0,
            eps: 1e-6f32.to_bits(),
            gamma: (case % 4 < 2).then(|| Vector::from(random.numbers(inner))),
            beta: (case % 4 == 1).then(|| Vector::from(random.numbers(inner))),
            isa: Isa::PORTABLE,
        };
        // Far from zero: the mean must come off before the squares are summed.
        let x: Vec<f32> = random.numbers(rows * inner).iter().map(|v| v + 4.0).collect();
        both(&format!("rows of {inner}, {precision:?}"), op.clone(), &op, &[(vec![rows, inner], x)], precision);
        let (groups, width) = (1 + random.below(4), 1 + random.below(50));
        let size = [1 + random.below(20), 1 + random.below(20), groups * width];
        let op = norm(&mut random, size, groups);
        let x: Vec<f32> = random.numbers(size.iter().product()).iter().map(|v| v + 2.0).collect();
        let shape = vec![1, size[0], size[1], size[2]];
        both(&format!("{groups} groups of {size:?}, {precision:?}"), op.clone(), &op, &[(shape, x)], precision);
    }
}

#[test]
fn attention_of_any_head_size() {
    let mut random = Random(4);
    let sizes = [64, 48, 32, 16, 6, 1, 80, 96, 128, 100, 200, 300];
    for case in 0..48 {
        let precision = [Precision::F32, Precision::F16][case % 2];
        let dim = sizes[case / 2 % sizes.len()];
        let value_dim = if case % 6 == 0 { 1 + random.below(dim) } else { dim };
        let (heads, keys) = (1 + random.below(3), 1 + random.below(100));
        let queries = if case % 5 == 0 { 1 + random.below(keys) } else { keys };
        // As three tensors of [token, head, dim], or as one in which queries, keys and values follow each other.
        let together = case % 3 == 0 && value_dim == dim;
        let step = if together { 3 * heads * dim } else { heads * dim };
        let part = |i: usize, dim: usize| View {
            input: if together { 0 } else { i },
            base: if together { i * heads * dim } else { 0 },
            head: dim,
            token: if together { step } else { heads * dim },
            dim: 1,
        };
        let inputs = if together {
            vec![(vec![keys, step], random.numbers(keys * step))]
        } else {
            let tensor = |random: &mut Random, tokens: usize, dim: usize| {
                (vec![tokens, heads * dim], random.numbers(tokens * heads * dim))
            };
            vec![
                tensor(&mut random, queries, dim),
                tensor(&mut random, keys, dim),
                tensor(&mut random, keys, value_dim),
            ]
        };
        let op = Attention {
            heads,
            queries,
            keys,
            dim,
            value_dim,
            scale: (3.0 / (dim as f32).sqrt()).to_bits(),
            q: part(0, dim),
            k: part(1, dim),
            v: part(2, value_dim),
            out: View { input: 0, base: 0, head: value_dim, token: heads * value_dim, dim: 1 },
            shape: tvec!(queries, heads * value_dim),
            volumes: inputs.iter().map(|i| i.1.len()).collect(),
            isa: Isa::PORTABLE,
            fused: true,
        };
        let what = format!(
            "case {case}: {heads} heads of {dim} and {value_dim}, {queries} queries, {keys} keys, {precision:?}"
        );
        both(&what, op.clone(), &op, &inputs, precision);
    }
}

#[test]
fn embeddings_of_every_precision() {
    const ROWS: usize = 11;
    const WIDTH: usize = 21;
    let mut random = Random(5);
    let levels: Vec<i8> = (0..ROWS * WIDTH).map(|_| random.below(255) as i8).collect();
    let scales: Vec<f32> = (0..ROWS).map(|_| random.number().abs()).collect();
    // Numbers that fp16 has, so that both precisions must give them.
    let numbers: Vec<f16> = random.numbers(ROWS * WIDTH).into_iter().map(f16::from_f32).collect();
    let wide: Vec<f32> = numbers.iter().map(|v| v.to_f32()).collect();
    let worth: Vec<f32> = levels.iter().enumerate().map(|(i, &q)| f32::from(q) * scales[i / WIDTH]).collect();
    let tables = [
        (Table::F32(Tensor::from_shape(&[ROWS, WIDTH], &wide).unwrap().into()), &wide),
        (Table::F16(numbers.clone().into()), &wide),
        (Table::I8 { values: levels.clone().into(), scales: scales.clone().into() }, &worth),
    ];
    let indices = [0i64, 10, 3, -1, 3, -11];
    for (table, worth) in tables {
        for precision in [Precision::F32, Precision::F16] {
            let op = Embedding { table: table.clone(), rows: ROWS, width: WIDTH, shape: tvec!(2, 3, WIDTH) };
            let mut model = TypedModel::default();
            let wire = model.add_source("indices", i64::fact([2usize, 3])).unwrap();
            let out = model.wire_node("op", op, &[wire]).unwrap();
            model.select_output_outlets(&out).unwrap();
            let signature = Signature {
                inputs: vec![Port::new("indices", DType::I64, &[2, 3])],
                outputs: vec![Port::new("out", DType::F32, &[2, 3, WIDTH])],
            };
            let (plan, translated) = translate(&model, &signature, precision).unwrap();
            assert_eq!(translated, 1);
            let prepared = Prepared { plan, translated, operators: Vec::new() };
            let mut session = CudaSession::new(Emulated::new(precision).device(), prepared).unwrap();
            let mut look = |data: &[i64]| session.run(&[Input::from(ArrayView2::from_shape((2, 3), data).unwrap())]);
            let found = look(&indices).unwrap().remove(0).into_f32().unwrap();
            let rows = indices.map(|i| i.rem_euclid(ROWS as i64) as usize);
            let expected = rows.iter().flat_map(|r| &worth[r * WIDTH..(r + 1) * WIDTH]);
            for (found, &expected) in found.iter().zip(expected) {
                let held = if precision == Precision::F16 { f16::from_f32(expected).to_f32() } else { expected };
                assert_eq!(*found, held, "{table:?} in {precision:?}");
            }
            assert!(look(&[0, 0, 11, 0, 0, 0]).is_err() && look(&[0, 0, 0, 0, -12, 0]).is_err());
        }
    }
}
