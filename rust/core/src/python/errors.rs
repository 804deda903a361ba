//! From a status to an exception of `nif_lab.errors`, where the tree is drawn.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTraceback, PyType};

fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    PyModule::import(py, "nif_lab.errors")
}

/// A failed call: `rust.dot(): argument 'y': expected f64[n], got str`.
pub fn call_error(
    py: Python<'_>,
    kind: i32,
    backend: &str,
    function: &str,
    argument: Option<&str>,
    reason: &str,
) -> PyErr {
    let place = argument.map_or_else(String::new, |name| format!("argument '{name}': "));
    let message = format!("{backend}.{function}(): {place}{reason}");
    let make = || -> PyResult<PyErr> {
        let errors = module(py)?;
        let class = match errors.getattr("KINDS")?.cast_into::<PyDict>()?.get_item(kind)? {
            Some(class) => class,
            None => errors.getattr("NifError")?,
        };
        let error = class.call1((message.as_str(), backend, function, argument, reason))?;
        Ok(PyErr::from_value(error))
    };
    make().unwrap_or_else(|broken| broken)
}

/// A file that isn't a NIF library of this version.
pub fn abi_error(py: Python<'_>, reason: &str, cure: &str) -> PyErr {
    make(py, "AbiError", (reason, cure))
}

/// An exception of a class of `nif_lab.errors`, made from these arguments.
fn make<'py>(py: Python<'py>, class: &str, arguments: impl pyo3::call::PyCallArgs<'py>) -> PyErr {
    let make = || -> PyResult<PyErr> { Ok(PyErr::from_value(module(py)?.getattr(class)?.call1(arguments)?)) };
    make().unwrap_or_else(|broken| broken)
}

/// An allocation in shared memory that failed.
pub fn memory_error(py: Python<'_>, reason: &str) -> PyErr {
    make(py, "PoolExhausted", (reason,))
}

/// A wrong use of a buffer, a handle or a mapped file.
pub fn buffer_error(py: Python<'_>, class: &str, reason: &str) -> PyErr {
    make(py, class, (reason,))
}

/// A file that can't be mapped.
pub fn file_error(py: Python<'_>, path: &str, reason: &str, cure: &str) -> PyErr {
    make(py, "MappingError", (path, reason, cure))
}

/// What a device refused.
pub fn gpu_error(py: Python<'_>, error: &nif_gpu::Error) -> PyErr {
    use nif_gpu::Error as Gpu;
    let text = error.to_string();
    match error {
        Gpu::Unavailable { reason, cure } => make(py, "GpuUnavailable", (reason, cure)),
        Gpu::Full { .. } => memory_error(py, &text),
        Gpu::Driver { .. } => make(py, "GpuFault", (text,)),
        Gpu::Stale | Gpu::Unknown | Gpu::Foreign | Gpu::Told { .. } => buffer_error(py, "HandleError", &text),
        Gpu::ReadOnly => buffer_error(py, "AccessError", &text),
    }
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

/// Take the package's own lines out of the traceback of an error of its own.
pub fn end_at_caller(py: Python<'_>, error: &PyErr) {
    static OURS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if OURS.import(py, "nif_lab.errors", "NifLabError").is_ok_and(|ours| error.is_instance(py, ours)) {
        error.set_traceback(py, outside(py, error));
    }
}
