//! What holds for every image, mask and model: edits are run as the pipeline runs them, with a decoder that draws
//! something else for whatever a window sees.
//!
//! `PROPTEST_CASES=20000` tries more of them.

use image::{GrayImage, Luma, Rgb, RgbImage};
use maskgit_core::{GridSize, ImageSize, Shape};
use maskgit_geometry::*;
use proptest::prelude::*;

fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if asked { config } else { ProptestConfig { cases: usual, ..config } }
}

/// A hash that is good enough for colours (FNV-1a).
fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b, ..] = (hash([x, y].into_iter().flat_map(u32::to_le_bytes)) ^ seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
            .to_le_bytes();
        Rgb([r, g, b])
    })
}

/// An image's size and the weights of its pixels.
#[derive(Clone, Debug)]
struct Holes {
    width: u32,
    height: u32,
    /// Left, top, width, height and weight, each anything; brought into the image by [`Holes::weights`].
    boxes: Vec<(u32, u32, u32, u32, u8)>,
}

impl Holes {
    fn weights(&self) -> GrayImage {
        let mut weights = GrayImage::new(self.width, self.height);
        for &(x, y, width, height, weight) in &self.boxes {
            let (x, y) = (x % self.width, y % self.height);
            for row in y..y.saturating_add(height).min(self.height) {
                (x..x.saturating_add(width).min(self.width)).for_each(|x| weights.put_pixel(x, row, Luma([weight])));
            }
        }
        weights
    }

    fn mask(&self) -> Mask {
        Mask::from_image(&self.weights()).unwrap()
    }
}

/// Boxes, lines and dots. `soft`: of any weight.
fn holes(soft: bool) -> impl Strategy<Value = Holes> {
    let weight = if soft { prop_oneof![Just(255), any::<u8>()].boxed() } else { Just(255).boxed() };
    let extent = prop_oneof![(1..3u32, 1..3u32), (1..40u32, 1..3u32), (1..3u32, 1..40u32), (1..30u32, 1..30u32),];
    let one = (0..1000u32, 0..1000u32, extent, weight).prop_map(|(x, y, (w, h), weight)| (x, y, w, h, weight));
    (1..90u32, 1..90u32, prop::collection::vec(one, 1..6)).prop_map(|(width, height, boxes)| Holes {
        width,
        height,
        boxes,
    })
}

/// A model's image is a multiple of its grid (`docs/bundle.md`), up to 25 pixels a side.
fn shape() -> impl Strategy<Value = Shape> {
    (1..6u32, 1..6u32, 1..6u32, 1..6u32).prop_map(|(across, down, cols, rows)| Shape {
        image: ImageSize { width: cols * across, height: rows * down },
        grid: GridSize { cols, rows },
    })
}

fn feather() -> impl Strategy<Value = Feather> {
    prop_oneof![Just(Feather::Auto), Just(Feather::Gaussian), (0..12u32).prop_map(Feather::Pixels)]
}

/// How an inpainting is asked for.
#[derive(Clone, Copy, Debug)]
struct How {
    shape: Shape,
    context: f32,
    feather: Feather,
    windows: Windows,
    dilation: usize,
}

fn how() -> impl Strategy<Value = How> {
    let windows = prop_oneof![Just(Windows::Shape), Just(Windows::Parts)];
    (shape(), 1f32..4.0, feather(), windows, 0..3usize).prop_map(|(shape, context, feather, windows, dilation)| How {
        shape,
        context,
        feather,
        windows,
        dilation,
    })
}

impl How {
    fn plan(&self, mask: &Mask) -> Vec<Job> {
        inpaint(mask, self.shape, self.context, self.feather, self.windows).unwrap()
    }

    fn stages(&self, jobs: &[Job], mask: &Mask) -> Stages {
        stages(jobs, self.feather, self.dilation, self.shape, mask.width(), mask.height())
    }

    fn blend(&self, mask: &Mask, job: Job) -> Blend {
        Blend::new(mask, job, self.feather, self.dilation, self.shape).unwrap()
    }

    /// What a model draws that hangs on all that it is shown: the colours, the tokens, which window it is.
    fn drawn(&self, image: &RgbImage, left: &Mask, index: usize, job: Job) -> RgbImage {
        let seen = Planes::read(image, left, None, job.window, self.shape).unwrap().to_planes();
        let everywhere = Rect::new(0, 0, left.width(), left.height());
        let tokens = TokenMask::touched(left, job.window, everywhere, self.shape).dilated(self.dilation);
        let seed = hash(
            seen.iter()
                .flat_map(|value| value.to_bits().to_le_bytes())
                .chain(tokens.marks().iter().map(|&mark| u8::from(mark)))
                .chain(index.to_le_bytes()),
        );
        noise(self.shape.image.width, self.shape.image.height, seed)
    }

