use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nif_loader::clock;

use crate::telemetry::layout::{BUCKETS, CALLS, ERRORS, MAX_BACKENDS, MAX_FUNCTIONS, SHARDS};
use crate::telemetry::sampler::Sampler;
use crate::telemetry::segment::Segment;
use crate::telemetry::slot::{DIRECT, ISOLATED, Slot, bucket};

fn segment() -> Arc<Segment> {
    clock::start();
    Arc::new(Segment::create().unwrap())
}

fn bytes(field: &[AtomicU8]) -> Vec<u8> {
    field.iter().map(|it| it.load(Ordering::Relaxed)).collect()
}

/// The sum over all places, as a reader makes it.
fn sum(segment: &Segment, number: usize, field: impl Fn(&super::layout::Counts) -> &AtomicU64) -> u64 {
    let shown = segment.header().n_shards.load(Ordering::Relaxed) as usize;
    (0..shown).map(|shard| field(segment.counts(shard, number)).load(Ordering::Relaxed)).sum()
}

#[test]
fn buckets_are_in_order_and_narrow() {
    let mut last = 0;
    for ticks in 0..1_000_000_u64 {
        let index = bucket(ticks);
        assert!(index == last || index == last + 1, "{ticks}");
        last = index;
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    // The bounds of a bucket are within an eighth of each other.
    assert_eq!(bucket(8 << 20), bucket((9 << 20) - 1));
    assert_eq!(bucket(9 << 20), bucket(8 << 20) + 1);
}

#[test]
fn a_segment_describes_itself() {
    let it = segment();
    assert_eq!(it.header().magic.load(Ordering::Relaxed).to_le_bytes(), *b"NIFLABTM");
    assert_eq!(it.add_backend("rust"), Ok(0));
    assert_eq!(it.add_backend("zig"), Ok(1));
    assert_eq!(it.header().n_backends.load(Ordering::Relaxed), 2);
    assert_eq!(it.add_backend("rust"), Ok(0));
    for number in 2..MAX_BACKENDS {
        it.add_backend(&number.to_string()).unwrap();
    }
    assert!(it.add_backend("one too many").is_err());
    Sampler::new(&it).sample(10, u64::MAX, 0);
    assert_eq!(it.samples().head.load(Ordering::Relaxed), 1);
}

#[test]
fn text_is_cut_between_characters() {
    let it = segment();
    let field = &it.errors().records[0].text[..4];
    Segment::write(field, "abcé");
    assert_eq!(bytes(field), b"abc\0");
    Segment::write(field, "ab");
    assert_eq!(bytes(field), b"ab\0\0");
}

/// More threads than places, without a lock between them.
#[test]
fn threads_lose_no_count() {
    const THREADS: u64 = 2 * SHARDS as u64;
    const EACH: u64 = 5_000;
    let it = segment();
    let slot = Slot::new(&it, 0, DIRECT, "f", 0).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let slot = &slot;
            scope.spawn(move || {
                for i in 0..EACH {
                    if slot.is_next_timed() {
                        slot.succeed(Some((clock::now(), 1 + (thread + i) % 100)));
                    } else {
                        slot.succeed(None);
                    }
                    if i % 1000 == 0 {
                        slot.fail(3, -1, &format!("thread {thread}"));
                    }
                }
            });
        }
    });
    assert_eq!(sum(&it, 0, |it| &it.calls), THREADS * (EACH + EACH / 1000));
    assert_eq!(sum(&it, 0, |it| &it.errors), THREADS * EACH / 1000);
    let timed = sum(&it, 0, |it| &it.timed);
    assert!(timed >= THREADS * EACH / 64, "{timed}");
    assert_eq!((0..BUCKETS).map(|i| sum(&it, 0, |it| &it.histogram[i])).sum::<u64>(), timed);
    // Records are whole: the text says what the number does.
    let errors = it.errors();
    let head = errors.head.load(Ordering::Relaxed);
    assert_eq!(head, THREADS * EACH / 1000);
    for (number, record) in errors.records.iter().take((head as usize).min(ERRORS)).enumerate() {
        assert_eq!(record.commit.load(Ordering::Relaxed), number as u64 + 1);
        assert!(bytes(&record.text).starts_with(b"thread "));
    }
    assert_eq!(it.calls(0).records.len(), CALLS);
}

/// A thread that ends leaves its place to the next.
#[test]
fn places_come_back() {
    let it = segment();
    let slot = Slot::new(&it, 0, DIRECT, "f", 0).unwrap();
    for _ in 0..4 * SHARDS {
        std::thread::scope(|scope| {
            scope.spawn(|| slot.succeed(Some((clock::now(), 1))));
        });
    }
    assert_eq!(sum(&it, 0, |it| &it.calls), 4 * SHARDS as u64);
}

