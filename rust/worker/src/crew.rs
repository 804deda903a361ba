//! A backend's workers: the one that works, the spares, and the thread that starts, watches and reaps them.

use std::collections::VecDeque;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::line::Line;
use crate::message::{self, FromWorker, Source};
use crate::process::{Exit, Recipe, Worker};
use nif_loader::library::Refusal;
use nif_loader::table::Table;

/// How long a worker's words are held back: those of one that ends are part of the report of its end.
const HOLD: Duration = Duration::from_millis(200);

/// So many starts are tried if somebody kills the worker meanwhile.
const START_TRIES: u32 = 10;

/// The workers of one backend. Dropped, all of them end.
pub struct Crew {
    shared: Arc<Shared>,
    /// The line to the worker that works; whoever holds the turn uses it.
    turn: Mutex<Turn>,
    free: Condvar,
    thread: Option<JoinHandle<()>>,
    forks: u32,
}

#[derive(Default)]
struct Turn {
    taken: bool,
    /// Who waits for it; a wake-up costs more than the rest of a turn.
    waiting: usize,
    line: Option<Line>,
}

/// A source that workers open beside the first, as long as somebody holds this.
#[derive(Debug)]
pub struct Opening {
    pub source: Source,
    /// The number of its first function.
    pub first: u32,
    /// Its functions as the first worker listed them; what every later worker is compared with.
    pub table: OnceLock<Table>,
    /// How often a worker ended while it opened this.
    ended: AtomicU32,
    /// Why the last worker didn't open this.
    refused: Mutex<Option<Refusal>>,
}

impl Opening {
    /// Note that a worker lives on without this.
    pub fn refuse(&self, why: Refusal) {
        *lock(&self.refused) = Some(why);
    }

    /// Why the last worker that didn't open this refused it.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        lock(&self.refused).clone()
    }

    /// Is it opened no more, because workers end by it?
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.ended.load(Ordering::Relaxed) >= START_TRIES
    }

    /// Note that a worker ended while it opened this. One that somebody killed may have opened anything.
    pub fn blame(&self, exit: &Exit) {
        let tries = if exit.signal == Some(libc::SIGKILL) { 1 } else { START_TRIES };
        self.ended.fetch_add(tries, Ordering::Relaxed);
    }
}

/// The first number of what is opened beside the first source: no library has so many functions.
const BESIDE: u32 = 1 << 16;

struct Shared {
    recipe: Recipe,
    /// The first source's functions as the first worker listed them; what every later worker is compared with.
    table: OnceLock<Table>,
    openings: Mutex<Openings>,
    bench: Mutex<Bench>,
    changed: Condvar,
    wake: OwnedFd,
}

/// What was opened beside the first source.
#[derive(Default)]
struct Openings {
    all: Vec<Weak<Opening>>,
    /// Functions that were ever in it.
    count: u32,
}

/// Who could work.
#[derive(Default)]
struct Bench {
    ready: VecDeque<Arc<Worker>>,
    /// How many should be.
    wanted: usize,
    starting: usize,
    /// Why the last one that was started isn't ready.
    refused: Option<Refusal>,
    /// How many in a row were ended by somebody while they started.
    ended: u32,
    /// Whether one was ever taken.
    has_served: bool,
    closed: bool,
    started: u64,
    /// Of the workers that live.
    pids: Vec<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn wake(&self) {
        // Only a full counter fails, which wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Crew {
    /// A crew without a worker; the first that is asked for is started.
    ///
    /// # Errors
    ///
    /// No descriptor or no thread.
    pub fn new(recipe: Recipe) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let name = format!("nif_lab {}", recipe.name);
        let shared = Arc::new(Shared {
            recipe,
            table: OnceLock::new(),
            openings: Mutex::default(),
            bench: Mutex::default(),
            changed: Condvar::new(),
            wake,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name).stack_size(256 << 10).spawn(move || watch(&theirs))?;
        Ok(Self {
            shared,
            turn: Mutex::default(),
            free: Condvar::new(),
            thread: Some(thread),
            forks: nif_memory::forks(),
        })
    }

    /// Is this process a child by fork of the crew's?
    #[must_use]
    pub fn is_forked(&self) -> bool {
        nif_memory::forks() != self.forks
    }

    /// Have so many workers ready from now on, and one to begin with.
    pub fn prepare(&self) {
        let mut bench = lock(&self.shared.bench);
        bench.wanted = self.shared.recipe.spares.max(1);
        drop(bench);
        self.shared.wake();
    }

    /// Get the turn to call, if it comes within that time.
    #[must_use]
    pub fn turn(&self, wait: Duration) -> Option<Holding<'_>> {
        let mut turn = lock(&self.turn);
        if turn.taken && wait.is_zero() {
            return None;
        }
        if turn.taken {
            turn.waiting += 1;
            let free = self.free.wait_timeout_while(turn, wait, |it| it.taken);
            turn = free.unwrap_or_else(PoisonError::into_inner).0;
            turn.waiting -= 1;
            if turn.taken {
                return None;
            }
        }
        turn.taken = true;
        Some(Holding { crew: self, line: turn.line.take() })
    }

