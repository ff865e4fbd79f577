//! A loaded graph on a device.

use super::device::Device;
use super::plan::{IoBinding, Plan};
use crate::import::check_inputs;
use crate::wanted::{self, Row, picked};
use crate::{DType, Input, OperatorCount, Output, Port, Session, write_rows};
use maskgit_core::{Error, Result};
use ndarray::{ArrayD, ArrayViewMut3};

/// Rows that run at the same time, at most.
pub(super) const MAX_ROWS: usize = 8;

/// A plan, and what it was made from.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    /// How many nodes of the graph became kernels or views.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(super) translated: usize,
    pub(super) operators: Vec<OperatorCount>,
}

pub(super) struct CudaSession {
    device: Box<dyn Device>,
    plan: Plan,
    operators: Vec<OperatorCount>,
    inputs: Vec<Port>,
    /// Addresses; 0 before there is any memory.
    constants: u64,
    arena: u64,
    /// Rows that the arena has room for.
    capacity: usize,
    /// The recording for each number of rows, from one.
    recordings: [Option<usize>; MAX_ROWS],
    /// The bytes of an input or an output on their way.
    staging: Vec<u8>,
}

impl CudaSession {
    /// Uploads the constants.
    pub(super) fn new(mut device: Box<dyn Device>, prepared: Prepared) -> Result<Self> {
        let Prepared { mut plan, operators, .. } = prepared;
        let constants = device.allocate(plan.constant_bytes.max(1))?;
        let mut upload = || -> Result<()> {
            for (offset, constant) in plan.constants.drain(..) {
                device.upload(constants + offset as u64, &constant.bytes(plan.precision)?)?;
            }
            Ok(())
        };
        if let Err(error) = upload() {
            device.free(constants);
            return Err(error);
        }
        let inputs = plan.inputs.iter().map(|binding| binding.port.clone()).collect();
        let mut session = Self {
            device,
            plan,
            operators,
            inputs,
            constants,
            arena: 0,
            capacity: 0,
            recordings: [None; MAX_ROWS],
            staging: Vec::new(),
        };
        // What cannot run should be known when the model is opened: kernels that do not compile, too little memory.
        session.recording(1)?;
        Ok(session)
    }

    /// The recording for some rows, made when it is first wanted.
    fn recording(&mut self, rows: usize) -> Result<usize> {
        if rows > self.capacity {
            self.device.forget();
            self.recordings = [None; MAX_ROWS];
            if self.capacity > 0 {
                self.device.free(self.arena);
                self.capacity = 0;
            }
            self.arena = self.device.allocate(self.plan.row_bytes * rows)?;
            self.capacity = rows;
        }
        let slot =
            self.recordings.get_mut(rows - 1).ok_or_else(|| Error::internal("too many rows at the same time"))?;
        if let Some(recording) = *slot {
            return Ok(recording);
        }
        let calls = self.plan.calls(rows, self.device.processors(), self.arena, self.constants)?;
        // SAFETY: the addresses are in the arena, which has room for these rows and goes only after `forget`, and among
        // the constants, which go with the session; the plan gave every tensor the size that its kernel works on.
        let recording = unsafe { self.device.record(self.plan.precision, &calls)? };
        *slot = Some(recording);
        Ok(recording)
    }

    fn address(&self, row: usize, offset: usize) -> u64 {
        self.arena + (row * self.plan.row_bytes + offset) as u64
    }

    fn rows(&mut self, rows: &[Row<'_, '_>]) -> Result<Vec<Vec<Output>>> {
        let mut results = Vec::with_capacity(rows.len());
        for part in rows.chunks(MAX_ROWS) {
            results.extend(self.run_together(part)?);
        }
        Ok(results)
    }

