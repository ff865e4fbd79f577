//! Which pixels are repainted.

use std::ops::Range;

use image::{GrayImage, RgbImage};

use super::check_size;
use maskgit_core::{Error, Result, copied, filled};

/// A rectangle of pixels inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left column.
    pub x: u32,
    /// Top row.
    pub y: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Rect {
    /// A rectangle from its left column, top row, width and height.
    pub fn new(x: u32, y: u32, width: u32, height: u32) -> Self {
        Self { x, y, width, height }
    }

    /// The first column to the right of it.
    pub fn right(self) -> u32 {
        self.x.saturating_add(self.width)
    }

    /// The first row below it.
    pub fn bottom(self) -> u32 {
        self.y.saturating_add(self.height)
    }

    /// Whether the pixel lies in it.
    pub fn contains(self, x: u32, y: u32) -> bool {
        (self.x..self.right()).contains(&x) && (self.y..self.bottom()).contains(&y)
    }

    /// The number of its pixels.
    pub(super) fn area(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The rectangle with `pixels` more on every side, from column and row 0 on.
    #[must_use]
    pub fn grown(self, pixels: u32) -> Self {
        let (x, y) = (self.x.saturating_sub(pixels), self.y.saturating_sub(pixels));
        let (right, bottom) = (self.right().saturating_add(pixels), self.bottom().saturating_add(pixels));
        Self { x, y, width: right - x, height: bottom - y }
    }

    /// The part of it that lies in `other`; without pixels when none does.
    #[must_use]
    pub fn clipped(self, other: Self) -> Self {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let (right, bottom) = (self.right().min(other.right()), self.bottom().min(other.bottom()));
        Self { x, y, width: right.saturating_sub(x), height: bottom.saturating_sub(y) }
    }

    /// Whether the two share a pixel.
    pub(super) fn meets(self, other: Self) -> bool {
        self.x < other.right() && other.x < self.right() && self.y < other.bottom() && other.y < self.bottom()
    }

    /// The smallest rectangle around both.
    pub(super) fn around(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let (right, bottom) = (self.right().max(other.right()), self.bottom().max(other.bottom()));
        Self { x, y, width: right - x, height: bottom - y }
    }
}

/// A pixel mask: the pixels of an image that are repainted, each with a weight of 0 to 255.
///
/// 255 repaints a pixel entirely, 0 leaves it. With a weight between, the result is the old pixel and the new one
/// mixed: the new one has the share weight / 255. Pixels of at least half weight (128) are unknown to the model and
/// their tokens are drawn: they are what is meant by masked pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: u32,
    height: u32,
    /// Whether the weight is at least half.
    marks: Vec<bool>,
    /// The weights, where some are neither 0 nor 255.
    soft: Option<Vec<u8>>,
}

/// The least weight of a masked pixel.
const HALF: u8 = 128;

impl Mask {
    /// A mask that repaints nothing.
    ///
    /// # Errors
    ///
    /// Kind [`Image`](maskgit_core::ErrorKind::Image) for a side above [`MAX_SIDE`](crate::MAX_SIDE), kind
    /// [`Request`](maskgit_core::ErrorKind::Request) when a side is 0,
    /// [`Memory`](maskgit_core::ErrorKind::Memory) when there is no memory.
    pub fn none(width: u32, height: u32) -> Result<Self> {
        check_size(width.into(), height.into())?;
        if width == 0 || height == 0 {
            return Err(Error::request(format!("an image of {width}x{height} has no pixels to edit")));
        }
        let marks = filled(width as usize * height as usize, false, "the mask")?;
        Ok(Self { width, height, marks, soft: None })
    }

    /// A mask of the pixels (x, y) for which `repaint` is true. It is called once for each pixel, row by row.
    ///
    /// # Errors
    ///
    /// As [`Mask::none`].
    pub fn from_fn(width: u32, height: u32, mut repaint: impl FnMut(u32, u32) -> bool) -> Result<Self> {
        let mut mask = Self::none(width, height)?;
        for (y, row) in mask.marks.chunks_exact_mut(width as usize).enumerate() {
            for (x, mark) in row.iter_mut().enumerate() {
                *mark = repaint(x as u32, y as u32);
            }
        }
        Ok(mask)
    }

    /// A mask of everything.
    ///
    /// # Errors
    ///
    /// As [`Mask::none`].
    pub fn all(width: u32, height: u32) -> Result<Self> {
        Self::from_fn(width, height, |_, _| true)
    }

    /// A mask from an image of the same size, whose brightness is the weight: white is repainted, black is not, and
    /// what is between is mixed.
    ///
    /// # Errors
    ///
    /// As [`Mask::none`].
    pub fn from_image(image: &GrayImage) -> Result<Self> {
        let mut mask = Self::from_fn(image.width(), image.height(), |x, y| image.get_pixel(x, y).0[0] >= HALF)?;
        if image.as_raw().iter().any(|&weight| !matches!(weight, 0 | 255)) {
            mask.soft = Some(copied(image.as_raw(), "the mask")?);
        }
        Ok(mask)
    }

