//! A value that belongs to one process: a child by fork gets one of its own.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

struct Entry<T> {
    process: u32,
    value: T,
}

/// A value that is made when it is first asked for, once in each process.
///
/// What a child by fork inherits is left as it is: locks of it may be held by threads that the child doesn't have, and what it
/// owns (descriptors, processes) is the parent's.
pub struct Own<T> {
    entry: AtomicPtr<Entry<T>>,
}

// SAFETY: the value is shared and dropped as a plain `Box<T>` would be.
unsafe impl<T: Send + Sync> Send for Own<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Own<T> {}

impl<T> Own<T> {
    #[must_use]
    pub const fn new() -> Self {
        Self { entry: AtomicPtr::new(null_mut()) }
    }

    /// This process's value. `make` is given the parent's, if there is one.
    #[inline]
    pub fn get(&self, make: impl FnOnce(Option<&T>) -> T) -> &T {
        let entry = self.entry.load(Ordering::Acquire);
        // SAFETY: an entry lives as long as this does: one that was replaced is never freed.
        match unsafe { entry.as_ref() } {
            Some(it) if it.process == nif_memory::forks() => &it.value,
            parents => self.make(entry, make(parents.map(|it| &it.value))),
        }
    }

    /// This process's value, if it was made.
    #[must_use]
    pub fn made(&self) -> Option<&T> {
        // SAFETY: as in `get`.
        let entry = unsafe { self.entry.load(Ordering::Acquire).as_ref() };
        entry.filter(|it| it.process == nif_memory::forks()).map(|it| &it.value)
    }

    #[cold]
    fn make(&self, before: *mut Entry<T>, value: T) -> &T {
        let mine = Box::into_raw(Box::new(Entry { process: nif_memory::forks(), value }));
        let entry = match self.entry.compare_exchange(before, mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => mine,
            Err(other) => {
                // SAFETY: another thread was quicker, so nobody has seen this one.
                drop(unsafe { Box::from_raw(mine) });
                other
            }
        };
        // SAFETY: as in `get`.
        unsafe { &(*entry).value }
    }
}

impl<T> Default for Own<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        let entry = *self.entry.get_mut();
        // SAFETY: nobody borrows from this any more.
        if unsafe { entry.as_ref() }.is_some_and(|it| it.process == nif_memory::forks()) {
            // SAFETY: made by `Box::into_raw`, and freed once.
            drop(unsafe { Box::from_raw(entry) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a child by fork leaves with.
    fn in_child(run: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child makes no call that another thread could have a lock for, and leaves at once.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(run());
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            libc::WEXITSTATUS(status)
        }
    }

    struct Noisy<'a>(&'a std::cell::Cell<u32>);

    impl Drop for Noisy<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn each_process_has_its_own() {
        let own = Own::new();
        assert_eq!(*own.get(|parents| parents.map_or(1, |it| it + 1)), 1);
        assert_eq!(*own.get(|_| 100), 1, "made once");
        let childs = in_child(|| {
            let first = *own.get(|parents| parents.map_or(50, |it| it + 1));
            let again = *own.get(|_| 60);
            if first == again { first } else { 99 }
        });
        assert_eq!(childs, 2, "of the parent's");
        assert_eq!(*own.get(|_| 100), 1, "the parent's stays");
    }

    #[test]
    fn only_the_process_that_made_it_drops_it() {
        let drops = std::cell::Cell::new(0);
        let own = Own::new();
        own.get(|_| Noisy(&drops));
        let (dropped, kept) = (std::cell::Cell::new(false), std::cell::Cell::new(Some(own)));
        assert_eq!(in_child(|| { drop(kept.take()); drops.get() as i32 }), 0);
        dropped.set(true);
        drop(kept.take());
        assert_eq!(drops.get(), 1);
    }

    #[test]
    fn threads_that_ask_at_once_get_the_same() {
        for _ in 0..50 {
            let own = Own::new();
            let all: Vec<usize> = std::thread::scope(|scope| {
                let ask = |i: usize| *own.get(|_| i);
                let asked: Vec<_> = (0..4).map(|i| scope.spawn(move || ask(i))).collect();
                asked.into_iter().map(|it| it.join().unwrap()).collect()
            });
            assert!(all.iter().all(|it| *it == all[0]), "{all:?}");
        }
    }
}
