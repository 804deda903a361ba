//! A piece of shared memory: one sealed memfd, mapped.
//!
//! It has no name, leaves nothing behind when the process dies, and can be handed to another process by its descriptor. A child
//! of fork sees a private copy of it.

use std::ffi::{CStr, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::fork;

/// A new file in memory, whose name shows in /proc; `exec` closes it.
///
/// # Errors
///
/// The system's: no descriptor is free.
pub fn memfd(name: &CStr, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // By number: C libraries before 2.27 have no name for it.
    // SAFETY: the name is a C string; the descriptor is owned from here on.
    unsafe {
        let fd = libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags | libc::MFD_CLOEXEC);
        let fd = libc::c_int::try_from(fd).unwrap_or(-1);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A sealed memfd and this process's mapping of it.
#[derive(Debug)]
pub struct SharedMap {
    address: NonNull<u8>,
    size: usize,
    file: Arc<OwnedFd>,
    /// Of which process it is; in a child of fork it is a private copy.
    forks: u32,
}

// SAFETY: the mapping belongs to the value until it is dropped, and may be used from any thread.
unsafe impl Send for SharedMap {}
// SAFETY: as above; it hands out nothing but its address.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Zero-filled memory of `size` bytes, for this user only. The name shows in /proc. The pages are taken when they are
    /// touched; where a cgroup or the machine has none left then, the kernel ends a process, as for any memory.
    ///
    /// # Errors
    ///
    /// The system's: no descriptor is free, or no address space.
    pub fn new(name: &CStr, size: usize) -> io::Result<Self> {
        let length = libc::off_t::try_from(size).map_err(io::Error::other)?;
        let file = memfd(name, libc::MFD_ALLOW_SEALING)?;
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
        let address = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        fork::enter(address.addr().get(), size, file.as_raw_fd());
        Ok(Self { address, size, file: Arc::new(file), forks: fork::current() })
    }

    #[inline]
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.address
    }

    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    #[must_use]
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// The same for longer than the mapping lives, without a descriptor more.
    #[must_use]
    pub fn keep_file(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.file)
    }

    /// Bytes that the system has given so far.
    #[must_use]
    pub fn committed(&self) -> usize {
        // SAFETY: all zeros is a valid value; the call fills it.
        let blocks = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(self.file.as_raw_fd(), &raw mut stat) < 0 { 0 } else { stat.st_blocks }
        };
        usize::try_from(blocks).unwrap_or(0) * 512
    }

    /// Give the pages of a range, whose ends lie between pages, back to the system; they read as zeros.
    #[must_use]
    pub fn punch(&self, offset: usize, size: usize) -> bool {
        if self.forks != fork::current() {
            return false; // the file is the parent's
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (Ok(offset), Ok(size)) = (libc::off_t::try_from(offset), libc::off_t::try_from(size)) else { return false };
        // SAFETY: a plain call on our own descriptor.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, size) == 0 }
    }

    /// Ask for huge pages; a kernel that has none for shared memory refuses, which does no harm.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: our own mapping.
        unsafe { libc::madvise(self.address.as_ptr().cast::<c_void>(), self.size, libc::MADV_HUGEPAGE) };
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        fork::leave(self.address.addr().get());
        // SAFETY: this mapping was made in `new`, and whoever used it kept the value alive.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.size) };
    }
}
