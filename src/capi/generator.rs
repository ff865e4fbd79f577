//! Opening a model, and what it says about itself.

use std::ffi::{CString, c_char, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use maskgit_bundle::Manifest;
use maskgit_core::copied;
use maskgit_engine::Isa;

use super::argument::{self, Versioned};
use super::error::{Fault, MASKGIT_ERROR_BUSY, c_string, call, caught, free, maskgit_code, maskgit_error, value};
use super::handle::{self, Object};
use super::options::{
    MASKGIT_LOG_DEBUG, MASKGIT_LOG_ERROR, MASKGIT_LOG_INFO, maskgit_log_callback, maskgit_open_options,
};
use crate::pipeline::{Generator, GeneratorBuilder, find_label};

/// A loaded model. Free it with maskgit_generator_free().
pub struct maskgit_generator {
    generator: Mutex<Generator>,
    /// The thread whose call has the generator.
    running: Mutex<Option<ThreadId>>,
    about: About,
    log: Log,
}

impl Object for maskgit_generator {
    const NAME: &'static str = "maskgit_generator";
}

/// The texts that C may look at as long as the generator lives.
struct About {
    name: CString,
    licence: CString,
    source: CString,
    kernels: CString,
    precision: CString,
    labels: Vec<CString>,
    manifest: Manifest,
    load_seconds: f64,
}

/// Where messages go.
#[derive(Clone, Copy)]
struct Log {
    callback: maskgit_log_callback,
    user_data: *mut c_void,
}

// SAFETY: the pointer is handed to the callback and not used otherwise; the header says that it is called on any thread
// that calls the library.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    fn say(self, level: u32, message: &str) {
        if let Some(callback) = self.callback {
            let message = c_string(message);
            // SAFETY: a function of the caller's, called as the header says.
            unsafe { callback(level, message.as_ptr(), self.user_data) };
        }
    }
}

/// A generator that a call has for itself.
pub(super) struct Running<'a> {
    handle: &'a maskgit_generator,
    generator: MutexGuard<'a, Generator>,
}

impl maskgit_generator {
    pub(super) fn manifest(&self) -> &Manifest {
        &self.about.manifest
    }

    fn info(&self) -> maskgit_info {
        let (about, manifest) = (&self.about, &self.about.manifest);
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        maskgit_info {
            size: size_of::<maskgit_info>(),
            name: about.name.as_ptr(),
            licence: about.licence.as_ptr(),
            source: about.source.as_ptr(),
            precision: about.precision.as_ptr(),
            kernels: about.kernels.as_ptr(),
            width: manifest.image.width,
            height: manifest.image.height,
            grid_rows: manifest.grid.rows,
            grid_columns: manifest.grid.cols,
            codes: number(manifest.codes),
            label_count: number(manifest.labels.len()),
            steps: number(manifest.sampling.steps),
            has_encoder: u32::from(manifest.graphs.encoder.is_some()),
            has_null_label: u32::from(manifest.null_label.is_some()),
            reserved: 0,
            mask_id: manifest.mask_id,
            load_seconds: about.load_seconds,
        }
    }

    /// Runs a call and tells the log of it.
    pub(super) fn logged<T>(&self, what: &str, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        let start = Instant::now();
        // A panic too becomes a fault here: the log is the only place that hears of it when no error is asked for.
        let result = caught(work);
        match &result {
            Ok(_) => self.log.say(MASKGIT_LOG_DEBUG, &format!("{what}: {:.3} s", start.elapsed().as_secs_f64())),
            Err(fault) => self.log.say(MASKGIT_LOG_ERROR, &format!("{what}: {}", fault.message)),
        }
        result
    }

    /// Waits for the calls of other threads to end.
    pub(super) fn lock(&self) -> Result<Running<'_>, Fault> {
        let me = thread::current().id();
        if *self.running.lock().unwrap_or_else(PoisonError::into_inner) == Some(me) {
            return Err(Fault::new(
                MASKGIT_ERROR_BUSY,
                "a callback of this generator called it: call it when the first call has returned",
            ));
        }
        // After a panic, the generator's graphs put themselves in order.
        let generator = self.generator.lock().unwrap_or_else(PoisonError::into_inner);
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(me);
        Ok(Running { handle: self, generator })
    }
}

impl std::ops::Deref for Running<'_> {
    type Target = Generator;

    fn deref(&self) -> &Generator {
        &self.generator
    }
}

