//! The arena: pools by size, handles, and what goes wrong.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::fork::{self, PerProcess};
use crate::map::SharedMap;
use crate::pool::{Full, Pin, Pool};

/// The last bits of a segment's id say which pool it is of.
const POOL_BITS: u32 = 4;

/// Ids of segments, over all arenas: none comes a second time.
static SEGMENT: AtomicU64 = AtomicU64::new(1);

/// One size class.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub name: String,
    /// The largest block that it serves.
    pub block_bytes: usize,
    /// How many of that size fit before it grows.
    pub blocks: usize,
    /// What it may grow to.
    pub limit_bytes: usize,
}

/// The pools, the smallest blocks first. What is larger than the last one's blocks gets a segment of its own there.
#[derive(Clone, Debug)]
pub struct Config {
    pub pools: Vec<PoolConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let pool = |name: &str, block_bytes, blocks, limit_bytes| PoolConfig {
            name: name.into(),
            block_bytes,
            blocks,
            limit_bytes,
        };
        Self {
            pools: vec![
                pool("small", 4 << 10, 1000, 1 << 30),
                pool("medium", 1 << 20, 100, 16 << 30),
                // 64 MiB, and a frame's header before them.
                pool("large", (64 << 20) + 4096, 10, 1 << 40),
            ],
        }
    }
}

/// Where a block lies, as another process is told. It leads nowhere once the block is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Handle {
    pub segment: u64,
    pub generation: u64,
    pub offset: u64,
}

/// A block. Whoever has it releases it.
#[derive(Debug)]
pub struct Block {
    pub address: NonNull<u8>,
    /// Bytes, as asked for.
    pub size: usize,
    pub handle: Handle,
}

/// Why there is no block.
#[derive(Debug)]
pub enum AllocError {
    /// The pool's name, what is in use, and its limit.
    PoolFull { pool: String, active: usize, limit: usize, wanted: usize },
    /// The system said no.
    Os(io::Error),
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoolFull { pool, active, limit, wanted } => write!(
                f,
                "pool '{pool}' has no room for {wanted} bytes: {active} bytes are in use, its limit is {limit}; release \
                 buffers, or make the Lab with a larger limit for that pool"
            ),
            Self::Os(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => {
                    write!(f, "no file descriptor is free for a segment of memory; close files or raise `ulimit -n`")
                }
                Some(libc::ENOMEM) => {
                    write!(
                        f,
                        "the system has no address space or memory for a segment; release buffers or raise `ulimit -v`"
                    )
                }
                _ => write!(f, "the system gave no memory: {error}"),
            },
        }
    }
}

impl std::error::Error for AllocError {}

/// Why a handle leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleError {
    /// No block of this arena ever had it, or it is damaged.
    Unknown,
    /// Its block was released.
    Stale,
    /// Its block is the parent's of this process, which is a child by fork.
    Forked,
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "this handle is of another Lab's memory, or damaged",
            Self::Stale => "the block of this handle was released; ask its owner for a new one",
            Self::Forked => "this process was forked from the one that owns the memory",
        })
    }
}

impl std::error::Error for HandleError {}

/// Figures of one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolMetrics {
    pub name: String,
    /// Address space reserved, in so many segments.
    pub capacity: usize,
    pub segments: usize,
    /// Asked for and not released.
    pub active_bytes: usize,
    pub active_blocks: usize,
    pub peak_bytes: usize,
    pub allocations: u64,
    pub releases: u64,
    /// What the system has given.
    pub committed_bytes: usize,
    /// Part of it on pages where no live block lies.
    pub cached_bytes: usize,
    /// Kept about all this, in private memory.
    pub metadata_bytes: usize,
    /// 1 - the largest free piece that was used before / all of them.
    pub fragmentation: f64,
}

/// A piece of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    pub segment: u64,
    pub offset: u64,
    pub size: usize,
    pub live: bool,
}

/// A segment, so that another process can map it.
#[derive(Debug)]
pub struct SegmentInfo {
    pub id: u64,
    /// Its memfd. The descriptor is shared, so that listing the segments takes none.
    pub file: Arc<OwnedFd>,
    pub size: usize,
}

