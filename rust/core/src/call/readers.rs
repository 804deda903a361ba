//! Arrays that come by other ways than DLPack: a buffer of Python's, a stream of Arrow's, or an attribute that is NumPy's array.
//!
//! Whatever is out of the ordinary (missing values, several chunks, elements that aren't numbers) is left to Python's
//! `nif_lab.arrays`, which reads it or says why it can't.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

use nif::abi::{DEVICE_CPU, DType, Device, Tensor, dtype_code};
use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PyArrayObject};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyMemoryView, PyString, PyType};

use crate::memory::dlpack::HOST;
use crate::python;

/// The most axes of an array that is read here.
const MAX_AXES: i32 = 64;

/// How the objects of a type are read.
#[derive(Clone, Copy)]
pub enum Way {
    Buffer,
    Stream,
    /// An attribute, by its interned name: the array, or something that has another way.
    Attribute(*mut ffi::PyObject),
    /// The same of what a method gives.
    Method(*mut ffi::PyObject),
}

/// What was found, before it is checked.
pub struct Found {
    pub tensor: Tensor,
    pub is_read_only: bool,
    pub holding: Held,
}

/// What keeps the elements and the axes.
pub enum Held {
    Object(#[allow(dead_code, reason = "held, not read")] Py<PyAny>),
    Buffer(Box<ffi::Py_buffer>),
    Arrow(#[allow(dead_code, reason = "held, not read")] Box<Column>),
}

// SAFETY: a buffer is released with this thread attached, and Arrow's release functions may be called on any thread.
unsafe impl Send for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Buffer(view) = self {
            // SAFETY: it was got by `PyObject_GetBuffer`, and nobody uses it any more.
            Python::try_attach(|_| unsafe { ffi::PyBuffer_Release(&raw mut **view) });
        }
    }
}

/// What a type's objects are to be read by; none if not here.
pub fn way_of(object: &Bound<'_, PyAny>) -> PyResult<Option<Way>> {
    static ARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = object.py();
    let kind = object.get_type();
    if kind.is(py.get_type::<PyMemoryView>()) || kind.is(ARRAY.import(py, "array", "array")?) {
        return Ok(Some(Way::Buffer));
    }
    let module: String = kind.getattr("__module__")?.extract()?;
    let name = kind.name()?;
    let named = |it: &str| PyString::intern(py, it).into_ptr(); // kept for ever, as its entry is
    Ok(match (module.split('.').next().unwrap_or_default(), name.to_str()?) {
        // Over NumPy's memory or Arrow's; those with a mask of their own have other ways.
        ("pandas", "Series") => Some(Way::Attribute(named("values"))),
        ("pandas", "ArrowExtensionArray") => Some(Way::Method(named("__arrow_array__"))),
        ("pandas", _) => None,
        ("xarray", "DataArray") => Some(Way::Attribute(named("data"))),
        _ if kind.hasattr("__arrow_c_stream__")? => Some(Way::Stream),
        _ => None,
    })
}

/// Read an object; none if it is out of the ordinary. An exception may be set then. For what leads to another object, that one.
///
/// # Safety
/// This thread is attached, and `object` is alive and of a type with that way.
pub unsafe fn read(py: Python<'_>, way: Way, object: *mut ffi::PyObject) -> Option<Result<Found, Py<PyAny>>> {
    // SAFETY: the caller's promise; the names are never freed.
    unsafe {
        let led = match way {
            Way::Buffer => return by_buffer(object).map(Ok),
            Way::Stream => return by_stream(py, object).map(Ok),
            Way::Attribute(name) => ffi::PyObject_GetAttr(object, name),
            Way::Method(name) => ffi::PyObject_CallMethodNoArgs(object, name),
        };
        let led = Bound::from_owned_ptr_or_opt(py, led)?;
        if ffi::Py_TYPE(led.as_ptr()) != python::array_type() {
            return Some(Err(led.unbind()));
        }
        Some(Ok(of_array(led)?))
    }
}

