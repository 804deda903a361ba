//! A library as Python holds it: its functions, and its fresh copy after a panic that skipped clean-up.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nif::abi::{Library as Table, flag};
use nif_memory::Config;
use nif_worker::crew::Opening;
use nif_worker::library::{Opened, Refusal, check_table, functions, open_file, refuse, text};
use nif_worker::message::{self, Source};
use nif_worker::tvm_ffi;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::call::frame::Failure;
use crate::call::host::HOST;
use crate::call::nif::Nif;
use crate::call::owner::Owner;
use crate::call::target::{Place, Target};
use crate::face::workers::{Workers, source_of};
use crate::lane::isolated::{Lane, LaneFailure, Said, connect, hold, open};
use crate::memory::Memory;
use crate::python::errors::abi_error;
use crate::telemetry::Telemetry;

/// Where a library's functions come from; shared by all of them.
pub struct Origin {
    pub backend: String,
    pub path: Option<String>,
    /// Where its thread-bound functions run, if it has any.
    pub owner: Option<Py<Owner>>,
    pub telemetry: Py<Telemetry>,
    /// Where its results and left-out outputs are allocated.
    pub memory: Py<Memory>,
    /// The workers that run its functions, if they are isolated.
    pub lane: Option<Lane>,
    /// What its workers open for it, if that isn't what they open first.
    pub opening: Option<Arc<Opening>>,
    /// The backend's number in the segment.
    pub number: u16,
    tainted: AtomicBool,
    /// Calls that run without the GIL. The others are over whenever somebody holds it.
    running: AtomicUsize,
    /// What a reload changes, by signature. Not the functions themselves: they hold the origin.
    targets: Mutex<Vec<(String, Arc<Target>)>>,
    /// The copy that the last reload opened; none before the first.
    copy: Mutex<Option<Opened>>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // SAFETY: every function holds its origin, so none is left that could run.
            unsafe { copy.close() };
        }
    }
}

