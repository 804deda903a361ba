//! How long a call may take, and how often a caller that waits looks for signals.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a waiting caller asks Python for signals.
pub const TICK: Duration = Duration::from_millis(50);

/// What one try is given.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    pub timeout: Option<Duration>,
    /// A seed for the worker to answer nonsense by; 0 for a try in earnest.
    pub garble: u32,
}

/// A moment after which a call is stopped, counted from when it was made: what it waits for counts too.
#[derive(Clone, Copy)]
pub struct Deadline {
    /// None if no clock goes so far.
    end: Option<Instant>,
    pub seconds: f64,
}

impl Limits {
    /// The deadline of a call that is made now; none if it may take as long as it takes.
    pub fn deadline(&self) -> Option<Deadline> {
        self.timeout.map(|it| Deadline { end: Instant::now().checked_add(it), seconds: it.as_secs_f64() })
    }
}

impl Deadline {
    /// How long to wait before the next look for signals; zero after the deadline.
    pub fn left(deadline: Option<Self>) -> Duration {
        let end = deadline.and_then(|it| it.end);
        end.map_or(TICK, |it| it.saturating_duration_since(Instant::now()).min(TICK))
    }

    /// The deadline, if it has passed.
    pub fn passed(deadline: Option<Self>) -> Option<Self> {
        deadline.filter(|it| it.end.is_some_and(|end| end <= Instant::now()))
    }
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
