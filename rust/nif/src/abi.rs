//! `nif_lab.h` in Rust: the structs that cross the ABI, their constants and their layout.
//!
//! Nothing here runs on a call; [`STRUCT_HASH`] and [`LAYOUT`] are computed from the structs below, so the host can tell
//! whether a library was built for the same layout.
#![allow(unsafe_code, reason = "tables of C pointers are shared between threads")]

use std::ffi::{c_char, c_void};
use std::fmt::Write as _;
use std::mem::{align_of, offset_of, size_of};
use std::sync::LazyLock;

/// The version of the contract.
pub const ABI_VERSION: u32 = 1;

/// `nif_any.type_index`: what a value is.
pub mod type_index {
    pub const NONE: i32 = 0;
    pub const INT: i32 = 1;
    pub const BOOL: i32 = 2;
    pub const FLOAT: i32 = 3;
    pub const DTYPE: i32 = 5;
    pub const DEVICE: i32 = 6;
    pub const TENSOR: i32 = 7;
    pub const STR: i32 = 8;
    pub const BYTES: i32 = 9;
    pub const TVM_SMALL_STR: i32 = 11;
    pub const TVM_SMALL_BYTES: i32 = 12;
    pub const TVM_STR: i32 = 65;
    pub const TVM_BYTES: i32 = 66;
    pub const TVM_FUNCTION: i32 = 68;
    pub const TVM_TENSOR: i32 = 70;
}

/// `kind` of `nif_host.set_error`.
pub mod error_kind {
    pub const TYPE_ERROR: i32 = 1;
    pub const VALUE_ERROR: i32 = 2;
    pub const ERROR: i32 = 3;
    pub const PANIC: i32 = 4;
    pub const MEMORY_ERROR: i32 = 5;
    pub const CANCELLED: i32 = 6;
    /// An index is out of bounds. (7 to 10 are the Lab's own.)
    pub const INDEX_ERROR: i32 = 11;
    /// A callback failed; its host knows why.
    pub const RAISED: i32 = 12;
    /// The driver of a GPU refused, or a kernel failed.
    pub const GPU_ERROR: i32 = 13;
    /// Or-ed in: clean-up was skipped.
    pub const TAINTED: i32 = 0x100;
}

/// `nif_function.flags`.
pub mod flag {
    /// Release the GIL.
    pub const LONG: u32 = 1;
    /// May be retried.
    pub const IDEMPOTENT: u32 = 2;
    /// No effect but the result; implies `IDEMPOTENT`.
    pub const PURE: u32 = 4;
    /// Call it on the thread that opened the library.
    pub const THREAD_BOUND: u32 = 8;
    pub const POLLS_CANCEL: u32 = 16;
    /// Fails on purpose.
    pub const FAULT: u32 = 32;
}

/// `nif_dtype.code`: `DLPack`'s.
pub mod dtype_code {
    pub const INT: u8 = 0;
    pub const UINT: u8 = 1;
    pub const FLOAT: u8 = 2;
    pub const COMPLEX: u8 = 5;
    pub const BOOL: u8 = 6;
}

/// `nif_device.type` of ordinary memory.
pub const DEVICE_CPU: i32 = 1;

/// The header of a TVM object, which the payload follows.
pub const TVM_OBJECT_HEADER: usize = 24;

/// An element type, as `DLPack` spells it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DType {
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
}

/// Where memory lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub r#type: i32,
    pub id: i32,
}

/// `DLPack`'s `DLTensor`. `strides` count elements and may be null (row-major).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    pub data: *mut c_void,
    pub device: Device,
    pub ndim: i32,
    pub dtype: DType,
    pub shape: *mut i64,
    pub strides: *mut i64,
    pub byte_offset: u64,
}

/// A run of bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    pub data: *const c_char,
    pub size: usize,
}

/// A function that can be called back: an object of TVM's, its header and its first payload.
#[repr(C)]
#[derive(Debug)]
pub struct Object {
    pub ref_count: u64,
    pub type_index: i32,
    pub padding: u32,
    pub deleter: *mut c_void,
    /// Takes the object as its `env`.
    pub call: Call,
    pub cpp_call: *mut c_void,
}