/// While it lives, a call runs without the GIL.
pub struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Origin {
    /// Note that a failure skipped clean-up. The next call opens the library afresh.
    pub fn taint(&self) {
        self.tainted.store(true, Ordering::Relaxed);
    }

    /// To be held while a call runs without the GIL.
    pub fn running(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    #[inline]
    pub fn needs_reload(&self) -> bool {
        self.tainted.load(Ordering::Relaxed)
    }
}

/// One opened library.
#[pyclass(frozen, module = "nif_lab._core")]
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

/// Let the library get ready, on the thread of its thread-bound functions.
fn load(
    py: Python<'_>,
    table: &'static Table,
    shown: &str,
    owner: Option<&Py<Owner>>,
) -> PyResult<Result<(), Refusal>> {
    let Some(load) = table.load else { return Ok(Ok(())) };
    // SAFETY: the hook of a checked table, called once for each opening; the host lives as long as the process.
    let run = move || unsafe { load(&raw const HOST) };
    let status = match owner {
        Some(owner) => owner.get().run(py, run)?,
        None => run(),
    };
    Ok(if status == 0 { Ok(()) } else { Err(refuse(format!("{shown}: its load hook failed with status {status}"))) })
}

/// What Python is told of a library.
fn describe(py: Python<'_>, table: message::Table, places: &[Place], origin: Origin) -> PyResult<Library> {
    let origin = Arc::new(origin);
    let dict = PyDict::new(py);
    for (it, place) in table.functions.into_iter().zip(places) {
        let nif = Nif::new(py, &it.signature, &it.doc, it.flags, *place, Arc::clone(&origin))
            .map_err(|reason| abi_error(py, &reason, "see docs/abi.md, \"Signatures\""))?;
        if nif.key() != it.name || dict.contains(&it.name)? {
            let reason = format!("{}: listed twice, or under another name than '{}'", it.name, it.signature);
            return Err(abi_error(py, &reason, ""));
        }
        origin.targets.lock().unwrap_or_else(PoisonError::into_inner).push((it.signature, nif.target()));
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
fn describe_table(py: Python<'_>, table: &Table, origin: Origin) -> PyResult<Library> {
    let places: Vec<Place> = functions(table).iter().map(|it| Place::Here(it.call)).collect();
    describe(py, nif_worker::library::describe(table), &places, origin)
}

/// Enter the backend in the Lab's segment and memory, or in some of its own where no Lab asks.
fn origin(
    py: Python<'_>,
    backend: &str,
    path: Option<String>,
    owner: Option<Py<Owner>>,
    lane: Option<Lane>,
    telemetry: Option<Py<Telemetry>>,
    memory: Option<Py<Memory>>,
) -> PyResult<Origin> {
    let memory = match memory {
        Some(memory) => memory,
        None => Py::new(py, Memory::create(py, Config::default(), None)?)?,
    };
    let telemetry = match telemetry {
        Some(telemetry) => telemetry,
        None => Py::new(py, Telemetry::create()?)?,
    };
    let number = telemetry.get().add_backend(backend).map_err(PyRuntimeError::new_err)?;
    Ok(Origin {
        backend: backend.into(),
        path,
        owner,
        telemetry,
        memory,
        lane,
        opening: None,
        number,
        tainted: AtomicBool::new(false),
        running: AtomicUsize::new(0),
        targets: Mutex::default(),
        copy: Mutex::default(),
    })
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
    let origin = origin(py, backend, Some(path.into()), owner, None, telemetry, memory)?;
    describe_table(py, opened.table, origin)
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
    describe_table(py, table, origin(py, backend, Some(path.into()), None, None, telemetry, memory)?)
}

/// Open the table at `address`, whose functions run on the thread `owner`.
#[pyfunction]
#[pyo3(name = "open_table", signature = (address, backend, owner, telemetry=None, memory=None))]
pub fn open_address(
    py: Python<'_>,
    address: usize,
    backend: &str,
    owner: Py<Owner>,
    telemetry: Option<Py<Telemetry>>,
    memory: Option<Py<Memory>>,
) -> PyResult<Library> {
    let raise = |(reason, cure): Refusal| abi_error(py, &reason, &cure);
    let shown = format!("the table of {backend}");
    // SAFETY: the runtime gave this address as that of its table.
    let table = unsafe { check_table(address as *const Table, &shown) }.map_err(raise)?;
    load(py, table, &shown, Some(&owner))?.map_err(raise)?;
    let origin = origin(py, backend, None, Some(owner), None, telemetry, memory)?;
    describe_table(py, table, origin)
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
    let line = connect(py, &workers.crew).map_err(|failure| match failure {
        Failure::Lane(LaneFailure::NoWorker(reason, cure)) => abi_error(py, &reason, &cure),
        other => PyRuntimeError::new_err(other.text()),
    })?;
    let table = workers.crew.table().cloned().unwrap_or_default();
    if let Some(mut holding) = workers.crew.turn(Duration::ZERO) {
        holding.line = Some(line);
    }
    let origin = origin(py, backend, None, None, Some(Lane::new(&workers.crew)), telemetry, memory)?;
    describe_remote(py, table, 0, origin)
}

/// The same of a table whose functions are a worker's, numbered from `first` on.
fn describe_remote(py: Python<'_>, table: message::Table, first: u32, origin: Origin) -> PyResult<Library> {
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
    let raise = |failure: Failure| match failure {
        Failure::Python(error) => error,
        Failure::Lane(LaneFailure::NoWorker(reason, cure)) => abi_error(py, &reason, &cure),
        other => PyRuntimeError::new_err(other.text()),
    };
    let crew = &workers.crew;
    let mut holding = hold(py, crew).map_err(raise)?;
    let opening = Arc::new(crew.plan(source_of(source)?));
    let (line, table) = loop {
        let mut line = match holding.line.take().filter(|it| it.worker.exit().is_none()) {
            Some(line) => line,
            None => connect(py, crew).map_err(raise)?,
        };
        match open(py, &mut line, &opening).map_err(raise)? {
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
    let mut origin = origin(py, backend, path, None, Some(Lane::new(crew)), telemetry, memory)?;
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

/// Open a tainted library afresh and swap every function that is held.
///
/// The loader knows a file by its name and inode, so each copy is a memfd. The one before is closed if it allows that and
/// no call of it runs; else it stays, which costs what it has in memory.
#[cold]
pub fn reload(py: Python<'_>, origin: &Origin) -> Result<(), Failure> {
    let Some(path) = &origin.path else {
        origin.tainted.store(false, Ordering::Relaxed); // a runtime cleans up after its own exceptions
        return Ok(());
    };
    let copied = copy_to_memfd(path)
        .map_err(|e| refuse(format!("{path} can't be opened afresh after a panic: {e}")))
        .and_then(|file| {
            let mut opened = open_file(Path::new(&unique_path(&file)), &raw const HOST)?;
            opened.file = Some(file);
            Ok(opened)
        });
    let raise = |(reason, cure): Refusal| Failure::Python(abi_error(py, &reason, &cure));
    let fresh = copied.map_err(raise)?;
    let targets = || origin.targets.lock().unwrap_or_else(PoisonError::into_inner);
    // The file may have been built again since: a function that is gone must not be left to the copy that is closed.
    let find = |(held, _): &(String, Arc<Target>)| functions(fresh.table).iter().find(|it| text(it.signature) == *held);
    let found: Result<Vec<_>, String> =
        targets().iter().map(|target| find(target).map(|it| it.call).ok_or_else(|| target.0.clone())).collect();
    let calls = match found {
        Ok(calls) => calls,
        Err(missing) => {
            std::mem::forget(fresh); // its load hook was never called, so neither is the other
            let reason = format!("{path} no longer has '{missing}': the file was built again since it was loaded");
            return Err(raise((reason, "load it again, or make a new Lab".into())));
        }
    };
    load(py, fresh.table, path, origin.owner.as_ref())?.map_err(raise)?;
    for ((_, target), call) in targets().iter().zip(calls) {
        target.set(call);
    }
    let former = origin.copy.lock().unwrap_or_else(PoisonError::into_inner).replace(fresh);
    origin.tainted.store(false, Ordering::Relaxed);
    match former {
        // SAFETY: the GIL is held, so calls that hold it are over, and none runs without it; all pointers were swapped.
        Some(former) if origin.running.load(Ordering::Relaxed) == 0 => unsafe { former.close() },
        Some(mut former) => std::mem::forget(former.file.take()),
        None => {}
    }
    Ok(())
}

/// A path of an open file that no file had before.
///
/// The loader takes two libraries of one name for one library, and descriptors come again. So a counter is written into
/// the path, in binary: `./` and `.//` lead nowhere else.
fn unique_path(file: &File) -> String {
    static OPENED: AtomicU32 = AtomicU32::new(0);
    let number = OPENED.fetch_add(1, Ordering::Relaxed);
    let steps: String = (0..32).map(|bit| if number >> bit & 1 == 0 { "./" } else { ".//" }).collect();
    format!("/proc/self/fd/{steps}{}", file.as_raw_fd())
}

fn copy_to_memfd(path: &str) -> io::Result<File> {
    use std::os::fd::FromRawFd;
    let mut source = File::open(path)?;
    // SAFETY: the name is a C string; the descriptor is owned by the file from here on.
    let mut copy = unsafe {
        let fd = libc::memfd_create(c"nif_lab library".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    io::copy(&mut source, &mut copy)?;
    Ok(copy)
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
