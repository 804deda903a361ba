//! Time for telemetry: the processor's own counter where it is steady, else the monotonic clock.

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
    let base = BASE.get_or_init(|| Base { steady: steady(), ticks: counter(), at: Instant::now() });
    STEADY.store(base.steady, Ordering::Relaxed);
}

/// Now, in ticks of the clock in use.
#[inline]
pub fn now() -> u64 {
    if STEADY.load(Ordering::Relaxed) {
        return counter();
    }
    BASE.get().map_or(0, |base| u64::try_from(base.at.elapsed().as_nanos()).unwrap_or(u64::MAX))
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
