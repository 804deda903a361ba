//! Small bridges between Python's C API and its Rust binding.

use std::sync::atomic::{AtomicPtr, Ordering};

use numpy::npyffi::{self, NpyTypes};
use pyo3::ffi;
use pyo3::prelude::*;

/// An object from a function that returns a new reference, or the exception it set.
///
/// # Safety
/// `pointer` is null with an exception set, or a new reference.
pub unsafe fn owned(py: Python<'_>, pointer: *mut ffi::PyObject) -> PyResult<Py<PyAny>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { Bound::from_owned_ptr_or_err(py, pointer)? }.unbind())
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

/// Look up what calls need of NumPy; called at import.
pub fn start(py: Python<'_>) {
    // SAFETY: NumPy's table gives the type's address.
    ARRAY_TYPE.store(unsafe { npyffi::get_type_object(py, NpyTypes::PyArray_Type) }, Ordering::Relaxed);
}

/// `numpy.ndarray`.
#[inline]
pub fn array_type() -> *mut ffi::PyTypeObject {
    ARRAY_TYPE.load(Ordering::Relaxed)
}

/// `numpy.generic`, the type of all NumPy scalars.
pub fn scalar_type(py: Python<'_>) -> *mut ffi::PyTypeObject {
    // SAFETY: as above.
    unsafe { npyffi::get_type_object(py, NpyTypes::PyGenericArrType_Type) }
}
