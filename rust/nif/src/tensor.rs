//! Arrays that a NIF returns: memory from the host.
#![allow(unsafe_code, reason = "writes the host's memory")]

use std::ptr::NonNull;
use std::slice;

use crate::abi::{self, DType};
use crate::args::AnyArray;
use crate::element::Element;
use crate::error::Error;
use crate::export;

/// A row-major tensor of the host, to be returned by the running call. (The host frees what isn't returned.)
#[derive(Debug)]
pub struct Tensor {
    raw: NonNull<abi::Tensor>,
    size: usize,
}

impl Tensor {
    /// Zeros of a given shape.
    ///
    /// # Errors
    ///
    /// When there is no host to allocate, no memory, or no such shape.
    pub fn zeros<T: Element>(shape: &[i64]) -> Result<Self, Error> {
        let mut zeros = Self::allocate(T::DTYPE, shape)?;
        zeros.bytes_mut().fill(0);
        Ok(zeros)
    }

    /// Bytes of any value, one axis.
    ///
    /// # Errors
    ///
    /// When there is no host to allocate, or no memory.
    pub fn bytes(count: i64) -> Result<Self, Error> {
        Self::allocate(u8::DTYPE, &[count])
    }

    /// A copy of `x`.
    ///
    /// # Errors
    ///
    /// When there is no host to allocate, or no memory.
    pub fn copy_of(x: &AnyArray<'_>) -> Result<Self, Error> {
        let mut copy = Self::allocate(x.dtype(), &x.shape())?;
        copy.bytes_mut().copy_from_slice(x.bytes());
        Ok(copy)
    }

    /// A copy of the elements whose bytes these are; the shape has as many.
    pub(crate) fn of_bytes(dtype: DType, shape: &[i64], bytes: &[u8]) -> Result<Self, Error> {
        let mut made = Self::allocate(dtype, shape)?;
        made.bytes_mut().copy_from_slice(bytes);
        Ok(made)
    }

    fn allocate(dtype: DType, shape: &[i64]) -> Result<Self, Error> {
        let item = usize::from(dtype.bits / 8);
        let mut extents = shape.iter().map(|extent| usize::try_from(*extent).ok());
        let size = extents.try_fold(item, |size, extent| size.checked_mul(extent?));
        let size = size.ok_or_else(|| Error::Memory(format!("no memory for shape {shape:?}").into()))?;
        let rank = i32::try_from(shape.len()).map_err(|_| Error::Memory("too many axes".into()))?;
        let host = export::host().ok_or_else(|| Error::Memory("needs a host to allocate".into()))?;
        // SAFETY: the host outlives the library, and `shape` has `rank` numbers.
        let raw = unsafe { (host.alloc_tensor)(dtype, rank, shape.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| Error::Memory("out of memory".into()))?;
        Ok(Self { raw, size })
    }

    /// The elements as bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if self.size == 0 {
            return &mut [];
        }
        // SAFETY: the host gave `size` bytes to this call alone.
        unsafe {
            let tensor = self.raw.as_ref();
            #[allow(clippy::cast_possible_truncation, reason = "an offset within this address space")]
            let data = tensor.data.cast::<u8>().add(tensor.byte_offset as usize);
            slice::from_raw_parts_mut(data, self.size)
        }
    }

    /// The elements, if they are of type `T`.
    pub fn elements_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        // SAFETY: a valid tensor of this call.
        if unsafe { self.raw.as_ref() }.dtype != T::DTYPE {
            return None;
        }
        // SAFETY: the elements are zeros or copies of some `T`, or bytes, of which every value is valid.
        let (before, elements, after) = unsafe { self.bytes_mut().align_to_mut() };
        (before.is_empty() && after.is_empty()).then_some(elements)
    }

    /// Gives the tensor to the caller.
    pub(crate) fn into_raw(self) -> NonNull<abi::Tensor> {
        self.raw
    }
}
