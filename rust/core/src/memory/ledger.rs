//! The copy ledger: every copy that a call or a transfer had to make, with its bytes, its place and its reason.

use std::collections::{BTreeMap, VecDeque};
use std::thread::ThreadId;

/// Copies that are kept one by one; the sums know all.
const KEPT: usize = 1000;

/// An argument that isn't in shared memory, on its way to a worker.
pub const NOT_IN_POOL: &str = "argument not in a pool";
/// The same on its way back, after the function may have written to it.
pub const WRITTEN: &str = "argument not in a pool, written by the function";
/// A text too long for a request.
pub const TEXT: &str = "text too long for a request";

/// One copy.
#[derive(Clone)]
pub struct Entry {
    /// Its number, from 1 on.
    pub number: u64,
    pub bytes: u64,
    /// `zig.dot` or the like.
    pub place: String,
    pub reason: String,
    thread: ThreadId,
}

/// The last copies, and the sums of all by reason.
#[derive(Default)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    count: u64,
    sums: BTreeMap<String, (u64, u64)>,
}

impl Ledger {
    pub fn note(&mut self, bytes: usize, place: &str, reason: &str) {
        if bytes == 0 {
            return;
        }
        self.count += 1;
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        let thread = std::thread::current().id();
        let (place, reason) = (place.to_owned(), reason.to_owned());
        let sum = self.sums.entry(reason.clone()).or_default();
        sum.0 += 1;
        sum.1 += bytes as u64;
        self.entries.push_back(Entry { number: self.count, bytes: bytes as u64, place, reason, thread });
    }

    /// How many copies there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The copies after that one: of this thread, if asked.
    pub fn since(&self, number: u64, mine: bool) -> Vec<Entry> {
        let thread = std::thread::current().id();
        let wanted = |it: &&Entry| it.number > number && (!mine || it.thread == thread);
        self.entries.iter().filter(wanted).cloned().collect()
    }

    /// Reason, copies and bytes each.
    pub fn sums(&self) -> Vec<(String, u64, u64)> {
        self.sums.iter().map(|(reason, (copies, bytes))| (reason.clone(), *copies, *bytes)).collect()
    }
}
