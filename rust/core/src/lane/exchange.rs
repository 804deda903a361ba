//! One request to a worker, and what comes back: put into the channel, waited for, checked.

use std::ffi::CString;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nif::abi::{Any, AnyValue, DEVICE_CPU, DType, Device, Tensor, error_kind, type_index};
use nif_gpu::{buffers, kernels};
use nif_worker::channel::{Argument, MAX_ARGUMENTS, NOWHERE, ROOM, ReplyHead, Value, reply, request};
use nif_worker::line::{Line, State};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use crate::call::failure::{Failure, LaneFailure};
use crate::call::frame::{Frame, RELEASE_BYTES};
use crate::call::host::{ErrorRecord, HostTensor};
use crate::call::limits::{Deadline, Limits, TICK};
use crate::call::nif::Nif;
use crate::call::outcome::Outcome;
use crate::call::output;
use crate::call::progress::Bar;
use crate::call::results::Results;
use crate::lane::isolated::{end_of, forked_meanwhile};
use crate::lane::lent::Lent;
use crate::lane::parcel::{Parcels, travels_in_request};
use crate::memory::block::Block;

/// What a function that polls its cancel flag gets to stop by itself.
const GRACE: Duration = Duration::from_millis(50);

fn tensors(frame: &Frame) -> [Option<&Tensor>; MAX_ARGUMENTS] {
    std::array::from_fn(|i| frame.tensor(i))
}

/// One request and what comes back.
pub struct Exchange<'a> {
    nif: &'a Nif,
    /// The worker's own number of the function.
    number: u32,
    frame: &'a Frame,
    limits: Limits,
    deadline: Option<Deadline>,
    parcels: Parcels,
    /// Blocks that the function asked for.
    granted: Vec<HostTensor>,
    /// A string that the function returned; the outcome points to it.
    string: Option<CString>,
    /// There may be more of what the function printed.
    pub has_printed: bool,
    /// Of a call that says how far it is.
    bar: Option<Bar>,
    pub error: ErrorRecord,
    pub tensor: Option<Box<HostTensor>>,
    /// The values of a tuple.
    pub several: Results,
    /// The worker isn't to be asked again.
    pub is_spoilt: bool,
    /// The worker has answered, and isn't to be asked again, because its device fails from now on: what the driver said.
    pub lost: Option<String>,
    /// The worker was asked: before that it can't have begun.
    pub is_asked: bool,
}

impl<'a> Exchange<'a> {
    pub fn new(nif: &'a Nif, number: u32, frame: &'a Frame, limits: Limits, deadline: Option<Deadline>) -> Self {
        Self {
            nif,
            number,
            frame,
            limits,
            deadline,
            parcels: Parcels::new(),
            granted: Vec::new(),
            string: None,
            has_printed: false,
            bar: None,
            error: ErrorRecord::default(),
            tensor: None,
            several: Results::of(nif.signature.several.as_ref()),
            is_spoilt: false,
            lost: None,
            is_asked: false,
        }
    }

    /// Make the call.
    pub fn run(&mut self, py: Python<'_>, line: &mut Line) -> Result<Outcome, Failure> {
        let is_large = self.frame.bytes_total >= RELEASE_BYTES;
        if is_large { py.detach(|| self.write(line)) } else { self.write(line) }?;
        self.is_asked = true;
        line.ring();
        loop {
            let state = self.wait(py, line, is_large || self.nif.is_long())?;
            if state == State::Dead {
                return Err(LaneFailure::Crashed(end_of(py, &line.worker)?).into());
            }
            let head = if state == State::Replied { line.head() } else { None };
            let Some(head) = head else {
                self.is_spoilt = true;
                return Err(LaneFailure::Garbage.into());
            };
            self.has_printed |= head.printed != 0;
            if head.what == reply::DONE {
                return self.conclude(py, line, &head);
            }
            // A function that asks for something without end never makes its host wait.
            self.check(py, line)?;
            if head.what == reply::CALL_BACK {
                if head.printed != 0 {
                    output::show(py, &line.worker.take_spoken(true))?; // before what the callback prints
                }
                self.call_back(py, line, &head);
                line.go_on();
                continue;
            }
            if head.what == reply::DEVICE {
                self.tell_number(py, line, &head)?;
                line.go_on();
                continue;
            }
            self.grant(line, &head);
            line.go_on();
        }
    }