    /// The windows of each stage together, as the pipeline does it.
    fn edit(&self, image: &RgbImage, mask: &Mask, jobs: &[Job]) -> RgbImage {
        let (mut image, mut left) = (image.clone(), mask.try_clone().unwrap());
        for stage in self.stages(jobs, mask) {
            let drawn: Vec<_> = stage
                .iter()
                .map(|staged| (self.blend(&left, staged.job), self.drawn(&image, &left, staged.index, staged.job)))
                .collect();
            drawn.iter().for_each(|(blend, decoded)| blend.apply(&mut image, &left, decoded).unwrap());
            stage.iter().for_each(|staged| left.clear(staged.job.paint));
        }
        image
    }

    /// One window after another, each of which sees all that those before it painted.
    fn edit_in_turn(&self, image: &RgbImage, mask: &Mask, jobs: &[Job]) -> RgbImage {
        let (mut image, mut left) = (image.clone(), mask.try_clone().unwrap());
        for (index, &job) in jobs.iter().enumerate() {
            let decoded = self.drawn(&image, &left, index, job);
            self.blend(&left, job).apply(&mut image, &left, &decoded).unwrap();
            left.clear(job.paint);
        }
        image
    }
}

fn pixels(mask: &Mask) -> impl Iterator<Item = (u32, u32)> + use<> {
    let (width, height) = (mask.width(), mask.height());
    (0..height).flat_map(move |y| (0..width).map(move |x| (x, y)))
}

/// The image with other colours where the mask has full weight.
fn repainted(image: &RgbImage, mask: &Mask) -> RgbImage {
    let mut other = image.clone();
    for (x, y) in pixels(mask).filter(|&(x, y)| mask.contains(x, y)) {
        other.get_pixel_mut(x, y).0.iter_mut().for_each(|value| *value ^= 0xa5);
    }
    other
}

/// Only what is near the mask changes, by no more than the feather says, and the size stays.
fn check_reach(holes: &Holes, how: How, seed: u64) -> Result<(), TestCaseError> {
    let (mask, image) = (holes.mask(), noise(holes.width, holes.height, seed));
    let jobs = how.plan(&mask);
    let edited = how.edit(&image, &mask, &jobs);
    prop_assert_eq!(edited.dimensions(), image.dimensions());
    // By rows and columns from what a window paints, as `reach` counts; squared for the round ones.
    let near = |x: u32, y: u32, job: &Job| {
        let reach = how.feather.reach(how.shape, how.dilation, job.window);
        let around = Rect::new(x, y, 1, 1).grown(reach).clipped(job.paint);
        let seen = job.window.inside(mask.width(), mask.height()).contains(x, y);
        let round = !matches!(how.feather, Feather::Gaussian);
        seen && (around.y..around.bottom()).any(|row| {
            (around.x..around.right()).any(|column| {
                let square = x.abs_diff(column).pow(2) + y.abs_diff(row).pow(2);
                mask.weight(column, row) >= if round { 255 } else { 128 } && (!round || square <= reach.pow(2))
            })
        })
    };
    for (x, y) in pixels(&mask).filter(|&(x, y)| image.get_pixel(x, y) != edited.get_pixel(x, y)) {
        let weighted = mask.weight(x, y) > 0 && jobs.iter().any(|job| job.paint.contains(x, y));
        prop_assert!(weighted || jobs.iter().any(|job| near(x, y, job)), "({}, {})", x, y);
    }
    Ok(())
}

/// The mask touches the last thirtieth of a cell's height, and the interpolation goes half a pixel of the model, of
/// which each is seven of the image, beyond the cell.
#[test]
fn nothing_changes_beyond_the_edge_of_an_enlarged_cell() {
    let shape = Shape { image: ImageSize { height: 6, width: 5 }, grid: GridSize { rows: 3, cols: 5 } };
    let how = How { shape, context: 2.218_849_7, feather: Feather::Gaussian, windows: Windows::Parts, dilation: 0 };
    check_reach(&Holes { width: 66, height: 24, boxes: vec![(47, 19, 16, 1, 255)] }, how, 0).unwrap();
}

