//! Editing: inpainting, outpainting, variations and reconstruction.

use std::cell::RefCell;
use std::time::Instant;

use image::RgbImage;

use super::graphs::{check_tokens, to_image};
use super::{
    Generator, MAX_COUNT, Observer, Part, Picture, Predictor, Progress, Request, Timings, decode_part, find_label,
    go_on, label_input, recommended,
};
use crate::canvas::{self, Blend, Feather, Job, Mask, Outpaint, Planes, Shape, TokenMask, Window};
use crate::error::{Error, Result};
use crate::sample::{Canvas, Draws, Guidance, Options, part_seed};

/// The most bytes that the pictures of one edit may take together: 2 GiB.
pub const MAX_RESULT_BYTES: u64 = 2 << 30;

/// The step of the draws that choose a variation's tokens: beyond any that the sampler runs.
const CHOICE: usize = u32::MAX as usize;

/// How to edit.
#[derive(Clone, Debug, PartialEq)]
pub struct EditRequest {
    /// The class to draw, an index into the manifest's labels. `None` draws without one, by the null label.
    pub label: Option<usize>,
    /// The seed of the first result; result `i` has seed `seed + i` (modulo 2⁶⁴).
    pub seed: u64,
    /// The number of results, 1 to [`MAX_COUNT`].
    pub count: usize,
    /// How to sample. `start_iter` above 0 leaves out the first steps, as Google's editing does (2 of 12).
    pub options: Options,
    /// Rings of tokens that are drawn around those that the mask touches. 1 unless set.
    pub dilation: usize,
    /// How the edge fades into the picture.
    pub feather: Feather,
    /// How much larger a window is than the part of the mask that it repaints, 1 or more; at least the model's size and at most
    /// the picture. 2 unless set. Only [`Generator::edit`] uses it.
    pub context: f32,
}

/// What an edit returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Edited {
    /// The results, in the order of their seeds.
    pub images: Vec<Picture>,
    /// The windows that were drawn, in their order. Empty: there was nothing to draw, and the results are the picture as it was.
    pub windows: Vec<Window>,
    /// How long it took.
    pub timings: Timings,
}

/// Which tokens of a window are drawn, and where its result goes.
enum Work<'a> {
    /// The tokens under what is not painted yet; over the picture with a feather.
    Paint(&'a [Job]),
    /// This part of all tokens, chosen by the seed; in place of the picture.
    Vary(f32, Window),
}

impl Generator {
    /// A request to edit with a class, named as [`find_label`] takes it, or without one: one result, seed 0, the
    /// settings that the model recommends, one ring of dilation, Google's feather, context 2.
    ///
    /// # Errors
    ///
    /// As [`Generator::request`].
    pub fn edit_request(&self, class: Option<&str>) -> Result<EditRequest> {
        Ok(EditRequest {
            label: class.map(|class| find_label(self.manifest(), class)).transpose()?,
            seed: 0,
            count: 1,
            options: recommended(self.manifest())?,
            dilation: 1,
            feather: Feather::default(),
            context: 2.0,
        })
    }

    /// Checks a request against the model without drawing.
    ///
    /// # Errors
    ///
    /// As [`Generator::check`]; kind [`Request`](crate::ErrorKind::Request) when there is no class and the model has no null
    /// label, or the feather or the context is out of range.
    pub fn check_edit(&self, request: &EditRequest) -> Result<()> {
        let EditRequest { label, seed, count, .. } = *request;
        self.check(&Request { label: label.unwrap_or(0), seed, count, options: options(request) })?;
        if label.is_none() && self.manifest().null_label.is_none() {
            return Err(Error::request("this model has no null label, so it cannot draw without a class: give one"));
        }
        request.feather.check()?;
        if !(1.0..=canvas::MAX_CONTEXT).contains(&request.context) {
            return Err(Error::request(format!(
                "the context is {}; it must be 1 to {}",
                request.context,
                canvas::MAX_CONTEXT
            )));
        }
        Ok(())
    }

