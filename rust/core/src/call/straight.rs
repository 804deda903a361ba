//! The straight path of a call: ordinary positional arguments to a function that needs nothing else.
//!
//! Whatever isn't ordinary is noticed before the function is called, and left to [`Nif::invoke`], which starts afresh. So this
//! path has no rare cases, nothing to drop, and nothing that could panic.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::ffi::c_char;
use std::mem::MaybeUninit;

use nif::abi::{Any, AnyValue, Call, DEVICE_CPU, DType, Device, Tensor, dtype_code, type_index};
use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_TYPES, PyArrayObject};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::foreign::{self, Taken as Foreign};
use crate::call::frame::RELEASE_BYTES;
use crate::call::host::ErrorRecord;
use crate::call::interrupt;
use crate::call::outcome::Outcome;
use crate::python::{self, dtype};

/// How a parameter's argument is taken, chosen once from its type in the signature; what isn't of that kind is looked at as `ANY`.
pub mod kind {
    /// `f64`.
    pub const FLOAT: u32 = 0;
    /// `f64[n]`.
    pub const VECTOR: u32 = 1;
    /// `mut f64[n]`.
    pub const MUTABLE_VECTOR: u32 = 2;
    pub const ANY: u32 = 3;
    /// Bits of each kind in a list of kinds.
    pub const BITS: usize = 2;
}

/// An argument, and the bytes of its array.
type Taken = (Any, usize);

/// The arguments; uninitialised room for `N`, so that a short call pays for what it uses.
pub struct Arguments<const N: usize> {
    values: [MaybeUninit<Any>; N],
    tensors: [MaybeUninit<Tensor>; N],
    lengths: [MaybeUninit<[i64; FEW]>; N],
}

/// Axes of which a call has copies, where it needs them.
const FEW: usize = 4;