    /// Of the only output [1, N, K], of a row that says which of its N places are wanted, only those come back.
    fn run_together(&mut self, rows: &[Row<'_, '_>]) -> Result<Vec<Vec<Output>>> {
        for (row, _) in rows {
            check_inputs(&self.inputs, row)?;
        }
        let count = self.plan.places.as_ref().map_or(0, IoBinding::count);
        let picked: Vec<_> = rows.iter().map(|&(_, wanted)| picked(wanted, count)).collect();
        let recording = self.recording(rows.len())?;
        for (index, (row, _)) in rows.iter().enumerate() {
            self.device.upload(self.address(index, self.plan.fault), &[0; 8])?;
            for (binding, input) in self.plan.inputs.iter().zip(row.iter()) {
                self.staging.clear();
                match input {
                    Input::I64(view) => view.iter().for_each(|v| self.staging.extend(v.to_le_bytes())),
                    Input::F32(view) => view.iter().for_each(|v| self.staging.extend(v.to_le_bytes())),
                }
                self.device.upload(self.address(index, binding.offset), &self.staging)?;
            }
            if let Some(binding) = &self.plan.places {
                let picked = picked.get(index).and_then(Option::as_deref);
                // What is left of the list is looked up too, and stays there.
                let place = |i: usize| picked.map_or(i, |picked| picked.get(i).copied().unwrap_or_default()) as i64;
                self.staging.clear();
                (0..binding.count()).for_each(|i| self.staging.extend(place(i).to_le_bytes()));
                self.device.upload(self.address(index, binding.offset), &self.staging)?;
            }
        }
        self.device.replay(recording)?;
        let mut results = Vec::with_capacity(rows.len());
        for (index, picked) in picked.iter().enumerate() {
            let mut fault = [0; 8];
            self.device.download(self.address(index, self.plan.fault), &mut fault)?;
            if fault != [0; 8] {
                return Err(Error::engine(
                    "cannot run the graph: an index is outside the table that it is looked up in",
                ));
            }
            let bindings: Vec<IoBinding> = self.plan.outputs.clone();
            let output = |binding| match picked {
                Some(picked) => self.picked(index, binding, picked),
                None => self.output(index, binding),
            };
            results.push(bindings.iter().map(output).collect::<Result<_>>()?);
        }
        Ok(results)
    }

    /// The output [1, N, K] with nothing but what was picked along N; zeros elsewhere.
    fn picked(&mut self, row: usize, binding: &IoBinding, picked: &[usize]) -> Result<Output> {
        let width = binding.port.shape.last().copied().unwrap_or(1);
        self.staging.resize(picked.len() * width * 4, 0);
        self.device.download(self.address(row, binding.offset), &mut self.staging)?;
        let mut data = vec![0f32; binding.count()];
        for (&place, bytes) in picked.iter().zip(self.staging.chunks_exact(width * 4)) {
            data[place * width..][..width].iter_mut().zip(floats(bytes)).for_each(|(number, value)| *number = value);
        }
        shaped(&binding.port.shape, data).map(Output::F32)
    }

    fn output(&mut self, row: usize, binding: &IoBinding) -> Result<Output> {
        self.staging.resize(binding.bytes(), 0);
        let address = self.address(row, binding.offset);
        self.device.download(address, &mut self.staging)?;
        let shape = &binding.port.shape;
        match binding.port.dtype {
            DType::F32 => shaped(shape, floats(&self.staging).collect()).map(Output::F32),
            DType::I64 => {
                let number = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                shaped(shape, self.staging.chunks_exact(8).map(number).collect()).map(Output::I64)
            }
        }
    }
}

fn shaped<T>(shape: &[usize], data: Vec<T>) -> Result<ArrayD<T>> {
    ArrayD::from_shape_vec(shape, data).map_err(|e| Error::internal("an output of the GPU").with_source(e))
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

impl Session for CudaSession {
    fn run(&mut self, inputs: &[Input<'_>]) -> Result<Vec<Output>> {
        let mut results = self.run_together(&[(inputs, None)])?;
        results.pop().ok_or_else(|| Error::internal("a run gave no row"))
    }

    fn run_rows(&mut self, rows: &[&[Input<'_>]]) -> Result<Vec<Vec<Output>>> {
        self.rows(&wanted::rows(rows, &[]))
    }

    fn run_into(&mut self, rows: &[&[Input<'_>]], wanted: &[&[bool]], out: ArrayViewMut3<'_, f32>) -> Result<()> {
        write_rows(self.rows(&wanted::rows(rows, wanted))?, out)
    }

    fn rows_at_once(&self) -> usize {
        MAX_ROWS
    }

    fn describe(&self) -> Vec<OperatorCount> {
        self.operators.clone()
    }
}

impl Drop for CudaSession {
    fn drop(&mut self) {
        self.device.forget();
        if self.capacity > 0 {
            self.device.free(self.arena);
        }
        self.device.free(self.constants);
    }
}
