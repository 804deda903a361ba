//! One call's arguments in the ABI's form.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

use nif::abi::{Any, AnyValue, Bytes, Call, DEVICE_CPU, DType, Device, Tensor, dtype_code, type_index};
use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PyArrayObject, npy_intp};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::callback::{self, Callback};
use crate::call::failure::{Failure, refuse};
use crate::call::foreign::{self, Holding, Taken};
use crate::call::host::{Allocating, ErrorRecord};
use crate::call::outcome::Outcome;
use crate::call::results::Results;
use crate::call::signature::{Default, Extent, MAX_PARAMS, Param};
use crate::memory::buffer::{INHERITED, SharedBuffer};
use crate::memory::common::Common;
use crate::memory::file::MappedFile;
use crate::memory::gpu::{self, buffer::DeviceBuffer, buffer::Held};
use crate::python;

/// Arrays of this size together are worth a release of the GIL even in a short function. Beside a busy Python thread it
/// comes back only after 5 ms: docs/architecture.md has the measurement.
pub const RELEASE_BYTES: usize = 16 << 20;

const TYPE: i32 = nif::abi::error_kind::TYPE_ERROR;
const VALUE: i32 = nif::abi::error_kind::VALUE_ERROR;

/// Axes that need no list.
const FEW: usize = 4;

/// The arguments of one call. Uninitialised room for the most, so that a short call pays for what it uses.
pub struct Frame {
    values: [MaybeUninit<Any>; MAX_PARAMS],
    tensors: [MaybeUninit<Tensor>; MAX_PARAMS],
    bytes: [MaybeUninit<Bytes>; MAX_PARAMS],
    /// The arrays' axes: lengths, then strides in elements. They are copies, because NumPy frees an array's own as soon as
    /// somebody assigns to its shape: another thread while the GIL is released, or Python code that converts an argument.
    axes: [MaybeUninit<[i64; 2 * FEW]>; MAX_PARAMS],
    /// The same of arrays of more than a few axes.
    many: Vec<Box<[i64]>>,
    /// Arrays of shared buffers among the arguments.
    held: Vec<Py<PyAny>>,
    /// What keeps the arrays of other libraries.
    holdings: Vec<Holding>,
    /// Memory of devices.
    on_devices: Vec<Arc<Held>>,
    #[allow(clippy::vec_box, reason = "callables; the callee holds their addresses while the vector grows")]
    callbacks: Vec<Box<Callback>>,
    pub count: usize,
    /// Bytes of all arrays: large calls release the GIL.
    pub bytes_total: usize,
    /// Why the call failed, once it did.
    pub error: ErrorRecord,
}

// SAFETY: a frame's pointers lead into itself, or into Python objects whose owner keeps them alive until the call is over.
unsafe impl Send for Frame {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Frame {}

impl Frame {
    #[inline]
    pub fn new() -> Self {
        Self {
            values: [const { MaybeUninit::uninit() }; MAX_PARAMS],
            tensors: [const { MaybeUninit::uninit() }; MAX_PARAMS],
            bytes: [const { MaybeUninit::uninit() }; MAX_PARAMS],
            axes: [const { MaybeUninit::uninit() }; MAX_PARAMS],
            many: Vec::new(),
            held: Vec::new(),
            holdings: Vec::new(),
            on_devices: Vec::new(),
            callbacks: Vec::new(),
            count: 0,
            bytes_total: 0,
            error: ErrorRecord::default(),
        }
    }

    #[inline]
    fn push(&mut self, type_index: i32, v: AnyValue) {
        self.values[self.count] = MaybeUninit::new(Any { type_index, zero: 0, v });
        self.count += 1;
    }

    /// Keep objects until the call is over.
    pub fn hold(&mut self, objects: Vec<Py<PyAny>>) {
        self.held.extend(objects);
    }

    /// The calling thread keeps the GIL while the function runs.
    pub fn keep_gil(&self) {
        self.callbacks.iter().for_each(|it| it.keep_gil());
    }

    /// The callback that an argument is.
    pub fn callback(&self, index: usize) -> Option<&Callback> {
        let value = self.value(index).filter(|it| it.type_index == type_index::TVM_FUNCTION)?;
        // SAFETY: the type index says which field counts.
        self.callbacks.iter().map(AsRef::as_ref).find(|it| it.address() == unsafe { value.v.p })
    }

