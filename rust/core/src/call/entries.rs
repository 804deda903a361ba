//! Where Python enters: the straight way for ordinary calls, and the general one.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use nif::abi::{flag, type_index};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::frame::{Outcome, to_python};
use crate::call::host::{self, ErrorRecord};
use crate::call::nif::Nif;
use crate::call::signature::Signature;
use crate::call::straight::Arguments;
use crate::python::door::{self, Builtin, Given, builtin};

/// Python's entry for functions without outputs, long waits or a thread of their own.
pub unsafe extern "C" fn straight_call(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as of `builtin`; the arguments were taken before the call is made.
    door::guard(std::ptr::null_mut(), || unsafe {
        let nif: &Nif = door::bound(this);
        let objects = if count == 0 { &[] } else { std::slice::from_raw_parts(values, count as usize) };
        let mut arguments = Arguments::new();
        let is_plain = names.is_null() && objects.len() == nif.signature.params.len() && !nif.origin.needs_reload();
        if !is_plain || !arguments.take(objects, nif.mutable) {
            return builtin::<General>(this, values, count, names);
        }
        if nif.slot.is_next_timed() { timed_answer(nif, &arguments) } else { answer(nif, &arguments, false) }
    })
}

/// Out of the way of the calls that aren't timed.
#[inline(never)]
unsafe fn timed_answer(nif: &Nif, arguments: &Arguments) -> *mut ffi::PyObject {
    // SAFETY: passed on.
    unsafe { answer(nif, arguments, true) }
}

/// Call with arguments that were taken, and make Python's result.
///
/// # Safety
/// The GIL is held, and what `arguments` were taken from is alive.
#[inline(always)]
unsafe fn answer(nif: &Nif, arguments: &Arguments, timed: bool) -> *mut ffi::PyObject {
    let mut error = ErrorRecord::default();
    let mut outcome = Outcome::new();
    // SAFETY: the library isn't closed while a call runs; the type index says which field of the result counts.
    unsafe {
        arguments.call(nif.target.get(), &mut error, timed, &mut outcome);
        if outcome.status != 0 || host::has_unclaimed() {
            let tensor = outcome.claim();
            return door::enter(std::ptr::null_mut(), |py| {
                nif.conclude(py, || nif.finish(py, &outcome, error, tensor, Vec::new()))
            });
        }
        nif.slot.succeed(outcome.time);
        match outcome.result.type_index {
            type_index::NONE => ffi::Py_NewRef(ffi::Py_None()),
            type_index::FLOAT => ffi::PyFloat_FromDouble(outcome.result.v.f),
            type_index::INT if !nif.unsigned => ffi::PyLong_FromLongLong(outcome.result.v.i),
            _ => door::enter(std::ptr::null_mut(), |py| {
                nif.conclude(py, || to_python(py, &outcome.result, None, nif.unsigned, nif.origin.memory.get()))
            }),
        }
    }
}

/// Every function, and all arguments.
struct General;

impl Builtin for General {
    type This = Nif;

    fn call(nif: &Nif, py: Python<'_>, given: &Given<'_>) -> *mut ffi::PyObject {
        nif.conclude(py, || nif.invoke(py, given))
    }
}

/// The entry of a function in this process: the straight one, unless its calls may have outputs, last long or need a thread of their own.
pub fn direct_entry(signature: &Signature, flags: u32) -> ffi::PyCFunctionFastWithKeywords {
    let is_plain = signature.params.iter().all(|it| it.output.is_none())
        && !signature.returns_array()
        && flags & (flag::LONG | flag::POLLS_CANCEL | flag::THREAD_BOUND) == 0;
    if is_plain { straight_call } else { builtin::<General> }
}