/// The payload of [`Any`]; its `type_index` says which field counts.
#[repr(C)]
#[derive(Clone, Copy)]
pub union AnyValue {
    pub i: i64,
    pub f: f64,
    pub p: *mut c_void,
    pub dtype: DType,
    pub device: Device,
    pub small: [u8; 8],
}

/// One argument or result.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Any {
    pub type_index: i32,
    /// 0; the length of a TVM small string.
    pub zero: u32,
    pub v: AnyValue,
}

/// What a host offers for GPUs: see `nif_lab.h`. Each returns 0, or a code of which `message` says more.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    pub struct_size: u32,
    pub zero: u32,
    pub tensor: unsafe extern "C" fn(number: u64, is_written: i32, out: *mut Tensor) -> i32,
    pub fill: unsafe extern "C" fn(to: *const Tensor, value: f64) -> i32,
    pub copy: unsafe extern "C" fn(to: *const Tensor, from: *const Tensor) -> i32,
    pub launch: unsafe extern "C" fn(
        kernel: u64,
        shape: *const u32,
        arguments: *const c_void,
        size: u64,
        places: *const u32,
        n_places: u64,
    ) -> i32,
    pub synchronize: unsafe extern "C" fn(device: i32) -> i32,
    pub message: unsafe extern "C" fn() -> *const c_char,
}

/// What a host offers to a library. It outlives the library.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub struct_size: u32,
    pub abi_version: u32,
    /// Record why this call fails. The message is copied.
    pub set_error: unsafe extern "C" fn(env: *mut Env, kind: i32, message: *const c_char, argument: i32),
    /// A row-major tensor to be returned by the running call; null when there is no memory.
    pub alloc_tensor: unsafe extern "C" fn(dtype: DType, ndim: i32, shape: *const i64) -> *mut Tensor,
    /// `level`: 10 debug, 20 info, 30 warning, 40 error.
    pub log: unsafe extern "C" fn(level: i32, message: *const c_char),
    /// How far the running call is.
    pub progress: unsafe extern "C" fn(done: i64, total: i64),
    /// For GPUs; null in a host without.
    pub gpu: *const Gpu,
}

// SAFETY: a table that nobody writes after it is made.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

/// What a host passes to each call; null when a TVM-FFI client calls.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Env {
    pub struct_size: u32,
    /// Values that `result` has room for; 0 counts as 1.
    pub n_results: u32,
    pub host: *const Host,
    /// The host's own.
    pub error: *mut c_void,
    /// Becomes non-zero when the call should stop.
    pub cancel: *const i32,
}

/// 0: `*result` is set. -1: an error was set, `*result` is untouched.
pub type Call = unsafe extern "C" fn(env: *mut c_void, args: *const Any, n_args: i32, result: *mut Any) -> i32;

/// One NIF.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub name: *const c_char,
    pub signature: *const c_char,
    pub doc: *const c_char,
    pub call: Call,
    pub flags: u32,
    pub zero: u32,
}

/// The table of a library.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Library {
    pub abi_version: u32,
    pub struct_hash: u32,
    pub language: *const c_char,
    pub compiler: *const c_char,
    pub library_version: *const c_char,
    pub n_functions: u32,
    pub zero: u32,
    pub functions: *const Function,
    pub load: Option<unsafe extern "C" fn(host: *const Host) -> i32>,
    pub unload: Option<unsafe extern "C" fn()>,
}

/// The type of the one symbol that every library exports, `nif_init`.
pub type Init = unsafe extern "C" fn(host: *const Host) -> *const Library;

