//! One function's counters: what every call passes.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use nif_loader::clock;

use crate::telemetry::layout::{BUCKETS, Counts, SHARDS};
use crate::telemetry::segment::{Key, Segment};
use crate::telemetry::shard::{self, MANY};

/// A call quicker than the first is timed once in the second: two looks at the clock and their records cost some 70 ns, which on
/// the whole stays below a hundredth of what is measured, and near a nanosecond for the quickest.
const PACES: [(f64, u64); 3] = [(200.0, 64), (5_000.0, 16), (25_000.0, 4)];
/// Calls that are all timed, until it is known how quick a function is.
const FIRST_TIMED: u64 = 16;

/// The lane of calls in this process, as telemetry numbers it.
pub const DIRECT: u16 = 0;
/// That of calls in a worker.
pub const ISOLATED: u16 = 1;

/// One function's place in the segment.
pub struct Slot {
    segment: Arc<Segment>,
    /// The function's counts in the first place; those in the others follow at equal steps.
    first: *const Counts,
    number: u16,
    backend: u16,
    lane: u16,
    /// `PACES` in ticks.
    paces: [(u64, u64); PACES.len()],
}

// SAFETY: `first` leads into the segment, which is kept; there are only atomics.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Drop for Slot {
    fn drop(&mut self) {
        self.segment.leave(self.number);
    }
}

/// Where a running call says how far it is.
pub struct Teller {
    segment: Arc<Segment>,
    number: u16,
}

impl Teller {
    /// So many of so many steps are done; 0 of 0 when the call is over.
    pub fn tell(&self, done: i64, total: i64) {
        if self.segment.is_enabled() {
            let it = self.segment.function(usize::from(self.number));
            it.done.store(done.max(0).cast_unsigned(), Ordering::Relaxed);
            it.steps.store(total.max(0).cast_unsigned(), Ordering::Relaxed);
        }
    }
}

/// A step of a recovery, as `nif_lab.recovery` numbers them; all zeros for a call that failed.
#[derive(Clone, Copy, Default)]
pub struct Step {
    pub kind: u8,
    pub outcome: u8,
    pub code: i16,
    pub duration_ns: f64,
}

/// This thread's counts of a function.
#[derive(Clone, Copy)]
pub struct Mine<'a> {
    counts: &'a Counts,
    /// Other threads write here too.
    is_shared: bool,
}

impl Mine<'_> {
    /// Is the next call neither timed nor anything else out of the ordinary? It then counts by `count` alone.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        self.counts.calls.load(Ordering::Relaxed) < self.counts.due.load(Ordering::Relaxed)
    }

    /// Is each call timed, as of functions that are slow or new?
    #[inline]
    pub fn is_always_timed(self) -> bool {
        self.counts.mask.load(Ordering::Relaxed) == 0
    }

    /// One more call.
    #[inline(always)]
    pub fn count(self) {
        self.add(&self.counts.calls, 1);
    }

    /// A counter that is full stays full; that of calls never is.
    #[inline(always)]
    fn add(self, counter: &AtomicU64, more: u64) {
        if MANY && self.is_shared {
            counter.fetch_add(more, Ordering::Relaxed);
        } else {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        }
    }

    fn add_up(self, counter: &AtomicU64, more: u64) {
        if MANY && self.is_shared {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| Some(it.saturating_add(more)));
        } else {
            counter.store(counter.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
        }
    }
}

/// Which bucket of the histogram: the octave and the three bits after the first.
#[inline]
pub fn bucket(ticks: u64) -> usize {
    if ticks < 8 {
        return ticks as usize;
    }
    let octave = ticks.ilog2() as usize;
    let part = (ticks >> (octave - 3)) as usize & 7;
    ((octave - 2) * 8 + part).min(BUCKETS - 1)
}