/// Where a segment is mapped.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
    segment: u64,
}

/// Pools of shared memory; any thread may use it. A child of fork has pools of its own, of the same sizes.
pub struct Arena {
    config: Config,
    /// The largest block of each pool but the last.
    sizes: Vec<usize>,
    state: PerProcess<State>,
}

/// An arena's pools in one process.
struct State {
    pools: Box<[OnceLock<Mutex<Pool>>]>,
    /// In the order of addresses.
    places: RwLock<Vec<Place>>,
    /// How often segments came and went.
    version: AtomicU64,
    /// Segments with lower numbers were made before: by another arena or, in a child of fork, by its parent.
    first: u64,
    is_child: bool,
}

impl State {
    fn new() -> Self {
        Self {
            pools: (0..1 << POOL_BITS).map(|_| OnceLock::new()).collect(),
            places: RwLock::default(),
            version: AtomicU64::new(1),
            first: SEGMENT.load(Ordering::Relaxed),
            is_child: fork::generation() > 0,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    /// An arena that takes no memory yet.
    ///
    /// # Panics
    ///
    /// With no pool, or more than 16, or sizes that don't grow: whoever asks users checks that.
    #[must_use]
    pub fn new(config: Config) -> Self {
        assert!((1..=1 << POOL_BITS).contains(&config.pools.len()), "an arena has 1 to 16 pools");
        assert!(config.pools.is_sorted_by(|a, b| a.block_bytes < b.block_bytes), "each pool serves larger blocks");
        let mut sizes: Vec<usize> = config.pools.iter().map(|it| it.block_bytes).collect();
        sizes.pop();
        let it = Self { config, sizes, state: PerProcess::new(State::new) };
        it.state.get();
        it
    }

    fn pools(&self) -> impl Iterator<Item = MutexGuard<'_, Pool>> {
        let state = self.state.get();
        (0..self.config.pools.len()).map(|index| lock(self.pool_of(state, index)))
    }

    fn pool_of<'a>(&self, state: &'a State, index: usize) -> &'a Mutex<Pool> {
        state.pools[index].get_or_init(|| Mutex::new(Pool::new(self.config.pools[index].clone())))
    }

    fn place(&self, address: usize) -> Option<Place> {
        let places = self.state.get().places.read().unwrap_or_else(PoisonError::into_inner);
        let place = *places[..places.partition_point(|it| it.start <= address)].last()?;
        (address < place.end).then_some(place)
    }

    /// Take a block of `size` bytes, aligned to 64; of zeros if asked for, else with any contents.
    ///
    /// # Errors
    ///
    /// When the pool for that size is at its limit or the system has no memory.
    pub fn allocate(&self, size: usize, zeroed: bool) -> Result<Block, AllocError> {
        let index = self.sizes.iter().position(|it| size <= *it).unwrap_or(self.sizes.len());
        let mut pool = lock(self.pool_of(self.state.get(), index));
        let new_id = || SEGMENT.fetch_add(1, Ordering::Relaxed) << POOL_BITS | index as u64;
        let taken = pool.allocate(size, new_id).map_err(|full| match full {
            Full::Os(error) => AllocError::Os(error),
            Full::Limit => AllocError::PoolFull {
                pool: pool.config.name.clone(),
                active: pool.active().0,
                limit: pool.config.limit_bytes,
                wanted: size,
            },
        })?;
        if taken.added {
            self.note(&pool, taken.segment);
        }
        drop(pool);
        if zeroed {
            // SAFETY: the block is new, and nobody else knows it yet. At no size would fresh pages be quicker.
            unsafe { taken.address.write_bytes(0, taken.dirty) };
        }
        let handle = Handle { segment: taken.segment, generation: taken.generation, offset: taken.offset as u64 };
        Ok(Block { address: taken.address, size, handle })
    }

    fn note(&self, pool: &Pool, segment: u64) {
        let Some((_, map)) = pool.segments().find(|(id, _)| *id == segment) else { return };
        let start = map.address().as_ptr() as usize;
        let state = self.state.get();
        let mut places = state.places.write().unwrap_or_else(PoisonError::into_inner);
        let at = places.partition_point(|it| it.start < start);
        places.insert(at, Place { start, end: start + map.size(), segment });
        state.version.fetch_add(1, Ordering::Release);
    }

    fn pool(&self, segment: u64) -> Result<MutexGuard<'_, Pool>, HandleError> {
        let state = self.state.get();
        if state.is_child && segment >> POOL_BITS < state.first {
            return Err(HandleError::Forked);
        }
        let index = (segment & ((1 << POOL_BITS) - 1)) as usize;
        if index >= self.config.pools.len() {
            return Err(HandleError::Unknown);
        }
        Ok(lock(self.pool_of(state, index)))
    }

    /// Release a block.
    ///
    /// # Errors
    ///
    /// For a handle that leads to no live block of this arena.
    pub fn release(&self, handle: Handle) -> Result<(), HandleError> {
        let offset = usize::try_from(handle.offset).map_err(|_| HandleError::Unknown)?;
        let mut pool = self.pool(handle.segment)?;
        let own = pool.release(handle.segment, handle.generation, offset)?;
        self.forget(own);
        Ok(())
    }

    /// Nobody finds the segment any more, then it goes.
    fn forget(&self, own: Option<SharedMap>) {
        if let Some(own) = own {
            let start = own.address().as_ptr() as usize;
            let state = self.state.get();
            state.places.write().unwrap_or_else(PoisonError::into_inner).retain(|it| it.start != start);
            state.version.fetch_add(1, Ordering::Release);
            // Another process may have it mapped for a while; its pages go now.
            let _ = own.punch(0, own.size());
        }
    }

    /// Release the block that begins at an address.
    ///
    /// # Errors
    ///
    /// When none does.
    pub fn release_at(&self, address: NonNull<u8>) -> Result<(), HandleError> {
        let address = address.as_ptr() as usize;
        let Place { start, segment, .. } = self.place(address).ok_or(HandleError::Unknown)?;
        let mut pool = self.pool(segment)?;
        let own = pool.release_at(segment, address - start)?;
        self.forget(own);
        Ok(())
    }

    /// Where a handle leads: the address and the size in bytes.
    ///
    /// # Errors
    ///
    /// For a handle that leads to no live block of this arena.
    pub fn resolve(&self, handle: Handle) -> Result<(NonNull<u8>, usize), HandleError> {
        let offset = usize::try_from(handle.offset).map_err(|_| HandleError::Unknown)?;
        self.pool(handle.segment)?.resolve(handle.segment, handle.generation, offset)
    }

    /// The live block in which all of a range lies, and where in it the range begins.
    #[must_use]
    pub fn find(&self, address: usize, size: usize) -> Option<(Handle, usize)> {
        self.find_by(address, size, |pool, segment, place| pool.find(segment, place))
    }

    /// The same for a range that another process may write to from now on. It may do so by whole pages, so nothing that is free
    /// in the block's pages counts as zeros any more.
    #[must_use]
    pub fn lend(&self, address: usize, size: usize) -> Option<(Handle, usize)> {
        self.find_by(address, size, Pool::lend)
    }

    fn find_by(
        &self,
        address: usize,
        size: usize,
        find: impl FnOnce(&mut Pool, u64, usize) -> Option<(u64, usize, usize)>,
    ) -> Option<(Handle, usize)> {
        let Place { start, segment, .. } = self.place(address)?;
        let (generation, offset, length) = find(&mut *self.pool(segment).ok()?, segment, address - start)?;
        let inside = address - start - offset;
        let fits = inside.checked_add(size).is_some_and(|last| last <= length.max(1));
        fits.then_some((Handle { segment, generation, offset: offset as u64 }, inside))
    }

    /// Keep the block in which a range lies in place, as `pin` does that; nothing happens if there is no such block, if it shares
    /// pages with others, or was pinned before. What `pin` returns is dropped before the pages go elsewhere.
    pub fn pin(&self, address: usize, size: usize, pin: impl FnOnce(NonNull<u8>, usize) -> Option<Pin>) {
        let Some(Place { start, segment, .. }) = self.place(address) else { return };
        if let Ok(mut pool) = self.pool(segment) {
            pool.pin(segment, address - start, size, pin);
        }
    }

    /// Another number whenever the segments are others.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.get().version.load(Ordering::Acquire)
    }

    /// The segments, so that another process can map them.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let mut all = Vec::new();
        for pool in self.pools() {
            for (id, map) in pool.segments() {
                all.push(SegmentInfo { id, file: map.keep_file(), size: map.size() });
            }
        }
        all
    }

    /// Give free memory back to the system: how many bytes.
    pub fn trim(&self) -> usize {
        self.pools().map(|mut it| it.trim()).sum()
    }

    /// To be called about once a second: trims pools that nobody has used for ten.
    pub fn age(&self) -> usize {
        self.pools().map(|mut it| it.age()).sum()
    }

    /// Bytes asked for and not released, and in how many blocks.
    #[must_use]
    pub fn active(&self) -> (usize, usize) {
        let sums = self.pools().map(|it| it.active());
        sums.fold((0, 0), |(bytes, blocks), (b, n)| (bytes + b, blocks + n))
    }

    /// The sum of the pools' peaks, and the bytes that the system has given.
    #[must_use]
    pub fn extent(&self) -> (usize, usize) {
        let sums = self.pools().map(|it| it.extent());
        sums.fold((0, 0), |(peak, committed), (p, c)| (peak + p, committed + c))
    }

    /// Figures of every pool, in order.
    #[must_use]
    pub fn metrics(&self) -> Vec<PoolMetrics> {
        self.pools().map(|it| it.metrics()).collect()
    }

    /// The pieces of a pool in the order of addresses; empty for a pool that isn't there.
    #[must_use]
    pub fn blocks(&self, pool: usize) -> Vec<BlockInfo> {
        self.pools().nth(pool).map_or_else(Vec::new, |it| it.blocks())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::GENERATION;

    /// So many later a number of 32 bits is the same again, and an id of 28 bits beside the pool's.
    const ROUND: u64 = 1 << 32;

    #[test]
    fn a_stale_handle_stays_stale_however_many_come_after_it() {
        let arena = Arena::new(Config::default());
        for zeroed in [false, true] {
            let first = arena.allocate(100, zeroed).unwrap();
            arena.release(first.handle).unwrap();
            // As many blocks came and went as there are numbers of 32 bits.
            let now = GENERATION.load(Ordering::Relaxed);
            GENERATION.fetch_add(ROUND - now.wrapping_sub(first.handle.generation), Ordering::Relaxed);
            let next: Vec<Block> = (0..64).map(|_| arena.allocate(100, zeroed).unwrap()).collect();
            assert!(next.iter().any(|it| it.address == first.address), "its place is in use again");
            assert_eq!(arena.resolve(first.handle), Err(HandleError::Stale));
            assert_eq!(arena.release(first.handle), Err(HandleError::Stale));
            for it in next {
                assert_ne!(it.handle.generation, first.handle.generation);
                arena.release(it.handle).unwrap();
            }
        }
    }

    #[test]
    fn no_two_segments_have_one_id() {
        let arena = Arena::new(Config::default());
        let own = |arena: &Arena| arena.allocate(65 << 20, false).unwrap(); // larger than the last pool's: a segment of its own
        let first = own(&arena);
        SEGMENT.fetch_add((1 << (32 - POOL_BITS)) - 2, Ordering::Relaxed);
        let next: Vec<Block> = (0..4).map(|_| own(&arena)).collect();
        for it in next.iter().chain([&first]) {
            assert_eq!(arena.resolve(it.handle), Ok((it.address, it.size)));
        }
        let handle = first.handle;
        arena.release(handle).unwrap();
        assert_eq!(arena.release(handle), Err(HandleError::Unknown), "it was the only one");
        assert!(next.iter().all(|it| arena.resolve(it.handle).is_ok()));
    }
}
