//! Shared memory: an [`Arena`] of pools in sealed memfds, [`file`]s mapped into memory, and the system's [`pressure`].
//!
//! Nothing here knows Python: the core uses it, and so do workers, which see the same segments.

mod arena;
pub mod file;
pub mod files;
mod fork;
pub mod heap;
pub mod index;
mod map;
mod pool;
pub mod pressure;
mod reserve;
pub mod ring;

pub use arena::{
    AllocError, Arena, Block, BlockInfo, Config, Handle, HandleError, PoolConfig, PoolMetrics, SegmentInfo,
};
pub use fork::{Own, PerProcess, current as current_forks, generation as forks};
pub use map::{SharedMap, memfd};
pub use pool::Pin;

/// Bytes of a page: 4096, and on some Arm machines 16,384 or 65,536.
#[must_use]
pub fn page() -> usize {
    // SAFETY: a plain call, which asks the C library alone.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Every block begins at a multiple of this, and takes a multiple of it.
pub const ALIGNMENT: usize = 64;
