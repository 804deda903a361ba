//! A call in the isolated lane: Python -> [`Isolated`] -> [`Nif::try_isolated`] -> the channel of a worker, and back.
//!
//! What the worker answers is checked before it is believed. A call that fails for a reason that a new try may cure goes
//! to the Lab's recovery (Python's), which asks for that try.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nif::abi::error_kind;
use nif_loader::table::Table;
use nif_worker::crew::{Crew, Holding, NoTurn, Opening, differs};
use nif_worker::line::Line;
use nif_worker::message::FromWorker;
use nif_worker::process::{Exit, Worker};
use nif_worker::roster::{Refused, Tries};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::failure::{Failure, LaneFailure};
use crate::call::frame::Frame;
use crate::call::limits::{Deadline, Limits, TICK};
use crate::call::nif::Nif;
use crate::call::origin::Lane;
use crate::call::output;
use crate::lane::exchange::Exchange;
use crate::python::door::{Builtin, Given};

/// How long a worker may take to be ready, with all that it opens.
const START: Duration = Duration::from_secs(180);

/// Python's entry.
pub struct Isolated;

impl Builtin for Isolated {
    type This = Nif;

    fn call(nif: &Nif, py: Python<'_>, given: &Given<'_>) -> *mut ffi::PyObject {
        nif.conclude(py, || {
            let limits = Limits { timeout: nif.timeout.get(), garble: 0 };
            let is_looked_at = Cell::new(false);
            nif.adapted(py, given, |given| match nif.try_isolated(py, given, limits, !is_looked_at.replace(true)) {
                Err(failure) if failure.may_pass() => nif.recover(py, given, failure),
                done => done,
            })
        })
    }
}

impl Nif {
    /// Let the Lab's recovery have it.
    #[cold]
    fn recover(&self, py: Python<'_>, given: &Given<'_>, failure: Failure) -> Result<Py<PyAny>, Failure> {
        let Some(recovery) = self.lane().and_then(|it| it.recovery.get()) else { return Err(failure) };
        let kind = failure.kind();
        let exception = self.exception(py, failure);
        let (arguments, keywords) = given.to_python(py)?;
        recovery.call1(py, (self.key(), arguments, keywords, exception.into_value(py))).map_err(|error| {
            // What the recovery's own lines were doesn't matter to who made the call.
            error.set_traceback(py, None);
            Failure::Given { kind, error }
        })
    }

    /// Why a worker that is ready can't call the function.
    #[cold]
    fn not_opened(&self) -> LaneFailure {
        let refusal = self.origin.opening.as_ref().and_then(|it| it.refusal());
        let (reason, cure) = refusal.unwrap_or_else(|| {
            ("no worker can open this function's library any more".into(), "fix it and load it again".into())
        });
        LaneFailure::NoWorker((reason, cure).into())
    }

    pub fn lane(&self) -> Option<&Lane> {
        self.origin.lane.as_ref()
    }

    /// One try in a worker. `looks`: whether nothing is copied for an array that the function will refuse.
    pub fn try_isolated(
        &self,
        py: Python<'_>,
        given: &Given<'_>,
        limits: Limits,
        looks: bool,
    ) -> Result<Py<PyAny>, Failure> {
        let lane = self.lane().expect("only isolated functions come here");
        if lane.is_open.load(Ordering::Relaxed) {
            return Err(LaneFailure::CircuitOpen.into());
        }
        let deadline = limits.deadline();
        let mut frame = Frame::new();
        let mut outputs = Vec::new();
        // SAFETY: the caller keeps the arguments alive; `outputs` holds what was added.
        unsafe { self.fill(py, &mut frame, given, &mut outputs)? };
        if looks && self.is_unfit(&frame) {
            return Err(Failure::Unfit);
        }
        let mut holding = hold(py, &lane.crew, deadline)?;
        let mut tries = Tries::default();
        loop {
            let mut line = match holding.line.take().filter(|it| it.worker.exit().is_none()) {
                Some(line) => line,
                None => connect(py, &lane.crew, deadline)?,
            };
            let Some(number) = line.number_of(self.number) else {
                holding.line = Some(line);
                return Err(self.not_opened().into());
            };
            let mut exchange = Exchange::new(self, number, &frame, limits, deadline);
            let answered = exchange.run(py, &mut line);
            exchange.end_progress(py);
            let spoken = exchange.has_printed.then(|| line.worker.take_spoken(true));
            if holding.is_forked() {
                return answered.and_then(|_| Err(forked_meanwhile().into()));
            }
            // A worker that failed, or skipped a clean-up, isn't asked again.
            if exchange.is_spoilt {
                line.worker.kill();
            }
            if exchange.is_spoilt || line.worker.exit().is_some() {
                let exit = end_of(py, &line.worker)?;
                output::show(py, &line.worker.take_spoken(true))?;
                // One that ended before it came to the function hasn't failed the call.
                if matches!(answered, Err(Failure::Lane(LaneFailure::Crashed(_))))
                    && !(exchange.is_asked && line.has_begun())
                    && tries.again(exit.is_killed())
                {
                    continue;
                }
            } else if exchange.lost.is_none() {
                holding.line = Some(line);
            }
            drop(holding);
            if let Some(spoken) = spoken {
                output::show(py, &spoken)?;
            }
            let outcome = answered?;
            if let Some(said) = exchange.lost.take() {
                return Err(LaneFailure::Device(said).into());
            }
            if exchange.error.kind == error_kind::RAISED {
                return Err(self.raised(py, &frame));
            }
            let (error, tensor) = (std::mem::take(&mut exchange.error), exchange.tensor.take());
            let several = std::mem::take(&mut exchange.several);
            return self.finish(py, &outcome, error, tensor, several, outputs);
        }
    }
}

