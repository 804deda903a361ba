//! Arrays of other libraries on a device, by DLPack's capsules.

use std::sync::Arc;

use nif::abi::dtype_code;
use nif_gpu::{Device, Driver, Handle};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::memory::common::Common;
use crate::memory::dlpack;
use crate::memory::gpu::buffer::{DEFAULT_STREAM, DeviceBuffer, Held, entry};
use crate::memory::gpu::owners::Owners;
use crate::python;
use crate::python::errors::gpu_error;

/// Another library's array, if it is on a device of the driver's; it is read where it lies.
///
/// Copies of it aren't in a ledger without one.
pub fn view(object: &Bound<'_, PyAny>, common: Option<&Arc<Common>>) -> PyResult<Option<DeviceBuffer>> {
    let py = object.py();
    if !object.hasattr(intern!(py, "__dlpack_device__"))? {
        return Ok(None);
    }
    let (kind, id): (i32, i32) = object.call_method0(intern!(py, "__dlpack_device__"))?.extract()?;
    if dlpack::HOST.contains(&kind) {
        return Ok(None);
    }
    let driver = Driver::get().map_err(|error| gpu_error(py, &error))?;
    if kind != driver.kind.dlpack() {
        let reason =
            format!("it is on a device of DLPack's type {kind}, and the driver here is {}", driver.kind.name());
        return Err(PyBufferError::new_err(reason));
    }
    let device = Device::get(id).map_err(|error| gpu_error(py, &error))?;
    let options = PyDict::new(py);
    // HIP's default stream is number 0.
    options.set_item("stream", if kind == 2 { DEFAULT_STREAM } else { 0 })?;
    options.set_item("max_version", (dlpack::VERSION.major, dlpack::VERSION.minor))?;
    let name = intern!(py, "__dlpack__");
    let capsule = object.call_method(name, (), Some(&options)).or_else(|error| {
        if !error.is_instance_of::<PyTypeError>(py) {
            return Err(error);
        }
        options.del_item("max_version")?;
        object.call_method(name, (), Some(&options))
    })?;
    // SAFETY: the capsule is kept as long as the view.
    let found = unsafe { dlpack::tensor_in(&capsule) };
    let (tensor, mut is_read_only) = found.ok_or_else(|| PyBufferError::new_err("a capsule that can't be read"))?;
    if capsule.str()?.to_string_lossy().contains("\"dltensor\"") {
        // Old capsules can't say; of those who still make them only JAX's arrays never change.
        let module: String = object.get_type().getattr(intern!(py, "__module__"))?.extract()?;
        is_read_only = module.starts_with("jax");
    }
    // SAFETY: the producer keeps it; shape and strides have `ndim` numbers.
    let (tensor, lengths, is_row_major) = unsafe {
        let it = *tensor.as_ref();
        let axes = usize::try_from(it.ndim).unwrap_or(0);
        let lengths: Vec<i64> = (0..axes).map(|axis| *it.shape.add(axis)).collect();
        let packed = dlpack::with_strides(&lengths);
        let fits =
            |axis: usize| it.strides.is_null() || lengths[axis] <= 1 || *it.strides.add(axis) == packed[axes + axis];
        let is_row_major = lengths.contains(&0) || (0..axes).all(fits);
        (it, lengths, is_row_major)
    };
    if !is_row_major {
        return Err(PyBufferError::new_err("expected row-major memory of a device (x = x.copy(), x = x.contiguous())"));
    }
    let item = python::dtype::size_of(tensor.dtype)
        .filter(|_| tensor.dtype.code != dtype_code::COMPLEX || tensor.dtype.bits >= 64);
    let item = item.ok_or_else(|| PyBufferError::new_err("an element type that NumPy doesn't have"))?;
    let bytes = lengths.iter().fold(item, |n, length| n.saturating_mul(usize::try_from(*length).unwrap_or(0)));
    let address = tensor.data.addr() as u64 + tensor.byte_offset;
    let entry = entry(device, address, bytes, tensor.dtype, &lengths, is_read_only);
    let number = nif_gpu::foreign_number();
    let handle = Handle::of(number);
    let held = Held::new(number, &entry, device, None, Some(capsule.unbind()));
    let mut owners = Owners::default();
    owners.add("python");
    Ok(Some(DeviceBuffer::new(held, entry, handle, owners, common)))
}
