//! The host's side of a call: what goes into the channel, and what may come out of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::channel::{Channel, Patience, Progress, ROOM, ReplyHead, Request, reply, request};
use crate::crew::Opening;
use crate::message::{FromWorker, ToWorker};
use crate::process::{Exit, Worker};
use crate::processor::processor;
use nif_memory::{Arena, files};

/// How long a host looks for the answer before it sleeps; the GIL is held meanwhile.
const SPIN: Duration = Duration::from_micros(20);

/// What became of a call so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Waiting,
    Replied,
    /// The worker has ended.
    Dead,
    /// It answered out of turn.
    Garbage,
}

/// The host's end of a worker's channel, and the worker's owner: without a line nobody could call it any more, so it ends.
pub struct Line {
    pub worker: Arc<Worker>,
    rung: u32,
    /// The ring of the last request, as against those within its call.
    asked: u32,
    seen: u32,
    patience: Patience,
    /// The worker's own numbers of the first source's functions, and of each that it opened since, with the number of the
    /// source's first function.
    numbers: Vec<u32>,
    beside: Vec<(u32, Vec<u32>)>, // by that number
    /// The segments and files that the worker has mapped, as of these versions.
    known: BTreeSet<u64>,
    version: (u64, u64),
}

impl Line {
    #[must_use]
    pub fn new(worker: Arc<Worker>) -> Self {
        let numbers = worker.numbers.get().cloned().unwrap_or_default();
        Self {
            worker,
            rung: 0,
            asked: 0,
            seen: 0,
            patience: Patience::new(SPIN),
            numbers,
            beside: Vec::new(),
            known: BTreeSet::new(),
            version: (0, 0),
        }
    }

    /// The worker has opened the source whose functions are numbered from `first` on; these are its own numbers of them.
    pub fn note_opened(&mut self, first: u32, numbers: Vec<u32>) {
        let at = self.beside.partition_point(|(other, _)| *other < first);
        self.beside.insert(at, (first, numbers));
    }

    /// The worker's own number of a function; none if it hasn't opened the function's source.
    #[inline]
    #[must_use]
    pub fn number_of(&self, function: u32) -> Option<u32> {
        self.numbers.get(function as usize).copied().or_else(|| self.number_beside(function))
    }

    #[cold]
    fn number_beside(&self, function: u32) -> Option<u32> {
        let after = self.beside.partition_point(|(first, _)| *first <= function);
        let (first, numbers) = &self.beside[after.checked_sub(1)?];
        Some(first + numbers.get((function - first) as usize)?)
    }

    fn channel(&self) -> &Channel {
        self.worker.channel()
    }

    /// The request, to be written before `ring`. Only the host writes it, and the worker may read it only after.
    #[must_use]
    pub fn request(&self) -> *mut Request {
        self.channel().request()
    }

    /// Let the worker see the arena's segments, and mapped files, as they are now: how many messages it has to read.
    ///
    /// Nothing waits here: what the socket doesn't take now is sent while the worker reads.
    #[inline]
    pub fn show(&mut self, arena: &Arena) -> u32 {
        if (arena.version(), files::version()) == self.version { 0 } else { self.show_changes(arena) }
    }

    #[cold]
    fn show_changes(&mut self, arena: &Arena) -> u32 {
        self.version = (arena.version(), files::version());
        let mut segments = arena.segments();
        segments.extend(files::all());
        let here: BTreeSet<u64> = segments.iter().map(|it| it.id).collect();
        let mut mail = 0;
        for gone in self.known.difference(&here) {
            self.worker.tell(&ToWorker::Unmap { segment: *gone }, None);
            mail += 1;
        }
        for it in segments {
            if !self.known.contains(&it.id) {
                self.worker.tell(&ToWorker::Map { segment: it.id, size: it.size as u64 }, Some(it.file));
                mail += 1;
            }
        }
        self.known = here;
        mail
    }

