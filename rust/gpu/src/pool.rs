//! A pool: one range of a device's addresses, to which memory is added as it is needed, and which is divided here.
//!
//! The memory can be exported piece by piece, so that another process maps the same range; it stays when that process ends, however it
//! ends. The blocks are kept track of outside the memory ([`Heap`]): nobody who can write to it damages that.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nif_memory::heap::Heap;
use nif_memory::index::Index;

use crate::device::{Device, property};
use crate::driver::{Address, DESCRIPTOR, forked};
use crate::error::{Error, Result};
use crate::handle::{Handle, next_generation, next_segment};
use crate::lock;

/// Every block begins at a multiple of this, and takes a multiple of it.
pub const ALIGNMENT: usize = 256;
/// So much memory is added at a time, unless more is needed.
const STEP: usize = 32 << 20;
/// The most bytes that a pool can have.
const LARGEST: usize = (u32::MAX as usize - 1) * ALIGNMENT;

/// Figures of one pool, in bytes unless they say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    pub name: String,
    pub capacity: usize,
    /// Pieces of memory that the driver gave.
    pub segments: usize,
    pub active: usize,
    pub blocks: usize,
    pub peak: usize,
    pub allocations: u64,
    pub releases: u64,
    pub committed: usize,
    pub cached: usize,
    pub metadata: usize,
    pub fragmentation: f64,
}

/// Memory that the driver gave: a part of the pool's range.
struct Part {
    /// Never used twice: another part may come to the same place.
    id: u64,
    handle: u64,
    offset: usize,
    size: usize,
}

/// A part as another process is told of it.
pub struct Exported {
    pub id: u64,
    pub descriptor: OwnedFd,
    pub offset: usize,
    pub size: usize,
}

static POOLS: Mutex<Vec<Weak<Pool>>> = Mutex::new(Vec::new());
static PART: AtomicU64 = AtomicU64::new(1);

struct State {
    /// 0 until the first block.
    base: Address,
    heap: Heap,
    parts: Vec<Part>,
    /// So many bytes from the base on have memory.
    committed: usize,
    /// The pieces of live blocks, by their offsets in units of the heap.
    live: Index,
    active: usize,
    peak: usize,
    allocations: u64,
    releases: u64,
}

/// One language's memory on one device.
pub struct Pool {
    pub name: String,
    pub device: &'static Device,
    pub segment: u32,
    /// Bytes, in whole pieces of the driver's.
    limit: usize,
    forks: u32,
    state: Mutex<State>,
}

/// A block. It is given back when it is dropped.
pub struct Block {
    pub address: Address,
    /// Bytes, as asked for.
    pub size: usize,
    pub handle: Handle,
    pool: Arc<Pool>,
    piece: u32,
}

impl Block {
    #[must_use]
    pub fn device(&self) -> &'static Device {
        self.pool.device
    }

    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.release(self.piece, self.size);
    }
}

fn units(bytes: usize) -> Option<u32> {
    u32::try_from(bytes.max(1).div_ceil(ALIGNMENT)).ok()
}

fn no_memory(doing: &str) -> Error {
    Error::Driver { code: libc::ENOMEM, name: "no memory of the host".into(), doing: doing.into() }
}

