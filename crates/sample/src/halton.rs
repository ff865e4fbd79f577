//! The Halton order of positions (Besnier et al. 2025): low-discrepancy, so tokens drawn together lie far apart.

use maskgit_core::GridSize;

/// All positions of the grid in the order of the two-dimensional Halton sequence: base 2 for rows, base 3 for columns,
/// scaled to the grid, each position at its first occurrence.
///
/// A 16 x 16 grid starts with (8, 5), (4, 10), (12, 1), (2, 7).
pub fn order(grid: GridSize) -> Vec<usize> {
    let n = grid.len();
    let mut seen = vec![false; n];
    let mut order = Vec::new();
    let mut index = 1;
    // The sequence is dense, so it reaches every cell; the bound only guards the loop. What it should miss comes last,
    // in raster order.
    while order.len() < n && index < (n as u64).saturating_mul(64).saturating_add(4096) {
        let row = scaled_inverse(index, 2, grid.rows as usize);
        let col = scaled_inverse(index, 3, grid.cols as usize);
        let position = row * grid.cols as usize + col;
        if let Some(seen) = seen.get_mut(position).filter(|seen| !**seen) {
            *seen = true;
            order.push(position);
        }
        index += 1;
    }
    order.extend(seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(position, _)| position));
    order
}

/// floor(`size` times the radical inverse of `index`): the digits of `index` in `base`, mirrored at the radix point.
///
/// In integers, since points lie on the cell borders of a grid whose width is a multiple of a power of 3: there a
/// rounded fraction falls into the cell before.
fn scaled_inverse(mut index: u64, base: u64, size: usize) -> usize {
    let (mut numerator, mut denominator) = (0u128, 1u128);
    while index > 0 {
        numerator = numerator * u128::from(base) + u128::from(index % base);
        denominator *= u128::from(base);
        index /= base;
    }
    // Less than `size`, because the fraction is less than 1.
    (numerator * size as u128 / denominator) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_as_published() {
        let order = order(GridSize { rows: 16, cols: 16 });
        let start: Vec<_> = order[..4].iter().map(|p| (p / 16, p % 16)).collect();
        assert_eq!(start, [(8, 5), (4, 10), (12, 1), (2, 7)]);
    }

    /// Widths that are multiples of 9, where points lie on cell borders: worked out in exact fractions.
    #[test]
    fn points_on_cell_borders_fall_into_the_cell_they_start() {
        for (size, expected) in [
            (9, [(4, 3), (2, 6), (6, 1), (1, 4), (5, 7), (3, 2), (7, 5), (0, 8)]),
            (18, [(9, 6), (4, 12), (13, 2), (2, 8), (11, 14), (6, 4), (15, 10), (1, 16)]),
            (27, [(13, 9), (6, 18), (20, 3), (3, 12), (16, 21), (10, 6), (23, 15), (1, 24)]),
        ] {
            let order = order(GridSize { rows: size as u32, cols: size as u32 });
            let start: Vec<_> = order[..8].iter().map(|p| (p / size, p % size)).collect();
            assert_eq!(start, expected, "{size}x{size}");
        }
    }

    #[test]
    fn visits_every_position_once() {
        for (rows, cols) in [(1, 1), (1, 7), (5, 1), (4, 4), (16, 16), (24, 24), (13, 31), (32, 32)] {
            let mut order = order(GridSize { rows, cols });
            order.sort_unstable();
            assert_eq!(order, (0..(rows * cols) as usize).collect::<Vec<_>>(), "{rows}x{cols}");
        }
    }

    #[test]
    fn prefixes_are_spread_out() {
        // The first 64 of 256 positions put four in each quarter of a quarter, give or take two.
        let order = order(GridSize { rows: 16, cols: 16 });
        let mut cells = [0i32; 16];
        order[..64].iter().for_each(|p| cells[p / 64 * 4 + p % 16 / 4] += 1);
        assert!(cells.iter().all(|c| (c - 4).abs() <= 2), "{cells:?}");
    }
}
