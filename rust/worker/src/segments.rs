//! A worker's view of the host's shared memory: all of it readable, and for the time of a call only that writable which the
//! call may write.
//!
//! So a wild write ends the worker instead of damaging what isn't its own, and so does a late one: of a thread that a function
//! started, into an array of a call that is over, whose memory may be somebody else's by now. The grain is a page: what shares
//! one with an array that is written isn't protected.

use std::ffi::c_void;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI8, Ordering};

use nif_memory::page;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};

struct Mapping {
    segment: u64,
    start: NonNull<u8>,
    size: usize,
}

/// What is mapped, and what of it is writable.
#[derive(Default)]
pub struct Segments {
    mappings: Vec<Mapping>,
    /// Page-aligned ranges of addresses that are writable.
    open: Vec<(usize, usize)>,
    /// Those that the next call may write.
    wanted: Vec<(usize, usize)>,
}

fn protect(range: (usize, usize), access: MprotectFlags) -> io::Result<()> {
    let (start, end) = range;
    // SAFETY: ranges are parts of our own mappings.
    Ok(unsafe { mprotect(std::ptr::with_exposed_provenance_mut::<c_void>(start), end - start, access) }?)
}

/// Has this process no other thread, and had none? The C library knows (glibc 2.32 and newer).
fn is_alone() -> bool {
    static ALONE: OnceLock<Option<&'static AtomicI8>> = OnceLock::new();
    let known = ALONE.get_or_init(|| {
        // SAFETY: a variable of the C library, which is there as long as the process and holds a `char`; null without one.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()).cast::<AtomicI8>().as_ref() }
    });
    known.is_some_and(|it| it.load(Ordering::Relaxed) != 0)
}

impl Segments {
    /// Map a segment.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn map(&mut self, segment: u64, size: usize, file: &OwnedFd) -> io::Result<()> {
        // SAFETY: a new mapping, at an address of the system's choice.
        let start = unsafe { mmap(null_mut(), size, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        self.mappings.push(Mapping { segment, start, size });
        Ok(())
    }

    /// Unmap a segment that is gone.
    pub fn unmap(&mut self, segment: u64) {
        let Some(index) = self.mappings.iter().position(|it| it.segment == segment) else { return };
        let Mapping { start, size, .. } = self.mappings.swap_remove(index);
        let start_address = start.as_ptr().expose_provenance();
        self.open.retain(|(from, _)| !(start_address..start_address + size).contains(from));
        // SAFETY: our own mapping; no call runs, so nobody uses it.
        let _ = unsafe { munmap(start.as_ptr().cast(), size) };
    }

    /// The address of an offset, if so many bytes lie there.
    pub fn find(&self, segment: u64, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        let mapping = self.mappings.iter().find(|it| it.segment == segment)?;
        let end = offset.checked_add(bytes)?;
        // SAFETY: inside the mapping.
        (end <= mapping.size as u64).then(|| unsafe { mapping.start.add(usize::try_from(offset).unwrap_or(0)) })
    }

    /// Let the next call write so many bytes from an address on.
    pub fn want(&mut self, start: NonNull<u8>, bytes: usize) {
        if bytes > 0 {
            let (start, page) = (start.as_ptr().expose_provenance(), page());
            self.wanted.push((start / page * page, (start + bytes).next_multiple_of(page)));
        }
    }

    /// Make writable what is wanted, and nothing else.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open_wanted(&mut self) -> io::Result<()> {
        if self.open != self.wanted {
            for range in &self.open {
                protect(*range, MprotectFlags::READ)?;
            }
            for range in &self.wanted {
                protect(*range, MprotectFlags::READ | MprotectFlags::WRITE)?;
            }
            std::mem::swap(&mut self.open, &mut self.wanted);
        }
        self.wanted.clear();
        Ok(())
    }

    /// The call is over: make nothing writable any more.
    ///
    /// It takes some 5 µs. Where no thread is that could write between two calls, the next call sees to it, which often
    /// writes to the same arrays again.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn close(&mut self) -> io::Result<()> {
        if !self.open.is_empty() && !is_alone() {
            for range in self.open.drain(..) {
                protect(range, MprotectFlags::READ)?;
            }
        }
        Ok(())
    }

    /// Make more writable, for a block that the running call has just got.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn open_more(&mut self, start: NonNull<u8>, bytes: usize) -> io::Result<()> {
        self.want(start, bytes);
        for range in self.wanted.drain(..) {
            protect(range, MprotectFlags::READ | MprotectFlags::WRITE)?;
            self.open.push(range);
        }
        Ok(())
    }
}
