//! A worker: `nif_worker NAME PARENT`, with a socket to its host as standard input.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::null_mut;

use nif_loader::clock;
use nif_worker::channel::Channel;
use nif_worker::crash;
use nif_worker::message::{self, ToWorker};
use nif_worker::output;
use nif_worker::serve::Server;
use rustix::mm::{MapFlags, ProtFlags, mmap};

fn main() -> io::Result<()> {
    // SAFETY: a plain call, by number: C libraries before 2.34 have no name for it. Whatever the host left open for its children
    // is none of ours.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    end_with_host();
    let parent = std::env::args().nth(2).and_then(|it| it.parse().ok());
    if parent != Some(std::os::unix::process::parent_id()) {
        return Err(io::Error::other("nif_worker is started by a Lab, and ends with it"));
    }
    crash::be_expendable();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let nothing = OwnedFd::from(File::open("/dev/null")?);
    rustix::stdio::dup2_stdin(&nothing)?;
    let (said, descriptor) = message::receive::<ToWorker>(&socket)?;
    let (ToWorker::Channel { steady }, Some(file)) = (said, descriptor) else {
        return Err(io::Error::other("the first message is the channel"));
    };
    clock::start_like(steady);
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, of the size that the host gave the file; it stays until the process ends.
    let channel =
        unsafe { &*mmap(null_mut(), size_of::<Channel>(), access, MapFlags::SHARED, &file, 0)?.cast::<Channel>() };
    crash::watch(&channel.last_words);
    output::watch();
    Server::new(socket, channel).run()
}

/// Have the host's end, however it comes, end this process and what native code has started in it. SIGKILL itself would end
/// this process alone, so the system sends a signal that nobody else uses.
fn end_with_host() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: plain calls. A worker leads a group of its own; one that somebody started by hand may not.
        unsafe {
            if libc::getpgrp() == libc::getpid() {
                libc::kill(0, libc::SIGKILL);
            }
            libc::_exit(1);
        }
    }
    let signal = libc::SIGRTMAX() - 1;
    // SAFETY: zeroed is a valid value; the handler calls nothing that isn't async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end as *const () as usize;
        let can_catch = libc::sigaction(signal, &raw const action, null_mut()) == 0;
        libc::prctl(libc::PR_SET_PDEATHSIG, if can_catch { signal } else { libc::SIGKILL });
    }
}
