//! The mapped files of this process, by address, so that a worker can map them too.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::arena::SegmentInfo;
use crate::fork::PerProcess;

/// Ids of files have this bit, those of segments don't.
const FILE: u64 = 1 << 63;

static FILES: PerProcess<Mutex<BTreeMap<usize, Entry>>> = PerProcess::new(Mutex::default);
static VERSION: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);

struct Entry {
    end: usize,
    id: u64,
    file: Arc<OwnedFd>,
}

fn files() -> MutexGuard<'static, BTreeMap<usize, Entry>> {
    FILES.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Note where a file is mapped, from its beginning on.
///
/// # Errors
///
/// When no descriptor is free.
pub fn enter(start: usize, size: usize, file: BorrowedFd<'_>) -> io::Result<()> {
    let file = Arc::new(file.try_clone_to_owned()?);
    let id = FILE | NEXT.fetch_add(1, Ordering::Relaxed);
    files().insert(start, Entry { end: start + size, id, file });
    VERSION.fetch_add(1, Ordering::Release);
    Ok(())
}

/// Note that it isn't mapped there any more.
pub fn leave(start: usize) {
    files().remove(&start);
    VERSION.fetch_add(1, Ordering::Release);
}

/// The file in which all of a range lies, and where in it the range begins.
#[must_use]
pub fn find(address: usize, size: usize) -> Option<(u64, u64)> {
    let files = files();
    let (start, entry) = files.range(..=address).next_back()?;
    let end = address.checked_add(size)?;
    (address < entry.end && end <= entry.end).then_some((entry.id, (address - start) as u64))
}

/// Another number whenever the files are others.
#[inline]
#[must_use]
pub fn version() -> u64 {
    VERSION.load(Ordering::Acquire)
}

/// All of them, as segments that another process can map.
#[must_use]
pub fn all() -> Vec<SegmentInfo> {
    let info =
        |(start, it): (&usize, &Entry)| SegmentInfo { id: it.id, file: Arc::clone(&it.file), size: it.end - start };
    files().iter().map(info).collect()
}
