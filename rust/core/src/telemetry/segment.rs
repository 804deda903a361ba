//! A telemetry segment as its writers see it: docs/telemetry.md.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nif_loader::clock;
use nif_memory::SharedMap;
use nif_memory::ring::Ring;

use crate::telemetry::fork::Watched;
use crate::telemetry::layout::{
    AT, Backend, CALLS, Call, Counts, ERRORS, Error, Function, Header, MAX_BACKENDS, MAX_FUNCTIONS, SAMPLES,
    SEGMENT_BYTES, SHARDS, TIMES, VERSION, head, place,
};

const NAME: &std::ffi::CStr = c"nif_lab telemetry";

/// Who a function is: its backend's number, its lane and its name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub backend: u16,
    pub lane: u16,
    pub name: String,
}

struct Entry {
    key: Key,
    flags: u32,
    since: u64,
    /// Functions of that key that are alive: after a cell ran again, both the old and the new one for a while.
    holders: usize,
}

/// What the segment lists, for a child that needs a list of its own.
#[derive(Default)]
struct Table {
    backends: Vec<String>,
    entries: Vec<Entry>,
    numbers: HashMap<Key, u16>,
    /// Functions that are gone, the longest first. Their counters stay until their place is needed.
    gone: VecDeque<u16>,
}

/// Which process's telemetry it is.
struct Home {
    forks: u32,
    /// In a child: its own. What it maps has taken the place of `Segment::map`, which unmaps it.
    own: Option<ManuallyDrop<SharedMap>>,
}

