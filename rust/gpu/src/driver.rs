//! The driver: a table of its functions, looked up in `libcuda.so.1` or `libamdhip64.so` when a device is first asked for.
//!
//! HIP's functions are CUDA's with another prefix; the few that differ more have both names here. HIP was never run.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::lock;

/// An address on a device.
pub type Address = u64;
/// What the driver returns; 0 is success.
pub type Status = c_int;
/// Pointers to what only the driver knows.
pub type Opaque = *mut c_void;

/// Where memory is: `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    pub kind: c_int,
    pub id: c_int,
}

/// What memory is asked for: `CUmemAllocationProp`.
#[repr(C)]
pub struct Property {
    pub kind: c_int,
    pub handle_types: c_int,
    pub location: Location,
    pub windows: Opaque,
    pub flags: [u8; 8],
}

/// Who may do what: `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Access {
    pub location: Location,
    pub flags: c_int,
}

const _: () = assert!(size_of::<Property>() == 32 && size_of::<Access>() == 12);

/// Memory of a device, that stays where it is.
pub const PINNED: c_int = 1;
/// It can be exported as a file descriptor.
pub const DESCRIPTOR: c_int = 1;
pub const ON_DEVICE: c_int = 1;
pub const READ_WRITE: c_int = 3;
/// Words before and after a packed buffer of arguments, in `extra` of a launch.
pub const ARGUMENTS: usize = 1;
pub const ARGUMENTS_SIZE: usize = 2;

/// Which driver it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cuda,
    Hip,
}

impl Kind {
    /// `DLPack`'s number for devices of this driver.
    #[must_use]
    pub fn dlpack(self) -> i32 {
        match self {
            Self::Cuda => 2,
            Self::Hip => 10,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "CUDA",
            Self::Hip => "HIP",
        }
    }
}

