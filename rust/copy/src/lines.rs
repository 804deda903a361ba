//! Copies of one axis.

use std::mem::MaybeUninit;

use multiversion::multiversion;

use super::Cast;
use super::plan::Axis;
use super::vectors::{self, LINE};

/// Shorter lines don't gain by being streamed: they share their first and last line of the caches with others.
const STREAMED: usize = 4096;

/// Elements that are made at once before they are streamed; 8 KiB at most.
const BLOCK: usize = 512;

/// Room for them. Loads from it find what was just stored only if neither crosses a line of the cache.
#[repr(align(64))]
struct Made<D>([MaybeUninit<D>; BLOCK]);

/// Copies one axis, past the caches if it should `stream` and can.
///
/// # Safety
///
/// As for [`super::copy`]; the types are those of the elements.
pub unsafe fn copy<S: Cast<D>, D: Copy>(to: *mut u8, from: *const u8, line: Axis, stream: bool) {
    let size = line.length * size_of::<D>();
    let stream = stream && size >= STREAMED;
    // SAFETY: passed on.
    unsafe {
        if line.target != size_of::<D>().cast_signed() {
            one_by_one::<S, D>(to, from, line);
        } else if !(S::SAME && line.source == line.target) {
            if stream { make_streamed::<S, D>(to, from, line) } else { make::<S, D>(to, from, line) }
        } else if stream {
            vectors::copy::<true>(to, from, size);
        } else {
            to.copy_from_nonoverlapping(from, size);
        }
    }
}

/// Makes a contiguous line in blocks, and streams each. Meanwhile the source of the next is on its way.
unsafe fn make_streamed<S: Cast<D>, D: Copy>(to: *mut u8, from: *const u8, line: Axis) {
    let mut made = Made::<D>([const { MaybeUninit::uninit() }; BLOCK]);
    let made = made.0.as_mut_ptr().cast::<u8>();
    let per_line = (LINE / line.source.unsigned_abs().max(1)).max(1);
    for start in (0..line.length).step_by(BLOCK) {
        for index in (0..BLOCK).step_by(per_line) {
            vectors::prefetch(line.at(start + BLOCK + index, to, from).1);
        }
        let (to, from) = line.at(start, to, from);
        let block = Axis { length: BLOCK.min(line.length - start), ..line };
        // SAFETY: passed on.
        unsafe {
            make::<S, D>(made, from, block);
            vectors::copy::<false>(to, made, block.length * size_of::<D>());
        }
    }
}

/// Makes a contiguous line of elements some way apart. Steps of their own make the compiler find vectors for them.
unsafe fn make<S: Cast<D>, D: Copy>(to: *mut u8, from: *const u8, line: Axis) {
    let size = size_of::<S>().cast_signed();
    let make = match line.source / size {
        _ if line.source % size != 0 => one_by_one::<S, D>,
        -1 => make_by::<S, D, -1>,
        0 => make_by::<S, D, 0>,
        1 => make_by::<S, D, 1>,
        2 => make_by::<S, D, 2>,
        3 => make_by::<S, D, 3>,
        _ => one_by_one::<S, D>,
    };
    // SAFETY: passed on.
    unsafe { make(to, from, line) }
}

#[multiversion(targets("x86_64+avx2"))]
unsafe fn make_by<S: Cast<D>, D: Copy, const STEP: isize>(to: *mut u8, from: *const u8, line: Axis) {
    let (to, from) = (to.cast::<D>(), from.cast::<S>());
    for index in 0..line.length {
        // SAFETY: the caller's promise.
        unsafe {
            let element = from.wrapping_offset(index.cast_signed().wrapping_mul(STEP)).read_unaligned();
            to.add(index).write_unaligned(element.cast());
        }
    }
}

unsafe fn one_by_one<S: Cast<D>, D: Copy>(mut to: *mut u8, mut from: *const u8, line: Axis) {
    for _ in 0..line.length {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<D>().write_unaligned(from.cast::<S>().read_unaligned().cast()) };
        (to, from) = (to.wrapping_offset(line.target), from.wrapping_offset(line.source));
    }
}
