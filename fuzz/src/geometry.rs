//! Masks and the geometry of edits: what must hold for any mask, image and model.

use image::{GrayImage, Luma, Rgb, RgbImage};
use maskgit_core::{GridSize, ImageSize, Result, Shape};
use maskgit_geometry::{
    Blend, Feather, Job, MAX_COMPONENTS, MAX_FEATHER, Mask, Outpaint, Planes, Rect, TokenMask, Window, Windows,
    inpaint, outpaint, stages,
};

/// Numbers out of bytes; zeros after their end.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// 0 to `most`.
    fn to(&mut self, most: u32) -> u32 {
        u32::from(self.byte()) % (most + 1)
    }

    /// Mostly a plain number, sometimes any.
    fn float(&mut self) -> f32 {
        match self.byte() {
            255 => f32::from_bits(self.word()),
            byte => f32::from(byte) / 16.0,
        }
    }

    /// Mostly a small number, sometimes any.
    fn length(&mut self) -> u32 {
        match self.byte() {
            255 => self.word(),
            byte => u32::from(byte),
        }
    }
}

/// What an edit is made of.
struct Edit {
    size: (u32, u32),
    shape: Shape,
    feather: Feather,
    dilation: usize,
}

/// A mask of a small image, its windows, what each paints, and an outpainting of the image.
pub fn geometry(bytes: &[u8]) -> Result<()> {
    let mut numbers = Numbers(bytes);
    let size = (numbers.to(96), numbers.to(96));
    let grid = GridSize { rows: numbers.to(6), cols: numbers.to(6) };
    let image = ImageSize { height: grid.rows * numbers.to(8), width: grid.cols * numbers.to(8) };
    let feather = match numbers.to(5) {
        0 => Feather::Gaussian,
        1 => Feather::Pixels(numbers.length()),
        2 => Feather::Pixels(numbers.to(12)),
        3 => Feather::Pixels(0),
        _ => Feather::Auto,
    };
    let edit = Edit { size, shape: Shape { image, grid }, feather, dilation: numbers.to(3) as usize };
    let (context, windows) = (numbers.float(), if numbers.to(1) == 0 { Windows::Shape } else { Windows::Parts });
    let extension = Outpaint {
        left: numbers.length(),
        right: numbers.length(),
        top: numbers.length(),
        bottom: numbers.length(),
        window: Some(numbers.length()).filter(|_| numbers.to(1) == 0),
        overlap: numbers.float(),
    };
    let repainted = mask(&mut numbers, size).and_then(|mask| repaint(&edit, &mask, context, windows));
    let extended = extend(&edit, &extension);
    repainted.and(extended)
}

/// Boxes, as many as the next number says, and then pixels.
fn mask(numbers: &mut Numbers<'_>, (width, height): (u32, u32)) -> Result<Mask> {
    let mut boxes = Mask::none(width, height)?;
    for _ in 0..numbers.to(8) {
        let rect = Rect::new(numbers.length(), numbers.length(), numbers.length(), numbers.length());
        let before = boxes.try_clone()?;
        let inside = rect.width > 0
            && rect.height > 0
            && u64::from(rect.x) + u64::from(rect.width) <= u64::from(width)
            && u64::from(rect.y) + u64::from(rect.height) <= u64::from(height);
        assert_eq!(boxes.add(rect).is_ok(), inside, "{rect:?} in {width}x{height}");
        assert!(inside || boxes == before, "a box that was refused was drawn");
    }
    let pixels =
        GrayImage::from_fn(width, height, |x, y| Luma([if boxes.contains(x, y) { 255 } else { numbers.byte() }]));
    Mask::from_image(&pixels)
}

fn repaint(edit: &Edit, mask: &Mask, context: f32, windows: Windows) -> Result<()> {
    let jobs = inpaint(mask, edit.shape, context, edit.feather, windows)?;
    assert!(jobs.len() <= MAX_COMPONENTS, "{} windows", jobs.len());
    assert_eq!(jobs.is_empty(), mask.is_empty(), "windows without a mask, or a mask without windows");
    assert!(jobs.is_sorted_by_key(|job| (job.paint.y, job.paint.x)));
    for job in &jobs {
        lies(job, edit.size);
    }
    paint(edit, mask, &jobs)
}

/// A window lies in the image where it is no larger, and else shows all of it; what it paints lies in it.
fn lies(job: &Job, (width, height): (u32, u32)) {
    let Job { window, paint } = *job;
    for (start, length, side) in [(window.x, window.width, width), (window.y, window.height, height)] {
        let (end, side) = (start + i64::from(length), i64::from(side));
        assert!(length > 0);
        let inside = start >= 0 && end <= side;
        let around = start <= 0 && end >= side;
        assert!(inside || around, "{window:?} in {width}x{height}");
    }
    let shown = window.inside(width, height);
    assert!(paint.width > 0 && paint.height > 0 && paint.clipped(shown) == paint, "{job:?}: {shown:?}");
}

