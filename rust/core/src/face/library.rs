//! A library as Python holds it: its functions, and its fresh copy after a panic that skipped clean-up.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nif::abi::{Library as Table, flag};
use nif_loader::library::{Refusal, check_table, functions, open_file};
use nif_loader::table;
use nif_loader::tvm_ffi;
use nif_worker::message::Source;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::entries::{General, direct_entry};
use crate::call::failure::{Failure, LaneFailure};
use crate::call::host::HOST;
use crate::call::nif::Nif;
use crate::call::origin::{Lane, Origin, load};
use crate::call::owner::Owner;
use crate::call::signature::Signature;
use crate::call::target::Place;
use crate::face::workers::{Workers, source_of};
use crate::lane::isolated::{Isolated, Said, connect, hold, open};
use crate::memory::Memory;
use crate::python::door::builtin;
use crate::python::errors::abi_error;
use crate::telemetry::Telemetry;

/// One opened library.
#[pyclass(frozen, weakref, module = "nif_lab._core")]
pub struct Library {
    origin: Arc<Origin>,
    #[pyo3(get)]
    language: String,
    #[pyo3(get)]
    compiler: String,
    #[pyo3(get)]
    version: String,
    #[pyo3(get)]
    functions: Py<PyDict>,
}

/// What Python is told of a library.
fn describe(py: Python<'_>, table: table::Table, places: &[Place], origin: Origin) -> PyResult<Library> {
    let origin = Arc::new(origin);
    let dict = PyDict::new(py);
    for (it, place) in table.functions.into_iter().zip(places) {
        let made = Signature::parse(&it.signature).and_then(|signature| {
            let entry = match place {
                // The straight entry keeps the GIL: for what allocates nothing, and so collects no garbage.
                Place::Here(_) if origin.is_shared_runtime() && origin.allocates => builtin::<General>,
                Place::Here(_) => direct_entry(&signature, it.flags),
                Place::InWorker(_) => builtin::<Isolated>,
            };
            Nif::new(signature, &it.signature, &it.doc, it.flags, *place, entry, Arc::clone(&origin))
        });
        let nif = made.map_err(|reason| abi_error(py, &reason, "see docs/abi.md, \"Signatures\""))?;
        if nif.key() != it.name || dict.contains(&it.name)? {
            let reason = format!("{}: listed twice, or under another name than '{}'", it.name, it.signature);
            return Err(abi_error(py, &reason, ""));
        }
        origin.hold(it.signature, nif.target());
        dict.set_item(it.name, Py::new(py, nif)?)?;
    }
    Ok(Library {
        language: table.language,
        compiler: table.compiler,
        version: table.version,
        functions: dict.unbind(),
        origin,
    })
}

/// The same of one that was opened in this process.
///
/// `bound`: `THREAD_BOUND` where who opens it knows of a thread that the table doesn't.
fn describe_table(py: Python<'_>, table: &Table, bound: u32, origin: Origin) -> PyResult<Library> {
    let places: Vec<Place> = functions(table).iter().map(|it| Place::Here(it.call)).collect();
    let mut described = nif_loader::library::describe(table);
    described.functions.iter_mut().for_each(|it| it.flags |= bound);
    describe(py, described, &places, origin)
}

/// Open the NIF library in the file `path` as the backend `backend`.
#[pyfunction]
#[pyo3(signature = (path, backend, telemetry=None, memory=None))]
pub fn open_library(
    py: Python<'_>,
    path: &str,
    backend: &str,
    telemetry: Option<Py<Telemetry>>,
    memory: Option<Py<Memory>>,
) -> PyResult<Library> {
    let raise = |(reason, cure): Refusal| abi_error(py, &reason, &cure);
    let opened = open_file(Path::new(path), &raw const HOST).map_err(raise)?;
    let is_bound = functions(opened.table).iter().any(|function| function.flags & flag::THREAD_BOUND != 0);
    let owner = if is_bound { Some(Py::new(py, Owner::start(&format!("nif_lab {backend}"))?)?) } else { None };
    load(py, opened.table, path, owner.as_ref())?.map_err(raise)?;
    let origin = Origin::new(py, backend, Some(path.into()), owner, None, telemetry, memory)?;
    describe_table(py, opened.table, 0, origin)
}

/// Open the functions `names` of the TVM-FFI library `path`; `runtime` is where `libtvm_ffi.so` is.
#[pyfunction]
#[pyo3(signature = (path, runtime, names, backend, telemetry=None, memory=None))]
#[allow(clippy::needless_pass_by_value, reason = "Python's list becomes one")]
pub fn open_tvm_ffi(
    py: Python<'_>,
    path: &str,
    runtime: &str,
    names: Vec<String>,
    backend: &str,
    telemetry: Option<Py<Telemetry>>,
    memory: Option<Py<Memory>>,
) -> PyResult<Library> {
    let opened = tvm_ffi::open(Path::new(path), runtime, &names);
    let table = opened.map_err(|(reason, cure)| abi_error(py, &reason, &cure))?;
    describe_table(py, table, 0, Origin::new(py, backend, Some(path.into()), None, None, telemetry, memory)?)
}

/// Open the table at `address`, whose functions run on the thread `owner`; on every thread unless there is one.
///
/// `allocates`: its plain functions may collect garbage, as a cell's do.
#[pyfunction]
#[pyo3(name = "open_table", signature = (address, backend, owner, telemetry=None, memory=None, allocates=false))]
pub fn open_address(
    py: Python<'_>,
    address: usize,
    backend: &str,
    owner: Option<Py<Owner>>,
    telemetry: Option<Py<Telemetry>>,
    memory: Option<Py<Memory>>,
    allocates: bool,
) -> PyResult<Library> {
    let raise = |(reason, cure): Refusal| abi_error(py, &reason, &cure);
    let shown = format!("the table of {backend}");
    // SAFETY: the runtime gave this address as that of its table.
    let table = unsafe { check_table(address as *const Table, &shown) }.map_err(raise)?;
    load(py, table, &shown, owner.as_ref())?.map_err(raise)?;
    let bound = if owner.is_some() { flag::THREAD_BOUND } else { 0 };
    let mut origin = Origin::new(py, backend, None, owner, None, telemetry, memory)?;
    origin.allocates = allocates;
    describe_table(py, table, bound, origin)
}

