//! Copies of two axes, where the source lies across the target.
//!
//! They go by square tiles that fit the first cache. A tile's rows are read as they lie in the source and packed, then turned,
//! then written as they lie in the target: memory sees long runs alone, on both sides.

use std::array;
use std::mem::MaybeUninit;

use super::Cast;
use super::lines;
use super::plan::Axis;
use super::stream::{self, LINE, VECTOR};

/// Bytes of a tile at most: two of them fit the first cache.
const TILE: usize = 16 << 10;

/// One tile.
#[repr(align(64))]
struct Room([MaybeUninit<u8>; TILE]);

/// The edge of a tile, in elements: a power of two.
const fn edge(size: usize) -> usize {
    1 << (TILE / size).ilog2() / 2
}

/// Copies two axes: `row` contiguous in the target, `column` closer in the source. So a row of the target is a column of the source.
///
/// # Safety
///
/// As for [`super::copy`]; the types are those of the elements.
pub unsafe fn copy<S: Cast<D>, D: Copy>(to: *mut u8, from: *const u8, row: Axis, column: Axis, stream: bool) {
    let size = size_of::<D>();
    let edge = edge(size);
    let pitch = edge * size;
    let (mut packed, mut turned) = (Room([MaybeUninit::uninit(); TILE]), Room([MaybeUninit::uninit(); TILE]));
    let (packed, turned) = (packed.0.as_mut_ptr().cast::<u8>(), turned.0.as_mut_ptr().cast::<u8>());
    // The first tiles end where a line of the target does, so that all others begin there.
    let first = to.cast::<D>().align_offset(LINE) % edge;
    for rows in blocks(row.length, first, edge) {
        for columns in blocks(column.length, 0, edge) {
            let (to, from) = row.at(rows.start, to, from);
            let (to, from) = column.at(columns.start, to, from);
            let line = Axis { length: columns.len(), target: size.cast_signed(), source: column.source };
            // SAFETY: the caller's promise; a tile of this edge fits its room.
            unsafe {
                for index in 0..rows.len() {
                    lines::copy::<S, D>(packed.add(index * pitch), row.at(index, to, from).1, line, false);
                }
                if stream {
                    turn::<D>(turned, pitch.cast_signed(), packed, pitch, rows.len(), columns.len());
                    for index in 0..columns.len() {
                        stream::copy(column.at(index, to, from).0, turned.add(index * pitch), rows.len() * size);
                    }
                } else {
                    turn::<D>(to, column.target, packed, pitch, rows.len(), columns.len());
                }
            }
        }
    }
}

/// 0..length in ranges of `size`, after a first one of another size unless that is 0.
fn blocks(length: usize, first: usize, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let first = first.min(length);
    (first > 0)
        .then_some(0..first)
        .into_iter()
        .chain((first..length).step_by(size).map(move |start| start..length.min(start + size)))
}

/// Writes element (row, column) to (column, row).
unsafe fn turn<T: Copy>(to: *mut u8, to_pitch: isize, from: *const u8, from_pitch: usize, rows: usize, columns: usize) {
    let size = size_of::<T>();
    let side = VECTOR / size;
    let (whole_rows, whole_columns) = (rows / side * side, columns / side * side);
    // SAFETY: the caller's promise: the indexes lie in the tile.
    unsafe {
        let at = |row: usize, column: usize| from.add(row * from_pitch + column * size);
        let place = |row: usize, column: usize| to.offset(column.cast_signed() * to_pitch).add(row * size);
        for column in (0..whole_columns).step_by(side) {
            for row in (0..whole_rows).step_by(side) {
                let (to, from) = (place(row, column), at(row, column));
                match size {
                    1 => square::<u8, 16>(to, to_pitch, from, from_pitch),
                    2 => square::<u16, 8>(to, to_pitch, from, from_pitch),
                    4 => square::<u32, 4>(to, to_pitch, from, from_pitch),
                    8 => square::<u64, 2>(to, to_pitch, from, from_pitch),
                    _ => square::<u128, 1>(to, to_pitch, from, from_pitch),
                }
            }
        }
        for column in 0..columns {
            for row in if column < whole_columns { whole_rows } else { 0 }..rows {
                place(row, column).cast::<T>().write_unaligned(at(row, column).cast::<T>().read_unaligned());
            }
        }
    }
}

/// Turns a square of vectors. With every step the rows are shuffled as two halves of a deck of cards.
#[inline]
unsafe fn square<T: Copy, const N: usize>(to: *mut u8, to_pitch: isize, from: *const u8, from_pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows: [[T; N]; N] = array::from_fn(|row| from.add(row * from_pitch).cast::<[T; N]>().read_unaligned());
        let mut step = 1;
        while step < N {
            rows = array::from_fn(|row| {
                let (upper, lower, half) = (rows[row / 2], rows[row / 2 + N / 2], row % 2 * (N / 2));
                array::from_fn(
                    |column| if column % 2 == 0 { upper[half + column / 2] } else { lower[half + column / 2] },
                )
            });
            step *= 2;
        }
        for (column, row) in rows.iter().enumerate() {
            to.offset(column.cast_signed() * to_pitch).cast::<[T; N]>().write_unaligned(*row);
        }
    }
}
