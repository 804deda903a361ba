//! The worker's side of a call.

use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nif::abi::{
    ABI_VERSION, Any, AnyValue, Bytes, Call, DEVICE_CPU, DType, Device, Env, Function, Host, Tensor, type_index,
};

use crate::channel::{
    Argument, Channel, MAX_ARGUMENTS, NOWHERE, Patience, ROOM, Reply, ReplyHead, Request, Value, reply, request,
};
use crate::crash;
use crate::devices::Devices;
use crate::message::{self, FromWorker, Source, ToWorker};
use crate::output;
use crate::processor::Aside;
use crate::segments::Segments;
use nif_loader::library::{self, Refusal, functions, text};
use nif_loader::table::Table;
use nif_loader::{clock, julia, tvm_ffi};

mod callback;
mod garble;
mod julias;
mod remote;

use callback::Callback;
use julias::julias_table;

/// How long a worker looks for the next call before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// What this worker offers to its libraries; it lives as long as the process.
pub static HOST: Host = Host {
    struct_size: size_of::<Host>() as u32,
    abi_version: ABI_VERSION,
    set_error,
    alloc_tensor,
    log,
    progress,
    gpu: &raw const nif_gpu::services::SERVICES,
};

thread_local! {
    /// The server whose call runs on this thread.
    static SERVING: Cell<*mut Server> = const { Cell::new(null_mut()) };
}

/// Why a call failed, as the callee told it.
#[derive(Default)]
struct ErrorRecord {
    kind: i32,
    argument: i32,
    message: Vec<u8>,
}

/// A tensor in a block of the host's: the callee sees `tensor`.
struct Granted {
    tensor: Tensor,
    _shape: Box<[i64]>,
}

/// Everything a worker has.
pub struct Server {
    socket: UnixStream,
    channel: &'static Channel,
    segments: Segments,
    devices: Devices,
    /// The functions of the first source, and of each that was opened since, with the number of its first.
    calls: Vec<Call>,
    beside: Vec<(u32, &'static [Function])>,
    /// The last request that was seen, and the last reply that was rung.
    seen: u32,
    rung: u32,
    patience: Patience,
    aside: Aside,
    /// The arguments of the running call, and what they point to.
    values: [Any; MAX_ARGUMENTS],
    tensors: [Option<Tensor>; MAX_ARGUMENTS],
    bytes: [Option<Bytes>; MAX_ARGUMENTS],
    #[allow(clippy::vec_box, reason = "the callee holds addresses of the callbacks while the vector grows")]
    callbacks: Vec<Box<Callback>>,
    /// Blocks that the running call has got.
    #[allow(clippy::vec_box, reason = "the callee holds addresses of the tensors while the vector grows")]
    granted: Vec<Box<Granted>>,
    /// Which of them is for what callbacks are given, and its bytes.
    scratch: Option<(usize, usize)>,
}

impl Server {
    pub fn new(socket: UnixStream, channel: &'static Channel) -> Self {
        Self {
            socket,
            channel,
            segments: Segments::default(),
            devices: Devices::default(),
            calls: Vec::new(),
            beside: Vec::new(),
            seen: 0,
            rung: 0,
            patience: Patience::new(SPIN),
            aside: Aside::default(),
            values: [Any { type_index: type_index::NONE, zero: 0, v: AnyValue { i: 0 } }; MAX_ARGUMENTS],
            tensors: [const { None }; MAX_ARGUMENTS],
            bytes: [const { None }; MAX_ARGUMENTS],
            callbacks: Vec::new(),
            granted: Vec::new(),
            scratch: None,
        }
    }

    /// Read messages until there is one that says so, then serve calls for ever.
    ///
    /// # Errors
    ///
    /// The socket's, and what can't be mapped: the worker can only end.
    pub fn run(mut self) -> io::Result<()> {
        while self.read_message()? {}
        SERVING.set(&raw mut self);
        nif_gpu::buffers::ask_by(remote::ASK);
        loop {
            self.wait();
            // SAFETY: the host rang: the request is written, and isn't touched until the reply is rung.
            let asked = unsafe { &*self.channel.request() };
            // Once a source is open and that was said, the host may write the next request.
            let is_call = asked.what == request::CALL;
            self.read_mail(asked.mail)?;
            if is_call {
                self.call(asked)?;
            }
        }
    }