    /// Tell the worker where a number of a device leads, once this process's own work there is over.
    #[cold]
    fn tell_number(&mut self, py: Python<'_>, line: &mut Line, head: &ReplyHead) -> Result<(), Failure> {
        let (number, is_kernel) = (head.value, head.argument != 0);
        let crew = &self.nif.lane().expect("only isolated functions come here").crew;
        if is_kernel {
            crew.use_kernel(number);
            let _ = kernels::origin(number).map(|it| crew.use_device(it.device));
        } else if let Some(device) = buffers::find(number).ok().and_then(|it| nif_gpu::Device::opened(it.device.id)) {
            crew.use_device(device.id);
            // A device that fails here may still serve the worker.
            while let Ok(false) = py.detach(|| device.wait(TICK)) {
                self.check(py, line)?;
            }
        }
        let mail = py.detach(|| line.tell_number(number, is_kernel));
        let request = line.request();
        // SAFETY: the request is the host's until it rings.
        unsafe {
            (&raw mut (*request).mail).write(mail);
            (&raw mut (*request).what).write(request::GRANT);
        }
        Ok(())
    }

    /// Put the call into the request.
    fn write(&mut self, line: &mut Line) -> Result<(), Failure> {
        let common = &self.nif.origin.memory.get().common;
        let no_memory = |error: nif_memory::AllocError| {
            refuse_all(error_kind::MEMORY_ERROR, format!("no shared memory for the arguments: {error}"))
        };
        // SAFETY: the frame's arrays are alive.
        unsafe {
            self.parcels.pack(&tensors(self.frame), (self.nif.mutable, self.nif.matrices), common, &self.nif.place)
        }
        .map_err(no_memory)?;
        let request = line.request();
        let mut used = 0; // words of the room
        for index in 0..self.frame.count {
            let Any { type_index: kind, v, .. } = self.frame.value(index).expect("counted");
            let mut argument = Argument {
                kind,
                mutable: self.nif.mutable >> index & 1,
                // SAFETY: any bits are a number.
                value: unsafe { v.i }.cast_unsigned(),
                segment: 0,
                ndim: 0,
                offset: 0,
                low: 0,
                high: 0,
                dtype: DType { code: 0, bits: 0, lanes: 0 },
                shape: NOWHERE,
                strides: NOWHERE,
            };
            // SAFETY: the request is the host's until it rings; `used` is checked against the room.
            unsafe {
                let room = (&raw mut (*request).room).cast::<u64>();
                match kind {
                    type_index::TENSOR => {
                        let tensor = &*v.p.cast::<Tensor>();
                        let place = self.parcels.places[index];
                        let axes = tensor.ndim as usize;
                        (argument.segment, argument.offset) = (place.segment, place.offset);
                        (argument.low, argument.high) = (place.low, place.high);
                        (argument.ndim, argument.dtype) = (axes as u32, tensor.dtype);
                        if travels_in_request(tensor, argument.mutable != 0) {
                            argument.offset = 8 * used as u64;
                            let item = usize::from(tensor.dtype.bits / 8);
                            room.add(used).cast::<u8>().copy_from_nonoverlapping(tensor.data.cast(), item);
                            used += item.div_ceil(8);
                        }
                        argument.shape = used as u32;
                        room.add(used).cast::<i64>().copy_from_nonoverlapping(tensor.shape, axes);
                        used += axes;
                        if !tensor.strides.is_null() && !place.is_packed {
                            argument.strides = used as u32;
                            room.add(used).cast::<i64>().copy_from_nonoverlapping(tensor.strides, axes);
                            used += axes;
                        }
                    }
                    type_index::STR | type_index::BYTES => {
                        let text = self.frame.text(index);
                        argument.value = text.len() as u64 - u64::from(kind == type_index::STR);
                        let words = text.len().div_ceil(8);
                        if words <= ROOM / 8 / 4 && used + words <= ROOM / 8 - 2048 {
                            argument.offset = 8 * used as u64;
                            room.add(used).cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
                            used += words;
                        } else {
                            self.parcels.text(index, text, common, &self.nif.place).map_err(no_memory)?;
                            let place = self.parcels.places[index];
                            (argument.segment, argument.offset) = (place.segment, place.offset);
                        }
                    }
                    type_index::TVM_FUNCTION => argument.value = 0, // an address of this process
                    _ => {}
                }
                (&raw mut (*request).arguments).cast::<Argument>().add(index).write(argument);
            }
        }
        let mail = line.show(&common.arena);
        // SAFETY: as above.
        unsafe {
            (&raw mut (*request).what).write(request::CALL);
            (&raw mut (*request).mail).write(mail);
            (&raw mut (*request).function).write(self.number);
            (&raw mut (*request).count).write(self.frame.count as u32);
            (&raw mut (*request).timed).write(u32::from(self.nif.slot.is_next_timed()));
            (&raw mut (*request).garble).write(self.limits.garble);
            (&raw mut (*request).results).write(self.several.values.len() as u32);
        }
        Ok(())
    }

