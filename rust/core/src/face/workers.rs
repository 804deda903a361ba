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

/// A path, where the runtime is, and the functions' names.
fn tvm_ffi_of(words: Vec<String>) -> Option<Source> {
    let mut words = words.into_iter();
    Some(Source::TvmFfi { path: words.next()?, runtime: words.next()?, names: words.collect() })
}

/// `("file", path)`, `("tvm ffi", path, runtime, name, ...)`, `("julia", library, bindir, image, code)`, or
/// `("julia code", code)` for a Julia that runs.
pub fn source_of(words: Vec<String>) -> PyResult<Source> {
    let mut words = words.into_iter();
    let kind = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    let made = match kind.as_str() {
        "file" => <[String; 1]>::try_from(rest).map(|[path]| Source::File(path)).ok(),
        "tvm ffi" => tvm_ffi_of(rest),
        "julia code" => <[String; 1]>::try_from(rest).map(|[code]| Source::JuliaCode(code)).ok(),
        "julia" => <[String; 4]>::try_from(rest)
            .map(|[library, bindir, image, code]| Source::Julia { library, bindir, image, code })
            .ok(),
        _ => None,
    };
    made.ok_or_else(|| {
        let forms = "(\"file\", path), (\"tvm ffi\", path, runtime, name, ...), (\"julia\", library, bindir, image, code) or (\"julia code\", code)";
        PyValueError::new_err(format!("a source is {forms}"))
    })
}

#[pymethods]
impl Workers {
    /// `program`: the worker's. `source`: what each opens first. `spares`: how many are kept ready beside the one that works.
    #[new]
    fn new(program: PathBuf, name: String, source: Vec<String>, spares: usize) -> PyResult<Self> {
        let crew = Crew::new(Recipe { program, name, source: Some(source_of(source)?), spares });
        Ok(Self { crew: Arc::new(crew) })
    }

    /// Start what is wanted, without waiting for it.
    fn prepare(&self) {
        self.crew.prepare();
    }

    /// Start a new worker for the calls to come; the present one ends.
    fn restart(&self, py: Python<'_>) -> PyResult<()> {
        crate::lane::isolated::restart(py, &self.crew).map_err(|failure| PyOSError::new_err(failure.text()))
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
