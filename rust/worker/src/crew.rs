//! A backend's workers as their callers see them: the turn to call, a worker that is ready, what is opened beside the first
//! source. The thread of `actor` starts, watches and reaps them; callers only wait, with a limit.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use nif_loader::library::Refusal;
use nif_loader::table::Table;
use nif_memory::Own;

use crate::actor;
use crate::devices::Used;
use crate::line::Line;
use crate::message::Source;
use crate::process::{Exit, Recipe, Wake, Worker};
use crate::roster::{Answer, Refused, Roster, START_TRIES};
use crate::start::{NoStart, Step};

/// The workers of one backend. Dropped, all of them end soon.
pub struct Crew {
    recipe: Recipe,
    inner: Own<Arc<Inner>>,
}

/// What belongs to one process: a child by fork has workers of its own.
pub struct Inner {
    pub recipe: Recipe,
    /// The line to the worker that works; whoever holds the turn uses it.
    turn: Mutex<Turn>,
    free: Condvar,
    /// The first source's functions as the first worker listed them; what every later worker is compared with.
    pub table: OnceLock<Table>,
    openings: Mutex<Openings>,
    roster: Mutex<Roster<ById>>,
    changed: Condvar,
    /// What calls have used of devices.
    used: Mutex<Used>,
    /// The workers that live.
    living: Mutex<Vec<Arc<Worker>>>,
    /// Wakes the thread; none before the first worker is wanted.
    wake: Mutex<Option<Arc<Wake>>>,
    process: u32,
}

/// A worker, which is equal to itself alone.
#[derive(Clone)]
pub struct ById(pub Arc<Worker>);

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[derive(Default)]
struct Turn {
    /// The thread that has it; 0 for none.
    holder: usize,
    /// Who waits for it; a wake-up costs more than the rest of a turn.
    waiting: usize,
    line: Option<Line>,
}

/// Why a caller has no turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoTurn {
    /// Another thread has it.
    Taken,
    /// This thread has it: its call would wait for itself.
    Yours,
}

/// This thread's number: another one has another number as long as both live.
#[inline]
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|it| std::ptr::from_ref(it).addr())
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
        let tries = if exit.is_killed() { 1 } else { START_TRIES };
        self.ended.fetch_add(tries, Ordering::Relaxed);
    }
}

/// The first number of what is opened beside the first source: no library has so many functions.
const BESIDE: u32 = 1 << 16;

/// What was opened beside the first source.
#[derive(Clone, Default)]
struct Openings {
    all: Vec<Weak<Opening>>,
    /// Functions that were ever in it.
    count: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn new(recipe: &Recipe, parents: Option<&Arc<Self>>) -> Arc<Self> {
        let table = OnceLock::new();
        let mut openings = Openings::default();
        if let Some(parents) = parents {
            if let Some(known) = parents.table.get() {
                table.get_or_init(|| known.clone());
            }
            // A thread that the child doesn't have may hold the lock for ever.
            if let Ok(known) = parents.openings.try_lock() {
                openings.clone_from(&known);
            }
        }
        Arc::new(Self {
            recipe: recipe.clone(),
            turn: Mutex::default(),
            free: Condvar::new(),
            table,
            openings: Mutex::new(openings),
            roster: Mutex::default(),
            changed: Condvar::new(),
            used: Mutex::default(),
            living: Mutex::default(),
            wake: Mutex::default(),
            process: nif_memory::forks(),
        })
    }

    pub fn roster(&self) -> MutexGuard<'_, Roster<ById>> {
        lock(&self.roster)
    }

    pub fn living(&self) -> MutexGuard<'_, Vec<Arc<Worker>>> {
        lock(&self.living)
    }

    pub fn used(&self) -> MutexGuard<'_, Used> {
        lock(&self.used)
    }

    /// Have the thread look, or start it.
    fn wake(self: &Arc<Self>) -> Result<(), Refused> {
        let mut wake = lock(&self.wake);
        if let Some(wake) = wake.as_ref() {
            wake.wake();
            return Ok(());
        }
        let refused = |step| move |error| NoStart { step, error }.refused(&self.recipe);
        let new = Arc::new(Wake::new().map_err(refused(Step::Socket))?);
        let (inner, theirs) = (Arc::clone(self), Arc::clone(&new));
        let thread = std::thread::Builder::new().name(format!("nif_lab {}", self.recipe.name)).stack_size(256 << 10);
        thread.spawn(move || actor::run(&inner, &theirs)).map_err(refused(Step::Program))?;
        *wake = Some(new);
        Ok(())
    }

    /// A worker that was starting is ready.
    pub fn enter(&self, worker: &Arc<Worker>) {
        let mut roster = self.roster();
        roster.enter(ById(Arc::clone(worker)));
        // A call may have used a device since it was started: another is started that has it ready.
        if !worker.has_ready(&self.used().devices) {
            roster.leave(&ById(Arc::clone(worker)));
            worker.kill();
        }
        drop(roster);
        self.changed.notify_all();
    }

    /// A worker that was starting won't be ready.
    pub fn refuse(&self, why: Refused) {
        self.roster().refuse(why);
        self.changed.notify_all();
    }

    /// A worker ended while it was starting. If somebody killed it, another is started.
    pub fn give_up_start(&self, exit: &Exit) {
        if exit.is_killed() && self.roster().may_start_again() {
            return; // the thread sees that one is wanted
        }
        let said = if exit.said.is_empty() { String::new() } else { format!(": {}", exit.said) };
        let reason = format!("the worker ended while it opened its library, by {exit}{said}");
        self.refuse((reason, "nif-lab doctor".into()).into());
    }
}

impl Crew {
    /// A crew without a worker; the first that is asked for is started.
    #[must_use]
    pub fn new(recipe: Recipe) -> Self {
        Self { recipe, inner: Own::new() }
    }

