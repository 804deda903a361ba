//! What the telemetry segment knows of memory: samples of what is in use, and how far it has grown. No GIL is needed.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nif_loader::clock;
use nif_memory::SharedMap;

use crate::telemetry::layout::{ENABLED_BYTE, EXTENT, SAMPLES, SAMPLES_AT, SAMPLES_HEAD};
use crate::telemetry::ring::{Ring, place, ring};

/// Writes into one segment, from any thread.
pub struct Sampler {
    map: Arc<SharedMap>,
    turn: Mutex<()>,
}

/// How far the memory has grown so far, and how often what nobody owned was collected.
#[derive(Clone, Copy)]
pub struct Extent {
    pub peak: u64,
    pub committed: u64,
    pub collections: u64,
}

impl Sampler {
    pub fn new(map: &Arc<SharedMap>) -> Self {
        Self { map: Arc::clone(map), turn: Mutex::new(()) }
    }

    fn is_enabled(&self) -> bool {
        place::<AtomicU32>(&self.map, ENABLED_BYTE).load(Ordering::Relaxed) != 0
    }

    /// Note how much shared memory is in use, in how many blocks, and the level of pressure.
    pub fn sample(&self, bytes: u64, blocks: u64, level: u32) {
        if self.is_enabled() {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: used at once.
            let ring: Ring<SAMPLES> = unsafe { ring(&self.map, SAMPLES_HEAD * 8, SAMPLES_AT) };
            ring.push([clock::now(), bytes, blocks & 0xFFFF_FFFF | u64::from(level) << 32]);
        }
    }

    /// Write the header's words on memory.
    pub fn note(&self, extent: Extent) {
        if self.is_enabled() {
            let words: &[AtomicU64; 3] = place(&self.map, EXTENT * 8);
            for (word, value) in words.iter().zip([extent.peak, extent.committed, extent.collections]) {
                word.store(value, Ordering::Relaxed);
            }
        }
    }
}
