//! Windows: which parts of an image are brought to the model.

use std::ops::Range;

use super::{Feather, Mask, Rect};
use maskgit_core::{Error, Result, Shape, filled};

/// The most windows that one inpainting is cut into; a mask with more parts far apart gets larger windows.
pub const MAX_COMPONENTS: usize = 64;

/// The largest context factor.
pub const MAX_CONTEXT: f32 = 1e6;

/// The parts of a mask are found on a grid of at most this many blocks a side: a cell of it is where two holes are one.
const BLOCKS: u32 = 128;

/// A rectangle that is brought to the model's size. It may reach beyond the image, whose border pixels are then
/// repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Left column in the image, negative when it starts left of it.
    pub x: i64,
    /// Top row in the image.
    pub y: i64,
    /// Columns, at least 1.
    pub width: u32,
    /// Rows, at least 1.
    pub height: u32,
}

impl Window {
    /// The smallest window that shows a whole image, in the middle.
    pub fn whole(width: u32, height: u32, shape: Shape) -> Self {
        Self::centred(Rect::new(0, 0, width, height), cover(width, height, shape), width, height, shape)
    }

    /// The window of scale `scale` (pixels of the picture for one of the model) with `hole` in its middle, moved into
    /// the picture where it fits in.
    fn centred(hole: Rect, scale: f64, width: u32, height: u32, shape: Shape) -> Self {
        let (across, down) = (side(shape.image.width, scale), side(shape.image.height, scale));
        let place = |start: u32, length: u32, size: u32, limit: u32| {
            if size >= limit {
                return -(i64::from(size - limit) / 2);
            }
            let middle = (i64::from(start) * 2 + i64::from(length) - i64::from(size)).div_euclid(2);
            middle.clamp(0, i64::from(limit - size))
        };
        Self {
            x: place(hole.x, hole.width, across, width),
            y: place(hole.y, hole.height, down, height),
            width: across,
            height: down,
        }
    }

    /// The part of an image of `width` by `height` pixels that it shows.
    pub fn inside(self, width: u32, height: u32) -> Rect {
        let (columns, rows) = (self.columns(width), self.rows(height));
        Rect::new(columns.start, rows.start, columns.end - columns.start, rows.end - rows.start)
    }

    /// The image's columns that lie in it.
    pub fn columns(self, width: u32) -> Range<u32> {
        within(self.x, self.width, width)
    }

    /// The image's rows that lie in it.
    pub fn rows(self, height: u32) -> Range<u32> {
        within(self.y, self.height, height)
    }

    /// The image's row that the window's row `y` shows: the nearest there is.
    pub(super) fn row_in(self, y: u32, height: u32) -> u32 {
        (self.y + i64::from(y)).clamp(0, i64::from(height) - 1) as u32
    }

    /// The image's column that the window's column `x` shows.
    pub(super) fn column_in(self, x: u32, width: u32) -> u32 {
        (self.x + i64::from(x)).clamp(0, i64::from(width) - 1) as u32
    }

    /// The window's column of a column of the image that lies in it.
    pub(super) fn x_of(self, x: u32) -> usize {
        (i64::from(x) - self.x) as usize
    }

    /// The window's row of a row of the image that lies in it.
    pub(super) fn y_of(self, y: u32) -> usize {
        (i64::from(y) - self.y) as usize
    }
}

fn within(start: i64, length: u32, limit: u32) -> Range<u32> {
    let clip = |place: i64| place.clamp(0, i64::from(limit)) as u32;
    clip(start)..clip(start.saturating_add(i64::from(length)))
}

/// Pixels of the image along a side of the model's at a scale.
pub(super) fn side(model: u32, scale: f64) -> u32 {
    // A hair less, so that a rounding error does not add a pixel.
    ((f64::from(model) * scale - 1e-6).ceil() as u32).max(1)
}

/// The scale at which the whole image fits into one window.
pub(super) fn cover(width: u32, height: u32, shape: Shape) -> f64 {
    (f64::from(width) / f64::from(shape.image.width)).max(f64::from(height) / f64::from(shape.image.height))
}

/// One window's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What the model sees.
    pub window: Window,
    /// The masked pixels in here are painted by this window; it lies in the window.
    pub paint: Rect,
}

