//! What the Lab offers to a library while one of its functions runs: `nif_host`.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use nif::abi::{ABI_VERSION, Any, DEVICE_CPU, DType, Device, Env, Host, Tensor, type_index};

use crate::call::progress::progress;
use crate::memory::block::Block;
use crate::memory::common::Common;
use crate::python::door;

/// Why a call failed, as the callee told it. `env.error` points to one.
#[derive(Default)]
pub struct ErrorRecord {
    pub kind: i32,
    pub argument: i32,
    pub message: String,
}

/// A tensor made by `alloc_tensor`: the callee sees `tensor`, the rest is what it points to.
pub struct HostTensor {
    pub tensor: Tensor,
    pub shape: Box<[i64]>,
    pub block: Block,
}

// SAFETY: its pointers lead into its own shape and block.
unsafe impl Send for HostTensor {}

thread_local! {
    /// Where the call that runs on this thread allocates; none for one that isn't expected to.
    static ROOM: Cell<Option<*const Common>> = const { Cell::new(None) };
    /// What the call that runs on this thread has allocated so far.
    #[allow(clippy::vec_box, reason = "the callee holds addresses of the tensors while the vector grows")]
    static ALLOCATED: RefCell<Vec<Box<HostTensor>>> = const { RefCell::new(Vec::new()) };
}

/// Tensors in all threads' `ALLOCATED`: lets a call that allocated nothing skip the look.
static UNCLAIMED: AtomicUsize = AtomicUsize::new(0);

/// The host's table; it lives as long as the process.
pub static HOST: Host = Host {
    struct_size: size_of::<Host>() as u32,
    abi_version: ABI_VERSION,
    set_error,
    alloc_tensor,
    log,
    progress,
    gpu: &raw const nif_gpu::services::SERVICES,
};

/// While it lives, calls on this thread allocate from there.
pub struct Allocating {
    before: Option<*const Common>,
}

impl Allocating {
    /// `common` is kept alive by the caller for as long.
    pub fn from(common: &Common) -> Self {
        Self { before: ROOM.replace(Some(common)) }
    }
}

impl Drop for Allocating {
    fn drop(&mut self) {
        ROOM.set(self.before);
    }
}

/// Has any call allocated a tensor that nobody has claimed yet?
#[inline]
pub fn has_unclaimed() -> bool {
    UNCLAIMED.load(Ordering::Relaxed) != 0
}

/// Take the tensor that a call returned, and free the others it allocated.
#[cold]
pub fn claim(result: Option<*const Tensor>) -> Option<Box<HostTensor>> {
    let all = ALLOCATED.take();
    UNCLAIMED.fetch_sub(all.len(), Ordering::Relaxed);
    all.into_iter().find(|it| result.is_some_and(|p| std::ptr::eq(&raw const it.tensor, p)))
}

/// The same for a call that returns several: each at the place of its value.
#[cold]
pub fn claim_each(results: &[Any]) -> Vec<Option<Box<HostTensor>>> {
    let mut all = ALLOCATED.take();
    UNCLAIMED.fetch_sub(all.len(), Ordering::Relaxed);
    let mut claimed = |it: &Any| {
        // SAFETY: the type index says which field counts.
        let pointer = (it.type_index == type_index::TENSOR).then(|| unsafe { it.v.p }.cast_const().cast::<Tensor>())?;
        let index = all.iter().position(|it| std::ptr::eq(&raw const it.tensor, pointer))?;
        Some(all.swap_remove(index))
    };
    results.iter().map(&mut claimed).collect()
}

unsafe extern "C" fn set_error(env: *mut Env, kind: i32, message: *const c_char, argument: i32) {
    // SAFETY: passed on.
    door::guard((), || unsafe { note_error(env, kind, message, argument) });
}

/// # Safety
/// `env` is null or of a running call, `message` null or a C string.
unsafe fn note_error(env: *mut Env, kind: i32, message: *const c_char, argument: i32) {
    if env.is_null() {
        return;
    }
    // SAFETY: `env` is the one this host passed to the running call, so `error` is an `ErrorRecord` nobody else uses.
    let Some(record) = (unsafe { (*env).error.cast::<ErrorRecord>().as_mut() }) else { return };
    record.kind = kind;
    record.argument = argument;
    record.message = text(message);
}

unsafe extern "C" fn alloc_tensor(dtype: DType, ndim: i32, shape: *const i64) -> *mut Tensor {
    // No memory is the one answer to every failure.
    door::guard(None, || allocate(dtype, ndim, shape)).unwrap_or(std::ptr::null_mut())
}

fn allocate(dtype: DType, ndim: i32, shape: *const i64) -> Option<*mut Tensor> {
    let (_, item) = crate::python::dtype::to_numpy(dtype)?;
    let axes = usize::try_from(ndim).ok()?;
    let mut shape: Box<[i64]> = match axes {
        0 => Box::default(),
        // SAFETY: the contract gives `ndim` numbers at `shape`.
        _ => unsafe { std::slice::from_raw_parts(shape, axes) }.into(),
    };
    let bytes = shape.iter().try_fold(item, |total, n| total.checked_mul(usize::try_from(*n).ok()?))?;
    // SAFETY: whoever set it keeps it while the call runs.
    let block = unsafe { &*ROOM.get()? }.allocate(bytes, false).ok()?;
    let tensor = Tensor {
        data: block.address().as_ptr().cast(),
        device: Device { r#type: DEVICE_CPU, id: 0 },
        ndim,
        dtype,
        shape: shape.as_mut_ptr(),
        strides: std::ptr::null_mut(),
        byte_offset: 0,
    };
    let mut boxed = Box::new(HostTensor { tensor, shape, block });
    let address = &raw mut boxed.tensor;
    ALLOCATED.with_borrow_mut(|all| all.push(boxed));
    UNCLAIMED.fetch_add(1, Ordering::Relaxed);
    Some(address)
}

unsafe extern "C" fn log(level: i32, message: *const c_char) {
    // The Lab's own log is Python's, and this may run on any thread without the GIL: standard error is the safe place. One that
    // is closed or full takes no line, and is no reason to panic as `eprintln` does.
    door::guard((), || {
        if level >= 30 {
            let _ = writeln!(std::io::stderr(), "nif_lab: {}", text(message));
        }
    });
}

fn text(message: *const c_char) -> String {
    if message.is_null() {
        return String::new();
    }
    // SAFETY: the contract gives a NUL-terminated string.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

/// An environment for one call. `record` and `cancel` must outlive it.
#[inline]
pub fn env(record: &mut ErrorRecord, cancel: *const i32) -> Env {
    Env {
        struct_size: size_of::<Env>() as u32,
        n_results: 1,
        host: &raw const HOST,
        error: (&raw mut *record).cast::<c_void>(),
        cancel,
    }
}
