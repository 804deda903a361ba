//! One block of an arena.

use std::ptr::NonNull;
use std::sync::Arc;

use nif_memory::{AllocError, Arena, Handle};

/// One block of an arena; dropped, it goes back.
pub struct Block {
    arena: Arc<Arena>,
    block: nif_memory::Block,
}

// SAFETY: the block belongs to this value alone, and an arena may be used from any thread.
unsafe impl Send for Block {}
// SAFETY: as above; it hands out nothing but its address.
unsafe impl Sync for Block {}

impl Block {
    pub fn new(arena: &Arc<Arena>, size: usize, zeroed: bool) -> Result<Self, AllocError> {
        Ok(Self { arena: Arc::clone(arena), block: arena.allocate(size, zeroed)? })
    }

    pub fn address(&self) -> NonNull<u8> {
        self.block.address
    }

    pub fn size(&self) -> usize {
        self.block.size
    }

    pub fn handle(&self) -> Handle {
        self.block.handle
    }

    /// A worker may write to it from now on.
    pub fn lend(&self) {
        let _ = self.arena.lend(self.block.address.addr().get(), self.block.size);
    }

    /// Let somebody else release it.
    pub fn give_up(self) {
        let mut this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the field isn't used again, and `drop` doesn't run.
        unsafe { std::ptr::drop_in_place(&raw mut this.arena) };
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // A child of fork can't release what is its parent's, which does no harm.
        let _ = self.arena.release(self.block.handle);
    }
}
