//! Stopping a call from another thread.

use maskgit_core::Cancel;

use super::argument;
use super::error::{MASKGIT_ERROR_INTERNAL, MASKGIT_OK, call, free, maskgit_code, maskgit_error, value};
use super::handle::{self, Object};

/// Stops the calls that have it in their options. Any thread may use it at any time; one handle may serve several
/// calls.
#[derive(Default)]
pub struct maskgit_cancel {
    pub(super) stop: Cancel,
}

impl Object for maskgit_cancel {
    const NAME: &'static str = "maskgit_cancel";
}

/// Makes a cancel handle. Free it with maskgit_cancel_free().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_cancel_new(
    cancel: *mut *mut maskgit_cancel,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers.
    unsafe { call(error, || argument::give(cancel, "cancel", || Ok(maskgit_cancel::default()))) }
}

/// Stops every call that has this handle in its options, now and until maskgit_cancel_reset(). A running call ends with
/// MASKGIT_ERROR_CANCELLED after the present run of a graph, which takes a fraction of a step.
///
/// May be called from any thread and from callbacks; not from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_cancel_stop(cancel: *mut maskgit_cancel) -> maskgit_code {
    store(cancel, true)
}

/// Lets calls with this handle run again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_cancel_reset(cancel: *mut maskgit_cancel) -> maskgit_code {
    store(cancel, false)
}

fn store(cancel: *mut maskgit_cancel, stop: bool) -> maskgit_code {
    value(MASKGIT_ERROR_INTERNAL, || {
        Ok(match handle::get(cancel.cast_const()) {
            Ok(cancel) => {
                if stop {
                    cancel.stop.cancel()
                } else {
                    cancel.stop.reset()
                }
                MASKGIT_OK
            }
            Err(fault) => fault.code,
        })
    })
}

/// Frees a cancel handle, also while a call uses it: the call then goes on without. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_cancel_free(cancel: *mut maskgit_cancel) -> maskgit_code {
    free(cancel)
}
