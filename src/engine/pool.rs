//! The threads of the engine that runs the present graph.

use rayon::prelude::*;
use tract_linalg::multithread::{Executor, current_tract_executor};

/// How many threads the running engine has.
pub(crate) fn threads() -> usize {
    match current_tract_executor() {
        Executor::MultiThread(pool) => pool.current_num_threads(),
        _ => 1,
    }
}

/// Runs `work` for 0 to `count - 1`, shared by the engine's threads, in any order.
pub(crate) fn run(count: usize, work: impl Fn(usize) + Send + Sync) {
    match current_tract_executor() {
        Executor::MultiThread(pool) if count > 1 => pool.install(|| (0..count).into_par_iter().for_each(work)),
        _ => (0..count).for_each(work),
    }
}
