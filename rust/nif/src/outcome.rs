//! Results: from what functions return to the ABI's values.
#![allow(unsafe_code, reason = "writes the caller's memory")]
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::collections::HashSet;
use std::error::Error as StdError;
use std::ffi::{CString, c_char};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::abi::{Any, AnyValue, DType, type_index};
use crate::args::{Bytes, extent};
use crate::element::{Bool, Complex, Element};
use crate::error::Error;
use crate::export::{c_string, room_for_results};
use crate::tensor::Tensor;

/// One value of a result.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the result of a NIF",
    note = "a NIF returns (), bool, i8 to i64, u8 to u64, isize, usize, f32, f64, Complex<f64>, String, &'static str, Vec<T>, Vec<[T; N]>, \
            [T; N], ByteBuf or Tensor; an Option of one; a tuple or an Option of a tuple of them; a Result of any of these",
    note = "T is bool, i8 to i64, u8 to u64, f32, f64 or a complex number"
)]
pub trait Item: Sized {
    /// Its type in the signature.
    fn spell() -> String;

    /// # Errors
    ///
    /// When there is no memory for it.
    fn into_any(self) -> Result<Any, Error>;
}

fn any(type_index: i32, v: AnyValue) -> Any {
    Any { type_index, zero: 0, v }
}

macro_rules! items {
    ($($type:ty as $name:literal: |$value:ident| $index:ident $field:ident $expression:expr;)+) => {
        $(impl Item for $type {
            fn spell() -> String {
                $name.to_owned()
            }

            #[inline]
            fn into_any(self) -> Result<Any, Error> {
                let $value = self;
                Ok(any(type_index::$index, AnyValue { $field: $expression }))
            }
        })+
    };
}

items! {
    () as "None": |_unit| NONE i 0;
    f64 as "f64": |value| FLOAT f value;
    f32 as "f32": |value| FLOAT f f64::from(value);
    i8 as "i8": |value| INT i value.into();
    i16 as "i16": |value| INT i value.into();
    i32 as "i32": |value| INT i value.into();
    i64 as "i64": |value| INT i value;
    isize as "i64": |value| INT i value as i64;
    u8 as "u8": |value| INT i value.into();
    u16 as "u16": |value| INT i value.into();
    u32 as "u32": |value| INT i value.into();
    u64 as "u64": |value| INT i value.cast_signed();
    usize as "u64": |value| INT i (value as u64).cast_signed();
    bool as "bool": |value| BOOL i i64::from(value);
    Bool as "bool": |value| BOOL i i64::from(value.0 != 0);
    &'static str as "str": |value| STR p intern(value).cast_mut().cast();
    Tensor as "any[...]": |value| TENSOR p value.into_raw().as_ptr().cast();
}

/// A copy of a string that ends in NUL and lives as long as the library: one for each text.
fn intern(text: &'static str) -> *const c_char {
    static TEXTS: LazyLock<Mutex<HashSet<CString>>> = LazyLock::new(Mutex::default);
    let text = c_string(text);
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(&text) {
        return known.as_ptr();
    }
    let address = text.as_ptr();
    texts.insert(text);
    address
}

/// Bytes as a result: Python's `bytes`. (A `Vec<u8>` is an array.)
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteBuf(pub Vec<u8>);

impl Item for Complex<f64> {
    fn spell() -> String {
        Self::NAME.to_owned()
    }

    fn into_any(self) -> Result<Any, Error> {
        copied(Self::DTYPE, &[], &[self])
    }
}

impl Item for Complex<f32> {
    fn spell() -> String {
        Self::NAME.to_owned()
    }

    fn into_any(self) -> Result<Any, Error> {
        copied(Self::DTYPE, &[], &[self])
    }
}

impl Item for String {
    fn spell() -> String {
        "str".to_owned()
    }

    fn into_any(self) -> Result<Any, Error> {
        Tensor::of_bytes(u8::DTYPE, &[extent(self.len())], self.as_bytes())?.into_any()
    }
}

