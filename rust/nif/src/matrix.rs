//! Matrices over borrowed memory, with any strides: rows of a C-ordered array, columns of a Fortran-ordered one, every
//! second element, or backwards.
//!
//! A kernel works on rows. A row that is contiguous is lent as it is; any other goes through a scratch row.
#![allow(unsafe_code, reason = "strides can't be expressed by slices")]

use std::marker::PhantomData;
use std::ops::{Index, IndexMut, Range};

use crate::args::{Raw, extent};

/// Where a matrix lies. `strides` count elements; `data` is the address of element [0, 0].
#[derive(Debug)]
pub struct RawMatrix<T> {
    pub(crate) data: *mut T,
    pub(crate) shape: [usize; 2],
    pub(crate) strides: [isize; 2],
}

impl<T> Clone for RawMatrix<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RawMatrix<T> {}

impl<T> RawMatrix<T> {
    #[inline]
    fn at(&self, row: usize, column: usize) -> *mut T {
        let [rows, columns] = self.shape;
        assert!(row < rows && column < columns, "index [{row}, {column}] is out of bounds for {rows} x {columns}");
        let offset = row.cast_signed() * self.strides[0] + column.cast_signed() * self.strides[1];
        self.data.wrapping_offset(offset)
    }

    /// The first element of a row of contiguous elements.
    #[inline]
    fn contiguous_row(&self, row: usize) -> Option<*mut T> {
        assert!(row < self.shape[0], "row {row} is out of bounds for {} rows", self.shape[0]);
        let contiguous = self.strides[1] == 1 || self.shape[1] <= 1;
        contiguous.then(|| self.data.wrapping_offset(row.cast_signed() * self.strides[0]))
    }
}

impl<T> Raw for RawMatrix<T> {
    fn extent(&self, axis: usize) -> i64 {
        extent(self.shape[axis])
    }

    fn addresses(&self) -> Range<usize> {
        if self.shape.contains(&0) {
            return 0..0;
        }
        let (mut first, mut last) = (0, 0);
        for (extent, stride) in self.shape.iter().zip(self.strides) {
            let reach = (extent - 1).cast_signed() * stride;
            first += reach.min(0);
            last += reach.max(0);
        }
        self.data.wrapping_offset(first).addr()..self.data.wrapping_offset(last + 1).addr()
    }
}

/// A matrix to read.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    raw: RawMatrix<T>,
    lifetime: PhantomData<&'a [T]>,
}

// SAFETY: it is a shared borrow of the elements.
unsafe impl<T: Sync> Send for Matrix<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Matrix<'_, T> {}

impl<'a, T: Copy> Matrix<'a, T> {
    /// # Safety
    ///
    /// The elements live, aligned and unwritten, for `'a`.
    pub(crate) unsafe fn from_raw(raw: RawMatrix<T>) -> Self {
        Self { raw, lifetime: PhantomData }
    }

    /// A row-major matrix over a slice.
    ///
    /// # Panics
    ///
    /// When the slice doesn't have `rows * columns` elements.
    #[must_use]
    pub fn new(elements: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(elements.len()), rows.checked_mul(columns), "elements of {rows} x {columns}");
        let data = elements.as_ptr().cast_mut();
        // SAFETY: the slice is borrowed for `'a`, and nothing writes through this type.
        unsafe { Self::from_raw(RawMatrix { data, shape: [rows, columns], strides: [columns.cast_signed(), 1] }) }
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.raw.shape[0]
    }

    #[must_use]
    pub fn columns(&self) -> usize {
        self.raw.shape[1]
    }

    /// The same memory with the axes exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        let RawMatrix { data, shape: [rows, columns], strides: [down, right] } = self.raw;
        Self { raw: RawMatrix { data, shape: [columns, rows], strides: [right, down] }, lifetime: PhantomData }
    }

    /// A row, if its elements are contiguous.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    #[must_use]
    #[inline]
    pub fn row(&self, row: usize) -> Option<&'a [T]> {
        // SAFETY: a row of the matrix that this type borrows.
        self.raw.contiguous_row(row).map(|first| unsafe { std::slice::from_raw_parts(first, self.columns()) })
    }

    /// A row as a slice: its own memory where that is contiguous, otherwise a copy in `scratch`.
    ///
    /// # Panics
    ///
    /// When there is no such row, or when a copy doesn't fit into `scratch`.
    #[must_use]
    #[inline]
    pub fn row_in<'b>(&self, row: usize, scratch: &'b mut [T]) -> &'b [T]
    where
        'a: 'b,
    {
        self.part_in(row, 0..self.columns(), scratch)
    }

    /// Some columns of a row as a slice, like [`Self::row_in`].
    ///
    /// # Panics
    ///
    /// When there are no such elements, or when a copy doesn't fit into `scratch`.
    #[must_use]
    #[inline]
    pub fn part_in<'b>(&self, row: usize, columns: Range<usize>, scratch: &'b mut [T]) -> &'b [T]
    where
        'a: 'b,
    {
        if let Some(row) = self.row(row) {
            return &row[columns];
        }
        let copy = &mut scratch[..columns.len()];
        for (element, column) in copy.iter_mut().zip(columns) {
            *element = self[(row, column)];
        }
        copy
    }
}

