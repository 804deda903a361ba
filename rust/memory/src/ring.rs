//! A ring of records in shared memory: the last ones of a kind, for readers who may look at any time and hold up nobody.
//!
//! `make model` runs the model at the end of this file: every order of the writers' and a reader's steps, and a writer that dies
//! between any two of its steps.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// What a record's first word is while somebody writes the rest.
pub const BUSY: u64 = u64::MAX;

/// What a ring is made of.
pub trait Record {
    /// The first word: the record's number plus 1 when the rest is whole.
    fn commit(&self) -> &AtomicU64;
}

/// The last records, and how many there ever were.
pub struct Ring<'a, R: 'static> {
    pub head: &'a AtomicU64,
    pub records: &'a [R],
}

impl<'a, R: Record> Ring<'a, R> {
    /// Let `fill` write the next record's other words. `MANY`: others may write at the same time.
    ///
    /// A reader sees a record as whole when its first word is its number plus 1 before and after. Where many threads write, two
    /// may come to one place, a whole round apart: the second leaves its record out.
    #[inline]
    pub fn write<const MANY: bool>(&self, fill: impl FnOnce(&R)) {
        if let Some((number, record)) = self.begin::<MANY>() {
            fill(record);
            self.end::<MANY>(number, record);
        }
    }

    #[inline]
    fn begin<const MANY: bool>(&self) -> Option<(u64, &'a R)> {
        let number = if MANY { self.head.fetch_add(1, Ordering::Relaxed) } else { self.head.load(Ordering::Relaxed) };
        #[allow(clippy::cast_possible_truncation, reason = "the remainder is the same")]
        let record = self.records.get(number as usize % self.records.len().max(1))?;
        if !MANY {
            record.commit().store(BUSY, Ordering::Relaxed);
        } else if record.commit().swap(BUSY, Ordering::Acquire) == BUSY {
            return None;
        }
        fence(Ordering::Release);
        Some((number, record))
    }

    #[inline]
    fn end<const MANY: bool>(&self, number: u64, record: &R) {
        record.commit().store(number.wrapping_add(1), Ordering::Release);
        if !MANY {
            self.head.store(number.wrapping_add(1), Ordering::Release);
        }
    }

    /// What `look` finds in a record, if that is the one of this number and whole; so do readers in other languages.
    #[cfg(any(test, loom))]
    fn read<T>(&self, number: u64, look: impl FnOnce(&R) -> T) -> Option<T> {
        let record = &self.records[usize::try_from(number).ok()? % self.records.len()];
        let is_it = record.commit().load(Ordering::Acquire) == number + 1;
        let found = look(record);
        fence(Ordering::Acquire);
        (is_it && record.commit().load(Ordering::Relaxed) == number + 1).then_some(found)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Pair([AtomicU64; 3]);

    impl Record for Pair {
        fn commit(&self) -> &AtomicU64 {
            &self.0[0]
        }
    }

    /// Eight threads at once, in earnest, and a reader who never waits: what it takes for whole is whole.
    #[test]
    fn no_reader_sees_half_a_record() {
        let (head, records) = (AtomicU64::new(0), std::array::from_fn::<Pair, 4, _>(|_| Pair(Default::default())));
        let records: &'static [Pair] = Box::leak(Box::new(records));
        let writers = std::sync::atomic::AtomicUsize::new(8);
        let seen = std::thread::scope(|scope| {
            for writer in 1..=8_u64 {
                let (head, writers) = (&head, &writers);
                scope.spawn(move || {
                    for turn in 0..5_000 {
                        Ring { head, records }.write::<true>(|it| {
                            it.0[1].store(writer << 32 | turn, Ordering::Relaxed);
                            it.0[2].store(!(writer << 32 | turn), Ordering::Relaxed);
                        });
                    }
                    writers.fetch_sub(1, Ordering::Release);
                });
            }
            let (ring, mut seen) = (Ring { head: &head, records }, 0);
            while writers.load(Ordering::Acquire) > 0 || seen == 0 {
                let now = head.load(Ordering::Acquire);
                for number in now.saturating_sub(4)..now {
                    let words = |it: &Pair| [1, 2].map(|word| it.0[word].load(Ordering::Relaxed));
                    if let Some([one, other]) = ring.read(number, words) {
                        assert_eq!(one, !other);
                        seen += 1;
                    }
                }
            }
            seen
        });
        assert!(seen > 0 && head.into_inner() == 40_000);
    }
}

#[cfg(all(test, loom))]
mod model {
    use std::sync::Arc;

