//! The ABI's values as Rust sees them: the one place that trusts a type index and follows a caller's pointer.
#![allow(unsafe_code, reason = "reads the caller's memory")]

use std::ffi::CStr;
use std::{fmt, slice};

use crate::abi::{Any, Bytes, Object, TVM_OBJECT_HEADER, Tensor, type_index};
use crate::element;

/// A value of the running call, with all it points to.
#[derive(Clone, Copy)]
pub struct Value<'a>(&'a Any);

impl<'a> Value<'a> {
    /// # Safety
    ///
    /// The value is valid for `'a`, and so is what it points to.
    #[inline]
    #[must_use]
    pub unsafe fn new(any: &'a Any) -> Self {
        Self(any)
    }

    #[inline]
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0.type_index == type_index::NONE
    }

    #[inline]
    #[must_use]
    pub fn int(self) -> Option<i64> {
        match self.0.type_index {
            // SAFETY: the type index says which field counts; so below.
            type_index::INT => Some(unsafe { self.0.v.i }),
            _ => None,
        }
    }

    #[inline]
    #[must_use]
    pub fn bool(self) -> Option<bool> {
        match self.0.type_index {
            // SAFETY: as above.
            type_index::BOOL => Some(unsafe { self.0.v.i } != 0),
            _ => None,
        }
    }

    #[inline]
    #[must_use]
    pub fn float(self) -> Option<f64> {
        match self.0.type_index {
            // SAFETY: as above.
            type_index::FLOAT => Some(unsafe { self.0.v.f }),
            _ => None,
        }
    }

    #[inline]
    #[must_use]
    pub fn tensor(self) -> Option<TensorView<'a>> {
        // SAFETY: `p` leads to a tensor, or to an object that holds one.
        unsafe {
            match self.0.type_index {
                type_index::TENSOR => Some(TensorView(&*self.0.v.p.cast())),
                type_index::TVM_TENSOR => Some(TensorView(&*self.object())),
                _ => None,
            }
        }
    }

    /// A string, not yet known to be UTF-8.
    #[must_use]
    pub fn text(self) -> Option<&'a [u8]> {
        // SAFETY: `p` leads to text that ends in NUL, or to an object that holds a record.
        unsafe {
            match self.0.type_index {
                type_index::STR => Some(CStr::from_ptr(self.0.v.p.cast()).to_bytes()),
                type_index::TVM_STR => Some(run(self.object())),
                type_index::TVM_SMALL_STR => Some(self.small()),
                _ => None,
            }
        }
    }

    #[must_use]
    pub fn bytes(self) -> Option<&'a [u8]> {
        // SAFETY: `p` leads to a record, or to an object that holds one.
        unsafe {
            match self.0.type_index {
                type_index::BYTES => Some(run(self.0.v.p.cast())),
                type_index::TVM_BYTES => Some(run(self.object())),
                type_index::TVM_SMALL_BYTES => Some(self.small()),
                _ => None,
            }
        }
    }

    /// A function of the caller's.
    #[must_use]
    pub fn function(self) -> Option<*const Object> {
        // SAFETY: the type index says which field counts.
        (self.0.type_index == type_index::TVM_FUNCTION).then(|| unsafe { self.0.v.p }.cast_const().cast())
    }

    /// What a TVM object holds.
    ///
    /// # Safety
    ///
    /// The value is an object, and it holds a `T`.
    unsafe fn object<T>(self) -> *const T {
        // SAFETY: as above.
        unsafe { self.0.v.p.byte_add(TVM_OBJECT_HEADER).cast() }
    }

    /// # Safety
    ///
    /// The value is a small string or small bytes.
    unsafe fn small(self) -> &'a [u8] {
        // SAFETY: as above.
        let bytes = unsafe { &self.0.v.small };
        &bytes[..bytes.len().min(self.0.zero as usize)]
    }
}

/// # Safety
///
/// The record and its bytes are valid for `'a`; for no bytes the pointer may be null.
unsafe fn run<'a>(bytes: *const Bytes) -> &'a [u8] {
    // SAFETY: as above.
    unsafe {
        match *bytes {
            Bytes { size: 0, .. } => &[],
            Bytes { data, size } => slice::from_raw_parts(data.cast(), size),
        }
    }
}

/// `G` of docs/abi.md: what came, in a few characters.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tensor) = self.tensor() {
            return write!(f, "{}[{}]", element::spell(tensor.header().dtype), spell_list(tensor.shape()));
        }
        f.write_str(match self.0.type_index {
            type_index::NONE => "None",
            type_index::INT => "i64",
            type_index::BOOL => "bool",
            type_index::FLOAT => "f64",
            type_index::DTYPE => "dtype",
            type_index::DEVICE => "device",
            type_index::STR | type_index::TVM_STR | type_index::TVM_SMALL_STR => "str",
            type_index::BYTES | type_index::TVM_BYTES | type_index::TVM_SMALL_BYTES => "bytes",
            _ => "object",
        })
    }
}

pub(crate) fn spell_list(numbers: &[i64]) -> String {
    numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// A tensor of the running call. Its elements are not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a>(&'a Tensor);

impl<'a> TensorView<'a> {
    /// The tensor without its pointers' promises.
    #[inline]
    pub(crate) fn header(self) -> &'a Tensor {
        self.0
    }

    #[inline]
    pub(crate) fn shape(self) -> &'a [i64] {
        match usize::try_from(self.0.ndim) {
            // SAFETY: `shape` holds a number for each axis.
            Ok(rank @ 1..) => unsafe { slice::from_raw_parts(self.0.shape, rank) },
            _ => &[],
        }
    }

    /// None for a row-major tensor that doesn't give any.
    #[inline]
    pub(crate) fn strides(self) -> Option<&'a [i64]> {
        if self.0.strides.is_null() {
            return None;
        }
        // SAFETY: `strides` holds a number for each axis.
        Some(unsafe { slice::from_raw_parts(self.0.strides, self.shape().len()) })
    }

    /// The number of elements.
    pub(crate) fn count(self) -> usize {
        self.shape().iter().map(|extent| usize::try_from(*extent).unwrap_or(0)).product()
    }

    #[inline]
    pub(crate) fn is_contiguous(self) -> bool {
        let Some(strides) = self.strides() else { return true };
        let mut expected = 1;
        let fits = |(extent, stride): (&i64, &i64)| {
            let fits = *extent == 1 || *stride == expected;
            expected *= extent;
            fits
        };
        self.shape().iter().zip(strides).rev().all(fits) || self.count() == 0
    }
}
