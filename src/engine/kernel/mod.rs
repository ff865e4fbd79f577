//! Matrix kernels and element-wise functions, compiled once for each instruction set and chosen when an engine starts.
//!
//! The arithmetic is written once, in plain Rust that the compiler turns into vector instructions: only the innermost
//! integer product of an instruction set that has a special instruction for it is written by hand. Each number is
//! computed in an order that the source fixes: a product sums over its inner dimension from first to last, one
//! accumulator for each output. So the result depends neither on the number of threads nor on the width of a vector. All
//! instruction sets with fused multiply-add agree to the bit in f32; integer products agree on all.

mod activation;
mod cell;
mod gemm;
#[cfg(target_arch = "aarch64")]
pub(crate) mod half;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod quantize;
mod tile;
#[cfg(target_arch = "x86_64")]
mod vnni;
pub(crate) mod winograd;

pub(crate) use activation::Activation;
pub(crate) use cell::SharedSlice;
pub(crate) use gemm::{Epilogue, Residual, RowScales, Rows, gemm_f32, gemm_i8};
#[cfg(target_arch = "aarch64")]
pub(crate) use pack::PackedF16;
pub(crate) use pack::{Matrix, PackedF32, PackedI8};
pub(crate) use quantize::{QuantRows, affine, quantize_into, quantize_rows, range_of};
pub(crate) use tile::{MR, NR, Segment, float as float_tile};

use std::fmt;

/// A set of vector instructions that the kernels are compiled for.
///
/// In f32, every set but [`Isa::Portable`] on x86-64 rounds a product and a sum once together (fused multiply-add) and gives the
/// same numbers; int8 sums are the same on all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// What every processor of the target architecture has.
    #[default]
    Portable,
    /// x86-64 with AVX2 and FMA (2013 and later).
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX2, FMA and AVX-VNNI (`vpdpbusd` on 256 bits: Alder Lake, Zen 5 and later).
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// x86-64 with AVX2, FMA and AVX-512 VNNI (`vpdpbusd` on 512 bits: Cascade Lake, Ice Lake, Zen 4 and later).
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// ARM with dot products of bytes (`sdot`: Armv8.2-A processors from 2017 on, all from Armv8.4-A on).
    #[cfg(target_arch = "aarch64")]
    DotProd,
    /// ARM with products of matrices of bytes (`usmmla`: Armv8.6-A, 2021 and later).
    #[cfg(target_arch = "aarch64")]
    I8mm,
}

impl Isa {
    /// The instruction sets that this processor has, the fastest first.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vnni") {
                sets.push(Self::Avx512Vnni);
            }
            if std::arch::is_x86_feature_detected!("avxvnni") {
                sets.push(Self::AvxVnni);
            }
            sets.push(Self::Avx2);
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("i8mm") {
                sets.push(Self::I8mm);
            }
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                sets.push(Self::DotProd);
            }
        }
        sets.push(Self::Portable);
        sets
    }

    /// The fastest instruction set that this processor has.
    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        Self::available().contains(&self)
    }

    /// Whether products with fp16 weights are computed in fp16; else the weights are widened. [`Isa::Portable`] never does, so that there is
    /// something to compare with.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn computes_half(self) -> bool {
        self != Self::Portable && half::is_available()
    }

    /// How many neighbouring values along the inner dimension one lane of the int8 kernel multiplies and adds; the AVX2 set has a kernel
    /// for two and one for four, for weights that let it ([`PackedI8`]).
    pub(crate) fn int8_group(self) -> usize {
        match self {
            Self::Portable => 1,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 2,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni | Self::Avx512Vnni => 4,
            #[cfg(target_arch = "aarch64")]
            Self::DotProd => 4,
            #[cfg(target_arch = "aarch64")]
            Self::I8mm => 8,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Self::DotProd => "dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::I8mm => "i8mm",
        })
    }
}

