//! What a call returned, as Python has it: one value, or the several of a tuple.

use nif::abi::{Any, AnyValue, dtype_code, error_kind, type_index};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::call::failure::Failure;
use crate::call::host::{self, HostTensor};
use crate::call::signature::{Item, Kind, Several};
use crate::call::texts;
use crate::memory::Memory;
use crate::python;

/// The values of a tuple, with the memory that some of them are in; none for a function that returns one value.
#[derive(Default)]
pub struct Results {
    pub values: Vec<Any>,
    pub tensors: Vec<Option<Box<HostTensor>>>,
}

// SAFETY: the values are scalars, constant strings of a library, or lead to the tensors beside them.
unsafe impl Send for Results {}

impl Results {
    /// Room for so many.
    pub fn of(several: Option<&Several>) -> Self {
        let none = Any { type_index: type_index::NONE, zero: 0, v: AnyValue { i: 0 } };
        Self { values: several.map_or_else(Vec::new, |it| vec![none; it.items.len()]), tensors: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Take the host's tensors that a call returned, and free the others. To be called on the thread of the call.
    pub fn claim(&mut self, has_succeeded: bool) {
        if host::has_unclaimed() {
            self.tensors = host::claim_each(if has_succeeded { &self.values } else { &[] });
        }
    }

    /// The tuple, or the named tuple of that class; None where there is none of its values.
    pub fn into_python(
        mut self,
        py: Python<'_>,
        several: &Several,
        class: Option<&Py<PyAny>>,
        memory: &Memory,
    ) -> Result<Py<PyAny>, Failure> {
        if several.is_optional && self.values.iter().all(|it| it.type_index == type_index::NONE) {
            return Ok(py.None());
        }
        self.tensors.resize_with(self.values.len(), || None);
        let items = self.values.iter().zip(self.tensors).zip(&several.items);
        let items = items.map(|((value, tensor), item)| {
            if fits(*item, value.type_index) {
                to_python(py, value, tensor, item.kind, memory)
            } else {
                Err(odd(value))
            }
        });
        let items = PyTuple::new(py, items.collect::<Result<Vec<_>, _>>()?)?;
        Ok(match class {
            Some(class) => class.call1(py, items)?,
            None => items.into_any().unbind(),
        })
    }
}

/// May a value of that kind come as this type?
fn fits(item: Item, came: i32) -> bool {
    match came {
        type_index::NONE => item.is_optional || item.kind == Kind::None,
        type_index::INT => matches!(item.kind, Kind::Int | Kind::Unsigned),
        type_index::BOOL => item.kind == Kind::Bool,
        type_index::FLOAT => item.kind == Kind::Float,
        type_index::STR => item.kind == Kind::Str,
        type_index::TENSOR => matches!(item.kind, Kind::Complex | Kind::Str | Kind::Bytes | Kind::Texts | Kind::Array),
        _ => false,
    }
}

fn broken(reason: String) -> Failure {
    Failure::Nif { kind: error_kind::ERROR, argument: -1, reason }
}

fn odd(value: &Any) -> Failure {
    broken(format!("returned a value of type index {}, which its signature doesn't have there", value.type_index))
}

/// The Python value of a scalar, string or tensor result.
#[inline]
pub fn to_python(
    py: Python<'_>,
    result: &Any,
    tensor: Option<Box<HostTensor>>,
    kind: Kind,
    memory: &Memory,
) -> Result<Py<PyAny>, Failure> {
    // SAFETY: the type index says which field counts; strings live as long as their library, which is for ever.
    unsafe {
        let v = result.v;
        let object = match result.type_index {
            type_index::NONE => return Ok(py.None()),
            type_index::INT if kind == Kind::Unsigned => ffi::PyLong_FromUnsignedLongLong(v.i.cast_unsigned()),
            type_index::INT => ffi::PyLong_FromLongLong(v.i),
            type_index::BOOL => ffi::PyBool_FromLong(std::ffi::c_long::from(v.i != 0)),
            type_index::FLOAT => ffi::PyFloat_FromDouble(v.f),
            type_index::STR => ffi::PyUnicode_FromString(v.p.cast_const().cast()),
            type_index::TENSOR => {
                let Some(made) = tensor.map(|it| *it) else {
                    return Err(broken("returned an array that isn't from nif_host.alloc_tensor".into()));
                };
                if matches!(kind, Kind::Str | Kind::Bytes | Kind::Texts) {
                    return text(py, &made, kind);
                }
                if kind == Kind::Complex {
                    return complex(py, &made);
                }
                let Some((type_num, _)) = python::dtype::to_numpy(made.tensor.dtype) else {
                    return Err(broken("returned an array of an unknown element type".into()));
                };
                return Ok(memory.adopt(py, made.block, type_num, &made.shape)?);
            }
            other => return Err(broken(format!("returned a value of type index {other}, which the Lab doesn't know"))),
        };
        Ok(python::owned(py, object)?)
    }
}

/// The one complex number of a tensor.
fn complex(py: Python<'_>, made: &HostTensor) -> Result<Py<PyAny>, Failure> {
    let data = made.block.address().as_ptr();
    // SAFETY: the block was allocated for one element of that type.
    let [re, im] = unsafe {
        match made.tensor.dtype {
            it if !made.shape.is_empty() || it.code != dtype_code::COMPLEX => {
                return Err(broken("returned something else as a complex number".into()));
            }
            it if it.bits == 64 => data.cast::<[f32; 2]>().read_unaligned().map(f64::from),
            _ => data.cast::<[f64; 2]>().read_unaligned(),
        }
    };
    // SAFETY: this thread is attached.
    Ok(unsafe { python::owned(py, ffi::PyComplex_FromDoubles(re, im)) }?)
}

/// The bytes of a tensor as a str, as bytes, or as a list of texts.
fn text(py: Python<'_>, made: &HostTensor, kind: Kind) -> Result<Py<PyAny>, Failure> {
    let (dtype, size) = (made.tensor.dtype, made.shape.iter().product::<i64>());
    if dtype != <u8 as nif::Element>::DTYPE {
        return Err(broken("returned elements that aren't bytes as a text".into()));
    }
    // SAFETY: the block was allocated for that many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(made.block.address().as_ptr(), size as usize) };
    if kind == Kind::Texts {
        let texts = texts::unpacked(bytes).ok_or_else(|| broken("returned a list of texts that isn't one".into()))?;
        return Ok(PyList::new(py, texts)?.into_any().unbind());
    }
    if kind == Kind::Bytes {
        return Ok(PyBytes::new(py, bytes).into_any().unbind());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| broken("returned a str that isn't UTF-8".into()))?;
    Ok(PyString::new(py, text).into_any().unbind())
}