    /// Wait for the worker: a moment with the GIL, then without.
    fn wait(&mut self, py: Python<'_>, line: &mut Line, is_long: bool) -> Result<State, Failure> {
        let mut state = if is_long { py.detach(|| line.look()) } else { line.look() };
        while state == State::Waiting {
            state = py.detach(|| line.sleep(Deadline::left(self.deadline)));
            if state != State::Waiting {
                break;
            }
            self.check(py, line)?;
            self.show_progress(py, line)?;
            self.has_printed = true; // nobody has looked
            output::show(py, &line.worker.take_spoken(false))?;
        }
        Ok(state)
    }

    /// Show how far the call is, if its function says so.
    fn show_progress(&mut self, py: Python<'_>, line: &mut Line) -> Result<(), Failure> {
        let (done, total) = {
            let it = line.progress();
            (it.done.load(Ordering::Relaxed), it.total.load(Ordering::Relaxed))
        };
        if total <= 0 {
            return Ok(());
        }
        self.nif.slot.teller().tell(done, total);
        let bar = self.bar.get_or_insert_with(|| Bar::of(&self.nif.place, None));
        if bar.is_due()
            && let Err(error) = bar.show(py, done, total)
        {
            if !error.is_instance_of::<PyException>(py) {
                self.stop(py, line); // Ctrl-C came while the bar was drawn
                return Err(error.into());
            }
            error.write_unraisable(py, None);
        }
        Ok(())
    }

    /// Leave nothing of the bar behind.
    pub fn end_progress(&mut self, py: Python<'_>) {
        if let Some(mut bar) = self.bar.take() {
            self.nif.slot.teller().tell(0, 0);
            bar.close(py);
        }
    }

    /// Stop the running call if the user or its deadline wants it.
    fn check(&mut self, py: Python<'_>, line: &mut Line) -> Result<(), Failure> {
        let signals = py.check_signals();
        if line.worker.is_parents() {
            // A signal handler forked: the channel is the parent's.
            return Err(signals.map_or_else(Failure::from, |()| forked_meanwhile().into()));
        }
        if let Err(interrupt) = signals {
            self.stop(py, line);
            return Err(interrupt.into());
        }
        if let Some(it) = Deadline::passed(self.deadline) {
            self.stop(py, line);
            return Err(LaneFailure::TimedOut { seconds: it.seconds, has_begun: true }.into());
        }
        Ok(())
    }

