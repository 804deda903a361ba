//! Arguments as they are taken before the first array is looked at.

use std::borrow::Cow;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyComplex, PyFloat, PyInt};

use crate::call::foreign;
use crate::python;
use crate::python::door::Given;

impl Given<'_> {
    /// The values, with NumPy's scalars replaced by the Python numbers they stand for, and arrays of other libraries by their
    /// capsules, or by NumPy's arrays over them, where they are read by Python's code; `held` keeps those.
    ///
    /// A scalar's `item` and an array's `__dlpack__` may run any Python code, which may change the other arguments. So both are
    /// called before the first array is looked at.
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
                if ffi::PyObject_TypeCheck(*object, python::scalar_type(py)) == 0 {
                    if let Some(capsule) = foreign::stand_in(py, *object)? {
                        values.to_mut()[index] = capsule.as_ptr();
                        held.push(capsule);
                    }
                    continue;
                }
                if ffi::PyFloat_Check(*object) != 0 {
                    continue;
                }
                let item = Bound::from_borrowed_ptr(py, *object).call_method0("item")?;
                let is_number = item.is_instance_of::<PyFloat>()
                    || item.is_instance_of::<PyInt>()
                    || item.is_instance_of::<PyBool>()
                    || item.is_instance_of::<PyComplex>();
                if is_number {
                    values.to_mut()[index] = item.as_ptr();
                    held.push(item.unbind());
                }
            }
        }
        Ok(values)
    }
}
