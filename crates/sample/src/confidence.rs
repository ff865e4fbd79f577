//! One position: draws a token from its logits and says how confident the model is of it.

use maskgit_core::{Error, Result, exp};

/// Weights whose sum is taken together, in [`LANES`] parts.
const BLOCK: usize = 64;
const LANES: usize = 8;

/// A drawn token and the logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The token, 0..K.
    pub token: usize,
    /// ln p of the token under the softmax of the logits at temperature 1, over all K: what the reference ranks by,
    /// whatever the sampling temperature and top-k.
    pub log_probability: f32,
}

/// Draws tokens; holds the scratch memory that a row of logits needs.
#[derive(Debug, Default)]
pub struct Categorical {
    weights: Vec<f32>,
    /// The sum of each [`BLOCK`] of weights.
    blocks: Vec<f64>,
    order: Vec<f32>,
}

impl Categorical {
    /// Draws from softmax(`logits` / `temperature`), restricted to the `top_k` largest logits (of equal ones the lower
    /// index stays), by inverting the cumulative distribution at `uniform` in (0, 1). Temperature 0 takes the largest
    /// logit, of equal ones the lowest index.
    ///
    /// # Errors
    ///
    /// Kind [`Engine`](maskgit_core::ErrorKind::Engine) when a logit is NaN or +infinity or all are -infinity: there is
    /// no distribution to draw from.
    pub fn draw(&mut self, logits: &[f32], temperature: f32, top_k: Option<usize>, uniform: f64) -> Result<Drawn> {
        let (max, total) = self.weigh(logits)?;
        let log_total = libm::log(total) as f32;
        let token = if temperature == 0.0 {
            logits.iter().position(|&logit| logit == max).unwrap_or(0)
        } else {
            let limited = top_k.is_some_and(|k| k < logits.len());
            if temperature != 1.0 || limited {
                self.reweigh(logits, max, temperature, top_k.filter(|_| limited));
                let total = self.sum();
                self.invert(total, uniform)
            } else {
                self.invert(total, uniform)
            }
        };
        let logit = logits.get(token).copied().unwrap_or(max);
        Ok(Drawn { token, log_probability: logit - max - log_total })
    }

    /// ln p of `token` under the softmax of the logits, as [`Drawn::log_probability`] of a drawn one.
    ///
    /// # Errors
    ///
    /// As [`draw`](Self::draw); kind [`Request`](maskgit_core::ErrorKind::Request) when there is no such token.
    pub fn log_probability(&mut self, logits: &[f32], token: usize) -> Result<f32> {
        let logit = *logits
            .get(token)
            .ok_or_else(|| Error::request(format!("token {token} is not one of the {} codes", logits.len())))?;
        let (max, total) = self.weigh(logits)?;
        Ok(logit - max - libm::log(total) as f32)
    }

    /// H, the entropy of the softmax of the logits at temperature 1, over all K, in nats: 0 where one token is sure, ln
    /// K where all are equal.
    ///
    /// # Errors
    ///
    /// As [`draw`](Self::draw).
    pub fn entropy(&mut self, logits: &[f32]) -> Result<f32> {
        let (max, total) = self.weigh(logits)?;
        // A weight that is 0 may belong to a logit of -infinity, and the product would be NaN.
        let product = |(weight, &logit): (&mut f32, &f32)| *weight *= if *weight > 0.0 { logit - max } else { 0.0 };
        self.weights.iter_mut().zip(logits).for_each(product);
        Ok((libm::log(total) - self.sum() / total) as f32)
    }

