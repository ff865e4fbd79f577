//! Panics that are caught are not printed; all others are. Alone in its process, as the hook is the process's.

use std::panic::{catch_unwind, set_hook};
use std::sync::atomic::{AtomicUsize, Ordering};

use maskgit_core::panics::{Caught, caught};

static PRINTED: AtomicUsize = AtomicUsize::new(0);

/// What is printed of a panic in `work`.
fn printed(work: impl FnOnce()) -> usize {
    let before = PRINTED.load(Ordering::SeqCst);
    work();
    PRINTED.load(Ordering::SeqCst) - before
}

#[test]
fn only_what_is_caught_is_silent() {
    set_hook(Box::new(|_| {
        PRINTED.fetch_add(1, Ordering::SeqCst);
    }));
    let other = || drop(catch_unwind(|| panic!("of another")));
    assert_eq!(printed(other), 1, "the test's own hook");
    let result = |n: usize| caught(move || if n == 0 { 7 } else { panic!("panic {n}") });
    assert_eq!(printed(|| assert_eq!(result(0), Ok(7))), 0);
    let first = result(1).unwrap_err();
    assert_eq!(first.text, "panic 1");
    assert!(first.place.is_some_and(|place| place.contains("core/tests/panics.rs:")));
    assert_eq!(printed(|| drop(result(2))), 0);
    assert_eq!(printed(other), 1, "outside again");
    assert_eq!(printed(|| drop(std::thread::spawn(|| panic!("in a thread")).join())), 1, "in another thread");

    // One in another, and one that is not a text and panics when it is dropped.
    let nested = || {
        let inner = caught(|| panic!("inner")).unwrap_err();
        panic!("after {}", inner.text)
    };
    assert_eq!(printed(|| assert_eq!(caught(nested).unwrap_err().text, "after inner")), 0);
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let bomb = || std::panic::panic_any(Bomb);
    let thrown = || assert!(matches!(caught(bomb), Err(Caught { text, .. }) if text == "it panicked"));
    assert_eq!(printed(thrown), 0);
    assert_eq!(printed(other), 1);
}