fn tensor(data: *mut c_void, dtype: DType, ndim: c_int, shape: *mut i64) -> Tensor {
    Tensor {
        data,
        device: Device { r#type: DEVICE_CPU, id: 0 },
        ndim,
        dtype,
        shape,
        strides: std::ptr::null_mut(),
        byte_offset: 0,
    }
}

/// NumPy's array, row-major and of native elements.
unsafe fn of_array(array: Bound<'_, PyAny>) -> Option<Found> {
    // SAFETY: the caller has checked the type; an array's fields are valid while it lives.
    let (tensor, is_read_only) = unsafe {
        let fields = &(*array.as_ptr().cast::<PyArrayObject>()).fields;
        let descr = &(*fields.descr).fields;
        if fields.flags & NPY_ARRAY_C_CONTIGUOUS == 0 || descr.byteorder == b'>' as c_char {
            return None;
        }
        let dtype = python::dtype::from_numpy(descr.type_num)?;
        let it = tensor(fields.data.cast(), dtype, fields.nd, fields.dimensions.cast());
        (it, fields.flags & NPY_ARRAY_WRITEABLE == 0)
    };
    Some(Found { tensor, is_read_only, holding: Held::Object(array.unbind()) })
}

/// The element type of a format of Python's `struct`, for elements of so many bytes.
fn of_format(format: &[u8], item: usize) -> Option<DType> {
    let plain = format.strip_prefix(b"@").unwrap_or(format);
    let code = match plain {
        b"b" | b"h" | b"i" | b"l" | b"q" => dtype_code::INT,
        b"B" | b"H" | b"I" | b"L" | b"Q" => dtype_code::UINT,
        b"e" | b"f" | b"d" => dtype_code::FLOAT,
        b"Zf" | b"Zd" => dtype_code::COMPLEX,
        b"?" => dtype_code::BOOL,
        _ => return None,
    };
    let dtype = DType { code, bits: u8::try_from(8 * item).ok()?, lanes: 1 };
    python::dtype::size_of(dtype).map(|_| dtype)
}

unsafe fn by_buffer(object: *mut ffi::PyObject) -> Option<Found> {
    let mut view = Box::new(ffi::Py_buffer::new());
    // SAFETY: the caller's promise; what was got is released by `Held`.
    unsafe {
        if ffi::PyObject_GetBuffer(object, &raw mut *view, ffi::PyBUF_RECORDS_RO) != 0 {
            return None;
        }
        let mut held = Held::Buffer(view);
        let Held::Buffer(view) = &mut held else { return None };
        if ffi::PyBuffer_IsContiguous(&raw const **view, b'C' as c_char) == 0 {
            return None;
        }
        let format = if view.format.is_null() { b"B" } else { CStr::from_ptr(view.format).to_bytes() };
        let dtype = of_format(format, usize::try_from(view.itemsize).ok()?)?;
        let it = tensor(view.buf, dtype, view.ndim, view.shape.cast());
        Some(Found { tensor: it, is_read_only: view.readonly != 0, holding: held })
    }
}

/// `ArrowSchema` of Arrow's C data interface.
#[repr(C)]
struct Schema {
    format: *const c_char,
    name: *const c_char,
    metadata: *const c_char,
    flags: i64,
    n_children: i64,
    children: *mut c_void,
    dictionary: *mut c_void,
    release: Option<unsafe extern "C" fn(*mut Schema)>,
    private: *mut c_void,
}

/// `ArrowArray`.
#[repr(C)]
struct Array {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *mut u8,
    children: *mut c_void,
    dictionary: *mut c_void,
    release: Option<unsafe extern "C" fn(*mut Array)>,
    private: *mut c_void,
}

/// `ArrowArrayStream`.
#[repr(C)]
struct Stream {
    get_schema: Option<unsafe extern "C" fn(*mut Stream, *mut Schema) -> c_int>,
    get_next: Option<unsafe extern "C" fn(*mut Stream, *mut Array) -> c_int>,
    last_error: *mut c_void,
    release: *mut c_void,
    private: *mut c_void,
}

/// An array that was taken out of a stream.
pub struct Column {
    array: Array,
    length: i64,
}

impl Drop for Column {
    fn drop(&mut self) {
        if let Some(release) = self.array.release {
            // SAFETY: it is ours, and released once.
            unsafe { release(&raw mut self.array) };
        }
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: as above.
            unsafe { release(self) };
        }
    }
}

