//! The result over the original.

use std::ops::Range;

use image::RgbImage;

use super::feather::Weights;
use super::resample::{Resampler, byte, floats};
use super::{Feather, Job, Mask, Rect, TokenMask};
use maskgit_core::{Error, Result, Shape};

/// How one window's result is put over the image.
pub struct Blend {
    job: Job,
    weights: Weights,
    shape: Shape,
}

impl Blend {
    /// Prepares a window: `mask` holds what is not painted yet, of which the job paints the part in its own rectangle.
    ///
    /// # Errors
    ///
    /// Kind [`Memory`](maskgit_core::ErrorKind::Memory) when there is no memory.
    pub fn new(mask: &Mask, job: Job, feather: Feather, dilation: usize, shape: Shape) -> Result<Self> {
        let painted = TokenMask::touched(mask, job.window, job.paint, shape).dilated(dilation);
        Ok(Self { job, weights: Weights::new(feather, mask, job, &painted, shape)?, shape })
    }

    /// Puts `decoded`, of the model's size, over the image. Pixels under the mask are replaced; unmasked ones change by
    /// the feather's weight, and keep their bytes where it is 0; masked ones that another window will paint stay.
    ///
    /// Towards a window's edge inside the image weights fall to 0 over one token's cell, so that no edge of a window
    /// shows.
    ///
    /// # Errors
    ///
    /// Kind [`Internal`](maskgit_core::ErrorKind::Internal) when `decoded` does not have the model's size.
    pub fn apply(&self, image: &mut RgbImage, mask: &Mask, decoded: &RgbImage) -> Result<()> {
        if decoded.dimensions() != (self.shape.image.width, self.shape.image.height) {
            return Err(Error::internal("a decoded window does not have the model's size"));
        }
        let Job { window, paint } = self.job;
        let (width, height) = image.dimensions();
        let columns = window.columns(width);
        let values = floats(decoded);
        let resampler = Resampler::new(decoded.dimensions(), (window.width, window.height), true);
        let across = taper(window.x, window.width, width, self.shape.grid.cols);
        let down = taper(window.y, window.height, height, self.shape.grid.rows);
        for y in window.rows(height) {
            let weights = self.weights.row(y, window, columns.clone());
            let painted =
                mask.any_in(Rect { x: paint.x, y, width: paint.width, height: u32::from(paint.contains(paint.x, y)) });
            if weights.is_none() && !painted {
                continue;
            }
            let row = resampler.row(&values, decoded.width() as usize, window.y_of(y));
            for x in columns.clone() {
                let weight = match (mask.contains(x, y), paint.contains(x, y)) {
                    (true, true) => 1.0,
                    (true, false) => 0.0,
                    (false, _) => {
                        let weight = weights.as_ref().and_then(|w| w.get((x - columns.start) as usize)).copied();
                        weight.unwrap_or(0.0) * across[window.x_of(x)].min(down[window.y_of(y)])
                    }
                };
                if weight > 0.0 {
                    let new = row[window.x_of(x)];
                    let pixel = image.get_pixel_mut(x, y);
                    for (old, new) in pixel.0.iter_mut().zip(new) {
                        *old = byte(f32::from(*old) + weight * (f32::from(byte(new)) - f32::from(*old)));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Per row or column of a window, 1, falling towards 0 over one cell at an edge that lies inside the image.
fn taper(start: i64, length: u32, side: u32, cells: u32) -> Vec<f32> {
    let cell = length.div_ceil(cells) as f32;
    let ramp = |inside: bool, from_edge: u32| if inside { (from_edge as f32 + 0.5) / cell } else { 1.0 };
    let ends_inside = start + i64::from(length) < i64::from(side);
    let at = |i: u32| ramp(start > 0, i).min(ramp(ends_inside, length - 1 - i)).min(1.0);
    Range { start: 0, end: length }.map(at).collect()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::super::Window;
    use maskgit_core::{GridSize, ImageSize};

    use super::*;

    const SHAPE: Shape = Shape { image: ImageSize { width: 64, height: 64 }, grid: GridSize { rows: 16, cols: 16 } };

    fn blend(mask: &Mask, job: Job, feather: Feather) -> RgbImage {
        let mut image = RgbImage::from_pixel(mask.width(), mask.height(), Rgb([10, 20, 30]));
        let new = RgbImage::from_pixel(64, 64, Rgb([210, 220, 230]));
        Blend::new(mask, job, feather, 1, SHAPE).unwrap().apply(&mut image, mask, &new).unwrap();
        image
    }

    fn whole(width: u32, height: u32) -> Job {
        Job { window: Window { x: 0, y: 0, width, height }, paint: Rect::new(0, 0, width, height) }
    }

    #[test]
    fn new_under_the_mask_old_beyond_the_reach() {
        for side in [32u32, 64, 100] {
            let hole = Rect::new(side / 2, side / 2 - 3, 5, 4);
            let mask = Mask::from_boxes(side, side, &[hole]).unwrap();
            for feather in [Feather::Gaussian, Feather::Pixels(0), Feather::Pixels(1), Feather::Pixels(7)] {
                let image = blend(&mask, whole(side, side), feather);
                let reach = feather.reach(SHAPE, 1, whole(side, side).window);
                let mut between = 0;
                for (x, y, pixel) in image.enumerate_pixels() {
                    let dx = hole.x.saturating_sub(x).max((x + 1).saturating_sub(hole.right()));
                    let dy = hole.y.saturating_sub(y).max((y + 1).saturating_sub(hole.bottom()));
                    let what = format!("{feather:?} of {side} at {x},{y}");
                    if hole.contains(x, y) {
                        assert_eq!(pixel.0, [210, 220, 230], "{what}");
                    } else if dx.max(dy) > reach || (feather == Feather::Pixels(7) && dx * dx + dy * dy > 49) {
                        assert_eq!(pixel.0, [10, 20, 30], "{what}");
                    } else {
                        between += usize::from(pixel.0[0] > 10);
                    }
                }
                assert_eq!(between > 0, feather != Feather::Pixels(0), "{feather:?} of {side}: {between}");
            }
        }
    }

    #[test]
    fn a_window_has_no_visible_edge_and_leaves_other_holes() {
        let mask = Mask::from_boxes(200, 64, &[Rect::new(94, 30, 6, 6), Rect::new(110, 30, 4, 4)]).unwrap();
        let job = Job { window: Window { x: 70, y: 0, width: 64, height: 64 }, paint: Rect::new(94, 30, 6, 6) };
        let image = blend(&mask, job, Feather::Pixels(40));
        let red = |x: u32, y: u32| i32::from(image.get_pixel(x, y).0[0]);
        assert!(red(69, 32) == 10 && red(70, 32) < 30 && red(134, 32) == 10 && red(133, 32) < 30);
        assert!((71..94).all(|x| red(x, 32) - red(x - 1, 32) < 60), "no step");
        assert_eq!(red(111, 31), 10, "another window's hole");
        assert_eq!(red(96, 33), 210);
    }
}
