//! One NIF as Python sees it: a built-in function over a swappable pointer, and its counters.
//!
//! A call with ordinary arguments goes: Python's vectorcall -> `straight_call` -> `straight::Arguments`: `take`, `call` -> a
//! float. Every other goes: `door::builtin` -> [`Nif::invoke`] -> `Frame::push_object` for each argument -> `Frame::run` ->
//! `to_python`. No Python code runs on the way unless the call fails.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use nif::abi::{Call, error_kind, flag};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::call::failure::{Failure, lane_error, refuse};
use crate::call::frame::{Frame, RELEASE_BYTES};
use crate::call::host::{ErrorRecord, HostTensor};
use crate::call::interrupt;
use crate::call::limits::Timeout;
use crate::call::origin::{Origin, reload};
use crate::call::outcome::Outcome;
use crate::call::output::{self, Catching};
use crate::call::owner::Owner;
use crate::call::progress::Telling;
use crate::call::results::{Results, to_python};
use crate::call::signature::{Param, Several, Signature};
use crate::call::target::{Place, Target, elsewhere};
use crate::memory::common::Common;
use crate::python;
use crate::python::door::{self, Given};
use crate::python::errors;
use crate::telemetry::{DIRECT, ISOLATED, Slot};

/// A natively implemented function: its description, its counters and, as `function`, the built-in that calls it.
#[pyclass(frozen, module = "nif_lab._core", weakref)]
pub struct Nif {
    pub signature: Signature,
    pub signature_text: String,
    /// `zig.dot`, for the ledger.
    pub place: String,
    pub doc: String,
    pub flags: u32,
    /// Of a tuple with names.
    class: Option<Py<PyAny>>,
    pub outputs: usize,
    /// Bit n: the function writes to its nth argument.
    pub mutable: u32,
    /// Bit n: the nth is a matrix, which may have any strides.
    pub matrices: u32,
    /// Bit n: the nth is a list of texts.
    pub texts: u32,
    pub slot: Slot,
    pub origin: Arc<Origin>,
    pub target: Arc<Target>,
    /// Which of the isolated backend's functions it is; each worker has its own number for it.
    pub number: u32,
    /// How long a call in a worker may take.
    pub timeout: Timeout,
    // What Python's method definition points to: kept as long as the NIF, which the built-in keeps alive.
    pub method: ffi::PyMethodDef,
    _name: CString,
    _doc: CString,
}

// SAFETY: the method definition and its strings are never written after `new`; everything else is Send and Sync by itself.
unsafe impl Send for Nif {}
// SAFETY: as above.
unsafe impl Sync for Nif {}

impl Nif {
    /// `entry`: what Python calls.
    #[allow(clippy::too_many_arguments, reason = "one caller, which has them one by one")]
    pub fn new(
        signature: Signature,
        signature_text: &str,
        doc: &str,
        flags: u32,
        place: Place,
        entry: ffi::PyCFunctionFastWithKeywords,
        origin: Arc<Origin>,
    ) -> Result<Self, String> {
        let text = |it: String| CString::new(it).map_err(|_| format!("'{signature_text}': a NUL in its texts"));
        let name = text(signature.name.clone())?;
        // Python's `inspect` reads the first line, `help` shows the rest.
        let python_doc = text(format!("{}\n--\n\n{signature_text}\n\n{doc}", signature.python()))?;
        let outputs = signature.params.iter().filter(|p| p.output.is_some()).count();
        let (call, number, lane) = match place {
            Place::Here(call) => (call, 0, DIRECT),
            Place::InWorker(number) => (elsewhere as Call, number, ISOLATED),
        };
        let method = door::method(&name, &python_doc, entry);
        // A function without an effect may always be called again.
        let flags = if flags & flag::PURE == 0 { flags } else { flags | flag::IDEMPOTENT };
        let slot = Slot::new(&origin.telemetry.get().segment, origin.number, lane, &signature.name, flags)?;
        Ok(Self {
            class: signature
                .several
                .as_ref()
                .map_or(Ok(None), |it| Python::attach(|py| class_of(py, &signature.name, it)))?,
            outputs,
            mutable: signature.bits(|it| it.mutable),
            matrices: signature.bits(|it| it.spelled.matches(',').count() == 1 || it.spelled == "any"),
            texts: signature.bits(Param::is_texts),
            place: format!("{}.{}", origin.backend, signature.name),
            signature,
            signature_text: signature_text.into(),
            doc: doc.into(),
            flags,
            slot,
            origin,
            target: Arc::new(Target::new(call)),
            number,
            timeout: Timeout::default(),
            method,
            _name: name,
            _doc: python_doc,
        })
    }

    pub fn key(&self) -> &str {
        &self.signature.name
    }

