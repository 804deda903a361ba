//! Ctrl-C during a call in the main thread.
//!
//! Python only notes a signal and acts on it when native code returns. So this core's handler comes before Python's and does
//! three things: it raises the cancel flag, for functions that poll it; it lets go of the GIL if the call keeps it, so that the
//! process's other threads go on; and it has a thread say, if the call isn't over soon, that it can't be ended, and what helps.
//! Then Python's own handler sees the signal as ever.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, compiler_fence};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::nif::Nif;
use crate::telemetry::shard::MANY;

/// The flag of the one call that the main thread can be in.
static CANCEL: AtomicI32 = AtomicI32::new(0);
/// The handler that was there before ours, to which ours passes on. It is Python's, or a library's that passes on to
/// Python's: polars and other users of Rust's signal-hook take SIGINT with `SA_SIGINFO` when they are first used.
static BEFORE: Handler = Handler::none();
/// The one that ours had replaced when a library put its own over ours: that passes on to ours.
static BENEATH: Handler = Handler::none();
/// How often ours runs now, one within the other.
static RUNNING: AtomicUsize = AtomicUsize::new(0);
/// A flag that is never raised.
pub static NEVER: AtomicI32 = AtomicI32::new(0);

/// A signal's handler.
struct Handler {
    /// 0 for none.
    address: AtomicUsize,
    /// Whether it takes the signal's information too (`SA_SIGINFO`).
    with_info: AtomicBool,
}

impl Handler {
    const fn none() -> Self {
        Self { address: AtomicUsize::new(0), with_info: AtomicBool::new(false) }
    }

    fn set(&self, action: &libc::sigaction) {
        self.with_info.store(action.sa_flags & libc::SA_SIGINFO != 0, Ordering::Relaxed);
        self.address.store(action.sa_sigaction, Ordering::Relaxed);
    }