    fn wait(&mut self) {
        let bell = &self.channel.request_bell;
        if self.patience.look(bell, self.seen) {
            self.aside.apart();
        } else {
            while bell.look() == self.seen {
                bell.sleep(self.seen, None);
            }
            self.aside.met(self.channel.host_cpu.load(Ordering::Relaxed));
        }
        self.seen = bell.look();
    }

    fn answer(&mut self) {
        self.rung = self.rung.wrapping_add(1);
        self.channel.reply_bell.ring(self.rung);
    }

    fn read_mail(&mut self, count: u32) -> io::Result<()> {
        for _ in 0..count {
            self.read_message()?;
        }
        Ok(())
    }

    /// Whether more are to follow.
    fn read_message(&mut self) -> io::Result<bool> {
        let (said, descriptor) = message::receive::<ToWorker>(&self.socket)?;
        match (said, descriptor) {
            (ToWorker::Open { source, first }, _) => {
                let answer = match self.open(&source, first) {
                    Ok(table) => FromWorker::Opened(table),
                    Err((reason, cure)) => FromWorker::Refused(reason, cure),
                };
                message::send(&self.socket, &answer, None)?;
            }
            (ToWorker::Map { segment, size }, Some(file)) => {
                self.segments.map(segment, usize::try_from(size).map_err(io::Error::other)?, &file)?;
            }
            (ToWorker::Unmap { segment }, _) => self.segments.unmap(segment),
            (ToWorker::OnDevice(told), file) => self.devices.hear(told, file.as_ref()),
            (ToWorker::Serve, _) => return Ok(false),
            (said, _) => return Err(io::Error::other(format!("unexpected here: {said:?}"))),
        }
        Ok(true)
    }

    fn open(&mut self, source: &Source, first: u32) -> Result<Table, Refusal> {
        let (table, shown) = match source {
            Source::File(path) => {
                let opened = library::open_file(Path::new(path), &raw const HOST)?;
                let table = opened.table;
                std::mem::forget(opened); // it is never closed
                (table, path.as_str())
            }
            Source::TvmFfi { path, runtime, names } => (tvm_ffi::open(Path::new(path), runtime, names)?, path.as_str()),
            Source::Julia { library, bindir, image, code } => {
                let code = code.replace("{host}", &(&raw const HOST).addr().to_string());
                // SAFETY: this is the only thread that calls anything.
                let answer = unsafe { julia::start(library, bindir, image, &code) };
                crash::come_first();
                let answer = answer.map_err(|why| (format!("Julia doesn't start: {why}"), "nif-lab doctor".into()))?;
                julias_table(&answer)
                    .map_err(|why| (format!("Julia can't load the NifLab package: {why}"), "please report it".into()))?
            }
            Source::JuliaCode(code) => {
                let code = code.replace("{host}", &(&raw const HOST).addr().to_string());
                // SAFETY: this is the only thread that calls anything.
                let answer = unsafe { julia::evaluate(&code) };
                julias_table(&answer.unwrap_or_else(|why| why)).map_err(|why| (why, String::new()))?
            }
        };
        if let Some(load) = table.load {
            // SAFETY: the hook of a checked table, called once.
            let status = unsafe { load(&raw const HOST) };
            if status != 0 {
                return Err(library::refuse(format!("{shown}: its load hook failed with status {status}")));
            }
        }
        if first == 0 {
            self.calls = functions(table).iter().map(|it| it.call).collect();
        } else {
            self.beside.push((first, functions(table)));
        }
        Ok(library::describe(table))
    }

