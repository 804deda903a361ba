//! The library's side of a call: the table, results, errors, panics, and the host.
#![allow(unsafe_code, reason = "speaks C with the host")]

use std::any::Any as Payload;
use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::sync::{Once, OnceLock};

use linkme::distributed_slice;

use crate::abi::{ABI_VERSION, Any, Env, Function, Host, Library, STRUCT_HASH, flag};
use crate::args::Arguments;
use crate::error::Error;
use crate::signature::{Nif, Param};

/// Every `#[nif]` of the library; the linker collects them.
#[distributed_slice]
pub static NIFS: [Nif];

/// Text for C. A NUL, which would end it early, is shown as a symbol.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{2400}")).expect("no NUL is left")
}

/// Runs a NIF: converts its arguments, keeps its panics, hands over its result or its error.
///
/// # Safety
///
/// What the ABI promises: `env` is null or a host's, and `args` leads to `n_args` values that stay valid for the call. `body`
/// does nothing but read and make these arguments, and write the result of the function.
#[inline]
pub unsafe fn call<'a, const N: usize>(
    nif: &'static Nif,
    params: &'static [Param; N],
    env: *mut c_void,
    args: *const Any,
    n_args: i32,
    body: impl FnOnce(Arguments<'a, N>) -> Result<(), Error>,
) -> i32 {
    let env = env.cast::<Env>();
    let status = guarded(nif, env, || {
        // SAFETY: as above.
        body(unsafe { Arguments::new(params, args, n_args) }?)
    });
    if HAS_PRINTED.load(Ordering::Relaxed) || nif.flags & flag::LONG != 0 {
        flush();
    }
    status
}

/// Say why a call failed.
#[cold]
fn fail(nif: &'static Nif, env: *mut Env, error: &Error) -> i32 {
    // SAFETY: `env` is null or a host's, as `call` was told.
    unsafe { report(nif, env, error) };
    -1
}

/// Standard output may hold a line that has no end yet.
static HAS_PRINTED: AtomicBool = AtomicBool::new(false);

/// Something is printed that may not end in a newline.
#[doc(hidden)]
pub fn note_print() {
    HAS_PRINTED.store(true, Ordering::Relaxed);
}

#[cold]
fn flush() {
    HAS_PRINTED.store(false, Ordering::Relaxed);
    let _ = std::io::stdout().flush(); // nobody could do anything about it
}

#[doc(hidden)]
#[macro_export]
macro_rules! __print {
    ($($text:tt)*) => {{
        $crate::export::note_print();
        ::std::print!($($text)*)
    }};
}

/// What this thread is doing.
#[derive(Clone, Copy)]
enum State {
    Outside,
    /// In a NIF; the call's `env`.
    Call(*const Env),
    /// In a NIF whose panic unwinds.
    Panicked,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Outside) };
}

#[inline]
fn guarded(nif: &'static Nif, env: *mut Env, body: impl FnOnce() -> Result<(), Error>) -> i32 {
    if env.is_null() {
        // A TVM-FFI client doesn't call `nif_init`.
        install_panic_hook();
    }
    let before = STATE.replace(State::Call(env));
    // A number comes back in a register; the outcome itself would be copied through memory.
    let status = panic::catch_unwind(AssertUnwindSafe(|| match body() {
        Ok(()) => 0,
        Err(error) => fail(nif, env, &error),
    }));
    STATE.set(before);
    status.unwrap_or_else(|payload| fail(nif, env, &panicked(message(payload))))
}

/// An index that is out of bounds panics as all else does: only the text of the standard library tells.
#[cold]
fn panicked(text: String) -> Error {
    let is_index = ["index out of bounds: ", "range start index ", "range end index ", "slice index starts at "];
    if text.ends_with(" value: Raised") {
        return Error::Raised; // of a callback whose result was unwrapped
    }
    let is_index = is_index.iter().any(|start| text.starts_with(start));
    if is_index { Error::Index(text.into()) } else { Error::Panic(text.into()) }
}

#[cold]
fn message(payload: Box<dyn Payload + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&str>() {
            Ok(text) => (*text).to_owned(),
            Err(payload) => {
                // Its destructor may panic in turn, and nobody is left to catch that.
                std::mem::forget(payload);
                "panic with a value that isn't text".to_owned()
            }
        },
    }
}

/// Keeps panics inside NIFs quiet, because they become errors. All others, and a second panic that is about to end the
/// process, go to the hook that was there before.
fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| match STATE.get() {
            State::Call(_) => STATE.set(State::Panicked),
            State::Outside | State::Panicked => before(info),
        }));
    });
}

/// Tells the host why the call fails, or a TVM-FFI client if there is no host.
#[cold]
unsafe fn report(nif: &Nif, env: *const Env, error: &Error) {
    // SAFETY: the caller's `env` is null or valid.
    let Some(host) = (unsafe { env.as_ref() }).and_then(host_of) else {
        return report_to_tvm(nif, error);
    };
    let argument = error.argument().and_then(|name| nif.params.iter().position(|param| param.name == name));
    let argument = argument.and_then(|index| i32::try_from(index).ok()).unwrap_or(-1);
    let message = c_string(&error.to_string());
    // SAFETY: the host copies the message.
    unsafe { (host.set_error)(env.cast_mut(), error.kind(), message.as_ptr(), argument) };
}

