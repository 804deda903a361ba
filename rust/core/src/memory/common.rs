//! What the keeper and the Lab both use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nif_memory::{AllocError, Arena, PerProcess};

use crate::memory::block::Block;
use crate::memory::ledger::Ledger;
use crate::memory::shared::Shared;

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the keeper and the Lab both use.
///
/// Threads without the GIL use it, so a fork may find it locked: each process has its own.
pub struct Common {
    pub arena: Arc<Arena>,
    buffers: PerProcess<Mutex<Buffers>>,
    collected: PerProcess<Mutex<Collected>>,
    ledger: PerProcess<Mutex<Ledger>>,
}

/// Shared buffers with owners, by segment and offset.
pub type Buffers = BTreeMap<(u64, u64), Arc<Shared>>;

/// What collections have done so far.
#[derive(Clone, Copy, Default)]
pub struct Collected {
    pub collections: u64,
    pub buffers: u64,
    pub bytes: u64,
}

impl Common {
    pub fn new(arena: Arc<Arena>) -> Self {
        Self {
            arena,
            buffers: PerProcess::new(Mutex::default),
            collected: PerProcess::new(Mutex::default),
            ledger: PerProcess::new(Mutex::default),
        }
    }

    pub fn buffers(&self) -> MutexGuard<'_, Buffers> {
        lock(self.buffers.get())
    }

    pub fn collected(&self) -> MutexGuard<'_, Collected> {
        lock(self.collected.get())
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(self.ledger.get())
    }

    /// Free the buffers whose owners are gone: how many bytes.
    pub fn collect(&self) -> u64 {
        let gone: Vec<Arc<Shared>> = {
            let mut buffers = self.buffers();
            let keys: Vec<(u64, u64)> = buffers.iter().filter(|(_, it)| it.is_orphan()).map(|(key, _)| *key).collect();
            keys.iter().filter_map(|key| buffers.remove(key)).collect()
        };
        let bytes = gone.iter().map(|it| it.free() as u64).sum();
        let mut collected = self.collected();
        collected.collections += 1;
        collected.buffers += gone.len() as u64;
        collected.bytes += bytes;
        bytes
    }

    /// A block; if there is no room, after a collection.
    pub fn allocate(&self, size: usize, zeroed: bool) -> Result<Block, AllocError> {
        Block::new(&self.arena, size, zeroed).or_else(|error| {
            if self.collect() == 0 {
                return Err(error);
            }
            Block::new(&self.arena, size, zeroed)
        })
    }
}