    /// Sets the weights to exp(logit - max); gives max and their sum.
    fn weigh(&mut self, logits: &[f32]) -> Result<(f32, f64)> {
        let max = greatest(logits);
        if !max.is_finite() {
            return Err(Error::engine(
                "the transformer gave logits that are no distribution (NaN or infinity); the model is damaged, its \
                 precision too low or the guidance too large",
            ));
        }
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| exp(logit - max)));
        Ok((max, self.sum()))
    }

    /// Turns the weights at temperature 1 into those at `temperature`, zero outside the top k.
    fn reweigh(&mut self, logits: &[f32], max: f32, temperature: f32, top_k: Option<usize>) {
        // At temperature 1 they are there already.
        if temperature != 1.0 {
            self.weights.clear();
            self.weights.extend(logits.iter().map(|&logit| exp((logit - max) / temperature)));
        }
        let Some(k) = top_k.filter(|&k| k > 0) else { return };
        self.order.clear();
        self.order.extend_from_slice(logits);
        let (above, &mut threshold, _) = self.order.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let mut ties = k - above.iter().filter(|&&logit| logit > threshold).count();
        for (weight, &logit) in self.weights.iter_mut().zip(logits) {
            if logit < threshold {
                *weight = 0.0;
            } else if logit == threshold {
                if ties == 0 {
                    *weight = 0.0;
                }
                ties = ties.saturating_sub(1);
            }
        }
    }

    /// The sum of the weights in float64: eight parts of each block from its first weight to its last, added up in
    /// order, then the blocks. The order is part of the result.
    fn sum(&mut self) -> f64 {
        self.blocks.clear();
        self.blocks.extend(self.weights.chunks(BLOCK).map(|block| {
            let mut parts = [0f64; LANES];
            for weights in block.chunks(LANES) {
                parts.iter_mut().zip(weights).for_each(|(part, &weight)| *part += f64::from(weight));
            }
            parts.iter().sum::<f64>()
        }));
        self.blocks.iter().sum()
    }

    /// The first index whose cumulative weight exceeds `uniform` times the total; [`sum`](Self::sum) comes before it.
    fn invert(&self, total: f64, uniform: f64) -> usize {
        let target = uniform * total;
        let (mut cumulative, mut last) = (0.0, 0);
        for (block, (weights, &sum)) in self.weights.chunks(BLOCK).zip(&self.blocks).enumerate() {
            // Rounding may put the target beyond every weight: then the last that is possible is drawn.
            if cumulative + sum > target || sum > 0.0 && self.blocks[block + 1..].iter().all(|&sum| sum == 0.0) {
                for (index, &weight) in weights.iter().enumerate().filter(|&(_, &weight)| weight > 0.0) {
                    cumulative += f64::from(weight);
                    last = block * BLOCK + index;
                    if cumulative > target {
                        break;
                    }
                }
                return last;
            }
            cumulative += sum;
        }
        last
    }
}

/// The largest logit; NaN where one of them is.
fn greatest(logits: &[f32]) -> f32 {
    let mut parts = [f32::NEG_INFINITY; LANES];
    let mut odd = false;
    for logits in logits.chunks(LANES) {
        for (part, &logit) in parts.iter_mut().zip(logits) {
            *part = if logit > *part { logit } else { *part };
            odd |= logit.is_nan();
        }
    }
    if odd { f32::NAN } else { parts.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a }) }
}

#[cfg(test)]
mod tests {
    use super::super::noise::Draws;
    use super::*;

    fn frequencies(logits: &[f32], temperature: f32, top_k: Option<usize>, n: usize) -> Vec<f64> {
        let mut categorical = Categorical::default();
        let mut counts = vec![0.0; logits.len()];
        for i in 0..n {
            let drawn = categorical.draw(logits, temperature, top_k, Draws::new(i as u64, 0, 0).token).expect("finite");
            counts[drawn.token] += 1.0;
        }
        counts
    }

    fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / f64::from(temperature)).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    }

    /// Pearson's statistic stays under its 99.99% quantile (37.1 on 11 degrees of freedom).
    #[test]
    fn samples_follow_the_softmax() {
        let logits: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
        for temperature in [0.5, 1.0, 2.0] {
            let n = 200_000;
            let counts = frequencies(&logits, temperature, None, n);
            let chi2: f64 = counts
                .iter()
                .zip(softmax(&logits, temperature))
                .map(|(count, p)| (count - n as f64 * p).powi(2) / (n as f64 * p))
                .sum();
            assert!(chi2 < 37.1, "temperature {temperature}: chi-square {chi2}");
        }
    }

    #[test]
    fn top_k_keeps_the_k_largest_and_the_lower_index_of_equals() {
        let logits = [1.0, 3.0, 2.0, 2.0, 2.0, -5.0];
        let drawn: Vec<bool> = frequencies(&logits, 1.0, Some(3), 20_000).iter().map(|&c| c > 0.0).collect();
        assert_eq!(drawn, [false, true, true, true, false, false]);
        assert_eq!(frequencies(&logits, 1.0, Some(1), 100)[1], 100.0);
        assert_eq!(frequencies(&logits, 1.0, Some(99), 5_000), frequencies(&logits, 1.0, None, 5_000));
    }

    #[test]
    fn temperature_zero_is_the_first_largest() {
        assert_eq!(frequencies(&[0.0, 4.0, 4.0, 1.0], 0.0, None, 50), [0.0, 50.0, 0.0, 0.0]);
    }

    #[test]
    fn confidence_is_the_probability_at_temperature_one() {
        let logits = [0.3f32, -1.0, 2.0, 0.0];
        let p = softmax(&logits, 1.0);
        for (temperature, top_k) in [(1.0, None), (0.3, None), (2.0, Some(2)), (0.0, None)] {
            for uniform in [0.01, 0.4, 0.99] {
                let drawn = Categorical::default().draw(&logits, temperature, top_k, uniform).expect("finite");
                assert!((f64::from(drawn.log_probability) - p[drawn.token].ln()).abs() < 1e-6);
                let again = Categorical::default().log_probability(&logits, drawn.token).expect("finite");
                assert_eq!(again, drawn.log_probability);
            }
        }
    }

    #[test]
    fn entropy_is_that_of_the_softmax() {
        let mut categorical = Categorical::default();
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin() * 4.0).collect();
        let expected: f64 = softmax(&logits, 1.0).iter().map(|p| -p * p.ln()).sum();
        let entropy = categorical.entropy(&logits).expect("finite");
        assert!((f64::from(entropy) - expected).abs() < 1e-5, "{entropy} for {expected}");
        let uniform = categorical.entropy(&[7.5; 300]).expect("finite");
        assert!((uniform - 300f32.ln()).abs() < 1e-6, "{uniform}");
        let two = categorical.entropy(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 1.0]).expect("finite");
        assert!((two - 2f32.ln()).abs() < 1e-6, "{two}");
        assert_eq!(categorical.entropy(&[-3e38, 3e38, 0.0]).expect("finite"), 0.0);
    }

    #[test]
    fn extreme_but_valid_logits() {
        let mut categorical = Categorical::default();
        for uniform in [1e-10, 0.5, 1.0 - 1e-10] {
            let one = categorical.draw(&[f32::NEG_INFINITY, -3e38, f32::NEG_INFINITY], 1.0, None, uniform);
            assert_eq!(one.expect("one possible token").token, 1);
            assert_eq!(categorical.draw(&[3e38, -3e38], 0.01, None, uniform).expect("finite").token, 0);
        }
    }

    #[test]
    fn no_distribution_is_an_error() {
        let inf = f32::INFINITY;
        for logits in [&[f32::NAN, 0.0][..], &[0.0, f32::NAN], &[inf, 0.0], &[-inf, -inf], &[]] {
            let result = Categorical::default().draw(logits, 1.0, None, 0.5);
            assert_eq!(result.expect_err("no distribution").kind(), maskgit_core::ErrorKind::Engine, "{logits:?}");
            let wanted =
                if logits.is_empty() { maskgit_core::ErrorKind::Request } else { maskgit_core::ErrorKind::Engine };
            let result = Categorical::default().entropy(logits);
            assert_eq!(result.expect_err("no distribution").kind(), maskgit_core::ErrorKind::Engine, "{logits:?}");
            let result = Categorical::default().log_probability(logits, 0);
            assert_eq!(result.expect_err("no distribution").kind(), wanted, "{logits:?}");
        }
    }
}
