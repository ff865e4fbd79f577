//! Between a window of the image and the model's image.
//!
//! Reducing takes a tent as wide as two target pixels, enlarging a Catmull-Rom spline (a bilinear tent where weights
//! may be missing): the filters of the `image` crate by these names. They are here because ours must leave masked
//! pixels out of every average, and because a window of a large image is read row by row, without a copy. They work on
//! sRGB values as stored, as the images that models were trained on were resized.

use image::RgbImage;

use super::{Mask, Window};
use maskgit_core::{Error, Result, Shape, filled};

/// The source pixels that each target pixel of a row or a column is made of.
struct Taps {
    /// Per target, the first source pixel and where its weights end in `weights`.
    spans: Vec<(usize, usize)>,
    weights: Vec<f32>,
}

impl Taps {
    /// Weights to bring `source` pixels to `target`; they sum to 1. `smooth` takes Catmull-Rom where the row is
    /// enlarged.
    fn new(source: u32, target: u32, smooth: bool) -> Self {
        let ratio = f64::from(source) / f64::from(target);
        let scale = ratio.max(1.0);
        let spline = smooth && ratio < 1.0;
        let support = if spline { 2.0 } else { scale };
        let mut taps = Self { spans: Vec::new(), weights: Vec::new() };
        for place in 0..target {
            let centre = (f64::from(place) + 0.5) * ratio - 0.5;
            let first = (centre - support).ceil().max(0.0) as u32;
            let last = (centre + support).floor().clamp(f64::from(first), f64::from(source - 1)) as u32;
            let weight = |i: u32| {
                let x = ((f64::from(i) - centre) / if spline { 1.0 } else { scale }).abs();
                if spline { catmull_rom(x) } else { (1.0 - x).max(0.0) }
            };
            // A weight of 0 at either end stays out, so that equal sizes copy.
            let first = (first..last).find(|&i| weight(i) != 0.0).unwrap_or(last);
            let last = (first..=last).rev().find(|&i| weight(i) != 0.0).unwrap_or(first);
            let total: f64 = (first..=last).map(weight).sum();
            taps.weights.extend((first..=last).map(|i| if total > 0.0 { (weight(i) / total) as f32 } else { 1.0 }));
            taps.spans.push((first as usize, taps.weights.len()));
        }
        taps
    }

    /// The first source pixel of a target pixel, and the weights from there.
    fn of(&self, target: usize) -> (usize, &[f32]) {
        let (first, end) = self.spans[target];
        let start = target.checked_sub(1).map_or(0, |before| self.spans[before].1);
        (first, &self.weights[start..end])
    }
}

/// Keys' cubic with a = -1/2.
fn catmull_rom(x: f64) -> f64 {
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// A window brought to the model's size.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Per pixel red, green, blue, 0 to 255.
    pub(super) pixels: Vec<[f32; 3]>,
    /// Whether any pixel of the image went into it.
    pub(super) known: Vec<bool>,
}

impl Planes {
    /// Reads a window of an image at the model's size. Each pixel is the filter's average over the pixels in its reach
    /// that are neither masked nor **unknown**; what has none in reach is filled from its surroundings ([`Planes`]
    /// never holds anything of such a pixel). Where the window reaches beyond the image, the border pixels are
    /// repeated.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](maskgit_core::ErrorKind::Request) when a mask has another size than the image, or there is no
    /// memory.
    pub fn read(image: &RgbImage, mask: &Mask, unknown: Option<&Mask>, window: Window, shape: Shape) -> Result<Self> {
        mask.check_size_of(image)?;
        unknown.map_or(Ok(()), |unknown| unknown.check_size_of(image))?;
        let (across, down) =
            (Taps::new(window.width, shape.image.width, false), Taps::new(window.height, shape.image.height, false));
        let (width, height) = (shape.image.width as usize, shape.image.height as usize);
        let mut sums = filled(width * height, [0f32; 4], "a window")?;
        let mut line = vec![[0f32; 4]; width];
        // Target rows need their source rows in ascending order, so each source row is read once for all that need it.
        let mut first_target = 0;
        for y in 0..window.height as usize {
            while first_target < height && down.of(first_target).0 + down.of(first_target).1.len() <= y {
                first_target += 1;
            }
            read_row(image, (mask, unknown), window, y as u32, &across, &mut line);
            for target in first_target..height {
                let (first, weights) = down.of(target);
                if first > y {
                    break;
                }
                let Some(&weight) = weights.get(y - first) else { continue };
                for (sum, value) in sums[target * width..][..width].iter_mut().zip(&line) {
                    sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
                }
            }
        }
        // Weights of tents are not negative, so a sum of 0 says that no pixel that counts is in reach.
        let known: Vec<bool> = sums.iter().map(|sum| sum[3] > 1e-6).collect();
        let pixels = sums.iter().map(|s| if s[3] > 1e-6 { [s[0] / s[3], s[1] / s[3], s[2] / s[3]] } else { [0.0; 3] });
        let mut planes = Self { width, height, pixels: pixels.collect(), known };
        planes.fill();
        Ok(planes)
    }

