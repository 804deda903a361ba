//! The rings of the telemetry segment: the last records of a kind, for readers who may look at any time.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::telemetry::shard::MANY;

/// A ring of the segment: the last records, and how many there ever were.
pub struct Ring<'a, R: 'static> {
    pub head: &'a AtomicU64,
    pub records: &'a [R],
}

/// What a record's first word is while somebody writes the rest.
pub const BUSY: u64 = u64::MAX;

impl<R> Ring<'_, R> {
    /// Let `fill` write the next record, whose first word is `commit`.
    ///
    /// A reader sees a record as whole when its first word is its number plus 1 before and after. Where many threads write, two
    /// may come to one place, a whole round apart: the second leaves its record out.
    #[inline]
    pub fn write(&self, commit: impl Fn(&R) -> &AtomicU64, fill: impl FnOnce(&R)) {
        let number = if MANY { self.head.fetch_add(1, Ordering::Relaxed) } else { self.head.load(Ordering::Relaxed) };
        let Some(record) = self.records.get(number as usize % self.records.len().max(1)) else { return };
        let commit = commit(record);
        if !MANY {
            commit.store(BUSY, Ordering::Relaxed);
        } else if commit.swap(BUSY, Ordering::Acquire) == BUSY {
            return;
        }
        fence(Ordering::Release);
        fill(record);
        commit.store(number.wrapping_add(1), Ordering::Release);
        if !MANY {
            self.head.store(number.wrapping_add(1), Ordering::Release);
        }
    }
}

impl Ring<'_, crate::telemetry::layout::Call> {
    #[inline]
    pub fn push(&self, words: [u64; 3]) {
        self.write(
            |it| &it.commit,
            |it| {
                for (field, word) in it.words.iter().zip(words) {
                    field.store(word, Ordering::Relaxed);
                }
            },
        );
    }
}
