//! Arguments that may be None.
#![allow(unsafe_code, reason = "what is made was read before")]

use std::ops::Range;

use crate::args::{Argument, Raw};
use crate::error::Error;
use crate::signature::{ABSENT, Kind, Param};
use crate::value::Value;

impl<R: Raw> Raw for Option<R> {
    #[inline]
    fn extent(&self, axis: usize) -> i64 {
        self.as_ref().map_or(ABSENT, |it| it.extent(axis))
    }

    #[inline]
    fn addresses(&self) -> Range<usize> {
        self.as_ref().map_or(0..0, Raw::addresses)
    }
}

impl<'a, T: Argument<'a>> Argument<'a> for Option<T> {
    const KIND: Kind = T::KIND;
    const IS_OPTIONAL: bool = true;
    type Raw = Option<T::Raw>;

    #[inline]
    fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
        if value.is_none() { Ok(None) } else { T::read(value, param).map(Some) }
    }

    #[inline]
    unsafe fn make(raw: Self::Raw) -> Self {
        // SAFETY: passed on.
        raw.map(|it| unsafe { T::make(it) })
    }
}
