//! Convolution of a picture.

use tract_onnx::tract_core::internal::*;

use super::linear::PARALLEL;
use super::weights::Packed;
use super::{Vector, Weights, numbers, operator, output, slice_mut};
use crate::engine::kernel::{
    Activation, Epilogue, RowScales, Rows, SharedSlice, affine, gemm_f32, gemm_i8, quantize_into, range_of,
};
use crate::engine::{Isa, pool};

/// A picture with more output pixels is convolved in bands of rows of about [`BAND`] pixels, so that what is padded or quantised stays small.
const WHOLE: usize = 4096;
const BAND: usize = 2048;
/// Numbers whose range is taken in one task.
const CHUNK: usize = 1 << 16;

/// `activation(convolution(x) + bias) + residual` of `[1, height, width, channels]`, padded with zeros.
///
/// With `upsample`, every pixel of x is first doubled in both directions (nearest neighbour). With int8 weights, x is quantised to
/// 8 bits with one scale, and the products are summed exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conv2d {
    pub(crate) weights: Weights,
    /// Height, width and channels of input 0.
    pub(crate) input: [usize; 3],
    /// `[1, height, width, channels]` of the output.
    pub(crate) shape: TVec<usize>,
    pub(crate) kernel: [usize; 2],
    pub(crate) strides: [usize; 2],
    pub(crate) dilations: [usize; 2],
    /// Rows above, columns to the left.
    pub(crate) padding: [usize; 2],
    pub(crate) upsample: bool,
    pub(crate) bias: Option<Vector>,
    pub(crate) activation: Activation,
    /// Whether input 1 is added to the output.
    pub(crate) residual: bool,
    pub(crate) isa: Isa,
    /// Whether multiply-add may round once, where the instruction set does.
    pub(crate) fused: bool,
}

operator!(Conv2d, "Conv2d");

/// The scale and the zero point of the whole input.
type Affine = (f32, i32);

/// A band of output rows, and the padded copy of the input that it needs.
struct Band {
    first: usize,
    rows: usize,
    /// Width of the padded copy in pixels.
    width: usize,
    /// Its rows.
    height: usize,
    /// Values a pixel of it.
    depth: usize,
}

impl Conv2d {
    fn describe(&self) -> String {
        let [height, width, channels] = self.input;
        let mut text = format!("{}x{} of {height}x{width}x{channels}", self.kernel[0], self.kernel[1]);
        text.push_str(&format!(" to {:?}, {}", &self.shape[1..], self.weights.describe()));
        for part in [
            self.upsample.then_some("nearest upsampling"),
            self.bias.as_ref().map(|_| "bias"),
            self.activation.name(),
            self.residual.then_some("residual"),
        ]
        .into_iter()
        .flatten()
        {
            text.push_str(", ");
            text.push_str(part);
        }
        text
    }

    fn output_shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn compute(&self, inputs: &[TValue]) -> TractResult<Tensor> {
        let volume: usize = self.shape.iter().product();
        let x = numbers(inputs, 0, self.input.iter().product())?;
        let residual = self.residual.then(|| numbers(inputs, 1, volume)).transpose()?;
        let mut result = output(&self.shape)?;
        let out = slice_mut(&mut result)?;
        let (height, width, columns) = (self.shape[1], self.shape[2], self.shape[3]);
        let affine = self.weights.is_int8().then(|| self.quantization(x));
        if self.is_pointwise() && affine.is_none() {
            let place = |row: usize| row * columns;
            let epilogue = self.epilogue(SharedSlice::new(out), residual, &place);
            let a = Rows { data: x, count: height * width, offset: &|row| row * self.input[2], taps: &[0] };
            if let Packed::F32(weights) = &*self.weights {
                gemm_f32((self.isa, self.fused), &a, weights, &epilogue, volume * self.input[2] >= PARALLEL);
            }
            return Ok(result);
        }
        let rows = if height * width <= WHOLE { height } else { (BAND / width).max(1) };
        let bands = height.div_ceil(rows);
        let shared = SharedSlice::new(out);
        let work = |index: usize| {
            let first = index * rows;
            let band = self.band(first, rows.min(height - first));
            let place = |row: usize| (first * width + row) * columns;
            self.convolve(x, affine, &band, &self.epilogue(shared, residual, &place), bands == 1);
        };
        if bands == 1 {
            work(0)
        } else {
            pool::run(bands, work)
        }
        Ok(result)
    }

