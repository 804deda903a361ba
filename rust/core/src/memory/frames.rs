//! The quickest way into a frame of the wire protocol and out of one: a single array, version 2 (docs/wire.md).
//!
//! Whatever else a frame may be is left to the codecs; so is saying what is wrong with one.

use std::ffi::c_char;
use std::ptr::NonNull;
use std::slice;

use nif::abi::{DType, dtype_code};
use nif_copy::{Summed, checksum};
use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_TYPES, PyArrayObject};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

use crate::memory::Memory;
use crate::memory::arrays::Layout;
use crate::memory::copies::RELEASE_BYTES;
use crate::python;
use crate::python::dtype;

const HEADER: usize = 64;
/// What the checksum covers of it.
const SUMMED: usize = 56;
/// Enough for every element type.
const ALIGNMENT: usize = 16;
const MAGIC_AND_VERSION: [u8; 5] = *b"\x89NIF\x02";
/// Who reads it. In version 2 they all read the same, and the alignment is version 1's alone.
const DIALECTS: [&str; 4] = ["rust", "zig", "nim", "julia"];
const ALIGNMENT_OF_1: i64 = 8;
/// The largest dimension.
const DIMENSION_MAX: u64 = 1 << 40;

const fn of(code: u8, bits: u8) -> DType {
    DType { code, bits, lanes: 1 }
}

/// Element types by their code on the wire; booleans, whose bytes are checked, are for the codecs.
const DTYPES: [Option<DType>; 15] = [
    None,
    Some(of(dtype_code::FLOAT, 32)),
    Some(of(dtype_code::FLOAT, 64)),
    Some(of(dtype_code::INT, 32)),
    Some(of(dtype_code::INT, 64)),
    None,
    Some(of(dtype_code::INT, 8)),
    Some(of(dtype_code::INT, 16)),
    Some(of(dtype_code::UINT, 8)),
    Some(of(dtype_code::UINT, 16)),
    Some(of(dtype_code::UINT, 32)),
    Some(of(dtype_code::UINT, 64)),
    Some(of(dtype_code::FLOAT, 16)),
    Some(of(dtype_code::COMPLEX, 64)),
    Some(of(dtype_code::COMPLEX, 128)),
];

/// Markers of arrays, an element type that they may have (0: any), and their axes (`MAX`: any number). The first that fits is
/// written.
const MARKERS: [(u8, u8, u8); 11] = [
    (0x10, 1, 1),
    (0x11, 2, 1),
    (0x12, 3, 1),
    (0x13, 4, 1),
    (0x20, 1, 2),
    (0x21, 2, 2),
    (0x22, 1, 3),
    (0x23, 2, 3),
    (0x50, 13, 1),
    (0x50, 14, 1),
    (0x60, 0, u8::MAX),
];

struct Checked {
    type_num: i32,
    shape: [i64; 4],
    axes: usize,
    column_major: bool,
    summed: bool,
}

fn fits(row: (u8, u8, u8), code: u8, axes: u8) -> bool {
    (row.1 == 0 || row.1 == code) && (row.2 == axes || row.2 == u8::MAX)
}

/// All checks of docs/wire.md for such a frame but that of the checksum, on a copy of its header.
fn check(header: &[u8; HEADER], length: usize) -> Option<Checked> {
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let [marker, code, axes, order, flags] = [header[5], header[6], header[7], header[8], header[9]];
    let known = axes <= 4 && MARKERS.iter().any(|it| it.0 == marker && fits(*it, code, axes));
    let plain = header[10..16].iter().all(|byte| *byte == 0) && order <= u8::from(axes > 1);
    let summed = flags == 1;
    if header[..5] != MAGIC_AND_VERSION || !known || !plain || flags > 1 || (!summed && word(SUMMED) != 0) {
        return None;
    }
    let (type_num, item) = dtype::to_numpy(DTYPES.get(usize::from(code)).copied().flatten()?)?;
    let axes = usize::from(axes);
    let mut shape = [0; 4];
    // As if no dimension were 0: what couldn't be expressed is refused even where it has no elements.
    let mut extent = item as u64;
    let mut is_empty = false;
    for (axis, length) in shape.iter_mut().enumerate() {
        let dimension = word(16 + 8 * axis);
        if dimension > if axis < axes { DIMENSION_MAX } else { 0 } {
            return None;
        }
        if axis < axes {
            extent = extent.checked_mul(dimension.max(1)).filter(|it| *it < 1 << 63)?;
            is_empty |= dimension == 0;
            *length = dimension as i64;
        }
    }
    let size = if is_empty { 0 } else { extent };
    let whole = (size.checked_add(HEADER as u64)? == length as u64) && word(48) == size;
    whole.then_some(Checked { type_num, shape, axes, column_major: order == 1, summed })
}

