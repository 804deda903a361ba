//! Methods whose errors end at the caller's line.

use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::python::errors::end_at_caller;

/// What stands for a function, see `plain`. It has a dictionary for the function's name and documentation.
#[pyclass(frozen, dict, module = "nif_lab._core")]
pub struct Plain {
    function: Py<PyAny>,
}

#[pymethods]
impl Plain {
    #[pyo3(signature = (*args, **kwargs))]
    fn __call__(
        &self,
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        self.function.call(py, args, kwargs).inspect_err(|error| end_at_caller(py, error))
    }

    /// As functions become methods.
    fn __get__(
        this: Py<Self>,
        py: Python<'_>,
        object: &Bound<'_, PyAny>,
        _kind: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        static METHOD: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        if object.is_none() {
            return Ok(this.into_any());
        }
        Ok(METHOD.import(py, "types", "MethodType")?.call1((this, object))?.unbind())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)
    }
}

/// A function of the Lab's that takes the package's own lines out of the tracebacks of its errors.
///
/// Only the errors of `nif_lab.errors` are of the caller's making. Any other one keeps its traceback.
#[pyfunction]
pub fn plain(py: Python<'_>, function: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let made = Py::new(py, Plain { function: function.clone_ref(py) })?;
    Ok(py.import("functools")?.call_method1("update_wrapper", (made, function))?.unbind())
}
