//! Values between languages.

use nif::{AnyArray, Error, Tensor, nif};

/// `write(x[...])`: a copy of x in the host's memory.
#[nif]
pub fn write(x: AnyArray<'_>) -> Result<Tensor, Error> {
    let mut copy = Tensor::like(&x)?;
    copy.bytes_mut().copy_from_slice(x.bytes());
    Ok(copy)
}

/// `address(x[...])`: where Rust sees the data.
#[nif(pure)]
pub fn address(x: AnyArray<'_>) -> u64 {
    x.bytes().as_ptr().addr() as u64
}
