//! What attached threads use one at a time.
//!
//! Where there is a GIL it is the turn, and costs nothing. Without one it is a lock, and nothing may hold it that could wait
//! for Python: a thread that waits for a lock stays attached, and the collector stops all that are attached.

#[cfg(not(Py_GIL_DISABLED))]
mod kind {
    use std::cell::UnsafeCell;

    /// A value for the thread whose turn it is.
    #[derive(Default)]
    pub struct Turn<T>(UnsafeCell<T>);

    // SAFETY: `with` is the only way in, and who calls it holds the GIL.
    unsafe impl<T: Send> Sync for Turn<T> {}

    impl<T> Turn<T> {
        /// # Safety
        /// As of the one below.
        #[inline]
        pub unsafe fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
            // SAFETY: the GIL is held, and `body` doesn't come here again.
            body(unsafe { &mut *self.0.get() })
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod kind {
    use std::sync::{Mutex, PoisonError};

    /// A value for the thread whose turn it is. Threads that take different ones share no cache line.
    ///
    /// `os.fork` waits until every other thread has detached itself, so a child finds the lock open.
    #[derive(Default)]
    #[repr(align(64))]
    pub struct Turn<T>(Mutex<T>);

    impl<T> Turn<T> {
        /// # Safety
        /// The thread is attached to Python, or nobody else knows the value. `body` neither calls Python nor takes the turn
        /// again.
        #[inline]
        pub unsafe fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
            body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }
}

pub use kind::Turn;
