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

use crate::devices::Told;

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
    /// The descriptor that comes along is the channel. Time is counted by the processor's own counter if `steady`.
    Channel { steady: bool },
    /// Open this; its functions are numbered from `first` on.
    Open { source: Source, first: u32 },
    /// The descriptor that comes along is a segment of the arena.
    Map { segment: u64, size: u64 },
    /// That segment is gone.
    Unmap { segment: u64 },
    /// Something of a device.
    OnDevice(Told),
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

/// A message as its bytes: its length, then what it says.
///
/// # Errors
///
/// It is too long.
pub fn bytes_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Send bytes, or the first of them, and a descriptor with the first byte: how many were sent.
///
/// # Errors
///
/// The socket's: it is full and doesn't block, or the other side is gone.
pub fn send_some(socket: &UnixStream, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Send a message and, if given, a descriptor; wait until all of it is sent.
///
/// # Errors
///
/// The socket's: the other side is gone.
pub fn send(socket: &UnixStream, message: &impl Serialize, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = bytes_of(message)?;
    let sent = send_some(socket, &bytes, descriptor)?;
    let mut socket = socket;
    socket.write_all(&bytes[sent..])
}

fn message_of<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn length_of(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    Ok(length)
}

/// Receive a message, and its descriptor if it has one; wait for all of it.
///
/// # Errors
///
/// The socket's; `UnexpectedEof` when the other side is gone; `InvalidData` for what isn't a message.
pub fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<(T, Option<OwnedFd>)> {
    let mut head = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut head)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let mut socket = socket;
    socket.read_exact(&mut head[got..])?;
    let mut body = vec![0; length_of(head)?];
    socket.read_exact(&mut body)?;
    Ok((message_of(&body)?, descriptor))
}

/// Messages out of bytes that come in pieces of any size.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    pub fn put(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
    }

    /// Whether there is a part of a message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next message, if all of it has come.
    ///
    /// # Errors
    ///
    /// These bytes are no message.
    pub fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = length_of(*head)?;
        let Some(body) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = message_of(body)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}
