//! Copies of two axes, where the source lies across the target.
//!
//! They go by square tiles that fit the first cache. A tile is read in runs as it lies in the source, turned, and written
//! in runs as it lies in the target. While it is, the next one is on its way.

use std::array;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::Cast;
use super::lines;
use super::plan::Axis;
use super::vectors::{self, LINE, VECTOR};

/// Bytes of a tile at most: two of them fit the first cache.
const TILE: usize = 16 << 10;

/// Room for one.
#[repr(align(64))]
struct Room([MaybeUninit<u8>; TILE]);

impl Room {
    fn new() -> Self {
        Self([MaybeUninit::uninit(); TILE])
    }
}

/// Copies two axes: `row` is contiguous in the target, `column` closer in the source.
///
/// # Safety
///
/// As for [`super::copy`]; the types are those of the elements.
pub unsafe fn copy<S: Cast<D>, D: Copy>(to: *mut u8, from: *const u8, row: Axis, column: Axis, stream: bool) {
    let size = size_of::<D>();
    let edge = 1 << ((TILE / size).ilog2() / 2);
    let pitch = edge * size;
    let (mut packed, mut turned) = (Room::new(), Room::new());
    let (packed, turned) = (packed.0.as_mut_ptr().cast::<u8>(), turned.0.as_mut_ptr().cast::<u8>());
    // Elements that vectors can be loaded from are turned where they lie. Others are packed, and converted, before.
    let pack = !(S::SAME && column.source == size.cast_signed());
    // The first tiles end where a line of the target does, so that all others begin there.
    let first = to.cast::<D>().align_offset(LINE) % edge;
    for rows in blocks(row.length, first, edge) {
        for columns in blocks(column.length, 0, edge) {
            let (to, from) = row.at(rows.start, to, from);
            let (to, from) = column.at(columns.start, to, from);
            if stream {
                for index in 0..rows.len() {
                    let next = column.at(edge, to, row.at(index, to, from).1).1;
                    (0..pitch).step_by(LINE).for_each(|offset| vectors::prefetch(next.wrapping_add(offset)));
                }
            }
            // SAFETY: the caller's promise; a tile of this edge fits its room.
            unsafe {
                let (mut tile, mut tile_pitch) = (from, row.source);
                if pack {
                    (tile, tile_pitch) = (packed, pitch.cast_signed());
                    let line = Axis { length: columns.len(), target: size.cast_signed(), source: column.source };
                    for index in 0..rows.len() {
                        lines::copy::<S, D>(packed.add(index * pitch), row.at(index, to, from).1, line, false);
                    }
                }
                if stream {
                    turn::<D>(turned, pitch.cast_signed(), tile, tile_pitch, rows.len(), columns.len());
                    for index in 0..columns.len() {
                        let to = column.at(index, to, from).0;
                        vectors::copy::<false>(to, turned.add(index * pitch), rows.len() * size);
                    }
                } else {
                    turn::<D>(to, column.target, tile, tile_pitch, rows.len(), columns.len());
                }
            }
        }
    }
}

/// 0..length in ranges of `size`, after one of `first` unless that is 0.
fn blocks(length: usize, first: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let first = first.min(length);
    let others = (first..length).step_by(size).map(move |start| start..length.min(start + size));
    (first > 0).then_some(0..first).into_iter().chain(others)
}

/// Writes element (row, column) to (column, row). A pitch is the distance of rows.
///
/// # Safety
///
/// All elements may be read and written.
unsafe fn turn<T: Copy>(to: *mut u8, to_pitch: isize, from: *const u8, from_pitch: isize, rows: usize, columns: usize) {
    let size = size_of::<T>();
    let side = VECTOR / size;
    let (whole_rows, whole_columns) = (rows / side * side, columns / side * side);
    // SAFETY: the caller's promise.
    unsafe {
        let source = |row: usize, column: usize| from.offset(row.cast_signed() * from_pitch).add(column * size);
        let target = |row: usize, column: usize| to.offset(column.cast_signed() * to_pitch).add(row * size);
        let square = match size {
            1 => square::<u8, 16>,
            2 => square::<u16, 8>,
            4 => square::<u32, 4>,
            8 => square::<u64, 2>,
            _ => square::<u128, 1>,
        };
        for column in (0..whole_columns).step_by(side) {
            for row in (0..whole_rows).step_by(side) {
                square(target(row, column), to_pitch, source(row, column), from_pitch);
            }
        }
        for column in 0..columns {
            for row in if column < whole_columns { whole_rows } else { 0 }..rows {
                target(row, column).cast::<T>().write_unaligned(source(row, column).cast::<T>().read_unaligned());
            }
        }
    }
}

/// Turns a square of vectors. In every step the rows are shuffled like the two halves of a deck of cards.
///
/// # Safety
///
/// As [`turn`].
#[inline]
unsafe fn square<T: Copy, const N: usize>(to: *mut u8, to_pitch: isize, from: *const u8, from_pitch: isize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows: [[T; N]; N] =
            array::from_fn(|row| from.offset(row.cast_signed() * from_pitch).cast::<[T; N]>().read_unaligned());
        for _ in 0..N.ilog2() {
            let old = rows;
            for row in 0..N / 2 {
                [rows[2 * row], rows[2 * row + 1]] = vectors::zip(old[row], old[row + N / 2]);
            }
        }
        for (column, row) in rows.iter().enumerate() {
            to.offset(column.cast_signed() * to_pitch).cast::<[T; N]>().write_unaligned(*row);
        }
    }
}
