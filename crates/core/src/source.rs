//! Where the bytes of a graph are.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};

/// The bytes of one ONNX graph: in memory, or a part of an open file.
///
/// A file is read a part at a time, each weight when it is wanted, so that a graph's weights are never in memory twice.
#[derive(Clone)]
pub struct Source(Inner);

#[derive(Clone)]
enum Inner {
    Memory { bytes: Arc<Cow<'static, [u8]>>, start: usize, len: usize },
    File { file: Arc<Mutex<File>>, start: u64, len: u64 },
}

impl Source {
    /// A part of some bytes, which are shared.
    ///
    /// # Errors
    ///
    /// Kind [`Internal`](crate::ErrorKind::Internal) when it does not lie in them.
    pub fn part(bytes: Arc<Cow<'static, [u8]>>, start: usize, len: usize) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > bytes.len()) {
            return Err(Error::internal("a graph lies outside the bytes that hold it"));
        }
        Ok(Self(Inner::Memory { bytes, start, len }))
    }

    /// `len` bytes of a file, from byte `start`.
    pub fn file(file: File, start: u64, len: u64) -> Self {
        Self(Inner::File { file: Arc::new(Mutex::new(file)), start, len })
    }

    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Inner::Memory { len, .. } => *len as u64,
            Inner::File { len, .. } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `len` bytes from byte `start`.
    ///
    /// # Errors
    ///
    /// As [`Source::read_into`], and [`Memory`](crate::ErrorKind::Memory) when there is no memory for them.
    pub fn read(&self, start: u64, len: usize) -> Result<Vec<u8>> {
        self.check(start, len)?;
        let mut bytes = Vec::new();
        crate::memory::reserve(&mut bytes, len).map_err(|e| {
            Error::new(crate::ErrorKind::Memory, format!("out of memory: {len} bytes of a graph")).with_source(e)
        })?;
        bytes.resize(len, 0);
        self.read_into(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes` with what stands at byte `start` and after it.
    ///
    /// # Errors
    ///
    /// Kind [`Bundle`](crate::ErrorKind::Bundle) when they are not all there, [`Io`](crate::ErrorKind::Io) when they
    /// cannot be read.
    pub fn read_into(&self, start: u64, bytes: &mut [u8]) -> Result<()> {
        self.check(start, bytes.len())?;
        match &self.0 {
            Inner::Memory { bytes: all, start: first, .. } => {
                let from = first + start as usize;
                bytes.copy_from_slice(&all[from..from + bytes.len()]);
            }
            Inner::File { file, start: first, .. } => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let cannot = |e: std::io::Error| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => {
                        Error::bundle("the graph's file has become shorter while it was read")
                    }
                    _ => Error::io("cannot read a graph", e),
                };
                file.seek(SeekFrom::Start(first.saturating_add(start))).map_err(cannot)?;
                file.read_exact(bytes).map_err(cannot)?;
            }
        }
        Ok(())
    }

    fn check(&self, start: u64, len: usize) -> Result<()> {
        if start.checked_add(len as u64).is_none_or(|end| end > self.len()) {
            return Err(Error::bundle(format!("the graph ends before byte {start} + {len}")));
        }
        Ok(())
    }
}

impl Default for Source {
    /// No bytes.
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self(Inner::Memory { bytes: Arc::new(Cow::Owned(bytes)), start: 0, len })
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({} bytes)", self.len())
    }
}
