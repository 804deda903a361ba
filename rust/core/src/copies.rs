//! Copying NumPy arrays between layouts, near the speed of memory: the face of `nif_memory::copy`.

use nif_memory::copy::{AXES_MAX, Element, Layouts, copy, copy_summed};
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, NPY_TYPES, PyArrayObject};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::python;

/// Copies of so many bytes release the GIL.
const RELEASE: usize = 1 << 20;

/// An array's address, shape, strides in bytes, and element type.
struct Array {
    data: *mut u8,
    shape: Vec<usize>,
    strides: Vec<isize>,
    kind: i32,
    size: usize,
    writable: bool,
    swapped: bool,
}

fn read(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Array> {
    if object.get_type_ptr() != python::array_type() {
        return Err(PyTypeError::new_err(format!("expected a NumPy array as the {name}: numpy.asarray(...)")));
    }
    // SAFETY: it is an array; its fields are valid while it lives, and shape and strides have `nd` numbers.
    unsafe {
        let fields = &(*object.as_ptr().cast::<PyArrayObject>()).fields;
        let descr = &(*fields.descr).fields;
        let axes = fields.nd as usize;
        let numbers = |from: *mut isize| if axes == 0 { &[] } else { std::slice::from_raw_parts(from, axes) };
        let Some((_, size)) = crate::dtype::from_numpy(descr.type_num).and_then(crate::dtype::to_numpy) else {
            return Err(PyTypeError::new_err(format!(
                "the {name} has elements that can't be copied: use numpy.copyto"
            )));
        };
        Ok(Array {
            data: fields.data.cast(),
            shape: numbers(fields.dimensions.cast()).iter().map(|it| *it as usize).collect(),
            strides: numbers(fields.strides.cast()).to_vec(),
            kind: descr.type_num,
            size,
            writable: fields.flags & NPY_ARRAY_WRITEABLE != 0,
            swapped: descr.byteorder == b'>' as std::ffi::c_char,
        })
    }
}

fn element(source: &Array, target: &Array) -> PyResult<Element> {
    const FLOAT: i32 = NPY_TYPES::NPY_FLOAT as i32;
    const DOUBLE: i32 = NPY_TYPES::NPY_DOUBLE as i32;
    const COMPLEX_FLOAT: i32 = NPY_TYPES::NPY_CFLOAT as i32;
    const COMPLEX_DOUBLE: i32 = NPY_TYPES::NPY_CDOUBLE as i32;
    let same = crate::dtype::from_numpy(source.kind) == crate::dtype::from_numpy(target.kind);
    match (source.kind, target.kind) {
        _ if same => Ok(Element::Bytes(source.size)),
        (FLOAT, DOUBLE) => Ok(Element::F32ToF64),
        (DOUBLE, FLOAT) => Ok(Element::F64ToF32),
        (COMPLEX_FLOAT, COMPLEX_DOUBLE) => Ok(Element::C64ToC128),
        (COMPLEX_DOUBLE, COMPLEX_FLOAT) => Ok(Element::C128ToC64),
        _ => Err(PyTypeError::new_err("these element types aren't converted into each other: use numpy.copyto")),
    }
}

/// Copy an array into another of the same shape, whatever their strides; float32 and float64 (and the complex types of them) are
/// converted. Returns the checksum of the target's elements in row-major order, if asked. The two may not share memory.
#[pyfunction]
#[pyo3(signature = (source, target, checksum=false))]
pub fn copy_array(
    py: Python<'_>,
    source: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
    checksum: bool,
) -> PyResult<Option<u64>> {
    let (from, to) = (read(source, "source")?, read(target, "target")?);
    if from.shape != to.shape {
        return Err(PyValueError::new_err(format!("expected a target of shape {:?}, got {:?}", from.shape, to.shape)));
    }
    if !to.writable {
        return Err(PyValueError::new_err("the target is read-only"));
    }
    if from.swapped || to.swapped {
        return Err(PyTypeError::new_err("expected native byte order: use numpy.copyto"));
    }
    if from.shape.len() > AXES_MAX {
        return Err(PyValueError::new_err(format!("expected at most {AXES_MAX} axes: use numpy.copyto")));
    }
    let element = element(&from, &to)?;
    let layouts = Layouts { element, shape: &from.shape, target: &to.strides, source: &from.strides };
    let (read_at, write_at) = (from.data.expose_provenance(), to.data.expose_provenance());
    let run = || {
        let (from, to) = (std::ptr::with_exposed_provenance(read_at), std::ptr::with_exposed_provenance_mut(write_at));
        // SAFETY: the caller keeps both arrays; shapes and strides are theirs, and they don't overlap, as is asked for.
        unsafe {
            if checksum {
                return Some(copy_summed(&layouts, to, from));
            }
            copy(&layouts, to, from);
        }
        None
    };
    Ok(if layouts.bytes() > RELEASE { py.detach(run) } else { run() })
}
