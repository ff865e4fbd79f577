//! Which device runs the graphs.

use std::fmt;
use std::str::FromStr;

use maskgit_core::{Error, Result};
use maskgit_engine::{CpuEngine, Engine, Isa};

/// A device that runs graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its number, from 0. Needs the library's feature `cuda`.
    Cuda(usize),
    /// The first GPU where it can run the model, else the processor.
    Auto,
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda` (the first GPU), `cuda:N` or `auto`.
    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|_| plain).map(|n| Self::Cuda(n.into()))
        };
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "auto" => Ok(Self::Auto),
            _ => text.strip_prefix("cuda:").and_then(number).ok_or_else(|| {
                Error::request(format!("there is no device \"{text}\": it must be cpu, cuda, cuda:N or auto"))
            }),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// What [`devices`] says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Which.
    pub device: Device,
    /// What it is; empty where nobody knows.
    pub description: String,
    /// Why it cannot be used, where it cannot.
    pub problem: Option<String>,
}

/// The devices of this machine: the processor, then the GPUs. Where GPUs cannot be asked for, there is an entry
/// `cuda:0` that says why.
pub fn devices() -> Vec<DeviceInfo> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let description = format!("{cores} core{}, {} kernels", if cores == 1 { "" } else { "s" }, Isa::best());
    let mut devices = vec![DeviceInfo { device: Device::Cpu, description, problem: None }];
    devices.extend(gpus().unwrap_or_else(|why| {
        let problem = Some(why.to_string());
        vec![DeviceInfo { device: Device::Cuda(0), description: String::new(), problem }]
    }));
    devices
}

#[cfg(feature = "cuda")]
fn gpus() -> Result<Vec<DeviceInfo>> {
    let found = maskgit_engine::cuda_devices()?;
    if found.is_empty() {
        return Err(Error::engine("the driver finds no GPU"));
    }
    let info = |gpu: maskgit_engine::CudaDevice| DeviceInfo {
        device: Device::Cuda(gpu.index),
        description: format!(
            "{}, compute capability {}.{}, {} multiprocessors, {:.1} GB{}",
            gpu.name,
            gpu.capability.0,
            gpu.capability.1,
            gpu.processors,
            gpu.memory as f64 / 1e9,
            if gpu.integrated { " shared with the processor" } else { "" }
        ),
        problem: gpu.problem,
    };
    Ok(found.into_iter().map(info).collect())
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Result<Vec<DeviceInfo>> {
    Err(not_built())
}

#[cfg(not(feature = "cuda"))]
fn not_built() -> Error {
    Error::engine("this build cannot use GPUs: it was made without the feature cuda")
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Box<dyn Engine>> {
    Ok(Box::new(maskgit_engine::CudaEngine::new(index)?))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Box<dyn Engine>> {
    Err(not_built())
}

/// An engine on a device; for [`Device::Auto`] the CPU's where there is no usable GPU, and why.
pub(super) fn engine(device: Device, threads: usize) -> Result<(Box<dyn Engine>, Option<Error>)> {
    // Checked whatever the device is, so that a request is wrong or right wherever it runs.
    let cpu = CpuEngine::new(threads)?;
    match device {
        Device::Cpu => Ok((Box::new(cpu), None)),
        Device::Cuda(index) => Ok((cuda(index).map_err(|e| e.context(device))?, None)),
        Device::Auto => Ok(match cuda(0) {
            Ok(engine) => (engine, None),
            Err(why) => (Box::new(cpu), Some(why)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for (text, device) in
            [("cpu", Device::Cpu), ("cuda:0", Device::Cuda(0)), ("cuda:7", Device::Cuda(7)), ("auto", Device::Auto)]
        {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["", "gpu", "CPU", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "cuda:99999999999", "cuda 0"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_processor_is_always_there() {
        let devices = devices();
        assert_eq!((devices[0].device, &devices[0].problem), (Device::Cpu, &None));
        assert!(devices.len() > 1, "a GPU, or why there is none");
    }
}