    /// Repaints the masked pixels of a picture of any size; an empty mask gives the picture back.
    ///
    /// Each part of the mask is brought to the model in a window of its own (see [`canvas::inpaint`]). Tokens that the mask touches, and
    /// `dilation` rings around them, are drawn; the others keep what the encoder gives. The decoded window goes over the picture with the
    /// feather. Pixels farther from the mask than [`Feather::reach`] keep their bytes. Nothing depends on the pixels under the mask:
    /// they are filled from unmasked ones before anything else sees them.
    ///
    /// # Errors
    ///
    /// As [`Generator::check_edit`]; kind [`Request`](crate::ErrorKind::Request) when the mask has another size than the picture, the
    /// model has no encoder, or the results take more than [`MAX_RESULT_BYTES`]; [`Cancelled`](crate::ErrorKind::Cancelled);
    /// [`Engine`](crate::ErrorKind::Engine).
    pub fn edit(
        &mut self,
        image: &RgbImage,
        mask: &Mask,
        request: &EditRequest,
        observer: &mut dyn Observer,
    ) -> Result<Edited> {
        self.check_edit(request)?;
        if image.dimensions() != (mask.width(), mask.height()) {
            return Err(Error::request(format!(
                "the mask is {}x{} pixels, and the picture {}x{}: they must have one size",
                mask.width(),
                mask.height(),
                image.width(),
                image.height()
            )));
        }
        let jobs = canvas::inpaint(mask, self.shape()?, request.context, request.feather)?;
        self.run(image, mask, &Work::Paint(&jobs), request, observer)
    }

    /// Extends a picture by any number of pixels on any sides, in windows that overlap, each drawn from what is there already (see
    /// [`canvas::outpaint`]). Beside the results it takes the memory of one window.
    ///
    /// # Errors
    ///
    /// As [`Generator::edit`] and [`canvas::outpaint`].
    pub fn outpaint(
        &mut self,
        image: &RgbImage,
        outpaint: &Outpaint,
        request: &EditRequest,
        observer: &mut dyn Observer,
    ) -> Result<Edited> {
        self.check_edit(request)?;
        // Refused before it is allocated.
        let ((width, height), _) = outpaint.extent(image.width(), image.height())?;
        check_bytes(width, height, request.count)?;
        let (jobs, mask) = canvas::outpaint(image.width(), image.height(), outpaint, self.shape()?)?;
        self.run(&outpaint.extend(image)?, &mask, &Work::Paint(&jobs), request, observer)
    }

