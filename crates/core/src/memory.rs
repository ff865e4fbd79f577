//! Allocations whose size comes from outside.

use crate::error::{Error, Result};

/// `length` copies of `value`; an error of kind [`Request`](crate::ErrorKind::Request) that names `what` when there is
/// no memory for them.
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
    items.try_reserve_exact(length).map_err(|_| {
        Error::request(format!("no memory for {what}: {length} values; use a smaller image or fewer results"))
    })?;
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_memory_holds_is_an_error() {
        let error = filled(usize::MAX / 8, 0u64, "the mask").expect_err("too large");
        assert_eq!(error.kind(), crate::ErrorKind::Request);
        assert!(error.to_string().contains("the mask"), "{error}");
        assert_eq!(filled(3, 7, "x").expect("little"), [7, 7, 7]);
        assert_eq!(copied(&[1, 2], "x").expect("little"), [1, 2]);
    }
}
