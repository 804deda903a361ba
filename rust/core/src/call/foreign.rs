//! Arrays of other libraries: how the objects of each type are read, looked up once and kept.
//!
//! Three protocols of DLPack are read here, where the elements lie: the table of C functions of DLPack 1.2 (`__dlpack_c_exchange_api__`, of
//! torch), the handle of a tensor of `tvm_ffi`'s C interface, and the capsule of `__dlpack__`. Those that come otherwise are read by
//! `readers`. All other arrays, and those that don't fit, are left to Python's `nif_lab.foreign`.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use nif::abi::{TVM_OBJECT_HEADER, Tensor, dtype_code, type_index};
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::call::readers::{self, Held, Way, checked};
use crate::memory::buffer::SharedBuffer;
use crate::memory::dlpack::{Exchange, Managed, VERSION, array_over, table_of, tensor_in, tensor_of};
use crate::memory::file::MappedFile;
use crate::python;

/// Types that are kept, in a table of twice that size. Those after them are looked up each time.
const MOST: usize = 128;

/// How the objects of a type are read.
#[derive(Clone, Copy)]
enum Reader {
    /// Not here.
    None,
    Table(&'static Exchange),
    /// An address in the object, at so many bytes, leads to an object of `tvm_ffi`'s C interface. `__chandle__()` gives the same
    /// address, but calling it costs more than the whole call.
    Handle(usize),
    Capsule,
    /// Another way than DLPack's.
    Other(Way),
}

/// A type, and how its objects are read.
pub struct Kind {
    of: *mut ffi::PyTypeObject,
    reader: Reader,
    /// The name of torch's `requires_grad`, if the type has that: its objects may record gradients, and negate and conjugate their
    /// elements later. Null for other types.
    lazy: *mut ffi::PyObject,
}

/// Entries are written once and never freed; each holds its type, so that the address means no other one.
static KINDS: [AtomicPtr<Kind>; 2 * MOST] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 2 * MOST];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Where a type's entry is looked for first.
fn place(kind: *mut ffi::PyTypeObject) -> usize {
    ((kind.addr() as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - (2 * MOST).ilog2())) as usize
}

/// How objects of a type are read, if it was looked up before.
#[inline]
pub fn known(kind: *mut ffi::PyTypeObject) -> Option<&'static Kind> {
    let mut at = place(kind);
    loop {
        let entry = KINDS[at].load(Ordering::Acquire);
        // SAFETY: an entry that is in the table stays as it is.
        let entry = unsafe { entry.as_ref() }?;
        if entry.of == kind {
            return Some(entry);
        }
        at = (at + 1) % KINDS.len();
    }
}

/// Is it an object of a type that was looked up and is read here?
///
/// # Safety
/// `object` is alive.
pub unsafe fn is_known(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller's promise.
    known(unsafe { ffi::Py_TYPE(object) }).is_some_and(|it| !matches!(it.reader, Reader::None))
}

/// Is it an object of a type that has DLPack, whose library may want results of its own kind?
///
/// # Safety
/// `object` is alive.
pub unsafe fn is_tensor(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller's promise.
    known(unsafe { ffi::Py_TYPE(object) }).is_some_and(|it| !matches!(it.reader, Reader::None | Reader::Other(_)))
}

