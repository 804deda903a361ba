//! What a child of fork gets: every piece of shared memory as a private copy, and state of its own where it must not use its parent's.
//!
//! A child by fork has its parent's mappings. In a mapping that is shared, what the child writes would be written into its parent's
//! arrays, counters and calls. So in the child each of them becomes private: the kernel copies a page when it is first
//! written to, as for all other memory.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

static FORKS: AtomicU32 = AtomicU32::new(0);

/// The mappings that become private in a child. The lock is a plain flag: a child can open it, whoever held it in the parent.
static SHARED: Registry = Registry { taken: AtomicBool::new(false), all: UnsafeCell::new(Vec::new()) };

struct Registry {
    taken: AtomicBool,
    all: UnsafeCell<Vec<Mapping>>,
}

// SAFETY: the list is only used by who has taken the flag.
unsafe impl Sync for Registry {}

#[derive(Clone, Copy)]
struct Mapping {
    address: usize,
    size: usize,
    file: c_int,
}

impl Registry {
    fn take(&self) {
        while self.taken.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    fn open(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

extern "C" fn before_fork() {
    SHARED.take();
}

extern "C" fn in_parent() {
    SHARED.open();
}

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: `before_fork` took the flag in this thread, the only one that the child has.
    for it in unsafe { &*SHARED.all.get() } {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let address = std::ptr::with_exposed_provenance_mut(it.address);
        // SAFETY: the same file in the same place. Where the system refuses, the pages must not stay shared.
        unsafe {
            if libc::mmap(address, it.size, access, flags, it.file, 0) == libc::MAP_FAILED {
                libc::mmap(address, it.size, libc::PROT_NONE, flags | libc::MAP_ANONYMOUS, -1, 0);
            }
        }
    }
    SHARED.open();
}

fn watch() {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handlers allocate nothing and wait for nobody who could wait for them.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    });
}

/// Let a mapping become private in children.
pub fn enter(address: usize, size: usize, file: c_int) {
    watch();
    SHARED.take();
    // SAFETY: the flag is taken.
    unsafe { (*SHARED.all.get()).push(Mapping { address, size, file }) };
    SHARED.open();
}

/// The mapping goes.
pub fn leave(address: usize) {
    SHARED.take();
    // SAFETY: the flag is taken.
    let all = unsafe { &mut *SHARED.all.get() };
    if let Some(at) = all.iter().position(|it| it.address == address) {
        all.swap_remove(at);
    }
    SHARED.open();
}

/// How many forks lie between this process and the first that asked.
#[must_use]
pub fn generation() -> u32 {
    watch();
    current()
}

/// The same, for whoever has something that asked before.
#[inline]
#[must_use]
pub fn current() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// A value that belongs to one process. In a child of fork, where the parent's may be locked for ever or half-written, and what it
/// owns (descriptors, processes, threads) is the parent's, a new one is made when it is first asked for.
pub struct Own<T> {
    latest: AtomicPtr<Made<T>>,
}

struct Made<T> {
    forks: u32,
    value: T,
}

// SAFETY: it hands out shared references to a `T` that it owns.
unsafe impl<T: Send + Sync> Sync for Own<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Own<T> {}

impl<T> Own<T> {
    #[must_use]
    pub const fn new() -> Self {
        Self { latest: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// What was made last, by this process or by one that it was forked from.
    #[inline]
    fn latest(&self) -> Option<&Made<T>> {
        // SAFETY: null, or a box that lives as long as `self`.
        unsafe { self.latest.load(Ordering::Acquire).as_ref() }
    }

    /// This process's value, if it was made.
    #[inline]
    #[must_use]
    pub fn made(&self) -> Option<&T> {
        self.latest().filter(|it| it.forks == current()).map(|it| &it.value)
    }

    /// This process's value. `make` is given the parent's, if there is one.
    #[inline]
    pub fn get(&self, make: impl FnOnce(Option<&T>) -> T) -> &T {
        match self.latest() {
            Some(made) if made.forks == current() => &made.value,
            parents => self.renew(make(parents.map(|it| &it.value))),
        }
    }

    /// Put a value of this process in place of one that another made, or of none.
    #[cold]
    fn renew(&self, value: T) -> &T {
        let ours = Box::into_raw(Box::new(Made { forks: generation(), value }));
        let mut latest = self.latest.load(Ordering::Acquire);
        loop {
            // SAFETY: as in `latest`.
            if let Some(made) = unsafe { latest.as_ref() }.filter(|it| it.forks == current()) {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(ours) });
                return &made.value;
            }
            // The parent's value stays where it is: somebody may hold a reference.
            match self.latest.compare_exchange(latest, ours, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: it lives as long as `self`.
                Ok(_) => return unsafe { &(*ours).value },
                Err(other) => latest = other,
            }
        }
    }
}

impl<T> Default for Own<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        let latest = *self.latest.get_mut();
        // SAFETY: null, or a box of this value's own. What another process made can't be taken apart here.
        if unsafe { latest.as_ref() }.is_some_and(|it| it.forks == current()) {
            drop(unsafe { Box::from_raw(latest) });
        }
    }
}

/// The same of a value that is made in one way only.
pub struct PerProcess<T> {
    own: Own<T>,
    make: fn() -> T,
}

impl<T> PerProcess<T> {
    pub const fn new(make: fn() -> T) -> Self {
        Self { own: Own::new(), make }
    }

    /// This process's value.
    #[inline]
    pub fn get(&self) -> &T {
        self.own.get(|_| (self.make)())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_and_anew_after_a_fork() {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let it = PerProcess::new(|| MADE.fetch_add(1, Ordering::Relaxed));
        assert_eq!((*it.get(), *it.get()), (0, 0));
        // SAFETY: the child only looks at its value and ends.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(i32::from((*it.get(), *it.get()) != (1, 1)));
            }
            let mut status = 1;
            libc::waitpid(child, &raw mut status, 0);
            status
        };
        assert_eq!((status, *it.get()), (0, 0));
    }

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
        assert_eq!(
            in_child(|| {
                drop(kept.take());
                drops.get().cast_signed()
            }),
            0
        );
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
