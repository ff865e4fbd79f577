//! The kernels on the CPU, in tests: their sources compiled as C++ (`emulator/shim.hpp`), run by a [`Device`].

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;

use super::device::{Call, Device, Precision};
use maskgit_core::{Error, Result};

type Emulate =
    unsafe extern "C" fn(*const c_char, *const c_uint, c_uint, *const c_void, usize, c_int, c_uint) -> *const c_char;

/// The library for a precision, compiled once a process.
fn library(precision: Precision) -> &'static Library {
    static LIBRARIES: [OnceLock<Library>; 2] = [const { OnceLock::new() }; 2];
    LIBRARIES[precision as usize].get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unit/cuda/emulator/emulator.cpp");
        let folder = tempfile::tempdir().expect("a folder");
        let out: PathBuf = folder.path().join("emulator.so");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let status = Command::new(&compiler)
            .args(["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wno-unused-function", "-Wno-unused-variable"])
            .args(["-shared", "-fPIC", "-pthread"])
            .arg(format!("-DFP16={}", u8::from(precision == Precision::F16)))
            .arg(&source)
            .arg("-o")
            .arg(&out)
            .status()
            .expect("a C++ compiler");
        assert!(status.success(), "{compiler} cannot compile {}", source.display());
        // SAFETY: it is the library that was just compiled; its initialisers fill a list.
        unsafe { Library::new(&out).expect("the emulator") }
    })
}

pub(super) struct Emulator {
    /// How many processors to say that there are.
    pub(super) processors: usize,
    /// Whether threads run from the last to the first, which must not matter.
    pub(super) backwards: bool,
    recordings: Vec<(Precision, Vec<Call>)>,
    memory: HashMap<u64, Layout>,
}

impl Emulator {
    pub(super) fn new() -> Self {
        Self { processors: 4, backwards: false, recordings: Vec::new(), memory: HashMap::new() }
    }

    /// Whether these bytes are inside memory that was asked for.
    fn check(&self, address: u64, bytes: usize) -> Result<()> {
        let inside = |(&start, layout): (&u64, &Layout)| {
            start <= address && address + bytes as u64 <= start + layout.size() as u64
        };
        if self.memory.iter().any(inside) {
            return Ok(());
        }
        Err(Error::internal(format!("{bytes} bytes at {address:#x} are not the emulator's")))
    }
}

impl Device for Emulator {
    fn processors(&self) -> usize {
        self.processors
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let layout =
            Layout::from_size_align(bytes, 256).map_err(|e| Error::internal("an impossible size").with_source(e))?;
        // SAFETY: the layout has a size; every byte is set: to bits that are not a number in fp32 and in fp16.
        let address = unsafe {
            let start = alloc(layout);
            start.write_bytes(0xff, bytes);
            start as u64
        };
        self.memory.insert(address, layout);
        Ok(address)
    }

    fn free(&mut self, address: u64) {
        let layout = self.memory.remove(&address).expect("memory of this device");
        // SAFETY: it came from `alloc` with this layout.
        unsafe { dealloc(address as *mut u8, layout) };
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.check(address, bytes.len())?;
        // SAFETY: checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.check(address, bytes.len())?;
        // SAFETY: checked.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn record(&mut self, precision: Precision, calls: &[Call]) -> Result<usize> {
        self.recordings.push((precision, calls.to_vec()));
        Ok(self.recordings.len() - 1)
    }

    fn replay(&mut self, recording: usize) -> Result<()> {
        let (precision, calls) = &self.recordings[recording];
        let library = library(*precision);
        // SAFETY: the library has it, with this type.
        let emulate = unsafe { library.get::<Emulate>(b"emulate\0").expect("the function") };
        for call in calls {
            let name = CString::new(call.kernel).expect("a name");
            let workers = std::thread::available_parallelism().map_or(1, usize::from) as c_uint;
            // The struct holds 64-bit numbers.
            let words: Vec<u64> = call
                .arguments
                .chunks_exact(8)
                .map(|b| u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect();
            // SAFETY: the function checks the size of the struct; the addresses in it are those of the session that
            // recorded.
            let fault = unsafe {
                let (arguments, size) = (words.as_ptr().cast(), call.arguments.len());
                let backwards = c_int::from(self.backwards);
                emulate(name.as_ptr(), call.grid.as_ptr(), call.threads, arguments, size, backwards, workers)
            };
            if !fault.is_null() {
                // SAFETY: it is a text in the library, which stays loaded.
                let fault = unsafe { CStr::from_ptr(fault) }.to_string_lossy();
                return Err(Error::internal(format!("{}: {fault}", call.kernel)));
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.recordings.clear();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        assert!(self.memory.is_empty() || std::thread::panicking(), "the session kept memory");
    }
}
