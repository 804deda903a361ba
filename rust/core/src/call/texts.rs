//! Lists of texts, which cross as one run of bytes: of each text its size in bytes, a u64, then its UTF-8.

use std::borrow::Cow;

use nif::abi::error_kind;
use nif::texts;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyAnyMethods, PyByteArray, PyBytes, PyDict, PyMemoryView, PyString};

use crate::call::failure::{Failure, refuse};
use crate::call::nif::Nif;
use crate::python::door::Given;

impl Nif {
    /// A call's values, with the bytes of lists of texts in the place of these lists; `held` keeps the bytes.
    ///
    /// Walking through a list may run any Python code, so this comes before the first array is looked at.
    #[inline]
    pub fn packed<'a>(
        &self,
        py: Python<'_>,
        given: &Given<'a>,
        held: &mut Vec<Py<PyAny>>,
    ) -> Result<Cow<'a, [*mut ffi::PyObject]>, Failure> {
        if self.texts == 0 { Ok(Cow::Borrowed(given.values)) } else { self.pack(py, given, held) }
    }

    #[cold]
    fn pack<'a>(
        &self,
        py: Python<'_>,
        given: &Given<'a>,
        held: &mut Vec<Py<PyAny>>,
    ) -> Result<Cow<'a, [*mut ffi::PyObject]>, Failure> {
        let mut values = Cow::Borrowed(given.values);
        for (index, object) in given.values.iter().enumerate() {
            let place = if index < given.positional {
                index
            } else {
                // SAFETY: `names` is a tuple with a str for each named value.
                let name = unsafe {
                    Bound::from_borrowed_ptr(
                        py,
                        ffi::PyTuple_GET_ITEM(given.names, (index - given.positional) as isize),
                    )
                };
                let name = name.to_string();
                self.signature.params.iter().position(|it| it.name == name).unwrap_or(usize::MAX)
            };
            // SAFETY: the caller of a built-in keeps its arguments alive.
            let object = unsafe { Bound::from_borrowed_ptr(py, *object) };
            if place >= self.signature.params.len() || self.texts >> place & 1 == 0 || object.is_none() {
                continue;
            }
            let bytes = pack(&object, place, &self.signature.params[place].shown())?;
            values.to_mut()[index] = bytes.as_ptr();
            held.push(bytes);
        }
        Ok(values)
    }
}

/// The bytes of a list of texts, or of whatever else gives one text after the other.
fn pack(object: &Bound<'_, PyAny>, place: usize, expected: &str) -> Result<Py<PyAny>, Failure> {
    let wrong = |got: String| refuse(error_kind::TYPE_ERROR, place, format!("expected {expected}, got {got}"));
    let name = object.get_type().name()?.to_string();
    if object.is_instance_of::<PyString>() {
        return Err(wrong("str (put it into a list: [x])".into()));
    }
    if object.is_instance_of::<PyDict>() {
        return Err(wrong("dict (list(x) has its keys)".into()));
    }
    let is_bytes = object.is_instance_of::<PyBytes>()
        || object.is_instance_of::<PyByteArray>()
        || object.is_instance_of::<PyMemoryView>();
    let Some(items) = object.try_iter().ok().filter(|_| !is_bytes) else { return Err(wrong(name)) };
    let mut packed = Vec::new();
    for (number, item) in items.enumerate() {
        let item = item?;
        let Ok(text) = item.cast::<PyString>() else {
            let got = item.get_type().name()?;
            return Err(wrong(format!("{name} whose element {number} is of type {got} (list(map(str, x)))")));
        };
        texts::push(&mut packed, text.to_str()?);
    }
    Ok(PyBytes::new(object.py(), &packed).into_any().unbind())
}

/// The texts in a run of bytes; None where it isn't one.
pub fn unpacked(bytes: &[u8]) -> Option<Vec<&str>> {
    texts::Texts::new(bytes).map(|it| std::str::from_utf8(it?).ok()).collect()
}
