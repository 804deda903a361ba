//! What native code prints: on its way when the call ends, and caught where Python catches its own.
//!
//! A call that prints nothing pays for three loads: the C library's buffer is looked at, and whether somebody has put another
//! stream in place of `sys.stdout` or `sys.stderr`. Only then are the descriptors led elsewhere for the time of a call.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nif_worker::speaker;
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

#[cfg(Py_3_12)]
use crate::python::door;

unsafe extern "C" {
    static mut stdout: *mut libc::FILE;
    fn __fpending(stream: *mut libc::FILE) -> usize;
}

/// What glibc's public `struct _IO_FILE` has where: a call would take as long as all else that is looked at here.
#[cfg(target_env = "gnu")]
#[repr(C)]
struct Stream {
    flags: c_int,
    read: [usize; 3],
    write_base: usize,
    write_pointer: usize,
    rest: [usize; 18],
    /// Above 0 where wide characters are written, which lie elsewhere.
    mode: c_int,
}

#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
const _: () = assert!(std::mem::offset_of!(Stream, mode) == 192);

/// May the C library still hold something of standard output?
#[cfg(target_env = "gnu")]
#[inline(always)]
unsafe fn is_pending() -> bool {
    // SAFETY: the C library's own stream, which is there as long as the process; it is looked at as `__fpending` does, without
    // its lock.
    unsafe {
        let it = &raw const *stdout.cast::<Stream>();
        (*it).write_pointer != (*it).write_base || (*it).mode > 0
    }
}

#[cfg(not(target_env = "gnu"))]
unsafe fn is_pending() -> bool {
    true
}

/// Write out what the C library still holds of standard output.
#[inline(always)]
pub fn flush() {
    // SAFETY: the C library's own stream.
    if unsafe { is_pending() } {
        flush_pending();
    }
}

#[cold]
#[inline(never)]
fn flush_pending() {
    // SAFETY: the C library's own stream, whose functions take its lock.
    unsafe {
        if __fpending(stdout) != 0 {
            libc::fflush(stdout);
        }
    }
}

/// The state of `sys`'s names in which both streams were the process's own; no state has the number 0.
static PLAIN: AtomicU64 = AtomicU64::new(0);

/// Python 3.12 and newer tell when a name of `sys` changes; older ones count the changes.
#[cfg(Py_3_12)]
mod names {
    use super::{AtomicU64, Ordering, c_int, door, ffi};

    static CHANGES: AtomicU64 = AtomicU64::new(0);

    type Watcher = unsafe extern "C" fn(c_int, *mut ffi::PyObject, *mut ffi::PyObject, *mut ffi::PyObject) -> c_int;

    unsafe extern "C" {
        fn PyDict_AddWatcher(watcher: Watcher) -> c_int;
        fn PyDict_Watch(watcher: c_int, dict: *mut ffi::PyObject) -> c_int;
    }

    unsafe extern "C" fn changed(
        _: c_int,
        _: *mut ffi::PyObject,
        _: *mut ffi::PyObject,
        _: *mut ffi::PyObject,
    ) -> c_int {
        door::guard((), || {
            CHANGES.fetch_add(1, Ordering::Relaxed);
        });
        0
    }

    #[inline(always)]
    pub fn state() -> u64 {
        CHANGES.load(Ordering::Relaxed)
    }

    /// # Safety
    /// The GIL is held, and `names` is the dict of `sys`.
    pub unsafe fn watch(names: *mut ffi::PyObject) {
        // SAFETY: the caller's promise.
        unsafe {
            let watcher = PyDict_AddWatcher(changed);
            if watcher < 0 || PyDict_Watch(watcher, names) < 0 {
                ffi::PyErr_Clear(); // nothing is caught then
                return;
            }
        }
        CHANGES.store(1, Ordering::Relaxed);
    }
}

#[cfg(not(Py_3_12))]
mod names {
    use super::{AtomicU64, Ordering, ffi};
    use std::sync::atomic::AtomicPtr;

    static NOTHING: AtomicU64 = AtomicU64::new(0);
    /// Where Python counts.
    static COUNT: AtomicPtr<u64> = AtomicPtr::new(NOTHING.as_ptr());

    #[inline(always)]
    pub fn state() -> u64 {
        // SAFETY: the dict of `sys` lives as long as the process.
        unsafe { COUNT.load(Ordering::Relaxed).read_volatile() }
    }

    /// # Safety
    /// The GIL is held, and `names` is the dict of `sys`.
    pub unsafe fn watch(names: *mut ffi::PyObject) {
        // SAFETY: the caller's promise.
        COUNT.store(unsafe { &raw mut (*names.cast::<ffi::PyDictObject>()).ma_version_tag }, Ordering::Relaxed);
    }
}

/// Begin to notice when somebody puts another stream in place of `sys.stdout`. To be called once.
pub fn start(py: Python<'_>) -> PyResult<()> {
    let names = py.import("sys")?.dict();
    // SAFETY: the GIL is held.
    unsafe { names::watch(names.as_ptr()) };
    Ok(())
}

/// May what native code prints have to be caught?
#[inline(always)]
pub fn may_be_caught() -> bool {
    names::state() != PLAIN.load(Ordering::Relaxed)
}

const NAMES: [(&str, &str, c_int, &CStr); 2] =
    [("stdout", "__stdout__", 1, c"nif_lab stdout"), ("stderr", "__stderr__", 2, c"nif_lab stderr")];

