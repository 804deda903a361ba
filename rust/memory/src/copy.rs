//! Copies of arrays from one layout to another, near the speed of memory.
//!
//! A copy is first brought to its simplest form (`plan`): as few axes as possible, the target walked in the order of its
//! memory. Then it goes line by line where that order suits the source too (`lines`), and by square tiles where the
//! source lies across (`tiles`). Copies that the caches can't keep write past them (`stream`). `sum` copies and computes
//! the checksum of the same bytes on the way.

mod lines;
mod plan;
mod stream;
mod sum;
mod tiles;

pub use plan::AXES_MAX;
use plan::{Axis, Plan};

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
}

/// Copies an array. Conversions round to the nearest and keep the payload of a NaN, as the machine does.
///
/// # Panics
///
/// More than [`AXES_MAX`] axes, or not a stride for each.
///
/// # Safety
///
/// `to` and `from` are the addresses of the first elements. All elements of the source may be read and all of the target
/// written; no byte belongs to both. Nothing needs to be aligned.
pub unsafe fn copy(layouts: &Layouts<'_>, to: *mut u8, from: *const u8) {
    let Some(plan) = Plan::new(layouts, to, from) else { return };
    // SAFETY: the caller's promise, and the unit is what the plan's axes count in.
    unsafe {
        match layouts.element {
            Element::F32ToF64 | Element::C64ToC128 => run::<f32, f64>(plan, layouts.bytes()),
            Element::F64ToF32 | Element::C128ToC64 => run::<f64, f32>(plan, layouts.bytes()),
            Element::Bytes(size) => match plan::unit(size) {
                1 => run::<u8, u8>(plan, layouts.bytes()),
                2 => run::<u16, u16>(plan, layouts.bytes()),
                4 => run::<u32, u32>(plan, layouts.bytes()),
                8 => run::<u64, u64>(plan, layouts.bytes()),
                _ => run::<u128, u128>(plan, layouts.bytes()),
            },
        }
    }
}

/// Copies an array as [`copy`] does, and returns the checksum of what is now in the target: XXH3-64, seed 0, of the elements in
/// row-major order.
///
/// # Panics
///
/// As [`copy`].
///
/// # Safety
///
/// As [`copy`].
pub unsafe fn copy_summed(layouts: &Layouts<'_>, to: *mut u8, from: *const u8) -> u64 {
    // SAFETY: passed on.
    unsafe { sum::copy_summed(layouts, to, from) }
}

/// An element that can be copied into a `D`.
trait Cast<D>: Copy {
    /// Whether the bytes stay as they are.
    const SAME: bool;

    fn cast(self) -> D;
}

macro_rules! casts {
    ($($from:ty => $to:ty, $same:expr, |$it:ident| $cast:expr;)*) => {$(
        impl Cast<$to> for $from {
            const SAME: bool = $same;

            #[inline]
            fn cast(self) -> $to {
                let $it = self;
                $cast
            }
        }
    )*};
}

casts! {
    u8 => u8, true, |it| it;
    u16 => u16, true, |it| it;
    u32 => u32, true, |it| it;
    u64 => u64, true, |it| it;
    u128 => u128, true, |it| it;
    f32 => f64, false, |it| f64::from(it);
    f64 => f32, false, |it| it as f32;
}

/// The bytes of a target that no longer stays in the caches until it is read: it is written past them. From here on that
/// is quicker, even with a reader right behind.
const STREAMED: usize = 16 << 20;

/// The stores of a tile would fetch each line before they fill it, so with tiles it pays sooner.
const TILES_STREAMED: usize = 4 << 20;

/// Axes shorter than this are neither lines nor sides of tiles.
const SHORT: usize = 8;

/// Elements of a line that is walked again for each place along a short axis, and stays in the cache meanwhile.
const BLOCK: usize = 1024;

/// # Safety
///
/// As [`copy`]; the plan's strides count elements of these types.
unsafe fn run<S: Cast<D>, D: Copy>(mut plan: Plan, bytes: usize) {
    let (line, across) = plan.take_inner();
    let across = across.unwrap_or(Axis::ONE);
    if line.length >= SHORT && across.length >= SHORT && line.target == size_of::<D>().cast_signed() {
        let stream = bytes >= TILES_STREAMED;
        // SAFETY: passed on.
        plan.each(&mut |to, from| unsafe { tiles::copy::<S, D>(to, from, line, across, stream) });
    } else {
        let stream = bytes >= STREAMED;
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
    stream::fence();
}
