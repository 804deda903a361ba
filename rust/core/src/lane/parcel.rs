//! Arrays on their way to a worker: where those in shared memory lie, and copies of the others.
//!
//! A copy keeps what the callee checks: strides, alignment, and which arguments overlap. So a call is refused in the isolated
//! lane for what it is refused in the direct one.

use nif::abi::Tensor;
use nif_copy::{Element, Layouts, copy};
use nif_memory::{AllocError, files};
use nif_worker::channel::MAX_ARGUMENTS;

use crate::memory::block::Block;
use crate::memory::common::Common;
use crate::memory::ledger;

/// Where an argument's elements are for the worker.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// 0: nowhere, because nobody will look.
    pub segment: u64,
    /// Of the first element.
    pub offset: u64,
    /// Of all that the array spans.
    pub low: u64,
    pub high: u64,
    /// Its elements are row-major there, whatever they are here.
    pub is_packed: bool,
}

/// An array that isn't in shared memory.
#[derive(Clone, Copy)]
struct Outside {
    index: usize,
    low: usize,
    high: usize,
    manner: Manner,
}

/// How an array is copied.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// All that it spans, so that strides and neighbours stay what they are.
    Span,
    /// Its elements alone, row-major.
    Packed,
}

/// Copies that the function may write to: they come back when it has succeeded.
struct Return {
    index: usize,
    address: usize,
    manner: Manner,
}

/// The arrays of one call.
pub struct Parcels {
    pub places: [Place; MAX_ARGUMENTS],
    blocks: Vec<Block>,
    returns: Vec<Return>,
}

/// Addresses that an array spans; none without elements.
fn span(tensor: &Tensor) -> Option<(usize, usize)> {
    let axes = tensor.ndim as usize;
    let item = i64::from(tensor.dtype.bits / 8);
    let (mut low, mut high, mut packed) = (0i64, item, item);
    for axis in (0..axes).rev() {
        // SAFETY: the frame wrote the tensor; shape and strides have `ndim` numbers.
        let (length, stride) = unsafe {
            let length = *tensor.shape.add(axis);
            (length, if tensor.strides.is_null() { packed } else { *tensor.strides.add(axis) * item })
        };
        if length == 0 {
            return None;
        }
        let reach = (length - 1) * stride;
        if reach < 0 {
            low += reach;
        } else {
            high += reach;
        }
        packed = packed.saturating_mul(length); // one of the axes to come may be empty
    }
    let data = tensor.data.addr() as i64;
    Some(((data + low) as usize, (data + high) as usize))
}

fn bytes(tensor: &Tensor) -> usize {
    // SAFETY: as above.
    let length = |axis| unsafe { *tensor.shape.add(axis) as usize };
    (0..tensor.ndim as usize).fold(usize::from(tensor.dtype.bits / 8), |n, axis| n.saturating_mul(length(axis)))
}

/// Is it one number, which is read and needs no memory beside the request?
pub fn travels_in_request(tensor: &Tensor, is_mutable: bool) -> bool {
    tensor.ndim == 0 && !is_mutable && tensor.data.addr().is_multiple_of(size_of::<u64>())
}

impl Parcels {
    pub fn new() -> Self {
        Self { places: [Place::default(); MAX_ARGUMENTS], blocks: Vec::new(), returns: Vec::new() }
    }

