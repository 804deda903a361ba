//! A backend's workers as Python holds them.

use std::path::PathBuf;
use std::sync::Arc;

use nif_worker::crew::Crew;
use nif_worker::message::Source;
use nif_worker::process::Recipe;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// The worker processes of one backend; they end when this and every function that uses them is gone.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Workers {
    pub crew: Arc<Crew>,
}

#[pymethods]
impl Workers {
    /// `program`: the worker's. `sources`: what each opens, as `("file", path)` or `("julia", library, bindir, image, code)`.
    /// `spares`: how many are kept ready beside the one that works.
    #[new]
    fn new(program: PathBuf, name: String, sources: Vec<Vec<String>>, spares: usize) -> PyResult<Self> {
        let source = |words: Vec<String>| match words.as_slice() {
            [kind, path] if kind == "file" => Ok(Source::File(path.clone())),
            [kind, library, bindir, image, code] if kind == "julia" => Ok(Source::Julia {
                library: library.clone(),
                bindir: bindir.clone(),
                image: image.clone(),
                code: code.clone(),
            }),
            _ => {
                Err(PyValueError::new_err("a source is (\"file\", path) or (\"julia\", library, bindir, image, code)"))
            }
        };
        let sources = sources.into_iter().map(source).collect::<PyResult<_>>()?;
        let crew = Crew::new(Recipe { program, name, sources, spares })?;
        Ok(Self { crew: Arc::new(crew) })
    }

    /// Start what is wanted, without waiting for it.
    fn prepare(&self) {
        self.crew.prepare();
    }

    /// Start a new worker for the calls to come; the present one ends.
    fn restart(&self, py: Python<'_>) -> PyResult<()> {
        crate::isolated::restart(py, &self.crew).map_err(|failure| PyOSError::new_err(failure.text()))
    }

    /// The ids of the processes that live.
    #[getter]
    fn pids(&self) -> Vec<u32> {
        self.crew.pids()
    }

    /// How many are ready beside the one that works.
    #[getter]
    fn ready(&self) -> usize {
        self.crew.counts().0
    }

    /// How many were ever started.
    #[getter]
    fn started(&self) -> u64 {
        self.crew.counts().1
    }
}
