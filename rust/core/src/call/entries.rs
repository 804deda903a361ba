//! Where Python enters: the straight way for ordinary calls, and the general one.
#![allow(clippy::inline_always, reason = "on the path of every call")]

use nif::abi::{flag, type_index};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::foreign;
use crate::call::host::{self, ErrorRecord};
use crate::call::interrupt;
use crate::call::nif::Nif;
use crate::call::outcome::Outcome;
use crate::call::output;
use crate::call::results::{Results, to_python};
use crate::call::signature::{Kind, MAX_PARAMS, Param, Signature};
use crate::call::straight::{Arguments, kind};
use crate::python::door::{self, Builtin, Given, builtin};

/// Python's entry for functions without outputs, long waits or a thread of their own.
unsafe extern "C" fn straight_call(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as of `builtin`; the arguments were taken before the call is made.
    door::guard(std::ptr::null_mut(), || unsafe {
        let nif: &Nif = door::bound(this);
        let objects = if count == 0 { &[] } else { std::slice::from_raw_parts(values, count as usize) };
        let mut arguments = Arguments::<MAX_PARAMS>::new();
        let is_plain = names.is_null()
            && objects.len() == nif.signature.params.len()
            && !nif.origin.needs_reload()
            && !output::may_be_caught();
        if !is_plain || !arguments.take(objects, nif.mutable) {
            return unusual(this, values, count, names);
        }
        counted(nif, &arguments, objects)
    })
}

/// The same for the commonest parameters: `N` of them, of `KINDS`.
unsafe extern "C" fn kinds_call<const N: usize, const KINDS: u32>(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    door::guard(std::ptr::null_mut(), || unsafe {
        let nif: &Nif = door::bound(this);
        let mut arguments = Arguments::<N>::new();
        let is_plain = names.is_null() && count as usize == N && !nif.origin.needs_reload() && !output::may_be_caught();
        if !is_plain || !arguments.take_kinds::<KINDS>(values, nif.mutable) {
            return unusual(this, values, count, names);
        }
        counted(nif, &arguments, if N == 0 { &[] } else { std::slice::from_raw_parts(values, N) })
    })
}

/// Arguments that aren't ordinary: arrays of other libraries that are read where they lie, and all the rest.
#[cold]
unsafe fn unusual(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as of `builtin`.
    unsafe {
        let nif: &Nif = door::bound(this);
        let objects = if count == 0 { &[] } else { std::slice::from_raw_parts(values, count as usize) };
        let is_plain = names.is_null() && objects.len() == nif.signature.params.len() && !nif.origin.needs_reload();
        if is_plain && objects.iter().any(|it| foreign::is_known(*it)) {
            let mut arguments = Arguments::<MAX_PARAMS>::new();
            if arguments.peek(objects, nif.mutable) {
                return counted(nif, &arguments, objects);
            }
            let made = door::enter(Some(std::ptr::null_mut()), |py| {
                let mut held = Vec::with_capacity(objects.len());
                let mut arguments = Arguments::<MAX_PARAMS>::new();
                let is_taken = arguments.take_foreign(py, objects, nif.mutable, &mut held);
                if is_taken {
                    Some(counted(nif, &arguments, objects))
                } else {
                    PyErr::occurred(py).then_some(std::ptr::null_mut())
                }
            });
            if let Some(made) = made {
                return made;
            }
        }
        builtin::<General>(this, values, count, names)
    }
}

type Objects<'a> = &'a [*mut ffi::PyObject];

/// Call with arguments that were taken from `objects`, count it, and make Python's result.
///
/// # Safety
/// The GIL is held, and the objects are alive.
#[inline(always)]
unsafe fn counted<const N: usize>(nif: &Nif, arguments: &Arguments<N>, objects: Objects<'_>) -> *mut ffi::PyObject {
    // One look says that the call is counted, and not timed: `due` is never ahead where counting is switched off.
    // SAFETY: passed on.
    unsafe {
        if nif.slot.mine().is_plain() {
            answer::<N, true>(nif, arguments, objects)
        } else {
            looked_at(nif, arguments, objects)
        }
    }
}

