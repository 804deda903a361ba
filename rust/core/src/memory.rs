//! Blocks of shared memory that arrays live in.
//!
//! One block is one sealed memfd: it has no name, leaves nothing behind when the process dies, and can be handed to another
//! process by its descriptor.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use numpy::PY_ARRAY_API;
use numpy::npyffi::{NPY_ARRAY_WRITEABLE, PyArrayObject, npy_intp};
use pyo3::prelude::*;

use crate::python;

/// Start -> end of every live block: what an address is checked against.
static LIVE: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

/// A sealed memfd and this process's mapping of it.
pub struct SharedMap {
    address: *mut c_void,
    size: usize,
    file: OwnedFd,
}

// SAFETY: the mapping belongs to the value until it is dropped, and may be used from any thread.
unsafe impl Send for SharedMap {}
// SAFETY: as above; it hands out nothing but its address.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Zero-filled memory of `size` bytes, for this user only. The name shows in /proc.
    pub fn new(name: &CStr, size: usize) -> io::Result<Self> {
        let length = libc::off_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: the name is a C string; the descriptor is owned from here on.
        let file = unsafe {
            let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: plain calls on a descriptor that we own; every result is checked.
        let address = unsafe {
            if libc::fchmod(file.as_raw_fd(), 0o600) < 0
                || libc::ftruncate(file.as_raw_fd(), length) < 0
                || libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) < 0
            {
                return Err(io::Error::last_os_error());
            }
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, size, file })
    }

    #[inline]
    pub fn address(&self) -> *mut c_void {
        self.address
    }

    pub fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: this mapping was made in `new`, and whoever used it kept the value alive.
        unsafe { libc::munmap(self.address, self.size) };
    }
}

/// One block; the arrays over it keep it alive.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Block {
    map: SharedMap,
}

impl Block {
    /// Zero-filled memory of `size` bytes (at least one page is taken).
    pub fn new(size: usize) -> io::Result<Self> {
        let map = SharedMap::new(c"nif_lab", size.max(1))?;
        live().insert(map.address as usize, map.address as usize + map.size);
        Ok(Self { map })
    }

    pub fn address(&self) -> *mut c_void {
        self.map.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        live().remove(&(self.map.address as usize));
    }
}

/// Bytes in all live blocks, and how many blocks there are.
pub fn in_use() -> (u64, u64) {
    let live = live();
    (live.iter().map(|(start, end)| (end - start) as u64).sum(), live.len() as u64)
}

#[pymethods]
impl Block {
    /// Size in bytes.
    #[getter]
    fn size(&self) -> usize {
        self.map.size
    }

    /// The memfd behind the block; it stays the block's own.
    fn fileno(&self) -> c_int {
        self.map.file.as_raw_fd()
    }
}

fn live() -> std::sync::MutexGuard<'static, BTreeMap<usize, usize>> {
    LIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Does the range lie in one live block?
#[pyfunction]
pub fn in_shared_memory(address: usize, size: usize) -> bool {
    let end = address.saturating_add(size);
    live().range(..=address).next_back().is_some_and(|(_, block_end)| end <= *block_end && address < *block_end)
}

/// A writable, row-major NumPy array over a block.
pub fn array_over(py: Python<'_>, block: Block, type_num: c_int, shape: &[i64]) -> PyResult<Py<PyAny>> {
    let data = block.address();
    let owner = Py::new(py, block)?;
    let mut dims: Vec<npy_intp> = shape.iter().map(|n| *n as npy_intp).collect();
    // SAFETY: the block is large enough for the shape (whoever made it computed it from the same shape) and is kept alive
    // by the array, whose base it becomes; PyArray_SetBaseObject takes over the reference even when it fails.
    unsafe {
        let array = PY_ARRAY_API.PyArray_New(
            py,
            python::array_type(),
            dims.len() as c_int,
            dims.as_mut_ptr(),
            type_num,
            std::ptr::null_mut(),
            data,
            0,
            NPY_ARRAY_WRITEABLE,
            std::ptr::null_mut(),
        );
        let array = python::owned(py, array)?;
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast::<PyArrayObject>(), owner.into_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array)
    }
}
