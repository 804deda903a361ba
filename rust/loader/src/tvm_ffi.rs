//! Libraries that export TVM-FFI functions, as if they had a table.
//!
//! Their calls differ from ours in three things: an error is left with their runtime, strings and arrays of a result are its objects,
//! and strides are always there. A [`trampoline`] for each function makes up for these, so whoever calls notices nothing.

#![allow(
    clippy::not_unsafe_ptr_arg_deref,
    reason = "the pointers are those of hosts and libraries, which are what they say"
)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::{Mutex, OnceLock, PoisonError};

use nif::abi::{
    ABI_VERSION, Any, AnyValue, Bytes, Call, Env, Function, Library as Table, STRUCT_HASH, TVM_OBJECT_HEADER, Tensor,
    error_kind, flag, type_index,
};

use crate::library::{Refusal, check_elf};

/// How many functions of such libraries fit into a process.
const ROOM: usize = 256;
/// From here on a value is an object of the runtime's, which counts references to it.
const OBJECTS: i32 = 64;

/// What the calls need of `libtvm_ffi.so`.
struct Runtime {
    take_error: unsafe extern "C" fn(*mut *mut c_void),
    release: unsafe extern "C" fn(*mut c_void) -> i32,
}

/// A function, and whose it is.
struct Target {
    call: Call,
    runtime: &'static Runtime,
}

/// What the trampolines lead to; the first that is empty is the next to be used.
static TARGETS: [OnceLock<Target>; ROOM] = [const { OnceLock::new() }; ROOM];

thread_local! {
    /// The string that the last call on this thread returned: its caller reads it before it makes another.
    static RETURNED: RefCell<CString> = RefCell::default();
}

macro_rules! sixteen {
    ($($high:literal)*) => { [$(
        trampoline::<{ 16 * $high }>, trampoline::<{ 16 * $high + 1 }>, trampoline::<{ 16 * $high + 2 }>,
        trampoline::<{ 16 * $high + 3 }>, trampoline::<{ 16 * $high + 4 }>, trampoline::<{ 16 * $high + 5 }>,
        trampoline::<{ 16 * $high + 6 }>, trampoline::<{ 16 * $high + 7 }>, trampoline::<{ 16 * $high + 8 }>,
        trampoline::<{ 16 * $high + 9 }>, trampoline::<{ 16 * $high + 10 }>, trampoline::<{ 16 * $high + 11 }>,
        trampoline::<{ 16 * $high + 12 }>, trampoline::<{ 16 * $high + 13 }>, trampoline::<{ 16 * $high + 14 }>,
        trampoline::<{ 16 * $high + 15 }>,
    )*] };
}
static TRAMPOLINES: [Call; ROOM] = sixteen!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

/// Open a library that exports the functions `names` as `__tvm_ffi_<name>`; it is never closed.
///
/// `runtime` is the path of `libtvm_ffi.so`, empty where the library finds its own.
pub fn open(path: &Path, runtime: &str, names: &[String]) -> Result<&'static Table, Refusal> {
    let shown = path.display();
    let refuse = |why: String| (format!("{shown} can't be loaded: {why}"), "pip install apache-tvm-ffi".to_string());
    check_elf(path).map_err(|e| (format!("{shown}: {e}"), "build it again".into()))?;
    // The library asks for its runtime by name; the loader takes the one that is there.
    let beside = if runtime.is_empty() { None } else { Some(load(runtime.as_bytes()).map_err(refuse)?) };
    let handle = load(path.as_os_str().as_encoded_bytes()).map_err(refuse)?;
    let find = |name: &CStr| {
        // SAFETY: the handles are the loader's.
        let in_one = |handle| Some(unsafe { libc::dlsym(handle, name.as_ptr()) }).filter(|it| !it.is_null());
        in_one(handle).or_else(|| beside.and_then(in_one))
    };
    let missing = || refuse("there is no libtvm_ffi.so".into());
    let take_error = find(c"TVMFFIErrorMoveFromRaised").ok_or_else(missing)?;
    let release = find(c"TVMFFIObjectDecRef").ok_or_else(missing)?;
    // SAFETY: the signatures are those of tvm/ffi/c_api.h.
    let runtime: &'static Runtime = Box::leak(Box::new(unsafe {
        Runtime {
            take_error: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut *mut c_void)>(take_error),
            release: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void) -> i32>(release),
        }
    }));
    let mut rows = Vec::new();
    for name in names {
        let symbol = CString::new(format!("__tvm_ffi_{name}")).ok().and_then(|it| find(&it));
        let symbol = symbol.ok_or_else(|| refuse(format!("it has no function {name}")))?;
        // SAFETY: what is exported under this name is a safe call.
        let call = unsafe { std::mem::transmute::<*mut c_void, Call>(symbol) };
        let full = || refuse(format!("a process has room for {ROOM} functions of TVM-FFI libraries"));
        rows.push(Function {
            name: leak(name),
            signature: leak(&format!("{name}(...) -> any")),
            doc: leak("A TVM-FFI function; it takes any arguments."),
            call: reserve(Target { call, runtime }).ok_or_else(full)?,
            flags: flag::LONG,
            zero: 0,
        });
    }
    Ok(Box::leak(Box::new(Table {
        abi_version: ABI_VERSION,
        struct_hash: STRUCT_HASH,
        language: leak("TVM FFI"),
        compiler: leak("TVM FFI"),
        library_version: leak(""),
        n_functions: rows.len() as u32,
        zero: 0,
        functions: rows.leak().as_ptr(),
        load: None,
        unload: None,
    })))
}

