//! What every call leaves behind: counters, latency histograms and rings of records, in shared memory.
//!
//! docs/telemetry.md is the layout; `nif_lab.segment` reads it, here and in other processes. Each thread that may count beside
//! others has counters of its own, which readers add up: plain loads and stores lose nothing. A commit word in front of each
//! record is enough for readers elsewhere to see whether a record is whole.

mod fork;
pub mod layout;
pub mod recorder;
pub mod sampler;
pub mod segment;
pub mod shard;
mod slot;

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nif_loader::clock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::telemetry::sampler::Sampler;
use crate::telemetry::segment::Segment;
pub use crate::telemetry::slot::{DIRECT, ISOLATED, Slot, Step, Teller};

/// One Lab's telemetry segment.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Telemetry {
    pub segment: Arc<Segment>,
    sampler: Arc<Sampler>,
}

impl Telemetry {
    pub fn create() -> std::io::Result<Self> {
        let segment = Arc::new(Segment::create()?);
        Ok(Self { sampler: Arc::new(Sampler::new(&segment)), segment })
    }

    /// What writes the samples of memory, from any thread.
    pub fn sampler(&self) -> Arc<Sampler> {
        Arc::clone(&self.sampler)
    }
}

#[pymethods]
impl Telemetry {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self::create()?)
    }

    /// The memfd of the segment; it stays the segment's own.
    fn fileno(&self) -> c_int {
        self.segment.fileno()
    }

    /// In a child of fork, let this process have a segment of its own, if it hasn't yet.
    fn settle(&self) {
        self.segment.settle();
    }

    /// Enter a name that functions are listed under; its number.
    fn add_backend(&self, name: &str) -> PyResult<u16> {
        self.segment.add_backend(name).map_err(PyValueError::new_err)
    }

    /// Measure the clock's rate over all the time since the import, for whoever reads now.
    fn calibrate(&self) {
        self.segment.header().ns_per_tick.store(clock::ns_per_tick().to_bits(), Ordering::Relaxed);
    }

    /// Whether calls are counted and timed.
    #[getter]
    fn enabled(&self) -> bool {
        self.segment.settle();
        self.segment.is_enabled()
    }

    #[setter]
    fn set_enabled(&self, on: bool) {
        self.segment.enable(on);
    }

    /// Number of the notebook cell that runs; 0 outside notebooks.
    #[getter(cell)]
    fn cell_number(&self) -> u32 {
        self.segment.cell()
    }

    #[setter(cell)]
    fn set_cell_number(&self, number: u32) {
        self.segment.set_cell(number);
    }
}

/// The segment's layout as this core writes it: all fields as (part, name, offset, size), and the numbers.
#[pyfunction]
pub fn telemetry_layout(py: Python<'_>) -> PyResult<(Vec<layout::Field>, Bound<'_, PyDict>)> {
    let numbers = PyDict::new(py);
    for (name, value) in layout::NUMBERS {
        numbers.set_item(name, value)?;
    }
    Ok((layout::fields(), numbers))
}

#[cfg(test)]
mod tests;
