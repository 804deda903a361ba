//! Durations that Python code measured itself, recorded beside those of the NIFs.

use std::ffi::CString;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::python;
use crate::telemetry::{Slot, Telemetry};
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

#[pymethods]
impl Recorder {
    /// A recorder of `name`, listed with the functions of backend number `backend`.
    #[new]
    fn new(py: Python<'_>, telemetry: &Bound<'_, Telemetry>, backend: u16, name: &str) -> PyResult<Self> {
        let slot = Slot::new(py, telemetry.as_unbound(), backend, 0, name, 0).map_err(PyValueError::new_err)?;
        let name = CString::new(name)?;
        let method = ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: record },
            ml_flags: ffi::METH_O,
            ml_doc: DOC.as_ptr(),
        };
        Ok(Self { slot, ticks_per_second: 1e9 / clock::ns_per_tick(), method, _name: name })
    }

    /// The built-in function that records.
    #[getter]
    fn record(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        // SAFETY: the definition lives in the recorder, which the new object keeps alive as its `__self__`. Python only reads it.
        unsafe { python::owned(slf.py(), ffi::PyCFunction_New((&raw const slf.get().method).cast_mut(), slf.as_ptr())) }
    }
}

/// Python's entry: `this` is the [`Recorder`].
unsafe extern "C" fn record(this: *mut ffi::PyObject, seconds: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: Python calls with the GIL held, and `this` is the object that `Recorder::record` bound.
    unsafe {
        let recorder = Borrowed::from_ptr(Python::assume_attached(), this).cast_unchecked::<Recorder>().get();
        let seconds = ffi::PyFloat_AsDouble(seconds);
        // A clock that was set back, or not a number at all.
        if seconds.is_nan() || seconds < 0.0 {
            if ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_SetString(ffi::PyExc_ValueError, c"expected seconds, 0 or more".as_ptr());
            }
            return std::ptr::null_mut();
        }
        recorder.slot.note((seconds * recorder.ticks_per_second) as u64);
        ffi::Py_NewRef(ffi::Py_None())
    }
}