impl Slot {
    /// Enter a function of a backend.
    pub fn new(segment: &Arc<Segment>, backend: u16, lane: u16, name: &str, flags: u32) -> Result<Self, String> {
        let number = segment.enter(Key { backend, lane, name: name.into() }, flags)?;
        let ns = clock::ns_per_tick();
        Ok(Self {
            first: std::ptr::from_ref(segment.counts(0, usize::from(number))),
            segment: Arc::clone(segment),
            number,
            backend,
            lane,
            paces: PACES.map(|(below, one_in)| ((below / ns) as u64, one_in - 1)),
        })
    }

    /// This thread's counts.
    #[inline(always)]
    pub fn mine(&self) -> Mine<'_> {
        let shard = shard::mine();
        // SAFETY: the segment has so many places, and is kept.
        let counts = unsafe { &*self.first.add(shard * crate::telemetry::layout::MAX_FUNCTIONS) };
        Mine { counts, is_shared: shard == SHARDS - 1 }
    }

    /// Counting is on; in a child of fork, it then has a segment of its own.
    #[inline]
    fn is_counting(&self) -> bool {
        self.segment.is_enabled() || self.segment.wakes()
    }

    /// Is the call that comes to be timed?
    #[inline]
    pub fn is_next_timed(&self) -> bool {
        !self.mine().is_plain() && self.is_counting()
    }

    /// A call succeeded; `time` says when it began and how many ticks it took, if it was timed.
    #[inline]
    pub fn succeed(&self, time: Option<(u64, u64)>) {
        if !self.segment.is_enabled() {
            return;
        }
        match time {
            Some((start, ticks)) => self.take_time(start, ticks),
            None => self.mine().count(),
        }
    }

    /// A call that was timed, if its time can be true.
    #[inline]
    fn take_time(&self, start: u64, ticks: u64) {
        if let Some((start, ticks)) = self.believe(start, ticks) {
            self.time(start, ticks);
        } else {
            self.show_shard();
            self.mine().count();
        }
    }

    /// What a worker says of time is another process's word: a time that is longer than the segment is old isn't counted.
    #[inline]
    fn believe(&self, start: u64, ticks: u64) -> Option<(u64, u64)> {
        if self.lane == DIRECT {
            return Some((start, ticks));
        }
        let now = clock::now();
        let base = self.segment.header().base_ticks.load(Ordering::Relaxed);
        let age = now.wrapping_sub(base);
        let latest = age.checked_sub(ticks)?;
        // Its clock may have another beginning.
        Some(if start.wrapping_sub(base) <= latest { (start, ticks) } else { (now.wrapping_sub(ticks), ticks) })
    }

    #[inline]
    fn time(&self, start: u64, ticks: u64) {
        let weight = self.mine().counts.mask.load(Ordering::Relaxed).wrapping_add(1);
        self.observe(ticks);
        self.log(start, ticks, 0, weight);
    }

    /// Where a running call says how far it is.
    pub fn teller(&self) -> Teller {
        Teller { segment: Arc::clone(&self.segment), number: self.number }
    }

    /// A call that somebody else timed. The rings hold it as often as those that are timed here.
    #[inline]
    pub fn note(&self, ticks: u64) {
        if !self.is_counting() {
            return;
        }
        if self.mine().is_plain() {
            let due = self.mine().counts.due.load(Ordering::Relaxed);
            self.observe(ticks);
            self.mine().counts.due.store(due, Ordering::Relaxed);
        } else {
            self.time(clock::now().wrapping_sub(ticks), ticks);
        }
    }

    #[inline]
    fn observe(&self, ticks: u64) {
        let mine = self.mine();
        let it = mine.counts;
        if MANY {
            self.show_shard();
        }
        mine.count();
        let before = it.timed.load(Ordering::Relaxed);
        mine.add(&it.timed, 1);
        mine.add_up(&it.total, ticks);
        mine.add(&it.histogram[bucket(ticks)], 1);
        if MANY && mine.is_shared {
            it.max.fetch_max(ticks, Ordering::Relaxed);
            // Zero until the first: no call takes no tick at all.
            let _ = it.min.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |min| {
                (min == 0 || ticks < min).then_some(ticks.max(1))
            });
        } else {
            if before == 0 || ticks < it.min.load(Ordering::Relaxed) {
                it.min.store(ticks.max(1), Ordering::Relaxed);
            }
            if ticks > it.max.load(Ordering::Relaxed) {
                it.max.store(ticks, Ordering::Relaxed);
            }
        }
        // What is typical follows quickly, so that a function that turns slow is soon timed each time again.
        let typical = match it.typical.load(Ordering::Relaxed) {
            0 => ticks,
            typical => typical.saturating_mul(3).saturating_add(ticks) / 4,
        };
        it.typical.store(typical, Ordering::Relaxed);
        let pace = self.paces.iter().find(|(below, _)| typical < *below);
        let mask = pace.filter(|_| before >= FIRST_TIMED - 1).map_or(0, |(_, mask)| *mask);
        it.mask.store(mask, Ordering::Relaxed);
        it.due.store(it.calls.load(Ordering::Relaxed).saturating_add(mask), Ordering::Relaxed);
        if MANY {
            // Against a switch that is turned off meanwhile: one of the two sees the other.
            fence(Ordering::SeqCst);
            if !self.segment.is_enabled() {
                it.due.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Let readers look at this thread's place.
    fn show_shard(&self) {
        let (mine, shown) = (shard::mine() as u32 + 1, &self.segment.header().n_shards);
        if shown.load(Ordering::Relaxed) < mine {
            shown.fetch_max(mine, Ordering::Relaxed);
        }
    }

    /// A call that failed at first was answered after all; it has been counted where it was answered.
    #[cold]
    pub fn recover(&self, elsewhere: bool) {
        if self.is_counting() {
            let mine = self.mine();
            self.show_shard();
            mine.add(&mine.counts.recovered, 1);
            mine.add(&mine.counts.calls, u64::from(elsewhere));
        }
    }

    /// A call failed or was refused; it counts as a call, and its time counts nowhere.
    #[cold]
    pub fn fail(&self, kind: i32, argument: i32, reason: &str) {
        if !self.is_counting() {
            return;
        }
        let mine = self.mine();
        self.show_shard();
        mine.count();
        mine.add(&mine.counts.errors, 1);
        let now = clock::now();
        self.log(now, 0, kind as u64 & 0xFF, 1);
        self.publish(now, Step::default(), kind, argument, reason);
    }

    /// A step of a recovery; no call is counted.
    #[cold]
    pub fn note_step(&self, step: Step, kind: i32, text: &str) {
        if self.is_counting() {
            self.publish(clock::now(), step, kind, -1, text);
        }
    }

    /// Write a record of the errors' ring.
    fn publish(&self, now: u64, step: Step, kind: i32, argument: i32, text: &str) {
        let what = u64::from(self.number) | (kind as u64 & 0xFFFF) << 16 | (argument as u64 & 0xFFFF_FFFF) << 32;
        let taken = u64::from(step.kind) << 32 | u64::from(step.outcome) << 40 | (step.code as u64 & 0xFFFF) << 48;
        let fill = |it: &crate::telemetry::layout::Error| {
            it.time.store(now, Ordering::Relaxed);
            it.what.store(what, Ordering::Relaxed);
            it.cell_and_step.store(u64::from(self.segment.cell()) | taken, Ordering::Relaxed);
            it.duration_ns.store(step.duration_ns.to_bits(), Ordering::Relaxed);
            Segment::write(&it.text, text);
        };
        self.segment.errors().write::<MANY>(fill);
    }

    /// The last calls, of this backend and of all.
    #[inline]
    fn log(&self, start: u64, ticks: u64, status: u64, weight: u64) {
        let cell = u64::from(self.segment.cell());
        let words = [start, ticks, u64::from(self.number) | status << 16 | weight << 24 | cell << 32];
        self.segment.calls(self.backend).write::<MANY>(|it| it.fill(words));
        if status == 0 {
            self.segment.times().write::<MANY>(|it| it.fill(words));
        }
    }
}
