//! The GPU, by NVIDIA's driver through cudarc, which loads it at run time.
//!
//! cudarc panics where the library or a function of it is missing. So the library is looked for first, and its version
//! is asked for before anything newer is called.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self as cuda, CUdevice_attribute as Attribute, CUresult};

use super::device::{Call, Device, Precision};
use super::nvrtc::Nvrtc;
use maskgit_core::{Error, Result};

/// CUDA 12.0, as the driver counts.
const OLDEST_DRIVER: c_int = 12_000;
/// The oldest GPUs whose tensor cores the kernels know: Turing.
const OLDEST_CAPABILITY: (i32, i32) = (7, 5);

/// What an NVIDIA GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaDevice {
    /// Its number, as in `cuda:N`.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Its streaming multiprocessors.
    pub processors: usize,
    /// Bytes of its memory.
    pub memory: usize,
    /// Whether it shares the processor's memory, as in a Jetson.
    pub integrated: bool,
    /// Why this library cannot run on it, if it cannot.
    pub problem: Option<String>,
}

fn check(what: &str, code: CUresult) -> Result<()> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text: *const c_char = ptr::null();
    // SAFETY: it writes a pointer to a text of its own, or leaves it.
    unsafe { cuda::cuGetErrorString(code, &raw mut text) };
    let why = if text.is_null() {
        format!("{code:?}")
    } else {
        // SAFETY: the driver's texts end with a zero and stay.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let hint = if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY { "the GPU is out of memory: " } else { "" };
    Err(Error::engine(format!("cannot {what}: {hint}{why}")))
}

/// The driver, ready to be asked.
fn start() -> Result<()> {
    // SAFETY: loading the driver runs its initialisers, as any program that uses it does.
    if !unsafe { cuda::is_culib_present() } {
        return Err(Error::engine("NVIDIA's driver is not there: the library libcuda.so.1 cannot be loaded"));
    }
    let mut version = 0;
    // SAFETY: it writes a number; every driver has it.
    check("ask for the driver's version", unsafe { cuda::cuDriverGetVersion(&raw mut version) })?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Error::engine(format!(
            "NVIDIA's driver is too old: it knows CUDA {major}.{minor}; it must know 12.0"
        )));
    }
    // SAFETY: there are no flags.
    check("start NVIDIA's driver", unsafe { cuda::cuInit(0) })
}

fn attribute(device: c_int, which: Attribute) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: it writes a number.
    check("ask about a GPU", unsafe { cuda::cuDeviceGetAttribute(&raw mut value, which, device) })?;
    Ok(value)
}

