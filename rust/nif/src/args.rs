//! Arguments: from the ABI's values to the types that functions take, with the checks of docs/abi.md in their order.
//!
//! An argument is read in two steps, because a `&mut` may only exist once nothing overlaps it: [`Argument::read`] checks a
//! value by itself and gives a plain [`Raw`] record; when all records agree with each other, [`Argument::make`] turns each
//! into the type that the function takes.
#![allow(unsafe_code, reason = "makes slices of the caller's memory")]
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::fmt::Display;
use std::ops::Range;
use std::{ptr, slice};

use crate::abi::{Any, DEVICE_CPU, DType};
use crate::element::{self, Complex, Element};
use crate::error::Error;
use crate::matrix::{Matrix, MatrixMut, RawMatrix};
use crate::owned::complex;
use crate::signature::{ABSENT, Kind, Param};
use crate::value::{TensorView, Value, spell_list};

/// A type that a NIF can take.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the parameter of a NIF",
    note = "a NIF takes i8 to i64, u8 to u64, isize, usize, f32, f64, Complex<f64>, bool, &str, String, Bytes, &[T], &mut [T], Vec<T>, Matrix<T>, \
            MatrixMut<T>, AnyArray, Vec<String>, Callback<fn(f64) -> f64> and an Option of one of these",
    note = "T is Bool (a byte, of which all but 0 are true), i8 to i64, u8 to u64, f32, f64 or a complex number"
)]
pub trait Argument<'a>: Sized {
    const KIND: Kind;
    /// It may be None.
    const IS_OPTIONAL: bool = false;
    type Raw: Raw;

    /// Checks one value by itself.
    ///
    /// # Errors
    ///
    /// Those of rows 2 to 7 of docs/abi.md.
    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error>;

    /// # Safety
    ///
    /// `raw` comes from [`Self::read`]; a mutable array is made once and overlaps no other argument.
    unsafe fn make(raw: Self::Raw) -> Self;
}

/// A checked argument.
pub trait Raw: Copy {
    /// The size of an axis.
    fn extent(&self, _axis: usize) -> i64 {
        unreachable!("a scalar has no axes")
    }

    /// The bytes of an array with elements, by their addresses; otherwise empty.
    fn addresses(&self) -> Range<usize> {
        0..0
    }
}

