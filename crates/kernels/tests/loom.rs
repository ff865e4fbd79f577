//! The pool in a model that tries the orders in which its threads can run, and the old values that a load without an
//! order may see: `make loom`.
//!
//! A data race, a deadlock (a wake that is lost, a helper that never ends) and a leak fail there by themselves.
#![cfg(loom)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc as Shared;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use maskgit_kernels::pool::Pool;

/// At most three switches where none is due, which is where nearly all faults are.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(test);
}

/// Every task once; and what tasks write without an order of their own is there when the call returns.
#[test]
fn tasks_run_once_and_what_they_write_is_there() {
    model(|| {
        let pool = Pool::new(2).unwrap();
        for _ in 0..2 {
            let places: [loom::cell::UnsafeCell<usize>; 2] = Default::default();
            struct Places<'a>(&'a [loom::cell::UnsafeCell<usize>; 2]);
            // SAFETY: each task has a place of its own.
            unsafe impl Sync for Places<'_> {}
            let shared = Places(&places);
            pool.run(2, &|task| {
                let shared = &shared;
                // SAFETY: as above.
                shared.0[task].with_mut(|place| unsafe { *place += 1 + task });
            });
            for (task, place) in places.iter().enumerate() {
                // SAFETY: the call has returned.
                assert_eq!(place.with(|place| unsafe { *place }), 1 + task);
            }
        }
    });
}

/// Two tasks that wait for each other end only if the helper comes, which may sleep, be about to, or look for work.
#[test]
fn a_helper_that_sleeps_is_woken() {
    model(|| {
        let pool = Pool::new(2).unwrap();
        let (met, both) = (Mutex::new(0), Condvar::new());
        pool.run(2, &|_| {
            let mut met = met.lock().unwrap();
            *met += 1;
            both.notify_all();
            while *met < 2 {
                met = both.wait(met).unwrap();
            }
        });
    });
}

/// A pool that is dropped ends its helpers, wherever they are.
#[test]
fn helpers_end_with_the_pool() {
    model(|| drop(Pool::new(3).unwrap()));
}

/// A panic reaches the caller after the other tasks have left, and the pool works on.
#[test]
fn a_panic_reaches_the_caller() {
    model(|| {
        let pool = Pool::new(2).unwrap();
        let done = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, &|task| {
                assert_ne!(task, 1, "task 1");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        let text = *result.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("task 1"), "{text}");
        assert_eq!(done.load(Ordering::Relaxed), 1);
        pool.run(2, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 3);
    });
}

/// A call inside of a task runs there; so does one of another thread, while the first goes on.
#[test]
fn calls_in_tasks_and_of_other_threads_run_where_they_are() {
    model(|| {
        let pool = Pool::new(2).unwrap();
        let done = AtomicUsize::new(0);
        pool.run(2, &|_| {
            pool.run(2, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(done.load(Ordering::Relaxed), 4);
    });
    model(|| {
        // Not the model's, whose count of references the pool's own threads would not see.
        let pool = Shared::new(Pool::new(2).unwrap());
        let done = Arc::new(AtomicUsize::new(0));
        let other = {
            let (pool, done) = (Shared::clone(&pool), Arc::clone(&done));
            loom::thread::spawn(move || {
                pool.run(2, &|_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            })
        };
        pool.run(2, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        other.join().unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 4);
    });
}
