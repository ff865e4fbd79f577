//! The plan of an outpainting.

use image::{GrayImage, RgbImage};

use super::check_size;
use super::plan::{cover, side};
use super::{Job, Mask, Rect, Window};
use maskgit_core::{Error, Result, Shape, filled};

/// The most windows of one outpainting.
const MAX_WINDOWS: usize = 4096;

/// A window shows at least this part of the model's side, however small the image.
const SMALLEST_SCALE: f64 = 0.25;

/// How far to extend an image, and in which steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outpaint {
    /// Pixels to add on the left.
    pub left: u32,
    /// Pixels to add on the right.
    pub right: u32,
    /// Pixels to add above.
    pub top: u32,
    /// Pixels to add below.
    pub bottom: u32,
    /// The shorter side of a window in pixels of the image, at least 1; never more than shows the whole extended image.
    /// `None`: the image's shorter side, measured against the model's image, but at least a quarter of the model's.
    pub window: Option<u32>,
    /// The part of a window, in the direction of growth, that shows what is there already: 0.1 to 0.9.
    pub overlap: f32,
}

impl Default for Outpaint {
    fn default() -> Self {
        Self { left: 0, right: 0, top: 0, bottom: 0, window: None, overlap: 0.5 }
    }
}

impl Outpaint {
    /// The extended image's size, and where the old one lies in it.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](maskgit_core::ErrorKind::Request) when the image has no pixels, nothing is added, or an option
    /// is out of range, [`Image`](maskgit_core::ErrorKind::Image) when the result is larger than
    /// [`MAX_SIDE`](crate::MAX_SIDE).
    pub fn extent(&self, width: u32, height: u32) -> Result<((u32, u32), Rect)> {
        if width == 0 || height == 0 {
            return Err(Error::request(format!("an image of {width}x{height} has no pixels to extend")));
        }
        if [self.left, self.right, self.top, self.bottom] == [0; 4] {
            return Err(Error::request("nothing to add: give the pixels to add on at least one side"));
        }
        if !(0.1..=0.9).contains(&self.overlap) {
            return Err(Error::request(format!("the overlap is {}; it must be 0.1 to 0.9", self.overlap)));
        }
        if self.window == Some(0) {
            return Err(Error::request("the window has 0 pixels; it must have at least 1"));
        }
        let sum = |a: u32, b: u32, c: u32| u64::from(a) + u64::from(b) + u64::from(c);
        let size = check_size(sum(self.left, width, self.right), sum(self.top, height, self.bottom))?;
        Ok((size, Rect::new(self.left, self.top, width, height)))
    }

    /// The extended image, black where it is new.
    ///
    /// # Errors
    ///
    /// As [`Outpaint::extent`]; kind [`Memory`](maskgit_core::ErrorKind::Memory) when there is no memory.
    pub fn extend(&self, image: &RgbImage) -> Result<RgbImage> {
        let ((width, height), old) = self.extent(image.width(), image.height())?;
        let pixels = filled(width as usize * height as usize * 3, 0, "the extended image")?;
        let mut extended = RgbImage::from_raw(width, height, pixels)
            .ok_or_else(|| Error::internal("an image's buffer does not have its size"))?;
        image::imageops::replace(&mut extended, image, old.x.into(), old.y.into());
        Ok(extended)
    }

    /// The opacity of the extended image, of the opacity of the image: what is new is opaque.
    ///
    /// # Errors
    ///
    /// As [`Outpaint::extend`].
    pub fn extend_alpha(&self, alpha: &GrayImage) -> Result<GrayImage> {
        let ((width, height), old) = self.extent(alpha.width(), alpha.height())?;
        let pixels = filled(width as usize * height as usize, 255, "the opacity of the extended image")?;
        let mut extended = GrayImage::from_raw(width, height, pixels)
            .ok_or_else(|| Error::internal("an image's buffer does not have its size"))?;
        image::imageops::replace(&mut extended, alpha, old.x.into(), old.y.into());
        Ok(extended)
    }
}