    /// Draws variations of a whole picture: of its N tokens, round(`strength` N), chosen by the seed, are drawn anew among the
    /// others. The picture is one window; the result has its size.
    ///
    /// `strength` is 0 to 1: 0 is [`Generator::reconstruct`], 1 keeps nothing. Dilation, feather and context play no part.
    ///
    /// # Errors
    ///
    /// As [`Generator::edit`]; kind [`Request`](crate::ErrorKind::Request) when `strength` is out of range.
    pub fn vary(
        &mut self,
        image: &RgbImage,
        strength: f32,
        request: &EditRequest,
        observer: &mut dyn Observer,
    ) -> Result<Edited> {
        self.check_edit(request)?;
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::request(format!("the strength is {strength}; it must be 0 to 1")));
        }
        let mask = Mask::none(image.width(), image.height())?;
        let window = Window::whole(image.width(), image.height(), self.shape()?);
        self.run(image, &mask, &Work::Vary(strength, window), request, observer)
    }

    /// Encodes a picture of any size, as one window, and decodes it: what the model's tokens can hold of it. Gives the tokens too.
    ///
    /// # Errors
    ///
    /// Kind [`Request`](crate::ErrorKind::Request) when the picture has no pixels or the model no encoder,
    /// [`Engine`](crate::ErrorKind::Engine).
    pub fn reconstruct(&mut self, image: &RgbImage) -> Result<(RgbImage, Vec<i64>)> {
        let (width, height) = image.dimensions();
        let (mask, shape) = (Mask::none(width, height)?, self.shape()?);
        let window = Window::whole(width, height, shape);
        let tokens = self.encode_raw(&Planes::read(image, &mask, window, shape)?.to_planes())?;
        let decoded = self.decode(&tokens)?;
        Ok((canvas::enlarge(&decoded, window, width, height)?, tokens))
    }

    /// The model's picture and grid.
    fn shape(&self) -> Result<Shape> {
        let (image, grid) = (self.manifest().image, self.manifest().grid);
        let side = |length: usize| {
            u32::try_from(length).map_err(|_| Error::request(format!("a model with a side of {length} cannot edit")))
        };
        let shape = Shape {
            width: side(image.width)?,
            height: side(image.height)?,
            rows: side(grid.rows)?,
            cols: side(grid.cols)?,
        };
        shape.check()?;
        Ok(shape)
    }

    /// Draws all results. Each starts from the picture again, so a result does not depend on the others.
    fn run(
        &mut self,
        image: &RgbImage,
        mask: &Mask,
        work: &Work<'_>,
        request: &EditRequest,
        observer: &mut dyn Observer,
    ) -> Result<Edited> {
        let start = Instant::now();
        check_bytes(image.width(), image.height(), request.count)?;
        let options = options(request);
        let windows: Vec<Window> = match work {
            Work::Paint(jobs) => jobs.iter().map(|job| job.window).collect(),
            Work::Vary(_, window) => vec![*window],
        };
        let run_steps = options.steps.saturating_sub(options.start_iter);
        let passes = if options.guidance.scale == 0.0 { 1 } else { 2 };
        let mut drawing = Drawing {
            request,
            options,
            observer: RefCell::new(observer),
            done: 0,
            total: run_steps.saturating_mul(passes).saturating_mul(windows.len()).saturating_mul(request.count),
            timings: Timings { steps: vec![0.0; run_steps], ..Timings::default() },
        };
        let mut images = Vec::with_capacity(request.count);
        for index in 0..request.count {
            let picture = match work {
                Work::Paint(jobs) => self.paint(image, mask, jobs, index, &mut drawing)?,
                Work::Vary(strength, window) => {
                    self.vary_one((image, mask), *strength, *window, index, &mut drawing)?
                }
            };
            images.push(picture);
            let event = Progress::Decoded { done: images.len(), total: request.count };
            go_on(drawing.observer.borrow_mut().progress(&event))?;
        }
        let mut timings = drawing.timings;
        timings.total = start.elapsed().as_secs_f64();
        Ok(Edited { images, windows, timings })
    }

    /// Paints the windows of one result, each over what the ones before it left.
    fn paint(
        &mut self,
        image: &RgbImage,
        mask: &Mask,
        jobs: &[Job],
        index: usize,
        drawing: &mut Drawing<'_>,
    ) -> Result<Picture> {
        let (shape, request) = (self.shape()?, drawing.request);
        let (width, height) = image.dimensions();
        let everywhere = canvas::Rect::new(0, 0, width, height);
        let mut picture = Picture {
            seed: request.seed.wrapping_add(index as u64),
            image: copy(image)?,
            tokens: Vec::new(),
            masked: Vec::new(),
        };
        let mut left = mask.try_clone()?;
        // What is under the mask must not show in previews either.
        for (x, y, pixel) in picture.image.enumerate_pixels_mut() {
            if left.contains(x, y) {
                pixel.0 = [127; 3];
            }
        }
        for (place, job) in jobs.iter().enumerate() {
            let planes = Planes::read(&picture.image, &left, job.window, shape)?;
            let mut tokens = self.encode_raw(&planes.to_planes())?;
            let marks = TokenMask::touched(&left, job.window, everywhere, shape).dilated(request.dilation);
            mask_tokens(&mut tokens, marks.marks(), self.manifest().mask_id);
            let blend = Blend::new(&left, *job, request.feather, request.dilation, shape)?;
            let so_far = &picture.image;
            let show = |decoded: RgbImage| {
                let mut shown = copy(so_far)?;
                blend.apply(&mut shown, &left, &decoded)?;
                Ok(shown)
            };
            let window = (place, jobs.len());
            let (canvas, masked) = self.draw(tokens, window, index, &show, drawing)?;
            let decoded = self.decode_timed(&canvas.tokens, drawing)?;
            blend.apply(&mut picture.image, &left, &decoded)?;
            left.clear(job.paint);
            picture.tokens.extend(canvas.tokens);
            picture.masked.extend(masked);
        }
        Ok(picture)
    }

    /// Draws one variation. The mask masks nothing.
    fn vary_one(
        &mut self,
        (image, mask): (&RgbImage, &Mask),
        strength: f32,
        window: Window,
        index: usize,
        drawing: &mut Drawing<'_>,
    ) -> Result<Picture> {
        let shape = self.shape()?;
        let seed = drawing.request.seed.wrapping_add(index as u64);
        let mut tokens = self.encode_raw(&Planes::read(image, mask, window, shape)?.to_planes())?;
        let marks = chosen(tokens.len(), strength, seed);
        mask_tokens(&mut tokens, &marks, self.manifest().mask_id);
        let (width, height) = image.dimensions();
        let show = |decoded: RgbImage| canvas::enlarge(&decoded, window, width, height);
        let (canvas, masked) = self.draw(tokens, (0, 1), index, &show, drawing)?;
        let decoded = self.decode_timed(&canvas.tokens, drawing)?;
        Ok(Picture { seed, image: show(decoded)?, tokens: canvas.tokens, masked })
    }

    /// Draws the masked tokens of one window.
    fn draw(
        &mut self,
        tokens: Vec<i64>,
        window: (usize, usize),
        index: usize,
        show: &dyn Fn(RgbImage) -> Result<RgbImage>,
        drawing: &mut Drawing<'_>,
    ) -> Result<(Canvas, Vec<usize>)> {
        let (manifest, request) = (self.graphs.manifest(), drawing.request);
        check_tokens(manifest, &tokens, true)?;
        let label = match (request.label, manifest.null_label) {
            (Some(label), _) => label_input(label)?,
            (None, Some(null)) => null,
            (None, None) => return Err(Error::request("this model has no null label: give a class")),
        };
        let seed = request.seed.wrapping_add(index as u64);
        let mut canvases = [Canvas { seed: part_seed(seed, window.0), tokens }];
        let mut predictor = Predictor {
            graphs: &self.graphs,
            blank: &mut self.blank,
            mask_id: manifest.mask_id,
            label,
            null_label: manifest.null_label,
            observer: &drawing.observer,
            done: drawing.done,
            total: drawing.total,
        };
        let part = Part { first: index, seed: request.seed, options: &drawing.options, window, show };
        let masked = decode_part(&mut canvases, &part, &mut predictor, &mut drawing.timings)?;
        drawing.done = predictor.done;
        let [canvas] = canvases;
        Ok((canvas, masked.into_iter().next().unwrap_or_default()))
    }

    fn decode_timed(&mut self, tokens: &[i64], drawing: &mut Drawing<'_>) -> Result<RgbImage> {
        let start = Instant::now();
        let manifest = self.graphs.manifest();
        let image = to_image(manifest, &self.graphs.decode(tokens)?)?;
        drawing.timings.decode += start.elapsed().as_secs_f64();
        Ok(image)
    }
}

