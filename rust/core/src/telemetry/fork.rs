//! A child of fork doesn't write into its parent's segments.
//!
//! The segments are shared memory, so they would be the child's too. Where a fork ends in a child, each is replaced at its
//! address by memory of the child alone, all zeros: telemetry that is switched off. Nothing is asked on a call's way for that;
//! a call that finds telemetry switched off looks whether it should be, and then gives the child a segment of its own.

use std::ffi::c_void;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::python::door;
use crate::telemetry::layout::SEGMENT_BYTES;
use crate::telemetry::shard;

/// A segment's address; 0 when the segment is gone, for the next one to take. Never freed: a fork may look at any time.
struct Entry {
    address: AtomicUsize,
    next: AtomicPtr<Self>,
}

static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(std::ptr::null_mut());

fn entries() -> impl Iterator<Item = &'static Entry> {
    let follow = |it: &AtomicPtr<Entry>| {
        // SAFETY: null or leaked by `Watched::new`.
        unsafe { it.load(Ordering::Acquire).as_ref() }
    };
    std::iter::successors(follow(&ENTRIES), move |it| follow(&it.next))
}

/// While it lives, a child gets zeros in place of the segment.
pub struct Watched(&'static Entry);

impl Watched {
    pub fn new(address: usize) -> Self {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            // SAFETY: the handler makes system calls and looks at atomics.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
        let take =
            |it: &&'static Entry| it.address.compare_exchange(0, address, Ordering::Release, Ordering::Relaxed).is_ok();
        if let Some(entry) = entries().find(take) {
            return Self(entry);
        }
        let entry = Box::leak(Box::new(Entry { address: AtomicUsize::new(address), next: AtomicPtr::default() }));
        let mut first = ENTRIES.load(Ordering::Relaxed);
        loop {
            entry.next.store(first, Ordering::Relaxed);
            match ENTRIES.compare_exchange_weak(first, entry, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Self(entry),
                Err(now) => first = now,
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.address.store(0, Ordering::Release);
    }
}

extern "C" fn in_child() {
    door::guard((), || {
        shard::keep_mine();
        for address in entries().map(|it| it.address.load(Ordering::Relaxed)).filter(|it| *it != 0) {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: the segment's own pages, which no other thread of the child uses, as there is none.
            unsafe { libc::mmap(address as *mut c_void, SEGMENT_BYTES, access, kind, -1, 0) };
        }
    });
}
