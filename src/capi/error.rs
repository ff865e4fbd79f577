//! Codes and error objects.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use super::handle::{self, Object};
use maskgit_core::{Error, ErrorKind, panics};

/// What became of a call: MASKGIT_OK or one of MASKGIT_ERROR_*. The numbers never change their meaning; later versions
/// may add some.
pub type maskgit_code = u32;

/// It worked.
pub const MASKGIT_OK: maskgit_code = 0;
/// A file or a folder could not be read or written.
pub const MASKGIT_ERROR_IO: maskgit_code = 1;
/// The model bundle is not valid.
pub const MASKGIT_ERROR_BUNDLE: maskgit_code = 2;
/// The engine could not load or run a graph, or a graph gave impossible numbers.
pub const MASKGIT_ERROR_ENGINE: maskgit_code = 3;
/// The caller asked for something impossible: an unknown class, a wrong size, an option out of range.
pub const MASKGIT_ERROR_REQUEST: maskgit_code = 4;
/// An image could not be read or written.
pub const MASKGIT_ERROR_IMAGE: maskgit_code = 5;
/// The caller stopped the work, by a callback or a cancel handle.
pub const MASKGIT_ERROR_CANCELLED: maskgit_code = 6;
/// A fault of this library. Please report it.
pub const MASKGIT_ERROR_INTERNAL: maskgit_code = 7;
/// A pointer that must not be NULL is NULL.
pub const MASKGIT_ERROR_NULL: maskgit_code = 8;
/// A pointer is not aligned for its type.
pub const MASKGIT_ERROR_MISALIGNED: maskgit_code = 9;
/// A buffer is shorter than what is to be read from it or written to it.
pub const MASKGIT_ERROR_SHORT_BUFFER: maskgit_code = 10;
/// A handle was freed already, is of another type, or never was one.
pub const MASKGIT_ERROR_HANDLE: maskgit_code = 11;
/// The `size` of a struct is wrong: it was not set by its init function. Or a field is set that is reserved or that
/// this version does not know.
pub const MASKGIT_ERROR_STRUCT: maskgit_code = 12;
/// A callback called a function of the generator that is calling it.
pub const MASKGIT_ERROR_BUSY: maskgit_code = 13;
/// A text is not valid UTF-8, or too long.
pub const MASKGIT_ERROR_TEXT: maskgit_code = 14;
/// There is not enough memory.
pub const MASKGIT_ERROR_MEMORY: maskgit_code = 15;

/// Why a call failed: a code and a message. Free it with maskgit_error_free().
pub struct maskgit_error {
    code: maskgit_code,
    message: CString,
}

impl Object for maskgit_error {
    const NAME: &'static str = "maskgit_error";
}

/// A failure on its way to C.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: maskgit_code,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(code: maskgit_code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The same fault of the argument `name`.
    pub(super) fn of(mut self, name: &str) -> Self {
        self.message = format!("{name}: {}", self.message);
        self
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Io => MASKGIT_ERROR_IO,
            ErrorKind::Bundle => MASKGIT_ERROR_BUNDLE,
            ErrorKind::Engine => MASKGIT_ERROR_ENGINE,
            ErrorKind::Request => MASKGIT_ERROR_REQUEST,
            ErrorKind::Image => MASKGIT_ERROR_IMAGE,
            ErrorKind::Cancelled => MASKGIT_ERROR_CANCELLED,
            ErrorKind::Memory => MASKGIT_ERROR_MEMORY,
            // Every kind that there is has a code; one that is new and forgotten here is a fault of this library.
            _ => MASKGIT_ERROR_INTERNAL,
        };
        Self::new(code, error.to_string())
    }
}

/// A C string of a text; what C cannot hold becomes a space.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// The frame of an exported function that can fail: a fault of `work`, or a panic, becomes a code and, where `error` is
/// not NULL, an error object.
///
/// # Safety
///
/// `error` is NULL, not aligned, or may be written.
pub(super) unsafe fn call(error: *mut *mut maskgit_error, work: impl FnOnce() -> Result<(), Fault>) -> maskgit_code {
    if !error.is_null() {
        if !error.is_aligned() {
            return MASKGIT_ERROR_MISALIGNED;
        }
        // SAFETY: not NULL, aligned, and the caller's to be written.
        unsafe { error.write(ptr::null_mut()) };
    }
    let Err(fault) = caught(work) else { return MASKGIT_OK };
    if !error.is_null() {
        // Making the object must not unwind either; without memory for it, the code alone must do.
        let made = || handle::give(maskgit_error { code: fault.code, message: c_string(&fault.message) });
        let object = panics::caught(made).unwrap_or(ptr::null_mut());
        // SAFETY: as above.
        unsafe { error.write(object) };
    }
    fault.code
}

