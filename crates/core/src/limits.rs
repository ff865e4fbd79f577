//! What loading a model may take, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Stops what it was given to: clones are one handle, which any thread may pull.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A handle that has not been pulled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the work, now and until [`Cancel::reset`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets the work go on: what asks from now on is not stopped.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it has been pulled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bounds on loading one graph. A graph that would take more is refused with an error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadLimits {
    /// The longest time: 5 minutes by default. It is looked at between the steps of the import, which take milliseconds.
    pub time: Duration,
    /// Stops the load with an error of kind [`Cancelled`](crate::ErrorKind::Cancelled).
    pub cancel: Cancel,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(300), cancel: Cancel::new() }
    }
}

impl LoadLimits {
    /// With another longest time.
    #[must_use]
    pub fn with_time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// With a handle that stops the load.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_handle() {
        let limits = LoadLimits::default();
        let handle = limits.cancel.clone();
        assert!(!limits.cancel.is_cancelled());
        handle.cancel();
        assert!(limits.clone().cancel.is_cancelled());
        handle.reset();
        assert!(!limits.cancel.is_cancelled());
        assert!(!LoadLimits::default().cancel.is_cancelled());
    }
}
