//! The thread that looks after a Lab's memory: it samples, collects, and gives back what nobody needs. It takes the GIL only when memory
//! is short.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use nif_memory::PerProcess;
use nif_memory::pressure::{Level, Pressure, Sample};
use pyo3::prelude::*;

use crate::memory::arrays::ArrayMaker;
use crate::memory::common::{Common, lock};
use crate::memory::store::Kept;
use crate::telemetry::sampler::{Extent, Sampler};

/// How often it looks whether the memory in use has changed.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at the system's memory, and two collections.
const TICKS_PER_ROUND: u32 = 10;

/// It ends when this is dropped.
pub struct Keeper {
    _stop: Sender<()>,
    latest: Arc<PerProcess<Mutex<Option<Sample>>>>,
}

struct Round {
    common: Weak<Common>,
    maker: Weak<ArrayMaker>,
    kept: Arc<Kept>,
    sampler: Option<Arc<Sampler>>,
    latest: Arc<PerProcess<Mutex<Option<Sample>>>>,
    pressure: Pressure,
    seen: (usize, usize, Level, u64),
}

impl Keeper {
    pub fn start(common: &Arc<Common>, maker: &Arc<ArrayMaker>, sampler: Option<Arc<Sampler>>) -> io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let latest = Arc::new(PerProcess::new(Mutex::default));
        let mut round = Round {
            common: Arc::downgrade(common),
            maker: Arc::downgrade(maker),
            kept: maker.kept(),
            sampler,
            latest: Arc::clone(&latest),
            pressure: Pressure::new(),
            seen: (0, 0, Level::Normal, 0),
        };
        std::thread::Builder::new().name("nif_lab memory".into()).stack_size(256 << 10).spawn(move || {
            let mut tick = 0;
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                tick += 1;
                let Some(common) = round.common.upgrade() else { break };
                if tick % TICKS_PER_ROUND == 0 {
                    round.look_after(&common);
                }
                round.sample(&common);
            }
        })?;
        Ok(Self { _stop: stop, latest })
    }

    /// The system's memory, as it was last seen.
    pub fn pressure(&self) -> Option<Sample> {
        *lock(self.latest.get())
    }
}

impl Round {
    fn look_after(&mut self, common: &Common) {
        let has_orphans = common.buffers().values().any(|it| it.is_orphan());
        let sample = self.pressure.sample().ok();
        let level = sample.as_ref().map_or(Level::Normal, |it| it.level);
        if has_orphans || level > Level::Normal {
            common.collect();
        }
        if level > Level::Normal {
            // Not while Python ends; and what is upgraded is dropped under the GIL.
            Python::try_attach(|py| self.maker.upgrade().inspect(|maker| maker.store(py).flush()));
            common.arena.trim();
        } else {
            common.arena.age();
        }
        *lock(self.latest.get()) = sample;
    }

    /// Record the memory in use, if it has changed.
    fn sample(&mut self, common: &Common) {
        let (bytes, blocks) = common.arena.active();
        // What the arrays' store keeps is in use to the arena only.
        let (kept_bytes, kept_blocks) = self.kept.get();
        let (bytes, blocks) = (bytes.saturating_sub(kept_bytes), blocks.saturating_sub(kept_blocks));
        let level = lock(self.latest.get()).as_ref().map_or(Level::Normal, |it| it.level);
        let collections = common.collected().collections;
        if self.seen == (bytes, blocks, level, collections) {
            return;
        }
        self.seen = (bytes, blocks, level, collections);
        if let Some(sampler) = &self.sampler {
            let (peak, committed) = common.arena.extent();
            sampler.note(Extent { peak: peak as u64, committed: committed as u64, collections });
            sampler.sample(bytes as u64, blocks as u64, level as u32);
        }
    }
}
