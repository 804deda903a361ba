//! What every call leaves behind: counters, latency histograms and rings of records, in shared memory.
//!
//! docs/telemetry.md is the layout; `nif_lab.segment` reads it, here and in other processes. Everything is written with the
//! GIL held (after a long call it has been taken again), so there is one writer: plain loads and stores lose nothing, and a
//! commit word in front of each record is enough for readers elsewhere to see whether a record is whole.

pub mod layout;
pub mod recorder;
pub mod ring;
pub mod sampler;

use std::ffi::c_int;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nif_memory::SharedMap;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::telemetry::layout::{
    BACKEND_BYTES, BACKENDS_AT, BUCKETS, CALLS, CALLS_AT, CELL_BYTE, ENABLED_BYTE, ERROR_BYTES, ERRORS, ERRORS_AT,
    ERRORS_HEAD, FUNCTION_BYTES, FUNCTIONS_AT, HEADER_BYTES, MAX_BACKENDS, MAX_FUNCTIONS, N_BACKENDS_BYTE,
    N_FUNCTIONS_BYTE, NS_PER_TICK, RECORD_BYTES, SAMPLES_AT, SEGMENT_BYTES, TIMES, TIMES_AT, TIMES_HEAD, VERSION,
};
use crate::telemetry::ring::{Ring, lasting, place, ring};
use crate::telemetry::sampler::Sampler;
use nif_loader::clock;

/// A call quicker than the first is timed once in the second: two looks at the clock and their records cost some 70 ns, which on
/// the whole stays below a hundredth of what is measured, and near a nanosecond for the quickest.
const PACES: [(f64, u32); 3] = [(200.0, 64), (5_000.0, 16), (25_000.0, 4)];
/// Calls that are all timed, until it is known how quick a function is.
const FIRST_TIMED: u64 = 16;

/// One Lab's telemetry segment.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Telemetry {
    map: Arc<SharedMap>,
    sampler: Arc<Sampler>,
    paces: Paces,
    /// Of the backends, by number.
    names: Mutex<Vec<String>>,
}

/// `PACES` in ticks, and as masks.
type Paces = [(u64, u32); PACES.len()];

/// One function's place in the segment.
pub struct Slot {
    telemetry: Py<Telemetry>,
    // Into the segment, which `telemetry` keeps alive.
    counters: &'static Counters,
    enabled: &'static AtomicU32,
    cell: &'static AtomicU32,
    calls: Ring<CALLS>,
    times: Ring<TIMES>,
    number: u16,
    paces: Paces,
    /// Calls between two that are timed, less one; a mask.
    mask: AtomicU32,
    typical: AtomicU64,
}

/// A function's counters as they lie in the segment.
#[repr(C)]
struct Counters {
    name: [u8; 64],
    backend: u16,
    lane: u16,
    flags: u32,
    calls: AtomicU64,
    errors: AtomicU64,
    recovered: AtomicU64,
    timed: AtomicU64,
    total: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
    histogram: [AtomicU64; BUCKETS],
}

const _: () = assert!(size_of::<Counters>() == FUNCTION_BYTES && std::mem::offset_of!(Counters, histogram) == 128);

/// A counter that is full stays full.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
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

impl Telemetry {
    pub fn create() -> io::Result<Self> {
        let map = SharedMap::new(c"nif_lab telemetry", SEGMENT_BYTES)?;
        let ns = clock::ns_per_tick();
        let map = Arc::new(map);
        let sampler = Arc::new(Sampler::new(&map));
        let it = Self {
            map,
            sampler,
            paces: PACES.map(|(below, one_in)| ((below / ns) as u64, one_in - 1)),
            names: Mutex::default(),
        };
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        it.word(2).store(SEGMENT_BYTES as u64, Ordering::Relaxed);
        it.half(24).store(std::process::id(), Ordering::Relaxed);
        it.half(28).store(u32::from(clock::is_counter()), Ordering::Relaxed);
        it.word(4).store(clock::now(), Ordering::Relaxed);
        it.word(5).store(epoch, Ordering::Relaxed);
        it.word(NS_PER_TICK).store(ns.to_bits(), Ordering::Relaxed);
        it.half(ENABLED_BYTE).store(1, Ordering::Relaxed);
        for (i, number) in [MAX_BACKENDS, MAX_FUNCTIONS].into_iter().enumerate() {
            it.half(72 + 4 * i).store(number as u32, Ordering::Relaxed);
        }
        let places = [BACKENDS_AT, FUNCTIONS_AT, CALLS_AT, TIMES_AT, SAMPLES_AT, ERRORS_AT];
        for (i, place) in places.into_iter().enumerate() {
            it.word(10 + i).store(place as u64, Ordering::Relaxed);
        }
        it.half(8).store(VERSION, Ordering::Relaxed);
        it.half(12).store(HEADER_BYTES as u32, Ordering::Relaxed);
        // The magic comes last: a reader that sees it sees the rest.
        it.word(0).store(u64::from_le_bytes(*b"NIFLABTM"), Ordering::Release);
        Ok(it)
    }