/// One Lab's segment.
pub struct Segment {
    // Before the map: no fork looks at an address that is gone.
    _watched: Watched,
    map: SharedMap,
    home: Mutex<Home>,
    table: Mutex<Table>,
    /// As the header has it, for a child.
    wanted: AtomicBool,
    cell: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segment {
    pub fn create() -> io::Result<Self> {
        let map = SharedMap::new(NAME, SEGMENT_BYTES)?;
        let it = Self {
            _watched: Watched::new(map.address().as_ptr() as usize),
            map,
            home: Mutex::new(Home { forks: nif_memory::forks(), own: None }),
            table: Mutex::default(),
            wanted: AtomicBool::new(true),
            cell: AtomicU32::new(0),
        };
        it.fill(&lock(&it.table));
        Ok(it)
    }

    /// Write the header and all that is listed into a segment of zeros.
    fn fill(&self, table: &Table) {
        let header = self.header();
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        header.size.store(SEGMENT_BYTES as u64, Ordering::Relaxed);
        header.pid.store(std::process::id(), Ordering::Relaxed);
        header.clock.store(u32::from(clock::is_counter()), Ordering::Relaxed);
        header.base_ticks.store(clock::now(), Ordering::Relaxed);
        header.base_ns.store(epoch, Ordering::Relaxed);
        header.ns_per_tick.store(clock::ns_per_tick().to_bits(), Ordering::Relaxed);
        header.max_backends.store(MAX_BACKENDS as u32, Ordering::Relaxed);
        header.max_functions.store(MAX_FUNCTIONS as u32, Ordering::Relaxed);
        header.max_shards.store(SHARDS as u32, Ordering::Relaxed);
        header.n_shards.store(1, Ordering::Relaxed);
        for (word, offset) in header.at.iter().zip(AT) {
            word.store(offset as u64, Ordering::Relaxed);
        }
        header.version.store(VERSION, Ordering::Relaxed);
        header.header_size.store(size_of::<Header>() as u32, Ordering::Relaxed);
        header.cell.store(self.cell.load(Ordering::Relaxed), Ordering::Relaxed);
        for (number, name) in table.backends.iter().enumerate() {
            self.list_backend(number, name);
        }
        for (number, entry) in table.entries.iter().enumerate() {
            self.list_function(number, entry);
        }
        header.enabled.store(u32::from(self.wanted.load(Ordering::Relaxed)), Ordering::Relaxed);
        // The magic comes last: a reader that sees it sees the rest.
        header.magic.store(u64::from_le_bytes(*b"NIFLABTM"), Ordering::Release);
    }

    /// A place of the segment; only types of atomics and bytes are asked for.
    fn at<T>(&self, offset: usize) -> &T {
        assert!(offset + size_of::<T>() <= SEGMENT_BYTES && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { self.map.address().add(offset).cast::<T>().as_ref() }
    }

    #[inline]
    pub fn header(&self) -> &Header {
        self.at(0)
    }

    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.header().enabled.load(Ordering::Relaxed) != 0
    }

    /// Is a call counted whose segment says that it isn't? In a child of fork it should: then the child has a segment from now on.
    #[cold]
    pub fn wakes(&self) -> bool {
        if lock(&self.home).forks == nif_memory::forks() {
            return false;
        }
        self.settle();
        self.is_enabled()
    }

    /// Switch all counting on or off.
    pub fn enable(&self, on: bool) {
        self.wanted.store(on, Ordering::Relaxed);
        self.settle();
        self.header().enabled.store(u32::from(on), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !on {
            // Whoever counts by `due` alone looks at the switch with the next call.
            for number in 0..MAX_FUNCTIONS {
                for shard in self.shards() {
                    self.counts(shard, number).due.store(0, Ordering::Relaxed);
                }
            }
        }
    }

    pub fn cell(&self) -> u32 {
        self.cell.load(Ordering::Relaxed)
    }

    pub fn set_cell(&self, number: u32) {
        self.cell.store(number, Ordering::Relaxed);
        self.header().cell.store(number, Ordering::Relaxed);
    }

    /// In a child of fork: have a segment of this process, which counts from zero. Whether it is a new one.
    pub fn settle(&self) -> bool {
        let mut home = lock(&self.home);
        let forks = nif_memory::forks();
        if home.forks == forks {
            return false;
        }
        home.forks = forks;
        let Ok(fresh) = SharedMap::new(NAME, SEGMENT_BYTES) else { return false }; // it goes on counting nowhere
        let fresh = ManuallyDrop::new(fresh);
        let here = self.map.address().as_ptr().cast::<c_void>();
        // SAFETY: the fresh mapping, of which nobody knows yet, goes to where zeros of the same size lie. The kernel does that in
        // one step, and nothing was written there but by calls that began before it, which count nowhere.
        let moved = unsafe {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(fresh.address().as_ptr().cast(), SEGMENT_BYTES, SEGMENT_BYTES, flags, here)
        };
        if moved != here {
            drop(ManuallyDrop::into_inner(fresh));
            return false;
        }
        if let Some(parents) = home.own.replace(fresh) {
            close(&parents);
        }
        self.fill(&lock(&self.table));
        true
    }

    pub fn fileno(&self) -> c_int {
        let home = lock(&self.home);
        home.own.as_ref().map_or_else(|| self.map.file().as_raw_fd(), |own| own.file().as_raw_fd())
    }

    /// Write bytes into a field that no reader looks at yet.
    pub fn write(field: &[AtomicU8], text: &str) {
        let mut length = text.len().min(field.len());
        // Cut between characters, not inside one.
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let bytes = text.as_bytes()[..length].iter().copied().chain(std::iter::repeat(0));
        for (to, byte) in field.iter().zip(bytes) {
            to.store(byte, Ordering::Relaxed);
        }
    }

    /// Enter a backend, unless it is there; its number.
    pub fn add_backend(&self, name: &str) -> Result<u16, String> {
        let mut table = lock(&self.table);
        if let Some(known) = table.backends.iter().position(|it| it == name) {
            return Ok(known as u16);
        }
        let number = table.backends.len();
        if number == MAX_BACKENDS {
            return Err(format!("a Lab has room for {MAX_BACKENDS} backends"));
        }
        table.backends.push(name.into());
        self.list_backend(number, name);
        Ok(number as u16)
    }

    fn backend(&self, number: usize) -> &Backend {
        self.at(AT[place::BACKENDS] + number * size_of::<Backend>())
    }

    fn list_backend(&self, number: usize, name: &str) {
        Self::write(&self.backend(number).name, name);
        self.header().n_backends.store(number as u32 + 1, Ordering::Release);
    }

    /// Enter a function; its number. One of the same backend, lane and name goes on counting where the former did.
    pub fn enter(&self, key: Key, flags: u32) -> Result<u16, String> {
        let mut table = lock(&self.table);
        if let Some(number) = table.numbers.get(&key).copied() {
            table.gone.retain(|it| *it != number);
            let entry = &mut table.entries[usize::from(number)];
            (entry.flags, entry.holders) = (flags, entry.holders + 1);
            self.list_function(usize::from(number), &table.entries[usize::from(number)]);
            return Ok(number);
        }
        let mut entry = Entry { key: key.clone(), flags, since: 0, holders: 1 };
        let number = if table.entries.len() < MAX_FUNCTIONS {
            table.entries.push(entry);
            table.entries.len() - 1
        } else {
            let Some(number) = table.gone.pop_front() else {
                return Err(format!("a Lab has room for {MAX_FUNCTIONS} functions at a time"));
            };
            let number = usize::from(number);
            // Records of the former function say nothing of this one.
            self.function(number).since.store(u64::MAX, Ordering::Relaxed);
            fence(Ordering::Release); // no store from here on is seen before that one
            self.forget(number);
            entry.since = clock::now();
            let former = std::mem::replace(&mut table.entries[number], entry);
            table.numbers.remove(&former.key);
            number
        };
        self.list_function(number, &table.entries[number]);
        table.numbers.insert(key, number as u16);
        Ok(number as u16)
    }

    /// A function is gone.
    pub fn leave(&self, number: u16) {
        let mut table = lock(&self.table);
        let Some(entry) = table.entries.get_mut(usize::from(number)) else { return };
        entry.holders = entry.holders.saturating_sub(1);
        if entry.holders == 0 {
            table.gone.push_back(number);
        }
    }

    pub fn function(&self, number: usize) -> &Function {
        self.at(AT[place::FUNCTIONS] + number * size_of::<Function>())
    }

    fn list_function(&self, number: usize, entry: &Entry) {
        let it = self.function(number);
        let kind = u64::from(entry.key.backend) | u64::from(entry.key.lane) << 16 | u64::from(entry.flags) << 32;
        Self::write(&it.name, &entry.key.name);
        it.kind.store(kind, Ordering::Relaxed);
        it.since.store(entry.since, Ordering::Release);
        self.header().n_functions.fetch_max(number as u32 + 1, Ordering::Release);
    }

    /// Places in which somebody has counted.
    fn shards(&self) -> std::ops::Range<usize> {
        0..(self.header().n_shards.load(Ordering::Relaxed) as usize).min(SHARDS)
    }

    fn forget(&self, number: usize) {
        for shard in self.shards() {
            let counts: &[AtomicU64; size_of::<Counts>() / 8] = self.at(counts_at(shard, number));
            for count in counts {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    pub fn counts(&self, shard: usize, number: usize) -> &Counts {
        self.at(counts_at(shard, number))
    }

    pub fn calls(&self, backend: u16) -> Ring<'_, Call> {
        let backend = usize::from(backend);
        let records: &[Call; CALLS] = self.at(AT[place::CALLS] + backend * CALLS * size_of::<Call>());
        Ring { head: &self.backend(backend).head, records }
    }

    pub fn times(&self) -> Ring<'_, Call> {
        Ring { head: &self.header().heads[head::TIMES], records: self.at::<[Call; TIMES]>(AT[place::TIMES]) }
    }

    pub fn samples(&self) -> Ring<'_, Call> {
        Ring { head: &self.header().heads[head::SAMPLES], records: self.at::<[Call; SAMPLES]>(AT[place::SAMPLES]) }
    }

    pub fn errors(&self) -> Ring<'_, Error> {
        Ring { head: &self.header().heads[head::ERRORS], records: self.at::<[Error; ERRORS]>(AT[place::ERRORS]) }
    }
}

/// Where a place counts a function.
const fn counts_at(shard: usize, number: usize) -> usize {
    AT[place::COUNTS] + (shard * MAX_FUNCTIONS + number) * size_of::<Counts>()
}

/// Close the descriptor alone: what it maps isn't there any more.
fn close(map: &SharedMap) {
    // SAFETY: the descriptor is the map's, which is never used again.
    unsafe { libc::close(map.file().as_raw_fd()) };
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(own) = &self.home.get_mut().unwrap_or_else(PoisonError::into_inner).own {
            close(own);
        }
    }
}
