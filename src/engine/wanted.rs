//! Which places of the present graph's output somebody will read.

use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static WANTED: RefCell<Option<Rc<[bool]>>> = const { RefCell::new(None) };
}

/// Puts back what was there, also when `work` unwinds.
struct Before(Option<Rc<[bool]>>);

impl Drop for Before {
    fn drop(&mut self) {
        WANTED.set(self.0.take());
    }
}

/// Runs `work`, on this thread, for an output of which only these places will be read; without them, all.
pub(super) fn scope<T>(wanted: Option<&[bool]>, work: impl FnOnce() -> T) -> T {
    let _before = Before(WANTED.replace(wanted.map(Rc::from)));
    work()
}

/// The places that will be read, where that is known.
pub(super) fn wanted() -> Option<Rc<[bool]>> {
    WANTED.with_borrow(Clone::clone)
}