/// Each function once: its field, its names in CUDA and in HIP, its arguments.
macro_rules! functions {
    ($($(#[$doc:meta])* $field:ident: $cuda:literal, $hip:literal, ($($argument:ty),*);)+) => {
        /// The driver's functions.
        #[derive(Clone, Copy)]
        pub struct Table {
            $($(#[$doc])* pub $field: unsafe extern "C" fn($($argument),*) -> Status,)+
        }

        impl Table {
            /// # Errors
            /// The name of the first function that the library lacks.
            fn find(library: &Library, kind: Kind) -> std::result::Result<Self, &'static str> {
                Ok(Self {
                    $($field: {
                        let name = match kind { Kind::Cuda => $cuda, Kind::Hip => $hip };
                        let found = library.symbol(name).ok_or(name)?;
                        // SAFETY: the driver's header gives the function this type.
                        unsafe { std::mem::transmute::<Opaque, unsafe extern "C" fn($($argument),*) -> Status>(found) }
                    },)+
                })
            }
        }
    };
}

functions! {
    init: "cuInit", "hipInit", (c_uint);
    version: "cuDriverGetVersion", "hipDriverGetVersion", (*mut c_int);
    error_name: "cuGetErrorName", "hipDrvGetErrorName", (Status, *mut *const c_char);
    device_count: "cuDeviceGetCount", "hipGetDeviceCount", (*mut c_int);
    device: "cuDeviceGet", "hipDeviceGet", (*mut c_int, c_int);
    device_name: "cuDeviceGetName", "hipDeviceGetName", (*mut c_char, c_int, c_int);
    device_memory: "cuDeviceTotalMem_v2", "hipDeviceTotalMem", (*mut usize, c_int);
    device_attribute: "cuDeviceGetAttribute", "hipDeviceGetAttribute", (*mut c_int, c_int, c_int);
    can_access: "cuDeviceCanAccessPeer", "hipDeviceCanAccessPeer", (*mut c_int, c_int, c_int);
    retain_context: "cuDevicePrimaryCtxRetain", "hipDevicePrimaryCtxRetain", (*mut Opaque, c_int);
    set_context: "cuCtxSetCurrent", "hipCtxSetCurrent", (Opaque);
    context: "cuCtxGetCurrent", "hipCtxGetCurrent", (*mut Opaque);
    enable_access: "cuCtxEnablePeerAccess", "hipCtxEnablePeerAccess", (Opaque, c_uint);
    memory_info: "cuMemGetInfo_v2", "hipMemGetInfo", (*mut usize, *mut usize);
    granularity: "cuMemGetAllocationGranularity", "hipMemGetAllocationGranularity", (*mut usize, *const Property, c_int);
    reserve: "cuMemAddressReserve", "hipMemAddressReserve", (*mut Address, usize, usize, Address, u64);
    free_addresses: "cuMemAddressFree", "hipMemAddressFree", (Address, usize);
    create: "cuMemCreate", "hipMemCreate", (*mut u64, usize, *const Property, u64);
    release: "cuMemRelease", "hipMemRelease", (u64);
    map: "cuMemMap", "hipMemMap", (Address, usize, usize, u64, u64);
    unmap: "cuMemUnmap", "hipMemUnmap", (Address, usize);
    set_access: "cuMemSetAccess", "hipMemSetAccess", (Address, usize, *const Access, usize);
    export: "cuMemExportToShareableHandle", "hipMemExportToShareableHandle", (Opaque, u64, c_int, u64);
    import: "cuMemImportFromShareableHandle", "hipMemImportFromShareableHandle", (*mut u64, Opaque, c_int);
    fill8: "cuMemsetD8Async", "hipMemsetD8Async", (Address, u8, usize, Opaque);
    fill16: "cuMemsetD16Async", "hipMemsetD16Async", (Address, u16, usize, Opaque);
    fill32: "cuMemsetD32Async", "hipMemsetD32Async", (Address, c_uint, usize, Opaque);
    to_device: "cuMemcpyHtoDAsync_v2", "hipMemcpyHtoDAsync", (Address, *const c_void, usize, Opaque);
    to_host: "cuMemcpyDtoHAsync_v2", "hipMemcpyDtoHAsync", (Opaque, Address, usize, Opaque);
    copy: "cuMemcpyDtoDAsync_v2", "hipMemcpyDtoDAsync", (Address, Address, usize, Opaque);
    synchronize_all: "cuCtxSynchronize", "hipDeviceSynchronize", ();
    synchronize: "cuStreamSynchronize", "hipStreamSynchronize", (Opaque);
    query: "cuStreamQuery", "hipStreamQuery", (Opaque);
    wait: "cuStreamWaitEvent", "hipStreamWaitEvent", (Opaque, Opaque, c_uint);
    create_event: "cuEventCreate", "hipEventCreateWithFlags", (*mut Opaque, c_uint);
    record: "cuEventRecord", "hipEventRecord", (Opaque, Opaque);
    destroy_event: "cuEventDestroy_v2", "hipEventDestroy", (Opaque);
    load_module: "cuModuleLoadData", "hipModuleLoadData", (*mut Opaque, *const c_void);
    unload_module: "cuModuleUnload", "hipModuleUnload", (Opaque);
    function: "cuModuleGetFunction", "hipModuleGetFunction", (*mut Opaque, Opaque, *const c_char);
    launch: "cuLaunchKernel", "hipModuleLaunchKernel",
        (Opaque, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Opaque, *mut Opaque, *mut Opaque);
    register: "cuMemHostRegister_v2", "hipHostRegister", (Opaque, usize, c_uint);
    unregister: "cuMemHostUnregister", "hipHostUnregister", (Opaque);
}

/// A library that stays open as long as the process: drivers can't be closed.
struct Library(Opaque);

impl Library {
    fn open(path: &str) -> std::result::Result<Self, String> {
        let name = CString::new(path).map_err(|_| "its path contains a NUL character".to_owned())?;
        // SAFETY: a C string. The driver's own constructors are trusted.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            return Ok(Self(handle));
        }
        // SAFETY: dlerror gives a C string, or null.
        let said = unsafe { libc::dlerror() };
        if said.is_null() {
            return Err("it can't be opened".into());
        }
        // SAFETY: as above.
        Err(unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned())
    }

    fn symbol(&self, name: &str) -> Option<Opaque> {
        let name = CString::new(name).ok()?;
        // SAFETY: an open library and a C string.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    }
}

/// The driver of this process.
pub struct Driver {
    pub table: Table,
    pub kind: Kind,
    /// What was opened.
    pub path: String,
    /// As the driver says it: 13000 is CUDA 13.0.
    pub version: i32,
    pub devices: i32,
    /// Of which process it is: a child by fork can't use it.
    forks: u32,
}

/// The driver that was opened; one that couldn't be opened is tried again.
static OPENED: Mutex<Option<&'static Driver>> = Mutex::new(None);

/// The variable that names another driver.
pub const VARIABLE: &str = "NIF_LAB_GPU_DRIVER";

const NO_DRIVER: &str = "install the driver of your NVIDIA card (its library is libcuda.so.1; for AMD ROCm's \
                         libamdhip64.so), or run on a machine that has one; all without a device works as before";

fn unavailable(reason: impl Into<String>, cure: &str) -> Error {
    Error::Unavailable { reason: reason.into(), cure: cure.into() }
}

/// Of a child by fork.
#[cold]
pub(crate) fn forked() -> Error {
    let reason = "this process was forked from one that uses a GPU, and drivers don't work after a fork";
    unavailable(reason, "start it by multiprocessing's \"spawn\" instead of \"fork\"")
}

impl Driver {
    /// The driver; it is opened if it wasn't.
    ///
    /// # Errors
    /// [`Error::Unavailable`], when there is none or it has no device.
    pub fn get() -> Result<&'static Self> {
        let mut opened = lock(&OPENED);
        if let Some(driver) = *opened {
            return if driver.forks == nif_memory::forks() { Ok(driver) } else { Err(forked()) };
        }
        let driver: &'static Self = Box::leak(Box::new(Self::open()?));
        *opened = Some(driver);
        Ok(driver)
    }

    fn open() -> Result<Self> {
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        let mut said = Vec::new();
        let candidates: &[&str] =
            if wanted.is_empty() { &["libcuda.so.1", "libamdhip64.so", "libamdhip64.so.6"] } else { &[&wanted] };
        for path in candidates {
            let library = match Library::open(path) {
                Ok(library) => library,
                Err(reason) => {
                    said.push(reason);
                    continue;
                }
            };
            let kind = if library.symbol("cuInit").is_some() { Kind::Cuda } else { Kind::Hip };
            let table = Table::find(&library, kind).map_err(|name| {
                unavailable(format!("the GPU driver {path} is too old: it has no function {name}"), "update the driver")
            })?;
            return Self::start(&table, kind, path);
        }
        Err(unavailable(format!("no GPU driver could be opened: {}", said.join("; ")), NO_DRIVER))
    }

    fn start(table: &Table, kind: Kind, path: &str) -> Result<Self> {
        let mut driver =
            Self { table: *table, kind, path: path.into(), version: 0, devices: 0, forks: nif_memory::forks() };
        // SAFETY: the functions of an open driver; the places are alive.
        unsafe {
            let status = (table.init)(0);
            if status != 0 {
                let reason =
                    format!("the GPU driver {path} can't start: it says {} ({status})", driver.name_of(status));
                let cure = "check that a device is there and that you may use it (nvidia-smi, ls -l /dev/nvidia*); in a container \
                            start it with access to the device";
                return Err(unavailable(reason, cure));
            }
            let (mut version, mut devices) = (0, 0);
            driver.check((table.version)(&raw mut version), "asking for the driver's version")?;
            driver.check((table.device_count)(&raw mut devices), "counting devices")?;
            (driver.version, driver.devices) = (version, devices);
        }
        if driver.devices == 0 {
            let cure = "check CUDA_VISIBLE_DEVICES, which can hide devices, and nvidia-smi";
            return Err(unavailable(format!("the GPU driver {path} has no device"), cure));
        }
        Ok(driver)
    }

    /// The driver's name for one of its codes.
    #[must_use]
    pub fn name_of(&self, status: Status) -> String {
        let mut name = std::ptr::null();
        // SAFETY: a place for a pointer to a constant C string.
        let known = unsafe { (self.table.error_name)(status, &raw mut name) } == 0 && !name.is_null();
        if !known {
            return "an unknown error".into();
        }
        // SAFETY: as above.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    /// An error of a status that isn't success.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn check(&self, status: Status, doing: &str) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(self.error(status, doing)) }
    }

    #[cold]
    fn error(&self, status: Status, doing: &str) -> Error {
        Error::Driver { code: status, name: self.name_of(status), doing: doing.into() }
    }
}