    use loom::thread;

    use super::*;

    struct Pair([AtomicU64; 3]);

    impl Record for Pair {
        fn commit(&self) -> &AtomicU64 {
            &self.0[0]
        }
    }

    struct Shared {
        head: AtomicU64,
        records: Vec<Pair>,
    }

    impl Shared {
        fn of(places: usize) -> Arc<Self> {
            let pair = |_| Pair(std::array::from_fn(|_| AtomicU64::new(0)));
            Arc::new(Self { head: AtomicU64::new(0), records: (0..places).map(pair).collect() })
        }

        fn ring(&self) -> Ring<'_, Pair> {
            Ring { head: &self.head, records: &self.records }
        }

        /// Write a record whose two words say the same, and die after so many steps of that.
        fn write<const MANY: bool>(&self, word: u64, steps: usize) {
            if steps == 0 {
                return;
            }
            let Some((number, record)) = self.ring().begin::<MANY>() else { return };
            for place in 1..=2 {
                if steps == place {
                    return;
                }
                record.0[place].store(word, Ordering::Relaxed);
            }
            if steps > 3 {
                self.ring().end::<MANY>(number, record);
            }
        }

        /// The word of that record, if it is whole.
        fn read(&self, number: u64) -> Option<u64> {
            let words = |it: &Pair| [1, 2].map(|word| it.0[word].load(Ordering::Relaxed));
            let [one, other] = self.ring().read(number, words)?;
            assert_eq!(one, other, "half of one record and half of another");
            Some(one)
        }
    }

    /// All of a write's steps.
    const WHOLE: usize = 4;

    fn check(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    /// Under the GIL: one writer, whose second record takes the place of its first.
    #[test]
    fn a_reader_beside_one_writer_sees_whole_records() {
        for steps in 0..=WHOLE {
            check(move || {
                let shared = Shared::of(1);
                let writer = Arc::clone(&shared);
                let writes = thread::spawn(move || {
                    writer.write::<false>(10, WHOLE);
                    writer.write::<false>(20, steps);
                });
                for number in 0..=1 {
                    if let Some(word) = shared.read(number) {
                        assert_eq!(word, 10 * (number + 1));
                    }
                }
                writes.join().unwrap();
                match steps {
                    WHOLE => assert_eq!((shared.read(0), shared.read(1)), (None, Some(20))),
                    0 => assert_eq!(shared.read(0), Some(10)),
                    _ => assert_eq!((shared.read(0), shared.read(1)), (None, None)),
                }
            });
        }
    }

    /// Without the GIL: two writers that come to the same place, one of which dies anywhere.
    #[test]
    fn a_reader_beside_two_writers_sees_whole_records() {
        for steps in 0..=WHOLE {
            check(move || {
                let shared = Shared::of(1);
                let writers: Vec<_> = [(10, WHOLE), (20, steps)]
                    .into_iter()
                    .map(|(word, steps)| {
                        let shared = Arc::clone(&shared);
                        thread::spawn(move || shared.write::<true>(word, steps))
                    })
                    .collect();
                for number in 0..=1 {
                    shared.read(number);
                }
                for it in writers {
                    it.join().unwrap();
                }
                let left: Vec<u64> = (0..=1).filter_map(|number| shared.read(number)).collect();
                assert!(left.len() <= 1 && left.iter().all(|it| [10, 20].contains(it)), "{left:?}");
            });
        }
    }
}
