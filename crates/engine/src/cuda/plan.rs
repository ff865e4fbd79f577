//! A plan: the launches that a graph comes to, and where their tensors are.
//!
//! Tensors of one row of a batch lie in one arena; those that are never needed at the same time share its bytes. The
//! arenas of several rows follow each other, so one launch serves them all.

use super::device::{Call, Precision};
use crate::ops::{Packed, PlainValues, Weights};
use crate::{DType, Port};
use maskgit_core::{Error, Result};

/// Tensors begin at multiples of this.
const ALIGN: usize = 256;

/// Where an argument of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Nowhere,
    /// In a buffer, some bytes from its start.
    Buffer(usize, usize),
    /// Among the constants.
    Constant(usize),
}

/// The struct that a kernel takes, written field by field: places first, then 64-bit numbers, then 32-bit ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    bytes: Vec<u8>,
    places: Vec<(usize, At)>,
}

impl Arguments {
    pub(super) fn place(mut self, at: At) -> Self {
        self.places.push((self.bytes.len(), at));
        self.bytes.extend([0; 16]);
        self
    }

    pub(super) fn longs(mut self, values: &[i64]) -> Self {
        values.iter().for_each(|v| self.bytes.extend(v.to_le_bytes()));
        self
    }

    /// Numbers that are known to be small: every tensor has less than 2^31 elements.
    pub(super) fn ints(mut self, values: &[usize]) -> Self {
        values.iter().for_each(|&v| self.bytes.extend((v as i32).to_le_bytes()));
        self
    }

    pub(super) fn float(mut self, value: f32) -> Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }
}

/// Which kernel, on how many blocks.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Fixed {
        kernel: &'static str,
        blocks: [usize; 2],
        threads: u32,
    },
    /// A product, by the tile that suits the device and the number of rows. All tiles add up in the same order.
    Product {
        rows: usize,
        columns: usize,
        int8: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) work: Work,
    pub(super) arguments: Arguments,
}

/// A constant, as it comes to the device.
pub(super) enum Constant {
    Bytes(Vec<u8>),
    /// A product's weights, each column padded to `pitch` numbers.
    Weights {
        weights: Weights,
        pitch: usize,
    },
}

impl Constant {
    /// Its bytes. Weights are converted here, one tensor at a time.
    pub(super) fn bytes(&self, precision: Precision) -> Result<std::borrow::Cow<'_, [u8]>> {
        let (weights, pitch) = match self {
            Self::Bytes(bytes) => return Ok(bytes.into()),
            Self::Weights { weights, pitch } => (weights, *pitch),
        };
        let Packed::Plain(plain) = &**weights else {
            return Err(Error::internal("a product has weights that were packed for the CPU"));
        };
        let mut bytes = Vec::new();
        match &plain.values {
            PlainValues::F32(values) => {
                for column in values.chunks_exact(plain.inner) {
                    numbers(precision, column.iter().copied(), &mut bytes);
                    bytes.resize(bytes.len() + (pitch - plain.inner) * precision.size(), 0);
                }
            }
            PlainValues::I8(values) => {
                for column in values.chunks_exact(plain.inner) {
                    bytes.extend(column.iter().map(|&v| v as u8));
                    bytes.resize(bytes.len() + pitch - plain.inner, 0);
                }
            }
        }
        Ok(bytes.into())
    }
}

/// Numbers as the device holds them.
pub(super) fn numbers(precision: Precision, values: impl Iterator<Item = f32>, bytes: &mut Vec<u8>) {
    match precision {
        Precision::F32 => values.for_each(|v| bytes.extend(v.to_le_bytes())),
        Precision::F16 => values.for_each(|v| bytes.extend(tract_onnx::prelude::f16::from_f32(v).to_le_bytes())),
    }
}

/// An input or an output: where in a row's arena, of what type, how many.
#[derive(Clone, Debug)]
pub(super) struct IoBinding {
    pub(super) offset: usize,
    pub(super) port: Port,
}

impl IoBinding {
    pub(super) fn count(&self) -> usize {
        self.port.shape.iter().product()
    }

