//! What a shared buffer is, apart from its Python object.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nif_memory::Handle;

use crate::memory::block::Block;
use crate::memory::common::lock;

/// What a buffer is, apart from its Python object.
pub struct Shared {
    /// None once the last owner has released it. Views hold it too: it goes back to its pool with the last of them.
    pub block: Mutex<Option<Arc<Block>>>,
    pub size: usize,
    pub handle: Handle,
    pub address: usize,
    /// How often each language owns it; 0 for one that has released it.
    pub owners: Mutex<BTreeMap<String, usize>>,
    /// Of which process it is. A child of fork sees a copy of the elements, and owns nothing.
    pub forks: u32,
    /// Does Python hold the buffer, so that somebody could still release it?
    pub is_held: AtomicBool,
}

impl Shared {
    /// Is it the parent's, and this process a child by fork?
    pub fn is_inherited(&self) -> bool {
        self.forks != nif_memory::forks()
    }

    pub fn owners(&self) -> BTreeMap<String, usize> {
        lock(&self.owners).clone()
    }

    pub fn count(&self) -> usize {
        lock(&self.owners).values().sum()
    }

    /// Let a language own it once more; false if nobody owned it any more.
    pub fn retain(&self, language: &str) -> bool {
        let mut owners = lock(&self.owners);
        let is_owned = owners.values().any(|count| *count > 0);
        if is_owned {
            *owners.entry(language.into()).or_insert(0) += 1;
        }
        is_owned
    }

    /// Take one from a language's count: the count before, if it ever owned this, and whether that was the last of all.
    pub fn release(&self, language: &str) -> (Option<usize>, bool) {
        let mut owners = lock(&self.owners);
        let before = owners.get_mut(language).map(|count| std::mem::replace(count, count.saturating_sub(1)));
        (before, before == Some(1) && owners.values().all(|count| *count == 0))
    }

    /// Is there nobody left who could use or release it?
    pub fn is_orphan(&self) -> bool {
        !self.is_held.load(Ordering::Acquire) || self.count() == 0
    }

    /// Let go of the block: how many bytes.
    pub fn free(&self) -> usize {
        lock(&self.block).take().map_or(0, |_| self.size)
    }

    /// A language is gone, with all its counts. Did it own this?
    pub fn disown(&self, language: &str) -> bool {
        lock(&self.owners).get_mut(language).is_some_and(|count| std::mem::take(count) > 0)
    }
}
