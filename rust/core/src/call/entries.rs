//! Where Python enters: the straight way for ordinary calls, and the general one.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use nif::abi::{flag, type_index};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::frame::{Outcome, to_python};
use crate::call::given::given_of;
use crate::call::host::{self, ErrorRecord};
use crate::call::nif::Nif;
use crate::call::signature::Signature;
use crate::call::straight::Arguments;

/// The [`Nif`] that Python passes as a built-in's `self`.
///
/// # Safety
/// `this` is the object that `Nif::function` bound, and stays alive.
#[inline]
pub unsafe fn nif_of<'a>(this: *mut ffi::PyObject) -> &'a Nif {
    // SAFETY: the caller's promise; the caller of a built-in keeps its `self` alive.
    unsafe { Borrowed::from_ptr(Python::assume_attached(), this).cast_unchecked::<Nif>().get() }
}

/// Python's entry for functions without outputs, long waits or a thread of their own.
pub unsafe extern "C" fn straight_call(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as in `general_call`; the arguments were taken before the call is made.
    unsafe {
        let nif = nif_of(this);
        let objects = if count == 0 { &[] } else { std::slice::from_raw_parts(values, count as usize) };
        let mut arguments = Arguments::new();
        let is_plain = names.is_null() && objects.len() == nif.signature.params.len() && !nif.origin.needs_reload();
        if !is_plain || !arguments.take(objects, nif.mutable) {
            return general_call(this, values, count, names);
        }
        if nif.slot.is_next_timed() { timed_answer(nif, &arguments) } else { answer(nif, &arguments, false) }
    }
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
            return nif.conclude(|py| nif.finish(py, &outcome, error, tensor, Vec::new()));
        }
        nif.slot.succeed(outcome.time);
        match outcome.result.type_index {
            type_index::NONE => ffi::Py_NewRef(ffi::Py_None()),
            type_index::FLOAT => ffi::PyFloat_FromDouble(outcome.result.v.f),
            _ => nif.conclude(|py| to_python(py, &outcome.result, None, nif.unsigned, nif.origin.memory.get())),
        }
    }
}

/// Python's entry for every function and all arguments: `this` is the [`Nif`].
pub unsafe extern "C" fn general_call(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: Python calls with the GIL held, `this` is the object `function` bound, `values` has `count` objects and then
    // one for each of `names`.
    unsafe {
        let nif = nif_of(this);
        let given = given_of(values, count, names);
        nif.conclude(|py| nif.invoke(py, &given))
    }
}

/// The entry of a function in this process: the straight one, unless its calls may have outputs, last long or need a thread of their own.
pub fn direct_entry(signature: &Signature, flags: u32) -> ffi::PyCFunctionFastWithKeywords {
    let is_plain = signature.params.iter().all(|it| it.output.is_none())
        && !signature.returns_array()
        && flags & (flag::LONG | flag::POLLS_CANCEL | flag::THREAD_BOUND) == 0;
    if is_plain { straight_call } else { general_call }
}
