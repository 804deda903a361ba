//! What Python passes to a built-in.

use pyo3::ffi;

/// What Python passes to a built-in: the values, positional ones first, and a tuple of names for the rest (null when none).
pub struct Given<'a> {
    pub values: &'a [*mut ffi::PyObject],
    pub positional: usize,
    pub names: *mut ffi::PyObject,
}

/// The arguments as Python passes them to a built-in.
///
/// # Safety
/// `values` has `count` objects and then one for each of `names`, all alive.
pub unsafe fn given_of<'a>(
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> Given<'a> {
    // SAFETY: the caller's promise.
    unsafe {
        let named = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) as usize };
        let total = count as usize + named;
        let values = if total == 0 { &[] } else { std::slice::from_raw_parts(values, total) };
        Given { values, positional: count as usize, names }
    }
}
