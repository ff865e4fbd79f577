//! From a request to what is to be done: windows in stages, and what every result starts from.

use std::borrow::Cow;
use std::sync::Arc;

use image::RgbImage;
use maskgit_core::{Error, Result, Shape, copied};
use maskgit_geometry::{
    self as geometry, Blend, Feather, Job, Mask, Planes, Rect, StagedJob, Stages, TokenMask, Window,
};
use maskgit_sample::Draws;

use super::request::{Edge, Request, Subject};

/// The step of the draws that choose a variation's tokens: beyond any that the sampler runs.
const CHOICE: usize = u32::MAX as usize;

/// What a request does.
pub(super) struct Plan {
    pub(super) stages: Stages,
    pub(super) work: Work,
    /// Pixels that are never painted and whose colour nobody knows; of the size of what windows are painted over.
    hidden: Option<Mask>,
    shape: Shape,
}

/// How windows become images.
pub(super) enum Work {
    /// Every token is drawn; what is decoded is the image.
    Blank,
    /// The tokens under the mask are drawn; over the image with a feather.
    Paint { base: RgbImage, mask: Mask, edge: Edge },
    /// This part of all tokens, chosen by the seed, is drawn; in place of the image.
    Vary { base: Arc<RgbImage>, mask: Mask, strength: f32 },
}

impl Plan {
    /// The plan of a request that [`Request::resolve`] found right.
    pub(super) fn new(request: &Request, shape: Shape) -> Result<Self> {
        let whole = |window: Window, size: (u32, u32)| {
            let job = Job { window, paint: Rect::new(0, 0, size.0, size.1) };
            vec![vec![StagedJob { index: 0, job, shared: true }]]
        };
        let edge = request.edge;
        let (stages, work) = match &request.subject {
            Subject::Blank => {
                let size = (shape.image.width, shape.image.height);
                (whole(Window::whole(size.0, size.1, shape), size), Work::Blank)
            }
            Subject::Vary { image, strength } => {
                shape.check()?;
                let size = image.dimensions();
                let mask = Mask::none(size.0, size.1)?;
                let work = Work::Vary { base: Arc::clone(image), mask, strength: *strength };
                (whole(Window::whole(size.0, size.1, shape), size), work)
            }
            Subject::Edit { image, mask, context, windows } => {
                let jobs = geometry::inpaint(mask, shape, *context, edge.feather, *windows)?;
                paint(copy(image)?, mask.try_clone()?, &jobs, edge, shape)
            }
            Subject::Outpaint { image, sides } => {
                let feather = if edge.feather == Feather::Auto { Feather::Gaussian } else { edge.feather };
                let edge = Edge { feather, ..edge };
                let (jobs, mask) = geometry::outpaint(image.width(), image.height(), sides, shape)?;
                paint(sides.extend(image)?, mask, &jobs, edge, shape)
            }
        };
        Ok(Self { stages, hidden: hidden(request, &work)?, work, shape })
    }

    /// Every window, in the order in which they are painted.
    pub(super) fn windows(&self) -> Vec<Window> {
        let mut jobs: Vec<&StagedJob> = self.stages.iter().flatten().collect();
        jobs.sort_unstable_by_key(|job| job.index);
        jobs.iter().map(|job| job.job.window).collect()
    }

    /// The most windows of a stage; at least 1.
    pub(super) fn widest(&self) -> usize {
        self.stages.iter().map(Vec::len).max().unwrap_or(1).max(1)
    }

    /// Whether windows are encoded before they are drawn.
    pub(super) fn encodes(&self) -> bool {
        !matches!(self.work, Work::Blank)
    }