/// A call that is timed, or not counted at all; out of the way of the others.
#[inline(never)]
unsafe fn looked_at<const N: usize>(nif: &Nif, arguments: &Arguments<N>, objects: Objects<'_>) -> *mut ffi::PyObject {
    // SAFETY: passed on.
    unsafe { answer::<N, false>(nif, arguments, objects) }
}

/// # Safety
/// As of `counted`.
#[inline(always)]
unsafe fn answer<const N: usize, const PLAIN: bool>(
    nif: &Nif,
    arguments: &Arguments<N>,
    objects: Objects<'_>,
) -> *mut ffi::PyObject {
    let _running = nif.origin.calls.begin_plain();
    let mut error = ErrorRecord::default();
    let mut outcome = Outcome::new();
    // SAFETY: the library isn't closed while a call runs; the type index says which field of the result counts.
    unsafe {
        let timed = !PLAIN && nif.slot.is_next_timed();
        let mut call = || arguments.call(nif.target.get(), objects.len(), &mut error, timed, &mut outcome);
        if PLAIN {
            call(); // quick, else it were timed: nobody interrupts it
        } else {
            interrupt::keeping(nif, call);
        }
        output::flush();
        if outcome.status != 0 || host::has_unclaimed() {
            let tensor = outcome.claim();
            return door::enter(std::ptr::null_mut(), |py| {
                nif.conclude(py, || {
                    nif.finish(py, &outcome, error, tensor, Results::default(), Vec::new()).or_else(|failure| {
                        let given = Given { values: objects, positional: objects.len(), names: std::ptr::null_mut() };
                        nif.adapt(py, &given, failure, &|given| nif.invoke(py, given))
                    })
                })
            });
        }
        if PLAIN {
            nif.slot.mine().count();
        } else {
            nif.slot.succeed(outcome.time);
        }
        match outcome.result.type_index {
            type_index::FLOAT => ffi::PyFloat_FromDouble(outcome.result.v.f),
            type_index::NONE => ffi::Py_NewRef(ffi::Py_None()),
            type_index::INT if nif.signature.kind != Kind::Unsigned => ffi::PyLong_FromLongLong(outcome.result.v.i),
            _ => door::enter(std::ptr::null_mut(), |py| {
                nif.conclude(py, || to_python(py, &outcome.result, None, nif.signature.kind, nif.origin.memory.get()))
            }),
        }
    }
}

/// Every function, and all arguments.
pub struct General;

impl Builtin for General {
    type This = Nif;

    fn call(nif: &Nif, py: Python<'_>, given: &Given<'_>) -> *mut ffi::PyObject {
        nif.conclude(py, || nif.adapted(py, given, |given| nif.invoke(py, given)))
    }
}

/// The entry of a function in this process: the straight one, unless its calls may have outputs, last long or need a thread of their own.
pub fn direct_entry(signature: &Signature, flags: u32) -> ffi::PyCFunctionFastWithKeywords {
    let is_plain = signature.is_plain() && flags & (flag::LONG | flag::POLLS_CANCEL | flag::THREAD_BOUND) == 0;
    if !is_plain {
        return builtin::<General>;
    }
    kinds_entry(&signature.params).unwrap_or(straight_call)
}

/// The entry made for parameters of these kinds, if there is one.
fn kinds_entry(params: &[Param]) -> Option<ffi::PyCFunctionFastWithKeywords> {
    macro_rules! table {
        ($n:literal: $($kinds:literal)*) => { [$(kinds_call::<$n, $kinds> as ffi::PyCFunctionFastWithKeywords),*] };
    }
    let kinds = params.iter().rev().fold(0, |kinds, it| kinds << kind::BITS | kind_of(it) as usize);
    match params.len() {
        0 => Some(kinds_call::<0, 0>),
        1 => table!(1: 0 1 2 3).get(kinds).copied(),
        2 => table!(2: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15).get(kinds).copied(),
        3 => {
            let table = table!(3: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
                32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63);
            table.get(kinds).copied()
        }
        _ => None,
    }
}

fn kind_of(param: &Param) -> u32 {
    let is_vector = param.spelled.strip_prefix("f64[").is_some_and(|rest| !rest.contains(','));
    match (is_vector, param.mutable) {
        (true, false) => kind::VECTOR,
        (true, true) => kind::MUTABLE_VECTOR,
        _ if param.spelled == "f64" => kind::FLOAT,
        _ => kind::ANY,
    }
}