    fn place<T>(&self, offset: usize) -> &T {
        place(&self.map, offset)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.place(index * 8)
    }

    fn half(&self, offset: usize) -> &AtomicU32 {
        self.place(offset)
    }

    #[inline]
    fn is_enabled(&self) -> bool {
        self.half(ENABLED_BYTE).load(Ordering::Relaxed) != 0
    }

    fn cell(&self) -> u32 {
        self.half(CELL_BYTE).load(Ordering::Relaxed)
    }

    /// Write bytes into a field that no reader looks at yet.
    fn write(&self, offset: usize, room: usize, text: &[u8]) {
        let mut length = text.len().min(room);
        // Cut between characters, not inside one.
        while length < text.len() && length > 0 && text[length] & 0xC0 == 0x80 {
            length -= 1;
        }
        // SAFETY: `room` bytes at `offset` belong to the field (all callers name fields of the layout).
        unsafe {
            let field = self.map.address().as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(text.as_ptr(), field, length);
            std::ptr::write_bytes(field.add(length), 0, room - length);
        }
    }

    /// Enter a backend, unless it is there; its number.
    pub fn add_backend(&self, name: &str) -> Result<u16, String> {
        let count = self.half(N_BACKENDS_BYTE);
        let number = count.load(Ordering::Relaxed);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.iter().position(|it| it == name) {
            return Ok(known as u16);
        }
        if number as usize == MAX_BACKENDS {
            return Err(format!("a Lab has room for {MAX_BACKENDS} backends"));
        }
        self.write(BACKENDS_AT + number as usize * BACKEND_BYTES, 32, name.as_bytes());
        count.store(number + 1, Ordering::Release);
        names.push(name.into());
        Ok(number as u16)
    }