fn load(path: &[u8]) -> Result<*mut c_void, String> {
    let path = CString::new(path).map_err(|e| e.to_string())?;
    // SAFETY: loading runs the library's initialisers, which is what the user asked for.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if handle.is_null() { Err(CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned()) } else { Ok(handle) }
    }
}

/// A string of a table that is never closed. A NUL can't be in it: it comes from the names of symbols.
fn leak(text: &str) -> *const c_char {
    CString::new(text).unwrap_or_default().into_raw()
}

/// The trampoline that leads to a function from now on; none if all are in use.
fn reserve(target: Target) -> Option<Call> {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    // A library that is opened again has the functions it had.
    let same = |it: &Target| std::ptr::fn_addr_eq(it.call, target.call);
    let index = TARGETS.iter().position(|it| it.get().is_none_or(same))?;
    let _ = TARGETS[index].set(target);
    Some(TRAMPOLINES[index])
}

unsafe extern "C" fn trampoline<const INDEX: usize>(
    env: *mut c_void,
    args: *const Any,
    count: i32,
    result: *mut Any,
) -> i32 {
    let Some(target) = TARGETS[INDEX].get() else { return -1 };
    // Nothing unwinds across the ABI.
    // SAFETY: passed on.
    std::panic::catch_unwind(|| unsafe { call(target, env.cast(), args, count, result) }).unwrap_or(-1)
}

unsafe fn call(target: &Target, env: *mut Env, args: *const Any, count: i32, result: *mut Any) -> i32 {
    let count = usize::try_from(count).unwrap_or_default();
    // SAFETY: the caller's `count` values and its room for a result; `env` is null or its host's.
    unsafe {
        let given = if count == 0 { &[] } else { std::slice::from_raw_parts(args, count) };
        let mut arguments = Arguments::of(given);
        let mut answer = Any { type_index: type_index::NONE, zero: 0, v: AnyValue { i: 0 } };
        let status = (target.call)(null_mut(), arguments.values.as_mut_ptr(), count as i32, &raw mut answer);
        if status != 0 {
            pass_error(target.runtime, env);
            return -1;
        }
        let taken = take(&answer, env);
        if answer.type_index >= OBJECTS {
            (target.runtime.release)(answer.v.p);
        }
        match taken {
            Ok(value) => {
                *result = value;
                0
            }
            Err((kind, why)) => {
                say(env, kind, &why);
                -1
            }
        }
    }
}

/// The arguments with strides: TVM FFI expects them of every array.
struct Arguments {
    values: Vec<Any>,
    tensors: Vec<Tensor>,
    strides: Vec<Box<[i64]>>,
}

impl Arguments {
    /// # Safety
    /// What the values point to is alive.
    unsafe fn of(given: &[Any]) -> Self {
        let mut made = Self {
            values: given.to_vec(),
            tensors: Vec::with_capacity(given.len()), // never moved: the values point into it
            strides: Vec::new(),
        };
        for value in made.values.iter_mut().filter(|it| it.type_index == type_index::TENSOR) {
            // SAFETY: the type index says what it is.
            unsafe {
                let mut tensor = *value.v.p.cast::<Tensor>();
                if !tensor.strides.is_null() {
                    continue;
                }
                let mut strides = row_major(shape(&tensor));
                tensor.strides = strides.as_mut_ptr();
                made.strides.push(strides);
                made.tensors.push(tensor);
            }
            if let Some(tensor) = made.tensors.last_mut() {
                value.v.p = std::ptr::from_mut(tensor).cast();
            }
        }
        made
    }
}

/// # Safety
/// The tensor is what it says.
unsafe fn shape(tensor: &Tensor) -> &[i64] {
    match usize::try_from(tensor.ndim) {
        // SAFETY: the caller's promise.
        Ok(axes) if axes > 0 => unsafe { std::slice::from_raw_parts(tensor.shape, axes) },
        _ => &[],
    }
}

fn row_major(shape: &[i64]) -> Box<[i64]> {
    (1..=shape.len()).map(|axis| shape[axis..].iter().product()).collect()
}

