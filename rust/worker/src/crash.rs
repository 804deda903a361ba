//! The last words of a worker: which signal ended it, and at which address.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::channel::LastWords;

/// Below this no memory is ever mapped: whoever goes there followed a null pointer.
const NULL_PAGES: u64 = 65_536;

/// The handlers of a runtime, for SIGSEGV and SIGBUS; 0 for none.
static NEXT: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

static WORDS: AtomicPtr<LastWords> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the words live as long as the process; what is called is async-signal-safe.
    unsafe {
        if let Some(words) = WORDS.load(Ordering::Relaxed).as_ref() {
            words.address.store((*info).si_addr().addr() as u64, Ordering::Relaxed);
            words.signal.store(signal.cast_unsigned(), Ordering::Release);
        }
        // The action is the system's again: the instruction fails once more and ends the process. What was sent isn't
        // repeated by itself.
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

fn next(signal: c_int) -> &'static AtomicUsize {
    &NEXT[usize::from(signal == libc::SIGBUS)]
}

/// Through a null pointer: nothing that a runtime could repair, or would have to trace for a tenth of a second.
extern "C" fn on_null(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: as in `on_signal`; the next handler is one that the runtime installed for this signal.
    unsafe {
        if ((*info).si_addr().addr() as u64) < NULL_PAGES && (*info).si_code > 0 {
            libc::signal(signal, libc::SIG_DFL);
            on_signal(signal, info, context);
            return;
        }
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            std::mem::transmute(next(signal).load(Ordering::Relaxed));
        handler(signal, info, context);
    }
}

/// A runtime was started and may have put its handlers in place of ours: null pointers come here first, all else goes there.
pub fn come_first() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: zeroed is a valid value; the call fills it. What isn't ours and takes the information is kept as the next.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            let read = libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0;
            let ours = action.sa_sigaction == on_signal as *const () as usize;
            if read && !ours && action.sa_flags & libc::SA_SIGINFO != 0 {
                next(signal).store(action.sa_sigaction, Ordering::Relaxed);
                action.sa_sigaction = on_null as *const () as usize;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Note down what ends this process. A runtime that is started later may have handlers of its own.
pub fn watch(words: &'static LastWords) {
    WORDS.store(std::ptr::from_ref(words).cast_mut(), Ordering::Relaxed);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT, libc::SIGTRAP] {
        // SAFETY: the handler is async-signal-safe and runs on the stack that std made for overflows.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

/// Leave no core file, and let the system end this process before its host if memory is short.
pub fn be_expendable() {
    // 1 also keeps a core from being piped to a program.
    let none = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: plain calls.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        // A sanitizer's own tables take terabytes of address space.
        #[cfg(not(nif_sanitized))]
        limit_memory();
    }
    let _ = std::fs::write("/proc/self/oom_score_adj", "800");
}

/// No more memory of its own than the machine has.
#[cfg(not(nif_sanitized))]
fn limit_memory() {
    // SAFETY: plain calls.
    unsafe {
        let memory = (libc::sysconf(libc::_SC_PHYS_PAGES) as u64).saturating_mul(nif_memory::page() as u64);
        let most = libc::rlimit { rlim_cur: memory, rlim_max: memory };
        libc::setrlimit(libc::RLIMIT_DATA, &raw const most);
    }
}