impl<const N: usize> Arguments<N> {
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            values: [const { MaybeUninit::uninit() }; N],
            tensors: [const { MaybeUninit::uninit() }; N],
            lengths: [const { MaybeUninit::uninit() }; N],
        }
    }

    /// Take all arguments, at most `N`; bit n of `mutable` says whether the function writes to the nth. False when one
    /// isn't ordinary, or when they are so large that the GIL should be released.
    ///
    /// # Safety
    /// The GIL is held and the objects stay alive until the call is over.
    #[inline(always)]
    pub unsafe fn take(&mut self, objects: &[*mut ffi::PyObject], mutable: u32) -> bool {
        let mut bytes = 0_usize;
        for (index, object) in objects.iter().enumerate() {
            // SAFETY: the caller vouches for the objects.
            let value = unsafe { self.any(index, *object, mutable) };
            let (Some((value, more)), Some(slot)) = (value, self.values.get_mut(index)) else { return false };
            bytes = bytes.saturating_add(more);
            slot.write(value);
        }
        bytes < RELEASE_BYTES
    }

    /// The same of exactly `N` arguments of known kinds.
    ///
    /// # Safety
    /// As of `take`; `objects` leads to `N` of them.
    #[inline(always)]
    pub unsafe fn take_kinds<const KINDS: u32>(&mut self, objects: *const *mut ffi::PyObject, mutable: u32) -> bool {
        // Not a field: the sum stays in a register.
        let mut bytes = 0_usize;
        for index in 0..N {
            // SAFETY: the caller vouches for the objects.
            let value = unsafe {
                let object = *objects.add(index);
                let known = match KINDS >> (kind::BITS * index) & 3 {
                    kind::FLOAT => float(object),
                    kind::VECTOR => self.vector(index, object, NPY_ARRAY_C_CONTIGUOUS),
                    kind::MUTABLE_VECTOR => self.vector(index, object, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE),
                    _ => None,
                };
                known.or_else(|| self.any(index, object, mutable))
            };
            let (Some((value, more)), Some(slot)) = (value, self.values.get_mut(index)) else { return false };
            bytes = bytes.saturating_add(more);
            slot.write(value);
        }
        bytes < RELEASE_BYTES
    }

    /// The same where some are arrays of other libraries that are read without any code of Python's.
    ///
    /// # Safety
    /// As of `take`.
    #[inline]
    pub unsafe fn peek(&mut self, objects: &[*mut ffi::PyObject], mutable: u32) -> bool {
        let mut bytes = 0_usize;
        for (index, object) in objects.iter().enumerate() {
            // SAFETY: the caller vouches for the objects.
            let value = unsafe {
                self.any(index, *object, mutable).or_else(|| {
                    let (tensor, bytes) = foreign::peek(*object, mutable >> index & 1 != 0)?;
                    Some((self.place(index, tensor)?, bytes))
                })
            };
            let (Some((value, more)), Some(slot)) = (value, self.values.get_mut(index)) else { return false };
            bytes = bytes.saturating_add(more);
            slot.write(value);
        }
        bytes < RELEASE_BYTES
    }

    /// Keep the tensor of an argument.
    #[inline(always)]
    fn place(&mut self, index: usize, tensor: Tensor) -> Option<Any> {
        let slot = self.tensors.get_mut(index)?;
        let p = (&raw mut *slot.write(tensor)).cast();
        Some(Any { type_index: type_index::TENSOR, zero: 0, v: AnyValue { p } })
    }

    /// The same where some are arrays of other libraries, which are kept in `held` until the call is over. They are read before
    /// the first array is looked at, because reading them may run any Python code.
    ///
    /// # Safety
    /// As of `take`.
    pub unsafe fn take_foreign(
        &mut self,
        py: Python<'_>,
        objects: &[*mut ffi::PyObject],
        mutable: u32,
        held: &mut Vec<(usize, Foreign)>,
    ) -> bool {
        // SAFETY: the caller vouches for the objects; each reader has checked its type.
        unsafe {
            for (index, object) in objects.iter().enumerate() {
                let kind = ffi::Py_TYPE(*object);
                if kind == python::array_type()
                    || kind == &raw mut ffi::PyFloat_Type
                    || kind == &raw mut ffi::PyLong_Type
                {
                    continue;
                }
                let is_mutable = mutable >> index & 1 != 0;
                let Some(kind) = foreign::known(kind) else { return false };
                let taken = foreign::read(py, kind, *object, is_mutable).map_err(|error| error.restore(py));
                match taken.ok().flatten() {
                    Some(it) if it.tensor.strides.is_null() && !(is_mutable && it.is_read_only) => {
                        held.push((index, it));
                    }
                    _ => return false,
                }
            }
            let mut bytes = 0_usize;
            let mut foreign = held.iter();
            let mut next = foreign.next();
            for (index, object) in objects.iter().enumerate() {
                let value = match next.filter(|it| it.0 == index) {
                    Some((_, it)) => {
                        next = foreign.next();
                        self.place(index, it.tensor).map(|value| (value, it.bytes))
                    }
                    None => self.any(index, *object, mutable),
                };
                let (Some((value, more)), Some(slot)) = (value, self.values.get_mut(index)) else { return false };
                bytes = bytes.saturating_add(more);
                slot.write(value);
            }
            bytes < RELEASE_BYTES
        }
    }

    #[inline(always)]
    unsafe fn any(&mut self, index: usize, object: *mut ffi::PyObject, mutable: u32) -> Option<Taken> {
        // SAFETY: the caller vouches for the object; each branch has checked its type.
        unsafe {
            let kind = ffi::Py_TYPE(object);
            if kind == python::array_type() {
                self.array(index, object.cast(), mutable >> index & 1 != 0)
            } else if kind == &raw mut ffi::PyFloat_Type {
                float(object)
            } else if kind == &raw mut ffi::PyLong_Type {
                let mut overflow = 0;
                let i = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
                (overflow == 0).then_some((Any { type_index: type_index::INT, zero: 0, v: AnyValue { i } }, 0))
            } else {
                None
            }
        }
    }

    /// A row-major array of native elements.
    #[inline(always)]
    unsafe fn array(&mut self, index: usize, array: *const PyArrayObject, mutable: bool) -> Option<Taken> {
        // SAFETY: a NumPy array's fields are valid while it lives, and its shape is an array of 64-bit numbers.
        unsafe {
            let fields = &(*array).fields;
            let descr = &(*fields.descr).fields;
            let needed = if mutable { NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE } else { NPY_ARRAY_C_CONTIGUOUS };
            if fields.flags & needed != needed || descr.byteorder == b'>' as c_char {
                return None;
            }
            let dtype = dtype::from_numpy(descr.type_num)?;
            let shape = self.lengths(index, fields.dimensions.cast(), fields.nd as usize)?;
            let item = usize::from(dtype.bits / 8);
            let bytes = (0..fields.nd as usize).fold(item, |n, axis| n.wrapping_mul(*shape.add(axis) as usize));
            self.tensor(index, array, dtype, shape, bytes)
        }
    }

    /// A vector of float64 with these flags.
    #[inline(always)]
    unsafe fn vector(&mut self, index: usize, object: *mut ffi::PyObject, needed: std::ffi::c_int) -> Option<Taken> {
        const FLOAT64: DType = DType { code: dtype_code::FLOAT, bits: 64, lanes: 1 };
        // SAFETY: as above, once the type is checked.
        unsafe {
            if ffi::Py_TYPE(object) != python::array_type() {
                return None;
            }
            let array = object.cast::<PyArrayObject>();
            let fields = &(*array).fields;
            let descr = &(*fields.descr).fields;
            let is_plain = fields.flags & needed == needed
                && fields.nd == 1
                && descr.type_num == NPY_TYPES::NPY_DOUBLE as std::ffi::c_int
                && descr.byteorder != b'>' as c_char;
            if !is_plain {
                return None;
            }
            let shape = self.lengths(index, fields.dimensions.cast(), 1)?;
            let bytes = (*shape as usize).wrapping_mul(8);
            self.tensor(index, array, FLOAT64, shape, bytes)
        }
    }

    /// An array's lengths, as the callee gets them. NumPy frees its own when somebody sets the shape: under the GIL nobody can
    /// while the call runs; without it the callee gets copies.
    #[inline(always)]
    unsafe fn lengths(&mut self, index: usize, numbers: *mut i64, axes: usize) -> Option<*mut i64> {
        if cfg!(not(Py_GIL_DISABLED)) {
            return Some(numbers);
        }
        let copies: *mut i64 = self.lengths.get_mut(index).filter(|_| axes <= FEW)?.as_mut_ptr().cast();
        // SAFETY: the array has that many axes, and there is room for them.
        unsafe { copies.copy_from_nonoverlapping(numbers, axes) };
        Some(copies)
    }

    /// # Safety
    /// `array` is an array of such elements.
    #[inline(always)]
    unsafe fn tensor(
        &mut self,
        index: usize,
        array: *const PyArrayObject,
        dtype: DType,
        shape: *mut i64,
        bytes: usize,
    ) -> Option<Taken> {
        // SAFETY: the caller's promise.
        let fields = unsafe { &(*array).fields };
        let tensor = self.tensors.get_mut(index)?.write(Tensor {
            data: fields.data.cast(),
            device: Device { r#type: DEVICE_CPU, id: 0 },
            ndim: fields.nd,
            dtype,
            shape,
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        });
        Some((Any { type_index: type_index::TENSOR, zero: 0, v: AnyValue { p: (&raw mut *tensor).cast() } }, bytes))
    }

    /// Call the function.
    ///
    /// # Safety
    /// `call` is a live function of the ABI, and `count` arguments were taken.
    #[inline(always)]
    pub unsafe fn call(&self, call: Call, count: usize, error: &mut ErrorRecord, timed: bool, outcome: &mut Outcome) {
        // SAFETY: the first `count` values are written.
        unsafe { outcome.run(call, self.values.as_ptr().cast(), count, error, &interrupt::NEVER, timed) }
    }
}

/// A float, exactly.
#[inline(always)]
unsafe fn float(object: *mut ffi::PyObject) -> Option<Taken> {
    // SAFETY: the caller vouches for the object, whose type is checked.
    unsafe {
        (ffi::Py_TYPE(object) == &raw mut ffi::PyFloat_Type).then(|| {
            let it = Any { type_index: type_index::FLOAT, zero: 0, v: AnyValue { f: ffi::PyFloat_AS_DOUBLE(object) } };
            (it, 0)
        })
    }
}
