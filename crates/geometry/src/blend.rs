//! The result over the original.

use std::ops::Range;

use image::RgbImage;

use super::feather::Weights;
use super::resample::{Resampler, byte, floats};
use super::{Feather, Job, Mask, TokenMask};
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

    /// Puts `decoded`, of the model's size, over the image. Pixels of full weight are replaced; the job's others change
    /// by their own weight or the feather's, whichever is larger, and keep their bytes where it is 0; masked ones that
    /// another window will paint stay.
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
            let painted = paint.contains(paint.x, y) && mask.weighted(y, paint.x..paint.right()).next().is_some();
            if weights.is_none() && !painted {
                continue;
            }
            let row = resampler.row(&values, decoded.width() as usize, window.y_of(y));
            for x in columns.clone() {
                let feathered = || {
                    let weight = weights.as_ref().and_then(|w| w.get((x - columns.start) as usize)).copied();
                    weight.unwrap_or(0.0) * across[window.x_of(x)].min(down[window.y_of(y)])
                };
                let weight = match (mask.weight(x, y), paint.contains(x, y)) {
                    (u8::MAX, true) => 1.0,
                    (own, true) => (f32::from(own) / 255.0).max(feathered()),
                    (_, false) if mask.contains(x, y) => 0.0,
                    (_, false) => feathered(),
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

    use super::super::{Rect, Window, Windows, inpaint};
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

    /// The share of the pixels that the default feather changes, over that of the mask, and how far from the mask the
    /// farthest is, squared.
    fn changed(mask: &Mask) -> (f64, u32) {
        let (width, height) = (mask.width(), mask.height());
        let mut image = RgbImage::from_pixel(width, height, Rgb([10, 20, 30]));
        let new = RgbImage::from_pixel(64, 64, Rgb([210, 220, 230]));
        let mut left = mask.clone();
        for job in inpaint(mask, SHAPE, 2.0, Feather::default(), Windows::default()).unwrap() {
            Blend::new(&left, job, Feather::default(), 1, SHAPE).unwrap().apply(&mut image, &left, &new).unwrap();
            left.clear(job.paint);
        }
        assert!(left.is_empty());
        let masked: Vec<(u32, u32)> =
            (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).filter(|&(x, y)| mask.contains(x, y)).collect();
        let changed: Vec<_> = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0 != [10, 20, 30]).collect();
        assert!(masked.iter().all(|&(x, y)| image.get_pixel(x, y).0 == [210, 220, 230]));
        let far =
            |x: u32, y: u32| masked.iter().map(|m| m.0.abs_diff(x).pow(2) + m.1.abs_diff(y).pow(2)).min().unwrap();
        let farthest = changed.iter().map(|&(x, y, _)| far(x, y)).max().unwrap();
        (changed.len() as f64 / masked.len() as f64, farthest)
    }

    #[test]
    fn a_thin_mask_changes_a_thin_region() {
        let (width, height) = (320u32, 240u32);
        let from = |x: u32, y: u32| f64::hypot(f64::from(x) - 160.0, f64::from(y) - 120.0);
        // What lies within two pixels of a line is five times the line, and a little at the corners of a slanting one;
        // of a dot thirteen pixels are that near.
        for (what, mask, most) in [
            ("a line", Mask::from_boxes(width, height, &[Rect::new(0, 117, width, 1)]).unwrap(), 5.0),
            ("a slanting line", Mask::from_fn(width, height, |x, y| x * 3 / 4 == y).unwrap(), 7.0),
            ("a ring", Mask::from_fn(width, height, |x, y| (from(x, y) - 90.0).abs() < 0.6).unwrap(), 4.5),
            ("dots", Mask::from_fn(width, height, |x, y| x % 47 == 20 && y % 53 == 30).unwrap(), 13.0),
        ] {
            let (times, farthest) = changed(&mask);
            assert!(times <= most && farthest <= 4, "{what}: {times} times the mask, {farthest}");
            assert!(times > 0.7 * most, "{what}: {times}: the bound is not idle");
        }
        let thick = Mask::from_boxes(width, height, &[Rect::new(100, 60, 50, 40)]).unwrap();
        assert_eq!(changed(&thick).1, 64, "a thick one, within eight pixels");
    }

    #[test]
    fn weights_mix_the_old_and_the_new() {
        // From 0 at the left to 255 at the right, and then full.
        let grey = image::GrayImage::from_fn(64, 64, |x, _| image::Luma([(x * 6).min(255) as u8]));
        let mask = Mask::from_image(&grey).unwrap();
        let hard = blend(&mask, whole(64, 64), Feather::Pixels(0));
        for (x, y, pixel) in hard.enumerate_pixels() {
            let expected = 10.0 + 200.0 * f64::from(grey.get_pixel(x, y).0[0]) / 255.0;
            assert!((f64::from(pixel.0[0]) - expected).abs() <= 0.5, "({x},{y}) {} {expected}", pixel.0[0]);
        }
        // A feather begins where the weight is full, and only ever adds.
        let feathered = blend(&mask, whole(64, 64), Feather::Pixels(20));
        let red = |x| feathered.get_pixel(x, 9).0[0];
        assert!((1..64).all(|x| red(x) >= red(x - 1) && red(x) >= hard.get_pixel(x, 9).0[0]));
        assert!(red(40) > hard.get_pixel(40, 9).0[0] && red(0) == 10);
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
