//! Kernels that are loaded on devices, by numbers: no address of one ever comes from outside.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use crate::buffers::ASK;
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

struct Module {
    device: &'static Device,
    handle: Opaque,
    /// What it was loaded from: a worker loads the same.
    image: Arc<[u8]>,
}

// SAFETY: as above.
unsafe impl Send for Module {}

static MODULES: Mutex<Vec<Module>> = Mutex::new(Vec::new());
static KERNELS: LazyLock<RwLock<HashMap<u64, Known>>> = LazyLock::new(RwLock::default);

/// A kernel, and where it comes from.
struct Known {
    kernel: Kernel,
    module: usize,
    name: Arc<str>,
}

/// Where a kernel comes from, as another process is told of it.
pub struct Origin {
    pub device: i32,
    pub module: usize,
    pub image: Arc<[u8]>,
    pub name: Arc<str>,
}

/// Load compiled code (cubin, PTX with a NUL at its end): its number. It stays as long as the process.
///
/// # Errors
/// What the driver says.
pub fn load(device: &'static Device, image: &[u8]) -> Result<usize> {
    let kept: Arc<[u8]> = image.into();
    let mut image = image.to_vec();
    image.push(0);
    let _turn = device.turn()?;
    let mut module = ptr::null_mut();
    // SAFETY: a place, and an image that says itself how long it is, or ends in NUL.
    let status = unsafe { (device.driver.table.load_module)(&raw mut module, image.as_ptr().cast::<c_void>()) };
    device.driver.check(status, "loading a module")?;
    let mut modules = lock(&MODULES);
    modules.push(Module { device, handle: module, image: kept });
    Ok(modules.len() - 1)
}

/// A function of a module: its number, from 1 on.
///
/// # Errors
/// What the driver says; a name that the module doesn't have.
pub fn find(module: usize, name: &str) -> Result<u64> {
    let found = function(module, name)?;
    let mut kernels = KERNELS.write().unwrap_or_else(PoisonError::into_inner);
    let number = kernels.len() as u64 + 1;
    kernels.insert(number, found);
    Ok(number)
}

/// Let a number of the host's lead to a function of a module that was loaded here.
///
/// # Errors
/// As of [`find`].
pub fn adopt(number: u64, module: usize, name: &str) -> Result<()> {
    let found = function(module, name)?;
    KERNELS.write().unwrap_or_else(PoisonError::into_inner).insert(number, found);
    Ok(())
}

fn function(module: usize, name: &str) -> Result<Known> {
    let (device, handle) = lock(&MODULES).get(module).map(|it| (it.device, it.handle)).ok_or(Error::Unknown)?;
    let spelled = CString::new(name).map_err(|_| Error::Unknown)?;
    let _turn = device.turn()?;
    let mut function = ptr::null_mut();
    // SAFETY: a place, a loaded module and a C string.
    let status = unsafe { (device.driver.table.function)(&raw mut function, handle, spelled.as_ptr()) };
    device.driver.check(status, &format!("looking for the kernel {name}"))?;
    Ok(Known { kernel: Kernel { device, function }, module, name: name.into() })
}

/// The kernel of a number.
///
/// # Errors
/// [`Error::Unknown`]; what the host says, in a worker.
pub fn get(number: u64) -> Result<Kernel> {
    if let Some(kernel) = known(number) {
        return Ok(kernel);
    }
    (ASK.get().ok_or(Error::Unknown)?.kernel)(number)?;
    known(number).ok_or(Error::Unknown)
}

fn known(number: u64) -> Option<Kernel> {
    KERNELS.read().unwrap_or_else(PoisonError::into_inner).get(&number).map(|it| it.kernel)
}

/// Where the kernel of a number comes from.
///
/// # Errors
/// [`Error::Unknown`].
pub fn origin(number: u64) -> Result<Origin> {
    let kernels = KERNELS.read().unwrap_or_else(PoisonError::into_inner);
    let it = kernels.get(&number).ok_or(Error::Unknown)?;
    let image = lock(&MODULES).get(it.module).map(|module| Arc::clone(&module.image)).ok_or(Error::Unknown)?;
    Ok(Origin { device: it.kernel.device.id, module: it.module, image, name: Arc::clone(&it.name) })
}

/// Bit n: a kernel was started on device n since this was asked last. Those above 63 are counted as 63.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// The devices on which kernels were started since the last time.
#[must_use]
pub fn started() -> Vec<i32> {
    if STARTED.load(Ordering::Relaxed) == 0 {
        return Vec::new();
    }
    let bits = STARTED.swap(0, Ordering::Relaxed);
    (0..64).filter(|id| bits >> id & 1 != 0).collect()
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
        STARTED.fetch_or(1 << self.device.id.clamp(0, 63), Ordering::Relaxed);
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
