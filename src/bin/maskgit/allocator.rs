//! What happens where the system has no memory left: one line, and the exit status of a failure.

#![allow(unsafe_code)] // an allocator is unsafe by nature, and so is writing where nothing may be allocated

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

use maskgit_core::{files, memory};

/// The system's allocator. Where it fails, what can be told as an error is, and the process ends for all else, of which
/// Rust would otherwise abort.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: all is the system's allocator's, which gives NULL or what was asked for.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.realloc(place, layout, size) }, size)
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

fn checked(place: *mut u8, bytes: usize) -> *mut u8 {
    if place.is_null() && !memory::may_fail() {
        end(bytes);
    }
    place
}

#[cold]
fn end(bytes: usize) -> ! {
    files::remove_temporaries();
    let mut line = [0; 96];
    let mut rest = line.as_mut_slice();
    // It is long enough, and nothing here is allocated.
    let _ = writeln!(rest, "maskgit: out of memory: {bytes} more bytes are not to be had");
    let length = 96 - rest.len();
    // SAFETY: the first `length` bytes of the line are there. What cannot be written is lost.
    let _ = unsafe { libc::write(2, line.as_ptr().cast(), length) };
    signal_hook::low_level::exit(1)
}
