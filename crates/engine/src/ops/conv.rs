//! Convolution of an image.

use tract_core::internal::*;

use super::group_norm::{activate, scale_shift};
use super::linear::PARALLEL;
use super::weights::Packed;
use super::{GroupNorm, Vector, Weights, numbers, operator, output_over, residual, slice_mut};
use crate::import::MAX_ELEMENTS;
use maskgit_kernels::winograd::{self, Finish, IN, OUT, PRODUCTS, Tiles};
use maskgit_kernels::{
    Activation, Epilogue, PackedF32, Residual, RowScales, Rows, SharedSlice, affine, gemm_f32, gemm_i8, quantize_into,
    range_of,
};
use maskgit_kernels::{Isa, pool};

/// An image with more output pixels is convolved in bands of rows of about [`BAND`] pixels, so that what is padded or
/// quantised stays small.
const WHOLE: usize = 4096;
const BAND: usize = 2048;
/// Numbers whose range is taken in one task.
const CHUNK: usize = 1 << 16;
/// Winograd's tiles that are computed together.
const TILES: usize = 64;

/// `activation(convolution(before(x)) + bias) + residual` of `[1, height, width, channels]`, padded with zeros.
///
/// `before` is computed as a band is read, so a normalised copy of the picture never exists. With `upsample`, every
/// pixel of x is first doubled in both directions (nearest neighbour). With int8 weights, x is quantised to 8 bits with
/// one scale, and the products are summed exactly.
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
    pub(crate) before: Before,
    pub(crate) bias: Option<Vector>,
    pub(crate) activation: Activation,
    /// Whether input 1 is added to the output.
    pub(crate) residual: bool,
    pub(crate) isa: Isa,
    /// Whether multiply-add may round once, where the instruction set does.
    pub(crate) fused: bool,
}

/// What becomes of the input of a convolution first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// An activation, or nothing.
    Activation(Activation),
    /// A norm over the whole image, with its activation.
    Norm(Box<GroupNorm>),
}

impl Before {
    fn is_nothing(&self) -> bool {
        *self == Self::Activation(Activation::None)
    }
}

operator!(Conv2d, "Conv2d");

/// [`Before`] for one image: a norm has become a factor and a term for each channel.
struct Ready<'a> {
    isa: Isa,
    affine: Option<(Vec<f32>, Vec<f32>)>,
    activation: Activation,
    x: &'a [f32],
}

