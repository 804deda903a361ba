//! DLPack's structs beyond the tensor itself, and the tables of C functions by which types give their tensors.
//!
//! The structs are those of dlpack.h, version 1.3: `DLManagedTensorVersioned`, `DLManagedTensor` and `DLPackExchangeAPI`.

use std::alloc::{self, Layout as Room};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use nif::abi::{DEVICE_CPU, DType, Device, Tensor};
use numpy::PY_ARRAY_API;
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, PyArrayObject};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::memory::block::Block;
use crate::memory::buffer::SharedBuffer;
use crate::python;
use crate::python::door;

/// The name of a type's attribute with its table, and of the capsule there.
const ATTRIBUTE: &str = "__dlpack_c_exchange_api__";
const TABLE: &CStr = c"dlpack_exchange_api";
/// The names of the capsules that `__dlpack__` returns.
pub const VERSIONED: &CStr = c"dltensor_versioned";
pub const LEGACY: &CStr = c"dltensor";
/// What this core speaks.
pub const VERSION: Version = Version { major: 1, minor: 3 };
/// DLPack's devices whose memory the CPU reads: its own, and what others have pinned there.
pub const HOST: [i32; 3] = [DEVICE_CPU, 3, 11];
/// The elements must not be written to.
pub const READ_ONLY: u64 = 1;
const HERE: Device = Device { r#type: DEVICE_CPU, id: 0 };

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
pub struct Managed {
    pub version: Version,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
    pub flags: u64,
    pub tensor: Tensor,
}

impl Managed {
    /// Let its producer have it back.
    ///
    /// # Safety
    /// It is live, and nobody uses it again.
    pub unsafe fn release(this: NonNull<Self>) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(deleter) = this.as_ref().deleter {
                deleter(this.as_ptr());
            }
        }
    }
}

/// `DLPackExchangeAPI`: a type's functions, with none of Python's calls between.
#[repr(C)]
pub struct Exchange {
    version: Version,
    /// A table of an older version.
    previous: *const Exchange,
    allocate: Option<unsafe extern "C" fn(*const Tensor, *mut *mut Managed, *mut c_void, SetError) -> c_int>,
    pub managed: Option<unsafe extern "C" fn(*mut c_void, *mut *mut Managed) -> c_int>,
    to_python: Option<unsafe extern "C" fn(*mut Managed, *mut *mut c_void) -> c_int>,
    /// The tensor alone, which its object keeps.
    pub tensor: Option<unsafe extern "C" fn(*mut c_void, *mut Tensor) -> c_int>,
    stream: Option<unsafe extern "C" fn(c_int, i32, *mut *mut c_void) -> c_int>,
}

type SetError = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char);

// SAFETY: a table is never written.
unsafe impl Sync for Exchange {}

/// A shared buffer's.
static OURS: Exchange = Exchange {
    version: VERSION,
    previous: std::ptr::null(),
    allocate: Some(allocate),
    managed: Some(managed_from_python),
    to_python: Some(managed_to_python),
    tensor: Some(tensor_from_python),
    stream: Some(no_stream),
};

/// The capsule that `SharedBuffer` has as a class attribute.
pub fn capsule(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: the table and its name live for ever.
    unsafe { python::owned(py, ffi::PyCapsule_New((&raw const OURS).cast_mut().cast(), TABLE.as_ptr(), None)) }
}

/// What a tensor that leaves this core is kept by.
enum Keeper {
    Block(#[allow(dead_code, reason = "held, not read")] Arc<Block>),
    /// Of a device.
    Device(#[allow(dead_code, reason = "held, not read")] Arc<dyn Send + Sync>),
    Room(NonNull<u8>, Room),
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Self::Room(address, room) = self {
            // SAFETY: `allocate` took it with this layout.
            unsafe { alloc::dealloc(address.as_ptr(), *room) };
        }
    }
}

/// A tensor that leaves this core: what its consumer gets, its axes (lengths, then strides) and its memory. Its deleter may be
/// called on any thread, with the GIL or without.
#[repr(C)]
struct Leaving {
    managed: Managed,
    axes: Box<[i64]>,
    keeper: Keeper,
}

impl Leaving {
    fn make(data: *mut c_void, dtype: DType, axes: Box<[i64]>, flags: u64, keeper: Keeper) -> *mut Managed {
        Self::make_on(HERE, data, dtype, axes, flags, keeper)
    }

