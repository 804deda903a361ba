//! Arguments that a function doesn't take as they are: other libraries' arrays, other element types, lists.
//!
//! Nothing here is on the way of a call that succeeds. A function that refuses an argument has run none of its own code, and
//! Python's `nif_lab.foreign` is asked whether that argument can be made to fit; only then is the call made again.

use nif::abi::error_kind;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::call::failure::Failure;
use crate::call::nif::Nif;
use crate::python::door::Given;

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
            done => done,
        }
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
        let Failure::Nif { kind: kind @ (error_kind::TYPE_ERROR | error_kind::VALUE_ERROR), argument: 0.., .. } =
            failure
        else {
            return Err(failure);
        };
        let refused = |error| Failure::Given { kind, error };
        let (positional, named) = given.to_python(py)?;
        let memory = self.origin.memory.bind(py);
        let asked = (self.signature_text.as_str(), self.place.as_str(), memory, positional, named, &failure.text());
        let adapted = py.import("nif_lab.foreign")?.call_method1("adapt", asked).map_err(refused)?;
        if adapted.is_none() {
            return Err(failure);
        }
        let (positional, named, wrap): (Bound<'_, PyTuple>, Bound<'_, PyDict>, Bound<'_, PyAny>) = adapted.extract()?;
        let result = Given::with(py, &positional, &named, call)?;
        if wrap.is_none() { Ok(result) } else { Ok(wrap.call1((result,))?.unbind()) }
    }
}
