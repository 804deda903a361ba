//! Arrays of truth values as plain `bool`: what `Bool` reads with any byte, they have with 0 and 1 alone.
#![allow(unsafe_code, reason = "reads the caller's memory")]

use std::ops::Range;
use std::slice;

use crate::args::{Argument, Raw, RawSlice};
use crate::element::{Bool, Element};
use crate::error::Error;
use crate::signature::{Kind, Param};
use crate::value::Value;

/// A checked slice, each byte of which is 0 or 1.
#[derive(Clone, Copy, Debug)]
pub struct RawMask(RawSlice<Bool>);

impl Raw for RawMask {
    #[inline]
    fn extent(&self, axis: usize) -> i64 {
        self.0.extent(axis)
    }

    #[inline]
    fn addresses(&self) -> Range<usize> {
        self.0.addresses()
    }
}

impl RawMask {
    fn read(value: Value<'_>, param: &Param) -> Result<Self, Error> {
        let raw: RawSlice<Bool> = RawSlice::read(value, param)?;
        // SAFETY: the memory is lent for the call; a byte may have any value.
        let bytes = unsafe { slice::from_raw_parts(raw.data.cast::<u8>(), raw.len) };
        // All at once, which the compiler makes wide.
        if bytes.iter().fold(0, |all, byte| all | byte) > 1 {
            let odd = bytes.iter().find(|byte| **byte > 1).copied().unwrap_or(u8::MAX);
            return Err(Error::value(param.name, format!("expected bytes of 0 and 1, got {odd} (x != 0 has such)")));
        }
        Ok(Self(raw))
    }
}

macro_rules! masks {
    ($($type:ty, $mutable:literal: |$raw:ident| $make:expr;)+) => {
        $(
            impl<'a> Argument<'a> for $type {
                const KIND: Kind = Kind::Array { element: Bool::NAME, rank: 1, mutable: $mutable };
                type Raw = RawMask;

                fn read(value: Value<'a>, param: &Param) -> Result<Self::Raw, Error> {
                    RawMask::read(value, param)
                }

                unsafe fn make(RawMask($raw): Self::Raw) -> Self {
                    // SAFETY: `read` has checked address and bytes; the caller lends the memory for the call.
                    unsafe { $make }
                }
            }
        )+
    };
}

masks! {
    &'a [bool], false: |raw| slice::from_raw_parts(raw.data.cast(), raw.len);
    &'a mut [bool], true: |raw| slice::from_raw_parts_mut(raw.data.cast(), raw.len);
    Vec<bool>, false: |raw| slice::from_raw_parts(raw.data.cast::<bool>(), raw.len).to_vec();
}
