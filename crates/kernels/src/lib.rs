//! Matrix kernels and element-wise functions, compiled once for each instruction set and chosen when an engine starts.
//!
//! The arithmetic is written once, in plain Rust that the compiler turns into vector instructions: only the innermost
//! integer product of an instruction set that has a special instruction for it is written by hand. Each number is
//! computed in an order that the source fixes: a product sums over its inner dimension from first to last, one
//! accumulator for each output. So the result depends neither on the number of threads nor on the width of a vector.
//! All instruction sets with fused multiply-add agree to the bit in f32; integer products agree on all.
//!
//! An app uses the crate `maskgit`; this one may change with every version.

#![deny(missing_docs)]
#![deny(unreachable_pub)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod activation;
mod cell;
mod gemm;
#[cfg(target_arch = "aarch64")]
pub mod half;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
pub mod pool;
mod quantize;
mod tile;
#[cfg(target_arch = "x86_64")]
mod vnni;
pub mod winograd;

pub use activation::Activation;
pub use cell::SharedSlice;
pub use gemm::{Epilogue, Residual, RowScales, Rows, gemm_f32, gemm_i8};
#[cfg(target_arch = "aarch64")]
pub use pack::PackedF16;
pub use pack::{Matrix, PackedF32, PackedI8};
pub use quantize::{QuantRows, affine, quantize_into, quantize_rows, range_of};
pub use tile::{MR, NR, Segment, float as float_tile};

use std::fmt;

/// A set of vector instructions that the kernels are compiled for, whether the processor has it or not.
///
/// In f32, every set but [`Set::Portable`] on x86-64 rounds a product and a sum once together (fused multiply-add) and
/// gives the same numbers; int8 sums are the same on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Set {
    /// What every processor of the target architecture has.
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

/// An instruction set that this processor has: only [`Isa::available`] makes one beyond the portable one, by asking the
/// processor. So safe code cannot reach a kernel that the processor lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Isa(Set);

impl Default for Isa {
    fn default() -> Self {
        Self::PORTABLE
    }
}

impl Isa {
    /// What every processor of the target architecture has.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// The instruction sets that this processor has, the fastest first.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vnni") {
                sets.push(Self(Set::Avx512Vnni));
            }
            if std::arch::is_x86_feature_detected!("avxvnni") {
                sets.push(Self(Set::AvxVnni));
            }
            sets.push(Self(Set::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        {
            if std::arch::is_aarch64_feature_detected!("i8mm") {
                sets.push(Self(Set::I8mm));
            }
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                sets.push(Self(Set::DotProd));
            }
        }
        sets.push(Self::PORTABLE);
        sets
    }

    /// The fastest instruction set that this processor has.
    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or_default()
    }

    /// Which it is.
    pub fn set(self) -> Set {
        self.0
    }

    /// Whether products with fp16 weights are computed in fp16; else the weights are widened. The portable set never
    /// does, so that there is something to compare with.
    #[cfg(target_arch = "aarch64")]
    pub fn computes_half(self) -> bool {
        self != Self::PORTABLE && half::is_available()
    }
}

impl Set {
    /// The set as one that may be run, where this processor has it.
    pub fn isa(self) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.0 == self)
    }

    /// How many neighbouring values along the inner dimension one lane of the int8 kernel multiplies and adds; the AVX2
    /// set has a kernel for two and one for four, for weights that let it ([`PackedI8`]).
    pub fn int8_group(self) -> usize {
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
        f.write_str(match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Set::DotProd => "dotprod",
            #[cfg(target_arch = "aarch64")]
            Set::I8mm => "i8mm",
        })
    }
}

/// Defines a function that runs an `#[inline(always)]` body compiled for the given instruction set.
///
/// The body must be a generic function of a `FMA` flag: whether multiply-add is fused. After `unfused` it never is.
#[macro_export]
macro_rules! for_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident $(, $arg:ident: $ty:ty)* $(,)?) = $body:ident) => {
        $crate::for_isa! { $(#[$doc])* $vis fn $name($isa $(, $arg: $ty)*) = $body, true }
    };
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident $(, $arg:ident: $ty:ty)* $(,)?) = $body:ident, unfused) => {
        $crate::for_isa! { $(#[$doc])* $vis fn $name($isa $(, $arg: $ty)*) = $body, false }
    };
    (
        $(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident $(, $arg:ident: $ty:ty)* $(,)?) = $body:ident,
        $fused:literal
    ) => {
        $(#[$doc])*
        $vis fn $name($isa: $crate::Isa $(, $arg: $ty)*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<$fused>($($arg),*)
            }
            match $isa.set() {
                $crate::Set::Portable => $body::<{ cfg!(target_arch = "aarch64") && $fused }>($($arg),*),
                // They differ from the portable set in integers only.
                #[cfg(target_arch = "aarch64")]
                $crate::Set::DotProd | $crate::Set::I8mm => $body::<$fused>($($arg),*),
                // The sets with VNNI differ from AVX2 in integers only.
                #[cfg(target_arch = "x86_64")]
                $crate::Set::Avx2 | $crate::Set::AvxVnni | $crate::Set::Avx512Vnni => {
                    // SAFETY: an `Isa` beyond the portable one comes from a check that the processor has it.
                    unsafe { avx2($($arg),*) }
                }
            }
        }
    };
}

/// Multiply-adds a second of one core's kernel on data in the nearest cache: what a product can reach at most.
///
/// Takes some hundredths of a second. Takes an [`Isa`], not a [`Set`], so it cannot run a kernel that the processor
/// lacks: only a check of the processor makes one, and what does not have the instructions has no value to pass.
///
/// ```compile_fail,E0308
/// maskgit_kernels::peak_multiply_adds(maskgit_kernels::Set::Portable, true);
/// ```
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
    let quantized = PackedI8::new(&levels_of_weights, vec![1.0; COLUMNS], isa.set());
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
