//! NumPy arrays whose memory is a block of the arena.
//!
//! Such an array owns its block as any array owns its memory: NumPy gives it back through the allocator that the array
//! carries (NEP 49). No second object keeps the block alive, which makes these arrays cheaper than `np.empty`.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use nif::abi::DType;
use nif_memory::{AllocError, Arena};
use numpy::PY_ARRAY_API;
use numpy::npyffi::{
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE,
    PyArray_Descr, PyArrayObject, PyDataType_ELSIZE, PyDataType_FLAGS, npy_intp,
};
use pyo3::exceptions::{PyImportError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::memory::store::{Kept, Store};
use crate::python;
use crate::python::door;
use crate::python::errors;

/// The most axes a NumPy array has.
const MAX_AXES: usize = 64;

/// NumPy's `PyDataMem_Handler`, version 1.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    store: *const Store,
    malloc: unsafe extern "C" fn(*const Store, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*const Store, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*const Store, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*const Store, *mut c_void, usize),
}

/// Python objects among the elements.
const NPY_ITEM_REFCOUNT: u64 = 1;

const HANDLER_NAME: &std::ffi::CStr = c"mem_handler";

/// What follows the fields of an array that every version of NumPy has.
#[repr(C)]
struct Tail {
    _buffer_info: *mut c_void,
    handler: *mut ffi::PyObject,
}

/// Where an array keeps its allocator.
///
/// # Safety
/// `array` is an array of a NumPy that `check_layout` has seen.
unsafe fn handler_of(array: *mut PyArrayObject) -> *mut *mut ffi::PyObject {
    // SAFETY: the tail follows the fields that are the same in all versions.
    unsafe { &raw mut (*array.add(1).cast::<Tail>()).handler }
}

/// Does this NumPy keep allocators where we look for them? Asked at import.
pub fn check_layout(py: Python<'_>) -> PyResult<()> {
    let array = py.import("numpy")?.call_method1("empty", (1,))?;
    // SAFETY: arrays that own their memory have a capsule there since NumPy 1.22; of anything else only the address is
    // looked at, by a function that takes any object. A null pointer is no capsule.
    let found = unsafe {
        let handler = *handler_of(array.as_ptr().cast());
        !handler.is_null() && ffi::PyCapsule_IsValid(handler, HANDLER_NAME.as_ptr()) != 0
    };
    if found {
        Ok(())
    } else {
        Err(PyImportError::new_err("this NumPy lays arrays out in an unknown way; use numpy<3"))
    }
}

unsafe extern "C" fn malloc(store: *const Store, size: usize) -> *mut c_void {
    // SAFETY: the capsule keeps the store, and NumPy's thread is attached.
    door::guard(std::ptr::null_mut(), || unsafe { made((*store).take(size, false)) })
}

unsafe extern "C" fn calloc(store: *const Store, count: usize, size: usize) -> *mut c_void {
    door::guard(std::ptr::null_mut(), || {
        let Some(size) = count.checked_mul(size) else { return std::ptr::null_mut() };
        // SAFETY: as above.
        made(unsafe { (*store).take(size, true) })
    })
}

fn made(taken: Result<NonNull<u8>, AllocError>) -> *mut c_void {
    taken.map_or(std::ptr::null_mut(), |it| it.as_ptr().cast())
}

unsafe extern "C" fn realloc(store: *const Store, old: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: as above; NumPy gives back what it got here, and copies nothing itself.
    door::guard(std::ptr::null_mut(), || unsafe {
        // In a child of fork the block may be the parent's, whose length nobody here knows: no memory.
        let Some((handle, _)) = (*store).arena.find(old as usize, 0) else { return std::ptr::null_mut() };
        let new = malloc(store, size);
        if !new.is_null() {
            let length = (*store).arena.resolve(handle).map_or(0, |(_, length)| length);
            std::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast(), length.min(size));
            free(store, old, length);
        }
        new
    })
}

unsafe extern "C" fn free(store: *const Store, address: *mut c_void, size: usize) {
    door::guard((), || {
        if let Some(address) = NonNull::new(address.cast::<u8>()) {
            // SAFETY: as above.
            unsafe { (*store).put(address, size) };
        }
    });
}

unsafe extern "C" fn drop_handler(capsule: *mut ffi::PyObject) {
    // SAFETY: `handler` made the capsule, whose pointer is a boxed handler that owns its store.
    door::guard((), || unsafe {
        let handler = Box::from_raw(ffi::PyCapsule_GetPointer(capsule, HANDLER_NAME.as_ptr()).cast::<Handler>());
        drop(Box::from_raw(handler.store.cast_mut()));
    });
}

/// The allocator that arrays of this arena carry; it keeps the arena.
pub struct ArrayMaker {
    capsule: Py<PyAny>,
    /// Owned by the capsule.
    store: *const Store,
}

// SAFETY: the store is used by attached threads alone, by turns.
unsafe impl Send for ArrayMaker {}
// SAFETY: as above.
unsafe impl Sync for ArrayMaker {}

