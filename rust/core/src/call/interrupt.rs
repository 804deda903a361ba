//! Ctrl-C during a long call in the main thread.
//!
//! Python only notes a signal and acts on it when native code returns. So for functions that poll their cancel flag, SIGINT also
//! raises that flag while the call runs; then Python's own handler sees it as ever.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

/// The flag of the one call that the main thread can be in.
static CANCEL: AtomicI32 = AtomicI32::new(0);
/// The handler that was there when the watch began, to which ours passes on. It is Python's, or a library's that passes on to
/// Python's: polars and other users of Rust's signal-hook take SIGINT with `SA_SIGINFO` when they are first used.
static BEFORE: Handler = Handler::none();
/// The one that ours had replaced when a library put its own over ours, in a callback of a call: that passes on to ours.
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

/// While it lives, SIGINT raises the cancel flag.
pub struct Guard {
    /// What was there, to be put back; none within another watch of this thread.
    former: Option<libc::sigaction>,
    flag: &'static AtomicI32,
}

/// Installed with `SA_SIGINFO`, so that it can hand all that it is given to a handler of either kind.
extern "C" fn on_interrupt(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    CANCEL.store(1, Ordering::Relaxed);
    match RUNNING.fetch_add(1, Ordering::Relaxed) {
        0 => BEFORE.call(signal, info, context),
        1 => BENEATH.call(signal, info, context), // the one before passed on to ours again
        _ => {}
    }
    RUNNING.fetch_sub(1, Ordering::Relaxed);
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

fn is_main_thread() -> bool {
    // SAFETY: plain calls.
    unsafe { libc::gettid() == libc::getpid() }
}

impl Guard {
    /// Watch for SIGINT if this is the main thread and the process handles the signal (neither the default nor ignored).
    pub fn watch() -> Self {
        let Some(former) = present().filter(|_| is_main_thread()) else { return Self { former: None, flag: &NEVER } };
        if former.sa_sigaction == ours() {
            // A callback of a call that is watched made this one.
            CANCEL.store(0, Ordering::Relaxed);
            return Self { former: None, flag: &CANCEL };
        }
        if former.sa_sigaction == libc::SIG_DFL || former.sa_sigaction == libc::SIG_IGN {
            return Self { former: None, flag: &NEVER };
        }
        CANCEL.store(0, Ordering::Relaxed);
        BEFORE.set(&former);
        let mut action = former;
        action.sa_sigaction = ours();
        action.sa_flags |= libc::SA_SIGINFO;
        // SAFETY: the handler above is async-signal-safe; everything else is as it was.
        unsafe { libc::sigaction(libc::SIGINT, &raw const action, std::ptr::null_mut()) };
        Self { former: Some(former), flag: &CANCEL }
    }

    /// The flag to poll.
    pub fn flag(&self) -> &'static AtomicI32 {
        self.flag
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(former) = &self.former else { return };
        if present().is_some_and(|it| it.sa_sigaction != ours()) {
            // A library took the signal meanwhile, and passes on to ours.
            BENEATH.set(former);
            return;
        }
        // SAFETY: puts back what was there.
        unsafe { libc::sigaction(libc::SIGINT, former, std::ptr::null_mut()) };
    }
}