    /// What an image takes that is between two stages, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match &self.work {
            Work::Paint { base, .. } if self.stages.len() > 1 => base.as_raw().len(),
            _ => 0,
        }
    }

    /// The mask of what is still to be painted, before the first stage.
    pub(super) fn mask(&self) -> Result<Option<Mask>> {
        match &self.work {
            Work::Blank => Ok(None),
            Work::Paint { mask, .. } | Work::Vary { mask, .. } => mask.try_clone().map(Some),
        }
    }

    /// What windows are painted over; without pixels where the decoded window is the whole result.
    pub(super) fn start(&self) -> Result<RgbImage> {
        match &self.work {
            Work::Paint { base, .. } => copy(base),
            Work::Blank | Work::Vary { .. } => Ok(RgbImage::default()),
        }
    }

    /// A window as the encoder takes it: of `image`, or of what every result starts from.
    pub(super) fn planes(&self, image: Option<&RgbImage>, left: &Mask, window: Window) -> Result<Vec<f32>> {
        let image = match (&self.work, image) {
            (_, Some(image)) => image,
            (Work::Paint { base, .. }, None) => base,
            (Work::Vary { base, .. }, None) => base,
            (Work::Blank, None) => return Err(Error::internal("there is nothing to encode")),
        };
        Ok(Planes::read(image, left, self.hidden.as_ref(), window, self.shape)?.to_planes())
    }

    /// Gives hidden pixels of a window their stored colours again, where a feather went over them.
    fn keep_hidden(&self, window: Window, image: &mut RgbImage, base: &RgbImage) {
        let Some(hidden) = &self.hidden else { return };
        for y in window.rows(base.height()) {
            for x in window.columns(base.width()).filter(|&x| hidden.contains(x, y)) {
                image.put_pixel(x, y, *base.get_pixel(x, y));
            }
        }
    }

    /// Prepares a stage: `left` is what is still to be painted.
    pub(super) fn stage<'p>(&'p self, index: usize, left: Option<&'p Mask>) -> Result<Stage<'p>> {
        let jobs = self.stages.get(index).map(Vec::as_slice).unwrap_or_default();
        let (mut marks, mut blends) = (Vec::new(), Vec::new());
        if let (Work::Paint { base, edge, .. }, Some(left)) = (&self.work, left) {
            let everywhere = Rect::new(0, 0, base.width(), base.height());
            for staged in jobs {
                let touched = TokenMask::touched(left, staged.job.window, everywhere, self.shape);
                marks.push(touched.dilated(edge.dilation).marks().to_vec());
                blends.push(Blend::new(left, staged.job, edge.feather, edge.dilation, self.shape)?);
            }
        }
        Ok(Stage { plan: self, index, jobs, left, marks, blends })
    }
}

/// The pixels of unknown colour that a request does not paint, at their places in what windows are painted over.
fn hidden(request: &Request, work: &Work) -> Result<Option<Mask>> {
    let Some(unknown) = &request.unknown else { return Ok(None) };
    match (&request.subject, work) {
        (_, Work::Blank) => Ok(None),
        (_, Work::Vary { .. }) => unknown.try_clone().map(Some),
        (subject, Work::Paint { base, mask, .. }) => {
            let (left, top) = match subject {
                Subject::Outpaint { sides, .. } => (sides.left, sides.top),
                _ => (0, 0),
            };
            let hidden = |x: u32, y: u32| {
                let place = x.checked_sub(left).zip(y.checked_sub(top));
                place.is_some_and(|(x, y)| unknown.contains(x, y)) && !mask.contains(x, y)
            };
            Mask::from_fn(base.width(), base.height(), hidden).map(Some)
        }
    }
}

/// The windows of an inpainting or outpainting in stages. What is repainted entirely must not show in previews
/// either: it is grey.
fn paint(mut base: RgbImage, mask: Mask, jobs: &[Job], edge: Edge, shape: Shape) -> (Stages, Work) {
    for (x, y, pixel) in base.enumerate_pixels_mut() {
        if mask.weight(x, y) == u8::MAX {
            pixel.0 = [127; 3];
        }
    }
    let stages = geometry::stages(jobs, edge.feather, edge.dilation, shape, base.width(), base.height());
    (stages, Work::Paint { base, mask, edge })
}

/// Differences between what windows show and what the model makes of it: their sum, 0 to 255 each, and how many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fit {
    sum: u64,
    count: u64,
}

impl Fit {
    pub(super) fn add(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// The mean; none where there was nothing to compare.
    pub(super) fn mean(self) -> Option<f32> {
        (self.count > 0).then(|| (self.sum as f64 / self.count as f64) as f32)
    }
}

/// The windows that are drawn at the same time.
pub(super) struct Stage<'p> {
    plan: &'p Plan,
    pub(super) index: usize,
    pub(super) jobs: &'p [StagedJob],
    left: Option<&'p Mask>,
    /// For each window the tokens that are drawn; of a painting.
    marks: Vec<Vec<bool>>,
    /// For each window how it goes over the image; of a painting.
    blends: Vec<Blend>,
}