/// How the windows of an inpainting lie over its mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Windows {
    /// Each part of the mask has a window, but a thin one that would need a coarse window (a wire, a ring, scattered
    /// dots) has several along it, each about as fine as the model's own image.
    #[default]
    Shape,
    /// Each part of the mask has one window, however coarse. Versions before 0.2 painted so.
    Parts,
}

/// The most windows that parts of a mask are cut into by [`Windows::Shape`].
const MAX_PIECES: usize = 32;

/// The coarsest window, as a part of the part's own, that cutting it up is worth while for.
const FINER: f64 = 1.5;

/// The windows of an inpainting, in the order in which they are painted: top to bottom, then left to right.
///
/// Each part of the mask gets a window with the part in its middle, moved into the image. A window's scale (pixels of
/// the image for one of the model) is the largest of: 1; what makes the part, times `context`, fill the window; what
/// shows the part with its feather; but never more than shows the whole image. So a hole larger than the model is
/// painted in one window, more coarsely, and an image smaller than the model is enlarged. Parts are merged when they
/// overlap, or when one window shows both at no larger a scale. Thin parts are cut up again, as `windows` says.
///
/// # Errors
///
/// Kind [`Request`](maskgit_core::ErrorKind::Request) when `context` is not 1 to [`MAX_CONTEXT`], the feather is too
/// wide, or there is no memory.
pub fn inpaint(mask: &Mask, shape: Shape, context: f32, feather: Feather, windows: Windows) -> Result<Vec<Job>> {
    shape.check()?;
    feather.check()?;
    if !(1.0..=MAX_CONTEXT).contains(&context) {
        return Err(Error::request(format!("the context is {context}; it must be 1 to {MAX_CONTEXT}")));
    }
    let scales = Scales { mask, shape, context: f64::from(context), margin: f64::from(feather.margin()) };
    let mut block = mask.width().max(mask.height()).div_ceil(BLOCKS);
    let mut parts = loop {
        let parts = merge(components(mask, block), |hole| scales.of(hole));
        if parts.len() <= MAX_COMPONENTS {
            break parts;
        }
        // In the end there is one block.
        block = block.saturating_mul(2);
    };
    if windows == Windows::Shape {
        parts = scales.pieces(parts)?;
    }
    parts.sort_unstable_by_key(|part| (part.y, part.x));
    Ok(parts
        .into_iter()
        .map(|paint| Job {
            window: Window::centred(paint, scales.of(paint), mask.width(), mask.height(), shape),
            paint,
        })
        .collect())
}

/// What the scales of windows follow from.
struct Scales<'a> {
    mask: &'a Mask,
    shape: Shape,
    context: f64,
    margin: f64,
}