impl Ready<'_> {
    /// Whether it leaves everything as it is.
    fn is_plain(&self) -> bool {
        self.affine.is_none() && self.activation == Activation::None
    }

    /// Computes whole pixels.
    fn write(&self, from: &[f32], to: &mut [f32]) {
        match &self.affine {
            Some((scale, shift)) => scale_shift(self.isa, from, (scale, shift), self.activation, to),
            None => {
                to.copy_from_slice(from);
                if self.activation != Activation::None {
                    activate(self.isa, self.activation, to);
                }
            }
        }
    }
}

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
        match &self.before {
            Before::Activation(activation) => {
                if let Some(name) = activation.name() {
                    text.push_str(&format!(", {name} before"));
                }
            }
            Before::Norm(norm) => {
                let activation = norm.activation.name().map(|name| format!(" and {name}")).unwrap_or_default();
                text.push_str(&format!(", group norm of {}{activation} before", norm.groups));
            }
        }
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

    /// Refuses strides, dilations and padding, which come from the file, that ask for a padded picture of any size.
    /// What [`Conv2d::run`] computes of them has no overflow after this.
    pub(crate) fn check(&self) -> TractResult<()> {
        let side = |axis: usize| {
            let reach = self.kernel[axis].checked_sub(1)?.checked_mul(self.dilations[axis])?.checked_add(1)?;
            self.shape.get(1 + axis)?.checked_sub(1)?.checked_mul(self.strides[axis])?.checked_add(reach)
        };
        let padded = || side(0)?.checked_mul(side(1)?)?.checked_mul(self.depth());
        let sizes = [self.strides, self.dilations, self.padding].concat();
        ensure!(
            padded().is_some_and(|numbers| numbers <= MAX_ELEMENTS) && sizes.iter().all(|&size| size <= MAX_ELEMENTS),
            "a convolution with strides {:?}, dilations {:?} and padding {:?} reads too large a picture",
            self.strides,
            self.dilations,
            self.padding
        );
        Ok(())
    }

    /// Values a pixel of the padded copy of the input.
    fn depth(&self) -> usize {
        match &*self.weights {
            Packed::F32(weights) => weights.padded(),
            Packed::I8(weights) => weights.padded(),
            Packed::Winograd(_) => self.input[2],
            #[cfg(target_arch = "aarch64")]
            Packed::F16(_) => self.input[2],
            #[cfg(feature = "cuda")]
            Packed::Plain(_) => self.input[2],
        }
    }

    pub(super) fn run(&self, mut inputs: TVec<TValue>) -> TractResult<Tensor> {
        #[cfg(feature = "cuda")]
        ensure!(!matches!(&*self.weights, Packed::Plain(_)), "a convolution has the weights of a GPU");
        let volume: usize = self.shape.iter().product();
        let (mut result, in_place) = output_over(&mut inputs, self.residual, &self.shape)?;
        let x = numbers(&inputs, 0, self.input.iter().product())?;
        let residual = residual(&inputs, self.residual, in_place, volume)?;
        let out = slice_mut(&mut result)?;
        let (height, width, columns) = (self.shape[1], self.shape[2], self.shape[3]);
        let ready = match &self.before {
            Before::Activation(activation) => Ready { isa: self.isa, affine: None, activation: *activation, x },
            Before::Norm(norm) => Ready { isa: self.isa, affine: Some(norm.affine(x)), activation: norm.activation, x },
        };
        let affine = self.weights.is_int8().then(|| self.quantization(&ready));
        if let (true, Packed::F32(weights)) = (self.is_pointwise(), &*self.weights) {
            let epilogue = self.epilogue(SharedSlice::new(out), residual, 0);
            let a = Rows { data: x, count: height * width, offset: &|row| row * self.input[2], taps: &[0] };
            gemm_f32((self.isa, self.fused), &a, weights, &epilogue, volume.saturating_mul(self.input[2]) >= PARALLEL);
            return Ok(result);
        }
        if let Packed::Winograd(weights) = &*self.weights {
            self.winograd(weights, &ready, SharedSlice::new(out), residual);
            return Ok(result);
        }
        let rows = if height * width <= WHOLE { height } else { (BAND / width).max(1) };
        let bands = height.div_ceil(rows);
        let shared = SharedSlice::new(out);
        let work = |index: usize| {
            let first = index * rows;
            let band = self.band(first, rows.min(height - first));
            self.convolve(&ready, affine, &band, &self.epilogue(shared, residual, first * width * columns), bands == 1);
        };
        if bands == 1 {
            work(0)
        } else {
            pool::run(bands, work)
        }
        Ok(result)
    }

    /// What follows the product; `first` is where its first pixel stands in the output.
    fn epilogue<'a>(&'a self, out: SharedSlice<'a, f32>, residual: Residual<'a>, first: usize) -> Epilogue<'a> {
        let stride = self.shape[3];
        Epilogue { bias: self.bias.as_deref(), activation: self.activation, residual, out, first, stride, places: None }
    }

    /// Whether each output pixel is a product of the same pixel of the input only.
    fn is_pointwise(&self) -> bool {
        let whole = self.kernel == [1, 1] && self.strides == [1, 1] && self.padding == [0, 0] && !self.upsample;
        whole && self.before.is_nothing()
    }

    /// The scale and zero point of the convolution's input.
    fn quantization(&self, input: &Ready<'_>) -> Affine {
        let x = input.x;
        let size = (CHUNK / self.input[2]).max(1) * self.input[2];
        let chunks = x.len().div_ceil(size);
        let mut ranges = vec![(0f32, 0f32); chunks];
        let shared = SharedSlice::new(&mut ranges);
        pool::run(chunks, |chunk| {
            let part = &x[chunk * size..((chunk + 1) * size).min(x.len())];
            // SAFETY: each chunk belongs to one task.
            let range = unsafe { &mut shared.slice(chunk, 1)[0] };
            if input.is_plain() {
                range_of(self.isa, part, range);
            } else {
                let mut values = vec![0f32; part.len()];
                input.write(part, &mut values);
                range_of(self.isa, &values, range);
            }
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
            depth: self.depth(),
        }
    }

    fn convolve(
        &self,
        input: &Ready<'_>,
        affine: Option<Affine>,
        band: &Band,
        epilogue: &Epilogue<'_>,
        parallel: bool,
    ) {
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
        let products = [self.shape[3], self.input[2], taps.len()].iter().fold(count, |a, &b| a.saturating_mul(b));
        let parallel = parallel && products >= PARALLEL;
        match (&*self.weights, affine) {
            (Packed::F32(weights), _) => {
                let copy = self.padded(input.x, band, 0.0, |from, to: &mut [f32]| input.write(from, to));
                let a = Rows { data: &copy, count, offset: &offset, taps: &taps };
                gemm_f32((self.isa, self.fused), &a, weights, epilogue, parallel);
            }
            (Packed::Winograd(_), _) => unreachable!("it has a way of its own"),
            #[cfg(target_arch = "aarch64")]
            (Packed::F16(_), _) => unreachable!("of dense layers only"),
            #[cfg(feature = "cuda")]
            (Packed::Plain(_), _) => unreachable!("refused before"),
            (Packed::I8(weights), affine) => {
                let (scale, zero) = affine.unwrap_or((f32::NAN, 0));
                let mut values = vec![0f32; if input.is_plain() { 0 } else { self.input[1] * self.input[2] }];
                let copy = self.padded(input.x, band, zero as u8, |from, to: &mut [u8]| {
                    if input.is_plain() {
                        quantize_into(self.isa, from, scale, zero, to);
                    } else {
                        let values = &mut values[..from.len()];
                        input.write(from, values);
                        quantize_into(self.isa, values, scale, zero, to);
                    }
                });
                let a = Rows { data: &copy, count, offset: &offset, taps: &taps };
                let scales = RowScales { scales: &[scale], zeros: &[zero] };
                gemm_i8(self.isa, &a, scales, weights, epilogue, parallel);
            }
        }
    }

    /// Convolves by Winograd's products, a band of rows of tiles at a time.
    fn winograd(&self, weights: &[PackedF32], input: &Ready<'_>, out: SharedSlice<'_, f32>, residual: Residual<'_>) {
        let (height, width, columns, channels) = (self.shape[1], self.shape[2], self.shape[3], self.input[2]);
        let (tile_rows, tile_columns) = (height.div_ceil(OUT), width.div_ceil(OUT));
        let rows = (TILES / tile_columns).clamp(1, tile_rows);
        pool::run(tile_rows.div_ceil(rows), |index| {
            let tiles = Tiles { rows: rows.min(tile_rows - index * rows), columns: tile_columns };
            let top = index * rows * OUT;
            let band = Band {
                first: top,
                rows: tiles.rows * OUT,
                width: tile_columns * OUT + IN - OUT,
                height: tiles.rows * OUT + IN - OUT,
                depth: channels,
            };
            let copy = self.padded(input.x, &band, 0.0, |from, to: &mut [f32]| input.write(from, to));
            let mut spread = vec![0f32; PRODUCTS * tiles.count() * channels];
            let spread_tiles = if self.fused { winograd::spread_tiles } else { winograd::spread_tiles_unfused };
            spread_tiles(self.isa, &copy, band.width, channels, tiles, &mut spread);
            let mut products = vec![0f32; PRODUCTS * tiles.count() * columns];
            let parts = spread.chunks_exact(tiles.count() * channels);
            for ((weights, x), product) in
                weights.iter().zip(parts).zip(products.chunks_exact_mut(tiles.count() * columns))
            {
                let a = Rows { data: x, count: tiles.count(), offset: &|row| row * channels, taps: &[0] };
                let epilogue = Epilogue {
                    bias: None,
                    activation: Activation::None,
                    residual: Residual::None,
                    out: SharedSlice::new(product),
                    first: 0,
                    stride: columns,
                    places: None,
                };
                gemm_f32((self.isa, self.fused), &a, weights, &epilogue, false);
            }
            let finish = Finish {
                bias: self.bias.as_deref(),
                activation: self.activation,
                residual,
                out,
                top,
                height,
                width,
                columns,
            };
            let gather_tiles = if self.fused { winograd::gather_tiles } else { winograd::gather_tiles_unfused };
            gather_tiles(self.isa, &products, tiles, &finish);
        });
    }

    /// The rows of the input that a band needs, with padding all round, converted a row at a time.
    fn padded<T: Copy + Default>(
        &self,
        x: &[f32],
        band: &Band,
        zero: T,
        mut convert: impl FnMut(&[f32], &mut [T]),
    ) -> Vec<T> {
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
            // The padded row may end before the input's row does, where a stride leaves pixels over, or before it
            // begins.
            let left = self.padding[1].min(band.width);
            let used = (width * factor).min(band.width - left);
            let row = &mut row[left * depth..][..used * depth];
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