impl Pool {
    /// A pool without memory as yet.
    ///
    /// # Errors
    /// When the host has no memory.
    pub fn new(name: &str, device: &'static Device, limit: usize) -> Result<Arc<Self>> {
        let limit =
            limit.clamp(1, LARGEST / device.granularity * device.granularity).next_multiple_of(device.granularity);
        let heap = Heap::new(units(limit).unwrap_or(u32::MAX)).map_err(|_| no_memory("making a pool"))?;
        let state = State {
            base: 0,
            heap,
            parts: Vec::new(),
            committed: 0,
            live: Index::default(),
            active: 0,
            peak: 0,
            allocations: 0,
            releases: 0,
        };
        let pool = Arc::new(Self {
            name: name.into(),
            device,
            segment: next_segment(),
            limit,
            forks: nif_memory::forks(),
            state: Mutex::new(state),
        });
        let mut pools = lock(&POOLS);
        pools.retain(|it| it.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        Ok(pool)
    }

    /// The pool in whose range an address lies, and where there.
    #[must_use]
    pub fn at(address: Address) -> Option<(Arc<Self>, u64)> {
        let pools: Vec<Arc<Self>> = lock(&POOLS).iter().filter_map(Weak::upgrade).collect();
        pools.into_iter().find_map(|it| {
            let base = lock(&it.state).base;
            let offset = address.checked_sub(base).filter(|offset| base != 0 && *offset < it.limit as u64)?;
            Some((it, offset))
        })
    }

    /// A block; its bytes may have any value.
    ///
    /// # Errors
    /// [`Error::Full`] at the pool's limit, or what the driver says.
    pub fn allocate(self: &Arc<Self>, size: usize) -> Result<Block> {
        if self.forks != nif_memory::current_forks() {
            return Err(forked());
        }
        let mut state = lock(&self.state);
        let state = &mut *state;
        let piece = units(size).and_then(|wanted| state.heap.allocate(wanted));
        let piece = piece.ok_or_else(|| self.full(state.active, size))?;
        let (offset, end) = {
            let it = state.heap.piece(piece);
            (it.offset as usize * ALIGNMENT, (it.offset + it.size) as usize * ALIGNMENT)
        };
        if end > state.committed
            && let Err(error) = self.commit(state, end)
        {
            state.heap.let_go(piece);
            return Err(error);
        }
        let State { heap, live, .. } = state;
        if live.reserve(|piece| heap.piece(piece).offset).is_err() {
            heap.let_go(piece);
            return Err(no_memory("keeping track of a block"));
        }
        let generation = next_generation();
        heap.occupy(piece, generation, size);
        live.insert(heap.piece(piece).offset, piece);
        state.active += size;
        state.peak = state.peak.max(state.active);
        state.allocations += 1;
        Ok(Block {
            address: state.base + offset as Address,
            size,
            handle: Handle { segment: self.segment, generation, offset: offset as u64 },
            pool: Arc::clone(self),
            piece,
        })
    }

    #[cold]
    fn full(&self, active: usize, wanted: usize) -> Error {
        Error::Full { pool: self.name.clone(), active, limit: self.limit, wanted }
    }

    fn release(&self, piece: u32, size: usize) {
        if self.forks != nif_memory::current_forks() {
            return; // the parent's
        }
        let mut state = lock(&self.state);
        let State { heap, live, .. } = &mut *state;
        live.remove(heap.piece(piece).offset, |piece| heap.piece(piece).offset);
        heap.let_go(piece);
        state.active -= size;
        state.releases += 1;
    }

    /// Add memory up to this end.
    #[cold]
    fn commit(&self, state: &mut State, end: usize) -> Result<()> {
        let _turn = self.device.turn()?;
        let driver = self.device.driver;
        let table = &driver.table;
        if state.base == 0 {
            // SAFETY: a place.
            let status = unsafe { (table.reserve)(&raw mut state.base, self.limit, 0, 0, 0) };
            driver.check(status, "reserving addresses")?;
        }
        let needed = end.next_multiple_of(self.device.granularity);
        let wished = (state.committed + STEP).next_multiple_of(self.device.granularity).clamp(needed, self.limit);
        // A device that is nearly full may still have what is needed.
        self.add(state, wished).or_else(|error| if wished > needed { self.add(state, needed) } else { Err(error) })
    }

    fn add(&self, state: &mut State, end: usize) -> Result<()> {
        let (driver, offset) = (self.device.driver, state.committed);
        let (table, size) = (&driver.table, end - state.committed);
        let (mut handle, property) = (0, property(self.device.id));
        let address = state.base + offset as Address;
        // SAFETY: places that are alive; the addresses are reserved and have no memory yet.
        unsafe {
            let status = (table.create)(&raw mut handle, size, &raw const property, 0);
            driver.check(status, "asking for memory of the device")?;
            let status = (table.map)(address, size, 0, handle, 0);
            if let Err(error) = driver.check(status, "mapping memory of the device") {
                (table.release)(handle);
                return Err(error);
            }
            if let Err(error) = self.device.allow(address, size) {
                (table.unmap)(address, size);
                (table.release)(handle);
                return Err(error);
            }
        }
        state.parts.push(Part { id: PART.fetch_add(1, Ordering::Relaxed), handle, offset, size });
        state.committed = end;
        Ok(())
    }

    /// Give memory behind the last block back to the device: how many bytes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn trim(&self) -> Result<usize> {
        let mut state = lock(&self.state);
        if self.forks != nif_memory::current_forks() || state.parts.is_empty() {
            return Ok(0);
        }
        let last = state.heap.iter().filter(|(_, it)| it.is_live()).map(|(_, it)| it.offset + it.size).max();
        let end = last.unwrap_or(0) as usize * ALIGNMENT;
        if state.parts.last().is_none_or(|it| it.offset < end) {
            return Ok(0);
        }
        let _turn = self.device.turn()?;
        self.device.synchronize()?; // work that was asked for before a release may still run
        let before = state.committed;
        while let Some(part) = state.parts.pop_if(|it| it.offset >= end) {
            state.committed = part.offset;
            self.give_back(state.base, &part);
        }
        Ok(before - state.committed)
    }

