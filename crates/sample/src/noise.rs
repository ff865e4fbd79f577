//! Random numbers as a function of (seed, step, position), so that nothing depends on the order of calls.

use rand_core::Rng;
use rand_pcg::Pcg32;

/// The two draws that one position needs in one step, both uniform on the open interval (0, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draws {
    /// Decides the token, by inversion of the cumulative distribution.
    pub token: f64,
    /// Decides the Gumbel noise on the confidence.
    pub choice: f64,
}

impl Draws {
    /// The draws of `position` in step `step` of the picture with this `seed`.
    ///
    /// The generator is PCG-XSH-RR 64/32 (`rand_pcg::Pcg32`). Its state is the seed and its stream the step and the
    /// position (`step · 2³² + position`), each passed through the SplitMix64 finaliser, since neighbouring states and
    /// streams of a PCG are correlated. Each draw takes 32 bits: (bits + 1/2) / 2³².
    pub fn new(seed: u64, step: usize, position: usize) -> Self {
        let place = ((step as u64) << 32) | position as u64;
        let mut generator = Pcg32::new(finalise(seed ^ finalise(place)), finalise(place));
        let mut uniform = || (f64::from(generator.next_u32()) + 0.5) / 4_294_967_296.0;
        Self { token: uniform(), choice: uniform() }
    }

    /// The standard Gumbel variate of the choice: -ln(-ln u).
    pub fn gumbel(&self) -> f64 {
        -libm::log(-libm::log(self.choice))
    }
}

/// The seed of window `window` of an image that is drawn in several: the image's own for window 0, so that an image of
/// one window is the image of its seed; for others finalise(seed xor finalise(window)), unrelated to it and to the
/// seeds beside it.
pub fn window_seed(seed: u64, window: usize) -> u64 {
    if window == 0 { seed } else { finalise(seed ^ finalise(window as u64)) }
}

/// The finaliser of SplitMix64 (Steele et al. 2014), after adding the golden gamma so that zero does not stay zero.
fn finalise(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_place_same_draws_and_other_places_others() {
        let here = Draws::new(7, 3, 100);
        assert_eq!(here, Draws::new(7, 3, 100));
        for other in [Draws::new(8, 3, 100), Draws::new(7, 4, 100), Draws::new(7, 3, 101)] {
            assert_ne!(here, other);
        }
    }

    #[test]
    fn parts_have_seeds_of_their_own() {
        let seeds: std::collections::BTreeSet<u64> =
            (0..50).flat_map(|seed| (0..50).map(move |part| window_seed(seed, part))).collect();
        assert_eq!(seeds.len(), 2500);
        assert_eq!(window_seed(7, 0), 7);
    }

    #[test]
    fn pinned_values() {
        // Computed by an independent implementation of PCG32 and SplitMix64 in Python. Saved images are reproduced
        // from these: a change here breaks every one of them.
        let draws = Draws::new(42, 1, 2);
        let uniform = |bits: u32| (f64::from(bits) + 0.5) / 4_294_967_296.0;
        assert_eq!(draws, Draws { token: uniform(TOKEN_BITS), choice: uniform(CHOICE_BITS) });
    }

    const TOKEN_BITS: u32 = 0xb17e_4140;
    const CHOICE_BITS: u32 = 0x810b_9563;

    /// Neighbouring seeds, steps and positions give uniform and uncorrelated draws.
    #[test]
    fn neighbours_are_uniform_and_uncorrelated() {
        let n = 100_000u64;
        let axes: [fn(u64) -> Draws; 3] =
            [|i| Draws::new(i, 0, 0), |i| Draws::new(1, i as usize, 5), |i| Draws::new(1, 2, i as usize)];
        for (axis, draw) in axes.iter().enumerate() {
            let values: Vec<Draws> = (0..n).map(draw).collect();
            for pick in [|d: &Draws| d.token, |d: &Draws| d.choice] {
                let mut buckets = [0f64; 64];
                values.iter().for_each(|d| buckets[(pick(d) * 64.0) as usize] += 1.0);
                let expected = n as f64 / 64.0;
                let chi2: f64 = buckets.iter().map(|b| (b - expected).powi(2) / expected).sum();
                assert!((25.0..120.0).contains(&chi2), "axis {axis}: chi-square {chi2} on 63 degrees");
                let lag: f64 = values.windows(2).map(|w| (pick(&w[0]) - 0.5) * (pick(&w[1]) - 0.5)).sum();
                let correlation = lag * 12.0 / n as f64;
                assert!(correlation.abs() < 0.015, "axis {axis}: lag-one correlation {correlation}");
            }
            let cross: f64 = values.iter().map(|d| (d.token - 0.5) * (d.choice - 0.5)).sum();
            assert!((cross * 12.0 / n as f64).abs() < 0.015, "axis {axis}: the two draws are correlated");
        }
    }

    #[test]
    fn gumbel_has_its_mean_and_variance() {
        let n = 100_000;
        let values: Vec<f64> = (0..n).map(|i| Draws::new(9, 0, i).gumbel()).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        assert!((mean - 0.5772).abs() < 0.015, "{mean}");
        assert!((variance - 1.6449).abs() < 0.04, "{variance}");
    }
}
