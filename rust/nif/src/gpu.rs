//! Arrays on a device: a function gets the number of one (a `u64`), and works on it by what its host offers.
#![allow(unsafe_code, reason = "calls the host's functions")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

use crate::abi::{DEVICE_CPU, DType, Device, Gpu, Tensor, dtype_code};
use crate::error::Error;
use crate::export;

/// An array on a device, for the running call.
#[derive(Clone, Copy, Debug)]
pub struct GpuArray {
    tensor: Tensor,
    gpu: &'static Gpu,
}

fn services() -> Result<&'static Gpu, Error> {
    let gpu = export::host().map_or(ptr::null(), |host| host.gpu);
    // SAFETY: null, or a table that lives as long as the host.
    unsafe { gpu.as_ref() }.ok_or_else(|| Error::Gpu("needs a host that offers a GPU".into()))
}

/// A code of the host's as an error: below 0 it is of the argument.
fn check(gpu: &Gpu, argument: &'static str, code: i32) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the host gives a C string, which stays until this thread's next failure.
    let text = unsafe { CStr::from_ptr((gpu.message)()) }.to_string_lossy().into_owned();
    Err(if code < 0 { Error::value(argument, text) } else { Error::Gpu(text.into()) })
}

impl GpuArray {
    fn find(argument: &'static str, number: u64, is_written: bool) -> Result<Self, Error> {
        let gpu = services()?;
        let mut tensor = MaybeUninit::uninit();
        // SAFETY: a place for a tensor, which the host fills when it returns 0.
        unsafe {
            check(gpu, argument, (gpu.tensor)(number, i32::from(is_written), tensor.as_mut_ptr()))?;
            Ok(Self { tensor: tensor.assume_init(), gpu })
        }
    }

    /// The array of a number, to be read. `argument` is the name of the parameter.
    ///
    /// # Errors
    ///
    /// When the number leads to none, or to one that was released.
    pub fn reading(argument: &'static str, number: u64) -> Result<Self, Error> {
        Self::find(argument, number, false)
    }

    /// The array of a number, to be written to.
    ///
    /// # Errors
    ///
    /// As of [`Self::reading`], and when it is read-only.
    pub fn writing(argument: &'static str, number: u64) -> Result<Self, Error> {
        Self::find(argument, number, true)
    }

    /// The size of every axis.
    #[must_use]
    pub fn shape(&self) -> &[i64] {
        match usize::try_from(self.tensor.ndim) {
            // SAFETY: the host keeps the shape for the call.
            Ok(rank @ 1..) => unsafe { std::slice::from_raw_parts(self.tensor.shape, rank) },
            _ => &[],
        }
    }

    /// How many bytes its elements have.
    #[must_use]
    pub fn len(&self) -> usize {
        let count: usize = self.shape().iter().map(|extent| usize::try_from(*extent).unwrap_or(0)).product();
        count * usize::from(self.tensor.dtype.bits / 8)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn dtype(&self) -> DType {
        self.tensor.dtype
    }

    /// Set all elements.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn fill(&self, value: f64) -> Result<(), Error> {
        // SAFETY: the host's own tensor.
        check(self.gpu, "value", unsafe { (self.gpu.fill)(&raw const self.tensor, value) })
    }

    /// Copy another array's bytes here.
    ///
    /// # Errors
    ///
    /// When it has another size; what the driver says.
    pub fn copy_from(&self, source: &Self) -> Result<(), Error> {
        if self.len() != source.len() {
            return Err(Error::value("target", format!("expected {} bytes, got {}", source.len(), self.len())));
        }
        // SAFETY: the host's own tensors.
        check(self.gpu, "target", unsafe { (self.gpu.copy)(&raw const self.tensor, &raw const source.tensor) })
    }

    /// The bytes, copied to the host; it waits for the device.
    ///
    /// # Errors
    ///
    /// No memory; what the driver says, also of work before this.
    pub fn to_host(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.len())?;
        bytes.resize(self.len(), 0_u8);
        let mut length = [i64::try_from(bytes.len()).unwrap_or(0)];
        let here = Tensor {
            data: bytes.as_mut_ptr().cast(),
            device: Device { r#type: DEVICE_CPU, id: 0 },
            ndim: 1,
            dtype: DType { code: dtype_code::UINT, bits: 8, lanes: 1 },
            shape: length.as_mut_ptr(),
            strides: ptr::null_mut(),
            byte_offset: 0,
        };
        // SAFETY: as many bytes on both sides.
        check(self.gpu, "x", unsafe { (self.gpu.copy)(&raw const here, &raw const self.tensor) })?;
        Ok(bytes)
    }
}

/// Start a kernel: see `nif_gpu.launch` in `nif_lab.h`.
///
/// # Errors
///
/// When a number leads nowhere; what the driver says.
pub fn launch(kernel: u64, shape: &[u32; 7], arguments: &[u8], places: &[u32]) -> Result<(), Error> {
    let gpu = services()?;
    let (size, count) = (arguments.len() as u64, places.len() as u64);
    // SAFETY: so many bytes and places; what the kernel does with them is its caller's affair.
    let code = unsafe { (gpu.launch)(kernel, shape.as_ptr(), arguments.as_ptr().cast(), size, places.as_ptr(), count) };
    check(gpu, "arguments", code)
}
