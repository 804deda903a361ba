//! Arguments that a function owns: copies of what the caller lends, and complex numbers, which lie in the caller's memory too.
#![allow(unsafe_code, reason = "reads the caller's memory")]

use crate::args::{Argument, RawSlice, address, unexpected_rank, unexpected_type};
use crate::element::{Complex, Element};
use crate::error::Error;
use crate::signature::{Kind, Param};
use crate::value::Value;

/// A copy, which the function owns.
impl<'a, T: Element> Argument<'a> for Vec<T> {
    const KIND: Kind = Kind::Array { element: T::NAME, rank: 1, mutable: false };
    type Raw = RawSlice<T>;

    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
        RawSlice::read(value, param)
    }

    unsafe fn make(raw: Self::Raw) -> Self {
        // SAFETY: the caller lends the memory for the call.
        unsafe { raw.lent() }.to_vec()
    }
}

impl<'a> Argument<'a> for String {
    const KIND: Kind = Kind::Scalar("str");
    type Raw = &'a str;

    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
        <&str as Argument>::read(value, param)
    }

    unsafe fn make(raw: Self::Raw) -> Self {
        raw.to_owned()
    }
}

/// A complex number: an array without axes. None for what is no array.
#[cold]
pub(crate) fn complex(value: Value<'_>, param: &Param) -> Option<Result<[f64; 2], Error>> {
    let tensor = value.tensor()?;
    let dtype = tensor.header().dtype;
    if dtype != <Complex<f64>>::DTYPE && dtype != <Complex<f32>>::DTYPE {
        return Some(Err(unexpected_type(value, param)));
    }
    if tensor.header().ndim != 0 {
        return Some(Err(unexpected_rank(value, param)));
    }
    let is_wide = dtype == <Complex<f64>>::DTYPE;
    let alignment = if is_wide { align_of::<f64>() } else { align_of::<f32>() };
    // SAFETY: the address is checked; the caller lends one element for the call.
    Some(address(tensor, alignment, param).map(|at| unsafe {
        if is_wide {
            at.cast::<[f64; 2]>().read_unaligned()
        } else {
            at.cast::<[f32; 2]>().read_unaligned().map(f64::from)
        }
    }))
}
