//! What Python passes to a built-in.

use std::borrow::Cow;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt};

use crate::python;

/// What Python passes to a built-in: the values, positional ones first, and a tuple of names for the rest (null when none).
pub struct Given<'a> {
    pub values: &'a [*mut ffi::PyObject],
    pub positional: usize,
    pub names: *mut ffi::PyObject,
}

/// The arguments as Python passes them to a built-in.
///
/// # Safety
/// `values` has `count` objects and then one for each of `names`, all alive.
pub unsafe fn given_of<'a>(
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Given<'a> {
    // SAFETY: the caller's promise.
    unsafe {
        let named = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) as usize };
        let total = count as usize + named;
        let values = if total == 0 { &[] } else { std::slice::from_raw_parts(values, total) };
        Given { values, positional: count as usize, names }
    }
}

impl Given<'_> {
    /// The values, with NumPy's scalars replaced by the Python numbers they stand for; `held` keeps those numbers.
    ///
    /// A scalar's `item` may run any Python code, which may change the other arguments. So all scalars are converted before the
    /// first array is looked at.
    pub fn settle(&self, py: Python<'_>, held: &mut Vec<Py<PyAny>>) -> PyResult<Cow<'_, [*mut ffi::PyObject]>> {
        let mut values = Cow::Borrowed(self.values);
        for (index, object) in self.values.iter().enumerate() {
            // SAFETY: the caller of a built-in keeps its arguments alive.
            unsafe {
                let kind = ffi::Py_TYPE(*object);
                if kind == python::array_type()
                    || kind == &raw mut ffi::PyFloat_Type
                    || kind == &raw mut ffi::PyLong_Type
                {
                    continue;
                }
                if ffi::PyObject_TypeCheck(*object, python::scalar_type(py)) == 0 || ffi::PyFloat_Check(*object) != 0 {
                    continue;
                }
                let item = Bound::from_borrowed_ptr(py, *object).call_method0("item")?;
                if item.is_instance_of::<PyFloat>() || item.is_instance_of::<PyInt>() || item.is_instance_of::<PyBool>()
                {
                    values.to_mut()[index] = item.as_ptr();
                    held.push(item.unbind());
                }
            }
        }
        Ok(values)
    }
}
