//! Where everything lies in the telemetry segment: docs/telemetry.md. Python reads it from here, as `_core.telemetry_layout()`.

#![allow(clippy::struct_field_names, reason = "docs/telemetry.md names them so")]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use nif_memory::ring::Record;

pub const VERSION: u32 = 3;
pub const MAX_BACKENDS: usize = 16;
pub const MAX_FUNCTIONS: usize = 1024;
/// Places in which a function is counted. A thread has one of its own; the last is shared by the threads that came too late.
/// Under the GIL one thread counts at a time, so one place is enough.
pub const SHARDS: usize = if cfg!(any(Py_GIL_DISABLED, test)) { 16 } else { 1 };
/// Calls of one backend that its ring keeps; timed calls, samples and errors that the others keep.
pub const CALLS: usize = 1024;
pub const TIMES: usize = 10_000;
pub const SAMPLES: usize = 10_000;
pub const ERRORS: usize = 1_000;
/// Eight buckets to an octave: a percentile is off by 6 % at most.
pub const BUCKETS: usize = 384;

/// A struct of the segment, with its fields as they can be told: name, offset, size.
macro_rules! part {
    ($(#[$about:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[repr(C)]
        pub struct $name { $(pub $field: $kind,)* }

        impl $name {
            const FIELDS: &[Field] =
                &[$((stringify!($name), stringify!($field), offset_of!($name, $field), size_of::<$kind>()),)*];
        }
    };
}

/// The part, the field, its offset and its size in bytes.
pub type Field = (&'static str, &'static str, usize, usize);

part! {
    /// What a segment begins with.
    Header {
        magic: AtomicU64,
        version: AtomicU32,
        header_size: AtomicU32,
        size: AtomicU64,
        pid: AtomicU32,
        clock: AtomicU32,
        base_ticks: AtomicU64,
        base_ns: AtomicU64,
        ns_per_tick: AtomicU64,
        enabled: AtomicU32,
        cell: AtomicU32,
        n_backends: AtomicU32,
        n_functions: AtomicU32,
        max_backends: AtomicU32,
        max_functions: AtomicU32,
        at: [AtomicU64; 7],
        heads: [AtomicU64; 3],
        peak: AtomicU64,
        committed: AtomicU64,
        collections: AtomicU64,
        n_shards: AtomicU32,
        max_shards: AtomicU32,
        reserved: [AtomicU64; 8],
    }
}

part! {
    Backend {
        name: [AtomicU8; 32],
        head: AtomicU64,
        reserved: [AtomicU64; 3],
    }
}

part! {
    /// What a function is. Records of calls before `since` are of another one, which had the same number. A call that runs and says how
    /// far it is has done `done` of so many `steps`; otherwise both are 0.
    Function {
        name: [AtomicU8; 64],
        kind: AtomicU64,
        since: AtomicU64,
        done: AtomicU64,
        steps: AtomicU64,
        reserved: [AtomicU64; 4],
    }
}

part! {
    /// What one place counts of a function. One cache line for untimed calls, and nobody else's.
    Counts {
        calls: AtomicU64,
        due: AtomicU64,
        mask: AtomicU64,
        typical: AtomicU64,
        errors: AtomicU64,
        recovered: AtomicU64,
        timed: AtomicU64,
        total: AtomicU64,
        min: AtomicU64,
        max: AtomicU64,
        reserved: [AtomicU64; 6],
        histogram: [AtomicU64; BUCKETS],
    }
}

part! {
    /// A record of a call; its last three words as `fill` takes them.
    Call {
        commit: AtomicU64,
        words: [AtomicU64; 3],
    }
}

part! {
    Error {
        commit: AtomicU64,
        time: AtomicU64,
        what: AtomicU64,
        cell_and_step: AtomicU64,
        duration_ns: AtomicU64,
        text: [AtomicU8; 216],
    }
}

impl Call {
    /// Write all but the first word.
    #[inline]
    pub fn fill(&self, words: [u64; 3]) {
        for (field, word) in self.words.iter().zip(words) {
            field.store(word, Ordering::Relaxed);
        }
    }
}

impl Record for Call {
    #[inline]
    fn commit(&self) -> &AtomicU64 {
        &self.commit
    }
}

impl Record for Error {
    #[inline]
    fn commit(&self) -> &AtomicU64 {
        &self.commit
    }
}

/// Indices of `Header::at`.
pub mod place {
    pub const BACKENDS: usize = 0;
    pub const FUNCTIONS: usize = 1;
    pub const COUNTS: usize = 2;
    pub const CALLS: usize = 3;
    pub const TIMES: usize = 4;
    pub const SAMPLES: usize = 5;
    pub const ERRORS: usize = 6;
}

const SIZES: [usize; 7] = [
    MAX_BACKENDS * size_of::<Backend>(),
    MAX_FUNCTIONS * size_of::<Function>(),
    SHARDS * MAX_FUNCTIONS * size_of::<Counts>(),
    MAX_BACKENDS * CALLS * size_of::<Call>(),
    TIMES * size_of::<Call>(),
    SAMPLES * size_of::<Call>(),
    ERRORS * size_of::<Error>(),
];

/// Where each begins, and where the last one ends.
const ENDS: [usize; 8] = {
    let mut at = [size_of::<Header>(); 8];
    let mut i = 0;
    while i < SIZES.len() {
        at[i + 1] = at[i] + SIZES[i];
        i += 1;
    }
    at
};

pub const AT: [usize; 7] = {
    let mut at = [0; 7];
    at.copy_from_slice(ENDS.split_at(7).0);
    at
};
pub const SEGMENT_BYTES: usize = ENDS[7];

/// Indices of `Header::heads`.
pub mod head {
    pub const TIMES: usize = 0;
    pub const SAMPLES: usize = 1;
    pub const ERRORS: usize = 2;
}

// Counts begin at a cache line, and so does each of them.
const _: () = assert!(AT[place::COUNTS].is_multiple_of(64) && size_of::<Counts>().is_multiple_of(64));
const _: () = assert!(size_of::<Header>() == 256 && size_of::<Backend>() == 64 && size_of::<Function>() == 128);
const _: () = assert!(size_of::<Call>() == 32 && size_of::<Error>() == 256);

/// All fields, for whoever reads the segment in another language.
pub fn fields() -> Vec<Field> {
    let parts = [Header::FIELDS, Backend::FIELDS, Function::FIELDS, Counts::FIELDS, Call::FIELDS, Error::FIELDS];
    parts.concat()
}

/// All numbers that aren't fields.
pub const NUMBERS: &[(&str, usize)] = &[
    ("version", VERSION as usize),
    ("max_backends", MAX_BACKENDS),
    ("max_functions", MAX_FUNCTIONS),
    ("max_shards", SHARDS),
    ("calls", CALLS),
    ("times", TIMES),
    ("samples", SAMPLES),
    ("errors", ERRORS),
    ("buckets", BUCKETS),
    ("segment_bytes", SEGMENT_BYTES),
];
