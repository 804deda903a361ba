//! Memory of graphics processors (GPUs): the [`driver`], which is opened at run time, its [`device`]s, [`pool`]s of memory that other
//! processes can map, arrays ([`buffers`]) and [`kernels`] there by numbers, and the [`services`] that libraries get.
//!
//! Nothing here knows Python, and nothing is loaded before somebody asks for a device.

pub mod buffers;
pub mod device;
pub mod driver;
pub mod error;
mod handle;
pub mod kernels;
mod pinned;
pub mod pool;
pub mod services;

pub use device::Device;
pub use driver::{Driver, Kind, Table};
pub use error::{Error, Result};
pub use handle::{Handle, foreign_number};
pub use pinned::Pinned;
pub use pool::{Block, Exported, Metrics, Pool, Window};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock whose holder may have panicked: what it guards is whole between any two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
