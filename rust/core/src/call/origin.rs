//! Where a library's functions come from, and its fresh copy after a panic that skipped clean-up.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use nif::abi::{Library as Table, error_kind};
use nif_loader::library::{Opened, Refusal, functions, open_file, refuse, text};
use nif_memory::{Config, PerProcess};
use nif_worker::crew::{Crew, Opening};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::call::failure::Failure;
use crate::call::host::HOST;
use crate::call::owner::{INHERITED, Owner, stay_out};
use crate::call::running::{Calls, Moment};
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
    /// Its plain functions may collect garbage.
    pub allocates: bool,
    /// The backend's number in the segment.
    pub number: u16,
    /// Of which process it is.
    forks: u32,
    tainted: AtomicBool,
    /// While one runs, no copy is closed.
    pub calls: Calls,
    /// What a reload changes, by signature. Not the functions themselves: they hold the origin.
    targets: Mutex<Vec<(String, Arc<Target>)>>,
    /// The thread that reloads.
    reloader: PerProcess<Mutex<Option<ThreadId>>>,
    copies: Mutex<Copies>,
}

/// What reloads have opened.
#[derive(Default)]
struct Copies {
    /// By the last one; none before the first.
    current: Option<Opened>,
    /// By those before, with what ran when each was left.
    former: Vec<(Opened, Moment)>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        let copies = std::mem::take(self.copies.get_mut().unwrap_or_else(PoisonError::into_inner));
        for copy in copies.former.into_iter().map(|it| it.0).chain(copies.current) {
            // SAFETY: every function holds its origin, so none is left that could run.
            unsafe { copy.close() };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, a call runs that was handed to another thread. It goes on when its caller stops waiting.
pub struct HandedOver(Arc<Origin>);

impl Drop for HandedOver {
    fn drop(&mut self) {
        self.0.calls.come_back();
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
            allocates: false,
            number,
            forks: nif_memory::forks(),
            tainted: AtomicBool::new(false),
            calls: Calls::default(),
            targets: Mutex::default(),
            reloader: PerProcess::new(Mutex::default),
            copies: Mutex::default(),
        })
    }

    /// Let a reload change the function of that signature.
    pub fn hold(&self, signature: String, target: Arc<Target>) {
        lock(&self.targets).push((signature, target));
    }

    /// Note that a failure skipped clean-up. The next call opens the library afresh.
    pub fn taint(&self) {
        self.tainted.store(true, Ordering::Relaxed);
    }

    /// To be held while a call runs on another thread.
    pub fn hand_over(self: &Arc<Self>) -> HandedOver {
        self.calls.hand_over();
        HandedOver(Arc::clone(self))
    }

    /// Is it a runtime that several threads share? Its garbage collection waits for each thread that is inside, and one of
    /// them may run Python code there and wait for the GIL: so no call keeps it.
    #[inline]
    pub fn is_shared_runtime(&self) -> bool {
        self.path.is_none() && self.owner.is_none() && self.lane.is_none()
    }

    #[inline]
    pub fn needs_reload(&self) -> bool {
        self.tainted.load(Ordering::Acquire)
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

/// While it lives, this thread alone reloads.
struct Turn<'a>(&'a Mutex<Option<ThreadId>>);

impl<'a> Turn<'a> {
    /// Wait for another thread's reload; Ctrl-C ends the wait.
    fn take(py: Python<'_>, origin: &'a Origin) -> Result<Self, Failure> {
        let (reloader, me) = (origin.reloader.get(), std::thread::current().id());
        loop {
            match &mut *lock(reloader) {
                Some(it) if *it == me => break, // a signal handler, or its load hook
                Some(_) => {}
                none => {
                    *none = Some(me);
                    return Ok(Self(reloader));
                }
            }
            py.detach(|| std::thread::sleep(Duration::from_millis(1)));
            py.check_signals()?;
        }
        let reason = "its library is being opened afresh by this thread: call it when that is done";
        Err(Failure::Nif { kind: error_kind::ERROR, argument: -1, reason: reason.into() })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

/// Open a tainted library afresh and swap every function that is held.
///
/// The loader knows a file by its name and inode, so each copy is a memfd. One that was swapped is closed, if it allows that, as
/// soon as a reload finds that no call runs.
#[cold]
pub fn reload(py: Python<'_>, origin: &Origin) -> Result<(), Failure> {
    let _turn = Turn::take(py, origin)?;
    if !origin.needs_reload() {
        return Ok(()); // another thread has done it
    }
    let Some(path) = &origin.path else {
        if origin.forks != nif_memory::forks() {
            return Err(Failure::Nif { kind: error_kind::ERROR, argument: -1, reason: INHERITED.into() });
        }
        if origin.lane.is_none() {
            stay_out(py)?;
        }
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
    // The file may have been built again since: a function that is gone must not be left to the copy that is closed.
    let find = |(held, _): &(String, Arc<Target>)| functions(fresh.table).iter().find(|it| text(it.signature) == *held);
    let found: Result<Vec<_>, String> = lock(&origin.targets)
        .iter()
        .map(|target| find(target).map(|it| it.call).ok_or_else(|| target.0.clone()))
        .collect();
    let calls = match found {
        Ok(calls) => calls,
        Err(missing) => {
            std::mem::forget(fresh); // its load hook was never called, so neither is the other
            let reason = format!("{path} no longer has '{missing}': the file was built again since it was loaded");
            return Err(raise((reason, "load it again, or make a new Lab".into())));
        }
    };
    load(py, fresh.table, path, origin.owner.as_ref())?.map_err(raise)?;
    for ((_, target), call) in lock(&origin.targets).iter().zip(calls) {
        target.set(call);
    }
    let mut copies = lock(&origin.copies);
    let former = copies.current.replace(fresh);
    copies.former.extend(former.map(|it| (it, origin.calls.now())));
    // Without the GIL, other threads call the fresh copy from here on.
    origin.tainted.store(false, Ordering::Release);
    let (over, in_use) = copies.former.drain(..).partition(|(_, then)| origin.calls.are_over(then));
    copies.former = in_use;
    drop(copies);
    let over: Vec<(Opened, Moment)> = over;
    for (former, _) in over {
        // SAFETY: no pointer leads there since the swap, and no call runs that began before it.
        unsafe { former.close() };
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
    let mut source = File::open(path)?;
    let mut copy = File::from(nif_memory::memfd(c"nif_lab library", 0)?);
    io::copy(&mut source, &mut copy)?;
    Ok(copy)
}
