//! A doorbell in shared memory: one side raises a number, the other sleeps until it does.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p nif-worker --release model` runs the model at the end of this file: every order of the
//! two sides' steps, and a side that dies between any two of its steps.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};

/// A number that goes up, and somebody who may be asleep until it does.
#[repr(C, align(64))]
pub struct Doorbell {
    number: Word,
    sleepers: AtomicU32,
}

impl Doorbell {
    /// Publish a number; everything that was written before is visible to whoever sees it.
    #[inline]
    pub fn ring(&self, number: u32) {
        if self.publish(number) {
            self.wake();
        }
    }

    /// Publish a number: whether somebody sleeps.
    #[inline]
    fn publish(&self, number: u32) -> bool {
        // Either the sleeper is seen, or it sees the number. The load is part of that order: a relaxed one may come before the
        // swap's store on AArch64, and the wake-up would be lost.
        self.number.number.swap(number, Ordering::SeqCst);
        fence_of_model();
        self.sleepers.load(Ordering::SeqCst) != 0
    }

    #[cold]
    fn wake(&self) {
        self.number.wake();
    }

    /// Wake whoever waits, because nobody will ring any more.
    pub fn silence(&self) {
        self.number.number.fetch_xor(1 << 31, Ordering::SeqCst);
        self.wake();
    }

    /// Have whoever sleeps look up, for a reason other than the number.
    pub fn nudge(&self) {
        self.wake();
    }

    #[inline]
    pub fn look(&self) -> u32 {
        self.number.number.load(Ordering::Acquire)
    }

    /// Sleep until the number isn't `seen` any more, or for so long, or for no reason.
    pub fn sleep(&self, seen: u32, limit: Option<Duration>) {
        self.sleepers.store(1, Ordering::SeqCst);
        fence_of_model();
        self.number.wait(seen, limit);
        // Only the sleeper clears its flag: the ringing side might do so late, when the flag is set for the next sleep.
        self.sleepers.store(0, Ordering::Relaxed);
    }
}

/// Loom treats `SeqCst` accesses as `AcqRel`, so the model needs fences for their total order.
#[inline]
fn fence_of_model() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// A number that processes can sleep on: a futex.
#[cfg(not(loom))]
#[repr(transparent)]
struct Word {
    number: AtomicU32,
}

#[cfg(not(loom))]
impl Word {
    fn wait(&self, seen: u32, limit: Option<Duration>) {
        use rustix::thread::futex;
        use rustix::time::Timespec;
        let limit = limit.map(|it| Timespec { tv_sec: it.as_secs().cast_signed(), tv_nsec: it.subsec_nanos().into() });
        let _ = futex::wait(&self.number, futex::Flags::empty(), seen, limit.as_ref());
    }

    fn wake(&self) {
        use rustix::thread::futex;
        // It can't fail in a way that anybody could do something about.
        let _ = futex::wake(&self.number, futex::Flags::empty(), 1);
    }
}

/// What the kernel does for a futex: to compare and to fall asleep is one step, and so is a wake-up.
#[cfg(loom)]
struct Word {
    number: AtomicU32,
    queue: loom::sync::Mutex<()>,
    woken: loom::sync::Condvar,
}

#[cfg(loom)]
impl Word {
    fn wait(&self, seen: u32, _limit: Option<Duration>) {
        let queue = self.queue.lock().unwrap();
        if self.number.load(Ordering::SeqCst) == seen {
            drop(self.woken.wait(queue).unwrap());
        }
    }

    fn wake(&self) {
        let _queue = self.queue.lock().unwrap();
        self.woken.notify_one();
    }
}

#[cfg(all(test, loom))]
mod model {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;
    use loom::thread;

    use super::*;

    /// Both bells and what they guard: loom fails if two touch it at once, or one before it was published.
    struct Channel {
        request: Doorbell,
        reply: Doorbell,
        asked: UnsafeCell<u32>,
        answered: UnsafeCell<u32>,
    }

    /// SAFETY: the bells say whose turn it is; that is what loom checks.
    unsafe impl Sync for Channel {}
    /// SAFETY: as above.
    unsafe impl Send for Channel {}

    fn bell() -> Doorbell {
        let word =
            Word { number: AtomicU32::new(0), queue: loom::sync::Mutex::new(()), woken: loom::sync::Condvar::new() };
        Doorbell { number: word, sleepers: AtomicU32::new(0) }
    }

    fn channel() -> Arc<Channel> {
        Arc::new(Channel { request: bell(), reply: bell(), asked: UnsafeCell::new(0), answered: UnsafeCell::new(0) })
    }

    /// Sleep until the bell has another number than `seen`.
    fn wait(bell: &Doorbell, seen: u32) -> u32 {
        loop {
            let number = bell.look();
            if number != seen {
                return number;
            }
            bell.sleep(seen, None);
        }
    }

    /// All orders in which no side is held up more often than three times: of all there are, too many.
    fn check(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    #[test]
    fn two_calls_come_and_go() {
        check(|| {
            let host = channel();
            let worker = Arc::clone(&host);
            let served = thread::spawn(move || {
                for turn in 1..=2 {
                    wait(&worker.request, turn - 1);
                    // SAFETY: the request was published, and the host waits.
                    let asked = worker.asked.with(|it| unsafe { *it });
                    // SAFETY: the same.
                    worker.answered.with_mut(|it| unsafe { *it = asked + 1 });
                    worker.reply.ring(turn);
                }
            });
            for turn in 1..=2 {
                // SAFETY: the worker waits for the request.
                host.asked.with_mut(|it| unsafe { *it = 10 * turn });
                host.request.ring(turn);
                assert_eq!(wait(&host.reply, turn - 1), turn);
                // SAFETY: the reply was published.
                assert_eq!(host.answered.with(|it| unsafe { *it }), 10 * turn + 1);
            }
            served.join().unwrap();
        });
    }

    /// The worker dies after so many of its steps: the host, which hears of it from the kernel, sleeps no longer.
    #[test]
    fn a_worker_that_dies_anywhere_wakes_its_host() {
        for steps in 0..=4 {
            check(move || {
                let host = channel();
                let worker = Arc::clone(&host);
                let died = thread::spawn(move || {
                    if steps == 0 {
                        return;
                    }
                    wait(&worker.request, 0);
                    if steps == 1 {
                        return;
                    }
                    // SAFETY: the request was published, and the host waits.
                    worker.answered.with_mut(|it| unsafe { *it = 1 });
                    if steps == 2 {
                        return;
                    }
                    let is_asleep = worker.reply.publish(1);
                    if steps == 3 {
                        return;
                    }
                    if is_asleep {
                        worker.reply.wake();
                    }
                });
                let watched = Arc::clone(&host);
                let watcher = thread::spawn(move || {
                    died.join().unwrap();
                    watched.reply.silence();
                });
                host.request.ring(1);
                let number = wait(&host.reply, 0);
                if number & !(1 << 31) == 1 {
                    // SAFETY: the reply was published, whatever became of the worker then.
                    assert_eq!(host.answered.with(|it| unsafe { *it }), 1);
                } else {
                    assert!(steps < 3, "a published reply is seen");
                }
                watcher.join().unwrap();
            });
        }
    }
}