/// Arguments that are their own record.
macro_rules! scalars {
    ($($(#[$lint:meta])? $type:ty as $name:literal: |$value:ident, $param:ident| $read:expr;)+) => {
        $(
            impl<'a> Raw for $type {}

            impl<'a> Argument<'a> for $type {
                const KIND: Kind = Kind::Scalar($name);
                type Raw = Self;

                #[inline]
                $(#[$lint])?
                fn read($value: Value<'a>, $param: &Param) -> Result<Self, Error> {
                    $read
                }

                #[inline]
                unsafe fn make(raw: Self) -> Self {
                    raw
                }
            }
        )+
    };
}

scalars! {
    f64 as "f64": |value, param| {
        let number = value.float().or_else(|| value.int().map(|int| int as f64));
        number.or_else(|| value.bool().map(f64::from)).ok_or_else(|| unexpected_type(value, param))
    };
    f32 as "f32": |value, param| {
        #[expect(clippy::cast_possible_truncation, reason = "rounded, as NumPy does")]
        <f64 as Argument>::read(value, param).map(|number| number as f32)
    };
    i64 as "i64": |value, param| {
        value.int().or_else(|| value.bool().map(i64::from)).ok_or_else(|| unexpected_type(value, param))
    };
    // The bits of an i64: the Lab knows the sign and refuses what is negative.
    u64 as "u64": |value, param| <i64 as Argument>::read(value, param).map(i64::cast_unsigned);
    i32 as "i32": |value, param| narrow(value, param, i32::MIN.into(), i32::MAX.into());
    i16 as "i16": |value, param| narrow(value, param, i16::MIN.into(), i16::MAX.into());
    i8 as "i8": |value, param| narrow(value, param, i8::MIN.into(), i8::MAX.into());
    u32 as "u32": |value, param| narrow(value, param, 0, u32::MAX.into());
    u16 as "u16": |value, param| narrow(value, param, 0, u16::MAX.into());
    u8 as "u8": |value, param| narrow(value, param, 0, u8::MAX.into());
    isize as "i64": |value, param| narrow(value, param, i64::MIN, i64::MAX);
    usize as "u64": |value, param| {
        #[expect(clippy::cast_possible_truncation, reason = "64 bits each")]
        <u64 as Argument>::read(value, param).map(|number| number as usize)
    };
    bool as "bool": |value, param| value.bool().ok_or_else(|| unexpected_type(value, param));
    &'a str as "str": |value, param| {
        let text = value.text().ok_or_else(|| unexpected_type(value, param))?;
        str::from_utf8(text).map_err(|_| Error::value(param.name, "expected UTF-8"))
    };
    Complex<f64> as "c128": |value, param| {
        let number = <f64 as Argument>::read(value, param).map(|re| Complex { re, im: 0.0 });
        complex(value, param).map_or(number, |it| it.map(|[re, im]| Complex { re, im }))
    };
    #[expect(clippy::cast_possible_truncation, reason = "rounded, as NumPy does")]
    Complex<f32> as "c64": |value, param| {
        <Complex<f64> as Argument>::read(value, param).map(|it| Complex { re: it.re as f32, im: it.im as f32 })
    };
    Bytes<'a> as "bytes": |value, param| value.bytes().map(Bytes).ok_or_else(|| unexpected_type(value, param));
}

/// An integer of fewer bits.
#[inline]
fn narrow<T: TryFrom<i64>>(value: Value<'_>, param: &Param, low: i64, high: i64) -> Result<T, Error> {
    let number = <i64 as Argument>::read(value, param)?;
    T::try_from(number).map_err(|_| out_of_range(number, low, high, param))
}

#[cold]
fn out_of_range(number: i64, low: i64, high: i64, param: &Param) -> Error {
    Error::value(param.name, format!("expected {low} to {high}, got {number}"))
}

/// A `bytes` argument. (A plain `&[u8]` is an array of u8.)
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

#[cold]
pub(crate) fn unexpected_type(value: Value<'_>, param: &Param) -> Error {
    Error::type_(param.name, format!("expected {param}, got {value}"))
}

#[cold]
pub(crate) fn unexpected_rank(value: Value<'_>, param: &Param) -> Error {
    Error::value(param.name, format!("expected {param}, got {value}"))
}

#[cold]
fn misaligned(alignment: usize, param: &Param) -> Error {
    Error::value(param.name, format!("expected data aligned to {alignment} bytes"))
}

#[cold]
fn not_contiguous(tensor: TensorView<'_>, param: &Param) -> Error {
    let strides = spell_list(tensor.strides().unwrap_or_default());
    Error::value(param.name, format!("expected contiguous memory, got strides [{strides}]"))
}

/// Rows 4 to 6: the address of element [0, …], for elements of that alignment.
#[inline]
pub(crate) fn address(tensor: TensorView<'_>, alignment: usize, param: &Param) -> Result<*mut u8, Error> {
    let header = tensor.header();
    if header.device.r#type != DEVICE_CPU {
        return Err(Error::value(param.name, "expected memory of the CPU"));
    }
    if header.data.is_null() {
        return match tensor.count() {
            0 => Ok(ptr::without_provenance_mut(alignment)),
            _ => Err(Error::value(param.name, "has no data")),
        };
    }
    #[expect(clippy::cast_possible_truncation, reason = "an offset within this address space")]
    let data = header.data.cast::<u8>().wrapping_add(header.byte_offset as usize);
    if data.addr() % alignment != 0 {
        return Err(misaligned(alignment, param));
    }
    Ok(data)
}

/// Rows 2 to 6 for an array of `T` with `rank` axes: the tensor and the address of its first element.
#[inline(always)]
fn array<'a, T: Element>(value: Value<'a>, rank: i32, param: &Param) -> Result<(TensorView<'a>, *mut T), Error> {
    let Some(tensor) = value.tensor().filter(|tensor| tensor.header().dtype == T::DTYPE) else {
        return Err(unexpected_type(value, param));
    };
    if tensor.header().ndim != rank {
        return Err(unexpected_rank(value, param));
    }
    Ok((tensor, address(tensor, align_of::<T>(), param)?.cast()))
}

/// The size of an axis in memory.
#[inline]
fn length(extent: i64) -> usize {
    usize::try_from(extent).unwrap_or(0)
}

