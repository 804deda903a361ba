//! One worker as its host sees it: started, written to, ended, reaped.
//!
//! Nothing here waits for a worker: what its socket doesn't take now, the crew's thread sends later.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nif_loader::clock;
use nif_memory::SharedMap;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};

use crate::channel::Channel;
use crate::devices::{Mail, Shown, Used};
use crate::message::{self, FromWorker, Inbox, Source, ToWorker};
use crate::spoken::{ERR, HELD, OUT, Spoken};
use crate::start::{NoStart, Step};

/// How much of what a worker wrote to its standard error is kept for the report of its end.
const TAIL: usize = 4096;

/// How much is taken at once of what a worker wrote.
const MOST: usize = 1 << 20;

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
    /// Why its host ended it, where that isn't the caller's wish.
    pub why: Option<&'static str>,
}

impl Exit {
    /// Did somebody kill it? That says nothing about what it did.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.signal == Some(libc::SIGKILL) && self.why.is_none()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal, self.code) {
            (Some(signal), _) => {
                write!(f, "{}", signal_name(signal))?;
                self.address.map_or(Ok(()), |address| write!(f, " at address {address:#x}"))?;
                self.why.map_or(Ok(()), |why| write!(f, ", because {why}"))
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

/// What wakes a crew's thread.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// # Errors
    ///
    /// No descriptor is free.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub fn wake(&self) {
        // Only a full counter fails, which wakes as well.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Take notice.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What goes over the socket and comes from it.
#[derive(Default)]
struct Post {
    /// What the socket didn't take yet: bytes, and a descriptor that goes with the first.
    out: VecDeque<(Vec<u8>, Option<Arc<OwnedFd>>)>,
    /// The system takes no more descriptors for now, whatever `poll` says.
    is_crowded: bool,
    inbox: Inbox,
    /// Answers that are to come: whatever comes beside them is no answer.
    asked: usize,
    said: VecDeque<FromWorker>,
}

/// What came over a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    Sense,
    /// Nothing that the worker was asked for.
    Nonsense,
    /// Nothing will come any more.
    End,
}

/// A worker process.
pub struct Worker {
    pub pid: u32,
    pidfd: OwnedFd,
    socket: UnixStream,
    map: SharedMap,
    /// The worker's own numbers of the first source's functions, in the order of the crew's table; set once it is open.
    pub numbers: OnceLock<Vec<u32>>,
    exit: OnceLock<Exit>,
    why: OnceLock<&'static str>,
    /// Its standard output and standard error, and what was read of them.
    pipes: [PipeReader; 2],
    spoken: Mutex<[Spoken; 2]>,
    tail: Mutex<VecDeque<u8>>,
    post: Mutex<Post>,
    /// Something came from the worker, or it has ended.
    changed: Condvar,
    wake: Arc<Wake>,
    /// What it was told of devices.
    devices: Mutex<Shown>,
    /// Of the process that started it.
    process: u32,
}

/// A child that nobody watches is ended.
struct Unwatched(Option<Child>);

impl Drop for Unwatched {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Worker {
    /// Start one, and tell it what to open, devices first.
    ///
    /// To be called by a thread that lives as long as the worker may: the worker ends with it.
    ///
    /// # Errors
    ///
    /// The system's: no such program, no process, no memory, no descriptor.
    pub fn start(recipe: &Recipe, wake: &Arc<Wake>, used: &Used) -> Result<Self, NoStart> {
        let map = SharedMap::new(c"nif_lab lane", size_of::<Channel>()).map_err(NoStart::at(Step::Memory))?;
        let (socket, theirs) = UnixStream::pair().map_err(NoStart::at(Step::Socket))?;
        let (said, to) = io::pipe().map_err(NoStart::at(Step::Socket))?;
        let (printed, print) = io::pipe().map_err(NoStart::at(Step::Socket))?;
        let quiet = || -> io::Result<()> {
            socket.set_nonblocking(true)?;
            rustix::io::ioctl_fionbio(&printed, true)?;
            Ok(rustix::io::ioctl_fionbio(&said, true)?)
        };
        quiet().map_err(NoStart::at(Step::Socket))?;
        let mut command = Command::new(&recipe.program);
        command.arg(&recipe.name).arg(std::process::id().to_string());
        // A backtrace takes a tenth of a second, in which nobody gets an answer.
        command.env("RUST_BACKTRACE", "0");
        // A group of its own: the terminal's Ctrl-C is the host's to handle, and what the worker starts ends with it.
        command.stdin(OwnedFd::from(theirs)).stdout(print).stderr(to).process_group(0);
        let mut child = Unwatched(Some(command.spawn().map_err(NoStart::at(Step::Program))?));
        let id = Pid::from_child(child.0.as_ref().expect("it was just started"));
        let pidfd =
            pidfd_open(id, PidfdFlags::empty()).map_err(|error| NoStart { step: Step::Watch, error: error.into() })?;
        let pid = child.0.take().expect("as above").id();
        let it = Self {
            pid,
            pidfd,
            socket,
            map,
            numbers: OnceLock::new(),
            exit: OnceLock::new(),
            why: OnceLock::new(),
            pipes: [printed, said],
            spoken: Mutex::default(),
            tail: Mutex::default(),
            post: Mutex::default(),
            changed: Condvar::new(),
            wake: Arc::clone(wake),
            devices: Mutex::default(),
            process: nif_memory::forks(),
        };
        it.tell(&ToWorker::Channel { steady: clock::is_counter() }, Some(it.map.keep_file()));
        it.tell_of_devices(|shown| shown.all(used));
        if let Some(source) = recipe.source.clone() {
            it.tell(&ToWorker::Open { source, first: 0 }, None);
        }
        it.tell(&ToWorker::Serve, None);
        Ok(it)
    }

