//! Element types: their names in signatures and their `DLPack` types.
#![allow(unsafe_code, reason = "`Element` is a promise about memory")]

use crate::abi::{DType, dtype_code};

/// A type that elements of an array can have.
///
/// # Safety
///
/// `DTYPE` describes the type's layout, and every bit pattern is a valid value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an element of an array",
    note = "elements are Bool (a byte, of which all but 0 are true; in a slice bool as well), i8 to i64, u8 to u64, isize, usize, f32, f64, F16 or Complex<f64>"
)]
pub unsafe trait Element: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    const DTYPE: DType;
}

/// A truth value in an array: 0 is false, any other byte is true. (Foreign memory may hold any byte, and Rust's `bool` only
/// 0 and 1.)
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Bool(pub u8);

impl From<Bool> for bool {
    fn from(value: Bool) -> bool {
        value.0 != 0
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Self(u8::from(value))
    }
}

/// The bits of a half-precision number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct F16(pub u16);

pub use crate::complex::Complex;

macro_rules! elements {
    ($($name:literal $type:ty, $code:ident;)+) => {
        $(
            // SAFETY: numbers (or wrappers of them) of the size that the type itself states.
            unsafe impl Element for $type {
                const NAME: &'static str = $name;
                #[allow(clippy::cast_possible_truncation, reason = "at most 128 bits")]
                const DTYPE: DType = DType { code: dtype_code::$code, bits: 8 * size_of::<$type>() as u8, lanes: 1 };
            }
        )+

        /// Every element type of docs/abi.md: name, type, alignment.
        const ELEMENTS: &[(&str, DType, usize)] = &[$(($name, <$type>::DTYPE, align_of::<$type>())),+];
    };
}

elements! {
    "bool" Bool, BOOL;
    "i8" i8, INT;
    "i16" i16, INT;
    "i32" i32, INT;
    "i64" i64, INT;
    "u8" u8, UINT;
    "u16" u16, UINT;
    "u32" u32, UINT;
    "u64" u64, UINT;
    "f16" F16, FLOAT;
    "f32" f32, FLOAT;
    "f64" f64, FLOAT;
    "c64" Complex<f32>, COMPLEX;
    "c128" Complex<f64>, COMPLEX;
}

/// `usize` and `isize` are numbers of 64 bits to everybody else; what indexes are made of.
#[cfg(target_pointer_width = "64")]
mod of_the_machine {
    use super::{DType, Element};

    // SAFETY: they have the size and the values of these.
    unsafe impl Element for usize {
        const NAME: &'static str = u64::NAME;
        const DTYPE: DType = u64::DTYPE;
    }

    // SAFETY: as above.
    unsafe impl Element for isize {
        const NAME: &'static str = i64::NAME;
        const DTYPE: DType = i64::DTYPE;
    }
}

/// The alignment of an element type, if it is in docs/abi.md.
pub(crate) fn alignment(dtype: DType) -> Option<usize> {
    ELEMENTS.iter().find(|(_, known, _)| *known == dtype).map(|(_, _, alignment)| *alignment)
}

/// How signatures and errors spell an element type: `f64`, or `4/16/1` for one they don't know.
pub(crate) fn spell(dtype: DType) -> String {
    let DType { code, bits, lanes } = dtype;
    match ELEMENTS.iter().find(|(_, known, _)| *known == dtype) {
        Some((name, ..)) => (*name).to_owned(),
        None => format!("{code}/{bits}/{lanes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_size() {
        for (name, dtype, alignment) in ELEMENTS {
            assert_eq!(spell(*dtype), *name);
            let digits = name.trim_start_matches(char::is_alphabetic);
            assert_eq!(digits.parse().unwrap_or(8), dtype.bits);
            assert!(usize::from(dtype.bits) % (8 * alignment) == 0);
        }
        assert_eq!(spell(DType { code: 4, bits: 16, lanes: 1 }), "4/16/1");
    }
}
