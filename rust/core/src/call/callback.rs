//! Callbacks: a Python callable as a function of TVM's, for the time of one call.

use std::cell::Cell;
use std::ffi::c_void;

use nif::abi::{Any, AnyValue, DType, Object, Tensor, error_kind, type_index};
use numpy::PY_ARRAY_API;
use numpy::npyffi::PyArrayObject;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::failure::{Failure, refuse};
use crate::call::interrupt;
use crate::call::owner::stay_out;
use crate::call::shape::{Passed, Shape};
use crate::python;
use crate::python::door;

/// The most values that a callback is given.
pub const MOST: usize = 6;

/// A callable among the arguments of a call. The callee sees `object`, by its address.
#[repr(C)]
pub struct Callback {
    object: Object,
    /// Kept alive by the caller of the function.
    callable: *mut ffi::PyObject,
    shape: Shape,
    argument: usize,
    /// The thread that may call while the GIL isn't released; none when it is.
    keeper: Cell<Option<libc::pthread_t>>,
    /// Why it failed last.
    failed: Cell<Option<Failure>>,
}

// SAFETY: `failed` is written with the GIL held, or by the one thread that keeps it.
unsafe impl Send for Callback {}
// SAFETY: as above.
unsafe impl Sync for Callback {}

impl Callback {
    pub fn new(callable: *mut ffi::PyObject, shape: Shape, argument: usize) -> Box<Self> {
        let object = Object {
            ref_count: 1 << 32 | 1, // the weak count is the upper half
            type_index: type_index::TVM_FUNCTION,
            padding: 0,
            deleter: std::ptr::null_mut(),
            call: called,
            cpp_call: std::ptr::null_mut(),
        };
        Box::new(Self { object, callable, shape, argument, keeper: Cell::new(None), failed: Cell::new(None) })
    }

    /// What the callee gets.
    pub fn address(&self) -> *mut c_void {
        (&raw const self.object).cast_mut().cast()
    }

    /// This thread keeps the GIL while the function runs: no other one could get it.
    pub fn keep_gil(&self) {
        // SAFETY: a plain call.
        self.keeper.set(Some(unsafe { libc::pthread_self() }));
    }

    /// What it is given.
    pub fn takes(&self) -> &[Passed] {
        &self.shape.takes
    }

    /// Why it failed last.
    pub fn failure(&self) -> Option<Failure> {
        self.failed.take()
    }

    /// Call it; none when it failed.
    pub fn call(&self, py: Python<'_>, values: &[Any]) -> Option<Any> {
        self.try_call(py, values).map_err(|why| self.failed.set(Some(why))).ok()
    }

    fn try_call(&self, py: Python<'_>, values: &[Any]) -> Result<Any, Failure> {
        if values.len() != self.shape.takes.len() {
            return Err(self.odd(format!("takes {} values, {} given", self.shape.takes.len(), values.len())));
        }
        // The place before the first is Python's to write to.
        let mut objects = [std::ptr::null_mut(); MOST + 1];
        // SAFETY: the GIL is held; the type index says which field counts; the callable is alive.
        unsafe {
            let mut made = 1;
            for (value, passed) in values.iter().zip(&self.shape.takes) {
                objects[made] = match value.type_index {
                    type_index::FLOAT => ffi::PyFloat_FromDouble(value.v.f),
                    type_index::INT if *passed == Passed::Unsigned => {
                        ffi::PyLong_FromUnsignedLongLong(value.v.i.cast_unsigned())
                    }
                    type_index::INT => ffi::PyLong_FromLongLong(value.v.i),
                    type_index::BOOL => ffi::PyBool_FromLong((value.v.i != 0).into()),
                    type_index::TENSOR => match (passed, passed_vector(value)) {
                        (Passed::Array { element, .. }, Some(it)) if it.dtype == *element => array_of(py, &it),
                        _ => std::ptr::null_mut(),
                    },
                    _ => std::ptr::null_mut(),
                };
                if objects[made].is_null() {
                    break;
                }
                made += 1;
            }
            let is_whole = made == values.len() + 1;
            let offset = 1 << (usize::BITS - 1); // PY_VECTORCALL_ARGUMENTS_OFFSET
            let result = if is_whole {
                ffi::PyObject_Vectorcall(
                    self.callable,
                    objects.as_ptr().add(1),
                    values.len() | offset,
                    std::ptr::null_mut(),
                )
            } else {
                std::ptr::null_mut()
            };
            if !result.is_null() {
                self.give_back(values, &objects[1..made]);
            }
            for object in &objects[1..made] {
                ffi::Py_DECREF(*object);
            }
            if result.is_null() {
                return Err(match PyErr::take(py) {
                    Some(error) => error.into(),
                    None => self.odd("was given a value that its type doesn't have there".into()),
                });
            }
            // The commonest, without a look at what it should be.
            if self.shape.gives == Gives::Float && ffi::Py_TYPE(result) == &raw mut ffi::PyFloat_Type {
                let f = ffi::PyFloat_AS_DOUBLE(result);
                ffi::Py_DECREF(result);
                return Ok(Any { type_index: type_index::FLOAT, zero: 0, v: AnyValue { f } });
            }
            self.taken(&Bound::from_owned_ptr(py, result))
        }
    }