    /// Tell the worker where a number of a device leads: an array's, or a kernel's. How many messages it has to read.
    pub fn tell_number(&self, number: u64, is_kernel: bool) -> u32 {
        self.worker.tell_of_devices(|shown| if is_kernel { shown.kernel(number) } else { shown.array(number) })
    }

    /// Ask the worker to open a source; what it says comes by `said`. To be called when no call runs.
    pub fn ask_to_open(&mut self, opening: &Opening) {
        self.worker.tell(&ToWorker::Open { source: opening.source.clone(), first: opening.first }, None);
        // SAFETY: the request is the host's until it rings.
        unsafe {
            (*self.request()).what = request::OPEN;
            (*self.request()).mail = 1;
        }
        self.ring();
    }

    /// What the worker said of that, if it said it within that time.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn said(&self, limit: Duration) -> Result<Option<FromWorker>, &Exit> {
        self.worker.said(limit)
    }

    /// Hand the request over.
    #[inline]
    pub fn ring(&mut self) {
        self.go_on();
        self.asked = self.rung;
    }

    /// Let the running call go on with what it has asked for.
    #[inline]
    pub fn go_on(&mut self) {
        self.rung = self.rung.wrapping_add(1) & (u32::MAX >> 1);
        self.channel().request_bell.ring(self.rung);
    }

    /// Look for the reply for some microseconds.
    #[inline]
    pub fn look(&mut self) -> State {
        self.patience.look(&self.worker.channel().reply_bell, self.seen);
        self.state()
    }

    /// Sleep until the reply is there, or for so long.
    pub fn sleep(&self, limit: Duration) -> State {
        if self.state() == State::Waiting {
            self.channel().host_cpu.store(processor(), Ordering::Relaxed);
            self.channel().reply_bell.sleep(self.seen, Some(limit));
        }
        self.state()
    }

    #[inline]
    fn state(&self) -> State {
        let number = self.channel().reply_bell.look();
        if number == self.seen {
            State::Waiting
        } else if self.worker.exit().is_some() {
            State::Dead
        } else if number == self.seen.wrapping_add(1) {
            State::Replied
        } else {
            State::Garbage
        }
    }

    /// The fixed part of the reply, if it makes sense.
    #[inline]
    pub fn head(&mut self) -> Option<ReplyHead> {
        self.seen = self.seen.wrapping_add(1);
        // SAFETY: inside the channel; every bit pattern is a value. Read once: the worker could write again.
        let head = unsafe { (&raw const (*self.channel().reply()).head).read_volatile() };
        let fits = head.length as usize <= ROOM;
        let sense = match head.what {
            // A longer text lies in a block of the arena.
            reply::DONE => fits || head.value != 0,
            reply::CALL_BACK => fits && (head.length as usize).is_multiple_of(size_of::<u64>()),
            reply::DEVICE => head.length == 0,
            reply::ALLOCATE => fits && head.ndim.checked_mul(8) == Some(head.length),
            _ => false,
        };
        sense.then_some(head)
    }

    /// Bytes of the reply's room, at most as many as there are.
    #[must_use]
    pub fn room(&self, length: u32) -> Vec<u8> {
        let length = (length as usize).min(ROOM);
        let mut bytes = vec![0; length];
        // SAFETY: inside the channel; the worker may write at the same time, but then these bytes are nobody's.
        unsafe {
            let room = (&raw const (*self.channel().reply()).room).cast::<u8>();
            bytes.as_mut_ptr().copy_from_nonoverlapping(room, length);
        }
        bytes
    }

    /// Whether the worker has entered the function of the last request.
    pub fn has_begun(&self) -> bool {
        self.channel().begun.load(Ordering::Relaxed) == self.asked
    }

    /// How far the running call says that it is.
    pub fn progress(&self) -> &Progress {
        &self.channel().progress
    }

    /// Ask the running call to stop, or take that back.
    pub fn set_cancel(&self, on: bool) {
        self.channel().cancel.store(i32::from(on), Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.worker.kill();
    }
}