    pub(super) fn bytes(&self) -> usize {
        self.count()
            * match self.port.dtype {
                DType::I64 => 8,
                DType::F32 => 4,
            }
    }
}

/// A plan under way.
pub(super) struct Builder {
    pub(super) precision: Precision,
    /// Bytes, and whether it is needed from the beginning to the end.
    buffers: Vec<(usize, bool)>,
    pub(super) launches: Vec<Launch>,
    pub(super) constants: Vec<(usize, Constant)>,
    constant_bytes: usize,
    /// Where a lookup says that an index is outside its table.
    pub(super) fault: usize,
}

impl Builder {
    pub(super) fn new(precision: Precision) -> Self {
        let buffers = vec![(8, true)];
        Self { precision, buffers, launches: Vec::new(), constants: Vec::new(), constant_bytes: 0, fault: 0 }
    }

    pub(super) fn buffer(&mut self, bytes: usize, lasting: bool) -> usize {
        self.buffers.push((bytes, lasting));
        self.buffers.len() - 1
    }

    pub(super) fn constant(&mut self, bytes: usize, constant: Constant) -> At {
        let offset = self.constant_bytes;
        self.constants.push((offset, constant));
        self.constant_bytes += bytes.next_multiple_of(ALIGN);
        At::Constant(offset)
    }

    pub(super) fn launch(&mut self, kernel: &'static str, blocks: [usize; 2], threads: u32, arguments: Arguments) {
        self.launches.push(Launch { work: Work::Fixed { kernel, blocks, threads }, arguments });
    }

    /// Gives every buffer its place.
    pub(super) fn finish(
        self,
        inputs: &[(usize, Port)],
        outputs: &[(usize, Port)],
        places: Option<&(usize, Port)>,
    ) -> Result<Plan> {
        let end = self.launches.len();
        let mut lives: Vec<Option<(usize, usize)>> =
            self.buffers.iter().map(|&(_, lasting)| lasting.then_some((0, end))).collect();
        for (step, launch) in self.launches.iter().enumerate() {
            for (_, at) in &launch.arguments.places {
                if let At::Buffer(id, _) = *at {
                    let life = lives.get_mut(id).ok_or_else(|| Error::internal("a launch has no buffer"))?;
                    *life = Some(life.map_or((step, step), |(first, last)| (first, last.max(step))));
                }
            }
        }
        let sizes: Vec<usize> = self.buffers.iter().map(|b| b.0).collect();
        let (offsets, row_bytes) = arrange(&sizes, &lives);
        let binding = |(id, port): &(usize, Port)| IoBinding { offset: offsets[*id], port: port.clone() };
        let bindings = |list: &[(usize, Port)]| list.iter().map(binding).collect();
        let (inputs, outputs, places) = (bindings(inputs), bindings(outputs), places.map(binding));
        Ok(Plan {
            precision: self.precision,
            fault: offsets[self.fault],
            launches: self.launches,
            offsets,
            row_bytes,
            constants: self.constants,
            constant_bytes: self.constant_bytes,
            inputs,
            outputs,
            places,
        })
    }
}

