//! Activations, by additions, multiplications and divisions only: the same bits on every processor, and open to
//! vectorisation.

use maskgit_core::exp;

/// 1 / (1 + e^-x).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// A function of one number, applied to the output of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x
    None,
    /// x / (1 + e^-x), Swish-1 (Ramachandran et al. 2017)
    Silu,
    /// x Phi(x) with the error function (Hendrycks and Gimpel 2016)
    GeluErf,
    /// its approximation x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3)))
    GeluTanh,
}

impl Activation {
    /// Its name for people; none of what does nothing.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Silu => Some("SiLU"),
            Self::GeluErf => Some("GELU (erf)"),
            Self::GeluTanh => Some("GELU (tanh)"),
        }
    }

    /// Applies it to each number.
    #[inline(always)]
    pub fn apply<const N: usize>(self, values: &mut [f32; N]) {
        match self {
            Self::None => {}
            Self::Silu => values.iter_mut().for_each(|x| *x *= sigmoid(*x)),
            Self::GeluErf => values.iter_mut().for_each(|x| *x = gelu_erf(*x)),
            Self::GeluTanh => values.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
        }
    }
}

/// By Abramowitz and Stegun's 7.1.26: the complement of the error function within 1.5e-7.
#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    // Half of erfc(|x| / sqrt 2): the part of the normal distribution beyond |x|.
    let beyond = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { beyond } else { 1.0 - beyond }
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    let inner = x + 0.044_715 * x * x * x;
    x * sigmoid(1.595_769 * inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> impl Iterator<Item = f32> {
        (-200_000..=200_000).map(|i| i as f32 * 5e-4)
    }

    #[test]
    fn activations_follow_their_definitions() {
        for x in sweep() {
            let wide = f64::from(x);
            let cases = [
                (Activation::None, wide),
                (Activation::Silu, wide / (1.0 + (-wide).exp())),
                (Activation::GeluErf, 0.5 * wide * libm::erfc(-wide / std::f64::consts::SQRT_2)),
                (Activation::GeluTanh, {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide.powi(3));
                    0.5 * wide * (1.0 + inner.tanh())
                }),
            ];
            for (activation, exact) in cases {
                let mut value = [x];
                activation.apply(&mut value);
                let error = (f64::from(value[0]) - exact).abs();
                assert!(error < 1e-6 * (1.0 + wide.abs()), "{activation:?}({x}) is {}, not {exact}", value[0]);
            }
        }
    }

    #[test]
    fn activations_keep_nan() {
        for activation in [Activation::None, Activation::Silu, Activation::GeluErf, Activation::GeluTanh] {
            let mut value = [f32::NAN];
            activation.apply(&mut value);
            assert!(value[0].is_nan(), "{activation:?}");
        }
    }
}