    /// End the running call: by its flag if the function looks at that, else with its worker.
    fn stop(&mut self, py: Python<'_>, line: &mut Line) {
        self.is_spoilt = true;
        if self.nif.polls_cancel() {
            line.set_cancel(true);
            let state = py.detach(|| line.sleep(GRACE));
            line.set_cancel(false);
            let is_done = |head: ReplyHead| head.what == reply::DONE && head.kind & error_kind::TAINTED == 0;
            self.is_spoilt = !(state == State::Replied && line.head().is_some_and(is_done));
        }
    }

    /// Call a callable among the arguments, and put what it gave into the request.
    #[cold]
    fn call_back(&mut self, py: Python<'_>, line: &mut Line, head: &ReplyHead) {
        let callback = usize::try_from(head.argument).ok().and_then(|it| self.frame.callback(it));
        let number = head.value.checked_sub(1).and_then(|it| usize::try_from(it).ok());
        let block = number.and_then(|it| self.granted.get(it)).map(|it| (it.block.address(), it.block.size()));
        let given = callback.and_then(|it| {
            let mut lent = Lent::read(&line.room(head.length), it.takes(), block);
            let given = it.call(py, &lent.values());
            if block.is_none() {
                lent.answer(line.request());
            }
            given
        });
        let request = line.request();
        // SAFETY: the request is the host's until it rings; any bits are a number.
        unsafe {
            (&raw mut (*request).mail).write(0);
            (&raw mut (*request).what).write(if given.is_some() { request::GRANT } else { request::REFUSE });
            if let Some(given) = given {
                let argument = (&raw mut (*request).arguments).cast::<Argument>();
                (*argument).kind = given.type_index;
                (*argument).value = given.v.i.cast_unsigned();
            }
        }
    }

