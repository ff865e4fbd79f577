//! Stages: which windows of an edit can be drawn at the same time.

use maskgit_core::Shape;

use super::{Feather, Job, Rect};

/// A window of an edit in its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedJob {
    /// Its place in the order in which the windows are painted: its noise depends on it.
    pub index: usize,
    /// The window and what it paints.
    pub job: Job,
    /// Whether it sees nothing that another window has painted, so that it shows the same in every result of the
    /// request.
    pub shared: bool,
}

/// The windows of an edit in stages. The windows of a stage do not read what the others of the stage paint, so their
/// tokens can be drawn together; painting them in their order gives what drawing and painting one after another gives,
/// to the bit.
pub type Stages = Vec<Vec<StagedJob>>;

/// Puts windows, in the order in which they are painted, into stages, each as early as it can be.
///
/// Window j comes in a later stage than window i before it where i may change a pixel that j shows. It comes in no
/// earlier stage than i where j may change a pixel that i shows, since i must not see it.
pub fn stages(jobs: &[Job], feather: Feather, dilation: usize, shape: Shape, width: u32, height: u32) -> Stages {
    let seen: Vec<Rect> = jobs.iter().map(|job| job.window.inside(width, height)).collect();
    let changed: Vec<Rect> = jobs
        .iter()
        .zip(&seen)
        .map(|(job, seen)| job.paint.grown(feather.reach(shape, dilation, job.window)).clipped(*seen))
        .collect();
    let mut levels: Vec<usize> = Vec::with_capacity(jobs.len());
    let mut stages = Stages::new();
    for (j, &job) in jobs.iter().enumerate() {
        let (mut level, mut shared) = (0, true);
        for i in 0..j {
            if changed[i].meets(seen[j]) {
                level = level.max(levels[i] + 1);
                shared = false;
            } else if seen[i].meets(changed[j]) {
                level = level.max(levels[i]);
            }
        }
        levels.push(level);
        if stages.len() <= level {
            stages.resize_with(level + 1, Vec::new);
        }
        stages[level].push(StagedJob { index: j, job, shared });
    }
    stages
}

#[cfg(test)]
mod tests {
    use maskgit_core::{GridSize, ImageSize};

    use super::super::Window;
    use super::*;

    const SHAPE: Shape = Shape { image: ImageSize { width: 64, height: 64 }, grid: GridSize { rows: 16, cols: 16 } };

    fn job(x: i64, paint: (u32, u32)) -> Job {
        let window = Window { x, y: 0, width: 64, height: 64 };
        Job { window, paint: Rect::new(paint.0, 20, paint.1, 10) }
    }

    fn levels(jobs: &[Job], feather: Feather) -> Vec<(usize, usize, bool)> {
        let stages = stages(jobs, feather, 1, SHAPE, 400, 64);
        let mut levels: Vec<(usize, usize, bool)> = stages
            .iter()
            .enumerate()
            .flat_map(|(level, jobs)| jobs.iter().map(move |staged| (staged.index, level, staged.shared)))
            .collect();
        levels.sort_unstable();
        levels
    }

    #[test]
    fn windows_far_apart_share_a_stage_and_those_that_see_each_other_do_not() {
        let apart = [job(0, (20, 10)), job(100, (120, 10)), job(300, (330, 10))];
        assert_eq!(levels(&apart, Feather::Gaussian), [(0, 0, true), (1, 0, true), (2, 0, true)]);
        let chain = [job(0, (40, 20)), job(50, (70, 30)), job(90, (120, 10))];
        assert_eq!(levels(&chain, Feather::Pixels(2)), [(0, 0, true), (1, 1, false), (2, 2, false)]);
        // The windows overlap, but neither shows what the other paints.
        let beside = [job(0, (10, 10)), job(50, (90, 10))];
        assert_eq!(levels(&beside, Feather::Pixels(2)), [(0, 0, true), (1, 0, true)]);
        // With a feather that reaches into the other's window they have an order.
        assert_eq!(levels(&beside, Feather::Pixels(60)), [(0, 0, true), (1, 1, false)]);
    }

    #[test]
    fn a_window_is_never_painted_before_an_earlier_one_that_sees_it() {
        // The second must wait for the first; the third paints what the second shows, and sees neither.
        let jobs = [job(0, (40, 10)), job(30, (60, 10)), job(85, (90, 10))];
        let found = levels(&jobs, Feather::Pixels(1));
        assert_eq!(found, [(0, 0, true), (1, 1, false), (2, 1, true)]);
    }
}