/// The windows that extend an image, in the order in which they are painted, and the mask of the new pixels.
///
/// All windows have one size. On the left, then on the right, they go outwards over the old image's rows; then above
/// and below, outwards over the whole new width. Each shows `overlap` of itself of what is there and adds the rest; the
/// last of a direction is moved back to end where the image ends. Side by side they overlap by as much. A window paints
/// every new pixel that it shows and that is not painted yet; one that would paint nothing is left out.
///
/// # Errors
///
/// As [`Outpaint::extent`]; kind [`Request`](maskgit_core::ErrorKind::Request) when it would take more than 4096
/// windows or there is no memory.
pub fn outpaint(width: u32, height: u32, request: &Outpaint, shape: Shape) -> Result<(Vec<Job>, Mask)> {
    shape.check()?;
    let ((full_width, full_height), old) = request.extent(width, height)?;
    let scale = match request.window {
        Some(pixels) => f64::from(pixels) / f64::from(shape.image.width.min(shape.image.height)),
        None => {
            let across = f64::from(width) / f64::from(shape.image.width);
            across.min(f64::from(height) / f64::from(shape.image.height)).max(SMALLEST_SCALE)
        }
    };
    // A window that shows more than everything would only cost memory.
    let scale = scale.min(cover(full_width, full_height, shape));
    let size = (side(shape.image.width, scale), side(shape.image.height, scale));
    let stride = |length: u32| ((f64::from(length) * (1.0 - f64::from(request.overlap))).round() as i64).max(1);
    let (right_step, down_step) = (stride(size.0), stride(size.1));
    let mut starts = Vec::new();
    let mut add = |xs: &[i64], ys: &[i64], outward_is_x: bool| {
        let (outer, inner) = if outward_is_x { (xs, ys) } else { (ys, xs) };
        for &a in outer {
            starts.extend(inner.iter().map(|&b| if outward_is_x { (a, b) } else { (b, a) }));
        }
    };
    let rows = along(old.y, old.bottom(), full_height, size.1, down_step);
    add(&mirrored(&outward(full_width - old.x, full_width, size.0, right_step), full_width, size.0), &rows, true);
    add(&outward(old.right(), full_width, size.0, right_step), &rows, true);
    let columns = along(0, full_width, full_width, size.0, right_step);
    add(&columns, &mirrored(&outward(full_height - old.y, full_height, size.1, down_step), full_height, size.1), false);
    add(&columns, &outward(old.bottom(), full_height, size.1, down_step), false);
    if starts.len() > MAX_WINDOWS {
        return Err(Error::request(format!(
            "extending {width}x{height} pixels to {full_width}x{full_height} takes {} windows of {}x{}, \
             more than {MAX_WINDOWS}: \
             give a larger window, or add less at once",
            starts.len(),
            size.0,
            size.1
        )));
    }
    let mut mask = Mask::all(full_width, full_height)?;
    mask.clear(old);
    let mut left = mask.try_clone()?;
    let mut jobs = Vec::new();
    for (x, y) in starts {
        let window = Window { x, y, width: size.0, height: size.1 };
        let (columns, rows) = (window.columns(full_width), window.rows(full_height));
        let paint = Rect::new(columns.start, rows.start, columns.end - columns.start, rows.end - rows.start);
        if left.any_in(paint) {
            left.clear(paint);
            jobs.push(Job { window, paint });
        }
    }
    if !left.is_empty() {
        return Err(Error::internal("the windows of an outpainting leave pixels out"));
    }
    Ok((jobs, mask))
}

/// Where windows start that go from `edge` to `end`, each adding `stride`.
fn outward(edge: u32, end: u32, size: u32, stride: i64) -> Vec<i64> {
    let (mut known, end, size) = (i64::from(edge), i64::from(end), i64::from(size));
    let mut starts = Vec::new();
    while known < end {
        let stop = (known + stride).min(end);
        // A window larger than the image stands in its middle.
        starts.push(if size >= end { -((size - end) / 2) } else { (stop - size).max(0) });
        // It may reach farther than it had to, when it is moved right to start in the image.
        known = starts.last().map_or(end, |start| (start + size).min(end)).max(stop);
    }
    starts
}

/// The same from the other end of a side of `full` pixels.
fn mirrored(starts: &[i64], full: u32, size: u32) -> Vec<i64> {
    starts.iter().map(|start| i64::from(full) - i64::from(size) - start).collect()
}

/// Where windows start that cover `from..to` of a side of `full` pixels, each beginning `stride` after the one before.
fn along(from: u32, to: u32, full: u32, size: u32, stride: i64) -> Vec<i64> {
    let (from, to, full, size) = (i64::from(from), i64::from(to), i64::from(full), i64::from(size));
    if size >= full {
        return vec![-((size - full) / 2)];
    }
    if size >= to - from {
        return vec![((from + to - size).div_euclid(2)).clamp(0, full - size)];
    }
    let mut starts: Vec<i64> = Vec::new();
    let mut start = from;
    while start + size < to {
        starts.push(start);
        start += stride;
    }
    starts.push(to - size);
    starts
}

