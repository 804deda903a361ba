//! What host and worker tell each other beside calls: over a socket, because descriptors go along.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nif_loader::table::Table;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Where functions come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A NIF library's file.
    File(String),
    /// A library of these TVM-FFI functions, and where their runtime is.
    TvmFfi { path: String, runtime: String, names: Vec<String> },
    /// A Julia, and the code that answers with the address of its table; `{host}` in it becomes that of the worker's host.
    Julia { library: String, bindir: String, image: String, code: String },
    /// Code for the Julia that runs, which answers in the same way.
    JuliaCode(String),
}

/// What a host says.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// The descriptor that comes along is the channel.
    Channel,
    /// Open this; its functions are numbered from `first` on.
    Open { source: Source, first: u32 },
    /// The descriptor that comes along is a segment of the arena.
    Map { segment: u32, size: u64 },
    /// That segment is gone.
    Unmap { segment: u32 },
    /// Nothing more for now: look at the channel.
    Serve,
}

/// What a worker answers to `Open`.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromWorker {
    Opened(Table),
    /// The reason and the cure.
    Refused(String, String),
}

/// Longer ones aren't sent: whoever says so is broken.
const LONGEST: usize = 64 << 20;

/// Send a message and, if given, a descriptor.
///
/// # Errors
///
/// The socket's: the other side is gone.
pub fn send(socket: &UnixStream, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    // The length goes alone: four bytes are never split, so the descriptor is with them.
    sendmsg(socket, &[IoSlice::new(&length)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut socket = socket;
    socket.write_all(&body)
}

/// Receive a message, and its descriptor if it has one.
///
/// # Errors
///
/// The socket's; `UnexpectedEof` when the other side is gone; `InvalidData` for what isn't a message.
pub fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<(T, Option<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut length)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let mut socket = socket;
    socket.read_exact(&mut length[got..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    let message = postcard::from_bytes(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((message, descriptor))
}
