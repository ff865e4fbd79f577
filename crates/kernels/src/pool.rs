//! The threads of the engine that runs the present graph.
//!
//! A graph is hundreds of operators that take a millisecond or less, one after another, each shared by all threads. A
//! thread that sleeps between two of them wakes tens of microseconds late, and later in a virtual machine; so a helper
//! looks for the next operator's tasks for a while before it sleeps. The thread that calls takes tasks like the others,
//! and never waits for a helper that has taken none.

#![allow(unsafe_code)] // a job that lives on the stack of the caller is shared with threads that outlive it

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use maskgit_core::panics;
use sync::{AtomicBool, AtomicU64, AtomicUsize, Cell, Condvar, Instant, JoinHandle, Mutex, MutexGuard};

mod sync;

/// An engine's threads; none for an engine that runs on the thread that calls.
pub type Threads = Option<Arc<Pool>>;

/// How long a helper that finds no work looks for it before it sleeps. Longer than what stands between two operators,
/// or two steps.
const PATIENCE: Duration = Duration::from_millis(1);
/// Looks without leaving the processor to others; some ten microseconds.
const SPINS: u32 = sync::SPINS;

/// What a helper's stack holds. Its operators keep their buffers on the heap; see `stacks` in the tests, which run the
/// deepest in a quarter of this. Not the system's default, which differs: 128 KiB to 8 MiB.
const STACK_BYTES: usize = 1 << 20;

/// Bits of [`Shared::state`]: how many helpers are at the job, whether another one may join them, and above that the
/// job's number.
const INSIDE: u64 = OPEN - 1;
const OPEN: u64 = 1 << 32;
const JOB: u64 = 1 << 33;

thread_local! {
    static CURRENT: RefCell<Threads> = const { RefCell::new(None) };
}

/// Runs `work`, which must not unwind, with these threads as the present ones.
pub fn scope<T>(threads: &Threads, work: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(threads.clone());
    let result = work();
    CURRENT.set(before);
    result
}

fn current() -> Threads {
    CURRENT.with_borrow(Clone::clone)
}

/// How many threads the running engine has.
pub fn threads() -> usize {
    current().map_or(1, |pool| pool.threads())
}

/// Runs `work` for 0 to `count - 1`, shared by the engine's threads, in any order.
pub fn run(count: usize, work: impl Fn(usize) + Sync) {
    match current() {
        Some(pool) => pool.run(count, &work),
        None => (0..count).for_each(work),
    }
}

/// Threads that help one that calls.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// What the threads of a pool share.
struct Shared {
    state: AtomicU64,
    /// Written by the caller that has `busy`, while the job is closed and nobody is inside.
    job: Cell<Job>,
    /// The job's first task that nobody has taken.
    next: AtomicUsize,
    /// Whether somebody's job is running.
    busy: AtomicBool,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// How many helpers sleep, or are about to.
    asleep: AtomicUsize,
    sleep_lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is what keeps this from being shared. It is written only while no helper can read it (`Pool::run`), and
// what its pointer leads to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is not used outside of a job.
unsafe impl Send for Shared {}

#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(usize) + Sync),
    count: usize,
}

/// A mutex that no panic leaves half-written.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads, of which the one that calls is the first.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        fn nothing(_: usize) {}
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: Cell::new(Job { work: &nothing, count: 0 }),
            next: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            asleep: AtomicUsize::new(0),
            sleep_lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, helpers: Vec::new() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = sync::Builder::new().name(format!("maskgit-cpu-{index}")).stack_size(STACK_BYTES);
            // Where one cannot be had, the pool is dropped, which ends the others.
            pool.helpers.push(builder.spawn(move || shared.help())?);
        }
        Ok(pool)
    }

    /// The number of threads, the caller among them.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work` for 0 to `count - 1`, in any order, on the calling thread and those that help it. Inside of a task,
    /// or while another thread's call runs, on the calling thread alone. A task's panic goes on here, after all others
    /// have ended.
    pub fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if count <= 1 || self.helpers.is_empty() || shared.busy.swap(true, Ordering::Acquire) {
            return (0..count).for_each(work);
        }
        // SAFETY: only the lifetime is changed. The pointer is used by helpers that are inside, and this function does
        // not return, nor unwind, before all have left and no other can enter.
        let work =
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(work) };
        let job = Job { work, count };
        // SAFETY: `busy` keeps other callers away, and the job before is closed and left.
        unsafe { shared.job.set(job) };
        shared.next.store(0, Ordering::Relaxed);
        let number = shared.state.load(Ordering::Relaxed) / JOB;
        shared.state.store(number.wrapping_add(1).wrapping_mul(JOB) | OPEN, Ordering::Release);
        // Before `asleep` is read, as a helper reads the state after it has raised that: one of the two sees the other.
        sync::fence(Ordering::SeqCst);
        if shared.asleep.load(Ordering::Relaxed) > 0 {
            drop(locked(&shared.sleep_lock));
            shared.wake.notify_all();
        }
        shared.take_tasks(job);
        shared.state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0;
        while shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            pause(&mut looks);
        }
        let panic = locked(&shared.panic).take();
        shared.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Whether a helper whose last job was `last` has work in this state.
