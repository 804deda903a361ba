//! The rings of the telemetry segment: the last records of a kind, for readers who may look at any time.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use nif_memory::SharedMap;

use crate::telemetry::layout::{RECORD_BYTES, SEGMENT_BYTES};

/// A place of the segment; only types of atomics and bytes are asked for.
pub fn place<T>(map: &SharedMap, offset: usize) -> &T {
    assert!(offset + size_of::<T>() <= SEGMENT_BYTES && offset.is_multiple_of(align_of::<T>()));
    // SAFETY: inside the mapping, which lives as long as `map`.
    unsafe { map.address().add(offset).cast::<T>().as_ref() }
}

/// The same for as long as the caller keeps the segment.
///
/// # Safety
/// It isn't used after the segment is gone.
pub unsafe fn lasting<T>(map: &SharedMap, offset: usize) -> &'static T {
    // SAFETY: the caller's promise.
    unsafe { &*std::ptr::from_ref(place(map, offset)) }
}

/// A ring of the segment.
///
/// # Safety
/// As above.
pub unsafe fn ring<const N: usize>(map: &SharedMap, head: usize, records: usize) -> Ring<N> {
    // SAFETY: the caller's promise.
    unsafe { Ring { head: lasting(map, head), records: lasting(map, records) } }
}

/// A record of four words: commit, and what the ring's kind says.
pub type Record = [AtomicU64; RECORD_BYTES / 8];

/// A ring of the segment: the last `N` records, and how many there ever were.
pub struct Ring<const N: usize> {
    pub head: &'static AtomicU64,
    records: &'static [Record; N],
}

impl<const N: usize> Ring<N> {
    #[inline]
    pub fn push(&self, words: [u64; 3]) {
        let number = self.head.load(Ordering::Relaxed);
        let record = &self.records[number as usize % N];
        record[0].store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (field, word) in record[1..].iter().zip(words) {
            field.store(word, Ordering::Relaxed);
        }
        record[0].store(number + 1, Ordering::Release);
        self.head.store(number + 1, Ordering::Release);
    }
}