/// The size of an axis in the ABI.
#[inline]
pub(crate) fn extent(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// A checked slice.
#[derive(Debug)]
pub struct RawSlice<T> {
    pub(crate) data: *mut T,
    pub(crate) len: usize,
}

impl<T> Clone for RawSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RawSlice<T> {}

impl<T> Raw for RawSlice<T> {
    #[inline]
    fn extent(&self, _axis: usize) -> i64 {
        extent(self.len)
    }

    #[inline]
    fn addresses(&self) -> Range<usize> {
        self.data.addr()..self.data.wrapping_add(self.len).addr()
    }
}

impl<T: Element> RawSlice<T> {
    /// The slice itself, while it is lent.
    ///
    /// # Safety
    ///
    /// It comes from `read`, and nobody writes to it.
    pub(crate) unsafe fn lent<'a>(self) -> &'a [T] {
        // SAFETY: `read` has checked the address.
        unsafe { slice::from_raw_parts(self.data, self.len) }
    }

    #[inline(always)]
    pub(crate) fn read(value: Value<'_>, param: &Param) -> Result<Self, Error> {
        let (tensor, data) = array(value, 1, param)?;
        if !tensor.is_contiguous() {
            return Err(not_contiguous(tensor, param));
        }
        Ok(Self { data, len: length(tensor.shape()[0]) })
    }
}

impl<'a, T: Element> Argument<'a> for &'a [T] {
    const KIND: Kind = Kind::Array { element: T::NAME, rank: 1, mutable: false };
    type Raw = RawSlice<T>;

    #[inline]
    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
        RawSlice::read(value, param)
    }

    #[inline]
    unsafe fn make(raw: Self::Raw) -> Self {
        // SAFETY: the caller lends the memory for the call.
        unsafe { raw.lent() }
    }
}

impl<'a, T: Element> Argument<'a> for &'a mut [T] {
    const KIND: Kind = Kind::Array { element: T::NAME, rank: 1, mutable: true };
    type Raw = RawSlice<T>;

    #[inline]
    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
        RawSlice::read(value, param)
    }

    #[inline]
    unsafe fn make(raw: Self::Raw) -> Self {
        // SAFETY: as above, and nothing overlaps it.
        unsafe { slice::from_raw_parts_mut(raw.data, raw.len) }
    }
}

impl<T: Element> RawMatrix<T> {
    fn read(value: Value<'_>, param: &Param) -> Result<Self, Error> {
        let (tensor, data) = array(value, 2, param)?;
        let [rows, columns] = [tensor.shape()[0], tensor.shape()[1]].map(length);
        #[expect(clippy::cast_possible_truncation, reason = "strides within this address space")]
        let strides = match tensor.strides() {
            Some(strides) => [strides[0] as isize, strides[1] as isize],
            None => [columns.cast_signed(), 1],
        };
        Ok(Self { data, shape: [rows, columns], strides })
    }
}

impl<'a, T: Element> Argument<'a> for Matrix<'a, T> {
    const KIND: Kind = Kind::Array { element: T::NAME, rank: 2, mutable: false };
    type Raw = RawMatrix<T>;

    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
        RawMatrix::read(value, param)
    }

    unsafe fn make(raw: Self::Raw) -> Self {
        // SAFETY: `read` has checked the address; the caller lends the memory for the call.
        unsafe { Matrix::from_raw(raw) }
    }
}

impl<'a, T: Element> Argument<'a> for MatrixMut<'a, T> {
    const KIND: Kind = Kind::Array { element: T::NAME, rank: 2, mutable: true };
    type Raw = RawMatrix<T>;

    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
        RawMatrix::read(value, param)
    }

    unsafe fn make(raw: Self::Raw) -> Self {
        // SAFETY: as above, and nothing overlaps it.
        unsafe { MatrixMut::from_raw(raw) }
    }
}

/// Contiguous memory of any element type and shape, as its bytes.
#[derive(Clone, Copy, Debug)]
pub struct AnyArray<'a> {
    bytes: &'a [u8],
    dtype: DType,
    /// Of a tensor; `bytes` have none.
    shape: Option<&'a [i64]>,
}

impl<'a> AnyArray<'a> {
    /// The elements' bytes, in the order of memory.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The size of every axis.
    #[must_use]
    pub fn shape(&self) -> Vec<i64> {
        match self.shape {
            Some(shape) => shape.to_vec(),
            None => vec![extent(self.bytes.len())],
        }
    }
}

impl Raw for AnyArray<'_> {
    fn addresses(&self) -> Range<usize> {
        let Range { start, end } = self.bytes.as_ptr_range();
        start.addr()..end.addr()
    }
}

