//! Memory of the host that the driver has locked in place: copies from and to it are several times as fast.

use std::ffi::c_void;

use crate::device::Device;
use crate::error::Result;

/// Locked memory. It is let go when this is dropped.
pub struct Pinned {
    device: &'static Device,
    address: *mut c_void,
    forks: u32,
}

// SAFETY: the driver's functions may be called on any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Lock it.
    ///
    /// # Safety
    /// It stays there for as long as this lives.
    ///
    /// # Errors
    /// What the driver says, also when somebody else has locked it.
    pub unsafe fn new(device: &'static Device, address: *mut c_void, bytes: usize) -> Result<Self> {
        let _turn = device.turn()?;
        // SAFETY: the caller's promise.
        let status = unsafe { (device.driver.table.register)(address, bytes, 0) };
        device.driver.check(status, "locking memory of the host in place")?;
        Ok(Self { device, address, forks: nif_memory::forks() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.forks != nif_memory::forks() {
            return; // the parent's
        }
        // A device that failed lets go of nothing; the driver does when the process ends.
        let Ok(_turn) = self.device.turn() else { return };
        // SAFETY: it was locked.
        unsafe { (self.device.driver.table.unregister)(self.address) };
    }
}