    /// Give the function a block of shared memory, or tell it that there is none.
    fn grant(&mut self, line: &mut Line, head: &ReplyHead) {
        let common = &self.nif.origin.memory.get().common;
        let shape: Box<[i64]> = line
            .room(head.length)
            .chunks_exact(8)
            .map(|it| i64::from_le_bytes(it.try_into().unwrap_or_default()))
            .collect();
        let item = crate::python::dtype::to_numpy(head.dtype).map(|(_, item)| item);
        let bytes =
            item.and_then(|item| shape.iter().try_fold(item, |total, n| total.checked_mul(usize::try_from(*n).ok()?)));
        let block = bytes.and_then(|bytes| common.allocate(bytes, false).ok());
        let block = block.inspect(Block::lend);
        let mail = line.show(&common.arena);
        let request = line.request();
        // SAFETY: the request is the host's until it rings.
        unsafe {
            (&raw mut (*request).mail).write(mail);
            (&raw mut (*request).what).write(if block.is_some() { request::GRANT } else { request::REFUSE });
            if let Some(block) = &block {
                let argument = (&raw mut (*request).arguments).cast::<Argument>();
                (*argument).segment = block.handle().segment;
                (*argument).offset = block.handle().offset;
                (*argument).value = block.size() as u64;
            }
        }
        if let Some(block) = block {
            let mut shape = shape;
            let tensor = Tensor {
                data: block.address().as_ptr().cast(),
                device: Device { r#type: DEVICE_CPU, id: 0 },
                ndim: shape.len() as i32,
                dtype: head.dtype,
                shape: shape.as_mut_ptr(),
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            };
            self.granted.push(HostTensor { tensor, shape, block });
        }
    }

    /// Make the outcome of the last reply.
    fn conclude(&mut self, py: Python<'_>, line: &Line, head: &ReplyHead) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::new();
        outcome.status = head.status;
        outcome.time = (head.ticks != 0 || head.start != 0).then_some((head.start, head.ticks));
        if head.status != 0 {
            let message = String::from_utf8_lossy(&self.text(line, head)).into_owned();
            // Only kinds of the ABI are a function's to claim.
            let plain = head.kind & !error_kind::TAINTED;
            let known = (0..=error_kind::CANCELLED).contains(&plain)
                || matches!(plain, error_kind::INDEX_ERROR | error_kind::RAISED | error_kind::GPU_ERROR);
            let kind = if known { head.kind } else { error_kind::ERROR };
            if kind == error_kind::GPU_ERROR | error_kind::TAINTED {
                self.lost = Some(message);
                return Ok(outcome);
            }
            self.error = ErrorRecord { kind, argument: head.argument, message };
            self.is_spoilt = kind & error_kind::TAINTED != 0;
            return Ok(outcome);
        }
        let (frame, parcels, place) = (self.frame, &self.parcels, &self.nif.place);
        let common = &self.nif.origin.memory.get().common;
        // SAFETY: the frame's arrays are alive.
        let unpack = || unsafe { parcels.unpack(&tensors(frame), common, place) };
        if self.frame.bytes_total >= RELEASE_BYTES {
            py.detach(unpack);
        } else {
            unpack();
        }
        if !self.several.is_empty() {
            self.take_several(&line.room(head.length))?;
            return Ok(outcome);
        }
        outcome.result = Any { type_index: head.type_index, zero: 0, v: AnyValue { i: head.value.cast_signed() } };
        match head.type_index {
            type_index::TENSOR => {
                let index = usize::try_from(head.value).ok().filter(|it| *it < self.granted.len());
                self.tensor = index.map(|it| Box::new(self.granted.swap_remove(it)));
            }
            type_index::STR => {
                let bytes = self.text(line, head);
                let string = self.string.insert(CString::new(bytes).unwrap_or_default());
                outcome.result.v.p = string.as_ptr().cast_mut().cast();
            }
            _ => {}
        }
        Ok(outcome)
    }

    /// Take the values of a tuple, as many as its signature has: nothing of them is an address.
    #[cold]
    fn take_several(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() != size_of::<Value>() * self.several.values.len() {
            self.is_spoilt = true;
            return Err(LaneFailure::Garbage.into());
        }
        let mut granted: Vec<_> = self.granted.drain(..).map(|it| Some(Box::new(it))).collect();
        self.several.tensors.clear();
        for (to, from) in self.several.values.iter_mut().zip(bytes.chunks_exact(size_of::<Value>())) {
            // SAFETY: any bits are a value.
            let from = unsafe { from.as_ptr().cast::<Value>().read_unaligned() };
            let (mut tensor, mut v) = (None, AnyValue { i: from.value.cast_signed() });
            match from.type_index {
                type_index::NONE | type_index::INT | type_index::BOOL | type_index::FLOAT => {}
                type_index::TENSOR => {
                    let block = usize::try_from(from.value).ok().and_then(|it| granted.get_mut(it));
                    tensor = block.and_then(Option::take);
                    v = AnyValue { p: std::ptr::null_mut() };
                }
                _ => {
                    self.is_spoilt = true;
                    return Err(LaneFailure::Garbage.into());
                }
            }
            *to = Any { type_index: from.type_index, zero: 0, v };
            self.several.tensors.push(tensor);
        }
        Ok(())
    }

    /// A text of the reply: in its room, or in a block that the worker got for it.
    fn text(&self, line: &Line, head: &ReplyHead) -> Vec<u8> {
        let block = usize::try_from(head.value).ok().and_then(|it| self.granted.get(it.checked_sub(1)?));
        match block {
            // SAFETY: the block has that many bytes, as the worker's request for it said.
            Some(it) => unsafe { std::slice::from_raw_parts(it.block.address().as_ptr(), it.block.size()) }.to_vec(),
            None => line.room(head.length),
        }
    }
}

/// A refusal that is no argument's fault.
fn refuse_all(kind: i32, reason: String) -> Failure {
    Failure::Nif { kind, argument: -1, reason }
}