/// The frame of an exported function that returns a value; `otherwise` stands for a fault or a panic.
pub(super) fn value<T>(otherwise: T, work: impl FnOnce() -> Result<T, Fault>) -> T {
    caught(work).unwrap_or(otherwise)
}

/// What `work` gives; a panic is a fault of this library.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    panics::caught(work).unwrap_or_else(|panic| {
        let place = panic.place.map(|place| format!(" ({place})")).unwrap_or_default();
        Err(Fault::new(MASKGIT_ERROR_INTERNAL, format!("internal fault: {}{place}", panic.text)))
    })
}

/// The code of an error; MASKGIT_ERROR_HANDLE when `error` is not one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_error_code(error: *const maskgit_error) -> maskgit_code {
    value(MASKGIT_ERROR_HANDLE, || Ok(handle::get(error)?.code))
}

/// The message of an error: one line of UTF-8 that says what, where and what to do. Valid until the error is freed. A
/// fixed text when `error` is not one; never NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_error_message(error: *const maskgit_error) -> *const c_char {
    const NONE: &CStr = c"no error, or one that was freed already";
    value(NONE.as_ptr(), || Ok(handle::get(error)?.message.as_ptr()))
}

/// Frees an error. NULL is ignored.
///
/// Returns MASKGIT_OK, or MASKGIT_ERROR_HANDLE when it was freed already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_error_free(error: *mut maskgit_error) -> maskgit_code {
    free(error)
}

/// Frees an object of any type.
pub(super) fn free<T: Object>(object: *mut T) -> maskgit_code {
    if object.is_null() {
        return MASKGIT_OK;
    }
    let drop_it = || Ok(handle::take(object).map(drop).err().map_or(MASKGIT_OK, |fault| fault.code));
    value(MASKGIT_ERROR_INTERNAL, drop_it)
}

/// The name of a code in lower case, such as "short buffer"; "unknown" for a number that is none. Never freed.
#[unsafe(no_mangle)]
pub extern "C" fn maskgit_code_name(code: maskgit_code) -> *const c_char {
    let name = match code {
        MASKGIT_OK => c"ok",
        MASKGIT_ERROR_IO => c"io",
        MASKGIT_ERROR_BUNDLE => c"bundle",
        MASKGIT_ERROR_ENGINE => c"engine",
        MASKGIT_ERROR_REQUEST => c"request",
        MASKGIT_ERROR_IMAGE => c"image",
        MASKGIT_ERROR_CANCELLED => c"cancelled",
        MASKGIT_ERROR_INTERNAL => c"internal",
        MASKGIT_ERROR_NULL => c"null",
        MASKGIT_ERROR_MISALIGNED => c"misaligned",
        MASKGIT_ERROR_SHORT_BUFFER => c"short buffer",
        MASKGIT_ERROR_HANDLE => c"handle",
        MASKGIT_ERROR_STRUCT => c"struct",
        MASKGIT_ERROR_BUSY => c"busy",
        MASKGIT_ERROR_TEXT => c"text",
        MASKGIT_ERROR_MEMORY => c"memory",
        _ => c"unknown",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_internal_error() {
        let mut error = ptr::null_mut();
        // SAFETY: `error` may be written.
        let code = unsafe { call(&mut error, || panic!("by a test")) };
        assert_eq!(code, MASKGIT_ERROR_INTERNAL);
        // SAFETY: the error was made above; its message is read before it is freed.
        unsafe {
            assert_eq!(maskgit_error_code(error), MASKGIT_ERROR_INTERNAL);
            let message = CStr::from_ptr(maskgit_error_message(error)).to_str().unwrap();
            assert!(
                message.starts_with("internal fault: by a test (") && message.contains("capi/error.rs:"),
                "{message}"
            );
            assert_eq!(maskgit_error_free(error), MASKGIT_OK);
            assert_eq!(maskgit_error_free(error), MASKGIT_ERROR_HANDLE);
        }
        // SAFETY: no error object is asked for.
        assert_eq!(unsafe { call(ptr::null_mut(), || panic!("by a test")) }, MASKGIT_ERROR_INTERNAL);
    }

    /// Programs were compiled with these numbers.
    #[test]
    fn the_kinds_keep_their_codes() {
        use ErrorKind::*;
        for (code, kind) in
            [(1, Io), (2, Bundle), (3, Engine), (4, Request), (5, Image), (6, Cancelled), (7, Internal), (15, Memory)]
        {
            assert_eq!(Fault::from(Error::new(kind, "")).code, code);
        }
        let more = [8, 9, 10, 11, 12, 13, 14];
        assert_eq!(
            more,
            [
                MASKGIT_ERROR_NULL,
                MASKGIT_ERROR_MISALIGNED,
                MASKGIT_ERROR_SHORT_BUFFER,
                MASKGIT_ERROR_HANDLE,
                MASKGIT_ERROR_STRUCT,
                MASKGIT_ERROR_BUSY,
                MASKGIT_ERROR_TEXT
            ]
        );
    }
}