    /// The memory of its calls.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        // SAFETY: made of that size in `start`, zeroed, and kept as long as the worker; all fields are atomics or in cells.
        unsafe { self.map.address().cast().as_ref() }
    }

    /// Its standard output and standard error, where there is something to be read and room for it.
    pub fn listened(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let spoken = self.spoken();
        std::array::from_fn(|i| (!spoken[i].is_closed && !spoken[i].is_full()).then(|| self.pipes[i].as_fd()))
    }

    pub fn spoken(&self) -> MutexGuard<'_, [Spoken; 2]> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Read what it wrote, as much as may be held.
    pub fn listen(&self) {
        let mut spoken = self.spoken();
        for (it, pipe) in spoken.iter_mut().zip(&self.pipes) {
            it.listen(pipe, HELD);
        }
    }

    /// Is it working on a request? Then whoever made that takes what it writes.
    pub fn is_busy(&self) -> bool {
        let number = |bell: &crate::bell::Doorbell| bell.look() & (u32::MAX >> 1);
        number(&self.channel().request_bell) != number(&self.channel().reply_bell)
    }

    /// What it has written and nobody has seen yet, to its standard output and its standard error. `whole`: the call is over.
    pub fn take_spoken(&self, whole: bool) -> [Vec<u8>; 2] {
        let mut spoken = self.spoken();
        let was_full = spoken.iter().any(Spoken::is_full);
        for (it, pipe) in spoken.iter_mut().zip(&self.pipes) {
            it.listen(pipe, MOST);
        }
        let taken = [spoken[OUT].take(whole), spoken[ERR].take(whole)];
        drop(spoken);
        if was_full {
            self.wake.wake(); // there is room again
        }
        self.keep(&taken[ERR]);
        taken
    }

    /// Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How it ended; none while it lives.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.exit.get()
    }

    /// Was this process forked from the one that started it?
    #[must_use]
    pub fn is_parents(&self) -> bool {
        nif_memory::current_forks() != self.process
    }

    /// End it and what it has started, if it hasn't ended. A child by fork leaves it to its parent.
    pub fn kill(&self) {
        if self.is_parents() {
            return;
        }
        let _post = self.post();
        // It is reaped after that is known: until then no other group can have its number.
        if self.exit.get().is_none() {
            self.kill_group();
        }
    }