    fn make_on(
        device: Device,
        data: *mut c_void,
        dtype: DType,
        axes: Box<[i64]>,
        flags: u64,
        keeper: Keeper,
    ) -> *mut Managed {
        let ndim = (axes.len() / 2) as i32;
        let null = std::ptr::null_mut();
        let tensor = Tensor { data, device, ndim, dtype, shape: null, strides: null, byte_offset: 0 };
        let managed =
            Managed { version: VERSION, context: std::ptr::null_mut(), deleter: Some(drop_leaving), flags, tensor };
        let mut this = Box::new(Self { managed, axes, keeper });
        this.managed.tensor.shape = this.axes.as_mut_ptr();
        this.managed.tensor.strides = this.axes.as_mut_ptr().wrapping_add(ndim as usize);
        Box::into_raw(this).cast()
    }
}

unsafe extern "C" fn drop_leaving(managed: *mut Managed) {
    // SAFETY: `Leaving::make` made it, and it is its first field.
    door::guard((), || drop(unsafe { Box::from_raw(managed.cast::<Leaving>()) }));
}

/// `DLManagedTensor`, of producers and consumers without versions.
#[repr(C)]
struct Unversioned {
    tensor: Tensor,
    inner: *mut Managed,
    deleter: Option<unsafe extern "C" fn(*mut Unversioned)>,
}

unsafe extern "C" fn drop_unversioned(managed: *mut Unversioned) {
    // SAFETY: `device_capsule` made it; what is inside is its own.
    door::guard((), || unsafe { drop_leaving(Box::from_raw(managed).inner) });
}

unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: a capsule of `device_capsule`; who has taken the tensor has renamed it.
    door::guard((), || unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) != 0 {
            drop_leaving(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        } else if ffi::PyCapsule_IsValid(capsule, LEGACY.as_ptr()) != 0 {
            drop_unversioned(ffi::PyCapsule_GetPointer(capsule, LEGACY.as_ptr()).cast());
        }
    });
}

/// What `__dlpack__` of memory on a device returns; `keeper` is held until its consumer lets go.
pub fn device_capsule(
    py: Python<'_>,
    tensor: &Tensor,
    lengths: &[i64],
    is_read_only: bool,
    keeper: Arc<dyn Send + Sync>,
    has_versions: bool,
) -> PyResult<Py<PyAny>> {
    let flags = if is_read_only { READ_ONLY } else { 0 };
    let (axes, keeper) = (with_strides(lengths), Keeper::Device(keeper));
    let managed = Leaving::make_on(tensor.device, tensor.data, tensor.dtype, axes, flags, keeper);
    // SAFETY: fresh structs, that the capsule owns until a consumer renames it.
    unsafe {
        if has_versions {
            return python::owned(py, ffi::PyCapsule_New(managed.cast(), VERSIONED.as_ptr(), Some(drop_capsule)));
        }
        let tensor = (*managed).tensor;
        let legacy = Box::new(Unversioned { tensor, inner: managed, deleter: Some(drop_unversioned) });
        let pointer = Box::into_raw(legacy).cast();
        python::owned(py, ffi::PyCapsule_New(pointer, LEGACY.as_ptr(), Some(drop_capsule)))
    }
}

/// Row-major strides after the lengths.
pub fn with_strides(lengths: &[i64]) -> Box<[i64]> {
    let mut axes = [lengths, lengths].concat();
    let mut stride = 1_i64;
    for axis in (0..lengths.len()).rev() {
        axes[lengths.len() + axis] = stride;
        stride = stride.saturating_mul(lengths[axis].max(1));
    }
    axes.into()
}

unsafe extern "C" fn managed_from_python(object: *mut c_void, out: *mut *mut Managed) -> c_int {
    // SAFETY: the contract: a thread with Python, an object of the type that has the table, and a place.
    unsafe {
        door::enter(-1, |py| {
            answer(py, || {
                let (tensor, axes, is_inherited, block) = buffer(py, object)?.get().leave(py)?;
                let flags = if is_inherited { READ_ONLY } else { 0 };
                *out = Leaving::make(tensor.data, tensor.dtype, axes, flags, Keeper::Block(block));
                Ok(())
            })
        })
    }
}

unsafe extern "C" fn tensor_from_python(object: *mut c_void, out: *mut Tensor) -> c_int {
    // SAFETY: as above.
    unsafe {
        door::enter(-1, |py| {
            answer(py, || {
                *out = buffer(py, object)?.get().tensor(py)?;
                Ok(())
            })
        })
    }
}