fn calls(state: u64, last: u64) -> bool {
    state & OPEN != 0 && state / JOB != last
}

/// Waits a moment: at first without leaving the processor to others.
fn pause(looks: &mut u32) {
    if *looks < SPINS {
        *looks += 1;
        sync::spin_loop();
    } else {
        sync::yield_now();
    }
}

impl Shared {
    /// A helper's life.
    fn help(&self) {
        let mut last = 0;
        while let Some(state) = self.wait(last) {
            if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            last = state / JOB;
            // SAFETY: inside, so the job is not written.
            let job = unsafe { self.job.get() };
            self.take_tasks(job);
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// The state of an open job that is not the last; none when the pool ends.
    fn wait(&self, last: u64) -> Option<u64> {
        let (mut looks, mut since) = (0, None);
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if calls(state, last) {
                return Some(state);
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            pause(&mut looks);
            if looks == SPINS && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                self.sleep(last);
                (looks, since) = (0, None);
            }
        }
    }

    fn sleep(&self, last: u64) {
        let mut guard = locked(&self.sleep_lock);
        self.asleep.fetch_add(1, Ordering::Relaxed);
        sync::fence(Ordering::SeqCst); // see `Pool::run`
        loop {
            if calls(self.state.load(Ordering::Relaxed), last) || self.stop.load(Ordering::Relaxed) {
                break;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::Relaxed);
    }

    /// Runs tasks until there are none that nobody has taken. Does not unwind.
    fn take_tasks(&self, job: Job) {
        // SAFETY: the job is not closed and left before this returns (`Pool::run`), so what its pointer leads to is
        // there.
        let work = unsafe { &*job.work };
        let result = panics::caught(|| {
            loop {
                let task = self.next.fetch_add(1, Ordering::Relaxed);
                if task >= job.count {
                    break;
                }
                work(task);
            }
        });
        if let Err(panic) = result {
            // The caller's thread does not know where it was.
            let place = panic.place.map(|place| format!(" ({place})")).unwrap_or_default();
            locked(&self.panic).get_or_insert_with(|| Box::new(panic.text + &place));
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // A helper that has not seen it holds the lock until it waits.
        drop(locked(&self.shared.sleep_lock));
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // Tasks' panics are caught, so a helper has none of its own.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..2000 {
                let count = round % 37;
                let times: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.run(count, &|task| {
                    times[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(times.iter().all(|t| t.load(Ordering::Relaxed) == 1), "{threads} threads, round {round}");
                if round % 500 == 0 {
                    std::thread::sleep(3 * PATIENCE); // they fall asleep
                }
            }
        }
    }

    /// Two tasks that wait for each other end only when two threads run them, asleep before or not.
    #[test]
    fn tasks_run_at_the_same_time() {
        let pool = Pool::new(2).unwrap();
        for wait in [Duration::ZERO, 20 * PATIENCE, Duration::ZERO, 20 * PATIENCE] {
            std::thread::sleep(wait);
            let barrier = std::sync::Barrier::new(2);
            pool.run(2, &|_| {
                barrier.wait();
            });
        }
    }

    #[test]
    fn a_panic_goes_to_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3).unwrap();
        for bad in 0..20 {
            let done = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|task| {
                    assert_ne!(task, bad, "task {task}");
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let panic = result.unwrap_err();
            assert!(panic.downcast_ref::<String>().unwrap().contains(&format!("task {bad}")));
            assert!(done.load(Ordering::Relaxed) < 20);
        }
        let done = AtomicUsize::new(0);
        pool.run(20, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 20);
    }

    #[test]
    fn calls_inside_of_tasks_and_of_other_threads_end() {
        let pool = Arc::new(Pool::new(2).unwrap());
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        crate::pool::scope(&Some(Arc::clone(&pool)), || {
                            run(4, |_| {
                                run(5, |_| {
                                    done.fetch_add(1, Ordering::Relaxed);
                                });
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::Relaxed), 3 * 200 * 4 * 5);
    }
}