/// Where each buffer starts, and how many bytes all take. Two that live at the same time do not meet.
fn arrange(sizes: &[usize], lives: &[Option<(usize, usize)>]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&i| lives[i].is_some()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
    let mut offsets = vec![0; sizes.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for &i in &order {
        let meets = |j: usize| match (lives[i], lives[j]) {
            (Some(a), Some(b)) => a.0 <= b.1 && b.0 <= a.1,
            _ => false,
        };
        let mut taken: Vec<(usize, usize)> =
            placed.iter().filter(|&&j| meets(j)).map(|&j| (offsets[j], offsets[j] + sizes[j])).collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (start, end) in taken {
            if offset + sizes[i] <= start {
                break;
            }
            offset = offset.max(end.next_multiple_of(ALIGN));
        }
        offsets[i] = offset;
        total = total.max(offset + sizes[i]);
        placed.push(i);
    }
    (offsets, total.next_multiple_of(ALIGN))
}

/// What a graph comes to.
pub(super) struct Plan {
    pub(super) precision: Precision,
    pub(super) launches: Vec<Launch>,
    offsets: Vec<usize>,
    /// Bytes of a row's arena.
    pub(super) row_bytes: usize,
    pub(super) constants: Vec<(usize, Constant)>,
    pub(super) constant_bytes: usize,
    pub(super) inputs: Vec<IoBinding>,
    pub(super) outputs: Vec<IoBinding>,
    /// Of an only output [1, N, K]: the N places along N that it comes from, as 64-bit numbers.
    pub(super) places: Option<IoBinding>,
    pub(super) fault: usize,
}

impl Plan {
    /// The calls for some rows, with the arenas at `arena` and the constants at `constants`.
    pub(super) fn calls(&self, rows: usize, processors: usize, arena: u64, constants: u64) -> Result<Vec<Call>> {
        self.launches.iter().map(|launch| self.call(launch, rows, processors, arena, constants)).collect()
    }

    fn call(&self, launch: &Launch, rows: usize, processors: usize, arena: u64, constants: u64) -> Result<Call> {
        let (kernel, blocks, threads) = match launch.work {
            Work::Fixed { kernel, blocks, threads } => (kernel, blocks, threads),
            Work::Product { rows: m, columns: n, int8 } => tile(self.precision, [m, n], int8, rows, processors),
        };
        let mut arguments = launch.arguments.bytes.clone();
        arguments.resize(arguments.len().next_multiple_of(8), 0);
        for &(start, at) in &launch.arguments.places {
            let (address, stride) = match at {
                At::Nowhere => (0, 0),
                At::Buffer(id, offset) => (arena + (self.offsets[id] + offset) as u64, self.row_bytes as u64),
                At::Constant(offset) => (constants + offset as u64, 0),
            };
            arguments[start..start + 8].copy_from_slice(&address.to_le_bytes());
            arguments[start + 8..start + 16].copy_from_slice(&stride.to_le_bytes());
        }
        let size = |n: usize, most: u32| u32::try_from(n).ok().filter(|&n| n <= most);
        match (size(blocks[0], i32::MAX as u32), size(blocks[1], 65535), size(rows, 65535)) {
            (Some(x), Some(y), Some(z)) => Ok(Call { kernel, grid: [x, y, z], threads, arguments }),
            _ => Err(Error::engine(format!("a tensor is too large for the GPU's kernel {kernel}"))),
        }
    }
}

/// The largest tile that leaves no processor idle; the smallest where none does.
fn tile(
    precision: Precision,
    size: [usize; 2],
    int8: bool,
    rows: usize,
    processors: usize,
) -> (&'static str, [usize; 2], u32) {
    let tiles = [
        (128, ["gemm_large", "gemm_int8_large"], 256),
        (64, ["gemm_middle", "gemm_int8_middle"], if precision == Precision::F16 { 128 } else { 256 }),
        (32, ["gemm_small", "gemm_int8_small"], if precision == Precision::F16 { 128 } else { 256 }),
    ];
    let blocks = |side: usize| [size[0].div_ceil(side), size[1].div_ceil(side)];
    let fits = |side: usize| blocks(side).iter().product::<usize>() * rows >= processors;
    let &(side, names, threads) = tiles.iter().find(|t| fits(t.0)).unwrap_or(&tiles[2]);
    (names[usize::from(int8)], blocks(side), threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_live_together_do_not_meet_and_others_share() {
        let lives = [Some((0, 1)), Some((1, 2)), Some((2, 3)), None, Some((0, 3))];
        let sizes = [1000, 2000, 1000, 5000, 10];
        let (offsets, total) = arrange(&sizes, &lives);
        for (i, j) in (0..5).flat_map(|i| (0..i).map(move |j| (i, j))) {
            let (Some(a), Some(b)) = (lives[i], lives[j]) else { continue };
            let together = a.0 <= b.1 && b.0 <= a.1;
            let apart = offsets[i] + sizes[i] <= offsets[j] || offsets[j] + sizes[j] <= offsets[i];
            assert!(!together || apart, "{i} and {j} meet: {offsets:?}");
        }
        assert_eq!(offsets[0], offsets[2], "the first and the third can share");
        assert!(total < 1000 + 2000 + 1000 + 3 * ALIGN, "{total}");
    }
}