/// How the objects of an object's type are read. No exception is left behind.
///
/// # Safety
/// This thread is attached, and `object` is alive.
pub unsafe fn kind_of(py: Python<'_>, object: *mut ffi::PyObject) -> Option<&'static Kind> {
    // SAFETY: the caller's promise.
    let kind = unsafe { ffi::Py_TYPE(object) };
    known(kind).or_else(|| {
        // SAFETY: as above.
        let object = unsafe { Bound::from_borrowed_ptr(py, object) };
        let (reader, is_lazy) = look_up(&object).unwrap_or((Reader::None, false));
        // SAFETY: as above. Classes come and go; those that aren't read here take no room.
        let is_class = unsafe { ffi::PyType_HasFeature(kind, ffi::Py_TPFLAGS_HEAPTYPE) } != 0;
        if matches!(reader, Reader::None) && is_class {
            return None;
        }
        keep(object.get_type(), reader, is_lazy)
    })
}

#[cold]
fn keep(of: Bound<'_, PyType>, reader: Reader, is_lazy: bool) -> Option<&'static Kind> {
    let wanted = of.as_type_ptr();
    if COUNT.fetch_add(1, Ordering::Relaxed) >= MOST {
        COUNT.fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    let name = PyString::intern(of.py(), "requires_grad").into_ptr();
    let lazy = if is_lazy { name } else { std::ptr::null_mut() };
    let made = Box::into_raw(Box::new(Kind { of: of.into_ptr().cast(), reader, lazy }));
    let mut at = place(wanted);
    // Half of the table is free, so there is an end.
    while KINDS[at].compare_exchange(std::ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire).is_err() {
        at = (at + 1) % KINDS.len();
    }
    known(wanted)
}

/// Ask a type what it offers.
#[cold]
fn look_up(object: &Bound<'_, PyAny>) -> PyResult<(Reader, bool)> {
    let py = object.py();
    let kind = object.get_type();
    if object.is_instance_of::<SharedBuffer>() || object.is_instance_of::<MappedFile>() {
        return Ok((Reader::None, false)); // their own readers know who may read them
    }
    // SAFETY: the address of NumPy's own type; its arrays and scalars never come this way.
    let is_numpy = unsafe {
        ffi::PyObject_TypeCheck(object.as_ptr(), python::array_type()) != 0
            || ffi::PyObject_TypeCheck(object.as_ptr(), python::scalar_type(py)) != 0
    };
    if is_numpy {
        return Ok((Reader::None, false));
    }
    let is_lazy = kind.hasattr(intern!(py, "requires_grad"))?;
    if let Some(table) = table_of(&kind) {
        return Ok((Reader::Table(table), is_lazy));
    }
    if !kind.hasattr(intern!(py, "__dlpack__"))? {
        return Ok((readers::way_of(object)?.map_or(Reader::None, Reader::Other), false));
    }
    let handle = if kind.hasattr(intern!(py, "__chandle__"))? { place_of_handle(object).unwrap_or(None) } else { None };
    Ok((handle.map_or(Reader::Capsule, Reader::Handle), is_lazy))
}

/// Where in an object the handle lies that `__chandle__` tells, if it leads to the same tensor as the capsule. Asked once for each
/// type: the fields of a C type are at the same place in all its objects.
fn place_of_handle(object: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    let py = object.py();
    let capsule = capsule_of(object)?;
    let handle: usize = object.call_method0(intern!(py, "__chandle__"))?.extract()?;
    let size = object.get_type().getattr(intern!(py, "__basicsize__"))?.extract::<usize>()?;
    // SAFETY: an object has so many bytes; it and the capsule are alive.
    unsafe {
        let word = |at: &usize| object.as_ptr().cast::<usize>().byte_add(*at).read() == handle;
        let places: Vec<usize> = (size_of::<ffi::PyObject>()..size).step_by(size_of::<usize>()).filter(word).collect();
        let [at] = *places else { return Ok(None) };
        let (Some(by_capsule), Some(by_handle)) = (tensor_in(&capsule), tensor_at(object.as_ptr(), at)) else {
            return Ok(None);
        };
        let (a, b) = (by_capsule.0.as_ref(), by_handle.as_ref());
        let is_same = a.data == b.data && a.ndim == b.ndim && a.dtype == b.dtype && a.byte_offset == b.byte_offset;
        Ok(is_same.then_some(at))
    }
}

/// The tensor of a handle; none if the object has lost it.
///
/// # Safety
/// `object` is alive, and has a handle at `place`: null, or the address of an object of `tvm_ffi`.
unsafe fn tensor_at(object: *mut ffi::PyObject, place: usize) -> Option<NonNull<Tensor>> {
    // SAFETY: the caller's promise; such an object begins with a header that has its type.
    unsafe {
        let address = object.cast::<*mut u8>().byte_add(place).read();
        let header = address.cast::<c_void>().cast::<TvmObject>().as_ref()?;
        (header.type_index == type_index::TVM_TENSOR)
            .then(|| NonNull::new_unchecked(address.add(TVM_OBJECT_HEADER).cast::<c_void>().cast()))
    }
}

/// The head of `TVMFFIObject`.
#[repr(C)]
struct TvmObject {
    _references: u64,
    type_index: i32,
}

/// What `__dlpack__` returns: of a version if the producer has versions.
fn capsule_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static NAMES: PyOnceLock<(Py<PyString>, Py<PyTuple>, Py<PyTuple>)> = PyOnceLock::new();
    let py = object.py();
    let (method, version, names) = NAMES.get_or_try_init(py, || {
        let version = PyTuple::new(py, [VERSION.major, VERSION.minor])?.unbind();
        let names = PyTuple::new(py, ["max_version"])?.unbind();
        PyResult::Ok((PyString::intern(py, "__dlpack__").unbind(), version, names))
    })?;
    // SAFETY: the object, one value and the name of that value; all are alive.
    let made = unsafe {
        let values = [object.as_ptr(), version.as_ptr()];
        let count = 1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        ffi::PyObject_VectorcallMethod(method.as_ptr(), values.as_ptr(), count, names.as_ptr())
    };
    // SAFETY: a new reference, or an exception.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }
}

/// What keeps a tensor's memory and axes through a call.
pub enum Holding {
    /// The argument itself.
    Argument,
    Capsule(#[allow(dead_code, reason = "held")] Py<PyAny>),
    Managed(NonNull<Managed>),
    Other(#[allow(dead_code, reason = "held")] Held),
}

// SAFETY: DLPack's deleters may be called on any thread.
unsafe impl Send for Holding {}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Self::Managed(managed) = *self {
            // SAFETY: it is ours, and the call is over. Some producers' deleters need Python.
            Python::try_attach(|_| unsafe { Managed::release(managed) });
        }
    }
}

/// A tensor of the host whose elements can be read and whose strides are null where they are row-major.
pub struct Taken {
    pub tensor: Tensor,
    /// Of all its elements.
    pub bytes: usize,
    pub is_read_only: bool,
    pub holding: Holding,
}

/// Read an object if that takes no code of Python's, and nothing has to be kept for it.
///
/// # Safety
/// As of `read`.
#[inline]
pub unsafe fn peek(object: *mut ffi::PyObject, mutable: bool) -> Option<(Tensor, usize)> {
    // SAFETY: the caller's promise.
    unsafe {
        let kind = known(ffi::Py_TYPE(object))?;
        let tensor = match kind.reader {
            Reader::Handle(place) => *tensor_at(object, place)?.as_ref(),
            Reader::Table(Exchange { tensor: Some(read), .. }) if !mutable => {
                let mut tensor = std::mem::MaybeUninit::<Tensor>::zeroed();
                if read(object.cast::<c_void>(), tensor.as_mut_ptr()) != 0 {
                    ffi::PyErr_Clear();
                    return None;
                }
                tensor.assume_init()
            }
            _ => return None,
        };
        let (tensor, bytes) = checked(tensor)?;
        let is_plain = tensor.strides.is_null() && (kind.lazy.is_null() || records_nothing(kind, object, &tensor));
        is_plain.then_some((tensor, bytes))
    }
}

/// Is it certain at the first look that an object of torch's is what its elements are? What torch negates later is the imaginary
/// part of a conjugate, which has strides.
///
/// # Safety
/// As of `read`.
unsafe fn records_nothing(kind: &Kind, object: *mut ffi::PyObject, tensor: &Tensor) -> bool {
    if tensor.dtype.code == dtype_code::COMPLEX || is_single(tensor) {
        return false;
    }
    // SAFETY: the caller's promise; the name is never freed.
    unsafe {
        let records = ffi::PyObject_GetAttr(object, kind.lazy);
        if records.is_null() {
            ffi::PyErr_Clear();
            return false;
        }
        ffi::Py_DECREF(records);
        records == ffi::Py_False()
    }
}

/// Has it one element at most, so that its strides say nothing?
fn is_single(tensor: &Tensor) -> bool {
    // SAFETY: the shape has `ndim` numbers.
    (0..tensor.ndim as usize).all(|axis| unsafe { *tensor.shape.add(axis) } <= 1)
}

/// Read an object of a type that is read here; none, and no exception, if that can't be done. Ctrl-C is an error.
///
/// # Safety
/// This thread is attached, and `object` is alive and of that type. `mutable`: it will be written to.
pub unsafe fn read(py: Python<'_>, kind: &Kind, object: *mut ffi::PyObject, mutable: bool) -> PyResult<Option<Taken>> {
    // SAFETY: passed on.
    let found = unsafe { find(py, kind, object, mutable) };
    match PyErr::take(py) {
        Some(error) if found.is_none() && !error.is_instance_of::<PyException>(py) => Err(error),
        _ => Ok(found),
    }
}

unsafe fn find(py: Python<'_>, kind: &Kind, object: *mut ffi::PyObject, mutable: bool) -> Option<Taken> {
    // SAFETY: the caller's promise.
    unsafe {
        let taken = match kind.reader {
            Reader::None => return None,
            Reader::Handle(place) => {
                let tensor = *tensor_at(object, place)?.as_ref();
                Taken { tensor, bytes: 0, is_read_only: false, holding: Holding::Argument }
            }
            Reader::Table(Exchange { tensor: Some(read), .. }) if !mutable => {
                let mut tensor = std::mem::MaybeUninit::<Tensor>::zeroed();
                if read(object.cast::<c_void>(), tensor.as_mut_ptr()) != 0 {
                    return None;
                }
                Taken { tensor: tensor.assume_init(), bytes: 0, is_read_only: true, holding: Holding::Argument }
            }
            // Only this function says whether the elements may be written to.
            Reader::Table(table) => {
                let mut managed = std::ptr::null_mut();
                if table.managed?(object.cast::<c_void>(), &raw mut managed) != 0 {
                    return None;
                }
                let managed = NonNull::new(managed)?;
                let holding = Holding::Managed(managed);
                let (tensor, is_read_only) = tensor_of(managed)?;
                Taken { tensor: *tensor.as_ref(), bytes: 0, is_read_only, holding }
            }
            Reader::Capsule => {
                let capsule = capsule_of(&Bound::from_borrowed_ptr(py, object)).map_err(|it| it.restore(py)).ok()?;
                let (tensor, is_read_only) = tensor_in(&capsule)?;
                let tensor = *tensor.as_ref();
                Taken { tensor, bytes: 0, is_read_only, holding: Holding::Capsule(capsule.unbind()) }
            }
            Reader::Other(way) => match readers::read(py, way, object)? {
                Ok(found) => {
                    let holding = Holding::Other(found.holding);
                    Taken { tensor: found.tensor, bytes: 0, is_read_only: found.is_read_only, holding }
                }
                Err(led) => {
                    // What an attribute leads to has a way of its own, by which it is kept.
                    let kind = kind_of(py, led.as_ptr()).filter(|it| is_by_code(it))?;
                    return find(py, kind, led.as_ptr(), mutable);
                }
            },
        };
        let taken = taken.checked()?;
        (kind.lazy.is_null() || is_settled(&Bound::from_borrowed_ptr(py, object), &taken.tensor)).then_some(taken)
    }
}

/// Are its objects read by some of Python's code?
fn is_by_code(kind: &Kind) -> bool {
    matches!(kind.reader, Reader::Capsule | Reader::Other(_))
}

/// What stands for an object that is read by some of Python's code: its capsule, or an array of NumPy's over its elements.
///
/// # Safety
/// This thread is attached, and `object` is alive.
pub unsafe fn stand_in(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<Option<Py<PyAny>>> {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(kind) = kind_of(py, object).filter(|it| is_by_code(it)) else { return Ok(None) };
        let Some(taken) = read(py, kind, object, false)? else { return Ok(None) };
        if let Holding::Capsule(capsule) = &taken.holding {
            return Ok(Some(capsule.clone_ref(py)));
        }
        if let Holding::Other(Held::Object(array)) = &taken.holding {
            return Ok(Some(array.clone_ref(py)));
        }
        let keeper = Py::new(py, Keeper { _holding: taken.holding })?;
        array_over(py, &taken.tensor, taken.is_read_only, keeper.into_any()).map(Some)
    }
}

/// What an array over another library's elements has as its base.
#[pyclass(frozen)]
struct Keeper {
    _holding: Holding,
}

// SAFETY: nothing is read through it.
unsafe impl Sync for Keeper {}

/// An array of another library, as a frame takes it after `Given::settle`.
///
/// # Safety
/// This thread is attached, and `object` is alive.
pub unsafe fn take(py: Python<'_>, object: *mut ffi::PyObject, mutable: bool) -> PyResult<Option<Taken>> {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(taken) = settled(py, object) {
            return Ok(Some(taken));
        }
        let kind = kind_of(py, object).filter(|it| !matches!(it.reader, Reader::Capsule));
        let Some(kind) = kind else { return Ok(None) };
        read(py, kind, object, mutable)
    }
}