impl Stage<'_> {
    /// The number of stages.
    pub(super) fn of(&self) -> usize {
        self.plan.stages.len()
    }

    /// What windows are painted over.
    pub(super) fn start(&self) -> Result<RgbImage> {
        self.plan.start()
    }

    /// Which of `n` tokens window `place` of the stage draws of the image with this seed.
    fn marks(&self, place: usize, seed: u64, n: usize) -> Cow<'_, [bool]> {
        match &self.plan.work {
            Work::Blank => Cow::Owned(vec![true; n]),
            Work::Paint { .. } => Cow::Borrowed(self.marks.get(place).map(Vec::as_slice).unwrap_or_default()),
            Work::Vary { strength, .. } => Cow::Owned(chosen(n, *strength, seed)),
        }
    }

    /// Masks the tokens that window `place` of the stage draws of the image with this seed.
    pub(super) fn mask_tokens(&self, place: usize, seed: u64, tokens: &mut [i64], mask_id: i64) {
        let marks = self.marks(place, seed, tokens.len());
        for (token, _) in tokens.iter_mut().zip(marks.iter()).filter(|(_, mark)| **mark) {
            *token = mask_id;
        }
    }

    /// How far the decoded window `place` of the image with this seed is from what the encoder was shown, where tokens
    /// were kept.
    pub(super) fn fit(&self, place: usize, seed: u64, shown: &[u8], decoded: &RgbImage) -> Fit {
        let Shape { image, grid } = self.plan.shape;
        let marks = self.marks(place, seed, (grid.rows as usize).saturating_mul(grid.cols as usize));
        let cell = |at: u32, length: u32, count: u32| (u64::from(at) * u64::from(count) / u64::from(length)) as usize;
        let mut fit = Fit::default();
        for ((x, y, pixel), shown) in decoded.enumerate_pixels().zip(shown.chunks_exact(3)) {
            let token = cell(y, image.height, grid.rows) * grid.cols as usize + cell(x, image.width, grid.cols);
            if marks.get(token) == Some(&false) {
                fit.sum += pixel.0.iter().zip(shown).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
                fit.count += 3;
            }
        }
        fit
    }

    /// Puts the decoded window `place` of the stage into an image.
    pub(super) fn apply(&self, place: usize, image: &mut RgbImage, decoded: RgbImage) -> Result<()> {
        let window = self.jobs.get(place).map(|staged| staged.job.window);
        match (&self.plan.work, window, self.blends.get(place), self.left) {
            (Work::Blank, ..) => *image = decoded,
            (Work::Vary { base, .. }, Some(window), ..) => {
                *image = geometry::enlarge(&decoded, window, base.width(), base.height())?;
            }
            (Work::Paint { base, .. }, Some(window), Some(blend), Some(left)) => {
                blend.apply(image, left, &decoded)?;
                self.plan.keep_hidden(window, image, base);
            }
            _ => return Err(Error::internal("a window without a place")),
        }
        Ok(())
    }
}

/// A copy; an error when there is no memory for it.
pub(super) fn copy(image: &RgbImage) -> Result<RgbImage> {
    let pixels = copied(image.as_raw(), "a copy of the image")?;
    RgbImage::from_raw(image.width(), image.height(), pixels)
        .ok_or_else(|| Error::internal("an image's buffer does not have its size"))
}

/// The round(`strength` n) positions with the smallest draws of this seed: a larger strength draws these and others.
fn chosen(n: usize, strength: f32, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| {
        let draw = |position| Draws::new(seed, CHOICE, position).token;
        draw(a).total_cmp(&draw(b)).then(a.cmp(&b))
    });
    let mut marks = vec![false; n];
    let count = (f64::from(strength) * n as f64).round() as usize;
    order.iter().take(count).for_each(|&position| marks[position] = true);
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_strength_draws_more_of_the_same() {
        let count = |marks: &[bool]| marks.iter().filter(|&&m| m).count();
        let mut before = vec![false; 256];
        for (strength, expected) in [(0.0, 0), (0.1, 26), (0.5, 128), (0.999, 256), (1.0, 256)] {
            let marks = chosen(256, strength, 7);
            assert_eq!(count(&marks), expected, "{strength}");
            assert!(before.iter().zip(&marks).all(|(&a, &b)| !a || b));
            before = marks;
        }
        assert_ne!(chosen(256, 0.5, 7), chosen(256, 0.5, 8));
        assert_eq!(chosen(256, 0.5, 7), chosen(256, 0.5, 7));
    }
}