/// Our value of theirs, or the kind of error and its reason.
unsafe fn take(answer: &Any, env: *mut Env) -> Result<Any, (i32, String)> {
    let value = |type_index, p: *mut c_void| Any { type_index, zero: 0, v: AnyValue { p } };
    // SAFETY: the type index says which field counts; an object's payload follows its header.
    unsafe {
        let payload = || answer.v.p.byte_add(TVM_OBJECT_HEADER);
        match answer.type_index {
            type_index::NONE | type_index::INT | type_index::BOOL | type_index::FLOAT => Ok(*answer),
            type_index::TVM_SMALL_STR => {
                let length = (answer.zero as usize).min(7);
                Ok(value(type_index::STR, keep(&answer.v.small[..length])?))
            }
            type_index::TVM_STR => {
                let text = &*payload().cast::<Bytes>();
                let bytes = if text.size == 0 { &[] } else { std::slice::from_raw_parts(text.data.cast(), text.size) };
                Ok(value(type_index::STR, keep(bytes)?))
            }
            type_index::TVM_TENSOR => Ok(value(type_index::TENSOR, copy(&*payload().cast::<Tensor>(), env)?.cast())),
            other => {
                let why = format!("returned a value of TVM's type index {other}; numbers, str and arrays can be taken");
                Err((error_kind::TYPE_ERROR, why))
            }
        }
    }
}

fn keep(bytes: &[u8]) -> Result<*mut c_void, (i32, String)> {
    let text =
        CString::new(bytes).map_err(|_| (error_kind::VALUE_ERROR, "returned a string with a NUL in it".to_string()))?;
    Ok(RETURNED.with_borrow_mut(|it| {
        *it = text;
        it.as_ptr().cast_mut().cast()
    }))
}

/// A copy of an array in memory of the host's: the runtime's own ends with its object.
unsafe fn copy(from: &Tensor, env: *mut Env) -> Result<*mut Tensor, (i32, String)> {
    let no_memory = || (error_kind::MEMORY_ERROR, "no memory for the array it returned".to_string());
    // SAFETY: a tensor of the runtime's is what it says; so is the host's.
    unsafe {
        let shape = shape(from);
        if from.device.r#type != nif::abi::DEVICE_CPU {
            return Err((error_kind::VALUE_ERROR, "returned an array that isn't in memory of the CPU".into()));
        }
        let host = env.as_ref().and_then(|it| it.host.as_ref()).ok_or_else(no_memory)?;
        let to = (host.alloc_tensor)(from.dtype, from.ndim, shape.as_ptr()).as_ref().ok_or_else(no_memory)?;
        let item = usize::from(from.dtype.bits / 8);
        let source = from.data.cast::<u8>().cast_const().add(from.byte_offset as usize);
        let elements = shape.iter().product::<i64>();
        let packed = row_major(shape);
        let strides =
            if from.strides.is_null() { &*packed } else { std::slice::from_raw_parts(from.strides, shape.len()) };
        let target = to.data.cast::<u8>();
        if *strides == *packed {
            target.copy_from_nonoverlapping(source, elements as usize * item);
        } else {
            for index in 0..elements as usize {
                let steps = shape.iter().zip(&*packed).zip(strides);
                let at: i64 = steps.map(|((length, step), stride)| index as i64 / step % length * stride).sum();
                target.add(index * item).copy_from_nonoverlapping(source.offset(at as isize * item as isize), item);
            }
        }
        Ok(std::ptr::from_ref(to).cast_mut())
    }
}

/// Tell the host what the runtime keeps of a failed call.
unsafe fn pass_error(runtime: &Runtime, env: *mut Env) {
    let mut error: *mut c_void = null_mut();
    // SAFETY: an error's payload begins with its kind and its message.
    unsafe {
        (runtime.take_error)(&raw mut error);
        if error.is_null() {
            return; // the host says that there is no reason
        }
        let cell = error.byte_add(TVM_OBJECT_HEADER).cast::<Bytes>();
        let text = |it: &Bytes| match it.size {
            0 => String::new(),
            size => String::from_utf8_lossy(std::slice::from_raw_parts(it.data.cast(), size)).into_owned(),
        };
        let (kind, message) = (text(&*cell), text(&*cell.add(1)));
        match kind.as_str() {
            "TypeError" => say(env, error_kind::TYPE_ERROR, &message),
            "ValueError" => say(env, error_kind::VALUE_ERROR, &message),
            "MemoryError" => say(env, error_kind::MEMORY_ERROR, &message),
            "RuntimeError" => say(env, error_kind::ERROR, &message),
            _ => say(env, error_kind::ERROR, &format!("{kind}: {message}")),
        }
        (runtime.release)(error);
    }
}

unsafe fn say(env: *mut Env, kind: i32, why: &str) {
    let text = CString::new(why.replace('\0', " ")).unwrap_or_default();
    // SAFETY: `env` is null or its host's.
    unsafe {
        if let Some(host) = env.as_ref().and_then(|it| it.host.as_ref()) {
            (host.set_error)(env, kind, text.as_ptr(), -1);
        }
    }
}
