//! `copy_array`: a NumPy array into another of its shape, whatever their layouts.

use std::ffi::c_char;

use nif::abi::{DType, dtype_code};
use nif_copy::{AXES_MAX, Element, Layouts};
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, PyArrayObject};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::python::{self, dtype};

/// Larger copies release the GIL, which costs as much as copying a few hundred bytes, but lets others run.
pub const RELEASE_BYTES: usize = 1 << 20;

/// One side of a copy. Shape and strides are copies: without the GIL somebody may set those of the array.
struct Side {
    dtype: DType,
    data: *mut u8,
    axes: usize,
    shape: [usize; AXES_MAX],
    strides: [isize; AXES_MAX],
    writable: bool,
}

// SAFETY: the address is that of an array which the caller keeps.
unsafe impl Sync for Side {}

impl Side {
    fn read(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        // SAFETY: both are alive.
        if unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), python::array_type()) } == 0 {
            let kind = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "{name}: expected an array, got {kind} (make it one: numpy.asarray(...))"
            )));
        }
        // SAFETY: it is an array, whose fields are valid while it lives.
        let (fields, descr) = unsafe {
            let fields = &(*object.as_ptr().cast::<PyArrayObject>()).fields;
            (fields, &(*fields.descr).fields)
        };
        let axes = fields.nd as usize;
        if axes > AXES_MAX {
            return Err(PyValueError::new_err(format!(
                "{name}: expected at most {AXES_MAX} axes, got {axes}: reshape it"
            )));
        }
        let dtype = dtype::from_numpy(descr.type_num).filter(|_| descr.byteorder != b'>' as c_char);
        let Some(dtype) = dtype else {
            let found = object.getattr("dtype")?;
            return Err(PyTypeError::new_err(format!(
                "{name}: elements of type {found} can't be copied (make them native numbers: {name}.astype(...))"
            )));
        };
        let (mut shape, mut strides) = ([0; AXES_MAX], [0; AXES_MAX]);
        for axis in 0..axes {
            // SAFETY: both have a number for each axis.
            unsafe {
                shape[axis] = *fields.dimensions.add(axis) as usize;
                strides[axis] = *fields.strides.add(axis);
            }
        }
        let writable = fields.flags & NPY_ARRAY_WRITEABLE != 0;
        Ok(Self { dtype, data: fields.data.cast(), axes, shape, strides, writable })
    }

    fn shape(&self) -> &[usize] {
        &self.shape[..self.axes]
    }

    fn strides(&self) -> &[isize] {
        &self.strides[..self.axes]
    }

    /// The addresses from the first byte to behind the last, of an array that isn't empty.
    fn range(&self) -> (usize, usize) {
        let first = self.data.addr();
        let mut range = (first, first + usize::from(self.dtype.bits / 8));
        for (length, stride) in self.shape().iter().zip(self.strides()) {
            let span = (length - 1) * stride.unsigned_abs();
            if *stride < 0 { range.0 -= span } else { range.1 += span }
        }
        range
    }
}

/// How elements are copied; none for a pair of types that isn't converted.
fn element(source: DType, target: DType) -> Option<Element> {
    match (source.code, source.bits, target.bits) {
        _ if source.code != target.code => None,
        (_, source, target) if source == target => Some(Element::Bytes(usize::from(source / 8))),
        (dtype_code::FLOAT, 32, 64) => Some(Element::F32ToF64),
        (dtype_code::FLOAT, 64, 32) => Some(Element::F64ToF32),
        (dtype_code::COMPLEX, 64, 128) => Some(Element::C64ToC128),
        (dtype_code::COMPLEX, 128, 64) => Some(Element::C128ToC64),
        _ => None,
    }
}

/// Copy `source` into `target`, an array of the same shape: any strides on both sides, float32 and float64 and the complex types of
/// them converted. Returns the checksum of what is in the target then (XXH3-64 of its elements in row-major order), if asked.
#[pyfunction]
#[pyo3(signature = (source, target, checksum=false))]
pub fn copy_array(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
    checksum: bool,
) -> PyResult<Option<u64>> {
    let (from, to) = (Side::read(source, "source")?, Side::read(target, "target")?);
    if from.shape() != to.shape() {
        return Err(PyValueError::new_err(format!(
            "target: expected shape {:?} as the source has, got {:?} (reshape or transpose one)",
            from.shape(),
            to.shape()
        )));
    }
    if !to.writable {
        return Err(PyValueError::new_err(
            "target: is read-only (copy into an array of your own: numpy.empty_like(...))",
        ));
    }
    let Some(element) = element(from.dtype, to.dtype) else {
        let (found, wanted) = (source.getattr("dtype")?, target.getattr("dtype")?);
        return Err(PyTypeError::new_err(format!(
            "source: {found} isn't converted to {wanted} (convert it first: source.astype(target.dtype))"
        )));
    };
    let layouts = Layouts { element, shape: from.shape(), target: to.strides(), source: from.strides() };
    let bytes = layouts.bytes();
    if bytes > 0 {
        let (read, written) = (from.range(), to.range());
        if read.0 < written.1 && written.0 < read.1 {
            return Err(PyValueError::new_err("target: overlaps the source (copy that first: source.copy())"));
        }
    }
    let run = || {
        let (from, to) = (&from, &to);
        // SAFETY: the caller keeps both arrays, which have at most `AXES_MAX` axes and no byte in common.
        unsafe {
            if checksum {
                return Some(nif_copy::copy_summed(&layouts, to.data, from.data));
            }
            nif_copy::copy(&layouts, to.data, from.data);
        }
        None
    };
    Ok(if bytes > RELEASE_BYTES { py.detach(run) } else { run() })
}
