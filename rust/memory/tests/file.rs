//! Mapped files: what is reserved, what is refused, what is left behind (nothing).
//!
//! Whatever changes the process, or ends it, happens in a child. The tests of a full disk mount a small tmpfs in a namespace of
//! the child's own, which takes root or user namespaces.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nif_memory::file::{Access, Advice, FileError, MappedFile, Reason};

const ALL: [Access; 3] = [Access::ReadOnly, Access::WriteOnly, Access::ReadWrite];

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nif_lab-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn assert_empty(&self) {
        assert_eq!(names(&self.0), Vec::<PathBuf>::new());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
}

/// Run in a child; the signal that ended it, or 0.
fn signal_of(child: impl FnOnce()) -> i32 {
    // SAFETY: the child runs the closure and leaves at once; glibc lets it allocate.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let outcome = catch_unwind(AssertUnwindSafe(child));
        // SAFETY: neither destructors nor the tests' own threads are the child's business.
        unsafe { libc::_exit(i32::from(outcome.is_err())) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    if libc::WIFSIGNALED(status) {
        return libc::WTERMSIG(status);
    }
    assert_eq!(libc::WEXITSTATUS(status), 0, "the child's assertions failed (see above)");
    0
}

fn in_child(child: impl FnOnce()) {
    assert_eq!(signal_of(child), 0);
}

/// In a child of a namespace of its own: a file system of this kind on the folder; it is gone with the child.
fn with_mount(folder: &Folder, kind: &str, options: &str, test: impl FnOnce()) {
    let (kind, options, target) = (c_string(Path::new(kind)), c_string(Path::new(options)), c_string(&folder.0));
    in_child(|| {
        // SAFETY: plain calls with C strings; every result is checked.
        unsafe {
            let user = if libc::geteuid() == 0 { 0 } else { libc::CLONE_NEWUSER };
            assert_eq!(libc::unshare(libc::CLONE_NEWNS | user), 0, "{}", io::Error::last_os_error());
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let root = c"/".as_ptr();
            let (none, nothing) = (std::ptr::null(), std::ptr::null());
            assert_eq!(libc::mount(none, root, none, private, nothing), 0, "{}", io::Error::last_os_error());
            let done = libc::mount(c"nif_lab".as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast());
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
        }
        test();
    });
}

/// Called in children only; what the system allows at most stays.
fn set_limit(which: libc::__rlimit_resource_t, bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write the struct.
    unsafe {
        assert_eq!(libc::getrlimit(which, &raw mut limit), 0);
        limit.rlim_cur = bytes.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(which, &raw const limit), 0);
    }
}

fn bytes(file: &mut MappedFile) -> &mut [u8] {
    assert_eq!(file.access(), Access::ReadWrite);
    // SAFETY: the mapping may be read and written, and lives as long as the value.
    unsafe { std::slice::from_raw_parts_mut(file.address().as_ptr(), file.size()) }
}

fn flags(fd: BorrowedFd<'_>, which: i32) -> i32 {
    // SAFETY: asks for a descriptor's flags.
    unsafe { libc::fcntl(fd.as_raw_fd(), which) }
}

fn committed(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[track_caller]
fn refused(outcome: Result<MappedFile, FileError>, expected: &str) -> String {
    let error = outcome.expect_err("the file was mapped");
    let text = error.to_string();
    assert!(format!("{:?}", error.reason).starts_with(expected), "{error:?}");
    assert!(text.starts_with(error.path.to_str().unwrap()) && text.ends_with(error.reason.cure()), "{text}");
    text
}

#[test]
fn a_named_file_is_made_written_and_opened() {
    let folder = Folder::new("named");
    let path = folder.path("data.bin");
    let mut made = MappedFile::create(Some(&path), 10_000, Access::ReadWrite).unwrap();
    assert_eq!((made.size(), made.access(), made.path()), (10_000, Access::ReadWrite, Some(path.as_path())));
    assert_eq!(made.address().as_ptr() as usize % 4096, 0);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o7777), (10_000, 0o600));
    assert!(committed(&path) >= 10_000);
    assert_eq!(flags(made.file(), libc::F_GETFD), libc::FD_CLOEXEC);
    assert!(bytes(&mut made).iter().all(|byte| *byte == 0));

    bytes(&mut made)[9_999] = 7;
    made.sync().unwrap();
    assert_eq!(fs::read(&path).unwrap()[9_999], 7);
    drop(made);

    let opened = MappedFile::open(&path, None, Access::ReadOnly).unwrap();
    // SAFETY: within the mapping.
    assert_eq!((opened.size(), unsafe { opened.address().add(9_999).read() }), (10_000, 7));
    let part = MappedFile::open(&path, Some(5), Access::ReadWrite).unwrap();
    assert_eq!((part.size(), fs::metadata(&path).unwrap().len()), (5, 10_000));
    let mut more = MappedFile::open(&path, Some(20_000), Access::ReadWrite).unwrap();
    assert_eq!((fs::metadata(&path).unwrap().len(), bytes(&mut more)[9_999], bytes(&mut more)[19_999]), (20_000, 7, 0));
}