impl<T> Index<(usize, usize)> for Matrix<'_, T> {
    type Output = T;

    #[inline]
    fn index(&self, (row, column): (usize, usize)) -> &T {
        // SAFETY: `at` checks the bounds.
        unsafe { &*self.raw.at(row, column) }
    }
}

/// A matrix to write.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    raw: RawMatrix<T>,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it is an exclusive borrow of the elements.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for MatrixMut<'_, T> {}

impl<'a, T: Copy> MatrixMut<'a, T> {
    /// # Safety
    ///
    /// The elements live and are aligned for `'a`, and nothing else reads or writes them.
    pub(crate) unsafe fn from_raw(raw: RawMatrix<T>) -> Self {
        Self { raw, lifetime: PhantomData }
    }

    /// A row-major matrix over a slice.
    ///
    /// # Panics
    ///
    /// When the slice doesn't have `rows * columns` elements.
    #[must_use]
    pub fn new(elements: &'a mut [T], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(elements.len()), rows.checked_mul(columns), "elements of {rows} x {columns}");
        let data = elements.as_mut_ptr();
        // SAFETY: the slice is borrowed for `'a`.
        unsafe { Self::from_raw(RawMatrix { data, shape: [rows, columns], strides: [columns.cast_signed(), 1] }) }
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.raw.shape[0]
    }

    #[must_use]
    pub fn columns(&self) -> usize {
        self.raw.shape[1]
    }

    /// What was written so far.
    #[must_use]
    pub fn as_matrix(&self) -> Matrix<'_, T> {
        // SAFETY: borrowed from this exclusive borrow.
        unsafe { Matrix::from_raw(self.raw) }
    }

    /// A row, if its elements are contiguous.
    ///
    /// # Panics
    ///
    /// When there is no such row.
    #[must_use]
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [T]> {
        let columns = self.columns();
        // SAFETY: a row of the matrix that this type borrows exclusively.
        self.raw.contiguous_row(row).map(|first| unsafe { std::slice::from_raw_parts_mut(first, columns) })
    }

    /// Lets `write` fill a row: in place where its memory is contiguous, otherwise in `scratch`, which is then copied.
    ///
    /// # Panics
    ///
    /// When there is no such row, or when a copy doesn't fit into `scratch`.
    #[inline]
    pub fn fill_row(&mut self, row: usize, scratch: &mut [T], write: impl FnOnce(&mut [T])) {
        self.fill_part(row, 0..self.columns(), scratch, write);
    }

    /// Lets `write` fill some columns of a row, like [`Self::fill_row`].
    ///
    /// # Panics
    ///
    /// When there are no such elements, or when a copy doesn't fit into `scratch`.
    #[inline]
    pub fn fill_part(&mut self, row: usize, columns: Range<usize>, scratch: &mut [T], write: impl FnOnce(&mut [T])) {
        if let Some(row) = self.row_mut(row) {
            return write(&mut row[columns]);
        }
        let copy = &mut scratch[..columns.len()];
        write(copy);
        for (element, column) in copy.iter().zip(columns) {
            self[(row, column)] = *element;
        }
    }
}

impl<T> Index<(usize, usize)> for MatrixMut<'_, T> {
    type Output = T;

    #[inline]
    fn index(&self, (row, column): (usize, usize)) -> &T {
        // SAFETY: `at` checks the bounds.
        unsafe { &*self.raw.at(row, column) }
    }
}

impl<T> IndexMut<(usize, usize)> for MatrixMut<'_, T> {
    #[inline]
    fn index_mut(&mut self, (row, column): (usize, usize)) -> &mut T {
        // SAFETY: `at` checks the bounds; one element at a time, so overlapping strides don't matter.
        unsafe { &mut *self.raw.at(row, column) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every second element of a 4 x 6 array, from its last row up.
    fn strided(cells: &mut [i32]) -> RawMatrix<i32> {
        RawMatrix { data: cells[18..].as_mut_ptr(), shape: [4, 3], strides: [-6, 2] }
    }

    #[test]
    fn strides_lead_to_the_elements() {
        let mut cells: Vec<i32> = (0..24).collect();
        // SAFETY: within `cells`, which outlives it.
        let mut matrix = unsafe { MatrixMut::from_raw(strided(&mut cells)) };
        assert_eq!(matrix[(0, 0)], 18);
        assert_eq!(matrix[(3, 2)], 4);
        assert_eq!(matrix.row_mut(1), None);
        assert_eq!(matrix.as_matrix().row_in(1, &mut [0; 3]), [12, 14, 16]);
        matrix.fill_row(1, &mut [0; 5], |row| row.copy_from_slice(&[1, 2, 3]));
        assert_eq!(matrix.as_matrix().transposed()[(2, 1)], 3);
        assert_eq!(cells[12..18], [1, 13, 2, 15, 3, 17]);
    }

    #[test]
    fn addresses_span_all_elements() {
        let mut cells: Vec<i32> = (0..24).collect();
        let base = cells.as_ptr().addr();
        assert_eq!(strided(&mut cells).addresses(), base..base + 4 * 23);
        assert!(RawMatrix::<i32> { data: cells.as_mut_ptr(), shape: [3, 0], strides: [0, 1] }.addresses().is_empty());
    }

    #[test]
    #[should_panic(expected = "index [0, 2] is out of bounds for 1 x 2")]
    fn bounds_are_checked() {
        let _ = Matrix::new(&[1, 2], 1, 2)[(0, 2)];
    }
}
