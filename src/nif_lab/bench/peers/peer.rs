//! The PyO3 peers: arrays through rust-numpy (`dot`) and through the buffer protocol (`dot_buffer`).

use numpy::PyReadonlyArray1;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

const SUMS: usize = 8;

/// As wide and as unrolled as kernel.h's.
fn kernel_dot(x: &[f64], y: &[f64]) -> f64 {
    let (x_chunks, x_rest) = x.as_chunks::<SUMS>();
    let (y_chunks, y_rest) = y.as_chunks::<SUMS>();
    let mut sums = [0.0; SUMS];
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..SUMS {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

fn checked_dot(x: &[f64], y: &[f64]) -> PyResult<f64> {
    if x.len() == y.len() { Ok(kernel_dot(x, y)) } else { Err(PyValueError::new_err("lengths differ")) }
}

#[pyfunction]
fn noop() {}

#[pyfunction]
fn add(x: f64, y: f64) -> f64 {
    x + y
}

#[pyfunction]
fn dot(x: PyReadonlyArray1<'_, f64>, y: PyReadonlyArray1<'_, f64>) -> PyResult<f64> {
    checked_dot(x.as_slice()?, y.as_slice()?)
}

fn as_slice(buffer: &PyBuffer<f64>) -> PyResult<&[f64]> {
    // `PyBuffer::get` takes f64 of either byte order.
    if buffer.format().to_bytes() != b"d" || buffer.dimensions() != 1 || !buffer.is_c_contiguous() {
        return Err(PyTypeError::new_err("must be f64, contiguous, with one axis"));
    }
    // SAFETY: `PyBuffer::get` has checked the element's size and the alignment; the buffer keeps the memory.
    Ok(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.item_count()) })
}

#[pyfunction]
fn dot_buffer(x: PyBuffer<f64>, y: PyBuffer<f64>) -> PyResult<f64> {
    checked_dot(as_slice(&x)?, as_slice(&y)?)
}

#[pymodule]
fn nif_lab_pyo3(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(noop, module)?)?;
    module.add_function(wrap_pyfunction!(add, module)?)?;
    module.add_function(wrap_pyfunction!(dot, module)?)?;
    module.add_function(wrap_pyfunction!(dot_buffer, module)?)
}
