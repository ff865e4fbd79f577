//! The exponential and the activations made of it, by additions, multiplications and divisions only: the same bits on
//! every processor, and open to vectorisation.

/// e^x, within 2 units in the last place; 0 below -87.3 (where f32 would lose digits), infinite above 88.7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first with few digits, so that its multiples are exact (Cody and Waite).
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 89.0 { 89.0 } else { clamped };
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor's series in r, |r| <= ln 2 / 2, with its last coefficients moved to spread the error (Cephes' expf).
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = p * (r * r) + r + 1.0;
    // 2^n as two factors, because 2^128 is not an f32.
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = exponent >> 1;
    let first = f32::from_bits((half.wrapping_add(127) as u32) << 23);
    let second = f32::from_bits((exponent.wrapping_sub(half).wrapping_add(127) as u32) << 23);
    let scaled = value * first * second;
    if x < -87.3 { 0.0 } else { scaled }
}

/// 1 / (1 + e^-x).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// A function of one number, applied to the output of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Activation {
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
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Silu => Some("SiLU"),
            Self::GeluErf => Some("GELU (erf)"),
            Self::GeluTanh => Some("GELU (tanh)"),
        }
    }

    #[inline(always)]
    pub(crate) fn apply<const N: usize>(self, values: &mut [f32; N]) {
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
    fn exp_is_within_two_ulps() {
        for x in sweep().filter(|x| (-87.3..88.7).contains(x)) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}): relative error {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-90.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
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
