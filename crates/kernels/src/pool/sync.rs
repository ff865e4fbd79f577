//! What the pool is made of: the standard library's, or, with `--cfg loom`, that of a model in which all the orders are
//! tried that threads and their memory allow (`make loom`).

#[cfg(loom)]
pub(super) use loom::hint::spin_loop;
#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
#[cfg(loom)]
pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub(super) use loom::thread::{Builder, JoinHandle, yield_now};
#[cfg(loom)]
pub(super) use model::{Instant, SPINS};
#[cfg(not(loom))]
pub(super) use std::hint::spin_loop;
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
#[cfg(not(loom))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(super) use std::thread::{Builder, JoinHandle, yield_now};
#[cfg(not(loom))]
pub(super) use std::time::Instant;

/// Looks without leaving the processor to others; some ten microseconds.
#[cfg(not(loom))]
pub(super) const SPINS: u32 = 1000;

/// A value that threads hand on without a lock.
#[cfg(not(loom))]
pub(super) struct Cell<T>(std::cell::UnsafeCell<T>);
#[cfg(loom)]
pub(super) struct Cell<T>(loom::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T: Copy> Cell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    /// # Safety
    ///
    /// Nobody sets it at the same time.
    pub(super) unsafe fn get(&self) -> T {
        // SAFETY: the caller's promise.
        unsafe { *self.0.get() }
    }

    /// # Safety
    ///
    /// Nobody sets or gets it at the same time.
    pub(super) unsafe fn set(&self, value: T) {
        // SAFETY: the caller's promise.
        unsafe { *self.0.get() = value }
    }
}

/// As above; here the model sees whether the promises are kept.
#[cfg(loom)]
impl<T: Copy> Cell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(loom::cell::UnsafeCell::new(value))
    }

    pub(super) unsafe fn get(&self) -> T {
        // SAFETY: the caller's promise.
        self.0.with(|value| unsafe { *value })
    }

    pub(super) unsafe fn set(&self, value: T) {
        // SAFETY: the caller's promise.
        self.0.with_mut(|place| unsafe { *place = value });
    }
}

/// A model has no clock: a helper looks once, and has then waited long enough.
#[cfg(loom)]
mod model {
    pub(in super::super) const SPINS: u32 = 0;

    pub(in super::super) struct Instant;

    impl Instant {
        pub(in super::super) fn now() -> Self {
            Self
        }

        pub(in super::super) fn elapsed(&self) -> std::time::Duration {
            std::time::Duration::MAX
        }
    }
}