/// A signal handler forked while the call ran: its worker is the parent's.
#[cold]
pub fn forked_meanwhile() -> LaneFailure {
    let reason = "this process was forked while the call ran; the answer goes to the parent".into();
    LaneFailure::NoWorker((reason, "make the call again".into()).into())
}

/// Wait for the end of a worker that has ended, or was told to: what it could still write to is freed after that.
pub fn end_of(py: Python<'_>, worker: &Worker) -> PyResult<Exit> {
    if let Some(exit) = worker.exit() {
        return Ok(exit.clone());
    }
    loop {
        if let Some(exit) = py.detach(|| worker.wait(TICK)) {
            return Ok(exit.clone());
        }
        py.check_signals()?;
    }
}

/// What a worker made of a source.
pub enum Said {
    Opened(Table),
    Refused(String, String),
    Ended(Exit),
}

/// Have a worker that runs no call open a source. It is ended if it doesn't come to an end with that before Ctrl-C or the deadline.
pub fn open(py: Python<'_>, line: &mut Line, opening: &Opening, deadline: Option<Deadline>) -> Result<Said, Failure> {
    line.ask_to_open(opening);
    let answer = loop {
        match py.detach(|| line.said(Deadline::left(deadline)).map_err(|_| ())) {
            Ok(Some(said)) => break Some(said),
            Ok(None) => check(py, deadline)?, // the line, and so the worker, ends with an error
            Err(()) => break None,
        }
    };
    Ok(match answer {
        Some(FromWorker::Opened(table)) => match table.numbering(opening.table.get_or_init(|| table.clone())) {
            Ok(numbers) => {
                line.note_opened(opening.first, numbers);
                Said::Opened(table)
            }
            // Another worker may list what the first one did, so this one ends and the next is tried.
            Err(why) => {
                opening.refuse(differs(&why));
                line.worker.kill();
                Said::Ended(end_of(py, &line.worker)?)
            }
        },
        Some(FromWorker::Refused(reason, cure)) => Said::Refused(reason, cure),
        None => Said::Ended(end_of(py, &line.worker)?),
    })
}

/// Stop waiting before the call has begun, if the user or its deadline wants it.
fn check(py: Python<'_>, deadline: Option<Deadline>) -> Result<(), Failure> {
    py.check_signals()?;
    match Deadline::passed(deadline) {
        Some(it) => Err(LaneFailure::TimedOut { seconds: it.seconds, has_begun: false }.into()),
        None => Ok(()),
    }
}

/// Get the turn, however long the calls before this one take.
pub fn hold<'a>(py: Python<'_>, crew: &'a Crew, deadline: Option<Deadline>) -> Result<Holding<'a>, Failure> {
    let mut turn = crew.turn(Duration::ZERO);
    loop {
        match turn {
            Ok(holding) => return Ok(holding),
            Err(NoTurn::Yours) => return Err(LaneFailure::Busy.into()),
            Err(NoTurn::Taken) => {}
        }
        turn = py.detach(|| crew.turn(Deadline::left(deadline)));
        if turn.is_err() {
            check(py, deadline)?;
        }
    }
}

/// End the worker that works, so that the next call gets another.
pub fn restart(py: Python<'_>, crew: &Crew) -> Result<(), Failure> {
    let mut holding = hold(py, crew, None)?;
    if let Some(line) = holding.line.take() {
        line.worker.kill();
        end_of(py, &line.worker)?;
    }
    Ok(())
}

/// A line to a worker that is ready, and has opened what was loaded since the crew began.
#[cold]
pub fn connect(py: Python<'_>, crew: &Crew, deadline: Option<Deadline>) -> Result<Line, Failure> {
    let start = Instant::now();
    crew.seek();
    loop {
        match py.detach(|| crew.take(Deadline::left(deadline)))? {
            Some(mut line) => {
                for opening in crew.missing() {
                    match open(py, &mut line, &opening, deadline)? {
                        Said::Opened(_) => {}
                        // If a worker can't open this source, only that source's functions fail.
                        Said::Refused(reason, cure) => opening.refuse((reason, cure)),
                        Said::Ended(exit) => {
                            opening.blame(&exit);
                            break;
                        }
                    }
                }
                if line.worker.exit().is_none() {
                    return Ok(line);
                }
            }
            None => check(py, deadline)?,
        }
        if start.elapsed() > START {
            let reason = format!("no worker was ready within {} s", START.as_secs());
            return Err(Refused { reason, cure: "nif-lab doctor".into(), may_pass: true }.into());
        }
    }
}
