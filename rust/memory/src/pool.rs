//! One size class: its segments, and which block lies where.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{BlockInfo, HandleError, PoolConfig, PoolMetrics};
use crate::heap::{Heap, Piece};
use crate::index::Index;
use crate::map::SharedMap;
use crate::{ALIGNMENT, page};

/// Blocks above this size take whole pages, which no other block shares: a [`Pin`] can keep those in place.
const PAGED: usize = 1 << 20;

/// Keeps pages in place until it is dropped: a device's driver copies from such pages at full speed.
pub type Pin = Box<dyn Send>;

/// Sizes whose last released blocks are held back, and how many of each.
const HELD_SIZES: usize = 16;
const HELD_EACH: usize = 4;
/// Rounds of [`Pool::age`] without an allocation after which free memory goes back.
const IDLE_ROUNDS: u32 = 10;

/// Generations of handles, over all arenas: no two blocks ever have the same. 32 bits would be used up in an hour.
pub static GENERATION: AtomicU64 = AtomicU64::new(1);

fn next_generation() -> u64 {
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

/// Bytes in whole granules, or in whole pages; a block of 0 bytes takes one granule.
fn granules(bytes: usize) -> Option<u32> {
    let unit = if bytes > PAGED { page() } else { ALIGNMENT };
    u32::try_from(bytes.max(1).div_ceil(unit) * (unit / ALIGNMENT)).ok()
}

fn bytes(granules: u32) -> usize {
    granules as usize * ALIGNMENT
}

fn no_memory() -> Full {
    Full::Os(io::Error::from_raw_os_error(libc::ENOMEM))
}

struct Segment {
    id: u64,
    /// What keeps pages of pieces in place. They come before the map: they go first.
    pins: Vec<(u32, Pin)>,
    map: SharedMap,
    heap: Heap,
    /// Made for one block that is larger than the pool's others; it goes with it.
    is_own: bool,
    /// The pieces of live blocks by their offsets.
    index: Index,
}

impl Segment {
    /// The piece of the live block that begins at an offset.
    fn at(&self, offset: u32) -> Option<u32> {
        self.index.get(offset, |piece| self.heap.piece(piece).offset)
    }

    /// Give up a piece, so that it joins its neighbours; its pages may go back to the system from now on.
    fn let_go(&mut self, index: u32) {
        self.pins.retain(|it| it.0 != index);
        self.heap.let_go(index);
    }
}

/// Released blocks of one size that are held back: segment and piece.
#[derive(Clone, Copy)]
struct Held {
    size: u32,
    count: usize,
    blocks: [(u32, u32); HELD_EACH],
}

pub struct Pool {
    pub config: PoolConfig,
    segments: Vec<Segment>,
    held: Vec<Held>,
    active_bytes: usize,
    active_blocks: usize,
    peak_bytes: usize,
    allocations: u64,
    releases: u64,
    /// Allocations at the last round, and rounds since there was one.
    seen: u64,
    idle: u32,
}

/// A block that was just taken.
pub struct Taken {
    pub address: NonNull<u8>,
    pub segment: u64,
    pub generation: u64,
    pub offset: usize,
    /// A segment that was added for it.
    pub added: bool,
    /// How many of its bytes, from the first on, may be other than zero.
    pub dirty: usize,
}

pub enum Full {
    Limit,
    Os(io::Error),
}

impl Pool {
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            segments: Vec::new(),
            held: vec![Held { size: 0, count: 0, blocks: [(0, 0); HELD_EACH] }; HELD_SIZES],
            active_bytes: 0,
            active_blocks: 0,
            peak_bytes: 0,
            allocations: 0,
            releases: 0,
            seen: 0,
            idle: 0,
        }
    }

    pub fn active(&self) -> (usize, usize) {
        (self.active_bytes, self.active_blocks)
    }

    /// The most bytes that were ever asked for at once, and those that the system has given.
    pub fn extent(&self) -> (usize, usize) {
        (self.peak_bytes, self.segments.iter().map(|it| it.map.committed()).sum())
    }

    pub fn segments(&self) -> impl Iterator<Item = (u64, &SharedMap)> {
        self.segments.iter().map(|it| (it.id, &it.map))
    }

    fn capacity(&self) -> usize {
        self.segments.iter().map(|it| it.map.size()).sum()
    }

    /// Take a block; `new_id` names a segment if one has to be added.
    pub fn allocate(&mut self, size: usize, new_id: impl FnOnce() -> u64) -> Result<Taken, Full> {
        let wanted = granules(size).ok_or(Full::Limit)?;
        let found = if size > self.config.block_bytes { None } else { self.take_any(wanted) };
        let added = found.is_none();
        let (segment, index) = match found {
            Some(found) => found,
            None => self.grow(size, wanted, new_id)?,
        };
        let Segment { id, map, heap, index: starts, .. } = &mut self.segments[segment];
        if starts.reserve(|piece| heap.piece(piece).offset).is_err() {
            heap.let_go(index);
            return Err(no_memory());
        }
        let Piece { offset, dirty_to, .. } = *heap.piece(index);
        let place = bytes(offset);
        // SAFETY: the piece lies inside the segment, and nobody else uses it.
        let address = unsafe { map.address().add(place) };
        let dirty = bytes(dirty_to.saturating_sub(offset)).min(size);
        let generation = next_generation();
        heap.occupy(index, generation, size);
        starts.insert(offset, index);
        self.active_bytes += size;
        self.active_blocks += 1;
        self.peak_bytes = self.peak_bytes.max(self.active_bytes);
        self.allocations += 1;
        Ok(Taken { address, segment: *id, generation, offset: place, added, dirty })
    }

    fn slot(size: u32) -> usize {
        // Neighbouring sizes, and sizes that differ by powers of two, go to different places.
        (size.wrapping_mul(0x9E37_79B1) >> (u32::BITS - HELD_SIZES.ilog2())) as usize
    }

    fn take_held(&mut self, size: u32) -> Option<(usize, u32)> {
        let held = &mut self.held[Self::slot(size)];
        if held.size != size || held.count == 0 {
            return None;
        }
        held.count -= 1;
        let (segment, index) = held.blocks[held.count];
        Some((segment as usize, index))
    }

    fn take(&mut self, size: u32) -> Option<(usize, u32)> {
        let mut shared = self.segments.iter_mut().enumerate().filter(|(_, it)| !it.is_own);
        shared.find_map(|(i, it)| Some((i, it.heap.allocate(size)?)))
    }

    /// A piece out of what there is, at last with all that was held back.
    fn take_any(&mut self, size: u32) -> Option<(usize, u32)> {
        self.take_held(size).or_else(|| self.take(size)).or_else(|| {
            self.let_all_go();
            self.take(size)
        })
    }

    /// Give up what is held back, so that it joins its neighbours.
    fn let_all_go(&mut self) {
        for held in &mut self.held {
            for (segment, index) in &held.blocks[..held.count] {
                self.segments[*segment as usize].let_go(*index);
            }
            held.count = 0;
        }
    }

    /// Add a segment, and take its first piece.
    fn grow(&mut self, size: usize, wanted: u32, new_id: impl FnOnce() -> u64) -> Result<(usize, u32), Full> {
        let usual = granules(self.config.block_bytes).and_then(|it| bytes(it).checked_mul(self.config.blocks));
        let is_own = size > self.config.block_bytes;
        let length = if is_own { Some(size) } else { usual };
        let length = length.and_then(|it| it.checked_next_multiple_of(page())).ok_or(Full::Limit)?;
        if self.capacity().saturating_add(length) > self.config.limit_bytes {
            return Err(Full::Limit);
        }
        let total = u32::try_from(length / ALIGNMENT).map_err(|_| Full::Limit)?;
        let map = SharedMap::new(c"nif_lab memory", length).map_err(Full::Os)?;
        if is_own {
            map.prefer_huge_pages();
        }
        let mut heap = Heap::new(total).map_err(|_| no_memory())?;
        self.segments.try_reserve(1).map_err(|_| no_memory())?;
        let index = heap.allocate(wanted).ok_or_else(no_memory)?;
        self.segments.push(Segment { id: new_id(), pins: Vec::new(), map, heap, is_own, index: Index::default() });
        Ok((self.segments.len() - 1, index))
    }

    fn find_segment(&self, id: u64) -> Option<usize> {
        self.segments.iter().position(|it| it.id == id)
    }

    /// The segment and piece of the live block that begins at a byte of a segment.
    fn block_at(&self, id: u64, offset: usize) -> Result<(usize, u32), HandleError> {
        let segment = self.find_segment(id).ok_or(HandleError::Unknown)?;
        if !offset.is_multiple_of(ALIGNMENT) || offset >= self.segments[segment].map.size() {
            return Err(HandleError::Unknown);
        }
        let it = &self.segments[segment];
        let offset = u32::try_from(offset / ALIGNMENT).map_err(|_| HandleError::Unknown)?;
        Ok((segment, it.at(offset).ok_or(HandleError::Stale)?))
    }

    /// The same, if it is of this generation.
    fn look_up(&self, id: u64, generation: u64, offset: usize) -> Result<(usize, u32), HandleError> {
        let (segment, index) = self.block_at(id, offset)?;
        let is_it = self.segments[segment].heap.piece(index).generation == generation;
        if is_it { Ok((segment, index)) } else { Err(HandleError::Stale) }
    }

    pub fn resolve(&self, id: u64, generation: u64, offset: usize) -> Result<(NonNull<u8>, usize), HandleError> {
        let (segment, index) = self.look_up(id, generation, offset)?;
        let segment = &self.segments[segment];
        // SAFETY: the block lies inside the segment.
        Ok((unsafe { segment.map.address().add(offset) }, segment.heap.piece(index).requested))
    }

    /// The live block in which a place of a segment lies: its generation, offset and size in bytes.
    pub fn find(&self, id: u64, place: usize) -> Option<(u64, usize, usize)> {
        let (segment, index) = self.piece_with(id, place)?;
        let piece = self.segments[segment].heap.piece(index);
        Some((piece.generation, bytes(piece.offset), piece.requested))
    }

    /// The same of a block that another process may write to from now on.
    pub fn lend(&mut self, id: u64, place: usize) -> Option<(u64, usize, usize)> {
        let (segment, index) = self.piece_with(id, place)?;
        self.segments[segment].heap.soil(index);
        self.find(id, place)
    }

    /// Keep the pages of the block in which a range lies by what `pin` makes of their address and size. It is dropped before they
    /// go to blocks of other sizes, or back to the system. Nothing is done for a block that shares pages with others.
    pub fn pin(&mut self, id: u64, place: usize, size: usize, pin: impl FnOnce(NonNull<u8>, usize) -> Option<Pin>) {
        let Some((segment, index)) = self.piece_with(id, place) else { return };
        let Segment { map, heap, pins, .. } = &mut self.segments[segment];
        let Piece { offset, size: granules, .. } = *heap.piece(index);
        let (start, length) = (bytes(offset), bytes(granules));
        let has_whole_pages = (start | length).is_multiple_of(page());
        let is_pinned = pins.iter().any(|it| it.0 == index);
        if is_pinned || !has_whole_pages || place + size > start + length || pins.try_reserve(1).is_err() {
            return;
        }
        // SAFETY: inside the segment.
        if let Some(it) = pin(unsafe { map.address().add(start) }, length) {
            pins.push((index, it));
        }
    }

    /// The segment and the live piece in which a place lies.
    fn piece_with(&self, id: u64, place: usize) -> Option<(usize, u32)> {
        let number = self.find_segment(id)?;
        let Segment { heap, .. } = &self.segments[number];
        let place = u32::try_from(place / ALIGNMENT).ok()?;
        // Who asks for a place inside a block, which is rare, waits for a walk.
        let walk = || heap.iter().find(|(_, it)| place < it.offset + it.size).map(|(index, _)| index);
        let index = self.segments[number].at(place).or_else(walk)?;
        heap.piece(index).is_live().then_some((number, index))
    }

    /// Release a block; the segment if it was the block's own and is gone now.
    pub fn release(&mut self, id: u64, generation: u64, offset: usize) -> Result<Option<SharedMap>, HandleError> {
        let (segment, index) = self.look_up(id, generation, offset)?;
        Ok(self.free(segment, index))
    }

    /// The same, of whatever generation.
    pub fn release_at(&mut self, id: u64, offset: usize) -> Result<Option<SharedMap>, HandleError> {
        let (segment, index) = self.block_at(id, offset)?;
        Ok(self.free(segment, index))
    }

    fn free(&mut self, segment: usize, index: u32) -> Option<SharedMap> {
        let it = &mut self.segments[segment];
        let Piece { offset, size, requested, .. } = *it.heap.piece(index);
        it.index.remove(offset, |piece| it.heap.piece(piece).offset);
        self.active_bytes -= requested;
        self.active_blocks -= 1;
        self.releases += 1;
        if it.is_own {
            return Some(self.remove(segment));
        }
        let held = &mut self.held[Self::slot(size)];
        if held.count > 0 && held.size != size {
            // Another size used this place before: that one is out of use now.
            for (segment, index) in &held.blocks[..held.count] {
                self.segments[*segment as usize].let_go(*index);
            }
            held.count = 0;
        }
        if held.count == HELD_EACH {
            self.segments[segment].let_go(index);
            return None;
        }
        held.size = size;
        held.blocks[held.count] = (u32::try_from(segment).unwrap_or(0), index);
        held.count += 1;
        self.segments[segment].heap.hold(index);
        None
    }

    /// Take out a segment; the last one takes its place in the list.
    fn remove(&mut self, segment: usize) -> SharedMap {
        let last = self.segments.len() - 1;
        for held in &mut self.held {
            for (of, _) in &mut held.blocks[..held.count] {
                if *of as usize == last {
                    *of = u32::try_from(segment).unwrap_or(0);
                }
            }
        }
        self.segments.swap_remove(segment).map
    }

    /// Give the whole pages of free pieces back to the system: how many bytes it took.
    pub fn trim(&mut self) -> usize {
        self.let_all_go();
        let page = page();
        let mut given = 0;
        for Segment { map, heap, .. } in &mut self.segments {
            let dirty: Vec<(u32, Piece)> = heap
                .iter()
                .filter(|(_, it)| !it.is_live() && it.dirty_to > it.offset)
                .map(|(i, it)| (i, *it))
                .collect();
            if dirty.is_empty() {
                continue;
            }
            let before = map.committed();
            for (index, piece) in dirty {
                let (start, end) = (bytes(piece.offset), bytes(piece.offset + piece.size));
                let dirty_end = bytes(piece.dirty_to);
                // A page that ends inside the piece may go whole, even if only its beginning was used.
                let last = dirty_end.next_multiple_of(page).min(end / page * page);
                let first = start.next_multiple_of(page).min(last.max(start));
                let zero = |from: usize, to: usize| {
                    if from < to {
                        // SAFETY: inside a free piece.
                        unsafe { map.address().add(from).write_bytes(0, to - from) };
                    }
                };
                if first < last && map.punch(first, last - first) {
                    zero(start, first);
                    zero(last, dirty_end);
                } else {
                    zero(start, dirty_end);
                }
                heap.clean(index);
            }
            given += before.saturating_sub(map.committed());
        }
        given
    }

    /// To be called about once a second: trims a pool in which nothing was allocated for a while.
    pub fn age(&mut self) -> usize {
        if self.seen != self.allocations {
            (self.seen, self.idle) = (self.allocations, 0);
            return 0;
        }
        self.idle = self.idle.saturating_add(1);
        if self.idle == IDLE_ROUNDS { self.trim() } else { 0 }
    }

    pub fn metrics(&self) -> PoolMetrics {
        let (peak, committed) = self.extent();
        let mut metadata = self.held.len() * size_of::<Held>() + size_of::<Self>();
        let page = page();
        let (mut live_pages, mut free, mut largest) = (0, 0, 0);
        for segment in &self.segments {
            metadata += segment.heap.metadata() + segment.index.metadata() + size_of::<Segment>();
            let mut next = 0;
            for (_, piece) in segment.heap.iter() {
                if piece.is_live() {
                    let (first, last) =
                        (bytes(piece.offset) / page, (bytes(piece.offset) + piece.requested.max(1) - 1) / page);
                    live_pages += (last + 1).saturating_sub(first.max(next));
                    next = next.max(last + 1);
                } else if piece.dirty_to > piece.offset {
                    // What was never used isn't in pieces yet.
                    let size = bytes(piece.dirty_to - piece.offset);
                    free += size;
                    largest = largest.max(size);
                }
            }
        }
        PoolMetrics {
            name: self.config.name.clone(),
            capacity: self.capacity(),
            segments: self.segments.len(),
            active_bytes: self.active_bytes,
            active_blocks: self.active_blocks,
            peak_bytes: peak,
            allocations: self.allocations,
            releases: self.releases,
            committed_bytes: committed,
            cached_bytes: committed.saturating_sub(live_pages * page),
            metadata_bytes: metadata,
            fragmentation: if free == 0 { 0.0 } else { 1.0 - largest as f64 / free as f64 },
        }
    }

    /// Every piece in the order of addresses.
    pub fn blocks(&self) -> Vec<BlockInfo> {
        let all = self.segments.iter().flat_map(|segment| {
            segment.heap.iter().map(|(_, piece)| BlockInfo {
                segment: segment.id,
                offset: bytes(piece.offset) as u64,
                size: bytes(piece.size),
                live: piece.is_live(),
            })
        });
        all.collect()
    }
}