    #[inline]
    fn inner(&self) -> &Arc<Inner> {
        self.inner.get(|parents| Inner::new(&self.recipe, parents))
    }

    /// Have so many workers ready from now on, and one to begin with. Why that can't be, whoever takes one is told.
    pub fn prepare(&self) {
        let inner = self.inner();
        inner.roster().prepare(self.recipe.spares);
        let _ = inner.wake();
    }

    /// Get the turn to call, if it comes within that time.
    ///
    /// # Errors
    ///
    /// Another thread has it, or this one.
    #[inline]
    pub fn turn(&self, wait: Duration) -> Result<Holding<'_>, NoTurn> {
        let inner = self.inner();
        let me = this_thread();
        let mut turn = lock(&inner.turn);
        if turn.holder != 0 {
            if turn.holder == me {
                return Err(NoTurn::Yours);
            }
            if wait.is_zero() {
                return Err(NoTurn::Taken);
            }
            turn.waiting += 1;
            let free = inner.free.wait_timeout_while(turn, wait, |it| it.holder != 0);
            turn = free.unwrap_or_else(PoisonError::into_inner).0;
            turn.waiting -= 1;
            if turn.holder != 0 {
                return Err(NoTurn::Taken);
            }
        }
        turn.holder = me;
        Ok(Holding { inner, line: turn.line.take() })
    }

    /// Begin to look for a worker: to be called once before `take`.
    pub fn seek(&self) {
        self.inner().roster().seek();
    }

    /// A line to a worker that is ready, if there is one within that time. The worker is the caller's: it ends with the line.
    ///
    /// # Errors
    ///
    /// Why the last that was started isn't ready.
    pub fn take(&self, wait: Duration) -> Result<Option<Line>, Refused> {
        let inner = self.inner();
        let end = Instant::now() + wait;
        let mut roster = inner.roster();
        loop {
            match roster.take(self.recipe.spares) {
                Answer::Taken(ById(worker)) if worker.exit().is_some() => continue,
                Answer::Taken(ById(worker)) => {
                    drop(roster);
                    let line = Line::new(worker);
                    let _ = inner.wake(); // a spare is wanted
                    return Ok(Some(line));
                }
                Answer::Refused(refused) => return Err(refused),
                Answer::Wait => {}
            }
            drop(roster);
            inner.wake()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            roster = inner.roster();
            if roster.has_news() {
                continue;
            }
            roster = inner.changed.wait_timeout(roster, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A call uses a device. The first that does ends the spares, which don't have it ready: those that replace them do.
    pub fn use_device(&self, id: i32) {
        let inner = self.inner();
        if inner.used().devices.insert(id) {
            let cold: Vec<ById> = inner.roster().dismiss();
            for it in cold {
                it.0.kill();
            }
            let _ = inner.wake();
        }
    }

    /// A call starts a kernel: the spares to come have it ready.
    pub fn use_kernel(&self, number: u64) {
        self.inner().used().kernels.insert(number);
    }

    /// A source to be opened beside the first.
    pub fn plan(&self, source: Source) -> Opening {
        let first = BESIDE + lock(&self.inner().openings).count;
        Opening { source, first, table: OnceLock::new(), ended: AtomicU32::new(0), refused: Mutex::default() }
    }

    /// Have the workers to come open it too, which has so many functions. To be called by who holds the turn.
    pub fn keep(&self, opening: &Arc<Opening>, functions: usize) {
        let mut openings = lock(&self.inner().openings);
        openings.all.retain(|it| it.strong_count() > 0);
        openings.all.push(Arc::downgrade(opening));
        openings.count += u32::try_from(functions).unwrap_or(u32::MAX);
    }

    /// What a new worker should open beside the first source.
    pub fn missing(&self) -> Vec<Arc<Opening>> {
        let openings = lock(&self.inner().openings);
        openings.all.iter().filter_map(Weak::upgrade).filter(|it| !it.is_broken()).collect()
    }

    /// The first source's functions, numbered by their place; none before a worker has opened it.
    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        self.inner().table.get()
    }

    /// How many are ready beside the one that works, and how many were ever started.
    pub fn counts(&self) -> (usize, u64) {
        self.inner().roster().counts()
    }

    /// The processes that live.
    pub fn pids(&self) -> Vec<u32> {
        self.inner().living().iter().map(|it| it.pid).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // The thread reaps the workers and then ends: nobody waits for that here, where the GIL may be held. In a child by
        // fork that had no worker both are the parent's.
        if let Some(inner) = self.inner.made() {
            inner.roster().close();
            inner.living().iter().for_each(|it| it.kill());
            if let Some(wake) = lock(&inner.wake).as_ref() {
                wake.wake();
            }
            // The line to the worker that works ends it.
            lock(&inner.turn).line = None;
        }
    }
}

/// The turn to call; dropped, it is the next one's.
pub struct Holding<'a> {
    inner: &'a Inner,
    /// To the worker that works, if one does.
    pub line: Option<Line>,
}

impl Holding<'_> {
    /// Was this process forked from the one that got the turn?
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.inner.process != nif_memory::current_forks()
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if self.is_forked() {
            return; // another thread may have held the lock
        }
        let mut turn = lock(&self.inner.turn);
        turn.holder = 0;
        turn.line = self.line.take();
        let is_awaited = turn.waiting > 0;
        drop(turn);
        if is_awaited {
            self.inner.free.notify_one();
        }
    }
}

/// A worker's table isn't the one that was described to Python.
#[must_use]
pub fn differs(why: &str) -> Refusal {
    (
        format!("a new worker has other functions than the first one: {why}"),
        "load the library again, or make a new Lab".into(),
    )
}