    /// A worker that is ready, if there is one within that time.
    ///
    /// # Errors
    ///
    /// Why the last that was started isn't ready.
    pub fn take(&self, wait: Duration) -> Result<Option<Arc<Worker>>, Refusal> {
        let mut bench = lock(&self.shared.bench);
        if bench.has_served {
            bench.refused = None; // that of a spare, perhaps long ago: the next one may be ready
        }
        loop {
            while let Some(worker) = bench.ready.pop_front() {
                if worker.exit().is_none() {
                    bench.wanted = self.shared.recipe.spares;
                    bench.has_served = true;
                    drop(bench);
                    self.shared.wake();
                    return Ok(Some(worker));
                }
            }
            if let Some(refused) = bench.refused.take() {
                return Err(refused);
            }
            bench.wanted = self.shared.recipe.spares.max(1);
            self.shared.wake();
            let (after, timed_out) =
                self.shared.changed.wait_timeout(bench, wait).unwrap_or_else(PoisonError::into_inner);
            bench = after;
            if timed_out.timed_out() && bench.ready.is_empty() && bench.refused.is_none() {
                return Ok(None);
            }
        }
    }

    /// A source to be opened beside the first.
    pub fn plan(&self, source: Source) -> Opening {
        let first = BESIDE + lock(&self.shared.openings).count;
        Opening { source, first, table: OnceLock::new(), ended: AtomicU32::new(0), refused: Mutex::default() }
    }

    /// Have the workers to come open it too, which has so many functions. To be called by who holds the turn.
    pub fn keep(&self, opening: &Arc<Opening>, functions: usize) {
        let mut openings = lock(&self.shared.openings);
        openings.all.retain(|it| it.strong_count() > 0);
        openings.all.push(Arc::downgrade(opening));
        openings.count += u32::try_from(functions).unwrap_or(u32::MAX);
    }

    /// What a new worker should open beside the first source.
    pub fn missing(&self) -> Vec<Arc<Opening>> {
        let openings = lock(&self.shared.openings);
        openings.all.iter().filter_map(Weak::upgrade).filter(|it| !it.is_broken()).collect()
    }

    /// The first source's functions, numbered by their place; none before a worker has opened it.
    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        self.shared.table.get()
    }

    /// How many are ready beside the one that works, and how many were ever started.
    pub fn counts(&self) -> (usize, u64) {
        let bench = lock(&self.shared.bench);
        (bench.ready.len(), bench.started)
    }

    /// The processes that live.
    pub fn pids(&self) -> Vec<u32> {
        lock(&self.shared.bench).pids.clone()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        if self.is_forked() {
            // The workers are the parent's, and so is the thread.
            std::mem::forget(self.thread.take());
            return;
        }
        lock(&self.shared.bench).closed = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The turn to call; dropped, it is the next one's.
pub struct Holding<'a> {
    crew: &'a Crew,
    /// To the worker that works, if one does.
    pub line: Option<Line>,
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        let mut turn = lock(&self.crew.turn);
        turn.taken = false;
        turn.line = self.line.take();
        let is_awaited = turn.waiting > 0;
        drop(turn);
        if is_awaited {
            self.crew.free.notify_one();
        }
    }
}

/// A worker that the thread watches.
struct Watched {
    worker: Arc<Worker>,
    said: Option<PipeReader>,
    /// It hasn't told of its first source yet.
    is_starting: bool,
    /// What it said and nobody has seen yet, and when it said the last of it.
    held: Vec<u8>,
    heard: Instant,
}

/// The thread: it ends when the crew is closed and every worker has been reaped.
fn watch(shared: &Shared) {
    let mut all: Vec<Watched> = Vec::new();
    loop {
        let mut bench = lock(&shared.bench);
        if bench.closed {
            bench.ready.clear();
            for it in &all {
                it.worker.kill();
            }
            if all.is_empty() {
                return;
            }
        } else if bench.ready.len() + bench.starting < bench.wanted {
            bench.starting += 1;
            bench.started += 1;
            drop(bench);
            match Worker::start(&shared.recipe) {
                Ok((worker, said)) => {
                    lock(&shared.bench).pids.push(worker.pid);
                    all.push(Watched {
                        worker: Arc::new(worker),
                        said: Some(said),
                        is_starting: true,
                        held: Vec::new(),
                        heard: Instant::now(),
                    });
                }
                Err(error) => {
                    let program = shared.recipe.program.display();
                    refuse(shared, (format!("{program} doesn't start: {error}"), "nif-lab build".into()));
                }
            }
            continue;
        }
        drop(bench);
        wait(shared, &all);
        let mut i = 0;
        while i < all.len() {
            if look_after(shared, &mut all[i]) { i += 1 } else { drop(all.swap_remove(i)) }
        }
    }
}

