//! Counters of one function.
//!
//! They are written with the GIL held (after a long call it has been taken again), so plain loads and stores of atomics lose nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub struct Stats {
    calls: AtomicU64,
    errors: AtomicU64,
    total: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
}

impl Default for Stats {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { calls: zero(), errors: zero(), total: zero(), min: AtomicU64::new(u64::MAX), max: zero() }
    }
}

impl Stats {
    /// A call succeeded and took so many ticks.
    #[inline]
    pub fn succeeded(&self, ticks: u64) {
        self.calls.store(self.calls.load(Relaxed) + 1, Relaxed);
        self.total.store(self.total.load(Relaxed) + ticks, Relaxed);
        if ticks < self.min.load(Relaxed) {
            self.min.store(ticks, Relaxed);
        }
        if ticks > self.max.load(Relaxed) {
            self.max.store(ticks, Relaxed);
        }
    }

    /// A call failed or was refused. It counts as a call, and its time counts nowhere.
    #[cold]
    pub fn failed(&self) {
        self.calls.store(self.calls.load(Relaxed) + 1, Relaxed);
        self.errors.store(self.errors.load(Relaxed) + 1, Relaxed);
    }

    /// calls and errors; total, shortest and longest time of the calls that succeeded, in nanoseconds.
    pub fn read(&self) -> (u64, u64, f64, f64, f64) {
        let calls = self.calls.load(Relaxed);
        let ns = crate::clock::ns_per_tick();
        let min = self.min.load(Relaxed);
        let min = if min == u64::MAX { 0 } else { min };
        let time = |ticks: u64| ticks as f64 * ns;
        (calls, self.errors.load(Relaxed), time(self.total.load(Relaxed)), time(min), time(self.max.load(Relaxed)))
    }
}