/// The streams that something else than the process's own descriptors stands for.
fn caught(py: Python<'_>) -> PyResult<[Option<Py<PyAny>>; 2]> {
    let sys = py.import("sys")?;
    let mut both = [None, None];
    for (to, (name, own, number, _)) in both.iter_mut().zip(NAMES) {
        let stream = sys.getattr(name)?;
        if !stream.is_none() && !stream.is(&sys.getattr(own)?) && !arrives(&stream, number) {
            *to = Some(stream.unbind());
        }
    }
    Ok(both)
}

/// Does what is written to a descriptor come to the stream by itself? A kernel's reads it, and a file may be the same one.
fn arrives(stream: &Bound<'_, PyAny>, number: c_int) -> bool {
    if stream.getattr("watch_fd_thread").is_ok_and(|it| !it.is_none()) {
        return true;
    }
    let Some(other) = stream.call_method0("fileno").ok().and_then(|it| it.extract::<c_int>().ok()) else {
        return false;
    };
    let file_of = |number: c_int| {
        // SAFETY: zeroed is a valid value; a plain call.
        unsafe {
            let mut it: libc::stat = std::mem::zeroed();
            (libc::fstat(number, &raw mut it) == 0).then_some((it.st_dev, it.st_ino))
        }
    };
    file_of(other).is_some() && file_of(other) == file_of(number)
}

/// What descriptors were led to, while calls run whose output is caught.
#[derive(Default)]
struct Led {
    calls: usize,
    /// For each of the two: the file that it leads to, where it led before, and what was read of the file.
    files: [Option<(File, OwnedFd, u64)>; 2],
}

static LED: Mutex<Led> = Mutex::new(Led { calls: 0, files: [None, None] });

fn led() -> MutexGuard<'static, Led> {
    LED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, what native code prints is caught.
pub struct Catching([Option<Py<PyAny>>; 2]);

impl Catching {
    /// None if there is nothing to catch for.
    #[cold]
    pub fn begin(py: Python<'_>) -> PyResult<Option<Self>> {
        let state = names::state();
        let streams = caught(py)?;
        if streams.iter().all(Option::is_none) {
            PLAIN.store(state, Ordering::Relaxed);
            return Ok(None);
        }
        flush();
        let mut led = led();
        led.calls += 1;
        for ((stream, file), (.., number, name)) in streams.iter().zip(&mut led.files).zip(NAMES) {
            if stream.is_some() && file.is_none() {
                *file = lead(number, name).ok(); // without descriptors it is printed as ever
            }
        }
        Ok(Some(Self(streams)))
    }

    /// Bring what was printed to the streams.
    pub fn end(self, py: Python<'_>) -> PyResult<()> {
        flush();
        let mut texts = [Vec::new(), Vec::new()];
        {
            let mut led = led();
            led.calls -= 1;
            let is_last = led.calls == 0;
            for ((text, file), (.., number, _)) in texts.iter_mut().zip(&mut led.files).zip(NAMES) {
                let Some((from, before, seen)) = file else { continue };
                if is_last {
                    // SAFETY: a plain call.
                    unsafe { libc::dup2(before.as_raw_fd(), number) };
                }
                let size = from.metadata().map_or(*seen, |it| it.len());
                text.resize(usize::try_from(size.saturating_sub(*seen)).unwrap_or(0), 0);
                if from.read_exact_at(text, *seen).is_err() {
                    text.clear();
                }
                *seen = size;
                if is_last {
                    *file = None;
                }
            }
        }
        for (text, stream) in texts.iter().zip(&self.0) {
            if let Some(stream) = stream {
                write(stream.bind(py), text)?;
            }
        }
        Ok(())
    }
}

/// Lead a descriptor to a file in memory.
fn lead(number: c_int, name: &CStr) -> io::Result<(File, OwnedFd, u64)> {
    let checked = |number: c_int| if number < 0 { Err(io::Error::last_os_error()) } else { Ok(number) };
    // SAFETY: plain calls; each new descriptor has one owner.
    unsafe {
        let file = File::from(nif_memory::memfd(name, 0)?);
        checked(libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_APPEND))?;
        let before = OwnedFd::from_raw_fd(checked(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3))?);
        checked(libc::dup2(file.as_raw_fd(), number))?;
        Ok((file, before, 0))
    }
}

/// Write to one of Python's streams. An ordinary exception of it isn't the call's.
fn write(stream: &Bound<'_, PyAny>, text: &[u8]) -> PyResult<()> {
    if text.is_empty() || stream.is_none() {
        return Ok(());
    }
    match stream.call_method1("write", (String::from_utf8_lossy(text),)) {
        Err(error) if error.is_instance_of::<PyException>(stream.py()) => {
            error.write_unraisable(stream.py(), Some(stream));
            Ok(())
        }
        done => done.map(drop),
    }
}

/// Bring what a worker printed to `sys.stdout` and `sys.stderr`.
pub fn show(py: Python<'_>, spoken: &[Vec<u8>; 2]) -> PyResult<()> {
    static SYS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    if spoken.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let sys = SYS.get_or_try_init(py, || py.import("sys").map(Bound::unbind))?.bind(py);
    write(&sys.getattr("stdout")?, &spoken[0])?;
    let stderr = sys.getattr("stderr")?;
    if stderr.is(&sys.getattr("__stderr__")?) {
        // Nobody may be reading there, and errors never make a call wait.
        speaker::say(speaker::Stream::Error, &spoken[1]);
        return Ok(());
    }
    write(&stderr, &spoken[1])
}