    /// What writes the samples of memory, from any thread.
    pub fn sampler(&self) -> Arc<Sampler> {
        Arc::clone(&self.sampler)
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

impl Slot {
    /// Enter a function of a backend.
    pub fn new(
        py: Python<'_>,
        telemetry: &Py<Telemetry>,
        backend: u16,
        lane: u16,
        name: &str,
        flags: u32,
    ) -> Result<Self, String> {
        let segment = telemetry.get();
        let count = segment.half(N_FUNCTIONS_BYTE);
        let number = count.load(Ordering::Relaxed);
        if number as usize == MAX_FUNCTIONS {
            return Err(format!("a Lab has room for {MAX_FUNCTIONS} functions"));
        }
        let at = FUNCTIONS_AT + number as usize * FUNCTION_BYTES;
        segment.write(at, 64, name.as_bytes());
        let descriptor = u64::from(backend) | u64::from(lane) << 16 | u64::from(flags) << 32;
        segment.word(at / 8 + 8).store(descriptor, Ordering::Relaxed);
        let backend = usize::from(backend);
        let map = &segment.map;
        // SAFETY: the slot keeps `telemetry`, and so the segment.
        let it = unsafe {
            Self {
                telemetry: telemetry.clone_ref(py),
                counters: lasting(map, at),
                enabled: lasting(map, ENABLED_BYTE),
                cell: lasting(map, CELL_BYTE),
                calls: ring(map, BACKENDS_AT + backend * BACKEND_BYTES + 32, CALLS_AT + backend * CALLS * RECORD_BYTES),
                times: ring(map, TIMES_HEAD * 8, TIMES_AT),
                number: number as u16,
                paces: segment.paces,
                mask: AtomicU32::new(0),
                typical: AtomicU64::new(0),
            }
        };
        it.counters.min.store(u64::MAX, Ordering::Relaxed);
        count.store(number + 1, Ordering::Release);
        Ok(it)
    }

    /// Is the call that comes to be timed?
    #[inline]
    pub fn is_next_timed(&self) -> bool {
        let calls = self.counters.calls.load(Ordering::Relaxed) as u32;
        calls & self.mask.load(Ordering::Relaxed) == 0 && self.enabled.load(Ordering::Relaxed) != 0
    }

    /// A call succeeded; `time` says when it began and how many ticks it took, if it was timed.
    #[inline]
    pub fn succeed(&self, time: Option<(u64, u64)>) {
        match time {
            Some((start, ticks)) => self.time(start, ticks),
            None if self.enabled.load(Ordering::Relaxed) != 0 => add(&self.counters.calls, 1),
            None => {}
        }
    }

    #[inline]
    fn time(&self, start: u64, ticks: u64) {
        let weight = self.mask.load(Ordering::Relaxed) + 1;
        self.observe(ticks);
        self.log(start, ticks, 0, weight);
    }

    /// A call that somebody else timed. The rings hold it as often as those that are timed here.
    #[inline]
    pub fn note(&self, ticks: u64) {
        if self.enabled.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.is_next_timed() {
            self.time(clock::now().wrapping_sub(ticks), ticks);
        } else {
            self.observe(ticks);
        }
    }

    #[inline]
    fn observe(&self, ticks: u64) {
        let it = self.counters;
        add(&it.calls, 1);
        add(&it.timed, 1);
        add(&it.total, ticks);
        add(&it.histogram[bucket(ticks)], 1);
        if ticks < it.min.load(Ordering::Relaxed) {
            it.min.store(ticks, Ordering::Relaxed);
        }
        if ticks > it.max.load(Ordering::Relaxed) {
            it.max.store(ticks, Ordering::Relaxed);
        }
        // What is typical follows quickly, so that a function that turns slow is soon timed each time again.
        let before = self.typical.load(Ordering::Relaxed);
        let typical = if before == 0 { ticks } else { before.saturating_mul(3).saturating_add(ticks) / 4 };
        self.typical.store(typical, Ordering::Relaxed);
        let pace = self.paces.iter().find(|(below, _)| typical < *below);
        let known = it.timed.load(Ordering::Relaxed) >= FIRST_TIMED;
        self.mask.store(pace.filter(|_| known).map_or(0, |(_, mask)| *mask), Ordering::Relaxed);
    }

    /// A call that failed at first was answered after all; it has been counted where it was answered.
    #[cold]
    pub fn recover(&self, elsewhere: bool) {
        if self.enabled.load(Ordering::Relaxed) != 0 {
            add(&self.counters.recovered, 1);
            add(&self.counters.calls, u64::from(elsewhere));
        }
    }

    /// A call failed or was refused; it counts as a call, and its time counts nowhere.
    #[cold]
    pub fn fail(&self, kind: i32, argument: i32, reason: &str) {
        let segment = self.telemetry.get();
        if !segment.is_enabled() {
            return;
        }
        add(&self.counters.calls, 1);
        add(&self.counters.errors, 1);
        let now = clock::now();
        self.log(now, 0, kind as u64 & 0xFF, 1);
        self.publish(now, Step::default(), kind, argument, reason);
    }

    /// A step of a recovery; no call is counted.
    #[cold]
    pub fn note_step(&self, step: Step, kind: i32, text: &str) {
        if self.enabled.load(Ordering::Relaxed) != 0 {
            self.publish(clock::now(), step, kind, -1, text);
        }
    }

    /// Write a record of the errors' ring.
    fn publish(&self, now: u64, step: Step, kind: i32, argument: i32, text: &str) {
        let segment = self.telemetry.get();
        let head = segment.word(ERRORS_HEAD);
        let number = head.load(Ordering::Relaxed);
        let at = ERRORS_AT + (number as usize % ERRORS) * ERROR_BYTES;
        segment.word(at / 8).store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        segment.word(at / 8 + 1).store(now, Ordering::Relaxed);
        let what = u64::from(self.number) | (kind as u64 & 0xFFFF) << 16 | (argument as u64 & 0xFFFF_FFFF) << 32;
        segment.word(at / 8 + 2).store(what, Ordering::Relaxed);
        let taken = u64::from(step.kind) << 32 | u64::from(step.outcome) << 40 | (step.code as u64 & 0xFFFF) << 48;
        segment.word(at / 8 + 3).store(u64::from(segment.cell()) | taken, Ordering::Relaxed);
        segment.word(at / 8 + 4).store(step.duration_ns.to_bits(), Ordering::Relaxed);
        segment.write(at + 40, ERROR_BYTES - 40, text.as_bytes());
        segment.word(at / 8).store(number + 1, Ordering::Release);
        head.store(number + 1, Ordering::Release);
    }

    /// The last calls, of this backend and of all.
    #[inline]
    fn log(&self, start: u64, ticks: u64, status: u64, weight: u32) {
        let cell = u64::from(self.cell.load(Ordering::Relaxed));
        let words = [start, ticks, u64::from(self.number) | status << 16 | u64::from(weight) << 24 | cell << 32];
        self.calls.push(words);
        if status == 0 {
            self.times.push(words);
        }
    }
}

#[pymethods]
impl Telemetry {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self::create()?)
    }

