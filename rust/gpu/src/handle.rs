//! How a device's block is named to others: by numbers, never by its address.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Numbers of devices' blocks have the top bit; below it are 15 bits of the segment and 48 of the generation, of which a process
/// can't run out: a block each microsecond takes nine years.
const ON_DEVICE: u32 = 1 << 15;
const GENERATION_BITS: u32 = 48;
static SEGMENT: AtomicU32 = AtomicU32::new(1);
static GENERATION: AtomicU64 = AtomicU64::new(1);

pub(crate) fn next_generation() -> u64 {
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

/// Where a block lies, as others are told. It leads nowhere once the block is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    pub segment: u32,
    pub generation: u64,
    pub offset: u64,
}

/// What tells the segment of a device from a host's, where both may come.
const MARK: u64 = 1 << 63;

impl Handle {
    /// Segment, generation and offset, as a buffer's handle of any kind has them.
    #[must_use]
    pub fn words(&self) -> (u64, u64, u64) {
        (MARK | u64::from(self.segment), self.generation, self.offset)
    }

    /// The handle of these words; None if they aren't a device's.
    #[must_use]
    pub fn of_words((segment, generation, offset): (u64, u64, u64)) -> Option<Self> {
        let segment = segment.checked_sub(MARK).and_then(|it| u32::try_from(it).ok())?;
        Some(Self { segment, generation, offset })
    }

    /// As one number: what languages and frames have.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from(self.segment) << GENERATION_BITS | self.generation
    }

    /// The segment and generation of a number; it doesn't say the offset.
    #[must_use]
    pub fn of(number: u64) -> Self {
        let generation = number & ((1 << GENERATION_BITS) - 1);
        Self { segment: (number >> GENERATION_BITS) as u32, generation, offset: 0 }
    }
}

/// Did a block ever have this number?
pub(crate) fn was_given(number: u64) -> bool {
    let Handle { segment, generation, .. } = Handle::of(number);
    segment & ON_DEVICE != 0
        && segment & !ON_DEVICE < SEGMENT.load(Ordering::Relaxed)
        && (1..GENERATION.load(Ordering::Relaxed)).contains(&generation)
}

/// A number for memory that isn't of a pool: another library's array, for as long as a call has it.
#[must_use]
pub fn foreign_number() -> u64 {
    Handle { segment: ON_DEVICE, generation: next_generation(), offset: 0 }.number()
}

/// The segment of a new pool.
pub(crate) fn next_segment() -> u32 {
    ON_DEVICE | SEGMENT.fetch_add(1, Ordering::Relaxed)
}

/// A map by the numbers of arrays. They are given here, so nobody can choose those that collide: no hash has to prevent that.
pub(crate) type Numbers<T> = HashMap<u64, T, BuildHasherDefault<Spread>>;

/// Spreads numbers that follow each other.
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for it in bytes {
            self.write_u64(u64::from(*it));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