impl ArrayMaker {
    pub fn new(py: Python<'_>, arena: Arc<Arena>) -> PyResult<Self> {
        let mut name = [0; 127];
        for (to, from) in name.iter_mut().zip(b"nif_lab") {
            *to = *from as c_char;
        }
        let store = Box::into_raw(Box::new(Store::new(arena))).cast_const();
        let boxed = Box::into_raw(Box::new(Handler { name, version: 1, store, malloc, calloc, realloc, free }));
        // SAFETY: the capsule takes over the box; there is one unless Python is out of memory.
        let capsule = unsafe { ffi::PyCapsule_New(boxed.cast(), HANDLER_NAME.as_ptr(), Some(drop_handler)) };
        // SAFETY: a new reference, or null with an exception.
        Ok(Self { capsule: unsafe { python::owned(py, capsule)? }, store })
    }

    /// The token says that this thread is attached.
    pub fn store(&self, _py: Python<'_>) -> &Store {
        // SAFETY: the capsule owns it, and `self` holds the capsule.
        unsafe { &*self.store }
    }

    /// Counts what arrays have given back and the store keeps for the next ones.
    pub fn kept(&self) -> Arc<Kept> {
        // SAFETY: as above; the field never changes.
        Arc::clone(unsafe { &(*self.store).kept })
    }

    /// An array of this layout over memory from the arena, which it owns from here on; none with Python's exception set.
    #[inline]
    pub fn array(&self, py: Python<'_>, layout: &mut Layout, data: NonNull<u8>) -> Option<Py<PyAny>> {
        let array = layout.array_at(py, data, true)?;
        // SAFETY: a fresh array that owns nothing yet; NumPy frees its memory through the handler.
        unsafe {
            let array = array.as_ptr().cast::<PyArrayObject>();
            *handler_of(array) = ffi::Py_NewRef(self.capsule.as_ptr());
            (*array).fields.flags |= NPY_ARRAY_OWNDATA;
        }
        Some(array)
    }
}

/// Axes that need no list.
const FEW: usize = 4;

/// An element type and a shape, as a caller gave them.
pub struct Layout {
    descr: *mut PyArray_Descr,
    few: [npy_intp; FEW],
    /// All lengths, where there are more than a few.
    many: Vec<npy_intp>,
    axes: usize,
    order: c_int,
    pub bytes: usize,
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the layout owns one reference, and lives while the GIL is held.
        unsafe { ffi::Py_DECREF(self.descr.cast()) }
    }
}

impl Layout {
    /// Elements of this type, and no axes yet.
    ///
    /// # Safety
    /// `descr` is a dtype; the layout takes over one reference.
    #[inline]
    unsafe fn new(descr: *mut PyArray_Descr) -> Self {
        Self { descr, few: [0; FEW], many: Vec::new(), axes: 0, order: NPY_ARRAY_C_CONTIGUOUS, bytes: 0 }
    }

    /// Float64 elements, and no axes yet.
    #[inline]
    pub fn float64() -> Self {
        // SAFETY: NumPy's own dtype is never freed.
        unsafe {
            let descr = python::float64();
            ffi::Py_INCREF(descr.cast());
            Self::new(descr)
        }
    }

    /// From what `np.empty` takes: an int or a sequence of ints, and anything that names a dtype.
    ///
    /// # Safety
    /// Both are live objects; null for no dtype.
    #[inline]
    pub unsafe fn read(
        &mut self,
        py: Python<'_>,
        shape: *mut ffi::PyObject,
        dtype: *mut ffi::PyObject,
    ) -> PyResult<()> {
        // SAFETY: passed on.
        unsafe {
            if !dtype.is_null() {
                self.read_dtype(py, dtype)?;
            }
            self.read_shape(py, shape)?;
        }
        self.measure(py)
    }

    /// # Safety
    /// `dtype` is a live object.
    unsafe fn read_dtype(&mut self, py: Python<'_>, dtype: *mut ffi::PyObject) -> PyResult<()> {
        let mut descr = std::ptr::null_mut();
        // SAFETY: a converter takes any object and gives a new reference; the old one is the layout's.
        unsafe {
            if PY_ARRAY_API.PyArray_DescrConverter(py, dtype, &raw mut descr) == 0 {
                return Err(PyErr::fetch(py));
            }
            ffi::Py_DECREF(self.descr.cast());
            self.descr = descr;
            if PyDataType_FLAGS(py, descr) & NPY_ITEM_REFCOUNT != 0 {
                return Err(PyTypeError::new_err(
                    "Python objects can't live in shared memory: use a plain element type",
                ));
            }
        }
        Ok(())
    }

    /// From NumPy's number of an element type, and a shape.
    pub fn with(py: Python<'_>, type_num: c_int, shape: &[i64]) -> PyResult<Self> {
        // SAFETY: NumPy knows the number, which comes from the table of element types.
        let mut layout = unsafe { Self::new(PY_ARRAY_API.PyArray_DescrFromType(py, type_num)) };
        layout.set(shape.iter().map(|n| *n as npy_intp))?;
        layout.measure(py)?;
        Ok(layout)
    }