    fn call(&mut self, asked: &Request) -> io::Result<()> {
        if asked.garble != 0 {
            self.garble(asked.garble);
            return Ok(());
        }
        let count = asked.count as usize;
        for (i, argument) in asked.arguments[..count].iter().enumerate() {
            let v = self.value(asked, argument, i).ok_or_else(|| io::Error::other("a wrong argument"))?;
            self.values[i] = Any { type_index: argument.kind, zero: 0, v };
        }
        self.segments.open_wanted()?;
        let call = match self.calls.get(asked.function as usize) {
            Some(call) => *call,
            None => self.beside(asked.function).ok_or_else(|| io::Error::other("no such function"))?,
        };
        let mut error = ErrorRecord::default();
        let mut env = Env {
            struct_size: size_of::<Env>() as u32,
            n_results: asked.results.max(1),
            host: &raw const HOST,
            error: (&raw mut error).cast(),
            cancel: self.channel.cancel.as_ptr(),
        };
        let mut results = [Any { type_index: type_index::NONE, zero: 0, v: AnyValue { i: 0 } }; MAX_ARGUMENTS];
        let several =
            results.get_mut(..asked.results.max(1) as usize).ok_or_else(|| io::Error::other("too many results"))?;
        self.channel.begun.store(self.seen, Ordering::Relaxed);
        let start = if asked.timed != 0 { clock::now() } else { 0 };
        // SAFETY: a function of a library that is never closed; what the values point to lives through the call.
        let status = unsafe { call((&raw mut env).cast(), self.values.as_ptr(), count as i32, several.as_mut_ptr()) };
        let status = self.settle(status, &mut error);
        let ticks = if asked.timed != 0 { clock::now().wrapping_sub(start) } else { 0 };
        let mut head = ReplyHead {
            what: reply::DONE,
            status,
            kind: error.kind,
            argument: error.argument,
            type_index: type_index::NONE,
            length: 0,
            value: 0,
            start,
            ticks,
            dtype: DType { code: 0, bits: 0, lanes: 0 },
            ndim: 0,
            printed: u32::from(output::flush()),
            zero: 0,
        };
        if status != 0 {
            (head.length, head.value) = self.put_text(&error.message);
        } else if asked.results == 0 {
            self.put_result(&mut head, &several[0]);
        } else {
            self.put_results(&mut head, several);
        }
        // SAFETY: the reply is ours until the bell rings; after that the call's memory may be others'.
        unsafe { (*self.channel.reply()).head = head };
        self.segments.close()?;
        self.granted.clear();
        self.scratch = None;
        self.callbacks.clear();
        if self.channel.progress.total.load(Ordering::Relaxed) != 0 {
            self.channel.progress.total.store(0, Ordering::Relaxed);
        }
        self.answer();
        Ok(())
    }

    #[cold]
    fn beside(&self, number: u32) -> Option<Call> {
        self.beside.iter().find_map(|(first, rows)| Some(rows.get(number.checked_sub(*first)? as usize)?.call))
    }

    fn put_result(&mut self, head: &mut ReplyHead, result: &Any) {
        head.type_index = result.type_index;
        // SAFETY: the type index says which field counts; strings of a result are NUL-terminated.
        unsafe {
            match result.type_index {
                type_index::TENSOR => head.value = self.number_of(result.v.p.cast_const().cast()),
                type_index::STR if !result.v.p.is_null() => {
                    let bytes = CStr::from_ptr(result.v.p.cast_const().cast()).to_bytes();
                    (head.length, head.value) = self.put_text(bytes);
                }
                _ => head.value = result.v.i.cast_unsigned(),
            }
        }
    }