    /// Copy what it has written to its arrays to where the function has them.
    ///
    /// # Safety
    /// The objects were made of the values.
    unsafe fn give_back(&self, values: &[Any], objects: &[*mut ffi::PyObject]) {
        for ((value, passed), object) in values.iter().zip(&self.shape.takes).zip(objects) {
            // SAFETY: an array that was made here keeps its elements where they are, unless Python code has resized it.
            unsafe {
                if let (Passed::Array { is_mutable: true, .. }, Some(it)) = (passed, passed_vector(value)) {
                    let fields = &(*object.cast::<PyArrayObject>()).fields;
                    let is_whole = fields.nd == 1 && *fields.dimensions as usize == it.length;
                    if is_whole && it.bytes > 0 {
                        it.data.copy_from_nonoverlapping(fields.data.cast(), it.bytes);
                    }
                }
            }
        }
    }

    /// What it gave, as the function wants it.
    #[cold]
    fn taken(&self, given: &Bound<'_, PyAny>) -> Result<Any, Failure> {
        let py = given.py();
        // NumPy's scalars and arrays without axes are the numbers in them.
        // SAFETY: the GIL is held, and the objects are alive.
        let is_numpys = unsafe {
            ffi::PyObject_TypeCheck(given.as_ptr(), python::scalar_type(py)) != 0
                || (ffi::Py_TYPE(given.as_ptr()) == python::array_type()
                    && given.getattr("ndim")?.extract::<i32>()? == 0)
        };
        let given = if is_numpys { given.call_method0("item")? } else { given.clone() };
        let object = given.as_ptr();
        let any = |type_index, v| Ok(Any { type_index, zero: 0, v });
        let wrong = || {
            let name = given.get_type().name().map_or_else(|_| "an object".into(), |it| it.to_string());
            Err(self.odd(format!("gave {name}, expected {}", self.shape.gives_name)))
        };
        // SAFETY: as above; each branch has checked the type.
        unsafe {
            let is_bool = ffi::PyBool_Check(object) != 0;
            let is_int = ffi::PyLong_Check(object) != 0; // bools too
            match self.shape.gives {
                Gives::Nothing => any(type_index::NONE, AnyValue { i: 0 }),
                Gives::Bool if is_bool => any(type_index::BOOL, AnyValue { i: i64::from(object == ffi::Py_True()) }),
                Gives::Float if is_int || ffi::PyFloat_Check(object) != 0 => {
                    let f = ffi::PyFloat_AsDouble(object);
                    if PyErr::occurred(py) {
                        Err(PyErr::fetch(py).into())
                    } else {
                        any(type_index::FLOAT, AnyValue { f })
                    }
                }
                Gives::Int(low, high) if is_int => {
                    let number = given.extract::<i128>().unwrap_or(i128::MAX);
                    if number < low || number > high {
                        return Err(self.odd_value(format!("gave {given}, expected {low} to {high}")));
                    }
                    #[allow(clippy::cast_possible_truncation, reason = "64 bits, with or without a sign")]
                    let i = number as i64;
                    any(type_index::INT, AnyValue { i })
                }
                _ => wrong(),
            }
        }
    }

    fn odd(&self, reason: String) -> Failure {
        refuse(error_kind::TYPE_ERROR, self.argument, reason)
    }