proptest! {
    #![proptest_config(cases(64))]

    /// Exactly one window paints each masked pixel, sees it, and draws the token that it lies in; and no window is
    /// coarser than one of the whole image, or reaches beyond an image that it fits into.
    #[test]
    fn every_masked_pixel_is_painted_by_one_window_that_sees_it(holes in holes(true), how in how()) {
        let mask = holes.mask();
        let jobs = how.plan(&mask);
        prop_assert!(jobs.len() <= MAX_COMPONENTS);
        let whole = Window::whole(mask.width(), mask.height(), how.shape);
        for job in &jobs {
            let seen = job.window.inside(mask.width(), mask.height());
            prop_assert_eq!(job.paint.clipped(seen), job.paint);
            prop_assert!(job.window.width <= whole.width && job.window.height <= whole.height);
            prop_assert_eq!(seen.width, job.window.width.min(mask.width()));
            prop_assert_eq!(seen.height, job.window.height.min(mask.height()));
        }
        for (x, y) in pixels(&mask).filter(|&(x, y)| mask.contains(x, y)) {
            let painters: Vec<_> = jobs.iter().filter(|job| job.paint.contains(x, y)).collect();
            prop_assert_eq!(painters.len(), 1, "({}, {}) of {:?}", x, y, jobs);
            let (window, one) = (painters[0].window, Rect::new(x, y, 1, 1));
            prop_assert!(TokenMask::touched(&mask, window, one, how.shape).marks().contains(&true));
        }
    }

    /// A stage's windows see nothing of each other, so that drawing them together gives what one after another gives.
    #[test]
    fn stages_are_one_window_after_another(holes in holes(true), how in how(), seed: u64) {
        let (mask, image) = (holes.mask(), noise(holes.width, holes.height, seed));
        let jobs = how.plan(&mask);
        let mut order: Vec<usize> = how.stages(&jobs, &mask).iter().flatten().map(|staged| staged.index).collect();
        order.sort_unstable();
        prop_assert!(order.into_iter().eq(0..jobs.len()));
        prop_assert!(how.edit(&image, &mask, &jobs) == how.edit_in_turn(&image, &mask, &jobs));
    }

    /// Straight from the definition: what applying one window of a stage changes, no later one of it shows, which would
    /// have to; and a window that is said to be shared shows nothing that any window before it changes.
    #[test]
    fn windows_of_a_stage_do_not_show_what_one_before_changes(holes in holes(false), how in how()) {
        let mask = holes.mask();
        let jobs = how.plan(&mask);
        let changed: Vec<Vec<(u32, u32)>> = jobs
            .iter()
            .map(|&job| {
                // The farthest from the old colour, so that no change is lost.
                let before = RgbImage::new(mask.width(), mask.height());
                let mut after = before.clone();
                let white = RgbImage::from_pixel(how.shape.image.width, how.shape.image.height, Rgb([255; 3]));
                how.blend(&mask, job).apply(&mut after, &mask, &white).unwrap();
                pixels(&mask).filter(|&(x, y)| before.get_pixel(x, y) != after.get_pixel(x, y)).collect()
            })
            .collect();
        let shows = |job: &Job, of: usize| {
            let seen = job.window.inside(mask.width(), mask.height());
            changed[of].iter().any(|&(x, y)| seen.contains(x, y))
        };
        for stage in how.stages(&jobs, &mask) {
            for one in &stage {
                prop_assert!(stage.iter().all(|other| one.index <= other.index || !shows(&one.job, other.index)));
                prop_assert!(!one.shared || (0..one.index).all(|before| !shows(&one.job, before)));
            }
        }
    }

    #[test]
    fn nothing_changes_beyond_the_feather(holes in holes(true), how in how(), seed: u64) {
        check_reach(&holes, how, seed)?;
    }

    /// The colours under a mask of full weight are nowhere in the result.
    #[test]
    fn nothing_depends_on_masked_pixels(holes in holes(false), how in how(), seed: u64) {
        let (mask, image) = (holes.mask(), noise(holes.width, holes.height, seed));
        let jobs = how.plan(&mask);
        let other = repainted(&image, &mask);
        prop_assert!(how.edit(&image, &mask, &jobs) == how.edit(&other, &mask, &jobs));
    }

    /// Masked pixels of any weight, and those of unknown colour, are not in what a window shows; what it shows is
    /// between the darkest and the brightest of the rest.
    #[test]
    fn a_window_shows_only_what_is_known(
        holes in holes(true), unknown in holes(false), how in how(), seed: u64, at in any::<prop::sample::Index>(),
    ) {
        let unknown = Holes { width: holes.width, height: holes.height, ..unknown }.mask();
        let (mask, image) = (holes.mask(), noise(holes.width, holes.height, seed));
        let mut windows: Vec<Window> = how.plan(&mask).iter().map(|job| job.window).collect();
        windows.push(Window::whole(holes.width, holes.height, how.shape));
        let window = *at.get(&windows);
        let read = |image: &RgbImage| Planes::read(image, &mask, Some(&unknown), window, how.shape).unwrap();
        let planes = read(&image);
        prop_assert!(planes == read(&repainted(&repainted(&image, &mask), &unknown)));
        let values = planes.to_planes();
        prop_assert_eq!(values.len(), 3 * how.shape.image.area());
        let seen = window.inside(holes.width, holes.height);
        let known: Vec<[u8; 3]> = pixels(&mask)
            .filter(|&(x, y)| seen.contains(x, y) && !mask.contains(x, y) && !unknown.contains(x, y))
            .map(|(x, y)| image.get_pixel(x, y).0)
            .collect();
        for (channel, values) in values.chunks_exact(how.shape.image.area()).enumerate() {
            let of_channel = || known.iter().map(|pixel| f32::from(pixel[channel]) / 255.0);
            let (least, most) = match known.is_empty() {
                true => (0.5, 0.5),
                false => (of_channel().fold(1.0, f32::min), of_channel().fold(0.0, f32::max)),
            };
            prop_assert!(values.iter().all(|value| (least - 1e-4..=most + 1e-4).contains(value)));
        }
    }

    /// With one new colour: it stands wherever the weight is full, and elsewhere the result is between the old colour
    /// and the new one, at least as near to the new one as the weight says.
    #[test]
    fn weights_mix_the_old_and_the_new(holes in holes(true), how in how(), seed: u64, new: [u8; 3]) {
        let (mask, image) = (holes.mask(), noise(holes.width, holes.height, seed));
        let decoded = RgbImage::from_pixel(how.shape.image.width, how.shape.image.height, Rgb(new));
        let (jobs, mut edited, mut left) = (how.plan(&mask), image.clone(), mask.try_clone().unwrap());
        for &job in &jobs {
            how.blend(&left, job).apply(&mut edited, &left, &decoded).unwrap();
            left.clear(job.paint);
        }
        prop_assert!(pixels(&mask).all(|(x, y)| !left.contains(x, y)));
        for (x, y) in pixels(&mask) {
            let painted = jobs.iter().any(|job| job.paint.contains(x, y));
            let weight = f32::from(mask.weight(x, y)) / 255.0 * f32::from(u8::from(painted));
            let (before, after) = (image.get_pixel(x, y).0, edited.get_pixel(x, y).0);
            for ((old, got), new) in before.into_iter().zip(after).zip(new) {
                prop_assert!((old.min(new)..=old.max(new)).contains(&got), "{} between {} and {}", got, old, new);
                let least = weight * f32::from(old.abs_diff(new));
                prop_assert!(f32::from(old.abs_diff(got)) >= least - 0.51, "{} to {} of {}: {}", old, got, new, weight);
            }
        }
    }

    /// The definition, by whole numbers: a cell of an axis is [c L, (c + 1) L) / n, a pixel is [p, p + 1).
    #[test]
    fn tokens_are_those_whose_cell_a_masked_pixel_meets(holes in holes(true), how in how(), rings in 0..4usize) {
        let mask = holes.mask();
        let everywhere = Rect::new(0, 0, mask.width(), mask.height());
        for job in how.plan(&mask) {
            let (window, grid) = (job.window, how.shape.grid);
            let meets = |pixel: u32, length: u32, cells: u32, cell: u32| {
                pixel * cells < (cell + 1) * length && (pixel + 1) * cells > cell * length
            };
            let shown = |place: i64, limit: u32| place.clamp(0, i64::from(limit) - 1) as u32;
            let touched = |row: u32, col: u32| {
                let rows = (0..window.height).filter(|&y| meets(y, window.height, grid.rows, row));
                rows.flat_map(|y| (0..window.width).map(move |x| (x, y)))
                    .filter(|&(x, _)| meets(x, window.width, grid.cols, col))
                    .any(|(x, y)| {
                        let column = shown(window.x + i64::from(x), mask.width());
                        mask.contains(column, shown(window.y + i64::from(y), mask.height()))
                    })
            };
            let positions = || (0..grid.rows).flat_map(|row| (0..grid.cols).map(move |col| (row, col)));
            let expected: Vec<bool> = positions().map(|(row, col)| touched(row, col)).collect();
            let tokens = TokenMask::touched(&mask, window, everywhere, how.shape);
            prop_assert_eq!(tokens.marks(), &expected);
            let grown: Vec<bool> = positions()
                .map(|(row, col)| {
                    positions().zip(&expected).any(|((r, c), &mark)| {
                        mark && row.abs_diff(r).max(col.abs_diff(c)) as usize <= rings
                    })
                })
                .collect();
            let dilated = tokens.dilated(rings);
            prop_assert_eq!(dilated.marks(), &grown);
        }
    }

    /// Every new pixel is painted, by windows of one size that each show something that is there already; what is old
    /// and beyond the feather stays.
    #[test]
    fn an_outpainting_grows_out_of_what_is_there(
        (width, height) in (1..50u32, 1..50u32), sides in prop::array::uniform4(0..24u32),
        window in prop::option::of(4..60u32), overlap in 0.1f32..=0.9, how in how(), seed: u64,
    ) {
        let [left, right, top, bottom] = sides;
        let request = Outpaint { left, right, top, bottom, window, overlap };
        prop_assume!(sides != [0; 4]);
        let image = noise(width, height, seed);
        let ((full_width, full_height), old) = request.extent(width, height).unwrap();
        let extended = request.extend(&image).unwrap();
        prop_assert_eq!(extended.dimensions(), (full_width, full_height));
        let (jobs, mask) = match outpaint(width, height, &request, how.shape) {
            Ok(planned) => planned,
            Err(error) => {
                prop_assert!(error.to_string().contains("more than 4096"), "{}", error);
                return Ok(());
            }
        };
        let mut there: Vec<bool> = pixels(&mask).map(|(x, y)| old.contains(x, y)).collect();
        prop_assert!(pixels(&mask).all(|(x, y)| mask.contains(x, y) != old.contains(x, y)));
        for job in &jobs {
            prop_assert_eq!((job.window.width, job.window.height), (jobs[0].window.width, jobs[0].window.height));
            prop_assert_eq!(job.paint, job.window.inside(full_width, full_height));
            let shown: Vec<usize> = pixels(&mask)
                .enumerate()
                .filter(|&(_, (x, y))| job.paint.contains(x, y))
                .map(|(place, _)| place)
                .collect();
            // A window of a few pixels may have none to spare for what is there.
            let size = job.window.width.min(job.window.height) as f32;
            let alone = (size * (1.0 - overlap)).round().max(1.0) >= size;
            prop_assert!(alone || shown.iter().any(|&place| there[place]), "{:?} stands alone", job);
            prop_assert!(shown.iter().any(|&place| !there[place]), "{:?} paints nothing", job);
            shown.into_iter().for_each(|place| there[place] = true);
        }
        prop_assert!(!there.contains(&false));
        if jobs.len() <= 40 {
            let edited = how.edit(&extended, &mask, &jobs);
            prop_assert!(edited == how.edit_in_turn(&extended, &mask, &jobs));
            prop_assert!(edited == how.edit(&repainted(&extended, &mask), &mask, &jobs));
            let reach = jobs.iter().map(|job| how.feather.reach(how.shape, how.dilation, job.window)).max();
            for (x, y) in pixels(&mask).filter(|&(x, y)| old.contains(x, y)) {
                let around = Rect::new(x, y, 1, 1).grown(reach.unwrap());
                let inside = around.clipped(Rect::new(0, 0, full_width, full_height));
                if inside.clipped(old) == inside {
                    prop_assert_eq!(edited.get_pixel(x, y), image.get_pixel(x - old.x, y - old.y));
                }
            }
        }
    }

    /// A window of the model's own size is copied; one of a single colour keeps it at every size.
    #[test]
    fn resampling_copies_at_one_size_and_keeps_a_colour(how in how(), size in (1..60u32, 1..60u32), seed: u64) {
        let (model, (width, height)) = (how.shape.image, size);
        let image = noise(model.width, model.height, seed);
        let whole = Window::whole(model.width, model.height, how.shape);
        let mask = Mask::none(model.width, model.height).unwrap();
        let values = Planes::read(&image, &mask, None, whole, how.shape).unwrap().to_planes();
        for (place, pixel) in image.pixels().enumerate() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                prop_assert_eq!((values[channel * model.area() + place] * 255.0).round(), f32::from(value));
            }
        }
        prop_assert!(enlarge(&image, whole, model.width, model.height).unwrap() == image);
        let colour = *image.get_pixel(0, 0);
        let plain = RgbImage::from_pixel(model.width, model.height, colour);
        let shown = enlarge(&plain, Window::whole(width, height, how.shape), width, height).unwrap();
        prop_assert_eq!(shown.dimensions(), size);
        prop_assert!(shown.pixels().all(|&pixel| pixel == colour));
    }
}
