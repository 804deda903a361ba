//! Small bridges between Python's C API and its Rust binding.

pub mod door;
pub mod dtype;
pub mod errors;
pub mod turn;

use std::sync::atomic::{AtomicPtr, Ordering};

use numpy::PY_ARRAY_API;
use numpy::npyffi::{self, NPY_TYPES, NpyTypes, PyArray_Descr};
use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// An object from a function that returns a new reference, or the exception it set.
///
/// # Safety
/// `pointer` is null with an exception set, or a new reference.
pub unsafe fn owned(py: Python<'_>, pointer: *mut ffi::PyObject) -> PyResult<Py<PyAny>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { Bound::from_owned_ptr_or_err(py, pointer)? }.unbind())
}

/// Have threads call a function without counting references to it, where there is no GIL: on the one cache line that they would
/// all write to, two threads took longer than one. It is freed by a garbage collection then.
pub fn defer_counts(function: &Py<PyAny>) {
    #[cfg(all(Py_GIL_DISABLED, Py_3_14))]
    {
        unsafe extern "C" {
            fn PyUnstable_Object_EnableDeferredRefcount(object: *mut ffi::PyObject) -> std::ffi::c_int;
        }
        // SAFETY: a live object.
        unsafe { PyUnstable_Object_EnableDeferredRefcount(function.as_ptr()) };
    }
    #[cfg(not(all(Py_GIL_DISABLED, Py_3_14)))]
    let _ = function;
}

/// A new reference to an object that somebody else holds.
///
/// # Safety
/// `pointer` is a live object.
pub unsafe fn borrowed(py: Python<'_>, pointer: *mut ffi::PyObject) -> Py<PyAny> {
    // SAFETY: the caller's promise.
    unsafe { Bound::from_borrowed_ptr(py, pointer) }.unbind()
}

/// `numpy.ndarray`, once `start` has looked it up.
static ARRAY_TYPE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());

/// NumPy's dtype float64, which is never freed.
static FLOAT64: AtomicPtr<PyArray_Descr> = AtomicPtr::new(std::ptr::null_mut());

/// Refuse an interpreter that this core isn't made for, and look up what calls need of NumPy; called at import.
pub fn start(py: Python<'_>) -> PyResult<()> {
    // SAFETY: this thread is attached, so it has an interpreter; the main one's number is 0.
    if unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) } != 0 {
        return Err(PyImportError::new_err(
            "nif_lab can't be used in a subinterpreter\nTo fix: import it in the main interpreter; work beside others by threads or \
             by multiprocessing",
        ));
    }
    // What is compiled in follows from it: how objects are laid out, and what needs a lock.
    let flags: String = py.import("sys")?.getattr("abiflags")?.extract()?;
    if flags.contains('t') != cfg!(Py_GIL_DISABLED) {
        let (this, that) =
            if cfg!(Py_GIL_DISABLED) { ("free-threaded", "with a GIL") } else { ("with a GIL", "free-threaded") };
        return Err(PyImportError::new_err(format!(
            "this nif_lab was built for a Python {this}, and this one is {that}\nTo fix: install nif_lab with this Python"
        )));
    }
    if let Err(error) = py.import("numpy") {
        let raised = PyImportError::new_err("nif_lab needs NumPy, which can't be imported\nTo fix: pip install numpy");
        raised.set_cause(py, Some(error));
        return Err(raised);
    }
    // SAFETY: the number is NumPy's own. The reference is kept.
    let float64 = unsafe { PY_ARRAY_API.PyArray_DescrFromType(py, NPY_TYPES::NPY_DOUBLE as std::ffi::c_int) };
    FLOAT64.store(float64, Ordering::Relaxed);
    // SAFETY: NumPy's table gives the type's address.
    ARRAY_TYPE.store(unsafe { npyffi::get_type_object(py, NpyTypes::PyArray_Type) }, Ordering::Relaxed);
    Ok(())
}

/// `numpy.ndarray`.
#[inline]
pub fn array_type() -> *mut ffi::PyTypeObject {
    ARRAY_TYPE.load(Ordering::Relaxed)
}

/// The dtype float64; a borrowed reference.
#[inline]
pub fn float64() -> *mut PyArray_Descr {
    FLOAT64.load(Ordering::Relaxed)
}

/// `numpy.generic`, the type of all NumPy scalars.
pub fn scalar_type(py: Python<'_>) -> *mut ffi::PyTypeObject {
    // SAFETY: as above.
    unsafe { npyffi::get_type_object(py, NpyTypes::PyGenericArrType_Type) }
}

/// Is the object a masked array? Its elements alone aren't what it means.
///
/// # Safety
/// `object` is alive.
pub unsafe fn is_masked(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<bool> {
    static MASKED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let masked = MASKED.import(py, "numpy.ma", "MaskedArray")?;
    // SAFETY: the caller's promise.
    Ok(unsafe { ffi::PyObject_TypeCheck(object, masked.as_type_ptr()) } != 0)
}
