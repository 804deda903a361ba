//! One worker as its host sees it: started, talked to, ended, reaped.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, OnceLock, PoisonError};

use nif_memory::SharedMap;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use crate::channel::Channel;
use crate::message::{self, Source, ToWorker};

/// How much of what a worker wrote to its standard error is kept for the report of its end.
const TAIL: usize = 4096;

/// How to start a backend's workers.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The worker's program.
    pub program: PathBuf,
    /// The backend's name; it shows in process listings.
    pub name: String,
    /// What it opens first.
    pub source: Option<Source>,
    /// Workers that are kept ready beside the one that works.
    pub spares: usize,
}

/// How a worker ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The address that couldn't be used, where the worker could still tell.
    pub address: Option<u64>,
    /// The last it wrote to its standard error.
    pub said: String,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal, self.code) {
            (Some(signal), _) => {
                write!(f, "{}", signal_name(signal))?;
                self.address.map_or(Ok(()), |address| write!(f, " at address {address:#x}"))
            }
            (None, Some(code)) => write!(f, "exit with code {code}"),
            (None, None) => write!(f, "an unknown end"),
        }
    }
}

/// `SIGSEGV (segmentation fault)` and the like.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV (segmentation fault)",
        libc::SIGBUS => "SIGBUS (bus error)",
        libc::SIGABRT => "SIGABRT (aborted)",
        libc::SIGFPE => "SIGFPE (arithmetic error)",
        libc::SIGILL => "SIGILL (illegal instruction)",
        libc::SIGTRAP => "SIGTRAP (trap)",
        libc::SIGKILL => "SIGKILL (killed)",
        libc::SIGTERM => "SIGTERM (terminated)",
        other => return format!("signal {other}"),
    };
    name.into()
}

/// A worker process.
pub struct Worker {
    pub pid: u32,
    pidfd: OwnedFd,
    pub socket: UnixStream,
    map: SharedMap,
    /// The worker's own numbers of the first source's functions, in the order of the crew's table; set once it is open.
    pub numbers: OnceLock<Vec<u32>>,
    exit: OnceLock<Exit>,
    tail: Mutex<VecDeque<u8>>,
}

impl Worker {
    /// Start one, and tell it what to open. Its standard error comes along.
    ///
    /// To be called by a thread that lives as long as the worker may: the worker ends with it.
    ///
    /// # Errors
    ///
    /// The system's: no such program, no process, no memory.
    pub fn start(recipe: &Recipe) -> io::Result<(Self, PipeReader)> {
        let map = SharedMap::new(c"nif_lab lane", size_of::<Channel>())?;
        let (socket, theirs) = UnixStream::pair()?;
        let (said, to) = io::pipe()?;
        let mut command = Command::new(&recipe.program);
        command.arg(&recipe.name).arg(std::process::id().to_string());
        // A backtrace takes a tenth of a second, in which nobody gets an answer.
        command.env("RUST_BACKTRACE", "0");
        // A group of its own: the terminal's Ctrl-C is the host's to handle.
        let child =
            command.stdin(OwnedFd::from(theirs)).stderr(to).stdout(Stdio::inherit()).process_group(0).spawn()?;
        let pid = child.id();
        let id = Pid::from_child(&child);
        let pidfd = pidfd_open(id, PidfdFlags::empty())?;
        let it =
            Self { pid, pidfd, socket, map, numbers: OnceLock::new(), exit: OnceLock::new(), tail: Mutex::default() };
        message::send(&it.socket, &ToWorker::Channel, Some(it.map.file().as_fd()))?;
        if let Some(source) = recipe.source.clone() {
            message::send(&it.socket, &ToWorker::Open { source, first: 0 }, None)?;
        }
        message::send(&it.socket, &ToWorker::Serve, None)?;
        Ok((it, said))
    }

    /// The memory of its calls.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        // SAFETY: made of that size in `start`, zeroed, and kept as long as the worker; all fields are atomics or in cells.
        unsafe { self.map.address().cast().as_ref() }
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended; none while it lives.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.exit.get()
    }

    /// End it, if it hasn't ended.
    pub fn kill(&self) {
        // It fails only when there is nothing to end.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Wait until it has ended and the crew has seen that.
    pub fn wait(&self) -> &Exit {
        self.exit.wait()
    }

    /// Keep the last of what it said.
    pub fn keep(&self, said: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(said);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
    }

    /// Reap it, and tell whoever waits for its answer that there will be none.
    pub fn reap(&self) {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
        let words = &self.channel().last_words;
        let signal = status.as_ref().and_then(rustix::process::WaitIdStatus::terminating_signal);
        let told = words.signal.load(Ordering::Acquire).cast_signed();
        let faulted = matches!(signal, Some(libc::SIGSEGV | libc::SIGBUS)) && signal == Some(told);
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<u8> = tail.iter().copied().collect();
        let _ = self.exit.set(Exit {
            code: status.as_ref().and_then(rustix::process::WaitIdStatus::exit_status),
            signal,
            address: faulted.then(|| words.address.load(Ordering::Relaxed)),
            said: String::from_utf8_lossy(&said).trim().into(),
        });
        self.channel().reply_bell.silence();
    }
}
