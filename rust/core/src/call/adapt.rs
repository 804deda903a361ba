//! Arguments that a function doesn't take as they are: other libraries' arrays, other element types, lists.
//!
//! Little here is on the way of a call that succeeds. A function that refuses an argument has run none of its own code, and
//! Python's `nif_lab.foreign` is asked whether that argument can be made to fit; only then is the call made again.

use nif::abi::error_kind;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::call::failure::Failure;
use crate::call::foreign;
use crate::call::frame::Frame;
use crate::call::nif::Nif;
use crate::python::door::Given;
use crate::python::dtype;
use crate::python::errors::end_at_caller;

impl Nif {
    /// Make a call, and once more if the function refused an argument that can be made to fit.
    #[inline]
    pub fn adapted(
        &self,
        py: Python<'_>,
        given: &Given<'_>,
        call: impl Fn(&Given<'_>) -> Result<Py<PyAny>, Failure>,
    ) -> Result<Py<PyAny>, Failure> {
        match call(given) {
            Err(failure) => self.adapt(py, given, failure, &call),
            Ok(result) if self.may_return_arrays() => self.in_kind_of(py, given, result),
            done => done,
        }
    }

    fn may_return_arrays(&self) -> bool {
        self.outputs > 0 || self.signature.returns_memory()
    }

    /// A result as the caller has its arrays: of the kind of the first array argument.
    fn in_kind_of(&self, py: Python<'_>, given: &Given<'_>, result: Py<PyAny>) -> Result<Py<PyAny>, Failure> {
        // SAFETY: the caller of a built-in keeps its arguments alive.
        let is_foreign = |object: &*mut ffi::PyObject| unsafe { foreign::is_tensor(*object) };
        if !given.values.iter().any(is_foreign) {
            return Ok(result);
        }
        let (positional, named) = given.to_python(py)?;
        let asked = (self.signature_text.as_str(), self.origin.memory.bind(py), positional, named, result);
        Ok(py.import("nif_lab.foreign")?.call_method1("in_kind_of", asked)?.unbind())
    }

    /// What becomes of a call that failed.
    #[cold]
    pub fn adapt(
        &self,
        py: Python<'_>,
        given: &Given<'_>,
        failure: Failure,
        call: &dyn Fn(&Given<'_>) -> Result<Py<PyAny>, Failure>,
    ) -> Result<Py<PyAny>, Failure> {
        let (kind, is_unfit) = match failure {
            Failure::Nif { kind: kind @ (error_kind::TYPE_ERROR | error_kind::VALUE_ERROR), argument: 0.., .. } => {
                (kind, false)
            }
            Failure::Unfit => (error_kind::TYPE_ERROR, true),
            _ => return Err(failure),
        };
        let refused = |error| {
            end_at_caller(py, &error);
            Failure::Given { kind, error }
        };
        let (positional, named) = given.to_python(py)?;
        let memory = self.origin.memory.bind(py);
        let to_worker = self.origin.lane.is_some();
        let asked = (self.signature_text.as_str(), self.place.as_str(), memory, positional, named, to_worker);
        let adapted = py.import("nif_lab.foreign")?.call_method1("adapt", asked).map_err(refused)?;
        if adapted.is_none() {
            return if is_unfit { call(given) } else { Err(failure) };
        }
        let (positional, named, wrap): (Bound<'_, PyTuple>, Bound<'_, PyDict>, Bound<'_, PyAny>) = adapted.extract()?;
        let result = Given::with(py, &positional, &named, call)?;
        if wrap.is_none() { Ok(result) } else { Ok(wrap.call1((result,))?.unbind()) }
    }

    /// Will the function refuse an array of the frame for its elements or its strides? Asked before arrays are copied to a worker.
    pub fn is_unfit(&self, frame: &Frame) -> bool {
        self.signature.params.iter().enumerate().any(|(index, param)| {
            let Some(tensor) = frame.tensor(index) else { return false };
            let element = param.spelled.split('[').next().and_then(dtype::by_name);
            let is_other = element.is_some_and(|it| dtype::to_numpy(tensor.dtype) != Some(it));
            is_other || (!tensor.strides.is_null() && self.matrices >> index & 1 == 0)
        })
    }
}
