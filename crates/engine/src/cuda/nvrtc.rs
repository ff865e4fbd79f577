//! NVIDIA's run-time compiler, loaded when it is first needed.
//!
//! It is called by hand rather than through cudarc, which looks for fewer names than the toolkits of CUDA 12 and 13 use
//! and panics when it finds none.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use libloading::Library;

use super::device::Precision;
use super::sources;
use maskgit_core::{Error, Result};

/// The environment variable that names the library.
const VARIABLE: &str = "MASKGIT_NVRTC";
#[cfg(not(windows))]
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
#[cfg(windows)]
const NAMES: [&str; 2] = ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];
/// Where JetPack and NVIDIA's packages put it, outside the loader's own list.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib"];

type Program = *mut c_void;
type Texts = *const *const c_char;

/// The functions that are used.
pub(super) struct Nvrtc {
    _library: Library,
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Texts, Texts) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, Texts) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    count: unsafe extern "C" fn(*mut c_int) -> c_int,
    list: unsafe extern "C" fn(*mut c_int) -> c_int,
}

/// A program that goes when it is no longer needed.
struct Held<'a>(&'a Nvrtc, Program);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: the program came from `create` and is used by nobody else.
        unsafe { (self.0.destroy)(&raw mut self.1) };
    }
}

impl Nvrtc {
    /// The library of this process.
    pub(super) fn get() -> Result<&'static Self> {
        static LOADED: OnceLock<std::result::Result<Nvrtc, String>> = OnceLock::new();
        LOADED.get_or_init(Self::find).as_ref().map_err(|why| Error::engine(why.clone()))
    }

    fn find() -> std::result::Result<Self, String> {
        if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            let path = std::path::PathBuf::from(path);
            return Self::load(&path)
                .map_err(|e| format!("cannot load NVRTC from {} ({VARIABLE}): {e}", path.display()));
        }
        let folders = FOLDERS.iter().flat_map(|folder| NAMES.map(|name| std::path::Path::new(folder).join(name)));
        for path in NAMES.iter().map(std::path::PathBuf::from).chain(folders) {
            if let Ok(found) = Self::load(&path) {
                return Ok(found);
            }
        }
        Err(format!(
            "NVRTC, CUDA's run-time compiler, is not there ({}): install CUDA 12 or 13's nvrtc package, or say \
             where it is in {VARIABLE}",
            NAMES.join(", ")
        ))
    }

    pub(super) fn load(path: &std::path::Path) -> std::result::Result<Self, libloading::Error> {
        // SAFETY: it is NVIDIA's library, or what the user says is; its functions have these types in every version
        // since CUDA 11.2.
        unsafe {
            let library = Library::new(path)?;
            Ok(Self {
                version: *library.get(b"nvrtcVersion\0")?,
                error: *library.get(b"nvrtcGetErrorString\0")?,
                create: *library.get(b"nvrtcCreateProgram\0")?,
                destroy: *library.get(b"nvrtcDestroyProgram\0")?,
                compile: *library.get(b"nvrtcCompileProgram\0")?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0")?,
                log: *library.get(b"nvrtcGetProgramLog\0")?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize\0")?,
                cubin: *library.get(b"nvrtcGetCUBIN\0")?,
                ptx_size: *library.get(b"nvrtcGetPTXSize\0")?,
                ptx: *library.get(b"nvrtcGetPTX\0")?,
                count: *library.get(b"nvrtcGetNumSupportedArchs\0")?,
                list: *library.get(b"nvrtcGetSupportedArchs\0")?,
                _library: library,
            })
        }
    }

    /// Its version, such as (12, 6).
    pub(super) fn version(&self) -> (i32, i32) {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: it writes two numbers.
        unsafe { (self.version)(&raw mut major, &raw mut minor) };
        (major, minor)
    }

    /// The compute capabilities that it compiles for, in ascending order.
    pub(super) fn capabilities(&self) -> Result<Vec<(i32, i32)>> {
        let mut count = 0;
        // SAFETY: it writes a number.
        self.check("count", unsafe { (self.count)(&raw mut count) })?;
        let mut list: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: it writes as many numbers as it said.
        self.check("list", unsafe { (self.list)(list.as_mut_ptr()) })?;
        Ok(list.into_iter().map(|c| (c / 10, c % 10)).collect())
    }

    /// Compiles kernels for a compute capability: the machine's own code where it knows the machine, else code for the
    /// newest older one that the driver translates.
    pub(super) fn compile(&self, precision: Precision, wanted: &[&str], capability: (i32, i32)) -> Result<Vec<u8>> {
        let text = |text: String| CString::new(text).map_err(|_| Error::internal("a kernel's source holds a zero"));
        let source = text(sources::source(precision, wanted))?;
        let known = self.capabilities()?;
        let exact = known.contains(&capability);
        let target = match known.iter().rfind(|&&c| c <= capability) {
            _ if exact => capability,
            Some(older) => *older,
            None => capability,
        };
        let options: Vec<CString> =
            sources::options(precision, target, exact).into_iter().map(text).collect::<Result<_>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program = ptr::null_mut();
        // SAFETY: the texts end with a zero and outlive the call; there are no headers.
        let code = unsafe {
            (self.create)(&raw mut program, source.as_ptr(), c"maskgit.cu".as_ptr(), 0, ptr::null(), ptr::null())
        };
        self.check("start", code)?;
        let program = Held(self, program);
        // SAFETY: the program lives; the options end with a zero and outlive the call.
        let code = unsafe { (self.compile)(program.1, pointers.len() as c_int, pointers.as_ptr()) };
        if code != 0 {
            let (major, minor) = self.version();
            let log = self.read(&program, self.log_size, self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).replace('\0', "");
            return Err(Error::engine(format!(
                "NVRTC {major}.{minor} cannot compile the kernels for compute capability {}.{}: {} {}",
                capability.0,
                capability.1,
                self.describe(code),
                crate::import::clip(log.trim())
            )));
        }
        if exact {
            self.read(&program, self.cubin_size, self.cubin)
        } else {
            self.read(&program, self.ptx_size, self.ptx)
        }
    }

    fn read(
        &self,
        program: &Held<'_>,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program lives; it writes a number.
        self.check("measure", unsafe { size(program.1, &raw mut bytes) })?;
        let mut out = vec![0u8; bytes];
        // SAFETY: it writes as many bytes as it said.
        self.check("read", unsafe { get(program.1, out.as_mut_ptr().cast()) })?;
        Ok(out)
    }

    fn check(&self, what: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        Err(Error::engine(format!("NVRTC cannot {what} a program: {}", self.describe(code))))
    }

    fn describe(&self, code: c_int) -> String {
        // SAFETY: it gives a text of its own that ends with a zero, for any code.
        unsafe { CStr::from_ptr((self.error)(code)) }.to_string_lossy().into_owned()
    }
}