// SAFETY: a table that nobody writes after it is made; its pointers lead to constants of the library.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}
// SAFETY: as above.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// A field as [`LAYOUT`] spells it: name, offset, size.
type Field = (&'static str, usize, usize);

/// The size of what an accessor leads to: the one way to name a field's type.
const fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! layout {
    ($($name:literal $type:ident { $($field:ident),+ })+) => {
        /// The structs in the order of docs/abi.md: name, size, fields.
        const STRUCTS: &[(&str, usize, &[Field])] = &[$((
            $name,
            size_of::<$type>(),
            &[$((stringify!($field), offset_of!($type, $field), size_of_field(|it: &$type| &it.$field))),+],
        )),+];
    };
}

layout! {
    "nif_tensor" Tensor { data, device, ndim, dtype, shape, strides, byte_offset }
    "nif_bytes" Bytes { data, size }
    "nif_any" Any { type_index, zero, v }
    "nif_host" Host { struct_size, abi_version, set_error, alloc_tensor, log, progress, gpu }
    "nif_env" Env { struct_size, n_results, host, error, cancel }
    "nif_function" Function { name, signature, doc, call, flags, zero }
    "nif_library" Library {
        abi_version, struct_hash, language, compiler, library_version, n_functions, zero, functions, load, unload
    }
}

/// The hash of this crate's own structs, see docs/abi.md, "Layout".
pub const STRUCT_HASH: u32 = {
    const fn step(hash: u32, number: usize) -> u32 {
        assert!(number < 1 << 16);
        #[allow(clippy::cast_possible_truncation, reason = "asserted above; `try_from` isn't const")]
        (hash ^ number as u32).wrapping_mul(16_777_619)
    }
    // `for` isn't const yet.
    let mut hash = 2_166_136_261;
    let mut index = 0;
    while index < STRUCTS.len() {
        let (_, size, fields) = STRUCTS[index];
        hash = step(hash, size);
        let mut field = 0;
        while field < fields.len() {
            hash = step(hash, fields[field].1);
            field += 1;
        }
        index += 1;
    }
    hash
};

/// The numbers behind [`STRUCT_HASH`], a line each, so that a difference can be named.
pub static LAYOUT: LazyLock<String> = LazyLock::new(|| {
    let mut text = String::new();
    for (name, size, fields) in STRUCTS {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name} {size}");
        for (field, offset, size) in *fields {
            let _ = writeln!(text, "{name}.{field} {offset} {size}");
        }
    }
    text.truncate(text.trim_end().len());
    text
});

// What nif_lab.h gives on every 64-bit machine; a slip here fails the build, not a call.
const _: () = {
    assert!(size_of::<DType>() == 4 && align_of::<DType>() == 2);
    assert!(size_of::<Device>() == 8 && align_of::<Device>() == 4);
    assert!(size_of::<Tensor>() == 48);
    assert!(offset_of!(Tensor, device) == 8 && offset_of!(Tensor, ndim) == 16 && offset_of!(Tensor, dtype) == 20);
    assert!(offset_of!(Tensor, shape) == 24 && offset_of!(Tensor, strides) == 32);
    assert!(offset_of!(Tensor, byte_offset) == 40);
    assert!(size_of::<Bytes>() == 16 && offset_of!(Bytes, size) == 8);
    assert!(size_of::<Any>() == 16 && offset_of!(Any, zero) == 4 && offset_of!(Any, v) == 8);
    assert!(size_of::<Host>() == 48 && offset_of!(Host, gpu) == 40 && offset_of!(Host, set_error) == 8);
    assert!(offset_of!(Host, alloc_tensor) == 16 && offset_of!(Host, log) == 24 && offset_of!(Host, progress) == 32);
    assert!(size_of::<Gpu>() == 56 && offset_of!(Gpu, tensor) == 8 && offset_of!(Gpu, message) == 48);
    assert!(size_of::<Object>() == 40 && offset_of!(Object, call) == TVM_OBJECT_HEADER);
    assert!(size_of::<Env>() == 32 && offset_of!(Env, host) == 8 && offset_of!(Env, error) == 16);
    assert!(offset_of!(Env, cancel) == 24);
    assert!(size_of::<Function>() == 40 && offset_of!(Function, call) == 24 && offset_of!(Function, flags) == 32);
    assert!(size_of::<Library>() == 64 && offset_of!(Library, language) == 8);
    assert!(offset_of!(Library, n_functions) == 32 && offset_of!(Library, functions) == 40);
    assert!(offset_of!(Library, load) == 48 && offset_of!(Library, unload) == 56);
};
