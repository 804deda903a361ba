//! The arena against a simple model of itself: what it hands out, what it refuses, what it gives back.

#![allow(clippy::cast_possible_truncation, reason = "handles are taken apart into their bits; addresses have 64")]

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use nif_memory::{AllocError, Arena, Block, Config, Handle, HandleError, PoolConfig};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Pools that are full soon, so that all ways are gone.
fn tiny() -> Config {
    let pool = |name: &str, block_bytes, blocks, limit_bytes| PoolConfig {
        name: name.into(),
        block_bytes,
        blocks,
        limit_bytes,
    };
    let pools = vec![
        pool("small", 4 << 10, 8, 96 << 10),
        pool("medium", 64 << 10, 4, 768 << 10),
        pool("large", 256 << 10, 4, 4 << 20),
    ];
    Config { pools }
}

/// The bytes of a block, which the test owns until it releases it.
#[expect(clippy::mut_from_ref, reason = "the block is a pointer; its bytes are not part of it")]
fn contents(block: &Block) -> &mut [u8] {
    // SAFETY: the block is live, and each is looked at by one thread at a time.
    unsafe { std::slice::from_raw_parts_mut(block.address.as_ptr(), block.size) }
}

/// A test's own randomness; the seed shows if it fails.
fn seeded(name: &str) -> StdRng {
    let seed = std::env::var("NIF_LAB_SEED").ok().and_then(|it| it.parse().ok()).unwrap_or_else(rand::random);
    println!("{name}: NIF_LAB_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// The status that a child by fork ends with: 0 if `check` holds there.
fn in_child(check: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child runs the closure and leaves at once; glibc lets it allocate.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::alarm(10);
            libc::_exit(i32::from(!check()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        status
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(usize, bool),
    Release(usize),
    ReleaseAt(usize),
    Trim,
    Age,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![0..130_usize, 0..5000_usize, 0..70_000_usize, 0..400_000_usize, Just(4096), Just(65536)];
    let step = prop_oneof![
        6 => (size, any::<bool>()).prop_map(|(size, zeroed)| Step::Allocate(size, zeroed)),
        3 => any::<usize>().prop_map(Step::Release),
        2 => any::<usize>().prop_map(Step::ReleaseAt),
        1 => Just(Step::Trim),
        1 => Just(Step::Age),
    ];
    prop::collection::vec(step, 1..200)
}

/// Live blocks by address, each with the byte that it is filled with.
#[derive(Default)]
struct Model {
    live: BTreeMap<usize, (Block, u8)>,
    gone: Vec<Handle>,
    number: u8,
}

impl Model {
    fn add(&mut self, block: Block, zeroed: bool) {
        let (start, size) = (block.address.as_ptr() as usize, block.size);
        assert_eq!(start % 64, 0);
        let end = start + size.max(1);
        if let Some((before, (other, _))) = self.live.range(..end).next_back() {
            assert!(before + other.size.max(1) <= start, "two blocks overlap");
        }
        assert!(!zeroed || contents(&block).iter().all(|byte| *byte == 0), "not zero");
        self.number = self.number % 255 + 1;
        contents(&block).fill(self.number);
        self.live.insert(start, (block, self.number));
    }

    fn take(&mut self, which: usize) -> Option<Block> {
        let address = *self.live.keys().nth(which % self.live.len().max(1))?;
        let (block, byte) = self.live.remove(&address)?;
        assert!(contents(&block).iter().all(|it| *it == byte), "somebody wrote into the block");
        self.gone.push(block.handle);
        Some(block)
    }

    fn check(&self, arena: &Arena) {
        let bytes: usize = self.live.values().map(|(block, _)| block.size).sum();
        assert_eq!(arena.active(), (bytes, self.live.len()));
        for (block, byte) in self.live.values() {
            assert_eq!(arena.resolve(block.handle), Ok((block.address, block.size)));
            assert!(contents(block).iter().all(|it| it == byte), "somebody wrote into the block");
            let start = block.address.as_ptr() as usize;
            assert_eq!(arena.find(start, block.size), Some((block.handle, 0)));
            assert_eq!(arena.find(start, block.size + 64), None, "two blocks are not one");
            if block.size > 0 {
                assert_eq!(arena.find(start + block.size - 1, 1), Some((block.handle, block.size - 1)));
                assert_eq!(arena.find(start + block.size - 1, 2), None);
            }
        }
        for handle in &self.gone {
            assert!(arena.resolve(*handle).is_err() && arena.release(*handle).is_err(), "a freed block is refused");
        }
        for pool in 0..arena.metrics().len() {
            let blocks = arena.blocks(pool);
            for pair in blocks.windows(2).filter(|it| it[0].segment == it[1].segment) {
                assert_eq!(pair[0].offset + pair[0].size as u64, pair[1].offset, "blocks lie side by side");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_arena_does_as_its_model_does(steps in steps()) {
        let arena = Arena::new(tiny());
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Allocate(size, zeroed) => match arena.allocate(size, zeroed) {
                    Ok(block) => model.add(block, zeroed),
                    Err(error) => prop_assert!(matches!(error, AllocError::PoolFull { .. }), "{error}"),
                },
                Step::Release(which) => if let Some(block) = model.take(which) {
                    prop_assert_eq!(arena.release(block.handle), Ok(()));
                    prop_assert_eq!(arena.release(block.handle).is_err(), true, "released twice");
                },
                Step::ReleaseAt(which) => if let Some(block) = model.take(which) {
                    prop_assert_eq!(arena.release_at(block.address), Ok(()));
                    prop_assert_eq!(arena.release_at(block.address).is_err(), true, "released twice");
                },
                Step::Trim => { arena.trim(); }
                Step::Age => { arena.age(); }
            }
        }
        model.check(&arena);
        arena.trim();
        model.check(&arena);
        while let Some(block) = model.take(0) {
            arena.release(block.handle).unwrap();
        }
        arena.trim();
        for pool in arena.metrics() {
            prop_assert_eq!((pool.active_bytes, pool.active_blocks, pool.committed_bytes), (0, 0, 0), "{} isn't empty", pool.name);
            prop_assert_eq!(pool.allocations, pool.releases);
        }
    }
}

#[test]
fn a_block_above_the_largest_goes_alone() {
    let arena = Arena::new(tiny());
    let neighbour = arena.allocate(100 << 10, false).unwrap();
    contents(&neighbour).fill(7);
    let block = arena.allocate(300 << 10, true).unwrap();
    contents(&block).fill(8);
    arena.release(block.handle).unwrap();
    assert_eq!(arena.resolve(neighbour.handle), Ok((neighbour.address, neighbour.size)));
    assert!(contents(&neighbour).iter().all(|byte| *byte == 7));
    arena.release(neighbour.handle).unwrap();
}

#[test]
fn a_damaged_handle_is_refused() {
    let (arena, other) = (Arena::new(tiny()), Arena::new(tiny()));
    let sizes = [0, 1, 64, 100, 4096, 4097, 50_000, 65_537, 300_000];
    let blocks = sizes.map(|size| arena.allocate(size, false).unwrap());
    for block in &blocks {
        let Handle { segment, generation, offset } = block.handle;
        assert_ne!(generation, 0);
        assert_eq!(other.resolve(block.handle), Err(HandleError::Unknown));
        for bit in 0..192 {
            let flip = |word: u64, first: u32| word ^ u64::from(bit / 64 == first) << (bit % 64);
            let bad = Handle { segment: flip(segment, 0), generation: flip(generation, 1), offset: flip(offset, 2) };
            assert!(arena.resolve(bad).is_err(), "bit {bit} of {:?}", block.handle);
            assert!(arena.release(bad).is_err(), "bit {bit} of {:?}", block.handle);
        }
        assert_eq!(arena.resolve(block.handle), Ok((block.address, block.size)));
    }
}

#[test]
fn a_freed_block_stays_freed() {
    let arena = Arena::new(tiny());
    let first = arena.allocate(1000, false).unwrap();
    arena.release(first.handle).unwrap();
    assert_eq!(arena.resolve(first.handle), Err(HandleError::Stale));
    let second = arena.allocate(1000, false).unwrap();
    assert_eq!(first.address, second.address, "it is warm");
    assert_eq!(arena.release(first.handle), Err(HandleError::Stale), "though its place is in use again");
    assert!(arena.release_at(NonNull::from(&arena).cast()).is_err());
    // SAFETY: a place inside the block.
    assert!(arena.release_at(unsafe { second.address.add(64) }).is_err(), "no block begins there");
    arena.release_at(second.address).unwrap();
}

#[test]
fn a_full_pool_says_so_and_goes_on() {
    let arena = Arena::new(tiny());
    let mut blocks = Vec::new();
    let error = loop {
        match arena.allocate(60 << 10, false) {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };
    assert!(blocks.len() >= 12, "the limit has room for 12");
    let text = error.to_string();
    assert!(text.contains("'medium'") && text.contains("release") && text.contains("limit"), "{text}");
    assert!(arena.allocate(100, false).is_ok(), "other pools have room");
    arena.release(blocks.pop().unwrap().handle).unwrap();
    assert!(arena.allocate(60 << 10, false).is_ok());
    assert!(arena.allocate(usize::MAX, false).is_err());
    assert!(arena.allocate(usize::MAX / 64, true).is_err());
}

#[test]
fn trimming_gives_back_and_spares_what_lives() {
    let arena = Arena::new(Config::default());
    let blocks: Vec<Block> = (0..40).map(|_| arena.allocate(1 << 20, false).unwrap()).collect();
    for block in &blocks {
        contents(block).fill(9);
    }
    for block in blocks.iter().skip(1).step_by(2) {
        arena.release(block.handle).unwrap();
    }
    let given = arena.trim();
    assert!(given >= 19 << 20, "{given}");
    assert_eq!(arena.trim(), 0);
    assert!(blocks.iter().step_by(2).all(|it| contents(it).iter().all(|byte| *byte == 9)));
    let fresh = arena.allocate(1 << 20, true).unwrap();
    assert!(contents(&fresh).iter().all(|byte| *byte == 0));
    let committed: usize = arena.metrics().iter().map(|it| it.committed_bytes).sum();
    assert!(committed <= 21 << 20, "{committed}");
}

#[test]
fn many_threads_share_it() {
    let operations = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    let arena = Arc::new(Arena::new(Config::default()));
    let passed = Arc::new(Mutex::new(Vec::<Marked>::new()));
    let seed = seeded("threads").random::<u64>();
    let threads: Vec<_> = (0..8_u8)
        .map(|thread| {
            let (arena, passed) = (Arc::clone(&arena), Arc::clone(&passed));
            std::thread::spawn(move || {
                let mut random = StdRng::seed_from_u64(seed + u64::from(thread));
                let mut mine: Vec<Marked> = Vec::new();
                for step in 0..operations {
                    if mine.len() < 20 && random.random_bool(0.5) || mine.is_empty() {
                        let size = 1 << random.random_range(0..if step % 1000 == 0 { 21 } else { 14 });
                        let block = arena.allocate(size + random.random_range(0..size), false).unwrap();
                        mark(&block, thread);
                        mine.push(Marked(block, thread));
                    } else {
                        let at = random.random_range(0..mine.len());
                        let Marked(block, owner) = mine.swap_remove(at);
                        assert!(is_marked(&block, owner), "somebody else wrote into the block");
                        // Blocks go back on other threads, too.
                        if random.random_bool(0.1) {
                            let mut passed = passed.lock().unwrap();
                            passed.push(Marked(block, owner));
                            if passed.len() > 8 {
                                mine.push(passed.swap_remove(0));
                            }
                        } else if random.random_bool(0.5) {
                            arena.release(block.handle).unwrap();
                        } else {
                            arena.release_at(block.address).unwrap();
                        }
                    }
                    if thread == 0 && step % (operations / 20) == 0 {
                        arena.trim();
                        arena.age();
                    }
                }
                for Marked(block, owner) in mine {
                    assert!(is_marked(&block, owner));
                    arena.release(block.handle).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    for Marked(block, owner) in passed.lock().unwrap().drain(..) {
        assert!(is_marked(&block, owner));
        arena.release(block.handle).unwrap();
    }
    assert_eq!(arena.active(), (0, 0));
    arena.trim();
    assert_eq!(arena.metrics().iter().map(|it| it.committed_bytes).sum::<usize>(), 0);
}

/// A block and who marked it.
struct Marked(Block, u8);
// SAFETY: one thread has it at a time.
unsafe impl Send for Marked {}

fn mark(block: &Block, byte: u8) {
    let bytes = contents(block);
    let last = bytes.len() - 1;
    (bytes[0], bytes[last]) = (byte, byte);
}

fn is_marked(block: &Block, byte: u8) -> bool {
    let bytes = contents(block);
    bytes[0] == byte && bytes[bytes.len() - 1] == byte
}

#[test]
fn a_child_of_fork_has_pools_of_its_own_and_copies_of_the_parents_blocks() {
    let arena = Arc::new(Arena::new(tiny()));
    let block = arena.allocate(100, true).unwrap();
    contents(&block).fill(1);
    // Another thread has the locks most of the time, so that the child finds them taken.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = std::thread::spawn({
        let (arena, stop) = (Arc::clone(&arena), Arc::clone(&stop));
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let block = arena.allocate(60_000, false).unwrap();
                assert_eq!(arena.metrics().len(), 3);
                arena.release(block.handle).unwrap();
            }
        }
    });
    for _ in 0..20 {
        let status = in_child(|| {
            let refused = arena.release(block.handle) == Err(HandleError::Forked)
                && arena.release_at(block.address).is_err()
                && arena.resolve(block.handle) == Err(HandleError::Forked)
                && arena.find(block.address.as_ptr() as usize, 1).is_none()
                && arena.trim() + arena.age() == 0
                && arena.active() == (0, 0)
                && arena.blocks(0).is_empty()
                && arena.segments().is_empty();
            let is_copied = contents(&block).iter().all(|byte| *byte == 1);
            contents(&block).fill(3);
            // The same arena, and the child's own; a child of the child has a third.
            let own = |byte| {
                let mine = arena.allocate(1000, true).unwrap();
                let is_zeroed = contents(&mine).iter().all(|it| *it == 0);
                contents(&mine).fill(byte);
                let is_found = arena.find(mine.address.as_ptr() as usize, 1000).is_some();
                (is_zeroed && is_found && arena.active() == (1000, 1), mine)
            };
            let (is_own, mine) = own(4);
            let grandchild = in_child(|| {
                let (is_own, _) = own(5);
                let is_copied = contents(&mine).iter().all(|byte| *byte == 4);
                contents(&mine).fill(6);
                is_own && is_copied && arena.release(mine.handle) == Err(HandleError::Forked)
            });
            let is_kept = contents(&mine).iter().all(|byte| *byte == 4);
            refused && is_copied && is_own && grandchild == 0 && is_kept && arena.release(mine.handle).is_ok()
        });
        assert_eq!(status, 0, "SIGALRM means that the child waited for a lock");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
    assert!(contents(&block).iter().all(|byte| *byte == 1), "a child wrote into its parent's block");
    arena.release(block.handle).unwrap();
}

#[test]
fn limits_of_the_process_are_errors() {
    let limit = |resource, value| {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: sets a limit of this process, which is a child that ends soon.
        unsafe { libc::setrlimit(resource, &raw const limit) == 0 }
    };
    let no_descriptors = in_child(|| {
        let arena = Arena::new(tiny());
        let block = arena.allocate(100, false).unwrap();
        limit(libc::RLIMIT_NOFILE, 3)
            && arena.allocate(60_000, false).is_err_and(|error| error.to_string().contains("ulimit -n"))
            && arena.release(block.handle).is_ok()
            && arena.allocate(100, false).is_ok()
    });
    assert_eq!(no_descriptors, 0);
    let no_addresses = in_child(|| {
        // SAFETY: one heap for all threads of the child, so that the limit bites.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let arena = Arena::new(Config::default());
        let block = arena.allocate(100, false).unwrap();
        // Room for what the process has and a little for the records of many blocks, but for no other segment.
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        limit(libc::RLIMIT_AS, pages * nif_memory::page() as u64 + (1 << 20))
            && arena.allocate(1 << 20, false).is_err_and(|error| error.to_string().contains("ulimit -v"))
            && arena.allocate(65 << 20, false).is_err()
            && {
                // Take all memory there is, then blocks until nothing can be noted about one more.
                let mut eaten = Vec::with_capacity(1 << 16);
                for step in [1 << 20, 1 << 14, 1 << 8, 16] {
                    let mut chunk = Vec::<u8>::new();
                    while eaten.len() < eaten.capacity() && chunk.try_reserve_exact(step).is_ok() {
                        eaten.push(std::mem::take(&mut chunk));
                    }
                }
                let error = std::iter::repeat_with(|| arena.allocate(1, false).err()).flatten().next();
                matches!(error, Some(AllocError::Os(error)) if error.raw_os_error() == Some(libc::ENOMEM))
            }
            && arena.release(block.handle).is_ok()
            && arena.allocate(1, false).is_ok()
    });
    assert_eq!(no_addresses, 0);
}

#[test]
fn another_mapping_of_a_segment_shows_the_same() {
    let arena = Arena::new(tiny());
    let block = arena.allocate(5000, true).unwrap();
    contents(&block).fill(5);
    let segments = arena.segments();
    let segment = segments.iter().find(|it| it.id == block.handle.segment).unwrap();
    // SAFETY: a mapping of our own, read inside its bounds.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            segment.size,
            libc::PROT_READ,
            libc::MAP_SHARED,
            segment.file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        assert_eq!(*at.cast::<u8>().add(block.handle.offset as usize + 4999), 5);
        assert_eq!(libc::ftruncate(segment.file.as_raw_fd(), 0), -1, "it is sealed");
        libc::munmap(at, segment.size);
    }
}