    /// Put the values of a tuple into the reply's room; its texts go into blocks of the host's.
    #[cold]
    fn put_results(&mut self, head: &mut ReplyHead, results: &[Any]) {
        let mut put = Vec::with_capacity(results.len());
        for it in results {
            // SAFETY: as above.
            let (type_index, value) = unsafe {
                match it.type_index {
                    type_index::TENSOR => (it.type_index, self.number_of(it.v.p.cast_const().cast())),
                    type_index::STR if !it.v.p.is_null() => {
                        let bytes = CStr::from_ptr(it.v.p.cast_const().cast()).to_bytes();
                        (type_index::TENSOR, self.bytes_of_host(bytes).map_or(u64::MAX, |(_, block)| block - 1))
                    }
                    _ => (it.type_index, it.v.i.cast_unsigned()),
                }
            };
            put.push(Value { type_index, item: 0, value });
        }
        let size = size_of_val(put.as_slice());
        // SAFETY: plain numbers without gaps.
        head.length = self.write_room(unsafe { std::slice::from_raw_parts(put.as_ptr().cast(), size) });
    }

    /// The number of a block that the running call has got; the largest for what isn't one.
    fn number_of(&self, pointer: *const Tensor) -> u64 {
        let index = self.granted.iter().position(|it| std::ptr::eq(&raw const it.tensor, pointer));
        index.map_or(u64::MAX, |it| it as u64)
    }

    /// Put a text into the reply's room, or into a block of the host's; cut it if there is none.
    fn put_text(&mut self, bytes: &[u8]) -> (u32, u64) {
        let block = if bytes.len() > ROOM { self.bytes_of_host(bytes) } else { None };
        block.unwrap_or_else(|| (self.write_room(bytes), 0))
    }