/// Defines a function that runs an `#[inline(always)]` body compiled for the given instruction set.
///
/// The body must be a generic function of a `FMA` flag: whether multiply-add is fused. After `unfused` it never is.
macro_rules! for_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident $(, $arg:ident: $ty:ty)* $(,)?) = $body:ident) => {
        $crate::engine::kernel::for_isa! { $(#[$doc])* $vis fn $name($isa $(, $arg: $ty)*) = $body, true }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident $(, $arg:ident: $ty:ty)* $(,)?) = $body:ident, unfused) => {
        $crate::engine::kernel::for_isa! { $(#[$doc])* $vis fn $name($isa $(, $arg: $ty)*) = $body, false }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident $(, $arg:ident: $ty:ty)* $(,)?) = $body:ident, $fused:literal) => {
        $(#[$doc])*
        $vis fn $name($isa: $crate::engine::kernel::Isa $(, $arg: $ty)*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<$fused>($($arg),*)
            }
            match $isa {
                $crate::engine::kernel::Isa::Portable => $body::<{ cfg!(target_arch = "aarch64") && $fused }>($($arg),*),
                // They differ from the portable set in integers only.
                #[cfg(target_arch = "aarch64")]
                $crate::engine::kernel::Isa::DotProd | $crate::engine::kernel::Isa::I8mm => $body::<$fused>($($arg),*),
                // SAFETY: an `Isa` beyond the portable one comes from a check that the processor has it: `CpuEngine` refuses others.
                // The sets with VNNI differ from AVX2 in integers only.
                #[cfg(target_arch = "x86_64")]
                $crate::engine::kernel::Isa::Avx2
                | $crate::engine::kernel::Isa::AvxVnni
                | $crate::engine::kernel::Isa::Avx512Vnni => unsafe { avx2($($arg),*) },
            }
        }
    };
}
pub(crate) use for_isa;

/// Multiply-adds a second of one core's kernel on data in the nearest cache: what a product can reach at most.
///
/// Takes some hundredths of a second.
pub fn peak_multiply_adds(isa: Isa, int8: bool) -> f64 {
    const DEPTH: usize = 256;
    const ROWS: usize = 48 * MR;
    // Several panels, over which what is done once for a row is spread.
    const COLUMNS: usize = 8 * NR;
    let taps = [0];
    let offset = |_: usize| 0;
    let mut out = vec![0f32; ROWS * COLUMNS];
    let mut best = f64::INFINITY;
    let (float, levels) = (vec![0.5f32; DEPTH], vec![3u8; DEPTH]);
    let (inner, columns): (Vec<usize>, Vec<usize>) =
        ((0..DEPTH).map(|k| k * COLUMNS).collect(), (0..COLUMNS).collect());
    let weights =
        PackedF32::new(&Matrix { values: &[0.5; DEPTH * COLUMNS], taps: 1, tap: 0, inner: &inner, columns: &columns });
    let levels_of_weights = Matrix { values: &[3; DEPTH * COLUMNS], taps: 1, tap: 0, inner: &inner, columns: &columns };
    let quantized = PackedI8::new(&levels_of_weights, vec![1.0; COLUMNS], isa);
    for _ in 0..50 {
        let epilogue = Epilogue {
            bias: None,
            activation: Activation::None,
            residual: Residual::None,
            out: SharedSlice::new(&mut out),
            first: 0,
            stride: COLUMNS,
            places: None,
        };
        let start = std::time::Instant::now();
        if int8 {
            let a = Rows { data: &levels, count: ROWS, offset: &offset, taps: &taps };
            gemm_i8(isa, &a, RowScales { scales: &[1.0], zeros: &[0] }, &quantized, &epilogue, false);
        } else {
            let a = Rows { data: &float, count: ROWS, offset: &offset, taps: &taps };
            gemm_f32((isa, true), &a, &weights, &epilogue, false);
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    (ROWS * DEPTH * COLUMNS) as f64 / best
}
