//! The quickest way into a frame of the wire protocol: one array, version 2, no checksum (docs/wire.md).
//!
//! Whatever else a frame may be is left to the codecs; so is saying what is wrong with one.

use std::ptr::NonNull;

use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PyArrayObject};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::memory::arrays::Layout;
use crate::python;
use crate::python::dtype;

const HEADER: usize = 64;
/// Enough for every element type.
const ALIGNMENT: usize = 16;
const MAGIC_AND_VERSION: [u8; 5] = *b"\x89NIF\x02";
/// The largest dimension.
const DIMENSION_MAX: u64 = 1 << 40;

/// Element types by their code on the wire, as names of signatures; booleans, whose bytes are checked, are for the codecs.
const DTYPES: [Option<&str>; 15] = [
    None,
    Some("f32"),
    Some("f64"),
    Some("i32"),
    Some("i64"),
    None,
    Some("i8"),
    Some("i16"),
    Some("u8"),
    Some("u16"),
    Some("u32"),
    Some("u64"),
    Some("f16"),
    Some("c64"),
    Some("c128"),
];

/// Markers of arrays but the complex one, the one element type they may have (0: any), and their axes.
const MARKERS: [(u8, u8, u8); 9] = [
    (0x10, 1, 1),
    (0x11, 2, 1),
    (0x12, 3, 1),
    (0x13, 4, 1),
    (0x20, 1, 2),
    (0x21, 2, 2),
    (0x22, 1, 3),
    (0x23, 2, 3),
    (0x60, 0, u8::MAX),
];

struct Checked {
    type_num: i32,
    shape: [i64; 4],
    axes: usize,
    column_major: bool,
}

/// All checks of docs/wire.md for such a frame, on a copy of its header.
fn check(header: &[u8; HEADER], length: usize) -> Option<Checked> {
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let [marker, code, axes, order] = [header[5], header[6], header[7], header[8]];
    let (_, wanted, ndim) = *MARKERS.iter().find(|it| it.0 == marker)?;
    let name = DTYPES.get(usize::from(code)).copied().flatten()?;
    let fits = (wanted == 0 || wanted == code) && axes <= 4 && (ndim == axes || ndim == u8::MAX);
    let plain = header[9..16].iter().all(|byte| *byte == 0) && order <= u8::from(axes > 1) && word(56) == 0;
    if header[..5] != MAGIC_AND_VERSION || !fits || !plain {
        return None;
    }
    let (type_num, item) = dtype::by_name(name)?;
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
    whole.then_some(Checked { type_num, shape, axes, column_major: order == 1 })
}

/// The array in a frame, as a view; None if the frame is another value, has a checksum, or is broken.
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
    if kind != numpy::npyffi::NPY_TYPES::NPY_UBYTE as i32
        || fields.flags & NPY_ARRAY_C_CONTIGUOUS == 0
        || length < HEADER
    {
        return Ok(None);
    }
    let Some(data) = NonNull::new(fields.data.cast::<u8>()).filter(|it| it.as_ptr().addr().is_multiple_of(ALIGNMENT))
    else {
        return Ok(None);
    };
    // SAFETY: the array has that many bytes; the header is read once, before it is checked.
    let header = unsafe { data.cast::<[u8; HEADER]>().read_unaligned() };
    let Some(it) = check(&header, length) else { return Ok(None) };
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