/// Ask a worker what it has opened, once one is ready; its functions are called there.
#[pyfunction]
#[pyo3(signature = (workers, backend, telemetry=None, memory=None))]
pub fn open_isolated(
    py: Python<'_>,
    workers: &Workers,
    backend: &str,
    telemetry: Option<Py<Telemetry>>,
    memory: Option<Py<Memory>>,
) -> PyResult<Library> {
    let line = connect(py, &workers.crew, None).map_err(|failure| not_opened(py, failure))?;
    let table = workers.crew.table().cloned().unwrap_or_default();
    if let Ok(mut holding) = workers.crew.turn(Duration::ZERO) {
        holding.line.get_or_insert(line);
    }
    let origin = Origin::new(py, backend, None, None, Some(Lane::new(&workers.crew)), telemetry, memory)?;
    describe_remote(py, table, 0, origin)
}

/// Why workers don't open a source.
fn not_opened(py: Python<'_>, failure: Failure) -> PyErr {
    match failure {
        Failure::Python(error) => error,
        Failure::Lane(LaneFailure::NoWorker(it)) => {
            let error = abi_error(py, &it.reason, &it.cure);
            error.value(py).setattr("may_pass", it.may_pass).err().unwrap_or(error)
        }
        other => abi_error(py, &other.text(), ""),
    }
}

/// The same of a table whose functions are a worker's, numbered from `first` on.
fn describe_remote(py: Python<'_>, table: table::Table, first: u32, origin: Origin) -> PyResult<Library> {
    let places: Vec<Place> = (first..).take(table.functions.len()).map(Place::InWorker).collect();
    describe(py, table, &places, origin)
}

/// Have the workers of a backend open one more source, now and whenever one is started.
///
/// `source`: as of `Workers`. A worker that doesn't survive it is replaced.
#[pyfunction]
#[pyo3(signature = (workers, source, backend, telemetry=None, memory=None))]
pub fn open_beside(
    py: Python<'_>,
    workers: &Workers,
    source: Vec<String>,
    backend: &str,
    telemetry: Option<Py<Telemetry>>,
    memory: Option<Py<Memory>>,
) -> PyResult<Library> {
    let raise = |failure: Failure| not_opened(py, failure);
    let crew = &workers.crew;
    let mut holding = hold(py, crew, None).map_err(raise)?;
    let opening = Arc::new(crew.plan(source_of(source)?));
    let (line, table) = loop {
        let mut line = match holding.line.take().filter(|it| it.worker.exit().is_none()) {
            Some(line) => line,
            None => connect(py, crew, None).map_err(raise)?,
        };
        match open(py, &mut line, &opening, None).map_err(raise)? {
            Said::Opened(table) => break (line, table),
            Said::Refused(reason, cure) => {
                holding.line = Some(line);
                return Err(abi_error(py, &reason, &cure));
            }
            Said::Ended(exit) => {
                opening.blame(&exit);
                if opening.is_broken() {
                    let said = if exit.said.is_empty() { String::new() } else { format!(": {}", exit.said) };
                    return Err(abi_error(py, &format!("a worker ended while it opened this, by {exit}{said}"), ""));
                }
            }
        }
    };
    crew.keep(&opening, table.functions.len());
    holding.line = Some(line);
    drop(holding);
    let path = if let Source::File(path) = &opening.source { Some(path.clone()) } else { None };
    let mut origin = Origin::new(py, backend, path, None, Some(Lane::new(crew)), telemetry, memory)?;
    let first = opening.first;
    origin.opening = Some(opening);
    describe_remote(py, table, first, origin)
}

/// The address of the Lab's `nif_host`, for runtimes that are asked for their table.
#[pyfunction]
pub fn host_address() -> usize {
    (&raw const HOST) as usize
}

/// The layout of the ABI's structs as this core was built: lines of name, offset, size.
#[pyfunction]
pub fn layout() -> &'static str {
    &nif::abi::LAYOUT
}

#[pymethods]
impl Library {
    /// Call this with the name, arguments, keywords and exception of a call that failed in a worker.
    fn set_recovery(&self, recovery: Py<PyAny>) {
        if let Some(lane) = &self.origin.lane {
            let _ = lane.recovery.set(recovery);
        }
    }

    /// Whether calls fail at once, because the workers ended too often.
    #[getter]
    fn circuit_open(&self) -> bool {
        self.origin.lane.as_ref().is_some_and(|it| it.is_open.load(Ordering::Relaxed))
    }

    #[setter]
    fn set_circuit_open(&self, open: bool) {
        if let Some(lane) = &self.origin.lane {
            lane.is_open.store(open, Ordering::Relaxed);
        }
    }

    /// Have the next call look where it is: a child of fork doesn't have its parent's runtimes, and they end with the process.
    fn look_again(&self) {
        self.origin.taint();
    }

    /// The backend's name.
    #[getter]
    fn backend(&self) -> &str {
        &self.origin.backend
    }

    /// The file, or None where a runtime gave the table.
    #[getter]
    fn path(&self) -> Option<&str> {
        self.origin.path.as_deref()
    }

    fn __repr__(&self) -> String {
        format!("<library {} {} ({})>", self.origin.backend, self.version, self.compiler)
    }
}
