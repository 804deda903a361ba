//! Kernels that are loaded on devices, by numbers: no address of one ever comes from outside.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Mutex, RwLock};

use crate::device::Device;
use crate::driver::{ARGUMENTS, ARGUMENTS_SIZE, Opaque};
use crate::error::{Error, Result};
use crate::lock;

/// A function of a module on a device.
#[derive(Clone, Copy)]
pub struct Kernel {
    pub device: &'static Device,
    function: Opaque,
}

// SAFETY: a function of the driver's, which any thread may start.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

struct Module(&'static Device, Opaque);

// SAFETY: as above.
unsafe impl Send for Module {}

static MODULES: Mutex<Vec<Module>> = Mutex::new(Vec::new());
static KERNELS: RwLock<Vec<Kernel>> = RwLock::new(Vec::new());

/// Load compiled code (cubin, PTX with a NUL at its end): its number. It stays as long as the process.
///
/// # Errors
/// What the driver says.
pub fn load(device: &'static Device, image: &[u8]) -> Result<usize> {
    let mut image = image.to_vec();
    image.push(0);
    let _turn = device.turn()?;
    let mut module = ptr::null_mut();
    // SAFETY: a place, and an image that says itself how long it is, or ends in NUL.
    let status = unsafe { (device.driver.table.load_module)(&raw mut module, image.as_ptr().cast::<c_void>()) };
    device.driver.check(status, "loading a module")?;
    let mut modules = lock(&MODULES);
    modules.push(Module(device, module));
    Ok(modules.len() - 1)
}

/// A function of a module: its number, from 1 on.
///
/// # Errors
/// What the driver says; a name that the module doesn't have.
pub fn find(module: usize, name: &str) -> Result<u64> {
    let (device, module) = lock(&MODULES).get(module).map(|it| (it.0, it.1)).ok_or(Error::Unknown)?;
    let spelled = CString::new(name).map_err(|_| Error::Unknown)?;
    let _turn = device.turn()?;
    let mut function = ptr::null_mut();
    // SAFETY: a place, a loaded module and a C string.
    let status = unsafe { (device.driver.table.function)(&raw mut function, module, spelled.as_ptr()) };
    device.driver.check(status, &format!("looking for the kernel {name}"))?;
    let mut kernels = KERNELS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    kernels.push(Kernel { device, function });
    Ok(kernels.len() as u64)
}

/// The kernel of a number.
#[must_use]
pub fn get(number: u64) -> Option<Kernel> {
    let index = usize::try_from(number.checked_sub(1)?).ok()?;
    KERNELS.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(index).copied()
}

/// How many threads run a kernel: blocks in three directions, threads of a block in three, and bytes that a block shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

impl Kernel {
    /// Start it, with its arguments packed one after the other as its parameters are.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and what they point to is there until it is done.
    ///
    /// # Errors
    /// What the driver says.
    pub unsafe fn launch(&self, shape: &Shape, arguments: &[u8]) -> Result<()> {
        let _turn = self.device.turn()?;
        let Shape { grid: [x, y, z], block: [i, j, k], shared } = *shape;
        let mut size = arguments.len();
        let mut extra: [Opaque; 5] = [
            ptr::without_provenance_mut(ARGUMENTS),
            arguments.as_ptr().cast_mut().cast(),
            ptr::without_provenance_mut(ARGUMENTS_SIZE),
            (&raw mut size).cast(),
            ptr::null_mut(),
        ];
        let (stream, no_list) = (ptr::null_mut(), ptr::null_mut());
        let extra = if size == 0 { ptr::null_mut() } else { extra.as_mut_ptr() };
        // SAFETY: the caller's promise; the list ends in null.
        let status = unsafe {
            (self.device.driver.table.launch)(self.function, x, y, z, i, j, k, shared, stream, no_list, extra)
        };
        self.device.driver.check(status, "starting a kernel")
    }
}
