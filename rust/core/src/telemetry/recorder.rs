//! Durations that Python code measured itself, recorded beside those of the NIFs.

use std::ffi::CString;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::python;
use crate::python::door::{self, Builtin, Given, builtin};
use crate::telemetry::{DIRECT, Slot, Telemetry};
use nif_loader::clock;

/// One name's counters and, as `record`, the built-in that adds to them.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Recorder {
    slot: Slot,
    ticks_per_second: f64,
    method: ffi::PyMethodDef,
    _name: CString,
}

// SAFETY: the method definition is never written after `new`; everything else is Send and Sync by itself.
unsafe impl Send for Recorder {}
// SAFETY: as above.
unsafe impl Sync for Recorder {}

const DOC: &std::ffi::CStr = c"record(seconds, /)\n--\n\nCount one more, which took this long.";

/// The longest duration that is taken for one: some thirty years.
const MOST_SECONDS: f64 = 1e9;

#[pymethods]
impl Recorder {
    /// A recorder of `name`, listed with the functions of backend number `backend`.
    #[new]
    fn new(telemetry: &Bound<'_, Telemetry>, backend: u16, name: &str) -> PyResult<Self> {
        let slot = Slot::new(&telemetry.get().segment, backend, DIRECT, name, 0).map_err(PyValueError::new_err)?;
        let name = CString::new(name)?;
        let method = door::method(&name, DOC, builtin::<Record>);
        Ok(Self { slot, ticks_per_second: 1e9 / clock::ns_per_tick(), method, _name: name })
    }

    /// Count one more that failed: the number of the exception's kind, and its text.
    fn fail(&self, kind: i32, reason: &str) {
        self.slot.fail(kind, -1, reason);
    }

    /// One that failed at first was done after all.
    fn recover(&self) {
        self.slot.recover(false);
    }

    /// The built-in function that records.
    #[getter]
    fn record(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        // SAFETY: the definition lives in the recorder, which the new object keeps alive as its `__self__`. Python only reads it.
        unsafe { python::owned(slf.py(), ffi::PyCFunction_New((&raw const slf.get().method).cast_mut(), slf.as_ptr())) }
    }
}

/// The built-in over a [`Recorder`].
struct Record;

impl Builtin for Record {
    type This = Recorder;

    fn call(this: &Recorder, py: Python<'_>, given: &Given<'_>) -> *mut ffi::PyObject {
        match this.note(py, given) {
            Ok(()) => py.None().into_ptr(),
            Err(error) => {
                error.restore(py);
                std::ptr::null_mut()
            }
        }
    }
}

impl Recorder {
    fn note(&self, py: Python<'_>, given: &Given<'_>) -> PyResult<()> {
        let [seconds] = *given.values else {
            return Err(PyTypeError::new_err(format!(
                "record() takes one number of seconds, {} given",
                given.values.len()
            )));
        };
        if !given.names.is_null() {
            return Err(PyTypeError::new_err("record() takes no keyword arguments"));
        }
        // SAFETY: the caller of a built-in keeps its arguments alive.
        let seconds = unsafe { ffi::PyFloat_AsDouble(seconds) };
        // Python's sign of an error is -1.0, which is no duration either.
        if seconds < 0.0 && PyErr::occurred(py) {
            return Err(PyErr::fetch(py));
        }
        // A clock that was set back, nanoseconds or a date in place of a duration, or not a number at all.
        if !(0.0..=MOST_SECONDS).contains(&seconds) {
            return Err(PyValueError::new_err(format!(
                "expected a duration in seconds, 0 to {MOST_SECONDS:e}, got {seconds:?}"
            )));
        }
        self.slot.note((seconds * self.ticks_per_second) as u64);
        Ok(())
    }
}
