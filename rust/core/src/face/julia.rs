//! Starting Julia inside this process.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::call::owner::Owner;

/// Start the Julia of `library` on `owner`, evaluate `code` and return the string that it gives.
///
/// `bindir` and `image` are absolute paths. One Julia starts in a process, once.
#[pyfunction]
pub fn start_julia(
    py: Python<'_>,
    owner: &Bound<'_, Owner>,
    library: String,
    bindir: String,
    image: String,
    code: String,
) -> PyResult<String> {
    let started = owner.get().run(py, move || {
        // SAFETY: this runs once, on the thread that makes every later call.
        unsafe { nif_loader::julia::start(&library, &bindir, &image, &code) }
    })?;
    started.map_err(PyRuntimeError::new_err)
}

/// Call a Python function that starts Julia, and put back what it changes about signals, but for what Julia needs.
#[pyfunction]
pub fn keep_signals(function: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let before = nif_loader::julia::Signals::now();
    let result = function.call0();
    before.restore();
    Ok(result?.unbind())
}