    /// Why a callback failed.
    #[cold]
    pub fn raised(&self) -> Failure {
        self.callbacks.iter().find_map(|it| it.failure()).unwrap_or_else(callback::out_of_reach)
    }

    /// Add an argument that isn't there; the callee, or nobody, complains.
    pub fn push_none(&mut self) {
        self.push(type_index::NONE, AnyValue { i: 0 });
    }

    /// Add what a parameter is when it is left out.
    pub fn push_default(&mut self, default: &Default) {
        match default {
            Default::None => self.push_none(),
            Default::Bool(it) => self.push(type_index::BOOL, AnyValue { i: i64::from(*it) }),
            Default::Int(it) => self.push(type_index::INT, AnyValue { i: *it }),
            Default::Float(it) => self.push(type_index::FLOAT, AnyValue { f: *it }),
            Default::Str(it) => self.push(type_index::STR, AnyValue { p: it.as_ptr().cast_mut().cast() }),
        }
    }

    pub fn value(&self, index: usize) -> Option<Any> {
        // SAFETY: the first `count` values were written by `push`.
        (index < self.count).then(|| unsafe { self.values[index].assume_init() })
    }

    /// The array at that place, if there is one.
    pub fn tensor(&self, index: usize) -> Option<&Tensor> {
        let value = self.value(index).filter(|it| it.type_index == type_index::TENSOR)?;
        // SAFETY: this frame wrote the tensor.
        Some(unsafe { &*value.v.p.cast::<Tensor>() })
    }

    /// The bytes of a str, with the NUL after them, or of a bytes object.
    ///
    /// # Safety
    /// One of them is at that place, and its object is alive.
    pub unsafe fn text(&self, index: usize) -> &[u8] {
        // SAFETY: the caller's promise; `push_other` wrote these.
        unsafe {
            let value = self.values[index].assume_init();
            if value.type_index == type_index::STR {
                return CStr::from_ptr(value.v.p.cast_const().cast()).to_bytes_with_nul();
            }
            let bytes = &*value.v.p.cast::<Bytes>();
            std::slice::from_raw_parts(bytes.data.cast(), bytes.size)
        }
    }

    /// Add a Python value.
    ///
    /// # Safety
    /// The GIL is held, `object` is alive and stays alive (and in place) until the call is over.
    #[inline]
    pub unsafe fn push_object(
        &mut self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        param: &Param,
        array_type: *mut ffi::PyTypeObject,
    ) -> Result<(), Failure> {
        // SAFETY: the caller vouches for `object`; each branch has checked its type.
        unsafe {
            let kind = ffi::Py_TYPE(object);
            if kind == array_type {
                return self.push_array(py, object.cast(), param);
            }
            if kind == &raw mut ffi::PyFloat_Type {
                self.push(type_index::FLOAT, AnyValue { f: ffi::PyFloat_AS_DOUBLE(object) });
                return Ok(());
            }
            if kind == &raw mut ffi::PyLong_Type {
                return self.push_int(py, object, param);
            }
            self.push_other(py, object, param, array_type)
        }
    }

    unsafe fn push_int(&mut self, py: Python<'_>, object: *mut ffi::PyObject, param: &Param) -> Result<(), Failure> {
        if param.is_unsigned() {
            // SAFETY: `object` is an int.
            let bits = unsafe { ffi::PyLong_AsUnsignedLongLong(object) };
            if bits == u64::MAX && PyErr::take(py).is_some() {
                // SAFETY: as above.
                let given = unsafe { Bound::from_borrowed_ptr(py, object) };
                return Err(refuse(VALUE, self.count, format!("expected 0 to {}, got {given}", u64::MAX)));
            }
            self.push(type_index::INT, AnyValue { i: bits.cast_signed() });
            return Ok(());
        }
        let mut overflow = 0;
        // SAFETY: `object` is an int.
        let i = unsafe { ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow) };
        if overflow != 0 {
            return Err(refuse(VALUE, self.count, "expected an integer of 64 bits"));
        }
        if i == -1 && PyErr::occurred(py) {
            return Err(PyErr::fetch(py).into());
        }
        self.push(type_index::INT, AnyValue { i });
        Ok(())
    }