    /// Three planes, red, green and blue, of height times width values in 0..1: what an encoder takes.
    pub fn to_planes(&self) -> Vec<f32> {
        (0..3)
            .flat_map(|channel| self.pixels.iter().map(move |pixel| (pixel[channel] / 255.0).clamp(0.0, 1.0)))
            .collect()
    }
}

/// Brings one row of the window to the model's width: sums of colours and of their weights, over pixels that are not
/// marked in either mask.
fn read_row(
    image: &RgbImage,
    (mask, unknown): (&Mask, Option<&Mask>),
    window: Window,
    y: u32,
    across: &Taps,
    line: &mut [[f32; 4]],
) {
    let y = window.row_in(y, image.height());
    let marks = mask.row(y);
    let unknown = unknown.map(|unknown| unknown.row(y));
    for (x, out) in line.iter_mut().enumerate() {
        let (first, weights) = across.of(x);
        *out = [0.0; 4];
        for (source, &weight) in (first..).zip(weights) {
            let column = window.column_in(source as u32, image.width());
            if !marks[column as usize] && unknown.is_none_or(|marks| !marks[column as usize]) {
                let pixel = image.get_pixel(column, y).0;
                for (sum, value) in out.iter_mut().zip([pixel[0], pixel[1], pixel[2]]) {
                    *sum += weight * f32::from(value);
                }
                out[3] += weight;
            }
        }
    }
}

/// Gives the rows of an image, or of a map of weights, at another size, one at a time.
pub struct Resampler {
    across: Taps,
    down: Taps,
}

impl Resampler {
    /// From `from` to `to`, each width and height, at least 1. `smooth`: enlarge by Catmull-Rom, which may overshoot;
    /// else bilinearly.
    pub fn new(from: (u32, u32), to: (u32, u32), smooth: bool) -> Self {
        Self { across: Taps::new(from.0, to.0, smooth), down: Taps::new(from.1, to.1, smooth) }
    }

    /// Row `y` of the result. `values` are the source's pixels in raster order.
    pub(super) fn row<const C: usize>(&self, values: &[[f32; C]], width: usize, y: usize) -> Vec<[f32; C]> {
        let (first, weights) = self.down.of(y);
        let mut column = vec![[0f32; C]; width];
        for (source, &weight) in (first..).zip(weights) {
            for (sum, value) in column.iter_mut().zip(&values[source * width..][..width]) {
                sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
            }
        }
        (0..self.across.spans.len())
            .map(|x| {
                let (first, weights) = self.across.of(x);
                let mut out = [0f32; C];
                for (value, &weight) in column[first..].iter().zip(weights) {
                    out.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
                }
                out
            })
            .collect()
    }
}

/// The part of a decoded window that lies in an image of `width` by `height`, at the image's resolution.
///
/// # Errors
///
/// Kind [`Memory`](maskgit_core::ErrorKind::Memory) when there is no memory,
/// [`Internal`](maskgit_core::ErrorKind::Internal) never in practice.
pub fn enlarge(decoded: &RgbImage, window: Window, width: u32, height: u32) -> Result<RgbImage> {
    let mut image = RgbImage::from_raw(width, height, filled(width as usize * height as usize * 3, 0, "an image")?)
        .ok_or_else(|| Error::internal("an image's buffer does not have its size"))?;
    let values = floats(decoded);
    let resampler = Resampler::new(decoded.dimensions(), (window.width, window.height), true);
    for y in window.rows(height) {
        let row = resampler.row(&values, decoded.width() as usize, window.y_of(y));
        for x in window.columns(width) {
            image.put_pixel(x, y, image::Rgb(row[window.x_of(x)].map(byte)));
        }
    }
    Ok(image)
}

/// The pixels of an image as numbers, 0 to 255.
pub(super) fn floats(image: &RgbImage) -> Vec<[f32; 3]> {
    image.pixels().map(|pixel| pixel.0.map(f32::from)).collect()
}