impl<'a> Argument<'a> for AnyArray<'a> {
    const KIND: Kind = Kind::Any;
    type Raw = Self;

    fn read(value: Value<'a>, param: &Param) -> Result<Self, Error> {
        if let Some(bytes) = value.bytes() {
            return Ok(Self { bytes, dtype: u8::DTYPE, shape: None });
        }
        let tensor = value.tensor().ok_or_else(|| unexpected_type(value, param))?;
        let dtype = tensor.header().dtype;
        let alignment = element::alignment(dtype).ok_or_else(|| unexpected_type(value, param))?;
        let data = address(tensor, alignment, param)?;
        if !tensor.is_contiguous() {
            return Err(not_contiguous(tensor, param));
        }
        let size = tensor.count() * usize::from(dtype.bits / 8);
        // SAFETY: that many bytes are lent for the call; bytes need no alignment and may have any value.
        Ok(Self { bytes: unsafe { slice::from_raw_parts(data, size) }, dtype, shape: Some(tensor.shape()) })
    }

    unsafe fn make(raw: Self) -> Self {
        raw
    }
}

#[cold]
fn overlaps(param: &Param, other: &Param) -> Error {
    Error::value(param.name, format!("overlaps argument '{}'", other.name))
}

#[cold]
fn wrong_number(expected: usize, given: i32) -> Error {
    let plural = if expected == 1 { "" } else { "s" };
    Error::Type { argument: None, message: format!("takes {expected} argument{plural}, {given} given").into() }
}

/// The arguments of one call of a NIF with `N` parameters.
#[derive(Clone, Copy)]
pub struct Arguments<'a, const N: usize> {
    params: &'static [Param; N],
    values: &'a [Any; N],
}

impl<'a, const N: usize> Arguments<'a, N> {
    /// Row 1.
    ///
    /// # Safety
    ///
    /// `values` leads to `given` values that are valid for `'a`.
    #[inline]
    pub(crate) unsafe fn new(params: &'static [Param; N], values: *const Any, given: i32) -> Result<Self, Error> {
        if usize::try_from(given) != Ok(N) {
            return Err(wrong_number(N, given));
        }
        // For no values the pointer may be null.
        let values = if N == 0 { ptr::dangling() } else { values.cast::<[Any; N]>() };
        // SAFETY: there are N values.
        Ok(Self { params, values: unsafe { &*values } })
    }

    #[inline]
    fn value(&self, index: usize) -> Value<'a> {
        // SAFETY: the promise of `new`.
        unsafe { Value::new(&self.values[index]) }
    }

    /// Rows 2 to 7, for one argument.
    ///
    /// # Errors
    ///
    /// Those of [`Argument::read`].
    #[inline]
    pub fn read<T: Argument<'a>>(&self, index: usize) -> Result<T::Raw, Error> {
        T::read(self.value(index), &self.params[index])
    }

    /// Row 8: an integer that names a dimension.
    ///
    /// # Errors
    ///
    /// When it is negative.
    #[inline]
    pub fn dimension<T: TryInto<i64> + Copy + Display>(&self, index: usize, value: T) -> Result<i64, Error> {
        match value.try_into() {
            Ok(length) if length >= 0 => Ok(length),
            _ => Err(Error::value(self.params[index].name, format!("expected 0 or more, got {value}"))),
        }
    }

    /// Row 9: an axis whose dimension is already bound, unless all arrays before it are absent.
    ///
    /// # Errors
    ///
    /// When it differs.
    #[inline]
    pub fn same(&self, index: usize, raw: &impl Raw, axis: usize, bound: &mut i64) -> Result<(), Error> {
        let extent = raw.extent(axis);
        if extent == *bound || extent == ABSENT {
            return Ok(());
        }
        if *bound == ABSENT {
            *bound = extent;
            return Ok(());
        }
        Err(self.differs(index, axis, *bound))
    }

    #[cold]
    fn differs(&self, index: usize, axis: usize, bound: i64) -> Error {
        let param = &self.params[index];
        let dim = param.dims[axis];
        Error::value(param.name, format!("expected {param} with {dim} = {bound}, got {}", self.value(index)))
    }

    /// Row 10: nothing overlaps a mutable array.
    ///
    /// # Errors
    ///
    /// When something does.
    #[inline]
    pub fn disjoint(&self, addresses: &[Range<usize>; N]) -> Result<(), Error> {
        for (index, mine) in addresses.iter().enumerate() {
            if !self.params[index].is_mutable() || mine.is_empty() {
                continue;
            }
            for (other, its) in addresses.iter().enumerate() {
                if other != index && !its.is_empty() && mine.start < its.end && its.start < mine.end {
                    return Err(overlaps(&self.params[index], &self.params[other]));
                }
            }
        }
        Ok(())
    }
}