impl Scales<'_> {
    /// The scale of the window of a part.
    fn of(&self, hole: Rect) -> f64 {
        let needed = |length: u32, model: u32| {
            let with_feather = f64::from(length) + 2.0 * self.margin;
            (f64::from(length) * self.context).max(with_feather) / f64::from(model)
        };
        let model = self.shape.image;
        let hole_scale = needed(hole.width, model.width).max(needed(hole.height, model.height));
        hole_scale.max(1.0).min(cover(self.mask.width(), self.mask.height(), self.shape))
    }

    /// Cuts thin parts into pieces, of the finest scale at which they are not too many.
    fn pieces(&self, parts: Vec<Rect>) -> Result<Vec<Rect>> {
        let mut pieces = Vec::new();
        let mut waiting = parts.len();
        for part in parts {
            waiting -= 1;
            let most = MAX_PIECES.saturating_sub(pieces.len() + waiting);
            match self.cut(part, most)? {
                Some(cut) => pieces.extend(cut),
                None => pieces.push(part),
            }
        }
        Ok(pieces)
    }

    /// The pieces of a part, where it is thin, and at most `most` of them are enough.
    fn cut(&self, part: Rect, most: usize) -> Result<Option<Vec<Rect>>> {
        let coarse = self.of(part);
        let thickness = if coarse > FINER { self.mask.thickness(part)? } else { 0 };
        let model = self.shape.image;
        let mut scale = 1.0;
        while scale * FINER < coarse {
            // What a window of this scale paints: a piece with its context fits into it, and with its feather.
            let room = |model: u32| {
                let side = f64::from(model) * scale;
                (side / self.context).min(side - 2.0 * self.margin).floor()
            };
            let (across, down) = (room(model.width), room(model.height));
            if across >= 1.0 && down >= 1.0 && 2.0 * f64::from(thickness) <= across.min(down) {
                let pieces = self.tiles(part, across as u32, down as u32)?;
                let covered: u64 = pieces.iter().map(|piece| piece.area()).sum();
                let square = u64::from(part.width.max(part.height)).pow(2);
                if pieces.len() <= most && covered.saturating_mul(2) <= square {
                    return Ok(Some(pieces));
                }
            }
            scale *= std::f64::consts::SQRT_2;
        }
        Ok(None)
    }

    /// What the mask touches in each of the tiles, of about `width` by `height` pixels, of a part.
    fn tiles(&self, part: Rect, width: u32, height: u32) -> Result<Vec<Rect>> {
        let (cols, rows) = (part.width.div_ceil(width), part.height.div_ceil(height));
        let edge = |start: u32, length: u32, count: u32, place: u32| {
            start + (u64::from(length) * u64::from(place) / u64::from(count)) as u32
        };
        let mut tiles = Vec::new();
        for row in 0..rows {
            let lines = edge(part.y, part.height, rows, row)..edge(part.y, part.height, rows, row + 1);
            let mut of_row: Vec<Option<Rect>> = filled(cols as usize, None, "the windows")?;
            for y in lines {
                for x in self.mask.weighted(y, part.x..part.right()) {
                    // The last tile that does not begin after the pixel.
                    let guess = (u64::from(x - part.x) * u64::from(cols) / u64::from(part.width)) as u32;
                    let col = if edge(part.x, part.width, cols, guess + 1) <= x { guess + 1 } else { guess };
                    let pixel = Rect::new(x, y, 1, 1);
                    let tile = &mut of_row[col as usize];
                    *tile = Some(tile.map_or(pixel, |tile| tile.around(pixel)));
                }
            }
            tiles.extend(of_row.into_iter().flatten());
        }
        Ok(tiles)
    }
}

/// The rectangles around the connected parts of a mask, seen through square blocks: marks in the same or in adjacent
/// blocks, diagonal ones too, are connected. Parts without a masked pixel are left out: there is nothing to draw.
fn components(mask: &Mask, block: u32) -> Vec<Rect> {
    let (cols, rows) = (mask.width().div_ceil(block) as usize, mask.height().div_ceil(block) as usize);
    let mut blocks: Vec<Option<Rect>> = vec![None; cols * rows];
    for y in 0..mask.height() {
        for x in mask.weighted(y, 0..mask.width()) {
            let pixel = Rect::new(x, y, 1, 1);
            let place = &mut blocks[(y / block) as usize * cols + (x / block) as usize];
            *place = Some(place.map_or(pixel, |rect| rect.around(pixel)));
        }
    }
    let mut parts = Vec::new();
    let mut open = Vec::new();
    for start in 0..blocks.len() {
        let Some(mut part) = blocks[start].take() else { continue };
        open.push(start);
        while let Some(place) = open.pop() {
            let (x, y) = (place % cols, place / cols);
            for row in y.saturating_sub(1)..(y + 2).min(rows) {
                for col in x.saturating_sub(1)..(x + 2).min(cols) {
                    if let Some(rect) = blocks[row * cols + col].take() {
                        part = part.around(rect);
                        open.push(row * cols + col);
                    }
                }
            }
        }
        if mask.any_in(part) {
            parts.push(part);
        }
    }
    parts
}

