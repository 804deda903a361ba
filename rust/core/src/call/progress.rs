//! How far a long call is: its function says so by `nif_host.progress`, a bar and the dashboard show it.
//!
//! A step is two stores. The first of a call starts a thread that looks at them now and then, since the calling one is inside
//! native code; it ends with the call. In the isolated lane the calling thread looks itself.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::prelude::*;

use crate::call::interrupt;
use crate::call::nif::Nif;
use crate::python::door;
use crate::telemetry::Teller;

/// How often the bar of a call in this process is brought up to date.
const LOOK: Duration = Duration::from_millis(100);

thread_local! {
    /// The long call that runs on this thread.
    static RUNNING: Cell<*const Telling> = const { Cell::new(std::ptr::null()) };
}

/// What the bar's thread looks at.
#[derive(Default)]
struct Steps {
    done: AtomicI64,
    total: AtomicI64,
    is_over: AtomicBool,
}

/// A long call in this process.
pub struct Telling {
    name: String,
    teller: Teller,
    is_main: bool,
    watched: OnceLock<(Arc<Steps>, Option<JoinHandle<()>>)>,
}

impl Telling {
    /// To be made by the thread that Python called.
    pub fn of(nif: &Nif) -> Self {
        let is_main = interrupt::is_main_thread();
        Self { name: nif.place.clone(), teller: nif.slot.teller(), is_main, watched: OnceLock::new() }
    }

    /// Run the call, without the GIL. Nothing is left when it is over.
    pub fn during<R>(mut self, call: impl FnOnce() -> R) -> R {
        let before = RUNNING.replace(&raw const self);
        let result = call();
        RUNNING.set(before);
        if let Some((steps, thread)) = self.watched.take() {
            self.teller.tell(0, 0);
            steps.is_over.store(true, Ordering::Release);
            if let Some(thread) = thread {
                thread.thread().unpark();
                let _ = thread.join();
            }
        }
        result
    }

    fn tell(&self, done: i64, total: i64) {
        let (steps, _) = self.watched.get_or_init(|| {
            let steps = Arc::<Steps>::default();
            let theirs = Arc::clone(&steps);
            let (name, is_main) = (self.name.clone(), self.is_main);
            let thread = std::thread::Builder::new().name("nif_lab bar".into());
            let thread = thread.spawn(move || watch(&theirs, &name, is_main)).ok(); // without one there is no bar
            (steps, thread)
        });
        steps.done.store(done, Ordering::Relaxed);
        steps.total.store(total, Ordering::Relaxed);
        self.teller.tell(done, total);
    }
}

fn watch(steps: &Steps, name: &str, is_main: bool) {
    let mut bar = Bar::of(name, Some(is_main));
    while !steps.is_over.load(Ordering::Acquire) {
        std::thread::park_timeout(LOOK);
        let (done, total) = (steps.done.load(Ordering::Relaxed), steps.total.load(Ordering::Relaxed));
        if bar.is_due() {
            let shown = Python::try_attach(|py| {
                bar.show(py, done, total).unwrap_or_else(|error| error.write_unraisable(py, None));
            });
            if shown.is_none() {
                return; // Python is ending
            }
        }
    }
    if bar.is_shown() {
        Python::try_attach(|py| bar.close(py));
    }
}

/// `nif_host.progress` of this process.
pub extern "C" fn progress(done: i64, total: i64) {
    door::guard((), || {
        // SAFETY: a call's `Telling` lives as long as it runs.
        if let Some(it) = unsafe { RUNNING.get().as_ref() } {
            it.tell(done, total);
        }
    });
}

/// A bar that is made when the call has taken long enough.
pub struct Bar {
    name: String,
    since: std::time::Instant,
    /// Whether it is made for the main thread; none for the thread that asks.
    is_main: Option<bool>,
    shown: Option<Py<PyAny>>,
    is_broken: bool,
}

/// How long a call has to take.
const QUIET: Duration = Duration::from_secs(1);

impl Bar {
    pub fn of(name: &str, is_main: Option<bool>) -> Self {
        Self { name: name.into(), since: std::time::Instant::now(), is_main, shown: None, is_broken: false }
    }

    pub fn is_due(&self) -> bool {
        self.is_shown() || (!self.is_broken && self.since.elapsed() >= QUIET)
    }

    pub fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Show how far the call is. A bar that fails once isn't asked again.
    pub fn show(&mut self, py: Python<'_>, done: i64, total: i64) -> PyResult<()> {
        let shown = self.try_show(py, done, total);
        self.is_broken |= shown.is_err();
        shown
    }

    fn try_show(&mut self, py: Python<'_>, done: i64, total: i64) -> PyResult<()> {
        if self.is_broken {
            return Ok(());
        }
        if self.shown.is_none() {
            let asked = (self.name.as_str(), self.since.elapsed().as_secs_f64(), self.is_main);
            self.shown = Some(py.import("nif_lab.progress")?.getattr("CallBar")?.call1(asked)?.unbind());
        }
        if let Some(bar) = &self.shown {
            bar.call1(py, (done, total))?;
        }
        Ok(())
    }

    pub fn close(&mut self, py: Python<'_>) {
        if let Some(bar) = self.shown.take() {
            bar.call_method0(py, "close").map_or_else(|error| error.write_unraisable(py, None), drop);
        }
    }
}