    fn odd_value(&self, reason: String) -> Failure {
        refuse(error_kind::VALUE_ERROR, self.argument, reason)
    }
}

/// A vector that a callback is given, in the function's memory.
struct Vector {
    data: *mut u8,
    dtype: DType,
    length: usize,
    bytes: usize,
}

/// None for what is no vector.
///
/// # Safety
/// A value of the ABI; the type index says which field counts.
unsafe fn passed_vector(value: &Any) -> Option<Vector> {
    if value.type_index != type_index::TENSOR {
        return None;
    }
    // SAFETY: the caller's promise; one axis has one length.
    unsafe {
        let tensor = value.v.p.cast_const().cast::<Tensor>().as_ref()?;
        if tensor.ndim != 1 || !(tensor.strides.is_null() || *tensor.strides == 1) {
            return None;
        }
        let (_, item) = python::dtype::to_numpy(tensor.dtype)?;
        let length = usize::try_from(*tensor.shape).ok()?;
        let bytes = length.checked_mul(item)?;
        let data = tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize);
        (bytes == 0 || !data.is_null()).then_some(Vector { data, dtype: tensor.dtype, length, bytes })
    }
}

/// A NumPy array with the vector's elements, which the callable may keep; null with an exception set.
///
/// # Safety
/// The vector's elements are alive.
unsafe fn array_of(py: Python<'_>, it: &Vector) -> *mut ffi::PyObject {
    let Some((type_num, _)) = python::dtype::to_numpy(it.dtype) else { return std::ptr::null_mut() };
    let mut shape = [it.length as isize];
    let null = std::ptr::null_mut;
    // SAFETY: NumPy knows the number; a new array has room for the elements.
    unsafe {
        let descr = PY_ARRAY_API.PyArray_DescrFromType(py, type_num);
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            python::array_type(),
            descr,
            1,
            shape.as_mut_ptr(),
            null(),
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        if !array.is_null() && it.bytes > 0 {
            let to = (*array.cast::<PyArrayObject>()).fields.data.cast::<u8>();
            to.copy_from_nonoverlapping(it.data, it.bytes);
        }
        array
    }
}

/// What a callback is to give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gives {
    Nothing,
    Bool,
    Float,
    /// An integer from the first to the second.
    Int(i128, i128),
}

/// Why a callback failed that this process knows nothing of.
pub fn out_of_reach() -> Failure {
    Failure::Nif {
        kind: error_kind::ERROR,
        argument: -1,
        reason: "a callback was called from a thread that can't call Python meanwhile\nTo fix: call it from the thread of the \
                 call; or mark the function long and use lane=\"direct\""
            .into(),
    }
}

/// What native code calls.
unsafe extern "C" fn called(object: *mut c_void, values: *const Any, count: i32, result: *mut Any) -> i32 {
    // SAFETY: passed on.
    door::guard(-1, || unsafe { call_back(object, values, count, result) })
}

/// # Safety
/// As the ABI promises: `object` is that of a [`Callback`] of a running call, with `count` values and room for a result.
unsafe fn call_back(object: *mut c_void, values: *const Any, count: i32, result: *mut Any) -> i32 {
    // SAFETY: the caller's promise; the object is the callback's first field.
    let (it, values) = unsafe {
        let count = usize::try_from(count).unwrap_or(0);
        (
            &*object.cast_const().cast::<Callback>(),
            if count == 0 { &[] } else { std::slice::from_raw_parts(values, count) },
        )
    };
    let given = match it.keeper.get() {
        // SAFETY: a plain call.
        Some(keeper) if keeper != unsafe { libc::pthread_self() } => return -1, // it would wait for the GIL for ever
        // SAFETY: this thread made the call, and has the GIL; an interrupt that took it gives it back.
        Some(_) => unsafe {
            interrupt::in_python(|| {
                door::enter(None, |py| {
                    let given = it.call(py, values);
                    // Where the process ended meanwhile, the runtime that called is gone.
                    stay_out(py).map_err(|why| it.failed.set(Some(why))).ok().and(given)
                })
            })
        },
        None => Python::try_attach(|py| it.call(py, values)).flatten(),
    };
    let Some(given) = given else { return -1 };
    // SAFETY: the caller's promise.
    unsafe { result.write(given) };
    0
}
