//! Panics that are caught, and become errors: nothing of them is printed.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, Location, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

static HOOK: Once = Once::new();

thread_local! {
    /// How many [`caught`] this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic that was not printed began.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What a panic said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Its message.
    pub text: String,
    /// File and line, where they are known.
    pub place: Option<String>,
}

/// What `work` gives, or what its panic said.
///
/// Rust prints a panic from a hook, before anyone can catch it. The first call replaces the process's hook by one that
/// is silent in here and, for all other panics, calls the one that was there.
///
/// # Errors
///
/// `work` panicked.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Caught> {
    // A hook cannot be set while a thread panics; the next call sets it.
    if !std::thread::panicking() {
        HOOK.call_once(|| {
            let before = take_hook();
            set_hook(Box::new(move |info| if DEPTH.get() == 0 { before(info) } else { note(info) }));
        });
    }
    DEPTH.set(DEPTH.get().saturating_add(1));
    let result = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let caught = Caught { text: text_of(panic.as_ref()), place: PLACE.take() };
        // What was thrown may itself throw when it is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
        caught
    });
    DEPTH.set(DEPTH.get().saturating_sub(1));
    result
}

fn note(info: &PanicHookInfo<'_>) {
    let place = info.location().map(shown);
    // A panic inside of one that is being noted is not noted.
    PLACE.with(|last| last.try_borrow_mut().map(|mut last| *last = place).unwrap_or_default());
}

/// The end of the file's path, which the machine that compiled it has in common with others, and the line.
fn shown(location: &Location<'_>) -> String {
    let parts: Vec<&str> = location.file().rsplit(['/', '\\']).take(4).collect();
    let path: Vec<&str> = parts.into_iter().rev().collect();
    format!("{}:{}", path.join("/"), location.line())
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}
