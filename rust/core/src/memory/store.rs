//! Blocks that arrays gave back, kept for the next arrays of the same size.
//!
//! Most code asks for the same sizes again and again. Under the GIL that takes no lock and no look into the arena, to
//! which these blocks are still in use; `flush` gives them back to it. Without the GIL each thread has shelves of its own, as
//! it has counters: its lock is one that nobody else wants.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nif_memory::{AllocError, Arena};

use crate::python::turn::Turn;
use crate::telemetry::layout::SHARDS;
use crate::telemetry::shard;

/// Sizes that are kept at a time, and blocks of each.
const SIZES: usize = 64;
const EACH: usize = 4;
/// All that is kept, in bytes; and what a thread keeps without asking how much the others do.
const MOST: usize = 256 << 20;
const MINE: usize = MOST / SHARDS;

#[derive(Clone, Copy)]
struct Shelf {
    size: usize,
    count: usize,
    blocks: [NonNull<u8>; EACH],
}

/// The shelves of one place.
struct Shelves {
    all: [Shelf; SIZES],
    /// Of which process they are.
    forks: u32,
}

// SAFETY: the blocks are nobody else's while they are kept.
unsafe impl Send for Shelves {}

impl Default for Shelves {
    fn default() -> Self {
        let empty = Shelf { size: 0, count: 0, blocks: [NonNull::dangling(); EACH] };
        Self { all: [empty; SIZES], forks: nif_memory::forks() }
    }
}

/// All methods are to be called by threads that are attached to Python.
pub struct Store {
    pub arena: Arc<Arena>,
    places: [Turn<Shelves>; SHARDS],
    pub kept: Arc<Kept>,
}

/// How much is kept, by place: written by those whose turn it is there, read by anybody.
#[derive(Default)]
pub struct Kept([Tally; SHARDS]);

#[derive(Default)]
#[repr(align(64))]
struct Tally {
    bytes: AtomicUsize,
    blocks: AtomicUsize,
}

impl Kept {
    /// Bytes and blocks.
    pub fn get(&self) -> (usize, usize) {
        self.0.iter().map(Tally::get).fold((0, 0), |sum, it| (sum.0.wrapping_add(it.0), sum.1.wrapping_add(it.1)))
    }
}

impl Tally {
    #[inline]
    fn get(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.blocks.load(Ordering::Relaxed))
    }

    #[inline]
    fn set(&self, bytes: usize, blocks: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    #[inline]
    fn add(&self, bytes: usize, blocks: usize) {
        let kept = self.get();
        self.set(kept.0.wrapping_add(bytes), kept.1.wrapping_add(blocks));
    }
}

impl Store {
    pub fn new(arena: Arc<Arena>) -> Self {
        Self { arena, places: std::array::from_fn(|_| Turn::default()), kept: Arc::default() }
    }

    /// Use a place's shelves, and the tally of what is on them.
    #[inline]
    fn at<R>(&self, place: usize, body: impl FnOnce(&mut Shelves, &Tally) -> R) -> R {
        // SAFETY: this thread is attached, as every method says; nothing that is done to shelves calls Python.
        unsafe {
            self.places[place].with(|shelves| {
                if shelves.forks != nif_memory::current_forks() {
                    shelves.leave_to_parent(&self.kept.0[place]);
                }
                body(shelves, &self.kept.0[place])
            })
        }
    }

    /// A block that was kept.
    #[inline]
    pub fn take_kept(&self, size: usize, zeroed: bool) -> Option<NonNull<u8>> {
        let block = self.at(shard::mine(), |shelves, tally| {
            let shelf = shelves.shelf(size);
            if shelf.size != size || shelf.count == 0 {
                return None;
            }
            shelf.count -= 1;
            tally.add(size.wrapping_neg(), 1_usize.wrapping_neg());
            Some(shelf.blocks[shelf.count % EACH])
        })?;
        if zeroed {
            // SAFETY: the block has that size.
            unsafe { std::ptr::write_bytes(block.as_ptr(), 0, size) };
        }
        Some(block)
    }

    /// A block, kept or new.
    pub fn take(&self, size: usize, zeroed: bool) -> Result<NonNull<u8>, AllocError> {
        match self.take_kept(size, zeroed) {
            Some(block) => Ok(block),
            None => Ok(self.arena.allocate(size, zeroed)?.address),
        }
    }

    /// Keep a block of this size, or give it back.
    #[inline]
    pub fn put(&self, block: NonNull<u8>, size: usize) {
        self.at(shard::mine(), |shelves, tally| {
            if shelves.forks > 0 && self.arena.find(block.as_ptr().addr(), 0).is_none() {
                return; // an array of the parent's
            }
            let shelf = shelves.shelf(size);
            if shelf.count == 0 {
                shelf.size = size;
            }
            if shelf.size != size || shelf.count == EACH || !self.has_room(tally, size) {
                return self.give_back(shelf, tally, block, size);
            }
            shelf.blocks[shelf.count] = block;
            shelf.count += 1;
            tally.add(size, 1);
        });
    }

    /// May a place keep so much more?
    #[inline]
    fn has_room(&self, tally: &Tally, size: usize) -> bool {
        tally.get().0 + size <= MINE || (SHARDS > 1 && self.kept.get().0 + size <= MOST)
    }

    /// A shelf that is full, or taken by another size: that one makes room, so that what is in use now is kept.
    #[cold]
    fn give_back(&self, shelf: &mut Shelf, tally: &Tally, block: NonNull<u8>, size: usize) {
        if shelf.size != size {
            self.clear(shelf, tally);
        }
        let _ = self.arena.release_at(block);
    }

    fn clear(&self, shelf: &mut Shelf, tally: &Tally) {
        for block in &shelf.blocks[..shelf.count] {
            tally.add(shelf.size.wrapping_neg(), 1_usize.wrapping_neg());
            let _ = self.arena.release_at(*block);
        }
        shelf.count = 0;
    }

    /// Give everything back to the arena.
    pub fn flush(&self) {
        for place in 0..SHARDS {
            // A child of fork has nothing of its parent's to give back.
            self.at(place, |shelves, tally| shelves.all.iter_mut().for_each(|shelf| self.clear(shelf, tally)));
        }
    }
}

impl Shelves {
    /// The shelf for a size.
    #[inline]
    fn shelf(&mut self, size: usize) -> &mut Shelf {
        let place = (size as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SIZES.ilog2());
        &mut self.all[place as usize]
    }

    /// In a child of fork: what is kept is the parent's.
    #[cold]
    fn leave_to_parent(&mut self, tally: &Tally) {
        for shelf in &mut self.all {
            shelf.count = 0;
        }
        tally.set(0, 0);
        self.forks = nif_memory::forks();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flush();
    }
}