    fn kill_group(&self) {
        if let Some(group) = Pid::from_raw(self.pid.cast_signed()) {
            // It fails only when there is nothing to end.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// End it, and have the report of its end say why.
    pub fn kill_because(&self, why: &'static str) {
        let _ = self.why.set(why);
        self.kill();
    }

    fn post(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Send a message, now or as soon as there is room. A worker that is gone gets none, which its end says.
    pub fn tell(&self, message: &ToWorker, file: Option<Arc<OwnedFd>>) {
        let Ok(bytes) = message::bytes_of(message) else {
            return self.kill(); // too long for any worker
        };
        let mut post = self.post();
        post.asked += usize::from(matches!(message, ToWorker::Open { .. }));
        let is_first = post.out.is_empty();
        post.out.push_back((bytes, file));
        if is_first && !self.send(&mut post) {
            drop(post);
            self.wake.wake();
        }
    }

    /// Tell it of devices: how many messages that were.
    pub fn tell_of_devices(&self, what: impl FnOnce(&mut Shown) -> Mail) -> u32 {
        let mut shown = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let mail = what(&mut shown);
        let count = mail.len() as u32;
        for (told, file) in mail {
            self.tell(&ToWorker::OnDevice(told), file);
        }
        count
    }

    /// Did it open these devices before it was ready?
    pub fn has_ready(&self, devices: &BTreeSet<i32>) -> bool {
        devices.is_subset(&self.devices.lock().unwrap_or_else(PoisonError::into_inner).devices)
    }

    /// Send what the socket takes: whether that was all.
    fn send(&self, post: &mut Post) -> bool {
        post.is_crowded = false;
        while let Some((bytes, file)) = post.out.front_mut() {
            match message::send_some(&self.socket, bytes, file.as_ref().map(|it| it.as_fd())) {
                Ok(sent) => {
                    bytes.drain(..sent);
                    *file = None;
                    if bytes.is_empty() {
                        post.out.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM)) =>
                {
                    post.is_crowded = true;
                    return false;
                }
                // The other side is gone.
                Err(_) => post.out.clear(),
            }
        }
        true
    }

    /// Whether something waits to be sent, and whether only time helps.
    pub fn has_mail(&self) -> (bool, bool) {
        let post = self.post();
        (!post.out.is_empty(), post.is_crowded)
    }

    /// Send more of what waits. For the crew's thread, like all that follows.
    pub fn send_more(&self) {
        self.send(&mut self.post());
    }

    /// Read what the worker sent.
    pub fn read_more(&self) -> Heard {
        let mut post = self.post();
        let mut socket = &self.socket;
        let mut piece = [0; 16 << 10];
        match socket.read(&mut piece) {
            Ok(0) => return Heard::End,
            Ok(length) => post.inbox.put(&piece[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Heard::Sense;
            }
            Err(_) => return Heard::End,
        }
        while post.asked > 0 {
            match post.inbox.take() {
                Ok(Some(said)) => {
                    post.asked -= 1;
                    post.said.push_back(said);
                    self.changed.notify_all();
                }
                Ok(None) => return Heard::Sense,
                Err(_) => return Heard::Nonsense,
            }
        }
        if post.inbox.is_empty() { Heard::Sense } else { Heard::Nonsense }
    }

    /// The next thing that it said, if there is one already.
    pub fn next_said(&self) -> Option<FromWorker> {
        self.post().said.pop_front()
    }

    /// What it said, if it says something within that time.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn said(&self, limit: Duration) -> Result<Option<FromWorker>, &Exit> {
        let waits = |post: &mut Post| post.said.is_empty() && self.exit.get().is_none();
        let mut post =
            self.changed.wait_timeout_while(self.post(), limit, waits).unwrap_or_else(PoisonError::into_inner).0;
        match (post.said.pop_front(), self.exit.get()) {
            (None, Some(exit)) => Err(exit),
            (said, _) => Ok(said),
        }
    }

    /// How it ended, if it ends and the crew sees that within that time.
    pub fn wait(&self, limit: Duration) -> Option<&Exit> {
        let waits = |_: &mut Post| self.exit.get().is_none();
        drop(self.changed.wait_timeout_while(self.post(), limit, waits));
        self.exit.get()
    }

    /// Keep the last of what it wrote to its standard error.
    pub fn keep(&self, said: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&said[said.len().saturating_sub(TAIL)..]);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
    }

    /// Reap it, and tell whoever waits for its answer that there will be none. What it has started ends too.
    pub fn reap(&self) {
        let wait = |how| waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | how).ok().flatten();
        let status = wait(WaitIdOptions::NOWAIT);
        self.kill_group();
        let words = &self.channel().last_words;
        let signal = status.as_ref().and_then(rustix::process::WaitIdStatus::terminating_signal);
        let told = words.signal.load(Ordering::Acquire).cast_signed();
        let faulted = matches!(signal, Some(libc::SIGSEGV | libc::SIGBUS)) && signal == Some(told);
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<u8> = tail.iter().copied().collect();
        let post = self.post();
        let _ = self.exit.set(Exit {
            code: status.as_ref().and_then(rustix::process::WaitIdStatus::exit_status),
            signal,
            address: faulted.then(|| words.address.load(Ordering::Relaxed)),
            said: String::from_utf8_lossy(&said).trim().into(),
            why: self.why.get().copied().filter(|_| signal == Some(libc::SIGKILL)),
        });
        wait(WaitIdOptions::empty());
        self.changed.notify_all();
        drop(post);
        self.channel().reply_bell.silence();
    }
}
