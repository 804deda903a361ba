//! What the telemetry segment knows of memory: samples of what is in use, and how far it has grown. No GIL is needed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use nif_loader::clock;

use crate::telemetry::segment::Segment;
use crate::telemetry::shard::MANY;

/// Writes into one segment, from any thread.
pub struct Sampler {
    segment: Arc<Segment>,
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
    pub fn new(segment: &Arc<Segment>) -> Self {
        Self { segment: Arc::clone(segment), turn: Mutex::new(()) }
    }

    /// Note how much shared memory is in use, in how many blocks, and the level of pressure.
    pub fn sample(&self, bytes: u64, blocks: u64, level: u32) {
        if self.segment.is_enabled() {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let words = [clock::now(), bytes, blocks.min(0xFFFF_FFFF) | u64::from(level) << 32];
            self.segment.samples().write::<MANY>(|it| it.fill(words));
        }
    }

    /// Write the header's words on memory.
    pub fn note(&self, extent: Extent) {
        if self.segment.is_enabled() {
            let header = self.segment.header();
            header.peak.store(extent.peak, Ordering::Relaxed);
            header.committed.store(extent.committed, Ordering::Relaxed);
            header.collections.store(extent.collections, Ordering::Relaxed);
        }
    }
}
