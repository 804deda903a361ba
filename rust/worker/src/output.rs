//! What native code prints in a worker: at a call's end it is on its way, and the reply says that there is some.
//!
//! A call that prints nothing pays for two loads. The C library's buffer is looked at, not flushed in vain; and the kernel itself
//! says that something was written: a reader of the two pipes asks for a signal (`O_ASYNC`). Where it can't be asked, the
//! host finds the text a fifth of a second later.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

static HAS_WRITTEN: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    static mut stdout: *mut libc::FILE;
    fn __fpending(stream: *mut libc::FILE) -> usize;
}

extern "C" fn on_written(_signal: c_int) {
    HAS_WRITTEN.store(true, Ordering::Relaxed);
}

/// Have the kernel say when something is written to standard output or standard error.
pub fn watch() {
    // SAFETY: zeroed is a valid value; the handler stores one flag. Calls that a signal interrupts go on.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = on_written as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGIO, &raw const action, std::ptr::null_mut()) != 0 {
            return;
        }
    }
    for path in [c"/proc/self/fd/1", c"/proc/self/fd/2"] {
        // SAFETY: plain calls. The reader stays open: it is what the signals come from.
        unsafe {
            let reader = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC);
            let is_watched = reader >= 0
                && libc::fcntl(reader, libc::F_SETOWN, libc::getpid()) == 0
                && libc::fcntl(reader, libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC) == 0;
            if !is_watched && reader >= 0 {
                libc::close(reader);
            }
        }
    }
}

/// Write out what the C library still holds: whether anything was written since the last time.
#[inline]
pub fn flush() -> bool {
    // SAFETY: the C library's own stream, whose functions take its lock.
    unsafe {
        if __fpending(stdout) != 0 {
            libc::fflush(stdout);
        }
    }
    HAS_WRITTEN.load(Ordering::Relaxed) && HAS_WRITTEN.swap(false, Ordering::Relaxed)
}