#[test]
fn temporary_files_have_no_name() {
    let folder = Folder::new("temporary");
    for access in ALL {
        let file = MappedFile::create_in(&folder.0, 100_000, access).unwrap();
        assert_eq!((file.size(), file.access(), file.path()), (100_000, access, None));
        folder.assert_empty();
        let metadata = File::from(file.file().try_clone_to_owned().unwrap()).metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.len(), metadata.mode() & 0o7777), (0, 100_000, 0o600));
        assert!(metadata.blocks() * 512 >= 100_000);
        // Nor can they be given one.
        let link = format!("/proc/self/fd/{}", file.file().as_raw_fd());
        let (from, to) = (c_string(Path::new(&link)), c_string(&folder.path("name")));
        let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
        // SAFETY: two C strings.
        assert_eq!(unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) }, -1);
        folder.assert_empty();
    }
    let mut file = MappedFile::create(None, 1, Access::ReadWrite).unwrap();
    bytes(&mut file)[0] = 1;
}

#[test]
fn modes_are_enforced() {
    let folder = Folder::new("modes");
    let path = folder.path("data.bin");
    fs::write(&path, [7; 100]).unwrap();
    for access in ALL {
        for file in [MappedFile::open(&path, None, access), MappedFile::create_in(&folder.0, 100, access)] {
            let file = file.unwrap();
            // SAFETY: the child may die of it.
            let signal = signal_of(|| unsafe { file.address().write_volatile(8) });
            assert_eq!(signal, if access == Access::ReadOnly { libc::SIGSEGV } else { 0 }, "{access:?}");
            // Neither this mapping nor another of the same descriptor becomes writable.
            let status = flags(file.file(), libc::F_GETFL) & libc::O_ACCMODE;
            assert_eq!(status, if access == Access::ReadOnly { libc::O_RDONLY } else { libc::O_RDWR });
            if access == Access::ReadOnly {
                let all = libc::PROT_READ | libc::PROT_WRITE;
                // SAFETY: it is refused.
                let done = unsafe { libc::mprotect(file.address().as_ptr().cast(), file.size(), all) };
                assert_eq!((done, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EACCES)));
            }
        }
    }
    assert_eq!(fs::read(&path).unwrap()[..2], [8, 7]);
}

#[test]
fn protections_are_the_access_asked_for() {
    // Alone in a child: other threads map and unmap, too.
    in_child(|| {
        for (access, expected) in ALL.into_iter().zip(["r--s", "-w-s", "rw-s"]) {
            let file = MappedFile::create(None, 4096, access).unwrap();
            let start = format!("{:x}-", file.address().as_ptr() as usize);
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
            assert_eq!(line.split(' ').nth(1), Some(expected));
            drop(file);
            assert!(!fs::read_to_string("/proc/self/maps").unwrap().contains(line));
        }
    });
}

#[test]
fn every_advice_keeps_the_contents() {
    let mut file = MappedFile::create(None, 1 << 20, Access::ReadWrite).unwrap();
    bytes(&mut file).fill(9);
    for advice in [Advice::Normal, Advice::Sequential, Advice::Random, Advice::WillNeed, Advice::DontNeed] {
        file.advise(advice).unwrap();
        assert!(bytes(&mut file).iter().all(|byte| *byte == 9), "{advice:?}");
    }
}

#[test]
fn what_is_there_is_not_overwritten() {
    let folder = Folder::new("exists");
    let (path, link) = (folder.path("data.bin"), folder.path("link"));
    fs::write(&path, "mine").unwrap();
    symlink(&path, &link).unwrap();
    symlink(folder.path("nowhere"), folder.path("dangling")).unwrap();
    for path in [&path, &link, &folder.path("dangling"), &folder.0] {
        refused(MappedFile::create(Some(path), 4, Access::ReadWrite), "Exists");
    }
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert!(!folder.path("nowhere").exists());
}