/// The tensor in a capsule that stands for its object since `Given::settle` has asked for it.
///
/// # Safety
/// As of `read`.
unsafe fn settled(py: Python<'_>, object: *mut ffi::PyObject) -> Option<Taken> {
    // SAFETY: the caller's promise.
    unsafe {
        if ffi::PyCapsule_CheckExact(object) == 0 {
            return None;
        }
        let capsule = Bound::from_borrowed_ptr(py, object);
        let (tensor, is_read_only) = tensor_in(&capsule)?;
        let holding = Holding::Capsule(capsule.unbind());
        Taken { tensor: *tensor.as_ref(), bytes: 0, is_read_only, holding }.checked()
    }
}

/// Are the elements what the object stands for, and is nothing lost if they are read beside its library?
fn is_settled(object: &Bound<'_, PyAny>, tensor: &Tensor) -> bool {
    let py = object.py();
    let says_no = |name| object.call_method0(name).is_ok_and(|it| it.is_truthy().is_ok_and(|it| !it));
    if !object.getattr(intern!(py, "requires_grad")).is_ok_and(|it| it.is_truthy().is_ok_and(|it| !it)) {
        return false;
    }
    let is_complex = tensor.dtype.code == dtype_code::COMPLEX;
    if tensor.strides.is_null() && !is_single(tensor) && !is_complex {
        return true; // as `records_nothing` says
    }
    let has = |name: &Bound<'_, PyString>| object.hasattr(name).unwrap_or(true);
    (!has(intern!(py, "is_neg")) || says_no(intern!(py, "is_neg")))
        && (!is_complex || !has(intern!(py, "is_conj")) || says_no(intern!(py, "is_conj")))
}

impl Taken {
    /// # Safety
    /// As of `checked`.
    unsafe fn checked(self) -> Option<Self> {
        // SAFETY: passed on.
        let (tensor, bytes) = unsafe { checked(self.tensor)? };
        Some(Self { tensor, bytes, ..self })
    }
}
