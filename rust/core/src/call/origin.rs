//! Where a library's functions come from, and its fresh copy after a panic that skipped clean-up.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nif::abi::Library as Table;
use nif_loader::library::{Opened, Refusal, functions, open_file, refuse, text};
use nif_memory::Config;
use nif_worker::crew::{Crew, Opening};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::call::failure::Failure;
use crate::call::host::HOST;
use crate::call::owner::Owner;
use crate::call::target::Target;
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

/// While it lives, a call runs without the GIL, or on another thread: its library isn't closed.
pub struct Running(Arc<Origin>);

impl Drop for Running {
    fn drop(&mut self) {
        // What the call read of the library comes before whoever sees that it is over, and closes it.
        self.0.running.fetch_sub(1, Ordering::Release);
    }
}

impl Origin {
    /// Enter the backend in the Lab's segment and memory, or in some of its own where no Lab asks.
    pub fn new(
        py: Python<'_>,
        backend: &str,
        path: Option<String>,
        owner: Option<Py<Owner>>,
        lane: Option<Lane>,
        telemetry: Option<Py<Telemetry>>,
        memory: Option<Py<Memory>>,
    ) -> PyResult<Self> {
        let memory = match memory {
            Some(memory) => memory,
            None => Py::new(py, Memory::create(py, Config::default(), None)?)?,
        };
        let telemetry = match telemetry {
            Some(telemetry) => telemetry,
            None => Py::new(py, Telemetry::create()?)?,
        };
        let number = telemetry.get().segment.add_backend(backend).map_err(PyRuntimeError::new_err)?;
        Ok(Self {
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

    /// Let a reload change the function of that signature.
    pub fn hold(&self, signature: String, target: Arc<Target>) {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).push((signature, target));
    }

    /// Note that a failure skipped clean-up. The next call opens the library afresh.
    pub fn taint(&self) {
        self.tainted.store(true, Ordering::Relaxed);
    }

    /// To be held while a call runs without the GIL, or on another thread.
    pub fn running(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    #[inline]
    pub fn needs_reload(&self) -> bool {
        self.tainted.load(Ordering::Relaxed)
    }
}

/// What all functions of an isolated backend share.
pub struct Lane {
    pub crew: Arc<Crew>,
    /// Calls don't even try.
    pub is_open: AtomicBool,
    /// Called with the name, the arguments, the keywords and the exception of a call that failed.
    pub recovery: OnceLock<Py<PyAny>>,
}

impl Lane {
    pub fn new(crew: &Arc<Crew>) -> Self {
        Self { crew: Arc::clone(crew), is_open: AtomicBool::new(false), recovery: OnceLock::new() }
    }
}

/// Let the library get ready, on the thread of its thread-bound functions.
pub fn load(
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
        Some(former) if origin.running.load(Ordering::Acquire) == 0 => unsafe { former.close() },
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
