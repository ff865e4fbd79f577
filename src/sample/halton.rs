//! The Halton order of positions (Besnier et al. 2025): low-discrepancy, so tokens drawn together lie far apart.

use super::Grid;

/// All positions of the grid in the order of the two-dimensional Halton sequence: base 2 for rows, base 3 for columns, scaled to
/// the grid, each position at its first occurrence.
///
/// A 16 x 16 grid starts with (8, 5), (4, 10), (12, 1), (2, 7).
pub fn order(grid: Grid) -> Vec<usize> {
    let n = grid.len();
    let mut seen = vec![false; n];
    let mut order = Vec::new();
    let mut index = 1;
    // The sequence is dense, so it reaches every cell; the bound only guards the loop. What it should miss comes last,
    // in raster order.
    while order.len() < n && index < 64 * n as u64 + 4096 {
        let row = (radical_inverse(index, 2) * grid.rows as f64) as usize;
        let col = (radical_inverse(index, 3) * grid.cols as f64) as usize;
        let position = row * grid.cols + col;
        if let Some(seen) = seen.get_mut(position).filter(|seen| !**seen) {
            *seen = true;
            order.push(position);
        }
        index += 1;
    }
    order.extend(seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(position, _)| position));
    order
}

/// The digits of `index` in `base`, mirrored at the radix point.
fn radical_inverse(mut index: u64, base: u64) -> f64 {
    let (mut value, mut scale) = (0.0, 1.0);
    while index > 0 {
        scale /= base as f64;
        value += scale * (index % base) as f64;
        index /= base;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_as_published() {
        let order = order(Grid { rows: 16, cols: 16 });
        let start: Vec<_> = order[..4].iter().map(|p| (p / 16, p % 16)).collect();
        assert_eq!(start, [(8, 5), (4, 10), (12, 1), (2, 7)]);
    }

    #[test]
    fn visits_every_position_once() {
        for (rows, cols) in [(1, 1), (1, 7), (5, 1), (4, 4), (16, 16), (24, 24), (13, 31), (32, 32)] {
            let mut order = order(Grid { rows, cols });
            order.sort_unstable();
            assert_eq!(order, (0..rows * cols).collect::<Vec<_>>(), "{rows}x{cols}");
        }
    }

    #[test]
    fn prefixes_are_spread_out() {
        // The first 64 of 256 positions put four in each quarter of a quarter, give or take two.
        let order = order(Grid { rows: 16, cols: 16 });
        let mut cells = [0i32; 16];
        order[..64].iter().for_each(|p| cells[p / 64 * 4 + p % 16 / 4] += 1);
        assert!(cells.iter().all(|c| (c - 4).abs() <= 2), "{cells:?}");
    }
}