/// Sleep until something happens.
fn wait(shared: &Shared, all: &[Watched]) {
    let mut descriptors = vec![PollFd::new(&shared.wake, PollFlags::IN)];
    for it in all {
        descriptors.push(PollFd::from_borrowed_fd(it.worker.pidfd(), PollFlags::IN));
        if let Some(said) = &it.said {
            descriptors.push(PollFd::from_borrowed_fd(said.as_fd(), PollFlags::IN));
        }
        if it.is_starting {
            descriptors.push(PollFd::from_borrowed_fd(it.worker.socket.as_fd(), PollFlags::IN));
        }
    }
    let held = all.iter().any(|it| !it.held.is_empty());
    let limit = Timespec { tv_sec: 0, tv_nsec: HOLD.subsec_nanos().into() };
    let _ = poll(&mut descriptors, held.then_some(&limit));
    let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
}

fn is_readable(descriptor: impl AsFd) -> bool {
    let mut one = [PollFd::new(&descriptor, PollFlags::IN)];
    poll(&mut one, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|it| it > 0)
}

/// See what is new with a worker: whether it lives.
fn look_after(shared: &Shared, it: &mut Watched) -> bool {
    let has_ended = is_readable(it.worker.pidfd());
    listen(it);
    if has_ended {
        it.worker.keep(&it.held);
        let mut bench = lock(&shared.bench);
        bench.ready.retain(|ready| !Arc::ptr_eq(ready, &it.worker));
        bench.pids.retain(|pid| *pid != it.worker.pid);
        drop(bench);
        it.worker.reap();
        if it.is_starting {
            give_up_start(shared, &it.worker);
        }
        return false;
    }
    if !it.held.is_empty() && it.heard.elapsed() >= HOLD {
        it.worker.keep(&it.held);
        let _ = io::stderr().write_all(&it.held);
        it.held.clear();
    }
    if it.is_starting && is_readable(&it.worker.socket) {
        hear(shared, it);
    }
    true
}

/// Read what the worker wrote to its standard error.
fn listen(it: &mut Watched) {
    while let Some(said) = it.said.as_mut().filter(|said| is_readable(said.as_fd())) {
        let mut piece = [0; 4096];
        match said.read(&mut piece) {
            Ok(0) | Err(_) => it.said = None,
            Ok(length) => {
                it.held.extend_from_slice(&piece[..length]);
                it.heard = Instant::now();
                if it.held.len() > 1 << 16 {
                    break; // somebody else may wait
                }
            }
        }
    }
}

/// Read what a starting worker tells.
fn hear(shared: &Shared, it: &mut Watched) {
    match message::receive::<FromWorker>(&it.worker.socket) {
        Ok((FromWorker::Opened(table), _)) => {
            it.is_starting = false;
            match table.numbering(shared.table.get_or_init(|| table.clone())) {
                Ok(numbers) => it.worker.numbers.get_or_init(|| numbers),
                Err(why) => {
                    refuse(shared, differs(&why));
                    it.worker.kill();
                    return;
                }
            };
            let mut bench = lock(&shared.bench);
            bench.starting -= 1;
            bench.ended = 0;
            bench.ready.push_back(Arc::clone(&it.worker));
            drop(bench);
            shared.changed.notify_all();
        }
        Ok((FromWorker::Refused(reason, cure), _)) => {
            it.is_starting = false;
            refuse(shared, (reason, cure));
            it.worker.kill();
        }
        Err(_) => it.worker.kill(), // its end is noticed next
    }
}

/// A worker ended while it was starting. If somebody killed it, another is started.
fn give_up_start(shared: &Shared, worker: &Worker) {
    let exit = worker.exit().cloned().unwrap_or_default();
    let mut bench = lock(&shared.bench);
    bench.ended += 1;
    if exit.signal == Some(libc::SIGKILL) && bench.ended < START_TRIES {
        bench.starting -= 1;
        return; // the thread sees that one is wanted
    }
    drop(bench);
    let said = if exit.said.is_empty() { String::new() } else { format!(": {}", exit.said) };
    let reason = format!("the worker ended while it opened its library, by {exit}{said}");
    refuse(shared, (reason, "nif-lab doctor".into()));
}

/// A worker's table isn't the one that was described to Python.
pub fn differs(why: &str) -> Refusal {
    (
        format!("a new worker has other functions than the first one: {why}"),
        "load the library again, or make a new Lab".into(),
    )
}

/// A worker that was starting won't be ready.
fn refuse(shared: &Shared, why: Refusal) {
    let mut bench = lock(&shared.bench);
    bench.starting -= 1;
    bench.wanted = 0;
    bench.ended = 0;
    bench.refused = Some(why);
    drop(bench);
    shared.changed.notify_all();
}