#[cfg(test)]
mod tests {
    use maskgit_core::{GridSize, ImageSize};

    use super::*;

    const SHAPE: Shape = Shape { image: ImageSize { width: 64, height: 64 }, grid: GridSize { rows: 16, cols: 16 } };

    fn sides(left: u32, right: u32, top: u32, bottom: u32) -> Outpaint {
        Outpaint { left, right, top, bottom, ..Outpaint::default() }
    }

    fn corners(jobs: &[Job]) -> Vec<(i64, i64)> {
        jobs.iter().map(|job| (job.window.x, job.window.y)).collect()
    }

    #[test]
    fn a_panorama_goes_outwards_by_half_a_window() {
        let (jobs, mask) = outpaint(64, 64, &sides(0, 100, 0, 0), SHAPE).unwrap();
        assert_eq!(corners(&jobs), [(32, 0), (64, 0), (96, 0), (100, 0)]);
        assert_eq!(mask.count(), 100 * 64);
        let (jobs, _) = outpaint(64, 64, &sides(64, 0, 0, 0), SHAPE).unwrap();
        assert_eq!(corners(&jobs), [(32, 0), (0, 0)], "to the left");
        let (jobs, _) = outpaint(64, 64, &sides(32, 32, 32, 0), SHAPE).unwrap();
        assert_eq!(
            corners(&jobs),
            [(0, 32), (64, 32), (0, 0), (32, 0), (64, 0)],
            "left, right, then above from left to right"
        );
        assert!(jobs.iter().all(|job| (job.window.width, job.window.height) == (64, 64)));
    }

    #[test]
    fn every_new_pixel_is_painted_beside_known_ones() {
        for (width, height, request) in [
            (64, 64, sides(64, 64, 64, 64)),
            (64, 64, sides(1, 0, 0, 0)),
            (100, 40, sides(13, 200, 7, 90)),
            (1, 1, sides(20, 3, 0, 50)),
            (30, 500, sides(0, 90, 33, 0)),
            (64, 64, Outpaint { window: Some(200), ..sides(10, 10, 10, 10) }),
            (64, 64, Outpaint { window: Some(u32::MAX), ..sides(0, 10, 0, 0) }),
            (64, 64, Outpaint { window: Some(20), overlap: 0.2, ..sides(30, 50, 10, 70) }),
            (90, 64, Outpaint { window: Some(7), overlap: 0.9, ..sides(5, 0, 0, 5) }),
        ] {
            let (jobs, mut mask) = outpaint(width, height, &request, SHAPE).unwrap();
            let (full, old) = request.extent(width, height).unwrap();
            assert_eq!(mask.count(), (full.0 * full.1 - width * height) as usize);
            assert_eq!((old.x, old.y), (request.left, request.top));
            for job in &jobs {
                let shown = job.paint.width as usize * job.paint.height as usize;
                let before = mask.count();
                mask.clear(job.paint);
                let painted = before - mask.count();
                assert!(painted > 0, "{request:?}: {job:?} paints nothing");
                assert!(painted < shown, "{request:?}: {job:?} sees nothing known");
                assert!(job.window.width.max(job.window.height) <= 16 + full.0.max(full.1), "{request:?}: {job:?}");
            }
            assert!(mask.is_empty(), "{request:?}");
        }
    }

    #[test]
    fn sizes_are_checked_before_anything_is_allocated() {
        for (request, expected) in [
            (sides(0, 0, 0, 0), "nothing to add"),
            (sides(u32::MAX, u32::MAX, 0, 0), "too large"),
            (sides(0, 0, 0, 16_384), "too large"),
            (Outpaint { overlap: f32::NAN, ..sides(1, 0, 0, 0) }, "overlap"),
            (Outpaint { window: Some(0), ..sides(1, 0, 0, 0) }, "window"),
            (Outpaint { window: Some(1), ..sides(0, 8000, 0, 0) }, "larger window"),
        ] {
            let error = outpaint(64, 64, &request, SHAPE).unwrap_err();
            assert!(error.to_string().contains(expected), "{request:?}: {error}");
        }
    }

    #[test]
    fn extending_keeps_the_picture() {
        let image = RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8 + 1, y as u8 + 1, 9]));
        let extended = sides(2, 1, 0, 3).extend(&image).unwrap();
        assert_eq!(extended.dimensions(), (6, 5));
        assert!(image.enumerate_pixels().all(|(x, y, p)| extended.get_pixel(x + 2, y) == p));
    }
}
