//! Work on arrays of a device: docs/gpu.md says what each function means.

use nif::gpu::{GpuArray, launch};
use nif::{Bytes, Error, nif};

/// `gpu_fill(to, value)`: set all elements of an array on a device.
#[nif(idempotent)]
pub fn gpu_fill(to: u64, value: f64) -> Result<(), Error> {
    GpuArray::writing("to", to)?.fill(value)
}

/// `gpu_copy(source, target)`: copy the elements of one array on a device to another of the same size.
#[nif(idempotent)]
pub fn gpu_copy(source: u64, target: u64) -> Result<(), Error> {
    let source = GpuArray::reading("source", source)?;
    GpuArray::writing("target", target)?.copy_from(&source)
}

/// `gpu_checksum(x)`: XXH3-64 of the bytes of an array on a device.
#[nif(long, pure)]
pub fn gpu_checksum(x: u64) -> Result<u64, Error> {
    Ok(nif_copy::checksum(&GpuArray::reading("x", x)?.to_host()?))
}

/// `gpu_launch(kernel, shape[s], arguments, places[p])`: start a kernel with packed arguments.
#[nif]
pub fn gpu_launch(kernel: u64, shape: &[u32], arguments: Bytes<'_>, places: &[u32]) -> Result<(), Error> {
    let shape =
        shape.try_into().map_err(|_| Error::value("shape", format!("expected 7 numbers, got {}", shape.len())))?;
    launch(kernel, shape, arguments.0, places)
}