    /// Where the call goes, for a reload to change.
    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target)
    }

    /// The call itself, from Python's arguments to Python's result.
    #[inline]
    pub fn invoke(&self, py: Python<'_>, given: &Given<'_>) -> Result<Py<PyAny>, Failure> {
        if self.origin.needs_reload() {
            reload(py, &self.origin)?;
        }
        if let Some(owner) = self.owner().filter(|owner| !owner.is_current()) {
            return self.invoke_on(py, owner, given);
        }
        // Until Python has the result: a string of the library may be part of it.
        let _running = self.origin.calls.begin();
        let mut frame = Frame::new();
        let mut outputs = Vec::new();
        // SAFETY: the caller of a built-in keeps its arguments alive; `outputs` holds what was added.
        unsafe { self.fill(py, &mut frame, given, &mut outputs)? };
        let call = self.target.get();
        let large = frame.bytes_total >= RELEASE_BYTES;
        let catching = if output::may_be_caught() { Catching::begin(py)? } else { None };
        // SAFETY: `call` is a function of a library that isn't closed while a call runs, and the frame's objects are alive.
        let timed = self.slot.is_next_timed();
        let room = self.room().map(AsRef::as_ref);
        let mut several = Results::of(self.signature.several.as_ref());
        let releases = self.flags & (flag::POLLS_CANCEL | flag::LONG) != 0 || large || self.origin.is_shared_runtime();
        if !releases {
            frame.keep_gil();
        }
        let mut run = |cancel| unsafe { frame.run(call, cancel, timed, room, &mut several) };
        let outcome = if releases {
            let telling = Telling::of(self);
            interrupt::released(self, |cancel| py.detach(|| telling.during(|| run(cancel))))
        } else {
            interrupt::keeping(self, || run(&interrupt::NEVER))
        };
        let (error, tensor) = (std::mem::take(&mut frame.error), outcome.claim());
        finish_output(py, catching)?;
        if error.kind == error_kind::RAISED {
            return Err(self.raised(py, &frame));
        }
        self.finish(py, &outcome, error, tensor, several, outputs)
    }

    /// A callback's own failure: the exception that it raised, or why what it gave isn't taken. Nothing of it is to be adapted.
    #[cold]
    pub fn raised(&self, py: Python<'_>, frame: &Frame) -> Failure {
        let failure = frame.raised();
        let kind = failure.kind();
        match failure {
            Failure::Nif { .. } => Failure::Given { kind, error: self.exception(py, failure) },
            other => other,
        }
    }

    pub fn is_long(&self) -> bool {
        self.flags & flag::LONG != 0
    }

    pub fn polls_cancel(&self) -> bool {
        self.flags & flag::POLLS_CANCEL != 0
    }

    /// Where the function allocates its result, if that is in memory.
    fn room(&self) -> Option<&Arc<Common>> {
        self.signature.returns_memory().then(|| &self.origin.memory.get().common)
    }

    /// The thread that the function is bound to.
    fn owner(&self) -> Option<&Owner> {
        self.origin.owner.as_ref().filter(|_| self.flags & flag::THREAD_BOUND != 0).map(Py::get)
    }

    /// The same on another thread: all that the call uses goes along.
    fn invoke_on(&self, py: Python<'_>, owner: &Owner, given: &Given<'_>) -> Result<Py<PyAny>, Failure> {
        let _running = self.origin.calls.begin();
        let mut frame = Box::new(Frame::new());
        let mut outputs = Vec::new();
        // SAFETY: as in `invoke`; `held` keeps the arguments alive if this wait is interrupted and the call goes on alone.
        unsafe { self.fill(py, &mut frame, given, &mut outputs)? };
        // SAFETY: as above.
        let mut held: Vec<Py<PyAny>> = given.values.iter().map(|it| unsafe { python::borrowed(py, *it) }).collect();
        held.extend(outputs.iter().map(|it| it.clone_ref(py)));
        let call = self.target.get();
        let catching = if output::may_be_caught() { Catching::begin(py)? } else { None };
        let timed = self.slot.is_next_timed();
        let room = self.room().cloned();
        let cancel = Arc::new(AtomicI32::new(0));
        let theirs = Arc::clone(&cancel);
        let mut several = Results::of(self.signature.several.as_ref());
        // It goes along too: an interrupted wait leaves the call running, and a reload must not close its library.
        let running = self.origin.hand_over();
        let telling = (self.flags & (flag::LONG | flag::POLLS_CANCEL) != 0).then(|| Telling::of(self));
        let done = owner.run(py, move || {
            let _running = running;
            // SAFETY: as in `invoke`, with `held` in place of the caller.
            let mut run = || unsafe { frame.run(call, &theirs, timed, room.as_deref(), &mut several) };
            let outcome = if let Some(it) = telling { it.during(run) } else { run() };
            let tensor = outcome.claim();
            (outcome, tensor, several, frame, held)
        });
        // An interrupted wait leaves the call alone; one that polls its flag then stops too.
        finish_output(py, catching)?;
        let (outcome, tensor, several, mut frame, held) = done.inspect_err(|why| {
            cancel.store(1, Ordering::Relaxed);
            if matches!(why, Failure::Python(_)) && !self.polls_cancel() {
                interrupt::left_behind(py, self);
            }
        })?;
        let error = std::mem::take(&mut frame.error);
        if error.kind == error_kind::RAISED {
            return Err(self.raised(py, &frame));
        }
        drop(held);
        self.finish(py, &outcome, error, tensor, several, outputs)
    }

    /// Put the arguments into the frame: positional, by keyword, and outputs that were left out.
    #[inline]
    pub unsafe fn fill(
        &self,
        py: Python<'_>,
        frame: &mut Frame,
        given: &Given<'_>,
        outputs: &mut Vec<Py<PyAny>>,
    ) -> Result<(), Failure> {
        let params = &self.signature.params;
        let array_type = python::array_type();
        let mut held = Vec::new();
        let unsettled = given.values;
        let packed = self.packed(py, given, &mut held)?;
        let given = &Given { values: &packed, ..*given };
        let given = &Given { values: &given.settle(py, &mut held)?, ..*given };
        frame.hold(held);
        let is_plain = given.positional == given.values.len() && self.outputs == 0;
        if is_plain && self.signature.is_whole(given.positional) {
            for (object, param) in given.values.iter().zip(params) {
                // SAFETY: the caller vouches for the arguments.
                unsafe { frame.push_object(py, *object, param, array_type)? };
            }
            return Ok(());
        }
        // SAFETY: as above.
        unsafe {
            let slots = self.bind(py, given)?;
            for (param, object) in params.iter().zip(slots) {
                if let (true, Some(default)) = (object.is_null(), &param.default) {
                    frame.push_default(default);
                    continue;
                }
                let left_out = object.is_null() || object == ffi::Py_None();
                match &param.output {
                    Some((element, axes)) if left_out => {
                        let lengths: Option<Vec<i64>> = axes.iter().map(|axis| frame.extent(*axis)).collect();
                        let Some(shape) = lengths else {
                            frame.push_none();
                            continue;
                        };
                        let output = self.origin.memory.get().output(py, element, &shape).map_err(|_| {
                            let reason = format!("no memory for {element}{shape:?}").replace(", ", ",");
                            refuse(error_kind::MEMORY_ERROR, frame.count, reason)
                        })?;
                        frame.push_object(py, output.as_ptr(), param, array_type)?;
                        outputs.push(output);
                    }
                    output => {
                        frame.push_object(py, object, param, array_type)?;
                        if output.is_some() {
                            // What was given, and not the capsule that stands for it.
                            let place = given.values.iter().position(|it| *it == object);
                            outputs.push(python::borrowed(py, place.map_or(object, |it| unsettled[it])));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Which object goes to which parameter; null where an output was left out.
    #[cold]
    unsafe fn bind(&self, py: Python<'_>, given: &Given<'_>) -> Result<Vec<*mut ffi::PyObject>, Failure> {
        let params = &self.signature.params;
        let unknown = |reason: String| Failure::Nif { kind: error_kind::TYPE_ERROR, argument: -1, reason };
        let count_error = |expected: usize, given: usize| {
            let s = if expected == 1 { "" } else { "s" };
            unknown(format!("takes {expected} argument{s}, {given} given"))
        };
        if self.signature.is_open {
            return Err(unknown(format!("takes up to {} arguments, none by name", params.len())));
        }
        let places = self.signature.positional();
        if given.positional > places || given.values.len() > params.len() {
            return Err(count_error(places, given.values.len()));
        }
        let (positional, named) = given.values.split_at(given.positional);
        let mut slots = vec![std::ptr::null_mut(); params.len()];
        slots[..positional.len()].copy_from_slice(positional);
        for (i, value) in named.iter().enumerate() {
            // SAFETY: `names` is a tuple with a str for each named value.
            let name = unsafe { Bound::from_borrowed_ptr(py, ffi::PyTuple_GET_ITEM(given.names, i as isize)) };
            let name = name.to_string();
            let Some(index) = params.iter().position(|p| p.name == name) else {
                return Err(unknown(format!("has no parameter '{name}'")));
            };
            if !slots[index].is_null() {
                return Err(unknown(format!("has two values for parameter '{name}'")));
            }
            slots[index] = *value;
        }
        if let Some(missing) = self.signature.missing(|i| !slots[i].is_null()) {
            return Err(if missing.is_keyword {
                unknown(format!("needs a value for its keyword '{}'", missing.name))
            } else {
                count_error(self.signature.required(), given.values.len())
            });
        }
        Ok(slots)
    }

    /// Count the call and make Python's result of it.
    #[inline]
    pub fn finish(
        &self,
        py: Python<'_>,
        outcome: &Outcome,
        error: ErrorRecord,
        tensor: Option<Box<HostTensor>>,
        several: Results,
        outputs: Vec<Py<PyAny>>,
    ) -> Result<Py<PyAny>, Failure> {
        if outcome.status != 0 {
            return Err(self.failure(py, outcome.status, error));
        }
        self.slot.succeed(outcome.time);
        let result = match &self.signature.several {
            None => to_python(py, &outcome.result, tensor, self.signature.kind, self.origin.memory.get())?,
            Some(it) => several.into_python(py, it, self.class.as_ref(), self.origin.memory.get())?,
        };
        if self.outputs == 0 {
            return Ok(result);
        }
        let mut all = outputs;
        if !result.is_none(py) {
            all.insert(0, result);
        }
        if all.len() == 1 {
            return Ok(all.swap_remove(0));
        }
        Ok(PyTuple::new(py, all)?.into_any().unbind())
    }

    #[cold]
    fn failure(&self, py: Python<'_>, status: i32, error: ErrorRecord) -> Failure {
        if error.kind & error_kind::TAINTED != 0 {
            self.origin.taint();
        }
        // A call that was cancelled by Ctrl-C ends as Ctrl-C does everywhere.
        if error.kind == error_kind::CANCELLED
            && let Err(interrupt) = py.check_signals()
        {
            return Failure::Python(interrupt);
        }
        let reason = match (error.kind, error.message) {
            (0, _) => format!("failed with status {status} and gave no reason"),
            (_, message) => message,
        };
        let kind = if error.kind == 0 { error_kind::ERROR } else { error.kind & !error_kind::TAINTED };
        Failure::Nif { kind, argument: if error.kind == 0 { -1 } else { error.argument }, reason }
    }

    /// What Python gets for a call: a new reference, or null with an exception set. The core's own panic is a failure too.
    pub fn conclude(&self, py: Python<'_>, call: impl FnOnce() -> Result<Py<PyAny>, Failure>) -> *mut ffi::PyObject {
        let broken = || Failure::Nif {
            kind: error_kind::PANIC,
            argument: -1,
            reason: "the Lab's own core panicked; please report it".into(),
        };
        let failure = match door::guard(None, || Some(call())) {
            Some(Ok(result)) => return result.into_ptr(),
            Some(Err(failure)) => failure,
            None => broken(),
        };
        self.record_failure(&failure);
        self.exception(py, failure).restore(py);
        std::ptr::null_mut()
    }

    fn record_failure(&self, failure: &Failure) {
        let argument = if let Failure::Nif { argument, .. } = failure { *argument } else { -1 };
        self.slot.fail(failure.kind(), argument, &failure.text());
    }

    pub fn exception(&self, py: Python<'_>, failure: Failure) -> PyErr {
        match failure {
            Failure::Python(error) | Failure::Given { error, .. } => error,
            Failure::Unfit => errors::call_error(
                py,
                failure.kind(),
                &self.origin.backend,
                &self.signature.name,
                None,
                &failure.text(),
            ),
            Failure::Lane(failure) => lane_error(py, &failure, &self.origin.backend, &self.signature.name),
            Failure::Nif { kind, argument, reason } => {
                let argument = usize::try_from(argument).ok().and_then(|i| self.signature.params.get(i));
                let argument = argument.map(|param| param.name.as_str()).filter(|name| !name.is_empty());
                errors::call_error(py, kind, &self.origin.backend, &self.signature.name, argument, &reason)
            }
        }
    }
}

/// A call is over: what it printed is on its way.
#[inline]
fn finish_output(py: Python<'_>, catching: Option<Catching>) -> Result<(), Failure> {
    output::flush();
    if let Some(it) = catching {
        it.end(py)?;
    }
    Ok(())
}

/// The class of a function's named tuples; none where the values have no names.
fn class_of(py: Python<'_>, function: &str, several: &Several) -> Result<Option<Py<PyAny>>, String> {
    if several.names.is_empty() {
        return Ok(None);
    }
    let make = || {
        let keywords = PyDict::new(py);
        keywords.set_item("rename", true)?; // what isn't a name in Python becomes `_0`
        keywords.set_item("module", "nif_lab")?;
        let name = function.replace('!', "_b");
        let class = py.import("collections")?.call_method("namedtuple", (name, &several.names), Some(&keywords))?;
        Ok(Some(class.unbind()))
    };
    make().map_err(|error: PyErr| error.to_string())
}
