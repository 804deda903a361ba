//! Starting Julia inside this process.
//!
//! Only what every Julia from 1.5 on has is used: one of three names of the start function, `jl_eval_string`, `jl_string_ptr`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// What Julia must keep: stack overflow, read-only memory, and the suspension of its own threads.
const JULIAS_OWN: [c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGUSR2];

/// How code is evaluated and a string read, once a Julia runs.
static RUNTIME: OnceLock<(Eval, StringPtr)> = OnceLock::new();

type Init = unsafe extern "C" fn(bindir: *const c_char, image: *const c_char);
type Eval = unsafe extern "C" fn(code: *const c_char) -> *mut c_void;
type StringPtr = unsafe extern "C" fn(value: *mut c_void) -> *const c_char;

/// Start the Julia of `library`, evaluate `code` and return the string that it gives.
///
/// `bindir` and `image` are absolute paths. One Julia starts in a process, once.
///
/// # Errors
///
/// The loader's or Julia's own words.
///
/// # Safety
///
/// Every later call of Julia's code is made on this thread.
pub unsafe fn start(library: &str, bindir: &str, image: &str, code: &str) -> Result<String, String> {
    let c = |text: &str| CString::new(text).map_err(|e| e.to_string());
    // SAFETY: the caller's promise.
    unsafe { embed(&c(library)?, &c(bindir)?, &c(image)?, &c(code)?) }
}

/// Evaluate more code in the Julia that was started; return the string that it gives.
///
/// # Errors
///
/// There is no Julia yet, or it could not evaluate the code.
///
/// # Safety
///
/// It is called on the thread of `start`.
pub unsafe fn evaluate(code: &str) -> Result<String, String> {
    let code = CString::new(code).map_err(|e| e.to_string())?;
    let (eval, string) = *RUNTIME.get().ok_or("no Julia runs here")?;
    // SAFETY: the caller's promise; the functions are those of the Julia that runs.
    unsafe { Door::inside(|| answer(eval, string, &code)) }
}

unsafe fn answer(eval: Eval, string: StringPtr, code: &CStr) -> Result<String, String> {
    // SAFETY: the caller's promise; the value is read before anything else is evaluated.
    unsafe {
        let value = eval(code.as_ptr());
        if value.is_null() {
            return Err("it could not evaluate its first line".into());
        }
        Ok(CStr::from_ptr(string(value)).to_string_lossy().into_owned())
    }
}

unsafe fn embed(library: &CStr, bindir: &CStr, image: &CStr, code: &CStr) -> Result<String, String> {
    // SAFETY: the signatures are those of julia.h; actions that were read are put back.
    unsafe {
        // Julia's symbols must be global, and then so are those of its libunwind, which has C++'s unwinder under the same
        // names. The compiler's own goes first, or the next C++ library that throws (matplotlib's, say) would abort.
        libc::dlopen(c"libgcc_s.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
        if handle.is_null() {
            return Err(CStr::from_ptr(libc::dlerror()).to_string_lossy().into_owned());
        }
        let find = |name: &CStr| Some(libc::dlsym(handle, name.as_ptr())).filter(|it| !it.is_null());
        let names = [c"jl_init_with_image_file", c"jl_init_with_image", c"jl_init_with_image__threading"];
        let init = names.into_iter().find_map(find).ok_or("it has no jl_init_with_image")?;
        let eval = find(c"jl_eval_string").ok_or("it has no jl_eval_string")?;
        let string = find(c"jl_string_ptr").ok_or("it has no jl_string_ptr")?;
        let (init, eval, string) = (
            std::mem::transmute::<*mut c_void, Init>(init),
            std::mem::transmute::<*mut c_void, Eval>(eval),
            std::mem::transmute::<*mut c_void, StringPtr>(string),
        );
        let former = Signals::now();
        init(bindir.as_ptr(), image.as_ptr());
        // Without this Ctrl-C would never reach Python again.
        former.restore_actions();
        let _ = RUNTIME.set((eval, string));
        let said = answer(eval, string, code);
        let _ = DOOR.set(Door::find(&answer(eval, string, FIND_DOOR)?));
        said
    }
}

/// The way out of Julia and back in.
///
/// A thread that waits outside says so, or the garbage collection of another one would wait for it. From 1.10 on Julia's
/// functions go in and out by themselves when C calls them; older ones can't, and have no other threads that matter here.
struct Door {
    leave_julia: unsafe extern "C" fn() -> i8,
    come_back: unsafe extern "C" fn(state: i8),
    state: i8,
}

/// None where Julia has no door.
static DOOR: OnceLock<Option<Door>> = OnceLock::new();
/// Gives the addresses of its two functions, which only Julia itself finds.
const FIND_DOOR: &CStr = c"try VERSION < v\"1.10\" ? \"\" : \
    string(UInt(cglobal(:jl_gc_safe_enter)), ' ', UInt(cglobal(:jl_gc_safe_leave))) catch; \"\" end";

impl Door {
    /// Find the door and go out.
    ///
    /// # Safety
    ///
    /// `said` is what `FIND_DOOR` evaluated to, on this thread.
    unsafe fn find(said: &str) -> Option<Self> {
        let (out, back) = said.split_once(' ')?;
        let address = |text: &str| text.parse().ok().map(std::ptr::with_exposed_provenance::<c_void>);
        // SAFETY: the signatures are those of julia_threads.h.
        unsafe {
            let leave_julia: unsafe extern "C" fn() -> i8 = std::mem::transmute(address(out)?);
            let come_back = std::mem::transmute::<*const c_void, unsafe extern "C" fn(i8)>(address(back)?);
            let state = leave_julia();
            Some(Self { leave_julia, come_back, state })
        }
    }

    /// Be inside while `work` uses Julia's C functions.
    unsafe fn inside<T>(work: impl FnOnce() -> T) -> T {
        let Some(door) = DOOR.get().and_then(Option::as_ref) else { return work() };
        // SAFETY: this thread went out when the door was found.
        unsafe {
            (door.come_back)(door.state);
            let result = work();
            (door.leave_julia)();
            result
        }
    }
}

/// What a process does on signals, and which of them this thread blocks.
pub struct Signals {
    actions: Vec<(c_int, libc::sigaction)>,
    blocked: libc::sigset_t,
}

impl Signals {
    #[must_use]
    pub fn now() -> Self {
        let read = |signal| {
            let mut action = MaybeUninit::zeroed();
            // SAFETY: room of the right size; zeroed is a valid action.
            unsafe {
                (libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0)
                    .then(|| (signal, action.assume_init()))
            }
        };
        let actions = (1..32).filter(|signal| !JULIAS_OWN.contains(signal)).filter_map(read).collect();
        let mut blocked = MaybeUninit::zeroed();
        // SAFETY: room of the right size; zeroed is a valid set.
        let blocked = unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), blocked.as_mut_ptr());
            blocked.assume_init()
        };
        Self { actions, blocked }
    }

    /// Put all back but what Julia must keep.
    pub fn restore(&self) {
        self.restore_actions();
        // SAFETY: a set that was read.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.blocked, std::ptr::null_mut()) };
    }

    /// The same, where the thread is Julia's alone and may go on blocking signals.
    fn restore_actions(&self) {
        for (signal, action) in &self.actions {
            // SAFETY: puts back what was read. SIGKILL and SIGSTOP refuse, which is harmless.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
    }
}