    fn give_back(&self, base: Address, part: &Part) {
        let table = &self.device.driver.table;
        // SAFETY: it was mapped there, and no block has it.
        unsafe {
            (table.unmap)(base + part.offset as Address, part.size);
            (table.release)(part.handle);
        }
    }

    /// Where a handle leads: address and size.
    ///
    /// # Errors
    /// [`Error::Stale`] for a released block, [`Error::Unknown`] for a handle that isn't of this pool.
    pub fn resolve(&self, handle: Handle) -> Result<(Address, usize)> {
        let state = lock(&self.state);
        let is_possible = handle.segment == self.segment
            && handle.generation != 0
            && handle.offset.is_multiple_of(ALIGNMENT as u64)
            && handle.offset < self.limit as u64;
        if !is_possible {
            return Err(Error::Unknown);
        }
        let offset = u32::try_from(handle.offset / ALIGNMENT as u64).map_err(|_| Error::Unknown)?;
        let piece = state.live.get(offset, |it| state.heap.piece(it).offset).map(|it| state.heap.piece(it));
        let piece = piece.filter(|it| it.generation == handle.generation).ok_or(Error::Stale)?;
        Ok((state.base + handle.offset, piece.requested))
    }

    /// Does the range lie in one live block?
    #[must_use]
    pub fn has(&self, address: Address, size: usize) -> bool {
        let state = lock(&self.state);
        if state.base == 0 || !(state.base..state.base + self.limit as Address).contains(&address) {
            return false;
        }
        let Ok(start) = usize::try_from(address - state.base) else { return false };
        state.heap.iter().filter(|(_, it)| it.is_live()).any(|(_, piece)| {
            let from = piece.offset as usize * ALIGNMENT;
            from <= start && start + size <= from + piece.requested
        })
    }

    /// Its range, the ids of all parts, and those that aren't known yet, as another process maps them. They stay this pool's too.
    ///
    /// # Errors
    /// What the driver says.
    pub fn export(&self, is_known: impl Fn(u64) -> bool) -> Result<(Address, usize, Vec<u64>, Vec<Exported>)> {
        let state = lock(&self.state);
        let ids = state.parts.iter().map(|it| it.id).collect();
        if state.parts.iter().all(|it| is_known(it.id)) {
            return Ok((state.base, self.limit, ids, Vec::new()));
        }
        let _turn = self.device.turn()?;
        let driver = self.device.driver;
        let mut parts = Vec::with_capacity(state.parts.len());
        for it in state.parts.iter().filter(|it| !is_known(it.id)) {
            let mut descriptor: libc::c_int = -1;
            // SAFETY: a place for a descriptor, and a handle of the driver's.
            let status = unsafe { (driver.table.export)((&raw mut descriptor).cast(), it.handle, DESCRIPTOR, 0) };
            driver.check(status, "exporting memory of the device")?;
            // SAFETY: a new descriptor that nobody else has.
            let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
            // SAFETY: it is open. Programs that the process starts don't get it.
            unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
            parts.push(Exported { id: it.id, descriptor, offset: it.offset, size: it.size });
        }
        Ok((state.base, self.limit, ids, parts))
    }

    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let state = lock(&self.state);
        let (mut free, mut largest, mut taken) = (0_usize, 0_usize, 0_usize);
        for (_, piece) in state.heap.iter() {
            let size = piece.size as usize * ALIGNMENT;
            if piece.is_live() {
                taken += size;
            } else {
                (free, largest) = (free + size, largest.max(size));
            }
        }
        Metrics {
            name: self.name.clone(),
            capacity: self.limit,
            segments: state.parts.len(),
            active: state.active,
            blocks: usize::try_from(state.allocations - state.releases).unwrap_or(0),
            peak: state.peak,
            allocations: state.allocations,
            releases: state.releases,
            committed: state.committed,
            cached: state.committed - taken,
            metadata: state.heap.metadata() + state.live.metadata(),
            fragmentation: if free == 0 { 0.0 } else { 1.0 - largest as f64 / free as f64 },
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.forks != nif_memory::current_forks() {
            return;
        }
        let state = self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (base, parts) = (state.base, std::mem::take(&mut state.parts));
        if base == 0 {
            return;
        }
        // A device that failed gives nothing back; the driver does when the process ends.
        let Ok(_turn) = self.device.turn() else { return };
        if self.device.synchronize().is_err() {
            return;
        }
        for part in &parts {
            self.give_back(base, part);
        }
        // SAFETY: nothing is mapped there any more.
        unsafe { (self.device.driver.table.free_addresses)(base, self.limit) };
    }
}

