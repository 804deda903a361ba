//! Copying, and the checksum of the same bytes on the way: XXH3-64, seed 0.
//!
//! Where both sides are row-major, `summed` does both in one loop. All else is copied piece by piece, and a hasher is run over
//! each piece while it is in the cache.

use std::hash::Hasher;
use std::slice;

use twox_hash::XxHash3_64;

use super::plan::AXES_MAX;
use super::{Element, Layouts, Summed, TILES_STREAMED, checksum, copy};

/// Bytes of a piece, about.
const PIECE: usize = if cfg!(test) { 2 << 10 } else { 256 << 10 };

/// # Safety
///
/// As for [`super::copy_summed`].
pub unsafe fn copy_summed(layouts: &Layouts<'_>, to: *mut u8, from: *const u8) -> u64 {
    let &Layouts { element, shape, target, source } = layouts;
    let (bytes, size) = (layouts.bytes(), element.target_size());
    let in_target = row_major(shape, size, target);
    let in_source = matches!(element, Element::Bytes(_)) && row_major(shape, size, source);
    // SAFETY: passed on. What is summed has been written or may be read.
    unsafe {
        if in_target && in_source && bytes > 0 {
            let mut out = Summed::new(slice::from_raw_parts_mut(to, bytes), true);
            out.put(slice::from_raw_parts(from, bytes));
            return out.finish();
        }
        let mut sum = XxHash3_64::new();
        if in_target && !(bytes >= TILES_STREAMED && lies_across(source)) {
            pieces(layouts, to, from, &mut |piece, to, from| {
                copy(piece, to, from);
                sum.write(slice::from_raw_parts(to, piece.bytes()));
            });
        } else {
            copy(layouts, to, from);
            if in_target {
                return checksum(slice::from_raw_parts(to, bytes));
            }
            let mut room = Vec::<u8>::with_capacity(PIECE.max(size));
            pieces(layouts, to, from, &mut |piece, _, from| {
                let strides = strides(piece.shape, size);
                copy(&Layouts { target: &strides[..piece.shape.len()], ..*piece }, room.as_mut_ptr(), from);
                sum.write(slice::from_raw_parts(room.as_ptr(), piece.bytes()));
            });
        }
        sum.finish()
    }
}

/// The strides of a row-major array.
fn strides(shape: &[usize], size: usize) -> [isize; AXES_MAX] {
    let mut strides = [0; AXES_MAX];
    let mut stride = size;
    for (it, length) in strides[..shape.len()].iter_mut().zip(shape).rev() {
        *it = stride.cast_signed();
        stride *= length;
    }
    strides
}

fn row_major(shape: &[usize], size: usize, given: &[isize]) -> bool {
    strides(shape, size).iter().zip(given).zip(shape).all(|((wanted, given), length)| wanted == given || *length == 1)
}

/// Whether an axis lies closer than the last one: tiles that are streamed and read again are quicker than pieces.
fn lies_across(strides: &[isize]) -> bool {
    let last = strides.last().map_or(0, |it| it.unsigned_abs());
    strides.iter().any(|it| (1..last).contains(&it.unsigned_abs()))
}

/// Calls `each` with parts of the arrays that are small enough, in row-major order.
fn pieces(
    layouts: &Layouts<'_>,
    to: *mut u8,
    from: *const u8,
    each: &mut impl FnMut(&Layouts<'_>, *mut u8, *const u8),
) {
    let bytes = layouts.bytes();
    let ([length, inner_shape @ ..], [target, inner_target @ ..], [source, inner_source @ ..], PIECE..) =
        (layouts.shape, layouts.target, layouts.source, bytes)
    else {
        if bytes > 0 {
            each(layouts, to, from);
        }
        return;
    };
    let at_once = (PIECE * length / bytes).max(1);
    let mut shape = [0; AXES_MAX];
    shape[1..layouts.shape.len()].copy_from_slice(inner_shape);
    for start in (0..*length).step_by(at_once) {
        let (to, from) =
            (to.wrapping_offset(start.cast_signed() * target), from.wrapping_offset(start.cast_signed() * source));
        if at_once == 1 {
            let inner = Layouts { shape: inner_shape, target: inner_target, source: inner_source, ..*layouts };
            pieces(&inner, to, from, each);
        } else {
            shape[0] = at_once.min(length - start);
            each(&Layouts { shape: &shape[..layouts.shape.len()], ..*layouts }, to, from);
        }
    }
}
