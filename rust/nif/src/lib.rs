//! Export plain Rust functions as NIFs.
//!
//! ```
//! use nif::nif;
//!
//! /// `dot(x[n], y[n])`: inner product of two vectors.
//! #[nif(pure)]
//! pub fn dot(x: &[f64], y: &[f64]) -> f64 {
//!     x.iter().zip(y).map(|(x, y)| x * y).sum()
//! }
//!
//! nif::library!();
//! ```
//!
//! The signature, the documentation, every check of docs/abi.md and the export `__tvm_ffi_dot` follow from the function
//! and the first line of its documentation. [`library!`] exports `nif_init`; it finds the functions by itself.
//!
//! Without that line each array that is read has a length or a shape of its own (`[n]`, `[n2]`), and an output those of the
//! first one with as many axes.
//!
//! | in a parameter | in the signature |
//! |---|---|
//! | `f64` `f32` `i8` … `i64` `u8` … `u64` `bool` `&str` | the same, `str` |
//! | `isize` `usize` | `i64` `u64` |
//! | [`Complex<f64>`](Complex), `Complex<f32>` | `c128`, `c64` |
//! | [`Bytes`](args::Bytes) | `bytes` |
//! | `&[T]`, `&mut [T]` | `T[n]`, `mut T[n]`: contiguous |
//! | `Vec<T>`, `String` | `T[n]`, `str`: a copy, which is the function's |
//! | `Vec<String>`, `Vec<&str>` | `str[_]`: a list of texts |
//! | `Option<V>` of one of these | `V?`: `None` for Python's None; at the end it may be left out |
//! | [`Matrix<'_, T>`](Matrix), [`MatrixMut<'_, T>`](MatrixMut) | `T[m,n]`, `mut T[m,n]`: any strides |
//! | [`AnyArray<'_>`](AnyArray) | `any[...]` |
//! | [`Callback<fn(f64, &[f64]) -> f64>`](Callback) | `fn(f64,f64[_])->f64`: a function of the caller's |
//!
//! `T` is an [`Element`]; a truth value in an array is a [`Bool`]. An integer outside its type is refused.
//!
//! | as a result | in the signature |
//! |---|---|
//! | `()`, the scalars above, `String`, `&'static str` | `None`, the same, `str` |
//! | `Vec<T>`, `Vec<bool>`; `Vec<[T; N]>`; `[T; N]` | `T[_]`; `T[_,N]`; `T[N]`: copied once, into memory of the host's |
//! | `Vec<String>`, `Vec<&str>` | `str[_]`: a list |
//! | [`ByteBuf`], [`Bytes`] | `bytes` |
//! | [`Tensor`], which is in memory of the host's from the start | `any[...]` |
//! | `Option<V>` of one of these | `V?`, `None` in Python |
//! | `(A, B, …)`, `Option<(A, B, …)>` of these | `(A, B, …)`: a tuple; a named one if the documentation says ``f(x) -> (mean, n)`` |
//! | `Result<R, E>` of any of these | that of `R` |
//!
//! `E` is an [`Error`], or whatever turns into one: a `String`, a `&'static str`, an `io::Error` or a `Box<dyn Error>` becomes
//! Python's `NifError` with its text; the standard library's errors of parsing and converting become a `NifValueError`, one of
//! `try_reserve` a `NifMemoryError`. For a type of your own write `impl From<MyError> for nif::Error`. A panic is a `NifPanic`, one of
//! an index out of bounds a `NifIndexError`.

#![deny(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod abi;
pub mod args;
pub mod callback;
pub mod complex;
pub mod element;
pub mod error;
pub mod export;
pub mod gpu;
mod masks;
pub mod matrix;
mod optional;
pub mod outcome;
pub mod owned;
pub mod signature;
pub mod tensor;
pub mod texts;
pub mod value;

pub use args::{AnyArray, Bytes};
pub use callback::{Callback, Slice, SliceMut};
pub use element::{Bool, Complex, Element, F16};
pub use error::Error;
pub use export::{cancelled, log, progress};
pub use matrix::{Matrix, MatrixMut};
#[cfg(feature = "macros")]
pub use nif_macros::nif;
pub use outcome::ByteBuf;
pub use tensor::Tensor;

/// What cells print by. Not among what `use nif::*` brings: there it would be in the standard library's way.
pub mod output {
    /// The standard library's `print!`, whose text is on its way when the call ends, with or without a newline.
    pub use crate::__print as print;
}

/// What the expansion of `#[nif]` needs.
#[doc(hidden)]
pub use linkme;