    /// Find or copy every array. `mutable` has a bit for each argument that may be written, `matrices` one for each that may have
    /// any strides; `place` is for the ledger.
    ///
    /// # Safety
    /// The tensors are the frame's, and their elements are alive.
    pub unsafe fn pack(
        &mut self,
        tensors: &[Option<&Tensor>],
        (mutable, matrices): (u32, u32),
        common: &Common,
        place: &str,
    ) -> Result<(), AllocError> {
        let mut outside = Vec::new();
        for (index, tensor) in tensors.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            // Where nobody looks at the elements there is still their alignment.
            self.places[index].offset = (tensor.data.addr() % nif_memory::ALIGNMENT) as u64;
            let Some((low, high)) = span(tensor) else { continue };
            if travels_in_request(tensor, mutable >> index & 1 != 0) {
                continue;
            }
            let block = if mutable >> index & 1 == 0 {
                common.arena.find(low, high - low)
            } else {
                common.arena.lend(low, high - low)
            };
            let place = block.map(|(handle, inside)| (handle.segment, handle.offset + inside as u64));
            if let Some((segment, at)) = place.or_else(|| files::find(low, high - low)) {
                self.places[index] = Place {
                    segment,
                    offset: at + (tensor.data.addr() - low) as u64,
                    low: at,
                    high: at + (high - low) as u64,
                    is_packed: false,
                };
                continue;
            }
            let manner = if tensor.strides.is_null() {
                Manner::Span
            } else if matrices >> index & 1 == 0 {
                continue; // the callee refuses such strides, and looks at nothing else
            } else if high - low <= bytes(tensor).saturating_mul(2).max(4096) {
                Manner::Span
            } else {
                Manner::Packed
            };
            outside.push(Outside { index, low, high, manner });
        }
        if outside.is_empty() {
            return Ok(());
        }
        // SAFETY: passed on.
        unsafe { self.copy(&mut outside, tensors, mutable, common, place) }
    }

    unsafe fn copy(
        &mut self,
        outside: &mut [Outside],
        tensors: &[Option<&Tensor>],
        mutable: u32,
        common: &Common,
        place: &str,
    ) -> Result<(), AllocError> {
        outside.sort_by_key(|it| it.low);
        keep_overlaps(outside, mutable);
        let mut first = 0;
        while first < outside.len() {
            // What overlaps is one piece here, so it is one there.
            let (low, mut high) = (outside[first].low, outside[first].high);
            let mut end = first + 1;
            if outside[first].manner == Manner::Span {
                while end < outside.len() && outside[end].manner == Manner::Span && outside[end].low < high {
                    high = high.max(outside[end].high);
                    end += 1;
                }
            }
            let group = &outside[first..end];
            first = end;
            let packed = group[0].manner == Manner::Packed;
            let tensor = tensors[group[0].index].expect("only arrays are outside");
            let skew = if packed { 0 } else { low % nif_memory::ALIGNMENT };
            let size = if packed { bytes(tensor) } else { high - low };
            let block = common.allocate(size + skew, false)?;
            block.lend();
            let to = block.address().as_ptr().wrapping_add(skew);
            // SAFETY: the block is new and that large; the elements are alive.
            unsafe {
                if packed {
                    copy_elements(tensor, to, Direction::Pack);
                } else {
                    to.copy_from_nonoverlapping(std::ptr::with_exposed_provenance(low), size);
                }
            }
            common.ledger().note(size, place, ledger::NOT_IN_POOL);
            let base = block.handle().offset + skew as u64;
            for it in group {
                let tensor = tensors[it.index].expect("only arrays are outside");
                let at = if packed { base } else { base + (it.low - low) as u64 };
                let length = if packed { size } else { it.high - it.low };
                let inside = if packed { 0 } else { tensor.data.addr() - it.low };
                self.places[it.index] = Place {
                    segment: block.handle().segment,
                    offset: at + inside as u64,
                    low: at,
                    high: at + length as u64,
                    is_packed: packed,
                };
                if mutable >> it.index & 1 != 0 {
                    let address = to.addr() + if packed { 0 } else { tensor.data.addr() - low };
                    self.returns.push(Return { index: it.index, address, manner: it.manner });
                }
            }
            self.blocks.push(block);
        }
        Ok(())
    }

    /// Copy back what the function may have written.
    ///
    /// # Safety
    /// The tensors are those of `pack`, still alive.
    pub unsafe fn unpack(&self, tensors: &[Option<&Tensor>], common: &Common, place: &str) {
        for it in &self.returns {
            let Some(tensor) = tensors[it.index] else { continue };
            let from = std::ptr::with_exposed_provenance_mut::<u8>(it.address);
            let direction = if it.manner == Manner::Packed { Direction::Unpack } else { Direction::Return };
            // SAFETY: the caller's promise, and the blocks of `pack` are still ours.
            unsafe { copy_elements(tensor, from, direction) };
            common.ledger().note(bytes(tensor), place, ledger::WRITTEN);
        }
    }

    /// Memory for a text that is too long for the request.
    pub fn text(&mut self, index: usize, text: &[u8], common: &Common, place: &str) -> Result<(), AllocError> {
        let block = common.allocate(text.len(), false)?;
        // SAFETY: the block is new and that large.
        unsafe { block.address().as_ptr().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        common.ledger().note(text.len(), place, ledger::TEXT);
        let at = block.handle().offset;
        let segment = block.handle().segment;
        self.places[index] = Place { segment, offset: at, low: at, high: at + text.len() as u64, is_packed: true };
        self.blocks.push(block);
        Ok(())
    }
}

/// Copy all that is spanned where an array that may be written overlaps another: the callee refuses such arguments, and must
/// find the overlap in the copies too. `outside` is in the order of its addresses.
fn keep_overlaps(outside: &mut [Outside], mutable: u32) {
    let mut first = 0;
    while first < outside.len() {
        let mut high = outside[first].high;
        let mut end = first + 1;
        while end < outside.len() && outside[end].low < high {
            high = high.max(outside[end].high);
            end += 1;
        }
        let group = &mut outside[first..end];
        if group.len() > 1 && group.iter().any(|it| mutable >> it.index & 1 != 0) {
            for it in group {
                it.manner = Manner::Span;
            }
        }
        first = end;
    }
}

/// From the array to a row-major copy, back from that, or back from one with the array's own strides.
#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Pack,
    Unpack,
    Return,
}

/// # Safety
/// `other` has room for the elements in its layout.
unsafe fn copy_elements(tensor: &Tensor, other: *mut u8, direction: Direction) {
    let axes = tensor.ndim as usize;
    let item = isize::from(tensor.dtype.bits / 8);
    // SAFETY: the frame wrote the tensor; shape and strides have `ndim` numbers.
    let shape: Vec<usize> = (0..axes).map(|axis| unsafe { *tensor.shape.add(axis) as usize }).collect();
    let packed: Vec<isize> =
        (0..axes).map(|axis| item * shape[axis + 1..].iter().product::<usize>() as isize).collect();
    let strides: Vec<isize> = if tensor.strides.is_null() {
        packed.clone()
    } else {
        // SAFETY: as above.
        (0..axes).map(|axis| unsafe { *tensor.strides.add(axis) } as isize * item).collect()
    };
    let theirs = if direction == Direction::Return { &strides } else { &packed };
    let element = Element::Bytes(item as usize);
    let data = tensor.data.cast::<u8>();
    // SAFETY: the caller's promise; the two are different memory.
    unsafe {
        if direction == Direction::Pack {
            copy(&Layouts { element, shape: &shape, target: theirs, source: &strides }, other, data);
        } else {
            copy(&Layouts { element, shape: &shape, target: &strides, source: theirs }, data, other);
        }
    }
}