    /// A string too long for the room, in a block of the host's: its length, and the block's number plus one.
    fn bytes_of_host(&mut self, bytes: &[u8]) -> Option<(u32, u64)> {
        let length = u32::try_from(bytes.len()).ok()?;
        let to = self.allocate(DType { code: 1, bits: 8, lanes: 1 }, &[i64::from(length)])?;
        // SAFETY: the block has just been got, has that many bytes, and is open.
        unsafe { (*to).data.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some((length, self.granted.len() as u64))
    }

    fn value(&mut self, asked: &Request, it: &Argument, i: usize) -> Option<AnyValue> {
        let room = asked.room.as_ptr().cast::<u8>();
        let numbers = |at: u32| -> *mut i64 {
            if at == NOWHERE { null_mut() } else { asked.room.as_ptr().wrapping_add(at as usize).cast_mut().cast() }
        };
        Some(match it.kind {
            type_index::TENSOR => {
                let data = match it.segment {
                    // One number, or what nobody looks at.
                    0 => NonNull::new(room.wrapping_add(it.offset as usize % ROOM).cast_mut())?,
                    segment => self.segments.find(segment, it.offset, 0)?,
                };
                if it.mutable != 0 && it.segment != 0 {
                    let bytes = it.high.checked_sub(it.low)?;
                    let low = self.segments.find(it.segment, it.low, bytes)?;
                    self.segments.want(low, usize::try_from(bytes).ok()?);
                }
                let tensor = &mut self.tensors[i];
                *tensor = Some(Tensor {
                    data: data.as_ptr().cast(),
                    device: Device { r#type: DEVICE_CPU, id: 0 },
                    ndim: it.ndim as i32,
                    dtype: it.dtype,
                    shape: numbers(it.shape),
                    strides: numbers(it.strides),
                    byte_offset: 0,
                });
                AnyValue { p: std::ptr::from_mut(tensor.as_mut()?).cast() }
            }
            type_index::STR | type_index::BYTES => {
                let data = match it.segment {
                    0 => NonNull::new(room.wrapping_add(usize::try_from(it.offset).ok()?).cast_mut())?,
                    segment => self.segments.find(segment, it.offset, it.value)?,
                };
                if it.kind == type_index::STR {
                    return Some(AnyValue { p: data.as_ptr().cast() });
                }
                let bytes = &mut self.bytes[i];
                *bytes = Some(Bytes { data: data.as_ptr().cast(), size: usize::try_from(it.value).ok()? });
                AnyValue { p: std::ptr::from_mut(bytes.as_mut()?).cast() }
            }
            type_index::TVM_FUNCTION => self.lend(i)?,
            _ => AnyValue { i: it.value.cast_signed() },
        })
    }

    /// Put bytes into the reply's room, as many as fit.
    fn write_room(&mut self, bytes: &[u8]) -> u32 {
        let length = bytes.len().min(ROOM);
        // SAFETY: the reply is ours until the bell rings, and its room is that large.
        unsafe {
            let room = (&raw mut (*self.channel.reply()).room).cast::<u8>();
            room.copy_from_nonoverlapping(bytes.as_ptr(), length);
        }
        length as u32
    }

    /// Ask the host for a block.
    fn allocate(&mut self, dtype: DType, shape: &[i64]) -> Option<*mut Tensor> {
        if shape.len() > ROOM / 8 {
            return None;
        }
        let head = ReplyHead {
            type_index: type_index::TENSOR,
            length: 8 * shape.len() as u32,
            dtype,
            ndim: shape.len() as u32,
            ..ReplyHead::asking(reply::ALLOCATE)
        };
        // SAFETY: the reply is ours until the bell rings; its room is large enough, as was checked.
        unsafe {
            let reply = self.channel.reply();
            (*reply).head = head;
            (&raw mut (*reply).room).cast::<i64>().copy_from_nonoverlapping(shape.as_ptr(), shape.len());
        }
        self.answer();
        self.wait();
        // SAFETY: the host has answered.
        let granted = unsafe { &*self.channel.request() };
        self.read_mail(granted.mail).ok()?;
        if granted.what != request::GRANT {
            return None;
        }
        let it = granted.arguments[0];
        let data = self.segments.find(it.segment, it.offset, it.value)?;
        self.segments.open_more(data, usize::try_from(it.value).ok()?).ok()?;
        let mut own: Box<[i64]> = shape.into();
        let tensor = Tensor {
            data: data.as_ptr().cast(),
            device: Device { r#type: DEVICE_CPU, id: 0 },
            ndim: shape.len() as i32,
            dtype,
            shape: own.as_mut_ptr(),
            strides: null_mut(),
            byte_offset: 0,
        };
        self.granted.push(Box::new(Granted { tensor, _shape: own }));
        self.granted.last_mut().map(|it| &raw mut it.tensor)
    }
}

unsafe extern "C" fn set_error(env: *mut Env, kind: i32, message: *const c_char, argument: i32) {
    // SAFETY: `env` is null or the one that was passed to the running call, so `error` is an `ErrorRecord` nobody else uses.
    let Some(record) = (unsafe { env.as_ref().and_then(|it| it.error.cast::<ErrorRecord>().as_mut()) }) else { return };
    record.kind = kind;
    record.argument = argument;
    // SAFETY: the contract gives a NUL-terminated string.
    record.message = if message.is_null() { Vec::new() } else { unsafe { CStr::from_ptr(message) }.to_bytes().into() };
}

unsafe extern "C" fn alloc_tensor(dtype: DType, ndim: i32, shape: *const i64) -> *mut Tensor {
    // SAFETY: it points to the server that makes the running call, and is null on every other thread.
    let Some(server) = (unsafe { SERVING.get().as_mut() }) else { return null_mut() };
    let shape = match usize::try_from(ndim) {
        Ok(0) => &[],
        // SAFETY: the contract gives `ndim` numbers at `shape`.
        Ok(axes) => unsafe { std::slice::from_raw_parts(shape, axes) },
        Err(_) => return null_mut(),
    };
    server.allocate(dtype, shape).unwrap_or(null_mut())
}

unsafe extern "C" fn progress(done: i64, total: i64) {
    // SAFETY: it points to the server that makes the running call, and is null on every other thread.
    if let Some(server) = unsafe { SERVING.get().as_ref() } {
        server.channel.progress.done.store(done, Ordering::Relaxed);
        server.channel.progress.total.store(total, Ordering::Relaxed);
    }
}

unsafe extern "C" fn log(level: i32, message: *const c_char) {
    if level >= 30 {
        eprintln!("nif_lab: {}", text(message));
    }
}

const _: () = assert!(size_of::<Reply>().is_multiple_of(8));
