//! The attribute `#[nif]`. It is used through the crate `nif`, which documents it.

mod call_line;
mod expand;

use proc_macro::TokenStream;

/// Exports a plain function as a NIF.
///
/// The first line of its documentation is the call with the dimensions of every array, closed by a colon or a period:
///
/// ```text
/// /// `axpy(a, x[n], y[n])`: y = a x + y, in place.
/// #[nif(idempotent)]
/// pub fn axpy(a: f64, x: &[f64], y: &mut [f64]) { … }
/// ```
///
/// A dimension name means the same number wherever it stands; an `i64` parameter of that name fixes it.
///
/// In parentheses stand what callers may rely on: `long` (release the GIL), `idempotent` (may be retried), `pure` (no effect
/// but the result), `thread_bound`, `polls_cancel` (asks `nif::cancelled()`), `fault` (fails on purpose).
#[proc_macro_attribute]
pub fn nif(flags: TokenStream, function: TokenStream) -> TokenStream {
    expand::nif(flags.into(), function.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
