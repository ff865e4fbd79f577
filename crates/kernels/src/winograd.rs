//! The transforms of Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2016).
//!
//! Sixteen outputs of a 3x3 convolution from 6x6 inputs by 36 products in place of 144. The products of all tiles at
//! one of the 36 places are a matrix product over channels. Its rounding error is some ten times that of the plain sum.

use super::cell::SharedSlice;
use super::gemm::Residual;
use super::tile::mul_add;
use super::{Activation, Matrix, PackedF32};
use crate::for_isa;

/// Outputs of a tile along each axis.
pub const OUT: usize = 4;
/// Inputs of a tile along each axis.
pub const IN: usize = 6;
/// Products of a tile.
pub const PRODUCTS: usize = IN * IN;
/// Channels that are transformed together.
const LANES: usize = 8;

type Lane = [f32; LANES];

/// Turns 3x3 weights into the weights of the products.
pub fn weights(matrix: &Matrix<'_, f32>) -> Vec<PackedF32> {
    const G: [[f64; 3]; IN] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    assert_eq!(matrix.taps, 9, "a 3x3 convolution");
    let (depth, columns) = (matrix.inner.len(), matrix.columns.len());
    let (inner, places): (Vec<usize>, Vec<usize>) = ((0..depth).map(|k| k * columns).collect(), (0..columns).collect());
    let mut values = vec![0f32; depth * columns];
    (0..PRODUCTS)
        .map(|product| {
            let (row, column) = (G[product / IN], G[product % IN]);
            for (k, at) in matrix.inner.iter().enumerate() {
                for (n, to) in matrix.columns.iter().enumerate() {
                    let mut sum = 0.0;
                    for tap in 0..9 {
                        sum += row[tap / 3] * column[tap % 3] * f64::from(matrix.values[tap * matrix.tap + at + to]);
                    }
                    values[k * columns + n] = sum as f32;
                }
            }
            PackedF32::new(&Matrix { values: &values, taps: 1, tap: 0, inner: &inner, columns: &places })
        })
        .collect()
}

/// B^T d along one axis.
#[inline(always)]
fn spread<const FMA: bool>(d: [Lane; IN]) -> [Lane; IN] {
    let mut out = [[0f32; LANES]; IN];
    for j in 0..LANES {
        let [d0, d1, d2, d3, d4, d5] = [d[0][j], d[1][j], d[2][j], d[3][j], d[4][j], d[5][j]];
        let (even, odd) = (mul_add::<FMA>(-4.0, d2, d4), mul_add::<FMA>(-4.0, d1, d3));
        let (near, far) = (d4 - d2, 2.0 * (d3 - d1));
        out[0][j] = mul_add::<FMA>(4.0, d0, mul_add::<FMA>(-5.0, d2, d4));
        out[1][j] = even + odd;
        out[2][j] = even - odd;
        out[3][j] = near + far;
        out[4][j] = near - far;
        out[5][j] = mul_add::<FMA>(4.0, d1, mul_add::<FMA>(-5.0, d3, d5));
    }
    out
}

/// A^T m along one axis.
#[inline(always)]
fn gather<const FMA: bool>(m: [Lane; IN]) -> [Lane; OUT] {
    let mut out = [[0f32; LANES]; OUT];
    for j in 0..LANES {
        let (sum, difference) = (m[1][j] + m[2][j], m[1][j] - m[2][j]);
        let (far_sum, far_difference) = (m[3][j] + m[4][j], m[3][j] - m[4][j]);
        out[0][j] = (m[0][j] + sum) + far_sum;
        out[1][j] = mul_add::<FMA>(2.0, far_difference, difference);
        out[2][j] = mul_add::<FMA>(4.0, far_sum, sum);
        out[3][j] = mul_add::<FMA>(8.0, far_difference, difference) + m[5][j];
    }
    out
}

#[inline(always)]
fn lane(values: &[f32]) -> Lane {
    let mut lane = [0f32; LANES];
    match values.first_chunk::<LANES>() {
        Some(values) => lane = *values,
        None => lane[..values.len()].copy_from_slice(values),
    }
    lane
}

#[inline(always)]
fn put(lane: &Lane, values: &mut [f32]) {
    match values.first_chunk_mut::<LANES>() {
        Some(values) => *values = *lane,
        None => values.copy_from_slice(&lane[..values.len()]),
    }
}

/// Tiles of a band of rows.
#[derive(Clone, Copy)]
pub struct Tiles {
    /// Rows of tiles.
    pub rows: usize,
    /// Tiles of a row.
    pub columns: usize,
}

impl Tiles {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows * self.columns
    }
}

