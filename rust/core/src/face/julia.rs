//! Starting Julia inside this process, on the thread that will own it.

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