impl Item for ByteBuf {
    fn spell() -> String {
        "bytes".to_owned()
    }

    fn into_any(self) -> Result<Any, Error> {
        Bytes(&self.0).into_any()
    }
}

impl Item for Bytes<'_> {
    fn spell() -> String {
        "bytes".to_owned()
    }

    fn into_any(self) -> Result<Any, Error> {
        Tensor::of_bytes(u8::DTYPE, &[extent(self.0.len())], self.0)?.into_any()
    }
}

/// The memory of elements, as bytes.
///
/// # Safety
///
/// The elements have no gaps.
unsafe fn bytes_of<T>(elements: &[T]) -> &[u8] {
    // SAFETY: as above; bytes need no alignment and may have any value.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// A copy of elements in the host's memory.
fn copied<T>(dtype: DType, shape: &[i64], elements: &[T]) -> Result<Any, Error> {
    // SAFETY: numbers, truth values and arrays of them have no gaps.
    Tensor::of_bytes(dtype, shape, unsafe { bytes_of(elements) })?.into_any()
}

impl<T: Element> Item for Vec<T> {
    fn spell() -> String {
        format!("{}[_]", T::NAME)
    }

    fn into_any(self) -> Result<Any, Error> {
        copied(T::DTYPE, &[extent(self.len())], &self)
    }
}

impl Item for Vec<bool> {
    fn spell() -> String {
        <Vec<Bool> as Item>::spell()
    }

    fn into_any(self) -> Result<Any, Error> {
        copied(Bool::DTYPE, &[extent(self.len())], &self)
    }
}

impl<T: Element, const N: usize> Item for Vec<[T; N]> {
    fn spell() -> String {
        format!("{}[_,{N}]", T::NAME)
    }

    fn into_any(self) -> Result<Any, Error> {
        copied(T::DTYPE, &[extent(self.len()), extent(N)], &self)
    }
}

impl<T: Element, const N: usize> Item for [T; N] {
    fn spell() -> String {
        format!("{}[{N}]", T::NAME)
    }

    fn into_any(self) -> Result<Any, Error> {
        copied(T::DTYPE, &[extent(N)], &self)
    }
}

impl<T: Item> Item for Option<T> {
    fn spell() -> String {
        format!("{}?", T::spell())
    }

    #[inline]
    fn into_any(self) -> Result<Any, Error> {
        self.map_or_else(|| ().into_any(), T::into_any)
    }
}

/// What a NIF can return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the result of a NIF",
    note = "a NIF returns a value, a tuple of values, or a `Result` of either whose error is, or turns into, a nif::Error"
)]
pub trait Outcome: Sized {
    /// How many values it is.
    const COUNT: usize = 1;

    /// Its type in the signature. `names` are those of a tuple's values, if the documentation gives them.
    fn spell(names: &[&str]) -> String;

    /// # Errors
    ///
    /// The function's own, or that there is no memory.
    ///
    /// # Safety
    ///
    /// `result` can be written.
    unsafe fn write(self, result: *mut Any) -> Result<(), Error>;
}

impl<T: Item> Outcome for T {
    fn spell(_names: &[&str]) -> String {
        T::spell()
    }

    #[inline(always)]
    unsafe fn write(self, result: *mut Any) -> Result<(), Error> {
        let value = self.into_any()?;
        // SAFETY: the caller's promise.
        unsafe { result.write(value) };
        Ok(())
    }
}

impl<T: Outcome, E: Into<Error>> Outcome for Result<T, E> {
    const COUNT: usize = T::COUNT;

    fn spell(names: &[&str]) -> String {
        T::spell(names)
    }

    #[inline(always)]
    unsafe fn write(self, result: *mut Any) -> Result<(), Error> {
        // SAFETY: passed on.
        unsafe { self.map_err(Into::into)?.write(result) }
    }
}

