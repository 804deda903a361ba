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
    // SAFETY: plain calls. Whatever the host left open for its children is none of ours.
    unsafe {
        libc::close_range(3, u32::MAX, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
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
