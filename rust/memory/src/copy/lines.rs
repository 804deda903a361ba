//! Copies of one axis.

use std::array;

use super::Cast;
use super::plan::Axis;
use super::stream::{self, LINE};

/// Elements that are made at once; in a multiple of `VECTOR` bytes whatever they are.
const AT_ONCE: usize = 16;

/// Shorter lines don't gain by being streamed: they share their first and last line of the caches with others.
const STREAMED: usize = 4096;

/// Copies one axis, past the caches if it should `stream` and can.
///
/// # Safety
///
/// As for [`super::copy`]; the types are those of the elements.
pub unsafe fn copy<S: Cast<D>, D: Copy>(to: *mut u8, from: *const u8, line: Axis, stream: bool) {
    let Axis { length, target, source } = line;
    let stream = stream && length * size_of::<D>() >= STREAMED;
    let step = source / size_of::<S>().cast_signed();
    // SAFETY: passed on. Steps of their own make the compiler find vectors for them.
    unsafe {
        match step {
            _ if target != size_of::<D>().cast_signed() || source % size_of::<S>().cast_signed() != 0 => {
                scatter::<S, D>(to, from, line);
            }
            1 if S::SAME && stream => stream::copy(to, from, length * size_of::<D>()),
            1 if S::SAME => to.copy_from_nonoverlapping(from, length * size_of::<D>()),
            _ => {
                let dense = match (step, stream) {
                    (1, false) => dense::<S, D, 1, false>,
                    (1, true) => dense::<S, D, 1, true>,
                    (-1, false) => dense::<S, D, -1, false>,
                    (-1, true) => dense::<S, D, -1, true>,
                    (0, false) => dense::<S, D, 0, false>,
                    (0, true) => dense::<S, D, 0, true>,
                    (2, false) => dense::<S, D, 2, false>,
                    (2, true) => dense::<S, D, 2, true>,
                    _ => return scatter::<S, D>(to, from, line),
                };
                dense(to.cast(), from.cast(), length);
            }
        }
    }
}

/// Fills a contiguous line from elements that are `STEP` apart.
unsafe fn dense<S: Cast<D>, D: Copy, const STEP: isize, const STREAM: bool>(to: *mut D, from: *const S, length: usize) {
    // SAFETY: the caller asks for elements of the line.
    let element = |index: usize| unsafe { from.offset(index.cast_signed() * STEP).read_unaligned().cast() };
    let head = if STREAM { to.align_offset(LINE).min(length) } else { 0 };
    let body = (length - head) / AT_ONCE * AT_ONCE;
    // SAFETY: the caller's promise. The body of a stream begins at the start of a line.
    unsafe {
        for index in 0..head {
            to.add(index).write_unaligned(element(index));
        }
        for index in (head..head + body).step_by(AT_ONCE) {
            let elements: [D; AT_ONCE] = array::from_fn(|offset| element(index + offset));
            let to = to.add(index).cast();
            if STREAM {
                stream::prefetch(from.wrapping_offset((index + 1024).cast_signed() * STEP).cast());
                stream::store(to, elements);
            } else {
                to.write_unaligned(elements);
            }
        }
        for index in head + body..length {
            to.add(index).write_unaligned(element(index));
        }
    }
}

/// Copies one by one.
unsafe fn scatter<S: Cast<D>, D: Copy>(to: *mut u8, from: *const u8, line: Axis) {
    for index in 0..line.length {
        let (to, from) = line.at(index, to, from);
        // SAFETY: the caller's promise.
        unsafe { to.cast::<D>().write_unaligned(from.cast::<S>().read_unaligned().cast()) };
    }
}