fn count() -> Result<usize> {
    let mut count = 0;
    // SAFETY: it writes a number.
    check("count the GPUs", unsafe { cuda::cuDeviceGetCount(&raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn describe(index: usize) -> Result<(c_int, CudaDevice)> {
    let mut device = 0;
    // SAFETY: it writes a number.
    check("open a GPU", unsafe { cuda::cuDeviceGet(&raw mut device, index as c_int) })?;
    let mut name = [0u8; 128];
    // SAFETY: it writes at most as many bytes, the last of them zero.
    check("ask about a GPU", unsafe { cuda::cuDeviceGetName(name.as_mut_ptr().cast(), 128, device) })?;
    let mut memory = 0;
    // SAFETY: it writes a number.
    check("ask about a GPU", unsafe { cuda::cuDeviceTotalMem_v2(&raw mut memory, device) })?;
    let capability = (
        attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let problem = (capability < OLDEST_CAPABILITY).then(|| {
        let ((major, minor), (least, point)) = (capability, OLDEST_CAPABILITY);
        format!("its compute capability is {major}.{minor}; it must be {least}.{point} or more")
    });
    Ok((
        device,
        CudaDevice {
            index,
            name: CStr::from_bytes_until_nul(&name)
                .map_or_else(|_| String::new(), |n| n.to_string_lossy().into_owned()),
            capability,
            processors: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            memory,
            integrated: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
            problem,
        },
    ))
}

/// The GPUs of this machine.
///
/// # Errors
///
/// Kind [`Engine`](maskgit_core::ErrorKind::Engine), saying what is missing, when the driver is not there, too old, or
/// does not start.
pub fn cuda_devices() -> Result<Vec<CudaDevice>> {
    start()?;
    let mut devices = Vec::new();
    for index in 0..count()? {
        let mut device = describe(index)?.1;
        if device.problem.is_none() {
            device.problem = Nvrtc::get().err().map(|why| why.to_string());
        }
        devices.push(device);
    }
    Ok(devices)
}

/// An opened GPU and the kernels that are on it.
pub(super) struct Gpu {
    device: c_int,
    context: cuda::CUcontext,
    about: CudaDevice,
    nvrtc: &'static Nvrtc,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: Vec<cuda::CUmodule>,
    functions: HashMap<(Precision, &'static str), cuda::CUfunction>,
}

// SAFETY: the driver's handles may be used from any thread that has made the context current, which every use does.
unsafe impl Send for Gpu {}
// SAFETY: the same; what changes is behind a mutex.
unsafe impl Sync for Gpu {}

impl Gpu {
    pub(super) fn open(index: usize) -> Result<Self> {
        start()?;
        let count = count()?;
        if index >= count {
            let text = match count {
                0 => "the driver finds no GPU".to_owned(),
                1 => format!("there is no GPU cuda:{index}: there is cuda:0 only"),
                n => format!("there is no GPU cuda:{index}: there are cuda:0 to cuda:{}", n - 1),
            };
            return Err(Error::engine(text));
        }
        let (device, about) = describe(index)?;
        if let Some(problem) = &about.problem {
            return Err(Error::engine(format!("cuda:{index} ({}) cannot be used: {problem}", about.name)));
        }
        let nvrtc = Nvrtc::get()?;
        let mut context = ptr::null_mut();
        // SAFETY: the device is one of the driver's; it writes a handle, which `drop` gives back.
        check("open the GPU", unsafe { cuda::cuDevicePrimaryCtxRetain(&raw mut context, device) })?;
        Ok(Self { device, context, about, nvrtc, loaded: Mutex::default() })
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check("use the GPU", unsafe { cuda::cuCtxSetCurrent(self.context) })
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles and loads those of the kernels that are not there yet.
    fn load(&self, precision: Precision, calls: &[Call]) -> Result<()> {
        let mut loaded = self.loaded();
        let mut wanted: Vec<&'static str> =
            calls.iter().map(|c| c.kernel).filter(|k| !loaded.functions.contains_key(&(precision, *k))).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return Ok(());
        }
        let image = self.nvrtc.compile(precision, &wanted, self.about.capability)?;
        let mut module = ptr::null_mut();
        // SAFETY: the image is a whole cubin, which carries its own length, or a text that ends with a zero.
        check("load the kernels", unsafe { cuda::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) })?;
        loaded.modules.push(module);
        for kernel in wanted {
            let name = CString::new(kernel).map_err(|_| Error::internal("a kernel's name holds a zero"))?;
            let mut function = ptr::null_mut();
            // SAFETY: the module is loaded; the name ends with a zero.
            let code = unsafe { cuda::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) };
            check(&format!("find the kernel {kernel}"), code)?;
            loaded.functions.insert((precision, kernel), function);
        }
        Ok(())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.enter().is_ok() {
            for module in &self.loaded().modules {
                // SAFETY: every stream that used it has been synchronised and dropped: each holds the GPU.
                unsafe { cuda::cuModuleUnload(*module) };
            }
        }
        // SAFETY: it was retained once.
        unsafe { cuda::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A queue of a GPU, for one session.
pub(super) struct Stream {
    gpu: Arc<Gpu>,
    stream: cuda::CUstream,
    recordings: Vec<cuda::CUgraphExec>,
}

// SAFETY: as `Gpu`; a stream is used by one thread at a time, as every use needs it exclusively.
unsafe impl Send for Stream {}

impl Stream {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        gpu.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: it writes a handle, which `drop` gives back. 1: it does not wait for the default stream.
        check("open a stream", unsafe { cuda::cuStreamCreate(&raw mut stream, 1) })?;
        Ok(Self { gpu: Arc::clone(gpu), stream, recordings: Vec::new() })
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives.
        check("run the graph", unsafe { cuda::cuStreamSynchronize(self.stream) })
    }

    /// Queues calls.
    ///
    /// # Safety
    ///
    /// As [`Device::record`].
    unsafe fn queue(&self, precision: Precision, calls: &[Call]) -> Result<()> {
        let loaded = self.gpu.loaded();
        for call in calls {
            let function = *loaded
                .functions
                .get(&(precision, call.kernel))
                .ok_or_else(|| Error::internal(format!("the kernel {} was not loaded", call.kernel)))?;
            // The driver copies the struct, and may want it aligned as the kernel does.
            let mut words: Vec<u64> = call
                .arguments
                .chunks_exact(8)
                .map(|b| u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect();
            let mut parameters = [words.as_mut_ptr().cast::<c_void>()];
            let [x, y, z] = call.grid;
            // SAFETY: the kernel takes one struct, which has these bytes; the caller vouches for the addresses in it.
            let code = unsafe {
                let (parameters, none) = (parameters.as_mut_ptr(), ptr::null_mut());
                cuda::cuLaunchKernel(function, x, y, z, call.threads, 1, 1, 0, self.stream, parameters, none)
            };
            check(&format!("launch {}", call.kernel), code)?;
        }
        Ok(())
    }
}

impl Device for Stream {
    fn processors(&self) -> usize {
        self.gpu.about.processors
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64> {
        self.gpu.enter()?;
        let mut address = 0;
        // SAFETY: it writes an address, which is at a multiple of 256.
        let code = unsafe { cuda::cuMemAlloc_v2(&raw mut address, bytes) };
        check(&format!("get {:.1} MB of the GPU's memory", bytes as f64 / 1e6), code)?;
        Ok(address)
    }

    fn free(&mut self, address: u64) {
        if self.gpu.enter().is_ok() && self.wait().is_ok() {
            // SAFETY: it came from `allocate`, and the stream, its only user, has finished.
            unsafe { cuda::cuMemFree_v2(address) };
        }
    }

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.gpu.enter()?;
        // SAFETY: the session's plan gave the address room for the bytes; the driver has read them when it returns,
        // since they are not in pinned memory.
        let code = unsafe { cuda::cuMemcpyHtoDAsync_v2(address, bytes.as_ptr().cast(), bytes.len(), self.stream) };
        check("copy to the GPU", code)
    }

    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.gpu.enter()?;
        // SAFETY: the address has that many bytes; the stream is waited for before they are used.
        let code = unsafe { cuda::cuMemcpyDtoHAsync_v2(bytes.as_mut_ptr().cast(), address, bytes.len(), self.stream) };
        // Waited for in any case: the bytes must not be written once they are the caller's again.
        let done = self.wait();
        check("copy from the GPU", code)?;
        done
    }

    unsafe fn record(&mut self, precision: Precision, calls: &[Call]) -> Result<usize> {
        self.gpu.enter()?;
        self.gpu.load(precision, calls)?;
        let mode = cuda::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives and is not being recorded.
        check("record the graph", unsafe { cuda::cuStreamBeginCapture_v2(self.stream, mode) })?;
        // SAFETY: the caller's promise.
        let queued = unsafe { self.queue(precision, calls) };
        let mut graph = ptr::null_mut();
        // SAFETY: the recording was begun above; it writes a handle.
        let code = unsafe { cuda::cuStreamEndCapture(self.stream, &raw mut graph) };
        queued?;
        check("record the graph", code)?;
        let mut ready = ptr::null_mut();
        // SAFETY: the graph lives; there are no flags; it writes a handle, which `forget` gives back.
        let code = unsafe { cuda::cuGraphInstantiateWithFlags(&raw mut ready, graph, 0) };
        // SAFETY: what was made from it does not need it.
        unsafe { cuda::cuGraphDestroy(graph) };
        check("prepare the recorded graph", code)?;
        self.recordings.push(ready);
        Ok(self.recordings.len() - 1)
    }

    fn replay(&mut self, recording: usize) -> Result<()> {
        self.gpu.enter()?;
        let ready = self.recordings.get(recording).ok_or_else(|| Error::internal("there is no such recording"))?;
        // SAFETY: the recording lives, and so does the memory that it uses: `record`'s caller promised.
        check("run the graph", unsafe { cuda::cuGraphLaunch(*ready, self.stream) })
    }

    fn forget(&mut self) {
        if self.gpu.enter().is_ok() && self.wait().is_ok() {
            for ready in self.recordings.drain(..) {
                // SAFETY: the stream has finished.
                unsafe { cuda::cuGraphExecDestroy(ready) };
            }
        }
        self.recordings.clear();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.forget();
        if self.gpu.enter().is_ok() {
            // SAFETY: it came from `cuStreamCreate` and has finished.
            unsafe { cuda::cuStreamDestroy_v2(self.stream) };
        }
    }
}