#[inline(always)]
fn spread_tiles_body<const FMA: bool>(x: &[f32], width: usize, channels: usize, tiles: Tiles, out: &mut [f32]) {
    let size = tiles.count() * channels;
    for tile in 0..tiles.count() {
        let start = ((tile / tiles.columns * OUT) * width + tile % tiles.columns * OUT) * channels;
        for first in (0..channels).step_by(LANES) {
            let used = LANES.min(channels - first);
            let mut half = [[[0f32; LANES]; IN]; IN];
            for column in 0..IN {
                let mut d = [[0f32; LANES]; IN];
                for (row, d) in d.iter_mut().enumerate() {
                    *d = lane(&x[start + (row * width + column) * channels + first..][..used]);
                }
                half[column] = spread::<FMA>(d);
            }
            for row in 0..IN {
                let d: [Lane; IN] = std::array::from_fn(|column| half[column][row]);
                for (column, values) in spread::<FMA>(d).iter().enumerate() {
                    put(values, &mut out[(row * IN + column) * size + tile * channels + first..][..used]);
                }
            }
        }
    }
}

for_isa! {
    /// The inputs of the products, `PRODUCTS` times tiles times channels, from a padded picture whose rows have `width`
    /// pixels.
    pub fn spread_tiles(
        isa, x: &[f32], width: usize, channels: usize, tiles: Tiles, out: &mut [f32],
    ) = spread_tiles_body
}

for_isa! {
    /// [`spread_tiles`] without fused multiply-add.
    pub fn spread_tiles_unfused(
        isa, x: &[f32], width: usize, channels: usize, tiles: Tiles, out: &mut [f32],
    ) = spread_tiles_body, unfused
}

/// Where the tiles' outputs go, and what becomes of them first.
pub struct Finish<'a> {
    /// One value a column.
    pub bias: Option<&'a [f32]>,
    /// What is applied to the product and the bias.
    pub activation: Activation,
    /// What is added at the end.
    pub residual: Residual<'a>,
    /// The whole image.
    pub out: SharedSlice<'a, f32>,
    /// The first row of the band in the image.
    pub top: usize,
    /// The image's height.
    pub height: usize,
    /// Its width.
    pub width: usize,
    /// Its numbers a pixel.
    pub columns: usize,
}

#[inline(always)]
fn gather_tiles_body<const FMA: bool>(products: &[f32], tiles: Tiles, finish: &Finish<'_>) {
    let columns = finish.columns;
    let size = tiles.count() * columns;
    for tile in 0..tiles.count() {
        let (top, left) = (finish.top + tile / tiles.columns * OUT, tile % tiles.columns * OUT);
        for first in (0..columns).step_by(LANES) {
            let used = LANES.min(columns - first);
            let bias = finish.bias.map_or([0f32; LANES], |bias| lane(&bias[first..first + used]));
            let mut half = [[[0f32; LANES]; OUT]; IN];
            for column in 0..IN {
                let mut m = [[0f32; LANES]; IN];
                for (row, m) in m.iter_mut().enumerate() {
                    *m = lane(&products[(row * IN + column) * size + tile * columns + first..][..used]);
                }
                half[column] = gather::<FMA>(m);
            }
            for y in (0..OUT).take_while(|y| top + y < finish.height) {
                let m: [Lane; IN] = std::array::from_fn(|column| half[column][y]);
                for (x, mut values) in gather::<FMA>(m).into_iter().enumerate().take(finish.width - left) {
                    for j in 0..LANES {
                        values[j] += bias[j];
                    }
                    finish.activation.apply(&mut values);
                    let at = ((top + y) * finish.width + left + x) * columns + first;
                    // SAFETY: each pixel belongs to one tile, and each tile to one task.
                    let out = unsafe { finish.out.slice(at, used) };
                    let residual = match finish.residual {
                        Residual::None => [0f32; LANES],
                        Residual::Add(residual) => lane(&residual[at..at + used]),
                        Residual::InPlace => lane(out),
                    };
                    for j in 0..LANES {
                        values[j] += residual[j];
                    }
                    put(&values, out);
                }
            }
        }
    }
}

for_isa! {
    /// The pixels of the tiles from their products, finished and written.
    pub fn gather_tiles(isa, products: &[f32], tiles: Tiles, finish: &Finish<'_>) = gather_tiles_body
}

for_isa! {
    /// [`gather_tiles`] without fused multiply-add.
    pub fn gather_tiles_unfused(
        isa, products: &[f32], tiles: Tiles, finish: &Finish<'_>,
    ) = gather_tiles_body, unfused
}
