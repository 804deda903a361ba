//! Which place of a function's counts is this thread's.
//!
//! A place has one writer at a time, so that plain loads and stores lose nothing: the thread that leases it, until that ends.
//! The last place is for all threads that found no other; they count there by atomic steps. Under the GIL there is one place,
//! and whoever holds the GIL is its writer.
#![allow(clippy::inline_always, reason = "on the path of every call")]

/// More than one thread may count at the same time.
pub const MANY: bool = cfg!(any(Py_GIL_DISABLED, test));

#[cfg(not(any(Py_GIL_DISABLED, test)))]
mod lease {
    #[inline(always)]
    pub fn mine() -> usize {
        0
    }

    pub fn keep_mine() {}
}

#[cfg(any(Py_GIL_DISABLED, test))]
mod lease {
    use std::sync::atomic::{AtomicU32, Ordering};

    use crate::telemetry::layout::SHARDS;

    /// Bit n: place n is leased.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    const LAST: usize = SHARDS - 1;

    struct Lease(usize);

    impl Lease {
        fn take() -> Self {
            let taken = TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
                let free = taken.trailing_ones() as usize;
                (free < LAST).then(|| taken | 1 << free)
            });
            Self(taken.map_or(LAST, |before| before.trailing_ones() as usize))
        }
    }

    impl Drop for Lease {
        fn drop(&mut self) {
            if self.0 != LAST {
                // Whoever leases it next sees what this thread counted.
                TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
            }
        }
    }

    thread_local! {
        static MINE: Lease = Lease::take();
    }

    /// This thread's place; the shared one for a thread that is about to end.
    #[inline]
    pub fn mine() -> usize {
        MINE.try_with(|it| it.0).unwrap_or(LAST)
    }

    /// In a child of fork, whose only thread this is.
    pub fn keep_mine() {
        let mine = mine();
        TAKEN.store(if mine == LAST { 0 } else { 1 << mine }, Ordering::Relaxed);
    }
}

pub use lease::{keep_mine, mine};
