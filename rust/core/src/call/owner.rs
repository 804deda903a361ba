//! A thread that owns a runtime.
//!
//! Julia (before 1.9) may be called only from the thread that started it, and starting it blocks SIGINT in that thread. So
//! it gets a thread of its own, and Python's main thread keeps its signals. Work is handed over through a queue; both sides spin
//! for some microseconds before they sleep, because a wake-up costs more than most calls.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use nif::abi::error_kind;
use pyo3::prelude::*;

use crate::call::failure::Failure;

type Work = Box<dyn FnOnce() + Send>;

/// How long a side looks before it sleeps.
const SPIN: Duration = Duration::from_micros(20);
/// How often a waiting caller asks Python for signals.
const TICK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Queue {
    work: Mutex<VecDeque<Work>>,
    pending: AtomicUsize,
    wake: Condvar,
    /// Nobody hands over anything any more.
    is_closed: AtomicBool,
}

/// The owner thread; it ends when nobody can hand it anything any more.
#[pyclass(frozen, module = "nif_lab._core")]
pub struct Owner {
    /// None where the owner is a thread of Python's, which nobody can hand anything to.
    queue: Option<Arc<Queue>>,
    thread: ThreadId,
    /// Of which process it is: a child of fork doesn't have the thread.
    forks: u32,
}

/// Why a call can't be handed over.
const ANOTHER: &str = "runs only on the thread that imported juliacall, which started Julia without its signal handlers\n\
                       To fix: make the Lab before juliacall is imported, or set PYTHON_JULIACALL_HANDLE_SIGNALS=yes before";

/// Why a child of fork can't use a runtime that its parent started.
pub const INHERITED: &str = "its runtime is that of the process that this one was forked from\nTo fix: start processes by \
                             \"spawn\" or \"forkserver\" (multiprocessing.get_context), and make a Lab in each";

/// Why nothing is called in a runtime once this process ends.
const ENDED: &str = "its runtime has ended with this process\n\
                     To fix: call it before the interpreter exits, or in a function that atexit.register got after the Lab was made";

/// The thread that ends this process, once the runtimes of this process end.
static ENDING: OnceLock<ThreadId> = OnceLock::new();

/// From here on only the calling thread returns to Python code that calls a runtime; see [`stay_out`].
#[pyfunction]
pub fn end_runtimes() {
    let _ = ENDING.set(std::thread::current().id());
}

/// Keep a daemon thread out of runtimes that end: it would stop in there for ever, and the GIL with it.
///
/// # Errors
///
/// The thread that ends the process can't wait for the end.
pub fn stay_out(py: Python<'_>) -> Result<(), Failure> {
    match ENDING.get() {
        None => Ok(()),
        Some(it) if *it == std::thread::current().id() => {
            Err(Failure::Nif { kind: error_kind::ERROR, argument: -1, reason: ENDED.into() })
        }
        Some(_) => py.detach(|| {
            loop {
                std::thread::park();
            }
        }),
    }
}

/// Where a caller waits for its result.
struct Ticket<T> {
    result: Mutex<Option<T>>,
    done: Condvar,
}

impl Owner {
    pub fn start(name: &str) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let theirs = Arc::clone(&queue);
        // Julia scans and grows its own stack; 64 MiB are reserved, not used.
        let builder = std::thread::Builder::new().name(name.into()).stack_size(64 << 20);
        let thread = builder.spawn(move || serve(&theirs))?.thread().id();
        Ok(Self { queue: Some(queue), thread, forks: nif_memory::forks() })
    }

    pub fn is_current(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// Run `work` on the thread and wait for it.
    ///
    /// A pending Python signal (Ctrl-C) ends the wait with its exception; the work itself goes on and its result is
    /// dropped, so it must own what it uses.
    ///
    /// # Errors
    ///
    /// That signal's exception; that there is no such thread in a child of fork, or that nothing can be handed to it.
    pub fn run<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let refuse = |why: &str| Err(Failure::Nif { kind: error_kind::ERROR, argument: -1, reason: why.into() });
        if self.forks != nif_memory::forks() {
            return refuse(INHERITED);
        }
        if self.is_current() {
            return Ok(work());
        }
        let Some(queue) = &self.queue else { return refuse(ANOTHER) };
        let ticket = Arc::new(Ticket { result: Mutex::new(None), done: Condvar::new() });
        let theirs = Arc::clone(&ticket);
        queue.push(Box::new(move || {
            let result = work();
            *theirs.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            theirs.done.notify_one();
        }));
        let mut result = py.detach(|| ticket.spin());
        while result.is_none() {
            py.check_signals()?;
            result = py.detach(|| ticket.sleep());
        }
        Ok(result.expect("the loop ends with a result"))
    }
}

impl Queue {
    fn push(&self, work: Work) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).push_back(work);
        self.pending.fetch_add(1, Ordering::Release);
        self.wake.notify_one();
    }
}

impl<T> Ticket<T> {
    fn spin(&self) -> Option<T> {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            if let Some(result) = self.result.try_lock().ok().and_then(|mut it| it.take()) {
                return Some(result);
            }
            std::hint::spin_loop();
        }
        None
    }

    fn sleep(&self) -> Option<T> {
        let guard = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.done.wait_timeout_while(guard, TICK, |result| result.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Nobody waits for the thread here, where the GIL is held. A child of fork doesn't have it.
        if let Some(queue) = self.queue.as_ref().filter(|_| self.forks == nif_memory::forks()) {
            let _work = queue.work.lock().unwrap_or_else(PoisonError::into_inner);
            queue.is_closed.store(true, Ordering::Relaxed);
            queue.wake.notify_all();
        }
    }
}

fn serve(queue: &Queue) {
    loop {
        let start = Instant::now();
        while queue.pending.load(Ordering::Acquire) == 0 && start.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        let guard = queue.work.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle = |work: &mut VecDeque<Work>| work.is_empty() && !queue.is_closed.load(Ordering::Relaxed);
        let mut guard = queue.wake.wait_while(guard, is_idle).unwrap_or_else(PoisonError::into_inner);
        let work = guard.pop_front();
        drop(guard);
        if work.is_none() && queue.is_closed.load(Ordering::Relaxed) {
            return;
        }
        if let Some(work) = work {
            queue.pending.fetch_sub(1, Ordering::Release);
            work();
        }
    }
}

#[pymethods]
impl Owner {
    #[new]
    fn new(name: &str) -> PyResult<Self> {
        Ok(Self::start(name)?)
    }

    /// The thread that asks: it alone may call.
    #[staticmethod]
    fn here() -> Self {
        Self { queue: None, thread: std::thread::current().id(), forks: nif_memory::forks() }
    }

    /// Call a Python function on the thread and return its result. Its exceptions come back too.
    #[pyo3(name = "run")]
    fn run_python(&self, py: Python<'_>, function: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.run(py, move || Python::attach(|py| function.call0(py)))?
    }
}