    #[cold]
    unsafe fn push_other(
        &mut self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        param: &Param,
        array_type: *mut ffi::PyTypeObject,
    ) -> Result<(), Failure> {
        // SAFETY: as in `push_object`.
        unsafe {
            if let Some(shape) = param.callback.as_ref().filter(|_| ffi::PyCallable_Check(object) != 0) {
                let callback = Callback::new(object, shape.clone(), self.count);
                self.push(type_index::TVM_FUNCTION, AnyValue { p: callback.address() });
                self.callbacks.push(callback);
            } else if object == ffi::Py_None() {
                self.push_none();
            } else if ffi::PyBool_Check(object) != 0 {
                self.push(type_index::BOOL, AnyValue { i: i64::from(object == ffi::Py_True()) });
            } else if ffi::PyUnicode_Check(object) != 0 {
                let mut size = 0;
                let data = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut size);
                if data.is_null() {
                    return Err(PyErr::fetch(py).into());
                }
                if CStr::from_ptr(data).count_bytes() != size as usize {
                    return Err(refuse(VALUE, self.count, "contains a NUL character"));
                }
                self.push(type_index::STR, AnyValue { p: data.cast_mut().cast() });
            } else if ffi::PyBytes_Check(object) != 0 {
                let data = ffi::PyBytes_AsString(object).cast_const();
                let size = ffi::PyBytes_Size(object) as usize;
                let slot = self.bytes[self.count].write(Bytes { data, size });
                let p = (&raw mut *slot).cast();
                self.bytes_total = self.bytes_total.saturating_add(size);
                self.push(type_index::BYTES, AnyValue { p });
            } else if param.is_complex() && ffi::PyComplex_Check(object) != 0 {
                self.push_complex(ffi::PyComplex_RealAsDouble(object), ffi::PyComplex_ImagAsDouble(object), param);
            } else if ffi::PyObject_TypeCheck(object, array_type) != 0 {
                if python::is_masked(py, object)? {
                    let reason = format!("expected {}, got a masked array (fill it: x.filled(value))", param.shown());
                    return Err(refuse(TYPE, self.count, reason));
                }
                return self.push_array(py, object.cast(), param);
            } else if ffi::PyFloat_Check(object) != 0 {
                self.push(type_index::FLOAT, AnyValue { f: ffi::PyFloat_AsDouble(object) });
            } else if ffi::PyLong_Check(object) != 0 {
                return self.push_int(py, object, param);
            } else if let Some(array) = self.shared_array(py, object, param)? {
                // The frame keeps the array: another thread may release the buffer while the call runs.
                let pointer = array.as_ptr();
                self.held.push(array);
                return self.push_array(py, pointer.cast(), param);
            } else if param.is_unsigned()
                && let Some(number) = self.device_number(py, object)?
            {
                self.push(type_index::INT, AnyValue { i: number.cast_signed() });
            } else if let Some(taken) = foreign::take(py, object, param.mutable)? {
                return self.push_foreign(taken, param);
            } else {
                return Err(self.odd_type(&Bound::from_borrowed_ptr(py, object), param));
            }
        }
        Ok(())
    }

    /// A complex number: an array without axes, which lies where the bytes of another argument would.
    #[allow(clippy::cast_possible_truncation, reason = "rounded, as NumPy does")]
    fn push_complex(&mut self, re: f64, im: f64, param: &Param) {
        const { assert!(size_of::<Bytes>() == size_of::<[f64; 2]>() && align_of::<Bytes>() == align_of::<f64>()) }
        let data = self.bytes[self.count].as_mut_ptr();
        let is_narrow = param.spelled == "c64";
        let (narrow, wide) = (data.cast::<[f32; 2]>(), data.cast::<[f64; 2]>());
        // SAFETY: room of that size and alignment.
        unsafe { if is_narrow { narrow.write([re as f32, im as f32]) } else { wide.write([re, im]) } };
        let tensor = Tensor {
            data: data.cast(),
            device: Device { r#type: DEVICE_CPU, id: 0 },
            ndim: 0,
            dtype: DType { code: dtype_code::COMPLEX, bits: if is_narrow { 64 } else { 128 }, lanes: 1 },
            shape: self.axes[self.count].as_mut_ptr().cast(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        };
        let p = (&raw mut *self.tensors[self.count].write(tensor)).cast();
        self.push(type_index::TENSOR, AnyValue { p });
    }

    /// The array of a shared buffer or a mapped file.
    unsafe fn shared_array(
        &self,
        py: Python<'_>,
        object: *mut ffi::PyObject,
        param: &Param,
    ) -> Result<Option<Py<PyAny>>, Failure> {
        // SAFETY: the GIL is held and `object` is alive.
        let object = unsafe { Borrowed::from_ptr(py, object) };
        if let Ok(buffer) = object.cast::<SharedBuffer>() {
            if param.mutable && buffer.get().is_inherited() {
                return Err(refuse(VALUE, self.count, INHERITED));
            }
            return Ok(Some(buffer.get().array(py)?));
        }
        let Ok(file) = object.cast::<MappedFile>() else { return Ok(None) };
        if file.get().is_write_only() && !param.mutable {
            return Err(refuse(VALUE, self.count, "is write-only: map the file read_write to read it"));
        }
        Ok(Some(file.get().array(py)?))
    }

    /// The number of an array on a device, ours or another library's, which the frame then keeps.
    unsafe fn device_number(&mut self, py: Python<'_>, object: *mut ffi::PyObject) -> Result<Option<u64>, Failure> {
        // SAFETY: the GIL is held and `object` is alive.
        let object = unsafe { Borrowed::from_ptr(py, object) };
        if let Ok(buffer) = object.cast::<DeviceBuffer>() {
            let held = buffer.get().held(py)?;
            let number = held.number;
            self.on_devices.push(held);
            return Ok(Some(number));
        }
        let view = gpu::foreign::view(&object, None)?;
        let Some(held) = view.map(|it| it.held(py)).transpose()? else { return Ok(None) };
        let number = held.number;
        self.on_devices.push(held);
        Ok(Some(number))
    }

    unsafe fn push_foreign(&mut self, taken: Taken, param: &Param) -> Result<(), Failure> {
        if param.mutable && taken.is_read_only {
            return Err(refuse(VALUE, self.count, "is read-only"));
        }
        let mut tensor = taken.tensor;
        let axes = tensor.ndim as usize;
        // SAFETY: shape, and strides if there are some, have `ndim` numbers; their copies may outlive them.
        let numbers = |at: *mut i64| if axes == 0 { &[] } else { unsafe { std::slice::from_raw_parts(at, axes) } };
        let strides = (!tensor.strides.is_null()).then(|| numbers(tensor.strides));
        (tensor.shape, tensor.strides) = self.keep_axes(numbers(tensor.shape), strides, 1)?;
        self.bytes_total = self.bytes_total.saturating_add(taken.bytes);
        self.holdings.push(taken.holding);
        let p = (&raw mut *self.tensors[self.count].write(tensor)).cast();
        self.push(type_index::TENSOR, AnyValue { p });
        Ok(())
    }

    /// Nothing that a function could take.
    #[cold]
    fn odd_type(&self, object: &Bound<'_, PyAny>, param: &Param) -> Failure {
        let name = match object.get_type().name() {
            Ok(name) => name.to_string(),
            Err(error) => return error.into(),
        };
        let cure = match name.as_str() {
            "list" | "tuple" | "memoryview" | "array" if param.spelled.ends_with(']') => {
                " (make it an array: numpy.asarray(...))"
            }
            _ => "",
        };
        refuse(TYPE, self.count, format!("expected {}, got {name}{cure}", param.shown()))
    }

    #[inline]
    unsafe fn push_array(&mut self, py: Python<'_>, array: *mut PyArrayObject, param: &Param) -> Result<(), Failure> {
        // SAFETY: the caller checked the type; a NumPy array's fields are valid while it lives, and `push_object`'s caller
        // keeps it alive. The shape is NumPy's own array of 64-bit numbers.
        unsafe {
            let fields = &(*array).fields;
            let Some(dtype) = python::dtype::from_numpy((*fields.descr).fields.type_num) else {
                return Err(self.odd_dtype(py, array, param));
            };
            if (*fields.descr).fields.byteorder == b'>' as c_char {
                return Err(refuse(TYPE, self.count, "expected native byte order"));
            }
            if param.mutable && fields.flags & NPY_ARRAY_WRITEABLE == 0 {
                return Err(refuse(VALUE, self.count, "is read-only"));
            }
            let axes = fields.nd as usize;
            let item = usize::from(dtype.bits / 8);
            // Without axes NumPy may have null pointers.
            let numbers =
                |at: *const npy_intp| if axes == 0 { &[] } else { std::slice::from_raw_parts(at.cast(), axes) };
            let lengths = numbers(fields.dimensions);
            let is_row_major = fields.flags & NPY_ARRAY_C_CONTIGUOUS != 0;
            let (shape, strides) =
                self.keep_axes(lengths, if is_row_major { None } else { Some(numbers(fields.strides)) }, item)?;
            let bytes = lengths.iter().fold(item, |n, length| n.saturating_mul(*length as usize));
            self.bytes_total = self.bytes_total.saturating_add(bytes);
            let slot = self.tensors[self.count].write(Tensor {
                data: fields.data.cast(),
                device: Device { r#type: DEVICE_CPU, id: 0 },
                ndim: fields.nd,
                dtype,
                shape,
                strides,
                byte_offset: 0,
            });
            let p = (&raw mut *slot).cast();
            self.push(type_index::TENSOR, AnyValue { p });
        }
        Ok(())
    }

    #[cold]
    unsafe fn odd_dtype(&self, py: Python<'_>, array: *mut PyArrayObject, param: &Param) -> Failure {
        // SAFETY: the GIL is held and `array` is an array.
        let name = unsafe {
            Bound::from_borrowed_ptr(py, array.cast())
                .getattr("dtype")
                .and_then(|dtype| dtype.getattr("name"))
                .map_or_else(|_| "unknown elements".into(), |name| name.to_string())
        };
        refuse(TYPE, self.count, format!("expected {}, got an array of {name}", param.shown()))
    }

    /// Copies of an array's lengths, and of its strides in elements; null strides for row-major elements.
    #[inline]
    fn keep_axes(
        &mut self,
        lengths: &[i64],
        byte_strides: Option<&[i64]>,
        item: usize,
    ) -> Result<(*mut i64, *mut i64), Failure> {
        let axes = lengths.len();
        let item = item as i64;
        if byte_strides.is_some_and(|it| it.iter().any(|stride| stride % item != 0)) {
            return Err(refuse(VALUE, self.count, "expected strides in whole elements"));
        }
        let place: *mut i64 = if axes <= FEW {
            self.axes[self.count].as_mut_ptr().cast()
        } else {
            self.many.push(vec![0; 2 * axes].into());
            self.many.last_mut().map_or(std::ptr::null_mut(), |it| it.as_mut_ptr())
        };
        // SAFETY: there is room for twice as many numbers as there are axes.
        unsafe {
            place.copy_from_nonoverlapping(lengths.as_ptr(), axes);
            let Some(byte_strides) = byte_strides else { return Ok((place, std::ptr::null_mut())) };
            let strides = place.add(axes);
            for (axis, stride) in byte_strides.iter().enumerate() {
                strides.add(axis).write(stride / item);
            }
            Ok((place, strides))
        }
    }

    /// The length of an output's axis, from the arguments pushed so far; None when the callee will refuse one of them. So it
    /// will a negative length (check 8 of docs/abi.md), in its turn: another argument may be refused before it.
    pub fn extent(&self, extent: Extent) -> Option<i64> {
        match extent {
            Extent::Scalar(index) => {
                let value =
                    self.value(index).filter(|it| matches!(it.type_index, type_index::INT | type_index::BOOL))?;
                // SAFETY: the type index says which field counts.
                Some(unsafe { value.v.i }.max(0))
            }
            Extent::Axis(index, axis) => {
                let tensor = self.tensor(index).filter(|it| axis < it.ndim as usize)?;
                // SAFETY: this frame wrote the tensor, whose shape has `ndim` numbers.
                Some(unsafe { *tensor.shape.add(axis) })
            }
        }
    }

    /// Call the function.
    ///
    /// # Safety
    /// As [`Outcome::run`]'s, for all that the frame points to.
    pub unsafe fn run(
        &mut self,
        call: Call,
        cancel: &AtomicI32,
        timed: bool,
        room: Option<&Common>,
        several: &mut Results,
    ) -> Outcome {
        let _allocating = room.map(Allocating::from);
        let mut outcome = Outcome::new();
        let values = self.values.as_ptr().cast();
        // SAFETY: the first `count` values are written.
        unsafe {
            if several.is_empty() {
                outcome.run(call, values, self.count, &mut self.error, cancel, timed);
            } else {
                outcome.run_several(call, values, self.count, &mut self.error, cancel, timed, several);
            }
        }
        outcome
    }
}
