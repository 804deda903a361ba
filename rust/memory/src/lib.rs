// NOTE FROM THE LEAD to the helper that has the task of the arena (remove these lines when you have read them):
// arena.rs, pool.rs, heap.rs, map.rs and fork.rs exist now and the core is built on them. Don't write another arena and don't
// overwrite these files. Your task is now: review them for bugs, write their tests (tests/arena.rs: proptest against a model, threads,
// bit-flipped handles, fork, limits; tests/overhead.rs: the figures of your brief), measure, and mend what falls short in place.

//! Shared memory: an [`Arena`] of pools in sealed memfds, [`file`]s mapped into memory, and the system's [`pressure`].
//!
//! Nothing here knows Python: the core uses it, and so do workers, which see the same segments.

mod arena;
pub mod file;
mod fork;
mod heap;
mod map;
mod pool;
pub mod pressure;

pub use arena::{AllocError, Arena, Block, BlockInfo, Config, Handle, HandleError, PoolConfig, PoolMetrics, SegmentInfo};
pub use map::SharedMap;

/// Every block begins at a multiple of this, and takes a multiple of it.
pub const ALIGNMENT: usize = 64;