/// What the windows of a request share.
struct Drawing<'o> {
    request: &'o EditRequest,
    /// As the sampler takes them.
    options: Options,
    observer: RefCell<&'o mut dyn Observer>,
    /// Transformer runs so far, and in the whole request.
    done: usize,
    total: usize,
    timings: Timings,
}

/// The request's options; without a class, guidance would compare the null label with itself.
fn options(request: &EditRequest) -> Options {
    let mut options = request.options;
    if request.label.is_none() {
        options.guidance = Guidance::NONE;
    }
    options
}

/// Checks the number of results and what they take together.
fn check_bytes(width: u32, height: u32, count: usize) -> Result<()> {
    if count > MAX_COUNT {
        return Err(Error::request(format!("the count must be 1 to {MAX_COUNT}, not {count}")));
    }
    let bytes = u64::from(width).saturating_mul(height.into()).saturating_mul(3).saturating_mul(count as u64);
    if bytes > MAX_RESULT_BYTES {
        return Err(Error::request(format!(
            "{count} results of {width}x{height} pixels take {bytes} bytes, more than {MAX_RESULT_BYTES}: ask for fewer at once"
        )));
    }
    Ok(())
}

/// A copy; an error when there is no memory for it.
fn copy(image: &RgbImage) -> Result<RgbImage> {
    let mut pixels = Vec::new();
    pixels
        .try_reserve_exact(image.as_raw().len())
        .map_err(|_| Error::request("no memory for a copy of the picture; use a smaller picture or fewer results"))?;
    pixels.extend_from_slice(image.as_raw());
    RgbImage::from_raw(image.width(), image.height(), pixels)
        .ok_or_else(|| Error::internal("a picture's buffer does not have its size"))
}

fn mask_tokens(tokens: &mut [i64], marks: &[bool], mask_id: i64) {
    for (token, _) in tokens.iter_mut().zip(marks).filter(|(_, mark)| **mark) {
        *token = mask_id;
    }
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
