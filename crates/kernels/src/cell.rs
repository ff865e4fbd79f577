//! A slice that several threads write disjoint parts of.

use std::marker::PhantomData;

/// A mutable slice shared by the tasks of one operator, each of which writes its own places.
pub struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it gives access through `slice` only, whose callers promise disjoint ranges.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<T> Clone for SharedSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    /// Shares a slice, which nobody else can touch meanwhile.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// The part of `len` values from `start`.
    ///
    /// # Panics
    ///
    /// When it is out of bounds.
    ///
    /// # Safety
    ///
    /// No other part that overlaps it is alive.
    #[allow(clippy::mut_from_ref)] // that is its purpose; the caller promises that parts are disjoint
    #[inline(always)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part of an output is out of bounds");
        // SAFETY: in bounds by the assertion, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
