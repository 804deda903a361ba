//! Files mapped into memory: named ones, and temporary ones that have no name at all.
//!
//! The space of a file that may be written is reserved before anybody can write: a full disk, a quota or a limit is an error
//! of `create` and `open`, not a SIGBUS in the middle of a computation. What nobody can rule out: another program that cuts
//! the file shorter, a failing disk, a file system that copies on each write (btrfs, ZFS) and is full by then, and holes in
//! an existing file where the file system can't reserve (NFS before 4.2).
//!
//! Pages are read and written when they are touched, so a file may be larger than memory; it may not be on tmpfs, where
//! /tmp sometimes lies and which is memory itself (`TMPDIR` chooses another place for temporary files).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use crate::reserve::reserve;

/// What may be done through a mapping; the processor enforces it, and whoever breaks it gets SIGSEGV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No one can make the mapping writable afterwards either: its descriptor isn't.
    ReadOnly,
    /// Most processors (x86, Arm) can't forbid reading what may be written, so reads of the raw address succeed there.
    /// The file itself must be readable, too: a mapping needs that.
    WriteOnly,
    ReadWrite,
}

/// How a mapping is going to be used; the kernel reads ahead accordingly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// As before any advice.
    Normal,
    Sequential,
    Random,
    /// Soon: start reading now.
    WillNeed,
    /// Not soon: this process lets go of the pages. What was written isn't lost.
    DontNeed,
}

/// Why a file can't be mapped.
#[derive(Debug)]
pub enum Reason {
    Empty,
    Exists,
    Missing,
    Symlink,
    NotRegular,
    Denied,
    /// A file opened for reading can't grow to the size asked for.
    PastEnd {
        length: u64,
    },
    NoSpace,
    Quota,
    /// `RLIMIT_FSIZE`.
    SizeLimit {
        limit: u64,
    },
    TooLarge,
    NoMemory,
    NoDescriptors,
    Other(io::Error),
}

impl Reason {
    /// What helps.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Empty => "give a size of at least 1 byte",
            Self::Exists => "open it, or choose another name",
            Self::Missing => "check the path, or create it first",
            Self::Symlink => "give the path that it leads to",
            Self::NotRegular => "give the path of an ordinary file",
            Self::Denied => {
                "check its permissions (a mapping for writing needs the right to read, too) and its directory's"
            }
            Self::PastEnd { .. } => "ask for fewer, or open it for writing, which extends it",
            Self::NoSpace => "free some, ask for less, or choose another directory (TMPDIR for temporary files)",
            Self::Quota => "free some, ask for less, or have the quota raised",
            Self::SizeLimit { .. } => "ask for less, or raise the limit (ulimit -f)",
            Self::TooLarge => "ask for less, or choose another file system",
            Self::NoMemory => "close other mappings, or raise the limits (ulimit -v, vm.max_map_count)",
            Self::NoDescriptors => "close other files, or raise the limit (ulimit -n)",
            Self::Other(_) => "try another file, or another file system",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "nothing to map",
            Self::Exists => "the file exists",
            Self::Missing => "no such file or directory",
            Self::Symlink => "a symbolic link, and links aren't followed",
            Self::NotRegular => "not an ordinary file",
            Self::Denied => "permission denied",
            Self::PastEnd { length } => return write!(f, "the file ends after {length} bytes"),
            Self::NoSpace => "not enough space on the file system",
            Self::Quota => "the disk quota is used up",
            Self::SizeLimit { limit } => return write!(f, "this process may make files of {limit} bytes at most"),
            Self::TooLarge => "a file can't be that large here",
            Self::NoMemory => "no room left in this process's memory",
            Self::NoDescriptors => "no file descriptors left",
            Self::Other(error) => return error.fmt(f),
        })
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EEXIST) => Self::Exists,
            Some(libc::ENOENT | libc::ENOTDIR) => Self::Missing,
            Some(libc::ELOOP) => Self::Symlink,
            Some(libc::EISDIR | libc::ENXIO) => Self::NotRegular,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Self::Denied,
            Some(libc::ENOSPC) => Self::NoSpace,
            Some(libc::EDQUOT) => Self::Quota,
            Some(libc::EFBIG | libc::EOVERFLOW) => Self::TooLarge,
            Some(libc::ENOMEM) => Self::NoMemory,
            Some(libc::EMFILE | libc::ENFILE) => Self::NoDescriptors,
            _ => Self::Other(error),
        }
    }
}