fn report_to_tvm(nif: &Nif, error: &Error) {
    type Setter = unsafe extern "C" fn(kind: *const c_char, message: *const c_char);
    static SETTER: OnceLock<Option<Setter>> = OnceLock::new();
    let setter = SETTER.get_or_init(|| {
        // SAFETY: the name ends in NUL; a function of that name has that type.
        unsafe {
            let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"TVMFFIErrorSetRaisedFromCStr".as_ptr());
            (!symbol.is_null()).then(|| std::mem::transmute::<*mut c_void, Setter>(symbol))
        }
    });
    let Some(setter) = setter else { return };
    if *error == Error::Raised {
        return; // whoever raised it has told
    }
    let kind = match error {
        Error::Type { .. } => c"TypeError",
        Error::Value { .. } => c"ValueError",
        Error::Index(_) => c"IndexError",
        _ => c"RuntimeError",
    };
    let place = error.argument().map(|argument| format!("argument '{argument}': ")).unwrap_or_default();
    let message = c_string(&format!("{}(): {place}{error}", nif.name));
    // SAFETY: both texts are copied.
    unsafe { setter(kind.as_ptr(), message.as_ptr()) };
}

/// The last host that `nif_init` was given.
static HOST: AtomicPtr<Host> = AtomicPtr::new(ptr::null_mut());

fn kept_host() -> Option<&'static Host> {
    // SAFETY: a host outlives the library.
    unsafe { HOST.load(Ordering::Acquire).as_ref() }
}

fn host_of(env: &Env) -> Option<&'static Host> {
    // SAFETY: as above.
    unsafe { env.host.as_ref() }.or_else(kept_host)
}

/// The `env` of the running call.
fn current() -> Option<&'static Env> {
    match STATE.get() {
        // SAFETY: null or valid while the call runs; it isn't kept.
        State::Call(env) => unsafe { env.as_ref() },
        State::Outside | State::Panicked => None,
    }
}

/// The host of the running call; none for a TVM-FFI client.
pub(crate) fn host() -> Option<&'static Host> {
    current().and_then(host_of)
}

/// How many values the running call's host has room for.
pub(crate) fn room_for_results() -> usize {
    current().map_or(1, |env| env.n_results.max(1) as usize)
}

/// Whether the running call should stop. A NIF that asks carries the flag `polls_cancel`.
#[must_use]
pub fn cancelled() -> bool {
    current().and_then(|env| NonNull::new(env.cancel.cast_mut())).is_some_and(|cancel| {
        // SAFETY: the flag lives as long as `env`; others only store whole integers.
        unsafe { AtomicI32::from_ptr(cancel.as_ptr()) }.load(Ordering::Relaxed) != 0
    })
}

/// Writes to the host's log. `level` is Python's: 10 debug, 20 info, 30 warning, 40 error.
pub fn log(level: i32, message: &str) {
    if let Some(host) = kept_host() {
        let message = c_string(message);
        // SAFETY: the host copies the message.
        unsafe { (host.log)(level, message.as_ptr()) };
    }
}

/// Tells how far the running call is: `done` of `total` steps. It costs a few nanoseconds; a function that is `long` may call it
/// in every turn of a loop, on the thread of the call.
#[inline]
pub fn progress(done: impl TryInto<i64>, total: impl TryInto<i64>) {
    if let Some(host) = kept_host() {
        let (done, total) = (done.try_into().unwrap_or(i64::MAX), total.try_into().unwrap_or(i64::MAX));
        // SAFETY: a host outlives the library.
        unsafe { (host.progress)(done, total) };
    }
}

/// `nif_init`: keeps the host, and makes the table when it is called first.
///
/// # Safety
///
/// `host` is null or outlives the library.
pub unsafe fn init(host: *const Host, version: &str) -> *const Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    if !host.is_null() {
        HOST.store(host.cast_mut(), Ordering::Release);
    }
    LIBRARY.get_or_init(|| {
        install_panic_hook();
        let mut nifs: Vec<&'static Nif> = NIFS.iter().collect();
        // The linker's order is its own affair.
        nifs.sort_by_key(|nif| nif.name);
        let functions: &'static [Function] = nifs.into_iter().map(function).collect::<Vec<_>>().leak();
        Library {
            abi_version: ABI_VERSION,
            struct_hash: STRUCT_HASH,
            language: c"rust".as_ptr(),
            compiler: c_text(env!("NIF_COMPILER")),
            library_version: c_text(version),
            n_functions: u32::try_from(functions.len()).unwrap_or(u32::MAX),
            zero: 0,
            functions: functions.as_ptr(),
            load: None,
            unload: None,
        }
    })
}

/// Text of the table, which is never freed.
fn c_text(text: &str) -> *const c_char {
    c_string(text).into_raw()
}

fn function(nif: &'static Nif) -> Function {
    Function {
        name: c_text(nif.name),
        signature: c_text(&nif.signature()),
        doc: c_text(nif.doc),
        call: nif.call,
        flags: nif.flags,
        zero: 0,
    }
}

/// Exports `nif_init` and the NIF `layout`: once in a library, in its root.
#[macro_export]
macro_rules! library {
    () => {
        /// `layout()`: the layout of the ABI's structs, a line for each struct and field.
        #[$crate::nif(pure)]
        pub fn layout() -> &'static str {
            &$crate::abi::LAYOUT
        }

        /// The table of this library.
        ///
        /// # Safety
        ///
        /// `host` is null or outlives the library.
        #[allow(unsafe_code, reason = "the one symbol every library exports")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn nif_init(host: *const $crate::abi::Host) -> *const $crate::abi::Library {
            // SAFETY: passed on.
            unsafe { $crate::export::init(host, option_env!("CARGO_PKG_VERSION").unwrap_or("unversioned")) }
        }
    };
}
