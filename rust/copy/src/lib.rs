//! Copies of arrays from one layout to another, near the speed of memory.
//!
//! A copy is first brought to its simplest form (`plan`): as few axes as possible, the target walked in the order of its
//! memory. Then it goes line by line where that order suits the source too (`lines`), and by square tiles where the
//! source lies across (`tiles`). Copies that the caches can't keep write past them (`vectors`). `sum` copies and
//! computes the checksum of the same bytes on the way.

mod lines;
mod plan;
mod stripes;
mod sum;
mod summed;
#[cfg(test)]
mod tests;
mod tiles;
mod vectors;

pub use plan::AXES_MAX;
use plan::{Axis, Plan};
pub use stripes::checksum;
pub use summed::Summed;

/// What an element is in the source, and becomes in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// So many bytes, copied as they are.
    Bytes(usize),
    F32ToF64,
    F64ToF32,
    C64ToC128,
    C128ToC64,
}

impl Element {
    /// Bytes of an element in the target.
    #[must_use]
    pub fn target_size(self) -> usize {
        match self {
            Self::Bytes(size) => size,
            Self::F64ToF32 => 4,
            Self::F32ToF64 | Self::C128ToC64 => 8,
            Self::C64ToC128 => 16,
        }
    }
}

/// Two arrays of one shape: how their elements lie in memory. A stride is the distance of neighbours along its axis, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Layouts<'a> {
    pub element: Element,
    pub shape: &'a [usize],
    pub target: &'a [isize],
    pub source: &'a [isize],
}

impl Layouts<'_> {
    /// Bytes of all elements in the target.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.element.target_size()
    }

    fn check(&self) {
        let axes = self.shape.len();
        assert!(self.target.len() == axes && self.source.len() == axes, "a stride for each axis of both sides");
    }
}

/// Copies an array. Conversions round to the nearest and keep the payload of a NaN, as the machine does.
///
/// # Panics
///
/// Not a stride for each axis of both sides.
///
/// # Safety
///
/// `to` and `from` are the addresses of the first elements. All elements of the source may be read and all of the target
/// written; no byte belongs to both. Nothing needs to be aligned.
pub unsafe fn copy(layouts: &Layouts<'_>, to: *mut u8, from: *const u8) {
    layouts.check();
    let bytes = layouts.bytes();
    if bytes == 0 {
        return;
    }
    if let (true, [length, shape @ ..], [target, targets @ ..], [source, sources @ ..]) =
        (layouts.shape.len() > AXES_MAX, layouts.shape, layouts.target, layouts.source)
    {
        // Few arrays have so many axes: each place along the first axis is a copy of its own.
        let inner = Layouts { element: layouts.element, shape, target: targets, source: sources };
        for index in 0..length.cast_signed() {
            // SAFETY: the caller's promise, for a part of the array.
            unsafe { copy(&inner, to.wrapping_offset(index * target), from.wrapping_offset(index * source)) };
        }
        return;
    }
    let plan = &mut Plan::new(layouts, to, from);
    // SAFETY: the caller's promise, and the unit is what the plan's axes count in.
    unsafe {
        match layouts.element {
            Element::F32ToF64 | Element::C64ToC128 => run::<f32, f64>(plan, bytes),
            Element::F64ToF32 | Element::C128ToC64 => run::<f64, f32>(plan, bytes),
            Element::Bytes(size) => match plan::unit(size) {
                1 => run::<u8, u8>(plan, bytes),
                2 => run::<u16, u16>(plan, bytes),
                4 => run::<u32, u32>(plan, bytes),
                8 => run::<u64, u64>(plan, bytes),
                _ => run::<u128, u128>(plan, bytes),
            },
        }
    }
}

/// Copies an array as [`copy`] does, and returns the checksum of what is now in the target: XXH3-64, seed 0, of the elements in
/// row-major order.
///
/// # Panics
///
/// More than [`AXES_MAX`] axes, or as [`copy`].
///
/// # Safety
///
/// As [`copy`].
pub unsafe fn copy_summed(layouts: &Layouts<'_>, to: *mut u8, from: *const u8) -> u64 {
    layouts.check();
    let axes = layouts.shape.len();
    assert!(axes <= AXES_MAX, "at most {AXES_MAX} axes, got {axes}");
    // SAFETY: passed on.
    unsafe { sum::copy_summed(layouts, to, from) }
}

/// An element that can be copied into a `D`.
trait Cast<D>: Copy {
    /// Whether the bytes stay as they are.
    const SAME: bool;

    fn cast(self) -> D;
}

impl<T: Copy> Cast<T> for T {
    const SAME: bool = true;

    #[inline]
    fn cast(self) -> T {
        self
    }
}

impl Cast<f64> for f32 {
    const SAME: bool = false;

    #[inline]
    fn cast(self) -> f64 {
        self.into()
    }
}

impl Cast<f32> for f64 {
    const SAME: bool = false;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "it rounds to the nearest")]
    fn cast(self) -> f32 {
        self as f32
    }
}

/// The bytes of a target that no longer stays in the caches until it is read: it is written past them. From here on that
/// is quicker, even with a reader right behind.
const STREAMED: usize = if cfg!(test) { 16 << 10 } else { 16 << 20 };

/// The stores of a tile would fetch each line before they fill it, so with tiles it pays sooner.
const TILES_STREAMED: usize = STREAMED / 4;

/// Axes shorter than this are neither lines nor sides of tiles.
const SHORT: usize = 8;

/// Elements of a line that is walked again for each place along a short axis, and stays in the cache meanwhile.
const BLOCK: usize = 1024;

/// # Safety
///
/// As [`copy`]; the plan's strides count elements of these types.
unsafe fn run<S: Cast<D>, D: Copy>(plan: &mut Plan, bytes: usize) {
    let (line, across) = plan.take_inner();
    let is_tiled = line.length.min(across.length) >= SHORT && line.target == size_of::<D>().cast_signed();
    let stream = bytes >= if is_tiled { TILES_STREAMED } else { STREAMED };
    if is_tiled {
        // SAFETY: passed on.
        plan.each(&mut |to, from| unsafe { tiles::copy::<S, D>(to, from, line, across, stream) });
    } else {
        let block = if across.length == 1 { line.length } else { BLOCK };
        plan.each(&mut |to, from| {
            for start in (0..line.length).step_by(block) {
                let (to, from) = line.at(start, to, from);
                let line = Axis { length: block.min(line.length - start), ..line };
                for index in 0..across.length {
                    let (to, from) = across.at(index, to, from);
                    // SAFETY: passed on.
                    unsafe { lines::copy::<S, D>(to, from, line, stream) };
                }
            }
        });
    }
    if stream {
        vectors::fence();
    }
}