impl std::ops::DerefMut for Running<'_> {
    fn deref_mut(&mut self) -> &mut Generator {
        &mut self.generator
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.handle.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Makes the handle of an opened generator, and tells the log.
fn handle_of(generator: Generator, log: Log) -> maskgit_generator {
    let manifest = generator.manifest().clone();
    let kernels = match generator.engine_name() {
        "cpu" => Isa::best().to_string(),
        device => device.to_owned(),
    };
    let load_seconds = generator.load_seconds();
    log.say(
        MASKGIT_LOG_INFO,
        &format!(
            "opened {} ({}) in {load_seconds:.3} s on {}: {} threads, {kernels} kernels",
            manifest.name,
            manifest.precision,
            generator.engine_name(),
            generator.threads(),
        ),
    );
    if let Some(note) = generator.device_note() {
        log.say(MASKGIT_LOG_INFO, note);
    }
    let about = About {
        name: c_string(&manifest.name),
        licence: c_string(&manifest.licence),
        source: c_string(&manifest.source),
        kernels: c_string(&kernels),
        precision: c_string(manifest.precision.as_str()),
        labels: manifest.labels.iter().map(|label| c_string(label)).collect(),
        manifest,
        load_seconds,
    };
    maskgit_generator { generator: Mutex::new(generator), running: Mutex::new(None), about, log }
}

/// The frame of opening a model: reads the options and hands C what `work` opens with them.
///
/// # Safety
///
/// `options` is NULL or a struct of the size that it says, its device NULL or a text that ends with a NUL; `generator`
/// and `error` are NULL, not aligned, or may be written.
unsafe fn open(
    options: *const maskgit_open_options,
    generator: *mut *mut maskgit_generator,
    error: *mut *mut maskgit_error,
    work: impl FnOnce(GeneratorBuilder, &maskgit_open_options) -> Result<Generator, Fault>,
) -> maskgit_code {
    // SAFETY: the same promise.
    unsafe {
        call(error, || {
            argument::give(generator, "generator", || {
                let options = argument::read_or_initial(options)?;
                let log = Log { callback: options.log, user_data: options.log_user_data };
                let opened = caught(|| Ok(handle_of(work(options.to_rust()?, &options)?, log)));
                if let Err(fault) = &opened {
                    log.say(MASKGIT_LOG_ERROR, &format!("open: {}", fault.message));
                }
                opened
            })
        })
    }
}

/// Opens a model: a folder that holds bundle.json, or one packed file. `options` may be NULL. On success *generator is
/// to be freed with maskgit_generator_free(); on failure it is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_open(
    path: *const c_char,
    options: *const maskgit_open_options,
    generator: *mut *mut maskgit_generator,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers.
    unsafe { open(options, generator, error, |builder, _| Ok(builder.open(argument::path(path, "path")?)?)) }
}

/// Opens a packed model that is in memory: `length` bytes, which are copied unless the options say borrow_bytes.
/// Otherwise as maskgit_open().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_open_bytes(
    bytes: *const u8,
    length: usize,
    options: *const maskgit_open_options,
    generator: *mut *mut maskgit_generator,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers; with borrow_bytes, the bytes live as long as the generator.
    unsafe {
        open(options, generator, error, |builder, options| {
            argument::check(bytes, "bytes")?;
            let lent: &'static [u8] = argument::slice(bytes, length, "bytes")?;
            Ok(match options.borrow_bytes {
                0 => builder.open_bytes(copied(lent, "a copy of the model")?)?,
                _ => builder.open_bytes(lent)?,
            })
        })
    }
}

/// Frees a model. A call that runs on another thread ends first, and then its memory goes. NULL is ignored. Returns
/// MASKGIT_OK, or MASKGIT_ERROR_HANDLE when it was freed already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_generator_free(generator: *mut maskgit_generator) -> maskgit_code {
    free(generator)
}

/// What a model says about itself. Its texts are valid until the generator is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct maskgit_info {
    /// sizeof(maskgit_info)
    pub size: usize,
    /// The model's name.
    pub name: *const c_char,
    /// Its licence.
    pub licence: *const c_char,
    /// Where it comes from; may be empty.
    pub source: *const c_char,
    /// The precision of its weights: fp32, fp16 or int8.
    pub precision: *const c_char,
    /// What runs it: the instruction set of the CPU's kernels, or, where a GPU does, its name as the options have it,
    /// "cuda:0".
    pub kernels: *const c_char,
    /// Columns of an image.
    pub width: u32,
    /// Rows of an image.
    pub height: u32,
    /// Rows of the token grid.
    pub grid_rows: u32,
    /// Columns of the token grid.
    pub grid_columns: u32,
    /// The number of codes; a finished image's tokens are below it.
    pub codes: u32,
    /// The number of classes.
    pub label_count: u32,
    /// Steps of the recommended schedule.
    pub steps: u32,
    /// 1 when the model can read images, which edits need.
    pub has_encoder: u32,
    /// 1 when it can draw without a class, and be guided.
    pub has_null_label: u32,
    /// 0, for later versions.
    pub reserved: u32,
    /// The token that stands for "not known yet".
    pub mask_id: i64,
    /// Seconds that opening took.
    pub load_seconds: f64,
}

// SAFETY: `repr(C)`, the size first; numbers and pointers.
unsafe impl Versioned for maskgit_info {
    const NAME: &'static str = "maskgit_info";
    const FIRST_SIZE: usize = offset_of!(Self, load_seconds) + size_of::<f64>();

    fn initial() -> Self {
        let text = ptr::null();
        Self {
            size: size_of::<Self>(),
            name: text,
            licence: text,
            source: text,
            precision: text,
            kernels: text,
            width: 0,
            height: 0,
            grid_rows: 0,
            grid_columns: 0,
            codes: 0,
            label_count: 0,
            steps: 0,
            has_encoder: 0,
            has_null_label: 0,
            reserved: 0,
            mask_id: 0,
            load_seconds: 0.0,
        }
    }
}

/// What the model says about itself. `size` is sizeof(maskgit_info). Never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_get_info(
    generator: *const maskgit_generator,
    info: *mut maskgit_info,
    size: usize,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers, and for a struct of this size.
    unsafe { call(error, || argument::write(info, size, handle::get(generator)?.info())) }
}

/// The name of a class, valid until the generator is freed; NULL when there is none of this number. Never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_label_name(generator: *const maskgit_generator, label: usize) -> *const c_char {
    value(ptr::null(), || Ok(handle::get(generator)?.about.labels.get(label).map_or(ptr::null(), |l| l.as_ptr())))
}

/// The number of a class from its name, its second name or its number as text. Never waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn maskgit_find_label(
    generator: *const maskgit_generator,
    class_name: *const c_char,
    label: *mut usize,
    error: *mut *mut maskgit_error,
) -> maskgit_code {
    // SAFETY: the header asks for such pointers, and a text that ends with a NUL.
    unsafe {
        call(error, || {
            let handle = handle::get(generator)?;
            let class = argument::text(class_name, "class_name")?;
            argument::put(label, find_label(&handle.about.manifest, &class)?, "label")
        })
    }
}
