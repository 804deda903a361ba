//! Blocks that arrays gave back, kept for the next arrays of the same size.
//!
//! Most code asks for the same sizes again and again. Under the GIL that takes no lock and no look into the arena, to
//! which these blocks are still in use; `flush` gives them back to it.

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nif_memory::{AllocError, Arena};

/// Sizes that are kept at a time, and blocks of each.
const SIZES: usize = 64;
const EACH: usize = 4;
/// All that is kept, in bytes.
const MOST: usize = 256 << 20;

#[derive(Clone, Copy)]
struct Shelf {
    size: usize,
    count: usize,
    blocks: [NonNull<u8>; EACH],
}

/// All methods but the counters are to be called with the GIL held.
pub struct Store {
    pub arena: Arc<Arena>,
    shelves: UnsafeCell<[Shelf; SIZES]>,
    /// Of which process the shelves are.
    forks: Cell<u32>,
    pub kept: Arc<Kept>,
}

/// How much is kept: written under the GIL, read by anybody.
#[derive(Default)]
pub struct Kept {
    bytes: AtomicUsize,
    blocks: AtomicUsize,
}

impl Kept {
    /// Bytes and blocks.
    pub fn get(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.blocks.load(Ordering::Relaxed))
    }
}

impl Store {
    pub fn new(arena: Arc<Arena>) -> Self {
        let empty = Shelf { size: 0, count: 0, blocks: [NonNull::dangling(); EACH] };
        let shelves = UnsafeCell::new([empty; SIZES]);
        Self { arena, shelves, forks: Cell::new(nif_memory::forks()), kept: Arc::default() }
    }

    /// The place for a size.
    #[allow(clippy::mut_from_ref, reason = "under the GIL, and no two are held at a time")]
    fn shelf(&self, size: usize) -> &mut Shelf {
        if self.forks.get() != nif_memory::current_forks() {
            self.leave_to_parent();
        }
        let place = (size as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - SIZES.ilog2());
        // SAFETY: the GIL is held, and no caller keeps it across another call.
        unsafe { &mut (*self.shelves.get())[place as usize] }
    }

    /// In a child of fork: what is kept is the parent's.
    #[cold]
    fn leave_to_parent(&self) {
        // SAFETY: the GIL is held, and no shelf is borrowed: every caller asks for one first.
        for shelf in unsafe { &mut *self.shelves.get() } {
            shelf.count = 0;
        }
        self.kept.bytes.store(0, Ordering::Relaxed);
        self.kept.blocks.store(0, Ordering::Relaxed);
        self.forks.set(nif_memory::forks());
    }

    fn count(&self, bytes: usize, blocks: usize) {
        let (kept_bytes, kept_blocks) = self.kept.get();
        self.kept.bytes.store(kept_bytes.wrapping_add(bytes), Ordering::Relaxed);
        self.kept.blocks.store(kept_blocks.wrapping_add(blocks), Ordering::Relaxed);
    }

    /// A block that was kept.
    #[inline]
    pub fn take_kept(&self, size: usize, zeroed: bool) -> Option<NonNull<u8>> {
        let shelf = self.shelf(size);
        if shelf.size != size || shelf.count == 0 {
            return None;
        }
        shelf.count -= 1;
        let block = shelf.blocks[shelf.count % EACH];
        self.count(size.wrapping_neg(), 1_usize.wrapping_neg());
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
        let shelf = self.shelf(size);
        if self.forks.get() > 0 && self.arena.find(block.as_ptr().addr(), 0).is_none() {
            return; // an array of the parent's
        }
        if shelf.count == 0 {
            shelf.size = size;
        }
        if shelf.size != size || shelf.count == EACH || self.kept.get().0 + size > MOST {
            return self.give_back(block, size);
        }
        shelf.blocks[shelf.count] = block;
        shelf.count += 1;
        self.count(size, 1);
    }

    /// A shelf that is full, or taken by another size: that one makes room, so that what is in use now is kept.
    #[cold]
    fn give_back(&self, block: NonNull<u8>, size: usize) {
        let shelf = self.shelf(size);
        if shelf.size != size {
            self.clear(shelf);
        }
        let _ = self.arena.release_at(block);
    }

    fn clear(&self, shelf: &mut Shelf) {
        for block in &shelf.blocks[..shelf.count] {
            self.count(shelf.size.wrapping_neg(), 1_usize.wrapping_neg());
            let _ = self.arena.release_at(*block);
        }
        shelf.count = 0;
    }

    /// Give everything back to the arena.
    pub fn flush(&self) {
        self.shelf(0); // a child of fork has nothing of its parent's to give back
        // SAFETY: the GIL is held.
        for shelf in unsafe { &mut *self.shelves.get() } {
            self.clear(shelf);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.flush();
    }
}