unsafe extern "C" fn managed_to_python(managed: *mut Managed, out: *mut *mut c_void) -> c_int {
    // SAFETY: as above; the tensor is this function's from here on.
    unsafe {
        door::enter(-1, |py| {
            answer(py, || {
                let managed = NonNull::new(managed).ok_or_else(|| PyBufferError::new_err("no tensor"))?;
                *out = array_of(py, Owned(managed))?.into_ptr().cast();
                Ok(())
            })
        })
    }
}

unsafe extern "C" fn no_stream(_device: c_int, _id: i32, out: *mut *mut c_void) -> c_int {
    // SAFETY: the contract: a place. The CPU has no streams.
    door::guard(-1, || unsafe {
        out.write(std::ptr::null_mut());
        0
    })
}

unsafe extern "C" fn allocate(
    prototype: *const Tensor,
    out: *mut *mut Managed,
    context: *mut c_void,
    set_error: SetError,
) -> c_int {
    // SAFETY: the contract: a tensor whose shape has `ndim` numbers, and a place.
    let make = || unsafe {
        let it = &*prototype;
        let lengths = if it.ndim == 0 { &[] } else { std::slice::from_raw_parts(it.shape, it.ndim as usize) };
        let item = usize::from(it.dtype.bits).div_ceil(8) * usize::from(it.dtype.lanes);
        let size = lengths.iter().try_fold(item, |n, length| n.checked_mul(usize::try_from(*length).ok()?))?;
        let room = Room::from_size_align(size.max(1), nif_memory::ALIGNMENT).ok()?;
        let address = (it.device.r#type == DEVICE_CPU).then(|| NonNull::new(alloc::alloc(room))).flatten()?;
        let keeper = Keeper::Room(address, room);
        Some(Leaving::make(address.as_ptr().cast(), it.dtype, with_strides(lengths), 0, keeper))
    };
    // SAFETY: as above, and the contract of `SetError`.
    door::guard(-1, || unsafe {
        if let Some(made) = make() {
            *out = made;
            return 0;
        }
        set_error(context, c"BufferError".as_ptr(), c"no memory of the host for such a tensor".as_ptr());
        -1
    })
}

/// What C gets of what may raise: 0, or -1 with Python's exception set.
fn answer(py: Python<'_>, body: impl FnOnce() -> PyResult<()>) -> c_int {
    body().map_or_else(|error| (error.restore(py), -1).1, |()| 0)
}

/// # Safety
/// A live object is there.
unsafe fn buffer<'a>(py: Python<'_>, object: *mut c_void) -> PyResult<Borrowed<'a, '_, SharedBuffer>> {
    // SAFETY: the caller's promise.
    let object = unsafe { Borrowed::<PyAny>::from_ptr(py, object.cast()) };
    object.cast::<SharedBuffer>().map_err(|_| PyBufferError::new_err("expected a SharedBuffer"))
}

/// A tensor of another producer that is ours to release.
struct Owned(NonNull<Managed>);

// SAFETY: a tensor may be released on any thread.
unsafe impl Send for Owned {}
// SAFETY: nobody writes to it.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { Managed::release(self.0) };
    }
}

/// What an array over such a tensor has as its base.
#[pyclass(frozen, module = "nif_lab._core")]
struct TensorKeeper {
    _tensor: Owned,
}

/// A NumPy array over a tensor of the host.
fn array_of(py: Python<'_>, owned: Owned) -> PyResult<Py<PyAny>> {
    // SAFETY: the producer keeps it until it is released.
    let (tensor, flags) = unsafe { (owned.0.as_ref().tensor, owned.0.as_ref().flags) };
    let keeper = Py::new(py, TensorKeeper { _tensor: owned })?;
    // SAFETY: as above; the keeper releases it.
    unsafe { array_over(py, &tensor, flags & READ_ONLY != 0, keeper.into_any()) }
}

