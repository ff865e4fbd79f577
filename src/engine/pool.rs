//! The threads of the engine that runs the present graph.

use std::cell::RefCell;
use std::sync::Arc;

use rayon::ThreadPool;
use rayon::prelude::*;

/// An engine's threads; none for an engine that runs on the thread that calls.
pub(super) type Threads = Option<Arc<ThreadPool>>;

thread_local! {
    static CURRENT: RefCell<Threads> = const { RefCell::new(None) };
}

/// Runs `work`, which must not unwind, with these threads as the present ones, on one of them: what an operator shares then costs no
/// handing over from the caller's thread and back.
pub(super) fn scope<T: Send>(threads: &Threads, work: impl FnOnce() -> T + Send) -> T {
    let here = || {
        let before = CURRENT.replace(threads.clone());
        let result = work();
        CURRENT.set(before);
        result
    };
    match threads {
        Some(pool) => pool.install(here),
        None => here(),
    }
}

fn current() -> Threads {
    CURRENT.with_borrow(Clone::clone)
}

/// How many threads the running engine has.
pub(crate) fn threads() -> usize {
    current().map_or(1, |pool| pool.current_num_threads())
}

/// Runs `work` for 0 to `count - 1`, shared by the engine's threads, in any order.
pub(crate) fn run(count: usize, work: impl Fn(usize) + Send + Sync) {
    match current() {
        Some(pool) if count > 1 => pool.install(|| (0..count).into_par_iter().for_each(work)),
        _ => (0..count).for_each(work),
    }
}
