//! Space on the disk for a mapped file, before anybody writes to it.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;

use crate::file::Reason;

/// A signal makes older kernels' tmpfs start over: in small steps, a timer that ticks can't stop it for good.
const STEP: u64 = 64 << 20;

/// Make sure that `size` bytes of a file of `length` can be written, and make it that long; on failure the file is as long as
/// before, and takes as much space.
pub(crate) fn reserve(file: &File, length: u64, size: u64) -> Result<(), Reason> {
    let holes = holes(file, length.min(size))?;
    let growth = size.saturating_sub(length);
    let missing = holes.iter().map(|hole| hole.end - hole.start).sum::<u64>() + growth;
    if growth > 0 {
        refuse_limited(size)?;
    }
    if missing > 0 {
        refuse_hopeless(file, missing)?;
    }
    let outcome = allocate(file, length, size);
    if outcome.is_err() {
        // The error is reported all the same.
        if growth > 0 {
            let _ = file.set_len(length);
        }
        for hole in &holes {
            give_back(file, hole);
        }
    }
    outcome
}

/// The ranges before `end` that take no space on the disk. A file system that can't tell says there are none.
fn holes(file: &File, end: u64) -> Result<Vec<Range<u64>>, Reason> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < end {
        let Some(start) = seek(file, at, libc::SEEK_HOLE)?.filter(|start| *start < end) else { break };
        at = seek(file, start, libc::SEEK_DATA)?.map_or(end, |data| data.min(end));
        found.push(start..at);
    }
    Ok(found)
}

/// Where the next hole or data begins; `None` after the last.
fn seek(file: &File, from: u64, whence: i32) -> Result<Option<u64>, Reason> {
    let from = libc::off_t::try_from(from).map_err(|_| Reason::TooLarge)?;
    // SAFETY: a plain call on a descriptor that is ours; nobody reads or writes at its position.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO | libc::EINVAL) => Ok(None),
        _ => Err(error.into()),
    }
}

/// Make a hole again of what was one and holds nothing still: another process may have written there.
fn give_back(file: &File, hole: &Range<u64>) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let mut at = hole.start;
    while let Ok(Some(start)) = seek(file, at, libc::SEEK_HOLE) {
        if start >= hole.end {
            break;
        }
        let end = seek(file, start, libc::SEEK_DATA).ok().flatten().map_or(hole.end, |data| data.min(hole.end));
        let range = (libc::off_t::try_from(start), libc::off_t::try_from(end - start));
        if let (Ok(start), Ok(size)) = range {
            // SAFETY: a plain call on a descriptor that is ours. Its failure leaves the space taken.
            unsafe { libc::fallocate(file.as_raw_fd(), mode, start, size) };
        }
        at = end;
    }
}

/// Refuse what exceeds the limit, where the kernel would send SIGXFSZ.
fn refuse_limited(size: u64) -> Result<(), Reason> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the struct, or fails and leaves it.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } == 0 && size > limit.rlim_cur {
        return Err(Reason::SizeLimit { limit: limit.rlim_cur });
    }
    Ok(())
}

/// Refuse what exceeds all free space, before other programs run short.
fn refuse_hopeless(file: &File, missing: u64) -> Result<(), Reason> {
    let mut room = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the struct is read only if the call filled it.
    let room = unsafe {
        if libc::fstatvfs(file.as_raw_fd(), room.as_mut_ptr()) < 0 {
            return Err(io::Error::last_os_error().into());
        }
        room.assume_init()
    };
    // A file system that says it has no blocks at all doesn't count them.
    if room.f_blocks > 0 && missing > room.f_bfree.saturating_mul(room.f_frsize) {
        return Err(Reason::NoSpace);
    }
    Ok(())
}

fn allocate(file: &File, length: u64, size: u64) -> Result<(), Reason> {
    let offset = |bytes: u64| libc::off_t::try_from(bytes).map_err(|_| Reason::TooLarge);
    let fd = file.as_raw_fd();
    let mut at = 0;
    while at < size {
        let step = STEP.min(size - at);
        // SAFETY: a plain call on a descriptor that is ours.
        if unsafe { libc::fallocate(fd, 0, offset(at)?, offset(step)?) } == 0 {
            at += step;
            continue;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP) if size > length => {
                // The C library then writes to each block; past the end of the file that overwrites nobody's data.
                // SAFETY: as above.
                return match unsafe { libc::posix_fallocate(fd, offset(length)?, offset(size - length)?) } {
                    0 => Ok(()),
                    number => Err(io::Error::from_raw_os_error(number).into()),
                };
            }
            Some(libc::EOPNOTSUPP) => return Ok(()),
            _ => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::file::unnamed;

    #[test]
    fn what_was_allocated_in_holes_is_given_back_and_data_is_not() {
        let file = unnamed(&std::env::temp_dir()).unwrap();
        let (end, at) = (8 << 20, [1 << 20, 3 << 20]);
        file.set_len(end).unwrap();
        file.write_all_at(b"before", at[0]).unwrap();
        let taken = file.metadata().unwrap().blocks();
        let found = holes(&file, end).unwrap();
        assert!(
            found.iter().all(|hole| !hole.contains(&at[0])) && found.iter().any(|hole| hole.contains(&at[1])),
            "{found:?}"
        );
        allocate(&file, end, end).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), end / 512);
        file.write_all_at(b"meanwhile", at[1]).unwrap(); // another process's
        for hole in &found {
            give_back(&file, hole);
        }
        let mut read = [[0; 9]; 2];
        for (read, at) in read.iter_mut().zip(at) {
            file.read_exact_at(read, at).unwrap();
        }
        assert_eq!(read, [*b"before\0\0\0", *b"meanwhile"]);
        assert!(file.metadata().unwrap().blocks() < taken + 1024, "two pages are left, or two large ones");
    }
}
