//! How the edge of a result fades into the image.

use super::{Job, Mask, Rect, Resampler, TokenMask, Window};
use maskgit_core::{Error, Result, Shape, filled};

/// The widest feather in pixels.
pub const MAX_FEATHER: u32 = 4096;

/// The narrowest and the widest feather that [`Feather::Auto`] takes, in pixels.
const AUTO: std::ops::RangeInclusive<u32> = 2..=8;

/// How the edge of a result fades into the image: out = w · new + (1 - w) · old. Where the mask has full weight w is
/// always 1, so that nothing of the old pixels shows through; where it has less, w is the mask's weight or the
/// feather's, whichever is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feather {
    /// As [`Feather::Pixels`], as many as the part of the mask that a window paints is thick (the side of the largest
    /// square in it), at least 2 and at most 8: a thin mask changes a thin region, however large its window is. An
    /// outpainting takes [`Feather::Gaussian`].
    #[default]
    Auto,
    /// Google's: the drawn tokens enlarged to pixels and blurred by a Gaussian with standard deviation s/16 - 1 of the
    /// model's pixels, s being the shorter side of the model's image; cut off at three standard deviations.
    Gaussian,
    /// Falls from 1 where the mask has full weight to 0 just beyond this many pixels of the image, 0 to
    /// [`MAX_FEATHER`]: with d the distance between pixel centres and t = 1 - d / (n + 1), w = t²(3 - 2t). 0 is a hard
    /// edge.
    Pixels(u32),
}

impl Feather {
    /// Checks the range.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](maskgit_core::ErrorKind::Request).
    pub fn check(self) -> Result<()> {
        match self {
            Self::Pixels(pixels) if pixels > MAX_FEATHER => {
                Err(Error::request(format!("the feather is {pixels} pixels; it must be 0 to {MAX_FEATHER}")))
            }
            _ => Ok(()),
        }
    }

    /// How far from the mask, in pixels of the image along a row or a column, an edit through `window` may change
    /// anything. Pixels farther than this keep their bytes.
    ///
    /// For the Gaussian: the rest of the token's cell, `dilation` cells, and three standard deviations; where the
    /// window is scaled, the whole of the cell, of which a pixel may touch an edge, and what interpolation spreads it by.
    pub fn reach(self, shape: Shape, dilation: usize, window: Window) -> u32 {
        match self {
            Self::Pixels(pixels) => pixels,
            Self::Auto => *AUTO.end(),
            Self::Gaussian => {
                let along = |model: u32, cells: u32, side: u32| {
                    let cell = u64::from(model.div_ceil(cells.max(1)));
                    let rings = (dilation as u64).min(u64::from(cells)) * cell;
                    let pixels = cell - 1 + rings + radius(shape) as u64;
                    let scale = f64::from(side) / f64::from(model.max(1));
                    let spread = (pixels as f64 + 0.5) * scale + scale.max(1.0) + 0.5;
                    if side == model { pixels as f64 } else { spread.ceil() - 1.0 }
                };
                let across = along(shape.image.width, shape.grid.cols, window.width);
                across.max(along(shape.image.height, shape.grid.rows, window.height)) as u32
            }
        }
    }

    /// Pixels around the mask that a window must show for the edge to fade out in it.
    pub(super) fn margin(self) -> u32 {
        match self {
            // The context shows more than these take; where there is little, the window's own edge fades.
            Self::Gaussian | Self::Auto => 0,
            Self::Pixels(pixels) => pixels,
        }
    }
}

/// Google's radius, which is a standard deviation; 0 for the smallest models.
fn deviation(shape: Shape) -> f64 {
    (f64::from(shape.image.width.min(shape.image.height)) / 16.0 - 1.0).max(0.0)
}

fn radius(shape: Shape) -> usize {
    (3.0 * deviation(shape)).ceil() as usize
}

/// The weights of one window outside the mask.
pub(super) enum Weights {
    Tokens { map: Vec<[f32; 1]>, width: usize, resampler: Resampler },
    Distance { region: Rect, vertical: Vec<u16>, reach: u32 },
}

impl Weights {
    /// `painted` are the tokens that the job's own pixels touch, already dilated.
    pub(super) fn new(feather: Feather, mask: &Mask, job: Job, painted: &TokenMask, shape: Shape) -> Result<Self> {
        let reach = match feather {
            Feather::Gaussian => None,
            Feather::Auto => Some(mask.thickness(job.paint)?.clamp(*AUTO.start(), *AUTO.end())),
            Feather::Pixels(reach) => Some(reach),
        };
        Ok(match reach {
            None => Self::Tokens {
                map: blurred(painted, shape)?,
                width: shape.image.width as usize,
                resampler: Resampler::new(
                    (shape.image.width, shape.image.height),
                    (job.window.width, job.window.height),
                    false,
                ),
            },
            Some(reach) => {
                let region = grown(job.paint, reach, job.window, mask);
                Self::Distance { region, vertical: vertical_distances(mask, job.paint, region, reach)?, reach }
            }
        })
    }