/// Write all values of a tuple, if the host has room for them.
unsafe fn write_all<const N: usize>(values: [Any; N], result: *mut Any) -> Result<(), Error> {
    if room_for_results() < N {
        return Err(Error::Other("needs a host that takes tuples".into()));
    }
    // SAFETY: the host has room for N values.
    unsafe { result.cast::<[Any; N]>().write(values) };
    Ok(())
}

fn spell_tuple(types: &[String], names: &[&str]) -> String {
    let name = |i: usize| names.get(i).map_or(String::new(), |name| format!("{name}: "));
    let items: Vec<_> = types.iter().enumerate().map(|(i, type_)| format!("{}{type_}", name(i))).collect();
    format!("({})", items.join(", "))
}

macro_rules! tuples {
    ($(($($type:ident)+) $count:literal;)+) => {
        $(
            impl<$($type: Item),+> Outcome for ($($type,)+) {
                const COUNT: usize = $count;

                fn spell(names: &[&str]) -> String {
                    spell_tuple(&[$($type::spell()),+], names)
                }

                #[allow(non_snake_case, reason = "a value has the name of its type")]
                unsafe fn write(self, result: *mut Any) -> Result<(), Error> {
                    let ($($type,)+) = self;
                    // SAFETY: passed on.
                    unsafe { write_all([$($type.into_any()?),+], result) }
                }
            }

            impl<$($type: Item),+> Outcome for Option<($($type,)+)> {
                const COUNT: usize = $count;

                fn spell(names: &[&str]) -> String {
                    format!("{}?", <($($type,)+)>::spell(names))
                }

                unsafe fn write(self, result: *mut Any) -> Result<(), Error> {
                    // SAFETY: passed on.
                    unsafe {
                        match self {
                            Some(values) => values.write(result),
                            None => write_all([any(type_index::NONE, AnyValue { i: 0 }); $count], result),
                        }
                    }
                }
            }
        )+
    };
}

tuples! {
    (A) 1;
    (A B) 2;
    (A B C) 3;
    (A B C D) 4;
    (A B C D E) 5;
    (A B C D E F) 6;
    (A B C D E F G) 7;
    (A B C D E F G H) 8;
}

/// Errors that turn into a [`Error`] of a given kind: what can't be read as a number or text is an error of the value, a text or any other
/// error one of the function's own.
macro_rules! errors {
    ($($type:ty as |$error:ident| $expression:expr;)+) => {
        $(impl From<$type> for Error {
            fn from($error: $type) -> Self {
                $expression
            }
        })+
    };
}

fn value(error: &impl ToString) -> Error {
    Error::Value { argument: None, message: error.to_string().into() }
}

errors! {
    String as |error| Error::Other(error.into());
    &'static str as |error| Error::Other(error.into());
    std::num::ParseIntError as |error| value(&error);
    std::num::ParseFloatError as |error| value(&error);
    std::num::TryFromIntError as |error| value(&error);
    std::str::ParseBoolError as |error| value(&error);
    std::str::Utf8Error as |error| value(&error);
    std::string::FromUtf8Error as |error| value(&error);
    std::fmt::Error as |error| Error::Other(error.to_string().into());
    std::io::Error as |error| Error::Other(error.to_string().into());
    Box<dyn StdError> as |error| of_any(error);
    Box<dyn StdError + Send + Sync> as |error| of_any(error);
}

/// Whatever `?` has boxed keeps the kind that it had.
fn of_any(mut error: Box<dyn StdError>) -> Error {
    macro_rules! known {
        ($($type:ty)+) => {
            $(match error.downcast::<$type>() {
                Ok(known) => return (*known).into(),
                Err(other) => error = other,
            })+
        };
    }
    known! {
        Error
        std::num::ParseIntError
        std::num::ParseFloatError
        std::num::TryFromIntError
        std::str::ParseBoolError
        std::str::Utf8Error
        std::string::FromUtf8Error
        std::collections::TryReserveError
    }
    Error::Other(error.to_string().into())
}