#[test]
fn only_ordinary_files_are_opened_and_no_links() {
    let folder = Folder::new("ordinary");
    let (file, link, fifo) = (folder.path("data.bin"), folder.path("link"), folder.path("fifo"));
    fs::write(&file, "mine").unwrap();
    symlink(&file, &link).unwrap();
    let name = c_string(&fifo);
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
    let _socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    for access in ALL {
        refused(MappedFile::open(&link, None, access), "Symlink");
        for path in [&fifo, &folder.path("socket"), &folder.0, Path::new("/dev/zero")] {
            refused(MappedFile::open(path, Some(1), access), "NotRegular");
        }
        refused(MappedFile::open(&folder.path("nothing"), Some(1), access), "Missing");
        refused(MappedFile::create(Some(&folder.path("nothing/data.bin")), 1, access), "Missing");
        refused(MappedFile::create_in(&folder.path("nothing"), 1, access), "Missing");
    }
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let folder = Folder::new("sizes");
    for access in ALL {
        refused(MappedFile::create(Some(&folder.path("new")), 0, access), "Empty");
        refused(MappedFile::create(None, 0, access), "Empty");
        for size in [1 << 62, i64::MAX as u64 + 1, u64::MAX] {
            refused(MappedFile::create(Some(&folder.path("new")), size, access), "NoSpace");
            refused(MappedFile::create_in(&folder.0, size, access), "NoSpace");
        }
    }
    folder.assert_empty();
    let path = folder.path("data.bin");
    fs::write(&path, "").unwrap();
    refused(MappedFile::open(&path, None, Access::ReadWrite), "Empty");
    fs::write(&path, "four").unwrap();
    let text = refused(MappedFile::open(&path, Some(5), Access::ReadOnly), "PastEnd { length: 4 }");
    let expected = "the file ends after 4 bytes; ask for fewer, or open it for writing, which extends it";
    assert_eq!(text, format!("{}: {expected}", path.display()));
    for size in [1 << 45, u64::MAX] {
        assert!(MappedFile::open(&path, Some(size), Access::ReadWrite).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"four");
    }
}

#[test]
fn the_limit_on_file_sizes_is_an_error_and_no_signal() {
    let folder = Folder::new("limit");
    let path = folder.path("data.bin");
    fs::write(&path, vec![1; 20_000]).unwrap();
    in_child(|| {
        set_limit(libc::RLIMIT_FSIZE, 10_000);
        for access in ALL {
            refused(MappedFile::create(Some(&folder.path("new")), 10_001, access), "SizeLimit { limit: 10000 }");
            refused(MappedFile::create_in(&folder.0, 10_001, access), "SizeLimit");
            MappedFile::create_in(&folder.0, 10_000, access).unwrap();
        }
        refused(MappedFile::open(&path, Some(20_001), Access::ReadWrite), "SizeLimit");
        // A file that is longer already stays usable.
        MappedFile::open(&path, None, Access::ReadWrite).unwrap();
    });
    assert_eq!(names(&folder.0), [path]);
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let folder = Folder::new("full");
    with_mount(&folder, "tmpfs", "size=1m", || {
        let (new, sparse) = (folder.path("new"), folder.path("sparse"));
        for access in ALL {
            refused(MappedFile::create(Some(&new), 2 << 20, access), "NoSpace");
            refused(MappedFile::create_in(&folder.0, 2 << 20, access), "NoSpace");
        }
        folder.assert_empty();
        // Holes that can't all be filled, around data that stays.
        let file = File::create(&sparse).unwrap();
        file.set_len(2 << 20).unwrap();
        file.write_all_at(b"data", 1 << 20).unwrap();
        let taken = fs::metadata(&sparse).unwrap().blocks();
        refused(MappedFile::open(&sparse, None, Access::ReadWrite), "NoSpace");
        refused(MappedFile::open(&sparse, Some(5 << 19), Access::ReadWrite), "NoSpace");
        let metadata = fs::metadata(&sparse).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (2 << 20, taken), "the disk stays as full as it was");
        // Reading holes needs no space.
        MappedFile::open(&sparse, None, Access::ReadOnly).unwrap();
        fs::remove_file(&sparse).unwrap();

        // What was granted is there to the last byte, whoever takes the rest.
        let mut file = MappedFile::create_in(&folder.0, 900 << 10, Access::ReadWrite).unwrap();
        fs::write(folder.path("filler"), vec![1; 1 << 20]).unwrap_err();
        bytes(&mut file).fill(5);
        assert!(bytes(&mut file).iter().all(|byte| *byte == 5));
    });
}

#[test]
fn a_file_that_cannot_grow_keeps_its_length() {
    let folder = Folder::new("grow");
    with_mount(&folder, "tmpfs", "size=100m", || {
        let path = folder.path("sparse");
        File::create(&path).unwrap().set_len(60 << 20).unwrap();
        // The growth would fit and so would the holes; not both.
        refused(MappedFile::open(&path, Some(120 << 20), Access::ReadWrite), "NoSpace");
        assert_eq!(fs::metadata(&path).unwrap().len(), 60 << 20);
    });
}