/// The array in a frame, as a view; None if the frame is another value, or broken.
///
/// The frame is an array of bytes, which the view keeps and whose memory it shares.
#[pyfunction]
pub fn view_frame(py: Python<'_>, frame: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    if frame.get_type_ptr() != python::array_type() {
        return Ok(None);
    }
    // SAFETY: it is an array, and `frame` keeps it.
    let fields = unsafe { &(*frame.as_ptr().cast::<PyArrayObject>()).fields };
    // SAFETY: as above.
    let (kind, length) = unsafe {
        let length = if fields.nd == 1 { *fields.dimensions as usize } else { 0 };
        ((*fields.descr).fields.type_num, length)
    };
    if kind != NPY_TYPES::NPY_UBYTE as i32 || fields.flags & NPY_ARRAY_C_CONTIGUOUS == 0 || length < HEADER {
        return Ok(None);
    }
    let Some(data) = NonNull::new(fields.data.cast::<u8>()).filter(|it| it.as_ptr().addr().is_multiple_of(ALIGNMENT))
    else {
        return Ok(None);
    };
    // SAFETY: the array has that many bytes; the header is read once, before it is checked.
    let header = unsafe { data.cast::<[u8; HEADER]>().read_unaligned() };
    let Some(it) = check(&header, length) else { return Ok(None) };
    if it.summed {
        // SAFETY: the payload lies behind the header and ends with the array, which `frame` keeps.
        let payload = unsafe { slice::from_raw_parts(data.add(HEADER).as_ptr().cast_const(), length - HEADER) };
        let sum = || checksum(payload) ^ checksum(&header[..SUMMED]);
        let sum = if payload.len() > RELEASE_BYTES { py.detach(sum) } else { sum() };
        if header[SUMMED..] != sum.to_le_bytes() {
            return Ok(None);
        }
    }
    let mut layout = Layout::with(py, it.type_num, &it.shape[..it.axes])?;
    if it.column_major {
        layout.set_column_major();
    }
    // SAFETY: a new reference to the frame, which the view keeps; the payload lies behind the header.
    let view = unsafe {
        ffi::Py_INCREF(frame.as_ptr());
        let keeper = Bound::from_owned_ptr(py, frame.as_ptr()).unbind();
        layout.view(py, data.add(HEADER), fields.flags & NPY_ARRAY_WRITEABLE != 0, keeper)?
    };
    Ok(Some(view))
}

/// The frame of an array that is row-major or column-major, in shared memory. None if the value is anything else: another
/// kind of object, booleans, another byte order, gaps between its elements. None too if the choices aren't those of
/// version 2 by any codec: whoever asked knows what is wrong with them.
///
/// The array is read once: what the checksum covers is what the frame has, whoever writes to the array meanwhile.
#[pyfunction]
#[pyo3(signature = (memory, value, checksum, by, dialect, version, alignment, endianness, /))]
#[expect(clippy::too_many_arguments, reason = "those of `lab.wire.encode`, which has no time to put them in order")]
pub fn encode_frame(
    memory: &Bound<'_, Memory>,
    value: &Bound<'_, PyAny>,
    checksum: &Bound<'_, PyAny>,
    by: &Bound<'_, PyAny>,
    dialect: &Bound<'_, PyAny>,
    version: &Bound<'_, PyAny>,
    alignment: &Bound<'_, PyAny>,
    endianness: &Bound<'_, PyAny>,
) -> PyResult<Option<Py<PyAny>>> {
    if value.get_type_ptr() != python::array_type()
        || !(is_text(by, &["auto"]) && is_text(dialect, &DIALECTS) && is_text(endianness, &["little"]))
        || !(is_number(version, 2) && is_number(alignment, ALIGNMENT_OF_1))
    {
        return Ok(None);
    }
    write(memory, value, checksum.is_truthy()?)
}

