//! The methods of a NIF.

use std::cell::Cell;
use std::time::Duration;

use pyo3::exceptions::{PyAttributeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::call::limits::Limits;
use crate::call::nif::Nif;
use crate::memory::Memory;
use crate::python;
use crate::python::door::Given;
use crate::telemetry::Step;

fn seconds_of(number: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(number)
        .ok()
        .filter(|it| !it.is_zero())
        .ok_or_else(|| PyValueError::new_err(format!("expected seconds, more than 0, got {number}")))
}

#[pymethods]
impl Nif {
    /// The function's name.
    #[getter]
    fn name(&self) -> &str {
        self.key()
    }

    /// The typed signature: `dot(x: f64[n], y: f64[n]) -> f64`.
    #[getter]
    fn signature(&self) -> &str {
        &self.signature_text
    }

    /// What the function does, from its source.
    #[getter]
    fn doc(&self) -> &str {
        &self.doc
    }

    /// The bits of `enum nif_flag`.
    #[getter]
    fn flags(&self) -> u32 {
        self.flags
    }

    /// The parameters' names.
    #[getter]
    fn parameters(&self) -> Vec<&str> {
        self.signature.params.iter().map(|p| p.name.as_str()).filter(|it| !it.is_empty()).collect()
    }

    /// ``"direct"`` or ``"isolated"``.
    #[getter]
    fn lane_name(&self) -> &'static str {
        if self.lane().is_some() { "isolated" } else { "direct" }
    }

    /// How many seconds a call in a worker may take; None for as long as it takes.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.timeout.get().map(|it| it.as_secs_f64())
    }

    #[setter]
    fn set_timeout(&self, seconds: Option<f64>) -> PyResult<()> {
        self.timeout.set(seconds.map(seconds_of).transpose()?);
        Ok(())
    }

    /// One try: a failure is raised, and neither recovered nor counted.
    #[pyo3(signature = (args, kwargs, timeout=None, garble=0))]
    fn attempt(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: &Bound<'_, PyDict>,
        timeout: Option<f64>,
        garble: u32,
    ) -> PyResult<Py<PyAny>> {
        let limits = Limits { timeout: timeout.map(seconds_of).transpose()?, garble };
        let is_isolated = self.lane().is_some();
        let is_looked_at = Cell::new(false);
        let done = Given::with(py, args, kwargs, |given| {
            self.adapted(py, given, |given| {
                let looks = !is_looked_at.replace(true);
                if is_isolated { self.try_isolated(py, given, limits, looks) } else { self.invoke(py, given) }
            })
        });
        done.map_err(|failure| self.exception(py, failure))
    }

    /// Count a call that failed in the end.
    fn count_failure(&self, kind: i32, reason: &str) {
        self.slot.fail(kind, -1, reason);
    }

    /// Count a call that failed at first and was answered after all, by another function if `elsewhere`.
    fn count_recovery(&self, elsewhere: bool) {
        self.slot.recover(elsewhere);
    }

    /// Record a step of a recovery: what was tried, with what outcome, after which end of a worker (a signal as a
    /// negative number, an exit code as it is), in how many nanoseconds.
    fn note_step(&self, step: u8, outcome: u8, code: i16, duration_ns: f64, kind: i32, text: &str) {
        self.slot.note_step(Step { kind: step, outcome, code, duration_ns }, kind, text);
    }

    /// The backend's name.
    #[getter]
    fn backend(&self) -> &str {
        &self.origin.backend
    }

    /// The library's file, or None where a runtime gave the table.
    #[getter]
    fn path(&self) -> Option<&str> {
        self.origin.path.as_deref()
    }

    /// Where its results lie: whose Lab it is.
    #[getter]
    fn memory(&self, py: Python<'_>) -> Py<Memory> {
        self.origin.memory.clone_ref(py)
    }

    /// `pickle` takes the built-in function apart into this object and the function's name.
    fn __getattr__(slf: &Bound<'_, Self>, name: &str) -> PyResult<Py<PyAny>> {
        if name == slf.get().key() {
            return Self::function(slf);
        }
        Err(PyAttributeError::new_err(format!("a NIF has no attribute '{name}'")))
    }

    /// The built-in function that calls the NIF.
    #[getter]
    fn function(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let module = pyo3::types::PyString::new(py, &format!("nif_lab.{}", slf.get().origin.backend));
        // SAFETY: the definition lives in the NIF, which the new object keeps alive as its `__self__`. Python only reads it.
        let function = unsafe {
            let method = (&raw const slf.get().method).cast_mut();
            python::owned(py, ffi::PyCFunction_NewEx(method, slf.as_ptr(), module.as_ptr()))?
        };
        python::defer_counts(&function);
        Ok(function)
    }

    fn __repr__(&self) -> String {
        format!("<nif {}.{}>", self.origin.backend, self.signature_text)
    }
}
