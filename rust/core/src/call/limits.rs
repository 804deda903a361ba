//! How long a call may take, and how often a caller that waits looks for signals.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often a waiting caller asks Python for signals.
pub const TICK: Duration = Duration::from_millis(50);

/// What one try is given.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    pub timeout: Option<Duration>,
    /// A seed for the worker to answer nonsense by; 0 for a try in earnest.
    pub garble: u32,
}

/// A function's own limits.
#[derive(Default)]
pub struct Timeout(AtomicU64);

impl Timeout {
    pub fn set(&self, limit: Option<Duration>) {
        self.0.store(limit.map_or(0, |it| it.as_nanos().clamp(1, u128::from(u64::MAX)) as u64), Ordering::Relaxed);
    }

    pub fn get(&self) -> Option<Duration> {
        Some(self.0.load(Ordering::Relaxed)).filter(|it| *it != 0).map(Duration::from_nanos)
    }
}