    /// The memfd of the segment; it stays the segment's own.
    fn fileno(&self) -> c_int {
        self.map.file().as_raw_fd()
    }

    /// Enter a name that functions are listed under; its number.
    #[pyo3(name = "add_backend")]
    fn add_backend_from_python(&self, name: &str) -> PyResult<u16> {
        self.add_backend(name).map_err(PyValueError::new_err)
    }

    /// Measure the clock's rate over all the time since the import, for whoever reads now.
    fn calibrate(&self) {
        self.word(NS_PER_TICK).store(clock::ns_per_tick().to_bits(), Ordering::Relaxed);
    }

    /// Whether calls are counted and timed.
    #[getter]
    fn enabled(&self) -> bool {
        self.is_enabled()
    }

    #[setter]
    fn set_enabled(&self, on: bool) {
        self.half(ENABLED_BYTE).store(u32::from(on), Ordering::Relaxed);
    }

    /// Number of the notebook cell that runs; 0 outside notebooks.
    #[getter(cell)]
    fn cell_number(&self) -> u32 {
        self.cell()
    }

    #[setter(cell)]
    fn set_cell_number(&self, number: u32) {
        self.half(CELL_BYTE).store(number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut last = 0;
        for ticks in 0..1_000_000_u64 {
            let index = bucket(ticks);
            assert!(index == last || index == last + 1, "{ticks}");
            last = index;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        // The bounds of a bucket are within an eighth of each other.
        assert_eq!(bucket(8 << 20), bucket((9 << 20) - 1));
        assert_eq!(bucket(9 << 20), bucket(8 << 20) + 1);
    }

    #[test]
    fn a_segment_describes_itself() {
        clock::start();
        let it = Telemetry::create().unwrap();
        assert_eq!(it.word(0).load(Ordering::Relaxed).to_le_bytes(), *b"NIFLABTM");
        assert_eq!(it.add_backend("rust"), Ok(0));
        assert_eq!(it.add_backend("zig"), Ok(1));
        assert_eq!(it.half(N_BACKENDS_BYTE).load(Ordering::Relaxed), 2);
        assert_eq!(it.add_backend("rust"), Ok(0));
        for number in 2..MAX_BACKENDS {
            it.add_backend(&number.to_string()).unwrap();
        }
        assert!(it.add_backend("one too many").is_err());
        it.sampler().sample(10, 1, 0);
        assert_eq!(it.word(layout::SAMPLES_HEAD).load(Ordering::Relaxed), 1);
    }

    #[test]
    fn text_is_cut_between_characters() {
        clock::start();
        let it = Telemetry::create().unwrap();
        let at = ERRORS_AT + 32;
        it.write(at, 4, "abcé".as_bytes());
        assert_eq!(it.half(at).load(Ordering::Relaxed).to_le_bytes(), *b"abc\0");
    }
}