    /// The weights of row `y` of the picture, for each of the columns that lie in the window. `None`: all are 0.
    pub(super) fn row(&self, y: u32, window: Window, columns: std::ops::Range<u32>) -> Option<Vec<f32>> {
        match self {
            Self::Tokens { map, width, resampler } => {
                let row = resampler.row(map, *width, window.y_of(y));
                let row: Vec<f32> = columns.map(|x| row[window.x_of(x)][0]).collect();
                row.iter().any(|&w| w > 0.0).then_some(row)
            }
            Self::Distance { region, vertical, reach } => {
                if !(region.y..region.bottom()).contains(&y) {
                    return None;
                }
                let width = region.width as usize;
                let line = &vertical[(y - region.y) as usize * width..][..width];
                let squares = squared_distances(line, *reach);
                let mut row = vec![0.0; columns.len()];
                for (x, square) in (region.x..).zip(squares) {
                    let t = 1.0 - square.sqrt() / f64::from(reach + 1);
                    // Farther than the reach the image keeps its bytes, also where the ramp is not quite 0 yet.
                    if square <= f64::from(*reach).powi(2)
                        && let Some(weight) = x.checked_sub(columns.start).and_then(|i| row.get_mut(i as usize))
                    {
                        *weight = (t * t * (3.0 - 2.0 * t)) as f32;
                    }
                }
                Some(row)
            }
        }
    }
}

/// The token mask at the model's size, blurred. The border repeats.
fn blurred(tokens: &TokenMask, shape: Shape) -> Result<Vec<[f32; 1]>> {
    let (width, height, radius) = (shape.image.width as usize, shape.image.height as usize, radius(shape));
    let mut map = filled(width * height, [0f32], "a feather")?;
    for (y, row) in map.chunks_exact_mut(width).enumerate() {
        for (x, value) in row.iter_mut().enumerate() {
            value[0] = f32::from(tokens.at_pixel(x as u32, y as u32, shape));
        }
    }
    if radius == 0 {
        return Ok(map);
    }
    let kernel: Vec<f64> =
        (0..=radius).map(|d| libm::exp(-0.5 * libm::pow(d as f64 / deviation(shape), 2.0))).collect();
    let total = 2.0 * kernel.iter().sum::<f64>() - kernel[0];
    let kernel: Vec<f32> = kernel.iter().map(|w| (w / total) as f32).collect();
    let blur = |map: &[[f32; 1]], length: usize, stride: usize, index: usize| {
        let place = index / stride % length;
        let at = |other: usize| map[index - place * stride + other * stride][0];
        let sides = kernel
            .iter()
            .enumerate()
            .skip(1)
            .map(|(d, w)| w * (at(place.saturating_sub(d)) + at((place + d).min(length - 1))));
        [(kernel[0] * at(place) + sides.sum::<f32>()).min(1.0)]
    };
    let across: Vec<[f32; 1]> = (0..map.len()).map(|i| blur(&map, width, 1, i)).collect();
    map.iter_mut().enumerate().for_each(|(i, value)| *value = blur(&across, height, width, i));
    Ok(map)
}

/// `paint` with `reach` pixels around it, as far as the window and the image go.
fn grown(paint: Rect, reach: u32, window: Window, mask: &Mask) -> Rect {
    let (columns, rows) = (window.columns(mask.width()), window.rows(mask.height()));
    let (x, y) = (paint.x.saturating_sub(reach).max(columns.start), paint.y.saturating_sub(reach).max(rows.start));
    let right = paint.right().saturating_add(reach).min(columns.end);
    let bottom = paint.bottom().saturating_add(reach).min(rows.end);
    Rect { x, y, width: right.saturating_sub(x), height: bottom.saturating_sub(y) }
}

/// Per pixel of the region, the distance along its column to the nearest pixel that is painted; `reach + 1` where none
/// is in reach.
fn vertical_distances(mask: &Mask, paint: Rect, region: Rect, reach: u32) -> Result<Vec<u16>> {
    let width = region.width as usize;
    // MAX_FEATHER fits into 16 bits with room for the one more.
    let none = (reach + 1) as u16;
    let mut distances = filled(width * region.height as usize, none, "a feather")?;
    for (dy, row) in distances.chunks_exact_mut(width.max(1)).enumerate() {
        let y = region.y + dy as u32;
        for (dx, distance) in row.iter_mut().enumerate() {
            let x = region.x + dx as u32;
            if paint.contains(x, y) && mask.weight(x, y) == u8::MAX {
                *distance = 0;
            }
        }
    }
    let spread = |distances: &mut [u16], from: usize, to: usize| {
        for x in 0..width {
            let near = distances[from * width + x].saturating_add(1).min(none);
            let here = &mut distances[to * width + x];
            *here = near.min(*here);
        }
    };
    let rows = region.height as usize;
    (1..rows).for_each(|y| spread(&mut distances, y - 1, y));
    (1..rows).rev().for_each(|y| spread(&mut distances, y, y - 1));
    Ok(distances)
}

