//! Why a call failed, before it is an exception.

use nif_worker::process::Exit;
use nif_worker::roster::Refused;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::python::errors::call_error;

/// Why a worker gave no answer.
pub enum LaneFailure {
    /// It ended.
    Crashed(Exit),
    /// It took longer than so many seconds. If its function had begun, the worker was ended.
    TimedOut { seconds: f64, has_begun: bool },
    /// It sent an invalid reply, and was terminated.
    Garbage,
    /// It answered, and its device fails from then on: what the driver said.
    Device(String),
    /// There is none.
    NoWorker(Refused),
    /// This thread's own call is running there.
    Busy,
    /// It ended so often that the Lab asks it no more for a while.
    CircuitOpen,
}

impl LaneFailure {
    /// As the segment and `nif_lab.errors` number it.
    pub fn kind(&self) -> i32 {
        match self {
            Self::Crashed(_) | Self::Garbage => 7,
            Self::TimedOut { .. } => 8,
            Self::CircuitOpen => 9,
            Self::NoWorker(_) | Self::Busy => 10,
            Self::Device(_) => nif::abi::error_kind::GPU_ERROR,
        }
    }

    /// What to tell the user.
    pub fn reason(&self) -> String {
        match self {
            Self::Crashed(exit) if exit.signal.is_some() => format!("its worker was terminated by {exit}"),
            Self::Crashed(exit) => format!("its worker ended: {exit}"),
            Self::Garbage => "the worker sent an invalid reply and was terminated".into(),
            Self::TimedOut { seconds, has_begun: true } => {
                format!("took longer than its {seconds} s, and its worker was ended")
            }
            Self::TimedOut { seconds, has_begun: false } => {
                format!("wasn't begun within its {seconds} s: the backend's worker was busy or still starting")
            }
            Self::Device(reason) => reason.clone(),
            Self::CircuitOpen => "its workers ended too often; no call is made for a while".into(),
            Self::NoWorker(Refused { reason, cure, .. }) => format!("no worker: {reason}\nTo fix: {cure}"),
            Self::Busy => "this thread's own call is running in the worker: a signal handler, or a finalizer, that \
                           interrupts a call can't make another one in the same backend\n\
                           To fix: call another backend there, use lane=\"direct\", or leave the call to a thread"
                .into(),
        }
    }
}

/// Why a call can't be made or failed, before it is an exception.
pub enum Failure {
    /// Refused or failed with a kind of the ABI, an argument's index or -1, and the reason.
    Nif { kind: i32, argument: i32, reason: String },
    /// Python's own: KeyboardInterrupt, an exception of `__index__`.
    Python(PyErr),
    /// The worker gave no answer.
    Lane(LaneFailure),
    /// The function would refuse an array, so none was copied to its worker.
    Unfit,
    /// What the Lab's recovery raised after a failure of that kind.
    Given { kind: i32, error: PyErr },
}

impl Failure {
    /// As the segment and `nif_lab.errors` number it.
    pub fn kind(&self) -> i32 {
        match self {
            Self::Nif { kind, .. } | Self::Given { kind, .. } => *kind,
            Self::Python(_) => nif::abi::error_kind::ERROR,
            Self::Unfit => nif::abi::error_kind::TYPE_ERROR,
            Self::Lane(failure) => failure.kind(),
        }
    }

    /// Without the place.
    pub fn text(&self) -> String {
        match self {
            Self::Nif { reason, .. } => reason.clone(),
            Self::Python(error) | Self::Given { error, .. } => error.to_string(),
            Self::Lane(failure) => failure.reason(),
            Self::Unfit => "an array doesn't fit its parameter".into(),
        }
    }

    /// Could the same call succeed when it is made again, or elsewhere?
    pub fn may_pass(&self) -> bool {
        use nif::abi::error_kind::{ERROR, GPU_ERROR, INDEX_ERROR, MEMORY_ERROR, PANIC};
        match self {
            Self::Nif { kind, .. } => matches!(*kind, ERROR | PANIC | MEMORY_ERROR | INDEX_ERROR | GPU_ERROR),
            Self::Lane(LaneFailure::Busy) | Self::Unfit | Self::Python(_) | Self::Given { .. } => false,
            Self::Lane(_) => true,
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Lane(LaneFailure::NoWorker(refused))
    }
}

impl From<LaneFailure> for Failure {
    fn from(failure: LaneFailure) -> Self {
        Self::Lane(failure)
    }
}

/// A failure outside of a call, which has no function's name.
impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Python(error) | Failure::Given { error, .. } => error,
            other => PyRuntimeError::new_err(other.text()),
        }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// A refusal of one argument by the Lab itself.
pub fn refuse(kind: i32, argument: usize, reason: impl Into<String>) -> Failure {
    Failure::Nif { kind, argument: argument as i32, reason: reason.into() }
}

/// A call whose worker gave no answer.
pub fn lane_error(py: Python<'_>, failure: &LaneFailure, backend: &str, function: &str) -> PyErr {
    let reason = failure.reason();
    let error = call_error(py, failure.kind(), backend, function, None, &reason);
    let value = error.value(py);
    let told = match failure {
        LaneFailure::Crashed(exit) => value
            .setattr("signal", exit.signal)
            .and_then(|()| value.setattr("exit_code", exit.code))
            .and_then(|()| value.setattr("address", exit.address))
            .and_then(|()| value.setattr("detail", exit.said.as_str())),
        LaneFailure::TimedOut { has_begun, .. } => value.setattr("has_begun", *has_begun),
        LaneFailure::Busy => value.setattr("is_busy", true),
        LaneFailure::Device(_) => value.setattr("has_ended", true),
        _ => Ok(()),
    };
    told.err().unwrap_or(error)
}