/// The element type of a format of Arrow's.
fn of_arrow(format: &[u8]) -> Option<DType> {
    let (code, bits) = match format {
        b"c" => (dtype_code::INT, 8),
        b"s" => (dtype_code::INT, 16),
        b"i" => (dtype_code::INT, 32),
        b"l" => (dtype_code::INT, 64),
        b"C" => (dtype_code::UINT, 8),
        b"S" => (dtype_code::UINT, 16),
        b"I" => (dtype_code::UINT, 32),
        b"L" => (dtype_code::UINT, 64),
        b"e" => (dtype_code::FLOAT, 16),
        b"f" => (dtype_code::FLOAT, 32),
        b"g" => (dtype_code::FLOAT, 64),
        _ => return None,
    };
    Some(DType { code, bits, lanes: 1 })
}

/// One column of numbers in one piece, with nothing missing.
unsafe fn by_stream(py: Python<'_>, object: *mut ffi::PyObject) -> Option<Found> {
    static NAME: PyOnceLock<Py<PyString>> = PyOnceLock::new();
    let name = NAME.get_or_init(py, || PyString::intern(py, "__arrow_c_stream__").unbind());
    // SAFETY: the capsule's name says what it leads to; the structs are filled as Arrow's specification says.
    unsafe {
        let capsule = ffi::PyObject_CallMethodNoArgs(object, name.as_ptr());
        let capsule = Bound::from_owned_ptr_or_opt(py, capsule)?;
        let stream = ffi::PyCapsule_GetPointer(capsule.as_ptr(), c"arrow_array_stream".as_ptr()).cast::<Stream>();
        let stream = NonNull::new(stream)?.as_ptr();
        let mut schema = std::mem::zeroed::<Schema>();
        if (*stream).get_schema?(stream, &raw mut schema) != 0 || !schema.dictionary.is_null() {
            return None;
        }
        let dtype = of_arrow(CStr::from_ptr(schema.format.as_ref()?).to_bytes())?;
        let mut column: Option<Box<Column>> = None;
        loop {
            let mut next = Box::new(Column { array: std::mem::zeroed(), length: 0 });
            if (*stream).get_next?(stream, &raw mut next.array) != 0 {
                return None;
            }
            if next.array.release.is_none() {
                break; // the end
            }
            if next.array.length > 0 && column.replace(next).is_some() {
                return None;
            }
        }
        let mut column = column?;
        let array = &column.array;
        let is_whole = array.null_count == 0 || (array.null_count < 0 && (*array.buffers).is_null());
        if !is_whole || array.n_buffers != 2 {
            return None;
        }
        let offset = usize::try_from(array.offset).ok()? * usize::from(dtype.bits / 8);
        let data = (*array.buffers.add(1)).wrapping_add(offset);
        column.length = array.length;
        let it = tensor(data.cast(), dtype, 1, &raw mut column.length);
        Some(Found { tensor: it, is_read_only: true, holding: Held::Arrow(column) })
    }
}

/// The tensor and its bytes, if the functions can read it as it is: on the host, of a known element type, aligned. Its strides are
/// null where it is row-major.
///
/// # Safety
/// Shape, and strides if there are some, have `ndim` numbers.
#[inline]
pub unsafe fn checked(mut it: Tensor) -> Option<(Tensor, usize)> {
    let item = python::dtype::size_of(it.dtype)?;
    if !HOST.contains(&it.device.r#type) || !(0..=MAX_AXES).contains(&it.ndim) {
        return None;
    }
    let axes = it.ndim as usize;
    if axes > 0 && it.shape.is_null() {
        return None;
    }
    it.device = Device { r#type: DEVICE_CPU, id: 0 };
    it.data = it.data.cast::<u8>().wrapping_add(std::mem::take(&mut it.byte_offset) as usize).cast();
    let (mut count, mut is_row_major) = (1_i64, true);
    for axis in (0..axes).rev() {
        // SAFETY: the caller's promise.
        let length = unsafe { *it.shape.add(axis) };
        if length < 0 {
            return None;
        }
        // SAFETY: as above.
        is_row_major &= length <= 1 || it.strides.is_null() || unsafe { *it.strides.add(axis) } == count;
        count = count.checked_mul(length)?;
    }
    if is_row_major || count == 0 {
        it.strides = std::ptr::null_mut();
    }
    if count == 0 {
        it.data = std::ptr::without_provenance_mut(nif_memory::ALIGNMENT); // a slice is never at null
    }
    // Complex numbers are aligned as their halves are.
    let align = if it.dtype.code == dtype_code::COMPLEX { item / 2 } else { item };
    let bytes = usize::try_from(count).ok()?.saturating_mul(item);
    (!it.data.is_null() && it.data.addr().is_multiple_of(align)).then_some((it, bytes))
}