/// The same of a tensor that `keeper` keeps.
///
/// # Safety
/// Its elements are valid while the keeper lives; shape, and strides if there are some, have `ndim` numbers.
pub unsafe fn array_over(py: Python<'_>, it: &Tensor, is_read_only: bool, keeper: Py<PyAny>) -> PyResult<Py<PyAny>> {
    // SAFETY: the caller's promise.
    unsafe {
        let known = python::dtype::to_numpy(it.dtype).filter(|_| HOST.contains(&it.device.r#type));
        let (type_num, item) =
            known.ok_or_else(|| PyBufferError::new_err("no elements that NumPy has, on the host"))?;
        let axes = it.ndim as usize;
        let mut shape: Vec<isize> = (0..axes).map(|axis| *it.shape.add(axis) as isize).collect();
        let lengths: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let packed = with_strides(&lengths);
        let stride = |axis: usize| if it.strides.is_null() { packed[axes + axis] } else { *it.strides.add(axis) };
        let mut strides: Vec<isize> = (0..axes).map(|axis| stride(axis) as isize * item as isize).collect();
        let data = it.data.cast::<u8>().wrapping_add(it.byte_offset as usize);
        let array = python::owned(
            py,
            PY_ARRAY_API.PyArray_NewFromDescr(
                py,
                python::array_type(),
                PY_ARRAY_API.PyArray_DescrFromType(py, type_num),
                axes as c_int,
                shape.as_mut_ptr(),
                strides.as_mut_ptr(),
                data.cast(),
                if is_read_only { 0 } else { NPY_ARRAY_WRITEABLE },
                std::ptr::null_mut(),
            ),
        )?;
        let status = PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast::<PyArrayObject>(), keeper.into_ptr());
        if status < 0 { Err(PyErr::fetch(py)) } else { Ok(array) }
    }
}

/// Type and number of a device, and the array if it is in the host's memory.
type Located = (i32, i32, Option<Py<PyAny>>);

/// Read an object by its type's table: type and number of the device, and the array if it is in the host's memory. None for an
/// object whose type has no table.
#[pyfunction]
pub fn read_table(object: &Bound<'_, PyAny>) -> PyResult<Option<Located>> {
    let Some(read) = table_of(&object.get_type()).and_then(|it| it.managed) else { return Ok(None) };
    let mut managed = std::ptr::null_mut();
    // SAFETY: the table is of this object's type.
    if unsafe { read(object.as_ptr().cast(), &raw mut managed) } != 0 {
        return Err(PyErr::fetch(object.py()));
    }
    let owned = Owned(NonNull::new(managed).ok_or_else(|| PyBufferError::new_err("no tensor"))?);
    // SAFETY: it is live; of another version only the head may be read.
    let managed = unsafe { owned.0.as_ref() };
    if managed.version.major != VERSION.major {
        return Err(PyBufferError::new_err("a tensor of an unknown version of DLPack"));
    }
    let Device { r#type, id } = managed.tensor.device;
    let array = HOST.contains(&r#type).then(|| array_of(object.py(), owned)).transpose()?;
    Ok(Some((r#type, id, array)))
}

/// A type's table of functions, in a version that is known here.
pub fn table_of(kind: &Bound<'_, PyType>) -> Option<&'static Exchange> {
    let capsule = kind.getattr(PyString::new(kind.py(), ATTRIBUTE)).ok()?;
    // SAFETY: the name says what the capsule leads to, and such a table lives as long as the process.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule.as_ptr(), TABLE.as_ptr()) == 0 {
            return None;
        }
        let mut table = ffi::PyCapsule_GetPointer(capsule.as_ptr(), TABLE.as_ptr()).cast::<Exchange>().as_ref();
        while table.is_some_and(|it| it.version.major != VERSION.major) {
            table = table?.previous.as_ref();
        }
        table.filter(|it| it.managed.is_some())
    }
}

/// The tensor in a capsule, and whether it may only be read: old capsules can't say, so theirs are.
///
/// # Safety
/// The capsule stays alive while the tensor is used.
pub unsafe fn tensor_in(capsule: &Bound<'_, PyAny>) -> Option<(NonNull<Tensor>, bool)> {
    let object = capsule.as_ptr();
    // SAFETY: the names say what capsules lead to.
    unsafe {
        if ffi::PyCapsule_IsValid(object, VERSIONED.as_ptr()) != 0 {
            let managed = ffi::PyCapsule_GetPointer(object, VERSIONED.as_ptr()).cast::<Managed>();
            return tensor_of(NonNull::new(managed)?);
        }
        if ffi::PyCapsule_IsValid(object, LEGACY.as_ptr()) != 0 {
            return Some((NonNull::new(ffi::PyCapsule_GetPointer(object, LEGACY.as_ptr()).cast())?, true));
        }
    }
    None
}

/// The tensor of a known version, and whether it may only be read.
///
/// # Safety
/// It is live.
pub unsafe fn tensor_of(managed: NonNull<Managed>) -> Option<(NonNull<Tensor>, bool)> {
    // SAFETY: the caller's promise. Of another version only the head may be read.
    unsafe {
        let Version { major, .. } = managed.as_ref().version;
        let is_read_only = managed.as_ref().flags & READ_ONLY != 0;
        let tensor = NonNull::new_unchecked(&raw mut (*managed.as_ptr()).tensor);
        (major == VERSION.major).then_some((tensor, is_read_only))
    }
}
