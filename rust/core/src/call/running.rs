//! Which calls run in a library: whoever wants to close it asks.

use std::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

use crate::telemetry::layout::SHARDS;
use crate::telemetry::shard::{self, MANY};

/// The calls of a library that run.
#[derive(Default)]
pub struct Calls {
    /// By the place of the thread that called: nobody else writes there, so a call costs two plain stores.
    here: [Place; SHARDS],
    /// On other threads than those that wait for them.
    handed_over: Place,
}

/// In its lower half how many run; in the upper half how often none did. It has a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Place(AtomicUsize);

const HALF: u32 = usize::BITS / 2;

/// Does none run?
fn is_idle(word: usize) -> bool {
    word << HALF == 0
}

/// The word when one more has ended.
fn ended(word: usize) -> usize {
    let rest = word.wrapping_sub(1);
    if is_idle(rest) { rest.wrapping_add(1 << HALF) } else { rest }
}

/// While it lives, a call of this thread runs.
pub struct Here<'a> {
    word: &'a AtomicUsize,
    is_shared: bool,
}

/// What ran at a moment; none where the system doesn't let that be known.
pub struct Moment(Option<[usize; SHARDS + 1]>);

impl Calls {
    /// A call of this thread begins: to be said before it looks where its function is.
    #[inline]
    pub fn begin(&self) -> Here<'_> {
        let place = shard::mine();
        let it = Here { word: &self.here[place].0, is_shared: MANY && place == SHARDS - 1 };
        if it.is_shared {
            it.word.fetch_add(1, Ordering::Relaxed);
        } else {
            it.word.store(it.word.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        // The processor's part is `now`'s.
        compiler_fence(Ordering::SeqCst);
        it
    }

    /// The same of a call that calls no Python. Under the GIL it is over whenever another thread looks, so it isn't counted.
    #[inline]
    pub fn begin_plain(&self) -> Option<Here<'_>> {
        MANY.then(|| self.begin())
    }

    /// A call begins that another thread makes.
    pub fn hand_over(&self) {
        self.handed_over.0.fetch_add(1, Ordering::Relaxed);
    }

    /// That call is over.
    pub fn come_back(&self) {
        end(&self.handed_over.0);
    }

    fn words(&self) -> [usize; SHARDS + 1] {
        let word = |it: &Place| it.0.load(Ordering::Acquire);
        std::array::from_fn(|place| word(self.here.get(place).unwrap_or(&self.handed_over)))
    }

    /// What runs now. A call that isn't in it will look where its function is, and sees what was written before.
    pub fn now(&self) -> Moment {
        Moment((!MANY || let_others_catch_up()).then(|| self.words()))
    }

    /// Are all calls over that ran then?
    pub fn are_over(&self, then: &Moment) -> bool {
        let Some(then) = &then.0 else { return false };
        self.words().iter().zip(then).all(|(now, then)| is_idle(*now) || now >> HALF != then >> HALF)
    }
}

/// Count one less where several threads write.
fn end(word: &AtomicUsize) {
    // What the call read of the library comes before whoever sees that it is over, and closes it.
    let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, |it| Some(ended(it)));
}

impl Drop for Here<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_shared {
            end(self.word);
        } else {
            self.word.store(ended(self.word.load(Ordering::Relaxed)), Ordering::Release);
        }
    }
}

/// Have every running thread of the process finish its stores: a call that has seen the former functions is then counted for
/// all to see. So a call needs no barrier of its own. False where the system doesn't do that.
fn let_others_catch_up() -> bool {
    let ask = |command: libc::c_int| {
        // SAFETY: the commands take no more arguments.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    };
    ask(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && ask(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_then_count() {
        let calls = Calls::default();
        assert!(calls.are_over(&calls.now()));
        let (outer, inner) = (calls.begin(), calls.begin());
        let then = calls.now();
        drop(outer);
        assert!(!calls.are_over(&then));
        drop(inner);
        let _later = calls.begin();
        assert!(calls.are_over(&then) && !calls.are_over(&calls.now()));
    }

    #[test]
    fn a_call_may_end_on_another_thread() {
        let calls = Calls::default();
        calls.hand_over();
        let then = calls.now();
        assert!(!calls.are_over(&then));
        std::thread::scope(|scope| scope.spawn(|| calls.come_back()).join().unwrap());
        assert!(calls.are_over(&then));
    }

    #[test]
    fn calls_of_more_threads_than_places_are_counted() {
        let calls = Calls::default();
        let begun = std::sync::Barrier::new(2 * SHARDS + 1);
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        drop(calls.begin());
                    }
                    let _last = calls.begin();
                    begun.wait();
                    begun.wait();
                });
            }
            begun.wait();
            assert!(!calls.are_over(&calls.now()));
            begun.wait();
        });
        assert!(calls.are_over(&calls.now()));
    }
}