    /// A mask of boxes, which must lie in the image entirely and have pixels.
    ///
    /// # Errors
    ///
    /// As [`Mask::none`]; kind [`Request`](maskgit_core::ErrorKind::Request) for a box that does not lie in the image.
    pub fn from_boxes(width: u32, height: u32, boxes: &[Rect]) -> Result<Self> {
        let mut mask = Self::none(width, height)?;
        for &rect in boxes {
            mask.add(rect)?;
        }
        Ok(mask)
    }

    /// Marks a box too.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](maskgit_core::ErrorKind::Request) when it has no pixels or does not lie in the image.
    pub fn add(&mut self, rect: Rect) -> Result<()> {
        let fits = |start: u32, length: u32, side: u32| length > 0 && start < side && length <= side - start;
        if !fits(rect.x, rect.width, self.width) || !fits(rect.y, rect.height, self.height) {
            return Err(Error::request(format!(
                "the box {},{},{},{} (left, top, width, height) does not lie in the image of {}x{} pixels",
                rect.x, rect.y, rect.width, rect.height, self.width, self.height
            )));
        }
        self.set(rect, true);
        Ok(())
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Checks that an image has the mask's size.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](maskgit_core::ErrorKind::Request).
    pub fn check_size_of(&self, image: &RgbImage) -> Result<()> {
        if image.dimensions() == (self.width, self.height) {
            return Ok(());
        }
        Err(Error::request(format!(
            "the mask is {}x{} pixels, and the image {}x{}: they must have one size",
            self.width,
            self.height,
            image.width(),
            image.height()
        )))
    }

    /// Whether the pixel's weight is at least half; false outside the image.
    pub fn contains(&self, x: u32, y: u32) -> bool {
        x < self.width && y < self.height && self.marks[y as usize * self.width as usize + x as usize]
    }

    /// The weight of a pixel; 0 outside the image.
    pub fn weight(&self, x: u32, y: u32) -> u8 {
        match &self.soft {
            Some(soft) if x < self.width && y < self.height => soft[y as usize * self.width as usize + x as usize],
            _ => u8::from(self.contains(x, y)) * 255,
        }
    }

    /// Whether any weight is neither 0 nor 255.
    pub fn is_soft(&self) -> bool {
        self.soft.is_some()
    }

    /// The share of the image that is repainted: the mean weight, 0 to 1.
    pub fn share(&self) -> f64 {
        let sum: u64 = match &self.soft {
            Some(soft) => soft.iter().map(|&weight| u64::from(weight)).sum(),
            None => self.count() as u64 * 255,
        };
        sum as f64 / (self.marks.len() as f64 * 255.0)
    }

    /// One row of marks.
    pub(super) fn row(&self, y: u32) -> &[bool] {
        let width = self.width as usize;
        let start = y.min(self.height - 1) as usize * width;
        &self.marks[start..start + width]
    }

    /// Whether no pixel has half weight or more, so that nothing is drawn.
    pub fn is_empty(&self) -> bool {
        !self.marks.contains(&true)
    }

    /// The number of pixels of at least half weight.
    pub fn count(&self) -> usize {
        self.marks.iter().filter(|&&mark| mark).count()
    }

    /// Whether any pixel of `rect` is masked.
    pub(super) fn any_in(&self, rect: Rect) -> bool {
        let columns = rect.x.min(self.width) as usize..rect.right().min(self.width) as usize;
        (rect.y..rect.bottom().min(self.height)).any(|y| self.row(y)[columns.clone()].contains(&true))
    }

    /// The columns of row `y` from `columns` whose weight is above 0.
    pub(super) fn weighted(&self, y: u32, columns: Range<u32>) -> impl Iterator<Item = u32> {
        columns.filter(move |&x| self.weight(x, y) > 0)
    }

    /// How thick what is masked in `rect` is at its thickest: the side of the largest square in it, in pixels.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](maskgit_core::ErrorKind::Request) when there is no memory.
    pub(super) fn thickness(&self, rect: Rect) -> Result<u32> {
        let columns = rect.x.min(self.width) as usize..rect.right().min(self.width) as usize;
        // The side of the largest square that ends at each pixel: one more than the least of its three neighbours'.
        let mut sides = filled(columns.len() + 1, 0u32, "the mask")?;
        let mut most = 0;
        for y in rect.y..rect.bottom().min(self.height) {
            let mut corner = 0;
            for (at, &mark) in self.row(y)[columns.clone()].iter().enumerate() {
                let above = sides[at + 1];
                sides[at + 1] = if mark { 1 + corner.min(above).min(sides[at]) } else { 0 };
                most = most.max(sides[at + 1]);
                corner = above;
            }
        }
        Ok(most)
    }

    /// Unmarks the pixels of `rect`: they are painted.
    pub fn clear(&mut self, rect: Rect) {
        self.set(rect, false);
    }

    fn set(&mut self, rect: Rect, mark: bool) {
        let width = self.width as usize;
        let columns = rect.x.min(self.width) as usize..rect.right().min(self.width) as usize;
        for y in rect.y..rect.bottom().min(self.height) {
            let start = y as usize * width;
            self.marks[start..start + width][columns.clone()].fill(mark);
            if let Some(soft) = &mut self.soft {
                soft[start..start + width][columns.clone()].fill(u8::from(mark) * 255);
            }
        }
    }

    /// A copy.
    ///
    /// # Errors
    ///
    /// Kind [`Memory`](maskgit_core::ErrorKind::Memory) when there is no memory.
    pub fn try_clone(&self) -> Result<Self> {
        let marks = copied(&self.marks, "the mask")?;
        let soft = self.soft.as_deref().map(|soft| copied(soft, "the mask")).transpose()?;
        Ok(Self { width: self.width, height: self.height, marks, soft })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_from_images_boxes_and_predicates_agree() {
        let boxes = [Rect::new(1, 0, 2, 1), Rect::new(3, 3, 1, 1)];
        let by_box = Mask::from_boxes(4, 4, &boxes).unwrap();
        let inside = |x, y| boxes.iter().any(|b| b.contains(x, y));
        let image = GrayImage::from_fn(4, 4, |x, y| image::Luma([if inside(x, y) { 255 } else { 0 }]));
        assert_eq!(Mask::from_image(&image).unwrap(), by_box);
        assert_eq!(Mask::from_fn(4, 4, inside).unwrap(), by_box);
        assert_eq!(by_box.count(), 3);
        assert!(by_box.contains(3, 3) && !by_box.contains(3, 2) && !by_box.contains(4, 3));
        assert!(Mask::none(4, 4).unwrap().is_empty() && Mask::all(4, 4).unwrap().count() == 16);
    }

    #[test]
    fn boxes_outside_and_pictures_without_pixels_are_errors() {
        let max = u32::MAX;
        for (x, y, w, h) in
            [(0, 0, 0, 1), (0, 0, 1, 0), (4, 0, 1, 1), (0, 4, 1, 1), (0, 0, 5, 1), (3, 3, 1, 2), (1, 1, max, max)]
        {
            let error = Mask::from_boxes(4, 4, &[Rect::new(x, y, w, h)]).unwrap_err();
            assert!(error.to_string().contains("4x4"), "{x},{y},{w},{h}: {error}");
        }
        assert!(Mask::none(0, 4).is_err() && Mask::none(4, 0).is_err());
        assert!(Mask::none(max, max).is_err(), "no allocation of an impossible size");
    }

    #[test]
    fn weights_between_are_kept() {
        let image = GrayImage::from_fn(16, 16, |x, y| image::Luma([(y * 16 + x) as u8]));
        let mut mask = Mask::from_image(&image).unwrap();
        assert!(mask.is_soft() && mask.count() == 128 && (mask.share() - 0.5).abs() < 1e-9);
        assert!((0..256).all(|i| mask.weight(i % 16, i / 16) == i as u8 && mask.contains(i % 16, i / 16) == (i > 127)));
        assert_eq!((mask.weight(16, 0), mask.try_clone().unwrap() == mask), (0, true));
        mask.clear(Rect::new(0, 0, 16, 15));
        mask.add(Rect::new(2, 0, 3, 1)).unwrap();
        assert_eq!((mask.count(), mask.weight(2, 0), mask.weight(5, 9), mask.weight(15, 15)), (19, 255, 0, 255));
        let hard = Mask::from_fn(4, 4, |x, _| x == 1).unwrap();
        assert!(!hard.is_soft() && hard.share() == 0.25 && hard.weight(1, 3) == 255 && hard.weight(2, 3) == 0);
    }

    #[test]
    fn the_thickness_is_the_largest_squares() {
        let of = |inside: &dyn Fn(u32, u32) -> bool| {
            Mask::from_fn(60, 40, inside).unwrap().thickness(Rect::new(0, 0, 60, 40)).unwrap()
        };
        assert_eq!(of(&|_, _| false), 0);
        assert_eq!(of(&|x, y| x == y || x == y + 20), 1, "a diagonal line");
        assert_eq!(of(&|_, y| (7..10).contains(&y)), 3);
        assert_eq!(of(&|x, y| x < 5 || (x, y) == (30, 30)), 5);
        assert_eq!(of(&|x, y| (10..31).contains(&x) && (5..18).contains(&y)), 13);
        assert_eq!(of(&|_, _| true), 40);
        let all = Mask::all(60, 40).unwrap();
        assert_eq!(all.thickness(Rect::new(50, 3, 7, 100)).unwrap(), 7, "of the rectangle alone");
    }

    #[test]
    fn clearing_and_asking() {
        let mut mask = Mask::all(5, 3).unwrap();
        mask.clear(Rect::new(1, 1, 100, 100));
        assert_eq!(mask.count(), 7);
        assert!(!mask.any_in(Rect::new(1, 1, 4, 2)) && mask.any_in(Rect::new(0, 1, 4, 2)));
    }
}