/// From distances along columns to squared Euclidean ones: the lower envelope of parabolas (Felzenszwalb & Huttenlocher
/// 2012).
fn squared_distances(vertical: &[u16], reach: u32) -> Vec<f64> {
    let height = |i: usize| f64::from(vertical[i]).powi(2);
    // Where parabolas of the envelope stand, and from where on each is the lowest.
    let mut envelope: Vec<(usize, f64)> = Vec::new();
    for i in (0..vertical.len()).filter(|&i| u32::from(vertical[i]) <= reach) {
        let mut from = f64::NEG_INFINITY;
        while let Some(&(before, start)) = envelope.last() {
            from =
                (height(i) - height(before) + (i * i) as f64 - (before * before) as f64) / (2.0 * (i - before) as f64);
            if from > start {
                break;
            }
            envelope.pop();
            from = f64::NEG_INFINITY;
        }
        envelope.push((i, from));
    }
    let mut at = 0;
    (0..vertical.len())
        .map(|x| {
            while envelope.get(at + 1).is_some_and(|next| next.1 < x as f64) {
                at += 1;
            }
            envelope.get(at).map_or(f64::INFINITY, |&(i, _)| height(i) + (x as f64 - i as f64).powi(2))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use maskgit_core::{GridSize, ImageSize};

    use super::*;

    const SHAPE: Shape = Shape { image: ImageSize { width: 64, height: 64 }, grid: GridSize { rows: 16, cols: 16 } };

    #[test]
    fn distances_are_euclids() {
        let mask = Mask::from_fn(40, 30, |x, y| (x * 7 + y * 13) % 41 == 0 || (x, y) == (39, 0)).unwrap();
        let paint = Rect::new(5, 4, 20, 18);
        let window = Window { x: 0, y: 0, width: 40, height: 30 };
        for reach in [0, 1, 3, 9, 100] {
            let region = grown(paint, reach, window, &mask);
            let vertical = vertical_distances(&mask, paint, region, reach).unwrap();
            for dy in 0..region.height {
                let line = &vertical[(dy * region.width) as usize..][..region.width as usize];
                for (dx, ours) in squared_distances(line, reach).into_iter().enumerate() {
                    let (x, y) = (region.x + dx as u32, region.y + dy);
                    let near = (0..30u32)
                        .flat_map(|v| (0..40u32).map(move |u| (u, v)))
                        .filter(|&(u, v)| paint.contains(u, v) && mask.contains(u, v))
                        .map(|(u, v)| u.abs_diff(x).pow(2) + v.abs_diff(y).pow(2))
                        .min();
                    let near = f64::from(near.unwrap());
                    if near <= f64::from(reach).powi(2) {
                        assert_eq!(ours, near, "({x},{y}) reach {reach}");
                    } else {
                        assert!(ours > f64::from(reach).powi(2), "({x},{y}) reach {reach}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_blur_is_a_gaussian() {
        let mask = Mask::from_boxes(64, 64, &[Rect::new(32, 0, 32, 64)]).unwrap();
        let window = Window { x: 0, y: 0, width: 64, height: 64 };
        let tokens = TokenMask::touched(&mask, window, Rect::new(0, 0, 64, 64), SHAPE);
        let map = blurred(&tokens, SHAPE).unwrap();
        // An edge blurred by a Gaussian of deviation 3 is its cumulative distribution: at half a pixel from the edge
        // 0.566, at 3.5 pixels 0.878.
        for (x, expected) in [(32, 0.566), (31, 0.434), (35, 0.878), (28, 0.122), (22, 0.0), (63, 1.0), (0, 0.0)] {
            assert!((map[20 * 64 + x][0] - expected).abs() < 4e-3, "{x}: {}", map[20 * 64 + x][0]);
        }
        assert_eq!(map[22][0], 0.0, "cut off at three deviations");
    }

    #[test]
    fn the_reach_says_how_far() {
        let at = |width| Window { x: 0, y: 0, width, height: width };
        // The rest of a cell 3, one ring 4, three deviations 9.
        assert_eq!(Feather::Gaussian.reach(SHAPE, 1, at(64)), 16);
        assert_eq!(Feather::Gaussian.reach(SHAPE, 0, at(64)), 12);
        assert_eq!(Feather::Gaussian.reach(SHAPE, 1, at(128)), 35);
        assert_eq!(Feather::Pixels(5).reach(SHAPE, 1, at(128)), 5);
        assert!(Feather::Pixels(MAX_FEATHER + 1).check().is_err() && Feather::Pixels(MAX_FEATHER).check().is_ok());
    }
}
