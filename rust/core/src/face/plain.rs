//! Methods whose errors end at the caller's line.

use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTraceback, PyTuple, PyType};

/// What stands for a function, see `plain`. It has a dictionary for the function's name and documentation.
#[pyclass(frozen, dict, module = "nif_lab._core")]
pub struct Plain {
    function: Py<PyAny>,
}

/// What of a traceback is below the package's own lines: those of a callable that the caller gave.
fn outside<'py>(py: Python<'py>, error: &PyErr) -> Option<Bound<'py, PyTraceback>> {
    let folder: String = py.import("nif_lab").and_then(|it| it.getattr("__path__")?.get_item(0)?.extract()).ok()?;
    let mut next = error.traceback(py);
    let mut rest = next.clone();
    while let Some(it) = next {
        let file =
            it.getattr("tb_frame").and_then(|it| it.getattr("f_code")?.getattr("co_filename")?.extract::<String>());
        next = it.getattr("tb_next").ok()?.cast_into::<PyTraceback>().ok();
        if file.is_ok_and(|it| it.starts_with(&folder)) {
            rest.clone_from(&next);
        }
    }
    rest
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
        static OURS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        self.function.call(py, args, kwargs).inspect_err(|error| {
            if OURS.import(py, "nif_lab.errors", "NifLabError").is_ok_and(|ours| error.is_instance(py, ours)) {
                error.set_traceback(py, outside(py, error));
            }
        })
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
