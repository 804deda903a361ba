//! Time for telemetry: the processor's own counter where it is steady, else the monotonic clock.
//!
//! Both count from the machine's start, so a host and its workers date calls alike.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

struct Base {
    steady: bool,
    ticks: u64,
    at: Instant,
}

static BASE: OnceLock<Base> = OnceLock::new();
/// Of `BASE`, where a call finds it at once.
static STEADY: AtomicBool = AtomicBool::new(false);

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A counter that runs at one rate and doesn't stop is announced by the kernel.
#[cfg(target_arch = "x86_64")]
fn steady() -> bool {
    std::fs::read_to_string("/proc/cpuinfo")
        .is_ok_and(|text| text.contains(" constant_tsc") && text.contains(" nonstop_tsc"))
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(not(target_arch = "x86_64"))]
fn steady() -> bool {
    false
}

/// Called once at import, so that the rate is known by the time somebody asks.
pub fn start() {
    begin(steady);
}

/// The same with the clock that another process of this machine uses.
pub fn start_like(counter: bool) {
    begin(|| counter && cfg!(target_arch = "x86_64"));
}

fn begin(steady: impl FnOnce() -> bool) {
    let base = BASE.get_or_init(|| Base { steady: steady(), ticks: counter(), at: Instant::now() });
    STEADY.store(base.steady, Ordering::Relaxed);
}

/// Nanoseconds since the machine's start, whichever process asks.
fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills the value; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Now, in ticks of the clock in use.
#[inline]
pub fn now() -> u64 {
    if STEADY.load(Ordering::Relaxed) { counter() } else { monotonic() }
}

/// Is it the processor's counter?
pub fn is_counter() -> bool {
    BASE.get().is_some_and(|base| base.steady)
}

/// Nanoseconds in a tick, from all the time since `start`.
pub fn ns_per_tick() -> f64 {
    match BASE.get() {
        Some(base) if base.steady => {
            // A rate needs a distance: over 10 ms the clock's own error is below 0.01 %.
            let wait = std::time::Duration::from_millis(10).saturating_sub(base.at.elapsed());
            std::thread::sleep(wait);
            let elapsed = base.at.elapsed().as_nanos() as f64;
            elapsed / (counter().wrapping_sub(base.ticks)) as f64
        }
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_counts_like_its_host() {
        start_like(false);
        assert!(!is_counter());
        let ours = now();
        assert!(ours > 1_000_000_000, "from the start of this process: another one would count from its own");
        assert!((ours..ours + 60_000_000_000).contains(&monotonic()));
        start_like(true); // the first counts
        assert!(!is_counter());
    }
}
