//! The objects that C holds.
//!
//! A handle is the address of an object on the heap. A table knows which addresses are alive and of what kind, so that
//! one that was freed, or never was a handle, is refused without being read. The table holds the addresses disguised: a
//! leak checker must not take it for a reference to an object that the program has lost.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::error::{Fault, MASKGIT_ERROR_HANDLE, MASKGIT_ERROR_NULL};

/// What a handle may be of.
pub(super) trait Object: Send + Sync {
    /// The name of its C type.
    const NAME: &'static str;
}

/// No address has these bits as a pointer, so no pattern in the table is one.
const DISGUISE: usize = usize::MAX;

/// The kind of each object that is alive, by its disguised address.
static ALIVE: LazyLock<Mutex<HashMap<usize, &'static str>>> = LazyLock::new(Mutex::default);

fn alive() -> MutexGuard<'static, HashMap<usize, &'static str>> {
    // Nothing panics while it is locked, and no entry is ever half written.
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check<T: Object>(handle: *const T, known: Option<&&'static str>) -> Result<(), Fault> {
    if handle.is_null() {
        return Err(Fault::new(MASKGIT_ERROR_NULL, format!("the {} is NULL", T::NAME)));
    }
    match known {
        Some(&name) if name == T::NAME => Ok(()),
        Some(&name) => {
            Err(Fault::new(MASKGIT_ERROR_HANDLE, format!("a {} was given where a {} is expected", name, T::NAME)))
        }
        None => Err(Fault::new(
            MASKGIT_ERROR_HANDLE,
            format!("the {} is not one that this library gave, or it was freed already", T::NAME),
        )),
    }
}

/// Makes an object that C owns, until [`take`].
pub(super) fn give<T: Object>(value: T) -> *mut T {
    let handle = Arc::into_raw(Arc::new(value)).cast_mut();
    alive().insert(handle.addr() ^ DISGUISE, T::NAME);
    handle
}

/// The object of a handle. It lives as long as what is returned, even when another thread frees the handle.
pub(super) fn get<T: Object>(handle: *const T) -> Result<Arc<T>, Fault> {
    let alive = alive();
    check(handle, alive.get(&(handle.addr() ^ DISGUISE)))?;
    // SAFETY: the table says that `give` made it of this type, and that C still owns its reference: it leaves the
    // table, which is locked, before that is given up.
    unsafe {
        Arc::increment_strong_count(handle);
        Ok(Arc::from_raw(handle))
    }
}

/// Ends C's ownership.
pub(super) fn take<T: Object>(handle: *mut T) -> Result<Arc<T>, Fault> {
    let mut alive = alive();
    let key = handle.addr() ^ DISGUISE;
    check(handle.cast_const(), alive.get(&key))?;
    alive.remove(&key);
    // SAFETY: as in `get`; the reference that C owned is taken over, once, because the table no longer has it.
    Ok(unsafe { Arc::from_raw(handle) })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct A(u32);
    struct B;
    impl Object for A {
        const NAME: &'static str = "a";
    }
    impl Object for B {
        const NAME: &'static str = "b";
    }

    #[test]
    fn only_living_handles_of_the_right_kind_are_taken() {
        let a = give(A(7));
        assert_eq!(get(a.cast_const()).ok().map(|a| a.0), Some(7));
        assert_eq!(get(a.cast_const().cast::<B>()).err().map(|e| e.code), Some(MASKGIT_ERROR_HANDLE));
        assert_eq!(get(std::ptr::null::<A>()).err().map(|e| e.code), Some(MASKGIT_ERROR_NULL));
        assert_eq!(get(std::ptr::without_provenance::<A>(3)).err().map(|e| e.code), Some(MASKGIT_ERROR_HANDLE));
        let held = get(a.cast_const()).ok();
        assert!(take(a).is_ok());
        assert_eq!(held.map(|a| a.0), Some(7), "a call that is running keeps its object");
        assert_eq!(take(a).err().map(|e| e.code), Some(MASKGIT_ERROR_HANDLE));
        assert_eq!(get(a.cast_const()).err().map(|e| e.code), Some(MASKGIT_ERROR_HANDLE));
    }
}