#[test]
fn slots_come_back_and_their_counters_go_on() {
    let it = segment();
    let enter = |name: &str| Slot::new(&it, 0, DIRECT, name, 0);
    for _ in 0..3 * MAX_FUNCTIONS {
        // A timed call, as the first one of each thread is: it shows the thread's place to readers.
        enter("again").unwrap().succeed(Some((clock::now(), 1)));
    }
    assert_eq!(it.header().n_functions.load(Ordering::Relaxed), 1);
    assert_eq!(sum(&it, 0, |it| &it.calls), 3 * MAX_FUNCTIONS as u64);
    // Two of one name at a time count together; the place is given back when both are gone.
    let (one, other) = (enter("again").unwrap(), enter("again").unwrap());
    drop(one);
    let held: Vec<Slot> = (1..MAX_FUNCTIONS).map(|i| enter(&i.to_string()).unwrap()).collect();
    assert!(enter("one too many").is_err());
    drop(other);
    let next = enter("next").unwrap();
    assert_eq!(sum(&it, 0, |it| &it.calls), 0);
    next.succeed(None);
    assert_eq!(sum(&it, 0, |it| &it.calls), 1);
    assert!(enter("again").is_err());
    drop(held);
    // The one that has been gone longest makes room.
    assert!(enter("again").is_ok());
    assert!(enter("1").is_ok());
}

#[test]
fn what_a_worker_says_of_time_is_checked() {
    let it = segment();
    let slot = Slot::new(&it, 0, ISOLATED, "f", 0).unwrap();
    let base = it.header().base_ticks.load(Ordering::Relaxed);
    for (start, ticks) in [(u64::MAX, u64::MAX), (0, u64::MAX), (base, 1 << 60), (u64::MAX / 2, u64::MAX / 2)] {
        slot.succeed(Some((start, ticks)));
    }
    assert_eq!((sum(&it, 0, |it| &it.calls), sum(&it, 0, |it| &it.timed)), (4, 0));
    // A plausible length with a date that can't be is dated anew.
    slot.succeed(Some((u64::MAX, 1)));
    slot.succeed(Some((base, 1)));
    assert_eq!((sum(&it, 0, |it| &it.calls), sum(&it, 0, |it| &it.timed)), (6, 2));
    let starts: HashSet<bool> =
        it.times().records[..2].iter().map(|it| it.words[0].load(Ordering::Relaxed) >= base).collect();
    assert_eq!(starts, HashSet::from([true]));
    // In this process any number is taken, and no sum overflows.
    let here = Slot::new(&it, 0, DIRECT, "f", 0).unwrap();
    for _ in 0..3 {
        here.note(u64::MAX);
        here.succeed(Some((u64::MAX, u64::MAX)));
    }
    assert_eq!(sum(&it, 1, |it| &it.calls), 6);
    assert_eq!(sum(&it, 1, |it| &it.total), u64::MAX);
}

#[test]
fn the_switch_stops_everything() {
    let it = segment();
    let slot = Slot::new(&it, 0, DIRECT, "f", 0).unwrap();
    for _ in 0..100 {
        slot.succeed(slot.is_next_timed().then(|| (clock::now(), 1)));
    }
    assert!(slot.mine().is_plain());
    it.enable(false);
    assert!(!slot.mine().is_plain() && !slot.is_next_timed());
    slot.succeed(None);
    slot.note(1);
    slot.fail(1, -1, "no");
    assert_eq!(sum(&it, 0, |it| &it.calls), 100);
    it.enable(true);
    assert!(slot.is_next_timed());
    slot.succeed(Some((clock::now(), 1)));
    assert_eq!(sum(&it, 0, |it| &it.calls), 101);
}

#[test]
fn a_child_of_fork_counts_for_itself() {
    let it = segment();
    it.add_backend("rust").unwrap();
    let slot = Slot::new(&it, 0, DIRECT, "f", 7).unwrap();
    slot.succeed(None);
    // SAFETY: the child looks at its own memory and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let timed = slot.is_next_timed();
        slot.succeed(timed.then(|| (clock::now(), 1)));
        slot.succeed(None);
        let header = it.header();
        let right = timed
            && sum(&it, 0, |it| &it.calls) == 2
            && header.pid.load(Ordering::Relaxed) == std::process::id()
            && header.n_functions.load(Ordering::Relaxed) == 1;
        // SAFETY: nothing of the parent's is run at its end.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    let mut status = 0;
    // SAFETY: the child is this test's own.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(sum(&it, 0, |it| &it.calls), 1);
    assert_eq!(it.header().pid.load(Ordering::Relaxed), std::process::id());
}
