//! Ctrl-C during a long call in the main thread.
//!
//! Python only notes a signal and acts on it when native code returns. So for functions that poll their cancel flag, SIGINT also
//! raises that flag while the call runs; then Python's own handler sees it as ever.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

/// The flag of the one call that the main thread can be in.
static CANCEL: AtomicI32 = AtomicI32::new(0);
/// The handler that was there, an address; 0 when none is chained. It is Python's, or a library's that chains to Python's: polars
/// and other users of Rust's signal-hook take SIGINT with SA_SIGINFO when they are first used.
static CHAINED: AtomicUsize = AtomicUsize::new(0);
/// Whether that handler takes the signal's information too (SA_SIGINFO).
static WITH_INFO: AtomicBool = AtomicBool::new(false);
/// A flag that is never raised.
pub static NEVER: AtomicI32 = AtomicI32::new(0);

/// While it lives, SIGINT raises the cancel flag.
pub struct Guard {
    former: Option<libc::sigaction>,
}

/// Installed with SA_SIGINFO, so that it can hand all that it is given to a handler of either kind.
extern "C" fn on_interrupt(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    CANCEL.store(1, Ordering::Relaxed);
    let chained = CHAINED.load(Ordering::Relaxed);
    if chained == 0 {
        return;
    }
    if WITH_INFO.load(Ordering::Relaxed) {
        // SAFETY: the address of a handler that was installed with SA_SIGINFO.
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = unsafe { std::mem::transmute(chained) };
        handler(signal, info, context);
    } else {
        // SAFETY: the address of a handler that was installed without it; Python's own is async-signal-safe.
        let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(chained) };
        handler(signal);
    }
}

fn is_main_thread() -> bool {
    // SAFETY: plain calls.
    unsafe { libc::gettid() == libc::getpid() }
}

impl Guard {
    /// Watch for SIGINT if this is the main thread and the process handles the signal (neither the default nor ignored).
    pub fn watch() -> Self {
        let mut former = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks for the present action, into room of the right size.
        let found = unsafe { libc::sigaction(libc::SIGINT, std::ptr::null(), former.as_mut_ptr()) } == 0;
        // SAFETY: zeroed is a valid value, and the call filled it.
        let former = unsafe { former.assume_init() };
        let handled = former.sa_sigaction != libc::SIG_DFL && former.sa_sigaction != libc::SIG_IGN;
        if !(found && handled && is_main_thread()) {
            return Self { former: None };
        }
        CANCEL.store(0, Ordering::Relaxed);
        WITH_INFO.store(former.sa_flags & libc::SA_SIGINFO != 0, Ordering::Relaxed);
        CHAINED.store(former.sa_sigaction, Ordering::Relaxed);
        let mut ours = former;
        ours.sa_sigaction = on_interrupt as *const () as usize;
        ours.sa_flags |= libc::SA_SIGINFO;
        // SAFETY: the handler above is async-signal-safe; everything else is as it was.
        unsafe { libc::sigaction(libc::SIGINT, &raw const ours, std::ptr::null_mut()) };
        Self { former: Some(former) }
    }

    /// The flag to poll.
    pub fn flag(&self) -> &'static AtomicI32 {
        if self.former.is_some() { &CANCEL } else { &NEVER }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(former) = &self.former {
            // SAFETY: puts back what was there.
            unsafe { libc::sigaction(libc::SIGINT, former, std::ptr::null_mut()) };
        }
    }
}