/// Merges rectangles that overlap, or that one window shows at no larger a scale, until none are left to merge.
fn merge(mut parts: Vec<Rect>, scale: impl Fn(Rect) -> f64) -> Vec<Rect> {
    loop {
        let before = parts.len();
        let mut i = 0;
        while i < parts.len() {
            let mut j = i + 1;
            while j < parts.len() {
                let (a, b) = (parts[i], parts[j]);
                let both = a.around(b);
                if a.meets(b) || scale(both) <= scale(a).max(scale(b)) {
                    parts[i] = both;
                    parts.remove(j);
                    j = i + 1;
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
        if parts.len() == before {
            return parts;
        }
    }
}

#[cfg(test)]
mod tests {
    use maskgit_core::{GridSize, ImageSize};

    use super::*;

    const SHAPE: Shape = Shape { image: ImageSize { width: 64, height: 64 }, grid: GridSize { rows: 16, cols: 16 } };

    fn plan(width: u32, height: u32, boxes: &[(u32, u32, u32, u32)], context: f32) -> Vec<Job> {
        let boxes: Vec<Rect> = boxes.iter().map(|&(x, y, w, h)| Rect::new(x, y, w, h)).collect();
        inpaint(&Mask::from_boxes(width, height, &boxes).unwrap(), SHAPE, context, Feather::Gaussian, Windows::Parts)
            .unwrap()
    }

    fn window(job: &Job) -> (i64, i64, u32, u32) {
        (job.window.x, job.window.y, job.window.width, job.window.height)
    }

    #[test]
    fn windows_of_one_hole() {
        for (size, hole, context, expected, why) in [
            ((64, 64), (1, 1, 5, 5), 2.0, (0, 0, 64, 64), "an image of the model's size is one window"),
            ((64, 64), (0, 0, 64, 64), 2.0, (0, 0, 64, 64), "everything"),
            ((640, 480), (300, 200, 20, 10), 2.0, (278, 173, 64, 64), "a small hole at the model's own scale"),
            ((640, 480), (0, 470, 10, 10), 2.0, (0, 416, 64, 64), "moved into the image"),
            ((640, 480), (100, 100, 100, 40), 2.0, (50, 20, 200, 200), "a large hole with context"),
            ((640, 480), (100, 100, 100, 40), 1.0, (100, 70, 100, 100), "without"),
            ((640, 480), (100, 100, 400, 40), 2.0, (0, -80, 640, 640), "no larger than the image"),
            ((640, 480), (300, 200, 20, 10), 100.0, (0, -80, 640, 640), "all context there is"),
            ((32, 20), (3, 3, 1, 1), 2.0, (0, -6, 32, 32), "a small image is enlarged"),
            ((1, 1), (0, 0, 1, 1), 2.0, (0, 0, 1, 1), "one pixel"),
            ((8000, 6000), (0, 0, 8000, 6000), 2.0, (0, -1000, 8000, 8000), "a large image, all of it"),
        ] {
            let jobs = plan(size.0, size.1, &[hole], context);
            assert_eq!(jobs.iter().map(window).collect::<Vec<_>>(), [expected], "{why}");
            assert_eq!(jobs[0].paint, Rect::new(hole.0, hole.1, hole.2, hole.3), "{why}");
        }
    }

    #[test]
    fn parts_far_apart_have_windows_of_their_own() {
        let jobs = plan(640, 480, &[(500, 400, 10, 10), (10, 10, 10, 10)], 2.0);
        assert_eq!(
            jobs.iter().map(|j| j.paint).collect::<Vec<_>>(),
            [Rect::new(10, 10, 10, 10), Rect::new(500, 400, 10, 10)]
        );
        assert!(jobs.iter().all(|j| j.window.width == 64));
        // Two that one window shows at the same scale are one part; so are two of an image of the model's size.
        assert_eq!(plan(640, 480, &[(100, 100, 4, 4), (120, 110, 4, 4)], 2.0).len(), 1);
        assert_eq!(plan(64, 64, &[(0, 0, 1, 1), (63, 63, 1, 1)], 2.0).len(), 1);
        // Rectangles that cross are one, or a pixel would have two painters.
        assert_eq!(plan(2000, 2000, &[(0, 500, 1000, 1), (500, 0, 1, 1000)], 2.0).len(), 1);
        assert!(plan(64, 64, &[], 2.0).is_empty());
    }

    #[test]
    fn every_masked_pixel_has_one_painter_who_sees_it() {
        for seed in 0..12u32 {
            let (width, height) = (300 + seed * 171, 900 - seed * 70);
            let hash = |x: u32, y: u32| (x / 9 * 7919 + y / 7 * 104_729 + seed * 31).wrapping_mul(2_654_435_761) >> 8;
            let mask = Mask::from_fn(width, height, |x, y| hash(x, y) % (40 + 100 * seed) == 0).unwrap();
            for windows in [Windows::Shape, Windows::Parts] {
                let jobs = inpaint(&mask, SHAPE, 2.0, Feather::Pixels(3), windows).unwrap();
                assert!(!jobs.is_empty() && jobs.len() <= MAX_COMPONENTS, "{} windows", jobs.len());
                for y in 0..height {
                    for x in (0..width).filter(|&x| mask.contains(x, y)) {
                        let painters: Vec<_> = jobs.iter().filter(|job| job.paint.contains(x, y)).collect();
                        assert_eq!(painters.len(), 1, "({x},{y})");
                        let window = painters[0].window;
                        assert!(window.columns(width).contains(&x) && window.rows(height).contains(&y));
                    }
                }
            }
        }
    }

    fn along(mask: &Mask) -> Vec<Job> {
        inpaint(mask, SHAPE, 2.0, Feather::Auto, Windows::Shape).unwrap()
    }

    #[test]
    fn windows_follow_a_thin_shape() {
        let (width, height) = (512u32, 384u32);
        let from = |x: u32, y: u32| f64::hypot(f64::from(x) - 250.0, f64::from(y) - 190.0);
        for (what, mask, most) in [
            ("a wire", Mask::from_fn(width, height, |x, y| x * 3 / 4 == y).unwrap(), 32),
            ("a vertical line", Mask::from_boxes(width, height, &[Rect::new(77, 0, 1, height)]).unwrap(), 12),
            ("a ring", Mask::from_fn(width, height, |x, y| (from(x, y) - 120.0).abs() < 2.0).unwrap(), 32),
            ("dots", Mask::from_fn(width, height, |x, y| x % 97 == 50 && y % 101 == 40).unwrap(), 32),
            ("a bar", Mask::from_boxes(width, height, &[Rect::new(10, 100, 480, 20)]).unwrap(), 16),
        ] {
            let jobs = along(&mask);
            assert!(jobs.len() > 5 && jobs.len() <= most, "{what}: {}", jobs.len());
            let coarsest = jobs.iter().map(|job| job.window.width).max().unwrap();
            assert!(coarsest <= 96, "{what}: {coarsest}");
            for (i, a) in jobs.iter().enumerate() {
                assert!(jobs[..i].iter().all(|b| !a.paint.meets(b.paint)), "{what}");
            }
        }
        // What is thick stays whole, so that no windows paint parts of one thing that do not know of each other.
        for (what, mask) in [
            ("a box", Mask::from_boxes(width, height, &[Rect::new(100, 80, 300, 140)]).unwrap()),
            ("a disc", Mask::from_fn(width, height, |x, y| from(x, y) < 120.0).unwrap()),
            (
                "a disc on a stick",
                Mask::from_fn(width, height, |x, y| from(x, y) < 90.0 || (x == 250 && y > 190)).unwrap(),
            ),
            ("dots everywhere", Mask::from_fn(width, height, |x, y| x % 16 == 3 && y % 16 == 4).unwrap()),
        ] {
            assert_eq!(along(&mask), inpaint(&mask, SHAPE, 2.0, Feather::Auto, Windows::Parts).unwrap(), "{what}");
            assert_eq!(along(&mask).len(), 1, "{what}");
        }
    }

    #[test]
    fn weights_below_half_have_a_painter_but_draw_nothing_alone() {
        let image = image::GrayImage::from_fn(400, 300, |x, y| {
            let near = 255i32 - 12 * (x as i32 - 150).abs().max((y as i32 - 80).abs());
            image::Luma([if x == 390 { 100 } else { near.clamp(0, 255) as u8 }])
        });
        let mask = Mask::from_image(&image).unwrap();
        let jobs = along(&mask);
        assert_eq!(jobs.iter().map(|job| job.paint).collect::<Vec<_>>(), [Rect::new(129, 59, 43, 43)]);
    }

    #[test]
    fn ranges_are_checked() {
        let mask = Mask::all(8, 8).unwrap();
        for context in [0.0, 0.99, f32::NAN, f32::INFINITY, -1.0] {
            assert!(inpaint(&mask, SHAPE, context, Feather::Gaussian, Windows::Shape).is_err(), "{context}");
        }
        assert!(inpaint(&mask, SHAPE, 2.0, Feather::Pixels(u32::MAX), Windows::Shape).is_err());
        assert!(
            inpaint(&mask, Shape { grid: GridSize { rows: 16, cols: 0 }, ..SHAPE }, 2.0, Feather::Auto, Windows::Shape)
                .is_err()
        );
    }
}