/// What went wrong, and with which file. Of a temporary file `path` is the directory.
#[derive(Debug)]
pub struct FileError {
    pub path: PathBuf,
    pub reason: Reason,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path.display(), self.reason, self.reason.cure())
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Other(error) => Some(error),
            _ => None,
        }
    }
}

/// Mapped pages; they go with the value.
#[derive(Debug)]
struct Mapping {
    address: NonNull<u8>,
    size: usize,
}

impl Mapping {
    fn new(file: &File, size: u64, access: Access) -> Result<Self, Reason> {
        let size = usize::try_from(size).map_err(|_| Reason::TooLarge)?;
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::WriteOnly => libc::PROT_WRITE,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a new mapping at a place that the kernel chooses.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        Ok(Self { address: NonNull::new(address.cast()).ok_or(Reason::NoMemory)?, size })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new`, and whoever used it kept the value alive.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.size) };
    }
}

/// A file in memory, shared with every process that maps it, too. The mapping goes when the value is dropped; of a temporary
/// file nothing is left then, even if the process is killed.
#[derive(Debug)]
pub struct MappedFile {
    mapping: Mapping,
    file: File,
    access: Access,
    path: PathBuf,
    is_temporary: bool,
}

// SAFETY: the mapping belongs to the value until it is dropped, and may be used from any thread.
unsafe impl Send for MappedFile {}
// SAFETY: as above; it hands out nothing but its address.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// A new file of zeros, for this user only: at `path`, where nothing may be yet, or a temporary one in the system's
    /// directory for these.
    ///
    /// # Errors
    /// Nothing is left behind of a file that can't be made whole.
    pub fn create(path: Option<&Path>, size: u64, access: Access) -> Result<Self, FileError> {
        let Some(path) = path else { return Self::create_in(&std::env::temp_dir(), size, access) };
        let attempt = || {
            refuse_empty(size)?;
            let file = private().create_new(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
            fill(file, size, access).inspect_err(|_| drop(fs::remove_file(path)))
        };
        Self::finish(path, false, access, attempt())
    }

    /// A temporary file of zeros in the directory that you name.
    ///
    /// # Errors
    /// As `create`.
    pub fn create_in(directory: &Path, size: u64, access: Access) -> Result<Self, FileError> {
        let attempt = || {
            refuse_empty(size)?;
            fill(unnamed(directory)?, size, access)
        };
        Self::finish(directory, true, access, attempt())
    }

    /// The first `size` bytes of an existing file, or all of it. Opened for writing, a file that is shorter is extended.
    ///
    /// # Errors
    /// The file is as long afterwards as it was.
    pub fn open(path: &Path, size: Option<u64>, access: Access) -> Result<Self, FileError> {
        let attempt = || {
            let writes = access != Access::ReadOnly;
            // Don't wait for a FIFO's other end, and don't acquire a terminal, before it is known what the file is.
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
            let file = OpenOptions::new().read(true).write(writes).custom_flags(flags).open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(Reason::NotRegular);
            }
            let length = metadata.len();
            let size = size.unwrap_or(length);
            refuse_empty(size)?;
            if !writes && size > length {
                return Err(Reason::PastEnd { length });
            }
            // Mapped first: if that fails, the file is as it was.
            let mapping = Mapping::new(&file, size, access)?;
            if writes {
                reserve(&file, length, size)?;
            }
            Ok((mapping, file))
        };
        Self::finish(path, false, access, attempt())
    }

    /// All of a file that another process has handed over by its descriptor. It has to be one that can't be cut shorter.
    ///
    /// # Errors
    /// It is empty, or there is no room for it.
    pub fn received(file: File, access: Access) -> Result<Self, FileError> {
        let attempt = || {
            let size = file.metadata()?.len();
            refuse_empty(size)?;
            Ok((Mapping::new(&file, size, access)?, file))
        };
        Self::finish(Path::new("memory of another process"), true, access, attempt())
    }

    fn finish(
        path: &Path,
        is_temporary: bool,
        access: Access,
        attempt: Result<(Mapping, File), Reason>,
    ) -> Result<Self, FileError> {
        let path = path.to_path_buf();
        match attempt {
            Ok((mapping, file)) => Ok(Self { mapping, file, access, path, is_temporary }),
            Err(reason) => Err(FileError { path, reason }),
        }
    }

    /// Where the file begins in memory. Of `ReadOnly` and `WriteOnly`, hand out only what they allow.
    #[inline]
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.mapping.address
    }

    /// Size of the mapping in bytes; the file itself may be longer.
    #[inline]
    #[must_use]
    pub fn size(&self) -> usize {
        self.mapping.size
    }

    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Under which path the file was made or opened; a temporary one has none.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        (!self.is_temporary).then_some(&self.path)
    }

    /// The descriptor, with which another process maps the same file; it stays the value's own.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Wait until everything written so far is on the disk.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync(&self) -> Result<(), FileError> {
        // SAFETY: the range is our own mapping.
        self.check(unsafe { libc::msync(self.address().as_ptr().cast(), self.size(), libc::MS_SYNC) })
    }

    /// Tell the kernel how the mapping is going to be used.
    ///
    /// # Errors
    /// The kernel couldn't follow it; the mapping works as before.
    pub fn advise(&self, advice: Advice) -> Result<(), FileError> {
        let advice = match advice {
            Advice::Normal => libc::MADV_NORMAL,
            Advice::Sequential => libc::MADV_SEQUENTIAL,
            Advice::Random => libc::MADV_RANDOM,
            Advice::WillNeed => libc::MADV_WILLNEED,
            Advice::DontNeed => libc::MADV_DONTNEED,
        };
        // SAFETY: the range is our own mapping; a shared one loses nothing that was written, whatever the advice.
        self.check(unsafe { libc::madvise(self.address().as_ptr().cast(), self.size(), advice) })
    }

    fn check(&self, status: i32) -> Result<(), FileError> {
        if status == 0 {
            return Ok(());
        }
        Err(self.failed(io::Error::last_os_error()))
    }

    /// What the system refused, with this file's name.
    #[must_use]
    pub fn failed(&self, error: io::Error) -> FileError {
        FileError { path: self.path.clone(), reason: error.into() }
    }
}

fn refuse_empty(size: u64) -> Result<(), Reason> {
    if size == 0 { Err(Reason::Empty) } else { Ok(()) }
}

/// How new files are opened: mappings for writing need the right to read, too.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Reserve a new file's space and map it.
fn fill(file: File, size: u64, access: Access) -> Result<(Mapping, File), Reason> {
    reserve(&file, 0, size)?;
    let file = match access {
        // Whoever is handed this descriptor can read and no more.
        Access::ReadOnly => File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?,
        Access::WriteOnly | Access::ReadWrite => file,
    };
    Ok((Mapping::new(&file, size, access)?, file))
}

/// A file that never had a name, where the file system can do that (NFS can't).
pub(crate) fn unnamed(directory: &Path) -> io::Result<File> {
    // O_EXCL: nobody can give it a name later.
    match private().custom_flags(libc::O_TMPFILE | libc::O_EXCL).open(directory) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => unlinked(directory),
        outcome => outcome,
    }
}

/// A file that had a name for a moment, which nobody can foresee.
fn unlinked(directory: &Path) -> io::Result<File> {
    loop {
        let number = RandomState::new().build_hasher().finish();
        let path = directory.join(format!(".nif_lab-{number:016x}"));
        match private().create_new(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => return fs::remove_file(&path).map(|()| file),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn without_o_tmpfile_the_name_is_gone_at_once() {
        let directory = std::env::temp_dir().join(format!("nif_lab-unlinked-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let file = unlinked(&directory).unwrap();
        let left = fs::read_dir(&directory).unwrap().count();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(left, 0);
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (0, 0o600));
    }
}