/// Whether it is a `str`, and one of these. Objects of other types may compare as they like.
fn is_text(given: &Bound<'_, PyAny>, known: &[&str]) -> bool {
    given.cast_exact::<PyString>().is_ok_and(|it| it.to_str().is_ok_and(|it| known.contains(&it)))
}

/// Whether it is an `int`, and this one.
fn is_number(given: &Bound<'_, PyAny>, known: i64) -> bool {
    given.cast_exact::<PyInt>().is_ok_and(|it| it.extract().is_ok_and(|it: i64| it == known))
}

fn write(memory: &Bound<'_, Memory>, value: &Bound<'_, PyAny>, summed: bool) -> PyResult<Option<Py<PyAny>>> {
    let py = value.py();
    // SAFETY: it is an array, whose fields and dtype are valid while `value` keeps it.
    let (fields, descr) = unsafe {
        let fields = &(*value.as_ptr().cast::<PyArrayObject>()).fields;
        (fields, &(*fields.descr).fields)
    };
    let axes = fields.nd as u8; // at most 64
    let column_major = fields.flags & NPY_ARRAY_C_CONTIGUOUS == 0;
    let contiguous = fields.flags & (NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS) != 0;
    let dtype = dtype::from_numpy(descr.type_num).filter(|_| descr.byteorder != b'>' as c_char);
    let (Some(dtype), true, 0..=4) = (dtype, contiguous, axes) else { return Ok(None) };
    let Some(code) = DTYPES.iter().position(|it| *it == Some(dtype)) else { return Ok(None) };
    let code = code as u8;
    let Some((marker, ..)) = MARKERS.iter().find(|it| fits(**it, code, axes)) else { return Ok(None) };
    let mut header = [0; HEADER];
    header[..5].copy_from_slice(&MAGIC_AND_VERSION);
    header[5..10].copy_from_slice(&[*marker, code, axes, column_major.into(), summed.into()]);
    let mut size = usize::from(dtype.bits / 8);
    for axis in 0..usize::from(axes) {
        // SAFETY: there is a length for each axis.
        let length = unsafe { *fields.dimensions.add(axis) } as usize;
        if length as u64 > DIMENSION_MAX {
            return Ok(None);
        }
        size *= length; // an array of NumPy's is below 2^63 bytes
        header[16 + 8 * axis..24 + 8 * axis].copy_from_slice(&(length as u64).to_le_bytes());
    }
    header[48..SUMMED].copy_from_slice(&(size as u64).to_le_bytes());
    let mut layout = Layout::with(py, NPY_TYPES::NPY_UBYTE as i32, &[(HEADER + size) as i64])?;
    let frame = memory.get().array(py, &mut layout, false).ok_or_else(|| PyErr::fetch(py))?;
    // SAFETY: both arrays are kept here and have that many bytes; the frame is new, so no byte is in both.
    let (to, from) = unsafe {
        let to = (*frame.as_ptr().cast::<PyArrayObject>()).fields.data.cast::<u8>();
        let from = if size == 0 { &[] } else { slice::from_raw_parts(fields.data.cast::<u8>().cast_const(), size) };
        (slice::from_raw_parts_mut(to, HEADER + size), from)
    };
    let (head, payload) = to.split_at_mut(HEADER);
    let mut fill = || {
        let mut out = Summed::new(payload, summed);
        out.put(from);
        if summed { out.finish() ^ checksum(&header[..SUMMED]) } else { 0 }
    };
    let sum = if size > RELEASE_BYTES { py.detach(fill) } else { fill() };
    head.copy_from_slice(&header);
    head[SUMMED..].copy_from_slice(&sum.to_le_bytes());
    Ok(Some(frame))
}
