//! Where a function is: in this process, behind a pointer that a reload changes, or in a worker.

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, Ordering};

use nif::abi::{Any, Call};

/// In place of a function that isn't in this process.
pub unsafe extern "C" fn elsewhere(_: *mut c_void, _: *const Any, _: i32, _: *mut Any) -> i32 {
    -1
}

/// The function in the library that is loaded now; a reload changes it under all who hold the NIF.
pub struct Target(AtomicPtr<()>);

impl Target {
    pub fn new(call: Call) -> Self {
        Self(AtomicPtr::new(call as *mut ()))
    }

    #[inline]
    pub fn get(&self) -> Call {
        // SAFETY: only `Nif::new` and `set` write the pointer, both from a `Call`.
        unsafe { std::mem::transmute::<*mut (), Call>(self.0.load(Ordering::Acquire)) }
    }

    /// Put another library's function of the same signature in place.
    pub fn set(&self, call: Call) {
        self.0.store(call as *mut (), Ordering::Release);
    }
}

/// Where a function runs.
#[derive(Clone, Copy)]
pub enum Place {
    /// In this process, at that address.
    Here(Call),
    /// In a worker, as its function of that number.
    InWorker(u32),
}