/// Another process's pool in this one.
pub struct Window {
    device: &'static Device,
    pub base: Address,
    size: usize,
    parts: Vec<(u64, usize, usize)>,
}

impl Window {
    /// A range as large as the pool's, at the same address if that is free here.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &'static Device, wished: Address, size: usize) -> Result<Self> {
        let _turn = device.turn()?;
        let (mut base, table) = (0, &device.driver.table);
        // SAFETY: a place. The driver takes the wish, or another address.
        let status = unsafe { (table.reserve)(&raw mut base, size, 0, wished, 0) };
        device.driver.check(status, "reserving addresses")?;
        Ok(Self { device, base, size, parts: Vec::new() })
    }

    /// Map a part that the pool has exported. A part that is there already is left alone.
    ///
    /// # Errors
    /// What the driver says.
    pub fn add(&mut self, descriptor: BorrowedFd<'_>, offset: usize, size: usize) -> Result<()> {
        if self.parts.iter().any(|it| it.1 == offset) {
            return Ok(());
        }
        let fits = offset.checked_add(size).is_some_and(|end| end <= self.size);
        if !fits || self.parts.iter().any(|it| offset < it.1 + it.2 && it.1 < offset + size) {
            return Err(Error::Unknown);
        }
        let _turn = self.device.turn()?;
        let (driver, mut handle) = (self.device.driver, 0);
        let (table, address) = (&driver.table, self.base + offset as Address);
        // SAFETY: the driver reads the descriptor's number from the pointer itself.
        unsafe {
            let number = ptr::without_provenance_mut(descriptor.as_raw_fd().cast_unsigned() as usize);
            driver.check((table.import)(&raw mut handle, number, DESCRIPTOR), "importing memory of the device")?;
            if let Err(error) = driver.check((table.map)(address, size, 0, handle, 0), "mapping memory of the device") {
                (table.release)(handle);
                return Err(error);
            }
        }
        self.parts.push((handle, offset, size));
        self.device.allow(address, size)
    }

    /// Let go of a part that the pool has given back.
    pub fn remove(&mut self, offset: usize) {
        let Some(index) = self.parts.iter().position(|it| it.1 == offset) else { return };
        let (handle, _, size) = self.parts.swap_remove(index);
        let Ok(_turn) = self.device.turn() else { return };
        // SAFETY: it was mapped there; no call runs, and what calls began is over.
        unsafe {
            (self.device.driver.table.unmap)(self.base + offset as Address, size);
            (self.device.driver.table.release)(handle);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let Ok(_turn) = self.device.turn() else { return };
        let table = &self.device.driver.table;
        // SAFETY: they were mapped there.
        unsafe {
            (table.synchronize)(ptr::null_mut());
            for (handle, offset, size) in &self.parts {
                (table.unmap)(self.base + *offset as Address, *size);
                (table.release)(*handle);
            }
            (table.free_addresses)(self.base, self.size);
        }
    }
}