    /// Compute the bytes from the lengths.
    fn measure(&mut self, py: Python<'_>) -> PyResult<()> {
        // SAFETY: `descr` is a dtype.
        let item = unsafe { PyDataType_ELSIZE(py, self.descr) } as usize;
        let lengths = self.lengths();
        let bytes = lengths.iter().try_fold(item, |total, n| total.checked_mul(usize::try_from(*n).ok()?));
        self.bytes = bytes.ok_or_else(|| match lengths.iter().find(|n| **n < 0) {
            Some(n) => PyValueError::new_err(format!("an axis has 0 elements or more, got {n}")),
            None => PyValueError::new_err(format!("shape {lengths:?} is more than can be addressed")),
        })?;
        Ok(())
    }

    /// The lengths of its axes.
    pub fn shape(&self) -> Vec<i64> {
        self.lengths().iter().map(|n| *n as i64).collect()
    }

    /// DLPack's name of its elements; none for others, or in the other byte order.
    pub fn dtype(&self) -> Option<DType> {
        // SAFETY: `descr` is a dtype.
        let fields = unsafe { &(*self.descr).fields };
        (fields.byteorder != b'>' as c_char).then(|| python::dtype::from_numpy(fields.type_num)).flatten()
    }

    fn lengths(&self) -> &[npy_intp] {
        if self.axes > FEW { &self.many } else { &self.few[..self.axes] }
    }

    unsafe fn read_shape(&mut self, py: Python<'_>, shape: *mut ffi::PyObject) -> PyResult<()> {
        // SAFETY: the caller vouches for `shape`.
        let given = unsafe {
            if ffi::PyLong_CheckExact(shape) != 0 {
                let length = ffi::PyLong_AsSsize_t(shape);
                if length == -1 && PyErr::occurred(py) {
                    return Err(PyErr::fetch(py));
                }
                (self.few[0], self.axes) = (length as npy_intp, 1);
                return Ok(());
            }
            Borrowed::from_ptr(py, shape)
        };
        if given.hasattr("__index__")? {
            return self.set([given.extract::<isize>()? as npy_intp]);
        }
        if let Ok(lengths) = given.cast::<PyTuple>() {
            for length in lengths.iter_borrowed() {
                self.push(length.extract()?)?;
            }
            return Ok(());
        }
        let lengths: Vec<isize> = given.extract().map_err(|_| {
            let kind = given.get_type().name().map_or_else(|_| "something else".into(), |name| name.to_string());
            PyTypeError::new_err(format!("shape: expected an int or a sequence of ints, got {kind}"))
        })?;
        self.set(lengths.into_iter().map(|n| n as npy_intp))
    }

    fn set(&mut self, lengths: impl IntoIterator<Item = npy_intp>) -> PyResult<()> {
        lengths.into_iter().try_for_each(|length| self.push(length))
    }

    fn push(&mut self, length: npy_intp) -> PyResult<()> {
        match self.axes {
            0..FEW => self.few[self.axes] = length,
            FEW..MAX_AXES => {
                if self.axes == FEW {
                    self.many.extend(self.few);
                }
                self.many.push(length);
            }
            _ => return Err(PyValueError::new_err(format!("an array has at most {MAX_AXES} axes"))),
        }
        self.axes += 1;
        Ok(())
    }

    /// An array of this layout over memory that somebody else keeps; none with Python's exception set. (A `PyResult` of a
    /// quick function costs more than the function: it is written in parts and read as a whole.)
    #[inline]
    fn array_at(&mut self, py: Python<'_>, data: NonNull<u8>, writable: bool) -> Option<Py<PyAny>> {
        let flags = self.order | NPY_ARRAY_ALIGNED | if writable { NPY_ARRAY_WRITEABLE } else { 0 };
        // SAFETY: the memory is large enough for the layout; NumPy takes over one reference to the dtype.
        unsafe {
            ffi::Py_INCREF(self.descr.cast());
            let lengths = if self.axes > FEW { self.many.as_mut_ptr() } else { self.few.as_mut_ptr() };
            let array = PY_ARRAY_API.PyArray_NewFromDescr(
                py,
                python::array_type(),
                self.descr,
                self.axes as c_int,
                lengths,
                std::ptr::null_mut(),
                data.as_ptr().cast(),
                flags,
                std::ptr::null_mut(),
            );
            Some(Bound::from_owned_ptr_or_opt(py, array)?.unbind())
        }
    }

    /// Column-major instead of row-major.
    pub fn set_column_major(&mut self) {
        self.order = NPY_ARRAY_F_CONTIGUOUS;
    }

    /// An array over memory that `keeper` keeps.
    pub fn view(
        &mut self,
        py: Python<'_>,
        data: NonNull<u8>,
        writable: bool,
        keeper: Py<PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let array = self.array_at(py, data, writable).ok_or_else(|| PyErr::fetch(py))?;
        // SAFETY: the array is new; it takes over the reference even when this fails.
        let status = unsafe { PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), keeper.into_ptr()) };
        if status < 0 { Err(PyErr::fetch(py)) } else { Ok(array) }
    }
}

/// The exception for an allocation that failed.
pub fn no_memory(py: Python<'_>, error: &AllocError) -> PyErr {
    errors::memory_error(py, &error.to_string())
}