const OLD: Rgb<u8> = Rgb([0, 10, 20]);
const NEW: Rgb<u8> = Rgb([200, 210, 220]);

/// Paints the windows of a mask one after another: every pixel of full weight is new, and what is far from all that is
/// painted keeps its bytes.
fn paint(edit: &Edit, mask: &Mask, jobs: &[Job]) -> Result<()> {
    let (width, height) = (mask.width(), mask.height());
    let mut image = RgbImage::from_pixel(width, height, OLD);
    let decoded = RgbImage::from_pixel(edit.shape.image.width, edit.shape.image.height, NEW);
    let (mut left, mut changed) = (mask.try_clone()?, Mask::none(width, height)?);
    for job in jobs {
        let reach = edit.feather.reach(edit.shape, edit.dilation, job.window);
        changed.add(job.paint.grown(reach).clipped(job.window.inside(width, height)))?;
        let planes = Planes::read(&image, &left, None, job.window, edit.shape)?;
        assert!(planes.to_planes().iter().all(|value| (0.0..=1.0).contains(value)));
        let tokens = TokenMask::touched(&left, job.window, job.paint, edit.shape);
        let grown = tokens.dilated(edit.dilation);
        assert_eq!(tokens.marks().len(), edit.shape.grid.len());
        assert!(tokens.marks().iter().zip(grown.marks()).all(|(mark, grown)| *grown || !mark));
        Blend::new(&left, *job, edit.feather, edit.dilation, edit.shape)?.apply(&mut image, &left, &decoded)?;
        left.clear(job.paint);
    }
    assert!(left.is_empty(), "masked pixels that no window paints");
    for (x, y, pixel) in image.enumerate_pixels() {
        assert!(mask.weight(x, y) < 255 || *pixel == NEW, "({x},{y}) has full weight and is {pixel:?}");
        assert!(changed.contains(x, y) || *pixel == OLD, "({x},{y}) is far from the mask and is {pixel:?}");
    }
    staged(edit, jobs, (width, height));
    Ok(())
}

/// Every window is in one stage, and no window comes before one that it shows the work of.
fn staged(edit: &Edit, jobs: &[Job], (width, height): (u32, u32)) {
    let staged = stages(jobs, edit.feather, edit.dilation, edit.shape, width, height);
    let mut level = vec![None; jobs.len()];
    for (stage, windows) in staged.iter().enumerate() {
        assert!(!windows.is_empty());
        for window in windows {
            assert_eq!(jobs[window.index], window.job);
            assert_eq!(level[window.index].replace(stage), None, "a window is in two stages");
        }
    }
    let shows = |window: Window, rect: Rect| {
        let both = rect.clipped(window.inside(width, height));
        both.width > 0 && both.height > 0
    };
    for (later, job) in jobs.iter().enumerate() {
        assert!(level[later].is_some(), "a window is in no stage");
        for (earlier, before) in jobs.iter().enumerate().take(later) {
            assert!(!shows(job.window, before.paint) || level[earlier] < level[later], "{before:?} before {job:?}");
            assert!(!shows(before.window, job.paint) || level[earlier] <= level[later], "{job:?} before {before:?}");
        }
    }
}

/// The largest extended image that is painted here, in pixels.
const MOST: u64 = 1 << 14;

fn extend(edit: &Edit, request: &Outpaint) -> Result<()> {
    let (width, height) = edit.size;
    let (full, old) = request.extent(width, height)?;
    assert_eq!(old, Rect::new(request.left, request.top, width, height));
    assert_eq!(old.clipped(Rect::new(0, 0, full.0, full.1)), old);
    if u64::from(full.0) * u64::from(full.1) > MOST {
        return Ok(());
    }
    let (jobs, mask) = outpaint(width, height, request, edit.shape)?;
    for y in 0..full.1 {
        for x in 0..full.0 {
            assert!(mask.contains(x, y) != old.contains(x, y), "({x},{y})");
        }
    }
    let mut left = mask.try_clone()?;
    for job in &jobs {
        lies(job, full);
        let before = left.count();
        left.clear(job.paint);
        assert!(left.count() < before, "{job:?} paints nothing");
    }
    assert!(left.is_empty(), "new pixels that no window paints");
    let extended = request.extend(&RgbImage::from_pixel(width, height, NEW))?;
    assert!(extended.enumerate_pixels().all(|(x, y, &pixel)| (pixel == NEW) == old.contains(x, y)));
    // Thousands of windows are right, and slow.
    let narrow = matches!(edit.feather, Feather::Pixels(pixels) if pixels > MAX_FEATHER);
    if jobs.len() <= MAX_COMPONENTS && !narrow {
        paint(edit, &mask, &jobs)?;
    }
    Ok(())
}
