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
//! Without that line all slices are `[n]` and all matrices `[m, n]`: of one length, of one shape.
//!
//! | in a parameter | in the signature |
//! |---|---|
//! | `f64` `i64` `bool` `&str` | `f64` `i64` `bool` `str` |
//! | [`Bytes`](args::Bytes) | `bytes` |
//! | `&[T]`, `&mut [T]` | `T[n]`, `mut T[n]`: contiguous |
//! | [`Matrix<'_, T>`](Matrix), [`MatrixMut<'_, T>`](MatrixMut) | `T[m,n]`, `mut T[m,n]`: any strides |
//! | [`AnyArray<'_>`](AnyArray) | `any[...]` |
//!
//! `T` is an [`Element`]; a truth value in an array is a [`Bool`]. Results are `()`, `f64`, `i64`, `u64`, `bool`, `&'static str`, a [`Tensor`] from the host's
//! memory, or a `Result` of one of them with an [`Error`].

#![deny(unsafe_code)]
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod abi;
pub mod args;
pub mod element;
pub mod error;
pub mod export;
pub mod matrix;
pub mod signature;
pub mod tensor;
pub mod value;

pub use args::{AnyArray, Bytes};
pub use element::{Bool, Complex, Element, F16};
pub use error::Error;
pub use export::{cancelled, log};
pub use matrix::{Matrix, MatrixMut};
#[cfg(feature = "macros")]
pub use nif_macros::nif;
pub use tensor::Tensor;

/// What the expansion of `#[nif]` needs.
#[doc(hidden)]
pub use linkme;
