//! The C interface, `include/maskgit.h`, which cbindgen writes from this module. `docs/c-abi.md` explains it.
//!
//! Every exported function converts its arguments, calls one method of the library, and converts the result, in the
//! frame that [`error::call`] is: it catches panics and answers with a code. Nothing here knows how to draw.

#![allow(unsafe_code)]
// The names are those of C.
#![allow(non_camel_case_types)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod argument;
mod cancel;
mod draw;
mod error;
mod generator;
mod handle;
mod images;
mod options;
mod pixels;

use std::ffi::{CStr, c_char};

/// The number of this interface, and of the library's soname. It changes only when programs must be compiled anew.
/// Additions do not change it: functions, codes, meanings of what is reserved, fields at the end of a struct that
/// carries its size. maskgit_version() tells which a library has.
pub const MASKGIT_ABI_VERSION: u32 = 2;

/// The MASKGIT_ABI_VERSION of the library that the program runs with.
#[unsafe(no_mangle)]
pub extern "C" fn maskgit_abi_version() -> u32 {
    MASKGIT_ABI_VERSION
}

/// The library's version as text, such as "0.2.0". Never freed.
#[unsafe(no_mangle)]
pub extern "C" fn maskgit_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    CStr::from_bytes_with_nul(VERSION.as_bytes()).unwrap_or_default().as_ptr()
}