    fn epilogue<'a>(
        &'a self,
        out: SharedSlice<'a, f32>,
        residual: Option<&'a [f32]>,
        place: &'a (dyn Fn(usize) -> usize + Sync),
    ) -> Epilogue<'a> {
        Epilogue { bias: self.bias.as_deref(), activation: self.activation, residual, out, place }
    }

    /// Whether each output pixel is made of the same pixel of the input only.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.strides == [1, 1] && self.padding == [0, 0] && !self.upsample
    }

    /// The scale and zero point of the input.
    fn quantization(&self, x: &[f32]) -> Affine {
        let chunks = x.len().div_ceil(CHUNK);
        let mut ranges = vec![(0f32, 0f32); chunks];
        let shared = SharedSlice::new(&mut ranges);
        pool::run(chunks, |chunk| {
            let part = &x[chunk * CHUNK..((chunk + 1) * CHUNK).min(x.len())];
            // SAFETY: each chunk belongs to one task.
            range_of(self.isa, part, unsafe { &mut shared.slice(chunk, 1)[0] });
        });
        let (mut low, mut high) = (0f32, 0f32);
        for (least, greatest) in ranges {
            // NaN, which marks a number that is not finite, must win.
            low = if least < low || least.is_nan() { least } else { low };
            high = if greatest > high || greatest.is_nan() { greatest } else { high };
        }
        affine(low, high)
    }

    fn band(&self, first: usize, rows: usize) -> Band {
        let reach = |axis: usize| (self.kernel[axis] - 1) * self.dilations[axis] + 1;
        Band {
            first,
            rows,
            width: (self.shape[2] - 1) * self.strides[1] + reach(1),
            height: (rows - 1) * self.strides[0] + reach(0),
            depth: match &*self.weights {
                Packed::F32(weights) => weights.layout.padded,
                Packed::I8(weights) => weights.layout.padded,
            },
        }
    }

    fn convolve(&self, x: &[f32], affine: Option<Affine>, band: &Band, epilogue: &Epilogue<'_>, parallel: bool) {
        let taps: Vec<usize> = (0..self.kernel[0])
            .flat_map(|ky| (0..self.kernel[1]).map(move |kx| (ky, kx)))
            .map(|(ky, kx)| (ky * self.dilations[0] * band.width + kx * self.dilations[1]) * band.depth)
            .collect();
        let columns = self.shape[2];
        let offset = |row: usize| {
            let (y, x) = (row / columns, row % columns);
            (y * self.strides[0] * band.width + x * self.strides[1]) * band.depth
        };
        let count = band.rows * columns;
        let parallel = parallel && count * self.shape[3] * self.input[2] * taps.len() >= PARALLEL;
        match (&*self.weights, affine) {
            (Packed::F32(weights), _) => {
                let copy = self.padded(x, band, 0.0, |from, to: &mut [f32]| to.copy_from_slice(from));
                let a = Rows { data: &copy, count, offset: &offset, taps: &taps };
                gemm_f32((self.isa, self.fused), &a, weights, epilogue, parallel);
            }
            (Packed::I8(weights), affine) => {
                let (scale, zero) = affine.unwrap_or((f32::NAN, 0));
                let copy = self.padded(x, band, zero as i16, |from, to: &mut [i16]| {
                    quantize_into(self.isa, from, scale, zero, to);
                });
                let a = Rows { data: &copy, count, offset: &offset, taps: &taps };
                let scales = RowScales { scales: &[scale], zeros: &[zero] };
                gemm_i8(self.isa, &a, scales, weights, epilogue, parallel);
            }
        }
    }

    /// The rows of the input that a band needs, with padding all round, converted a row at a time.
    fn padded<T: Copy + Default>(&self, x: &[f32], band: &Band, zero: T, convert: impl Fn(&[f32], &mut [T])) -> Vec<T> {
        let [height, width, channels] = self.input;
        let factor = if self.upsample { 2 } else { 1 };
        let depth = band.depth;
        let mut copy = vec![zero; band.height * band.width * depth];
        let mut line = vec![T::default(); if factor == 2 || depth != channels { width * channels } else { 0 }];
        let mut last = None;
        for (i, row) in copy.chunks_exact_mut(band.width * depth).enumerate() {
            let Some(y) = (band.first * self.strides[0] + i).checked_sub(self.padding[0]) else { continue };
            if y >= height * factor {
                continue;
            }
            let from = &x[(y / factor) * width * channels..][..width * channels];
            // The padded row may end before the input's row does, where a stride leaves pixels over.
            let used = (width * factor).min(band.width.saturating_sub(self.padding[1]));
            let row = &mut row[self.padding[1] * depth..][..used * depth];
            if line.is_empty() {
                convert(&from[..used * channels], row);
                continue;
            }
            if last != Some(y / factor) {
                convert(from, &mut line);
                last = Some(y / factor);
            }
            for (x, pixel) in row.chunks_exact_mut(depth).enumerate() {
                pixel[..channels].copy_from_slice(&line[(x / factor) * channels..][..channels]);
            }
        }
        copy
    }
}