    fn copy(&self, from: &Self) {
        self.with_info.store(from.with_info.load(Ordering::Relaxed), Ordering::Relaxed);
        self.address.store(from.address.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn call(&self, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let address = self.address.load(Ordering::Relaxed);
        if address == 0 {
            return;
        }
        if self.with_info.load(Ordering::Relaxed) {
            // SAFETY: the address of a handler that was installed with SA_SIGINFO.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(address) };
            handler(signal, info, context);
        } else {
            // SAFETY: the address of a handler that was installed without it; Python's own is async-signal-safe.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(address) };
            handler(signal);
        }
    }
}

/// How long a call may go on after an interrupt before it is told of.
const PATIENCE: Duration = Duration::from_millis(400);

/// The main thread's call that keeps the GIL. Another thread's may stand here while that one holds the GIL; only the main one looks.
static KEEPS: AtomicPtr<Running> = AtomicPtr::new(std::ptr::null_mut());
/// The main thread's call that has released it.
static RELEASED: AtomicPtr<Running> = AtomicPtr::new(std::ptr::null_mut());
/// The main thread's call of which the handler has taken the GIL.
static TAKEN: AtomicPtr<Running> = AtomicPtr::new(std::ptr::null_mut());

/// A call while it runs, as an interrupt finds it.
struct Running {
    nif: *const Nif,
    /// Python's state of the thread, if the handler has released the GIL.
    state: AtomicPtr<ffi::PyThreadState>,
    /// Which notice is of this call; 0 if there is none.
    notice: AtomicU32,
}

impl Running {
    fn of(nif: &Nif) -> Self {
        Self { nif, state: AtomicPtr::new(std::ptr::null_mut()), notice: AtomicU32::new(0) }
    }

    /// The handler releases the GIL. The call goes on as one that was made without it.
    ///
    /// # Safety
    /// This thread holds the GIL and is in native code, outside of Python.
    unsafe fn let_go(&self) {
        // SAFETY: the call keeps its function alive. A reload of its library waits for it from now on.
        unsafe { &*self.nif }.origin.calls.hand_over();
        TAKEN.store(std::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        // SAFETY: the caller's promise. The lock within isn't taken: only Python's code takes it on this thread.
        self.state.store(unsafe { ffi::PyEval_SaveThread() }, Ordering::Relaxed);
    }

    /// Have the GIL again, if the handler has released it.
    fn take_back(&self) {
        let state = self.state.swap(std::ptr::null_mut(), Ordering::Relaxed);
        if !state.is_null() {
            TAKEN.store(std::ptr::null_mut(), Ordering::Relaxed);
            // SAFETY: the state of this thread, which `let_go` has saved; the call keeps its function alive.
            let nif = unsafe {
                ffi::PyEval_RestoreThread(state);
                &*self.nif
            };
            nif.origin.calls.come_back();
        }
    }

    /// The call is over: nothing is to be said of it any more.
    fn end(&self) {
        let notice = self.notice.load(Ordering::Relaxed);
        if notice != 0 {
            OVER.store(notice, Ordering::Relaxed);
        }
    }
}

/// Make a call that keeps the GIL, unless an interrupt comes. A function whose calls aren't all timed is quick, and not worth it.
#[inline(never)]
pub fn keeping<R>(nif: &Nif, call: impl FnOnce() -> R) -> R {
    if !nif.slot.mine().is_always_timed() {
        return call();
    }
    if MANY {
        return released(nif, |_| call()); // without a GIL many calls keep it, of which the main thread's is told of
    }
    ensure();
    let running = Running::of(nif);
    KEEPS.store((&raw const running).cast_mut(), Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let result = call();
    compiler_fence(Ordering::SeqCst);
    KEEPS.store(std::ptr::null_mut(), Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    running.take_back();
    running.end();
    result
}

/// Make a call that releases the GIL: with a flag that an interrupt raises.
pub fn released<R>(nif: &Nif, call: impl FnOnce(&'static AtomicI32) -> R) -> R {
    if !is_main_thread() || !ensure() {
        return call(&NEVER);
    }
    CANCEL.store(0, Ordering::Relaxed);
    let running = Running::of(nif);
    let outer = RELEASED.swap((&raw const running).cast_mut(), Ordering::Relaxed);
    let result = call(&CANCEL);
    RELEASED.store(outer, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    running.end();
    result
}

/// Call Python from within a call that keeps the GIL.
///
/// # Safety
/// This thread made the call.
pub unsafe fn in_python<R>(callback: impl FnOnce() -> R) -> R {
    let outer = KEEPS.swap(std::ptr::null_mut(), Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let taken = TAKEN.load(Ordering::Relaxed);
    if taken.is_null() || !is_main_thread() {
        let result = callback();
        KEEPS.store(outer, Ordering::Relaxed);
        return result;
    }
    // SAFETY: the main thread's innermost call, which runs. It has the GIL until it returns.
    unsafe { (*taken).take_back() };
    callback()
}

/// Another thread has had the signal, and the main one gets it from there to look what it is in.
static IS_PASSED_ON: AtomicBool = AtomicBool::new(false);

/// Installed with `SA_SIGINFO`, so that it can hand all that it is given to a handler of either kind.
extern "C" fn on_interrupt(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: a plain address; the system's calls below may set it.
    let errno = unsafe { *libc::__errno_location() };
    let is_main = is_main_thread();
    if is_main && IS_PASSED_ON.swap(false, Ordering::Relaxed) {
        look();
    } else {
        CANCEL.store(1, Ordering::Relaxed);
        match RUNNING.fetch_add(1, Ordering::Relaxed) {
            0 => BEFORE.call(signal, info, context),
            1 => BENEATH.call(signal, info, context), // the one before passed on to ours again
            _ => {}
        }
        if RUNNING.fetch_sub(1, Ordering::Relaxed) == 1 {
            if is_main {
                look();
            } else if present().is_some_and(|it| it.sa_sigaction == ours()) {
                // The system gives a process's signal to any of its threads.
                IS_PASSED_ON.store(true, Ordering::Relaxed);
                // SAFETY: a plain call.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::getpid(), signal) };
            }
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Look which call this thread, the main one, is in. Async-signal-safe where it finds one: that is in native code, outside of Python.
fn look() {
    // SAFETY: a plain look at the thread's state.
    let has_gil = !MANY && unsafe { ffi::PyGILState_Check() } == 1;
    let place = if has_gil { &KEEPS } else { &RELEASED };
    // SAFETY: a call takes itself out of its place before it ends, on this thread.
    let Some(running) = (unsafe { place.load(Ordering::Relaxed).as_ref() }) else { return };
    if has_gil {
        place.store(std::ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: as above; a call that is in Python isn't in that place.
        unsafe { running.let_go() };
    }
    if running.notice.load(Ordering::Relaxed) == 0 {
        // SAFETY: the call keeps its function alive.
        running.notice.store(NOTICE.write(unsafe { &*running.nif }), Ordering::Relaxed);
    }
}

/// What the handler tells its thread.
struct Notice {
    /// Counts the notices; a futex.
    number: AtomicU32,
    polls: AtomicBool,
    length: AtomicUsize,
    name: [AtomicU8; 120],
}

static NOTICE: Notice = Notice {
    number: AtomicU32::new(0),
    polls: AtomicBool::new(false),
    length: AtomicUsize::new(0),
    name: [const { AtomicU8::new(0) }; 120],
};
/// The last notice whose call is over.
static OVER: AtomicU32 = AtomicU32::new(0);

impl Notice {
    fn write(&self, nif: &Nif) -> u32 {
        let name = nif.place.as_bytes();
        for (to, from) in self.name.iter().zip(name) {
            to.store(*from, Ordering::Relaxed);
        }
        self.length.store(name.len().min(self.name.len()), Ordering::Relaxed);
        self.polls.store(nif.polls_cancel(), Ordering::Relaxed);
        let number = self.number.fetch_add(1, Ordering::Release).wrapping_add(1);
        // SAFETY: the address of a number that is never gone.
        unsafe { libc::syscall(libc::SYS_futex, self.number.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
        number
    }

    /// Wait for another notice than that one.
    fn after(&self, seen: u32) -> u32 {
        loop {
            let number = self.number.load(Ordering::Acquire);
            if number != seen {
                return number;
            }
            let (wait, forever) = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, std::ptr::null::<libc::timespec>());
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_futex, self.number.as_ptr(), wait, seen, forever) };
        }
    }

    fn text(&self) -> String {
        let length = self.length.load(Ordering::Relaxed);
        let name: Vec<u8> = self.name.iter().take(length).map(|it| it.load(Ordering::Relaxed)).collect();
        let name = String::from_utf8_lossy(&name);
        if self.polls.load(Ordering::Relaxed) {
            return format!("{name} was told to stop and hasn't yet. It stops when it next polls its cancel flag.");
        }
        format!(
            "{name} can't be interrupted: it runs in Python's own process and doesn't poll its cancel flag. KeyboardInterrupt \
             follows when it returns.\n{REMEDY}"
        )
    }
}

/// How a call can be interrupted.
const REMEDY: &str = "To fix: call it in a worker process, which Ctrl-C ends: lab.isolated, or lane=\"isolated\"; or have it poll \
                      its cancel flag (docs/lanes.md, Ctrl-C).\nTo end it now, restart the kernel or end the process.";

/// A call goes on although its caller has stopped waiting for it: it runs on the thread of its runtime.
pub fn left_behind(py: Python<'_>, nif: &Nif) {
    let backend = &nif.origin.backend;
    say(
        py,
        &format!(
            "{} goes on: it doesn't poll its cancel flag. The next call of {backend} in this process waits until it \
             returns.\n{REMEDY}",
            nif.place
        ),
    );
}

/// Say it where Python's errors are seen: in a notebook's cell, or a terminal.
fn say(py: Python<'_>, text: &str) {
    let told = py.import("sys").and_then(|sys| sys.getattr("stderr")).and_then(|stderr| {
        if !stderr.is_none() {
            stderr.call_method1("write", (format!("\nnif_lab: {text}\n"),))?;
            stderr.call_method0("flush")?;
        }
        Ok(())
    });
    told.unwrap_or_else(|error| error.write_unraisable(py, None));
}

/// The thread that says what the handler has noted.
fn tell(mut seen: u32) {
    loop {
        seen = NOTICE.after(seen);
        std::thread::sleep(PATIENCE);
        let text = NOTICE.text();
        let is_newest = NOTICE.number.load(Ordering::Acquire) == seen;
        let is_over = OVER.load(Ordering::Relaxed) == seen;
        if is_newest && !is_over && Python::try_attach(|py| say(py, &text)).is_none() {
            return; // Python is ending
        }
    }
}

fn ours() -> usize {
    on_interrupt as *const () as usize
}

/// The action that SIGINT has now.
fn present() -> Option<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action, into room of the right size; zeroed is a valid value.
    unsafe {
        let found = libc::sigaction(libc::SIGINT, std::ptr::null(), action.as_mut_ptr()) == 0;
        found.then(|| action.assume_init())
    }
}

/// Is this the thread that Python's signal handlers run on?
pub fn is_main_thread() -> bool {
    // SAFETY: plain calls; one by its number, as C libraries before 2.30 have no name for it.
    unsafe { libc::syscall(libc::SYS_gettid) == libc::c_long::from(libc::getpid()) }
}

/// Have this core's handler in place, if the process handles the signal (neither the default nor ignored). Python and others
/// put theirs in its place whenever they like, so that it is looked after with each call that may last.
fn ensure() -> bool {
    static TURN: Mutex<Option<u32>> = Mutex::new(None);
    static THREAD_OF: AtomicU32 = AtomicU32::new(u32::MAX);
    let Some(found) = present() else { return false };
    if found.sa_sigaction == libc::SIG_DFL || found.sa_sigaction == libc::SIG_IGN {
        return false;
    }
    let forks = nif_memory::forks();
    let is_ours = found.sa_sigaction == ours();
    if is_ours && THREAD_OF.load(Ordering::Relaxed) == forks {
        return true;
    }
    let Ok(mut process) = TURN.try_lock() else { return is_ours };
    if *process != Some(forks) {
        *process = Some(forks); // a child of fork doesn't have the thread
        THREAD_OF.store(forks, Ordering::Relaxed);
        let seen = NOTICE.number.load(Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("nif_lab Ctrl-C".into());
        drop(thread.spawn(move || tell(seen))); // without one nothing is said
    }
    if !is_ours {
        // A library that has put its own over ours passes on to ours, which passes on to what was there before.
        BENEATH.copy(&BEFORE);
        BEFORE.set(&found);
        let mut action = found;
        action.sa_sigaction = ours();
        action.sa_flags |= libc::SA_SIGINFO;
        // SAFETY: the handler above is async-signal-safe; everything else is as it was.
        unsafe { libc::sigaction(libc::SIGINT, &raw const action, std::ptr::null_mut()) };
    }
    true
}
