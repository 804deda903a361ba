//! The one door: every function of this crate that C calls is made here, or has its body in [`guard`].
//!
//! Python calls built-ins, NumPy calls allocators, callees call the host. What all of these need is easily forgotten in one of
//! them: no panic may leave (the process would abort); PyO3 must know that the thread is attached, or each `Py` that is dropped
//! inside is put into a list that only grows until something else enters PyO3. So nobody else makes a `Python` token of
//! nothing, and `tests/test_tidy.py` holds every `extern "C"` to it.
//!
//! A straight call makes no `Py` and gets no token: it goes through [`guard`] alone, which costs nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::ffi;
use pyo3::impl_::trampoline::{MethodDef, lenfunc};
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyClass, exceptions::PySystemError};

/// What Python passes to a built-in: the values, positional ones first, and a tuple of names for the rest (null when none).
pub struct Given<'a> {
    pub values: &'a [*mut ffi::PyObject],
    pub positional: usize,
    pub names: *mut ffi::PyObject,
}

impl Given<'_> {
    /// The same as Python's own: a tuple, and a dict of what has a name.
    pub fn to_python<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        // SAFETY: the caller of a built-in keeps its arguments alive.
        let object = |it: &*mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, *it) };
        let (positional, named) = self.values.split_at(self.positional);
        let keywords = PyDict::new(py);
        for (i, value) in named.iter().enumerate() {
            // SAFETY: `names` is a tuple with a str for each named value.
            let name = unsafe { Bound::from_borrowed_ptr(py, ffi::PyTuple_GET_ITEM(self.names, i as isize)) };
            keywords.set_item(name, object(value))?;
        }
        Ok((PyTuple::new(py, positional.iter().map(object))?, keywords))
    }

    /// Pass a tuple and a dict on as a built-in gets them.
    pub fn with<R, E: From<PyErr>>(
        py: Python<'_>,
        positional: &Bound<'_, PyTuple>,
        named: &Bound<'_, PyDict>,
        call: impl FnOnce(&Given<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let names = PyTuple::new(py, named.keys())?;
        let values: Vec<Bound<'_, PyAny>> = positional.iter().chain(named.values()).collect();
        let pointers: Vec<*mut ffi::PyObject> = values.iter().map(Bound::as_ptr).collect();
        let pointer = if names.is_empty() { std::ptr::null_mut() } else { names.as_ptr() };
        call(&Given { values: &pointers, positional: positional.len(), names: pointer })
    }
}

/// A built-in function over an object.
pub trait Builtin {
    /// The object that the built-in is bound to.
    type This: PyClass<Frozen = True> + Sync;

    /// A new reference, or null with an exception set.
    fn call(this: &Self::This, py: Python<'_>, given: &Given<'_>) -> *mut ffi::PyObject;
}

/// Python's entry of `B`.
///
/// # Safety
/// For Python alone: this thread is attached, `this` is the bound object, `values` has `count` objects and then one for each
/// of `names`.
pub unsafe extern "C" fn builtin<B: Builtin>(
    this: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe { enter(std::ptr::null_mut(), |py| B::call(bound(this), py, &given(values, count, names))) }
}

/// What a built-in is bound to.
///
/// # Safety
/// `this` is a `T`, and stays alive: the caller of a built-in keeps its `self`.
#[inline]
pub unsafe fn bound<'a, T: PyClass<Frozen = True> + Sync>(this: *mut ffi::PyObject) -> &'a T {
    // SAFETY: the caller's promise; only a frozen object's own fields are reached, for which no token is needed.
    unsafe { Borrowed::from_ptr(Python::assume_attached(), this).cast_unchecked::<T>().get() }
}

/// # Safety
/// `values` has `count` objects and then one for each of `names`, all alive.
unsafe fn given<'a>(values: *const *mut ffi::PyObject, count: ffi::Py_ssize_t, names: *mut ffi::PyObject) -> Given<'a> {
    // SAFETY: the caller's promise.
    unsafe {
        let named = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) as usize };
        let total = (count as usize).wrapping_add(named);
        let values = if total == 0 { &[] } else { std::slice::from_raw_parts(values, total) };
        Given { values, positional: count as usize, names }
    }
}

/// Python's method definition of a built-in. Whoever holds it keeps the texts alive.
pub fn method(
    name: &std::ffi::CStr,
    doc: &std::ffi::CStr,
    entry: ffi::PyCFunctionFastWithKeywords,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: entry },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}

/// Let no panic out: `broken` is what C gets in place of an answer. For bodies that need no Python.
#[inline]
pub fn guard<R>(broken: R, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(broken)
}

/// The same with Python: a panic is a `SystemError`, and objects that are dropped are gone.
///
/// # Safety
/// This thread is attached (holds the GIL, where there is one).
#[inline]
pub unsafe fn enter<R>(broken: R, body: impl FnOnce(Python<'_>) -> R) -> R {
    let mut visit = Visit { body: Some(body), result: None };
    // SAFETY: the caller's promise.
    unsafe { visit.go() };
    visit.result.unwrap_or(broken)
}

/// A body on its way through PyO3's trampoline: that counts this thread as attached, and drops what was put off.
///
/// The trampoline is what PyO3's own macros expand to, and the only way to its count that doesn't ask for the GIL first. It
/// isn't stable: Cargo.toml names one version.
struct Visit<F, R> {
    body: Option<F>,
    result: Option<R>,
}

impl<F: FnOnce(Python<'_>) -> R, R> MethodDef<lenfunc::Func> for Visit<F, R> {
    const METH: lenfunc::Func = Self::pay;
}

impl<F: FnOnce(Python<'_>) -> R, R> Visit<F, R> {
    /// # Safety
    /// As of `enter`.
    #[inline]
    unsafe fn go(&mut self) {
        // SAFETY: `lenfunc` only passes the pointer on, to `pay`; the caller's promise.
        unsafe { lenfunc::<Self>(std::ptr::from_mut(self).cast()) };
    }

    unsafe fn pay(py: Python<'_>, this: *mut ffi::PyObject) -> PyResult<ffi::Py_ssize_t> {
        // SAFETY: `enter` passed its own, which nobody else looks at meanwhile.
        let this = unsafe { &mut *this.cast::<Self>() };
        let Some(body) = this.body.take() else { return Ok(0) };
        this.result = catch_unwind(AssertUnwindSafe(|| body(py))).ok();
        if this.result.is_none() {
            return Err(PySystemError::new_err("the Lab's own core panicked; please report it"));
        }
        Ok(0)
    }
}
