//! Opening a NIF library: is it one of ours, was it built for this layout, what is in it.

use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nif::abi::{ABI_VERSION, Function, Init, Library as Table, STRUCT_HASH, flag};
use nif_memory::Config;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::abi_error;
use crate::frame::Failure;
use crate::host::HOST;
use crate::memory::Memory;
use crate::nif::{Nif, Target};
use crate::owner::Owner;
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

/// A library as the loader knows it, and its table.
struct Opened {
    handle: *mut libc::c_void,
    table: &'static Table,
    /// The memfd of a copy. The loader knows the copy by its descriptor's path: whoever looks a symbol up later opens that
    /// path, so nothing else may ever stand there while the copy is loaded.
    file: Option<File>,
}

// SAFETY: the handle is only ever given back to the loader, which locks.
unsafe impl Send for Opened {}

impl Opened {
    /// Let go of a library that says it can be: one without an unload hook stays.
    ///
    /// # Safety
    /// No call of it runs, and nobody keeps a pointer into it.
    unsafe fn close(mut self) {
        if let Some(unload) = self.table.unload {
            // SAFETY: the caller's promise, and the library's: after this hook nothing of it is in use.
            unsafe {
                unload();
                libc::dlclose(self.handle);
            }
        } else {
            std::mem::forget(self.file.take());
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

/// A refusal: the reason, and what mends it.
type Refusal = (String, String);

fn refuse(reason: String) -> Refusal {
    (reason, "rebuild it with this version's SDK: nif-lab build".into())
}

/// Open the library at `path`.
///
/// A damaged file must be found here: the dynamic loader maps what the headers promise and dies on what isn't there.
fn open_file(path: &Path) -> Result<Opened, Refusal> {
    let shown = path.display();
    check_elf(path).map_err(|e| refuse(format!("{shown}: {e}")))?;
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| refuse(format!("{shown}: {e}")))?;
    // SAFETY: loading runs the library's initialisers, which is what the user asked for; the table lives until
    // the library is closed. `nif_init` has the type that the contract gives it.
    unsafe {
        let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if handle.is_null() {
            let why = CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned();
            return Err(refuse(format!("{shown} can't be loaded: {why}")));
        }
        let symbol = libc::dlsym(handle, c"nif_init".as_ptr());
        if symbol.is_null() {
            let cure = "see docs/abi.md for what a library exports".into();
            return Err((format!("{shown} is not a NIF library: it exports no nif_init"), cure));
        }
        let init = std::mem::transmute::<*mut libc::c_void, Init>(symbol);
        let table = check_table(init(&raw const HOST), &shown.to_string())?;
        Ok(Opened { handle, table, file: None })
    }
}

/// Is this a table of our version and layout?
///
/// # Safety
/// `table` is null or leads to a table of some version, which always begins with the version and the hash.
unsafe fn check_table(table: *const Table, shown: &str) -> Result<&'static Table, Refusal> {
    if table.is_null() {
        return Err(refuse(format!("{shown}: its nif_init returned nothing")));
    }
    // SAFETY: the first two fields are the same in every version; the rest is read only after they agree.
    unsafe {
        let version = (*table).abi_version;
        if version != ABI_VERSION {
            return Err(refuse(format!("{shown} speaks version {version} of the ABI, this nif_lab {ABI_VERSION}")));
        }
        let hash = (*table).struct_hash;
        if hash != STRUCT_HASH {
            let here = format!("{shown} has another struct layout (hash {hash:08x}, here {STRUCT_HASH:08x})");
            return Err(refuse(here));
        }
        Ok(&*table)
    }
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

fn functions(table: &Table) -> &[Function] {
    if table.functions.is_null() {
        return &[];
    }
    // SAFETY: a checked table tells the truth about its functions.
    unsafe { std::slice::from_raw_parts(table.functions, table.n_functions as usize) }
}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: a checked table has NUL-terminated strings.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// Is it a whole shared object for this machine?
fn check_elf(path: &Path) -> io::Result<()> {
    let damaged = |what: &str| io::Error::other(format!("not a whole shared library ({what})"));
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut header = [0u8; 64];
    file.read_exact(&mut header).map_err(|_| damaged("shorter than an ELF header"))?;
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    if header[..4] != *b"\x7fELF" || header[4] != 2 || header[5] != 1 {
        return Err(damaged("no 64-bit ELF header"));
    }
    let machine = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    if number(&header[16..18]) != 3 || number(&header[18..20]) != machine {
        return Err(damaged("not a shared object of this machine"));
    }
    let (offset, entry, count) = (number(&header[32..40]), number(&header[54..56]), number(&header[56..58]));
    let size = entry.checked_mul(count).filter(|_| entry >= 56).ok_or_else(|| damaged("bad program headers"))?;
    let end = offset.checked_add(size).ok_or_else(|| damaged("bad program headers"))?;
    if end > length {
        return Err(damaged("cut off in its headers"));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut programs = vec![0u8; size as usize];
    file.read_exact(&mut programs)?;
    for program in programs.chunks_exact(entry as usize) {
        let segment = number(&program[8..16]).checked_add(number(&program[32..40]));
        if segment.is_none_or(|end| end > length) {
            return Err(damaged("cut off in its segments"));
        }
    }
    Ok(())
}

fn describe(py: Python<'_>, table: &Table, origin: Origin) -> PyResult<Library> {
    let origin = Arc::new(origin);
    let dict = PyDict::new(py);
    for function in functions(table) {
        let signature = text(function.signature);
        let nif = Nif::new(py, &signature, &text(function.doc), function.flags, function.call, Arc::clone(&origin))
            .map_err(|reason| abi_error(py, &reason, "see docs/abi.md, \"Signatures\""))?;
        let name = text(function.name);
        if nif.key() != name || dict.contains(&name)? {
            return Err(abi_error(py, &format!("{name}: listed twice, or under another name than '{signature}'"), ""));
        }
        origin.targets.lock().unwrap_or_else(PoisonError::into_inner).push((signature, nif.target()));
        dict.set_item(name, Py::new(py, nif)?)?;
    }
    Ok(Library {
        language: text(table.language),
        compiler: text(table.compiler),
        version: text(table.library_version),
        functions: dict.unbind(),
        origin,
    })
}

/// Enter the backend in the Lab's segment and memory, or in some of its own where no Lab asks.
fn origin(
    py: Python<'_>,
    backend: &str,
    path: Option<String>,
    owner: Option<Py<Owner>>,
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
    let opened = open_file(Path::new(path)).map_err(raise)?;
    let is_bound = functions(opened.table).iter().any(|function| function.flags & flag::THREAD_BOUND != 0);
    let owner = if is_bound { Some(Py::new(py, Owner::start(&format!("nif_lab {backend}"))?)?) } else { None };
    load(py, opened.table, path, owner.as_ref())?.map_err(raise)?;
    describe(py, opened.table, origin(py, backend, Some(path.into()), owner, telemetry, memory)?)
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
    describe(py, table, origin(py, backend, None, Some(owner), telemetry, memory)?)
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
            let opened = open_file(Path::new(&unique_path(&file)))?;
            Ok(Opened { file: Some(file), ..opened })
        });
    let raise = |(reason, cure): Refusal| Failure::Python(abi_error(py, &reason, &cure));
    let fresh = copied.map_err(raise)?;
    load(py, fresh.table, path, origin.owner.as_ref())?.map_err(raise)?;
    let targets = origin.targets.lock().unwrap_or_else(PoisonError::into_inner);
    for function in functions(fresh.table) {
        let signature = text(function.signature);
        if let Some((_, target)) = targets.iter().find(|(held, _)| *held == signature) {
            target.set(function.call);
        }
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
