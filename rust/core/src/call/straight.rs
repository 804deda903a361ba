//! The straight path of a call: ordinary positional arguments to a function that needs nothing else.
//!
//! Whatever isn't ordinary is noticed before the function is called, and left to [`Nif::invoke`], which starts afresh. So this
//! path has no rare cases, nothing to drop, and nothing that could panic.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use std::ffi::c_char;
use std::mem::MaybeUninit;

use nif::abi::{Any, AnyValue, Call, DEVICE_CPU, Device, Tensor, type_index};
use numpy::npyffi::{NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, PyArrayObject};
use pyo3::ffi;

use crate::call::frame::{Outcome, RELEASE_BYTES};
use crate::call::host::ErrorRecord;
use crate::call::interrupt;
use crate::call::signature::MAX_PARAMS;
use crate::python::{self, dtype};

/// The arguments; uninitialised room for the most, so that a short call pays for what it uses.
pub struct Arguments {
    values: [MaybeUninit<Any>; MAX_PARAMS],
    tensors: [MaybeUninit<Tensor>; MAX_PARAMS],
    count: usize,
    bytes: usize,
}

impl Arguments {
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            values: [const { MaybeUninit::uninit() }; MAX_PARAMS],
            tensors: [const { MaybeUninit::uninit() }; MAX_PARAMS],
            count: 0,
            bytes: 0,
        }
    }

    /// Take all arguments, at most `MAX_PARAMS`; bit n of `mutable` says whether the function writes to the nth. False when one
    /// isn't ordinary, or when they are so large that the GIL should be released.
    ///
    /// # Safety
    /// The GIL is held and the objects stay alive until the call is over.
    #[inline(always)]
    pub unsafe fn take(&mut self, objects: &[*mut ffi::PyObject], mutable: u32) -> bool {
        let array_type = python::array_type();
        for (index, object) in objects.iter().enumerate() {
            // SAFETY: the caller vouches for the objects; each branch has checked its type.
            let value = unsafe {
                let kind = ffi::Py_TYPE(*object);
                if kind == array_type {
                    self.array(index, object.cast(), mutable >> index & 1 != 0)
                } else if kind == &raw mut ffi::PyFloat_Type {
                    Some((type_index::FLOAT, AnyValue { f: ffi::PyFloat_AS_DOUBLE(*object) }))
                } else if kind == &raw mut ffi::PyLong_Type {
                    let mut overflow = 0;
                    let i = ffi::PyLong_AsLongLongAndOverflow(*object, &raw mut overflow);
                    (overflow == 0).then_some((type_index::INT, AnyValue { i }))
                } else {
                    None
                }
            };
            let (Some((type_index, v)), Some(slot)) = (value, self.values.get_mut(index)) else { return false };
            slot.write(Any { type_index, zero: 0, v });
        }
        self.count = objects.len();
        self.bytes < RELEASE_BYTES
    }

    /// A row-major array of native elements.
    #[inline(always)]
    unsafe fn array(&mut self, index: usize, array: *const PyArrayObject, mutable: bool) -> Option<(i32, AnyValue)> {
        // SAFETY: a NumPy array's fields are valid while it lives, and its shape is an array of 64-bit numbers.
        unsafe {
            let fields = &(*array).fields;
            let descr = &(*fields.descr).fields;
            let needed = if mutable { NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_WRITEABLE } else { NPY_ARRAY_C_CONTIGUOUS };
            if fields.flags & needed != needed || descr.byteorder == b'>' as c_char {
                return None;
            }
            let dtype = dtype::from_numpy(descr.type_num)?;
            let shape = fields.dimensions.cast::<i64>();
            let item = usize::from(dtype.bits / 8);
            self.bytes += (0..fields.nd as usize).fold(item, |n, axis| n.wrapping_mul(*shape.add(axis) as usize));
            let tensor = self.tensors.get_mut(index)?.write(Tensor {
                data: fields.data.cast(),
                device: Device { r#type: DEVICE_CPU, id: 0 },
                ndim: fields.nd,
                dtype,
                shape,
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            });
            Some((type_index::TENSOR, AnyValue { p: (&raw mut *tensor).cast() }))
        }
    }

    /// Call the function.
    ///
    /// # Safety
    /// `call` is a live function of the ABI, and `take` returned true.
    #[inline(always)]
    pub unsafe fn call(&self, call: Call, error: &mut ErrorRecord, timed: bool, outcome: &mut Outcome) {
        // SAFETY: the first `count` values are written.
        unsafe { outcome.run(call, self.values.as_ptr().cast(), self.count, error, &interrupt::NEVER, timed) }
    }
}
