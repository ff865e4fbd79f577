//! Group normalisation of an image, with the activation that follows.

use tract_core::internal::*;

use super::{Vector, numbers, operator, output, slice_mut};
use maskgit_kernels::{Activation, SharedSlice, for_isa};
use maskgit_kernels::{Isa, pool};

/// Pixels whose sums are taken in one task; a fixed number, so that the order of additions is fixed.
const CHUNK: usize = 256;

/// `activation((x - mean) / sqrt(variance + eps) * gamma + beta)` of `[1, height, width, channels]`, with the mean and
/// the variance of each group of neighbouring channels over the whole image (Wu and He 2018).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupNorm {
    pub(crate) shape: TVec<usize>,
    pub(crate) groups: usize,
    /// The bits of eps, so that operators can be compared.
    pub(crate) eps: u32,
    pub(crate) gamma: Option<Vector>,
    pub(crate) beta: Option<Vector>,
    pub(crate) activation: Activation,
    pub(crate) isa: Isa,
}

operator!(GroupNorm, "GroupNorm");

impl GroupNorm {
    fn describe(&self) -> String {
        let activation = self.activation.name().map(|name| format!(", {name}")).unwrap_or_default();
        format!("{} groups of {:?}{activation}", self.groups, self.shape)
    }

    fn output_shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn run(&self, inputs: TVec<TValue>) -> TractResult<Tensor> {
        let volume: usize = self.shape.iter().product();
        let x = numbers(&inputs, 0, volume)?;
        let (scale, shift) = self.affine(x);
        let mut result = output(&self.shape)?;
        let out = SharedSlice::new(slice_mut(&mut result)?);
        let size = CHUNK * scale.len();
        pool::run(volume.div_ceil(size), |chunk| {
            let x = &x[chunk * size..((chunk + 1) * size).min(volume)];
            // SAFETY: each pixel belongs to one task.
            let out = unsafe { out.slice(chunk * size, x.len()) };
            scale_shift(self.isa, x, (&scale, &shift), self.activation, out);
        });
        Ok(result)
    }

    /// For each channel the factor and the term that the norm comes to on this image.
    pub(super) fn affine(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let channels = self.shape.last().copied().unwrap_or(1);
        let size = CHUNK * channels;
        let chunks = x.len().div_ceil(size);
        let part = |chunk: usize| &x[chunk * size..((chunk + 1) * size).min(x.len())];
        let mean = self.per_group(&self.totals(chunks, channels, |chunk, sums| {
            add_deviations(self.isa, part(chunk), None, sums);
        }));
        let variance = self.per_group(&self.totals(chunks, channels, |chunk, sums| {
            add_deviations(self.isa, part(chunk), Some(&mean), sums);
        }));
        let eps = f32::from_bits(self.eps);
        let scale: Vec<f32> =
            (0..channels).map(|c| self.gamma.as_ref().map_or(1.0, |g| g[c]) / (variance[c] + eps).sqrt()).collect();
        let shift: Vec<f32> =
            (0..channels).map(|c| self.beta.as_ref().map_or(0.0, |b| b[c]) - mean[c] * scale[c]).collect();
        (scale, shift)
    }

    /// Sums over the pixels for each channel: each chunk in f32, the chunks in order in f64.
    fn totals(&self, chunks: usize, channels: usize, work: impl Fn(usize, &mut [f32]) + Send + Sync) -> Vec<f64> {
        let mut sums = vec![0f32; chunks * channels];
        let shared = SharedSlice::new(&mut sums);
        pool::run(chunks, |chunk| {
            // SAFETY: each chunk belongs to one task.
            work(chunk, unsafe { shared.slice(chunk * channels, channels) });
        });
        let mut totals = vec![0f64; channels];
        for chunk in sums.chunks_exact(channels) {
            totals.iter_mut().zip(chunk).for_each(|(t, s)| *t += f64::from(*s));
        }
        totals
    }

    /// From one sum a channel to the mean of its group, for each channel.
    fn per_group(&self, totals: &[f64]) -> Vec<f32> {
        let width = totals.len() / self.groups;
        let volume: usize = self.shape.iter().product();
        let count = (volume / self.groups) as f64;
        let mut means = Vec::with_capacity(totals.len());
        for group in totals.chunks_exact(width) {
            let mean = (group.iter().sum::<f64>() / count) as f32;
            means.resize(means.len() + width, mean);
        }
        means
    }
}

/// Adds up each channel's values, or with a mean its squared deviations.
#[inline(always)]
fn add_deviations_body<const FMA: bool>(x: &[f32], mean: Option<&Vec<f32>>, sums: &mut [f32]) {
    for pixel in x.chunks_exact(sums.len()) {
        match mean {
            None => sums.iter_mut().zip(pixel).for_each(|(s, v)| *s += v),
            Some(mean) => sums.iter_mut().zip(pixel).zip(mean).for_each(|((s, v), m)| *s += (v - m) * (v - m)),
        }
    }
}

for_isa! {
    fn add_deviations(isa, x: &[f32], mean: Option<&Vec<f32>>, sums: &mut [f32]) = add_deviations_body
}

#[inline(always)]
fn scale_shift_body<const FMA: bool>(
    x: &[f32],
    (scale, shift): (&[f32], &[f32]),
    activation: Activation,
    out: &mut [f32],
) {
    for (x, y) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
        for (((y, v), a), b) in y.iter_mut().zip(x).zip(scale).zip(shift) {
            *y = v * a + b;
        }
    }
    activate_body::<FMA>(activation, out);
}

for_isa! {
    /// `activation(x * scale + shift)` of whole pixels, with a scale and a shift for each channel.
    pub(super) fn scale_shift(
        isa, x: &[f32], affine: (&[f32], &[f32]), activation: Activation, out: &mut [f32],
    ) = scale_shift_body
}

#[inline(always)]
fn activate_body<const FMA: bool>(activation: Activation, values: &mut [f32]) {
    let mut rest = values.chunks_exact_mut(16);
    for chunk in &mut rest {
        if let Some(values) = chunk.first_chunk_mut::<16>() {
            activation.apply(values);
        }
    }
    rest.into_remainder().iter_mut().for_each(|v| activation.apply(std::array::from_mut(v)));
}

for_isa! {
    /// Applies an activation in place.
    pub(super) fn activate(isa, activation: Activation, values: &mut [f32]) = activate_body
}