/// A colour value, rounded and clipped.
pub(super) fn byte(value: f32) -> u8 {
    value.clamp(0.0, 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use image::imageops::{FilterType, resize};

    use maskgit_core::{GridSize, ImageSize};

    use super::*;

    fn noise(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let v = x.wrapping_mul(2_654_435_761).wrapping_add(y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
            image::Rgb([(v >> 24) as u8, (v >> 16) as u8, (v >> 8) as u8])
        })
    }

    fn whole(width: u32, height: u32) -> Window {
        Window { x: 0, y: 0, width, height }
    }

    #[test]
    fn equal_sizes_copy_exactly() {
        let image = noise(16, 12);
        let shape = Shape { image: ImageSize { width: 16, height: 12 }, grid: GridSize { rows: 4, cols: 4 } };
        let planes = Planes::read(&image, &Mask::none(16, 12).unwrap(), None, whole(16, 12), shape).unwrap();
        let expected: Vec<f32> = (0..3).flat_map(|c| image.pixels().map(move |p| f32::from(p.0[c]) / 255.0)).collect();
        assert_eq!(planes.to_planes(), expected);
        assert_eq!(enlarge(&image, whole(16, 12), 16, 12).unwrap(), image);
    }

    /// An independent implementation: the `image` crate's filters of the same names, to a rounding of its bytes.
    #[test]
    fn filters_are_the_image_crates() {
        let image = noise(37, 23);
        let shape = Shape { image: ImageSize { width: 8, height: 6 }, grid: GridSize { rows: 2, cols: 2 } };
        let planes = Planes::read(&image, &Mask::none(37, 23).unwrap(), None, whole(37, 23), shape).unwrap();
        let reference = resize(&image, 8, 6, FilterType::Triangle);
        let far = |a: f32, b: u8| (a - f32::from(b)).abs();
        for (ours, theirs) in planes.pixels.iter().zip(reference.pixels()) {
            assert!((0..3).all(|c| far(ours[c], theirs.0[c]) < 1.5), "{ours:?} {theirs:?}");
        }
        let large = enlarge(&image, whole(90, 61), 90, 61).unwrap();
        let reference = resize(&image, 90, 61, FilterType::CatmullRom);
        for (ours, theirs) in large.pixels().zip(reference.pixels()) {
            assert!((0..3).all(|c| far(f32::from(ours.0[c]), theirs.0[c]) < 3.0), "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn masked_pixels_never_count() {
        let mut image = noise(40, 40);
        let mask = Mask::from_fn(40, 40, |x, y| (10..30).contains(&x) && y > 15).unwrap();
        let shape = Shape { image: ImageSize { width: 16, height: 16 }, grid: GridSize { rows: 4, cols: 4 } };
        for window in [
            whole(40, 40),
            Window { x: -10, y: 10, width: 50, height: 50 },
            Window { x: 11, y: 17, width: 5, height: 5 },
        ] {
            let before = Planes::read(&image, &mask, None, window, shape).unwrap();
            for (x, y, pixel) in image.enumerate_pixels_mut() {
                if mask.contains(x, y) {
                    pixel.0 = pixel.0.map(|v| v.wrapping_add(101));
                }
            }
            assert_eq!(Planes::read(&image, &mask, None, window, shape).unwrap(), before, "{window:?}");
        }
    }

    #[test]
    fn a_mask_of_another_size_is_an_error() {
        let shape = Shape { image: ImageSize { width: 8, height: 8 }, grid: GridSize { rows: 2, cols: 2 } };
        let error = Planes::read(&noise(8, 8), &Mask::none(8, 9).unwrap(), None, whole(8, 8), shape).unwrap_err();
        assert!(error.to_string().contains("8x9") && error.to_string().contains("8x8"), "{error}");
    }

    #[test]
    fn one_pixel_becomes_any_size() {
        let image = RgbImage::from_pixel(1, 1, image::Rgb([9, 200, 31]));
        let shape = Shape { image: ImageSize { width: 16, height: 16 }, grid: GridSize { rows: 4, cols: 4 } };
        let planes = Planes::read(&image, &Mask::none(1, 1).unwrap(), None, whole(1, 1), shape).unwrap();
        assert!(planes.pixels.iter().all(|p| *p == [9.0, 200.0, 31.0]));
        assert_eq!(enlarge(&noise(16, 16), whole(1, 1), 1, 1).unwrap().dimensions(), (1, 1));
    }
}
