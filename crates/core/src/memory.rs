//! Allocations whose size comes from outside.

use std::cell::Cell;
use std::collections::TryReserveError;

use crate::error::{Error, ErrorKind, Result};

thread_local! {
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// `length` copies of `value`; an error of kind [`Memory`](crate::ErrorKind::Memory) that names `what` when there is no
/// memory for them.
///
/// # Errors
///
/// As said.
pub fn filled<T: Clone>(length: usize, value: T, what: &str) -> Result<Vec<T>> {
    let mut items = room(length, what)?;
    items.resize(length, value);
    Ok(items)
}

/// A copy of `values`; an error as [`filled`] gives it when there is no memory for it.
///
/// # Errors
///
/// As said.
pub fn copied<T: Copy>(values: &[T], what: &str) -> Result<Vec<T>> {
    let mut items = room(values.len(), what)?;
    items.extend_from_slice(values);
    Ok(items)
}

fn room<T>(length: usize, what: &str) -> Result<Vec<T>> {
    let mut items = Vec::new();
    reserve(&mut items, length).map_err(|e| {
        let message = format!("out of memory: {what}, {length} values; use a smaller image or fewer results");
        Error::new(ErrorKind::Memory, message).with_source(e)
    })?;
    Ok(items)
}

/// Makes room in a vector for exactly so many more values.
///
/// # Errors
///
/// Where there is no memory for them.
pub fn reserve<T>(items: &mut Vec<T>, additional: usize) -> std::result::Result<(), TryReserveError> {
    let before = MAY_FAIL.replace(true);
    let result = items.try_reserve_exact(additional);
    MAY_FAIL.set(before);
    result
}

/// For an allocator: whether the allocation that this thread asks for may fail, as its failure becomes an error.
pub fn may_fail() -> bool {
    MAY_FAIL.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_memory_holds_is_an_error() {
        let error = filled(usize::MAX / 8, 0u64, "the mask").expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(error.to_string().contains("the mask"), "{error}");
        assert_eq!(filled(3, 7, "x").expect("little"), [7, 7, 7]);
        assert_eq!(copied(&[1, 2], "x").expect("little"), [1, 2]);
        assert!(!may_fail());
    }
}