#[test]
fn holes_of_a_file_for_writing_are_filled() {
    let folder = Folder::new("holes");
    let path = folder.path("sparse");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    drop(MappedFile::open(&path, None, Access::ReadOnly).unwrap());
    assert_eq!(committed(&path), 0);
    drop(MappedFile::open(&path, None, Access::WriteOnly).unwrap());
    assert!(committed(&path) >= 1 << 20);
}

#[test]
fn a_file_system_that_cannot_reserve_is_written_to() {
    let folder = Folder::new("ramfs");
    with_mount(&folder, "ramfs", "", || {
        let path = folder.path("data.bin");
        let mut file = MappedFile::create(Some(&path), 100_000, Access::ReadWrite).unwrap();
        bytes(&mut file).fill(3);
        drop(file);
        let mut file = MappedFile::open(&path, Some(200_000), Access::ReadWrite).unwrap();
        assert_eq!(
            (fs::metadata(&path).unwrap().len(), bytes(&mut file)[99_999], bytes(&mut file)[199_999]),
            (200_000, 3, 0)
        );
        MappedFile::open(&path, None, Access::ReadWrite).unwrap();
    });
}

#[test]
fn no_memory_and_no_descriptors_are_errors_that_leave_nothing() {
    let folder = Folder::new("nothing-left");
    let path = folder.path("data.bin");
    fs::write(&path, "four").unwrap();
    in_child(|| {
        set_limit(libc::RLIMIT_AS, 256 << 20);
        refused(MappedFile::create(Some(&folder.path("new")), 512 << 20, Access::ReadWrite), "NoMemory");
        refused(MappedFile::open(&path, Some(512 << 20), Access::ReadWrite), "NoMemory");
        set_limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        set_limit(libc::RLIMIT_NOFILE, 0);
        refused(MappedFile::create(Some(&folder.path("new")), 1, Access::ReadWrite), "NoDescriptors");
        refused(MappedFile::create_in(&folder.0, 1, Access::ReadWrite), "NoDescriptors");
        set_limit(libc::RLIMIT_NOFILE, 100);
        MappedFile::create_in(&folder.0, 1, Access::ReadWrite).unwrap();
    });
    assert_eq!(names(&folder.0), std::slice::from_ref(&path));
    assert_eq!(fs::read(&path).unwrap(), b"four");
}

#[test]
fn permissions_are_heeded() {
    let folder = Folder::new("denied");
    let path = folder.path("data.bin");
    fs::write(&path, "four").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    fs::set_permissions(&folder.0, PermissionsExt::from_mode(0o555)).unwrap();
    in_child(|| {
        // SAFETY: in the child only; root may do everything, nobody mayn't.
        assert!(unsafe { libc::geteuid() != 0 || libc::seteuid(65534) == 0 });
        MappedFile::open(&path, None, Access::ReadOnly).unwrap();
        for access in [Access::WriteOnly, Access::ReadWrite] {
            refused(MappedFile::open(&path, None, access), "Denied");
        }
        refused(MappedFile::create(Some(&folder.path("new")), 1, Access::ReadWrite), "Denied");
        refused(MappedFile::create_in(&folder.0, 1, Access::ReadWrite), "Denied");
    });
    fs::set_permissions(&folder.0, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_killed_process_leaves_nothing() {
    let folder = Folder::new("killed");
    let signal = signal_of(|| {
        let mut file = MappedFile::create_in(&folder.0, 1 << 20, Access::ReadWrite).unwrap();
        bytes(&mut file).fill(1);
        // SAFETY: the child kills itself.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    assert_eq!(signal, libc::SIGKILL);
    folder.assert_empty();
}

#[test]
fn a_file_may_be_larger_than_memory() {
    let folder = Folder::new("large");
    let path = folder.path("sparse");
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = memory.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    let size = kib * 1024 * 2;
    File::create(&path).unwrap().set_len(size).unwrap();
    let file = MappedFile::open(&path, None, Access::ReadOnly).unwrap();
    assert_eq!(file.size() as u64, size);
    file.advise(Advice::Random).unwrap();
    for part in 0..100 {
        // SAFETY: within the mapping.
        assert_eq!(unsafe { file.address().add(file.size() / 100 * part).read() }, 0);
    }
    assert_eq!(committed(&path), 0);
}

#[test]
fn errors_keep_the_systems_own() {
    use std::error::Error;
    let error = FileError { path: "x".into(), reason: io::Error::from_raw_os_error(libc::EIO).into() };
    assert!(matches!(error.reason, Reason::Other(_)) && error.source().is_some());
}
