//! What a plan needs of the thing that runs it: the driver, or in tests the emulation of the kernels on the CPU.

use maskgit_core::Result;

/// How tensors are held on the device. Sums are always in fp32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Precision {
    F32,
    F16,
}

impl Precision {
    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Numbers that a thread reads at once.
    pub(super) fn wide(self) -> usize {
        16 / self.size()
    }
}

/// One launch of a kernel, with everything it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) kernel: &'static str,
    pub(super) grid: [u32; 3],
    pub(super) threads: u32,
    /// The kernel's struct.
    pub(super) arguments: Vec<u8>,
}

/// A device, for one session: memory, kernels, and one queue that runs what it is given in order.
pub(super) trait Device: Send {
    /// How many blocks it can run side by side, about.
    fn processors(&self) -> usize;

    /// Memory for `bytes` bytes, at a multiple of 256.
    fn allocate(&mut self, bytes: usize) -> Result<u64>;

    /// Gives memory back, once nothing uses it any more.
    fn free(&mut self, address: u64);

    fn upload(&mut self, address: u64, bytes: &[u8]) -> Result<()>;

    /// Waits for everything that was asked for, and reads.
    fn download(&mut self, address: u64, bytes: &mut [u8]) -> Result<()>;

    /// Makes calls ready to be run again and again as one; returns their number.
    ///
    /// # Safety
    ///
    /// Every address in the arguments must be memory of this device that is large enough for what its kernel does with
    /// it, and stay so while the calls are run.
    unsafe fn record(&mut self, precision: Precision, calls: &[Call]) -> Result<usize>;

    /// Runs recorded calls.
    fn replay(&mut self, recording: usize) -> Result<()>;

    /// Forgets all recordings.
    fn forget(&mut self);
}
