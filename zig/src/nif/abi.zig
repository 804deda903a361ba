//! The structs of nif_lab.h.
//! docs/abi.md is the prose; the asserts at the end hold this file to it.

const std = @import("std");

pub const version: u32 = 1;

/// `nif_any.type_index`.
pub const TypeIndex = enum(i32) {
    none = 0,
    int = 1,
    bool = 2,
    float = 3,
    dtype = 5,
    device = 6,
    tensor = 7,
    str = 8,
    bytes = 9,
    tvm_small_str = 11,
    tvm_small_bytes = 12,
    tvm_str = 65,
    tvm_bytes = 66,
    tvm_function = 68,
    tvm_tensor = 70,
    _,
};

/// A TVM object is a header of this many bytes, then the payload.
pub const tvm_header_size = 24;

/// `kind` of `nif_host.set_error`.
pub const Kind = enum(i32) {
    type = 1,
    value = 2,
    @"error" = 3,
    panic = 4,
    memory = 5,
    cancelled = 6,
    index = 11,
    /// A callback failed; its host knows why.
    raised = 12,
    /// The driver of a GPU refused, or a kernel failed.
    gpu = 13,
    /// A panic whose clean-up was skipped: NIF_PANIC | NIF_TAINTED.
    tainted_panic = 0x104,
    tainted_index = 0x10b,
};

/// `nif_function.flags`.
pub const Flags = packed struct(u32) {
    long: bool = false,
    idempotent: bool = false,
    pure: bool = false,
    thread_bound: bool = false,
    polls_cancel: bool = false,
    fault: bool = false,
    unused: u26 = 0,
};

pub const DTypeCode = enum(u8) { int = 0, uint = 1, float = 2, complex = 5, bool = 6, _ };

pub const DType = extern struct {
    code: DTypeCode,
    bits: u8,
    lanes: u16 = 1,
};

pub const device_cpu = 1;

pub const Device = extern struct {
    type: i32,
    id: i32,
};

/// DLPack's DLTensor. Strides count elements; null means row-major.
pub const Tensor = extern struct {
    data: ?*anyopaque,
    device: Device,
    ndim: i32,
    dtype: DType,
    shape: ?[*]const i64,
    strides: ?[*]const i64,
    byte_offset: u64,
};

pub const Bytes = extern struct {
    data: ?[*]const u8,
    size: usize,
};

pub const Any = extern struct {
    type_index: TypeIndex,
    zero: u32 = 0,
    v: Value,

    pub const Value = extern union {
        i: i64,
        f: f64,
        p: ?*anyopaque,
        dtype: DType,
        device: Device,
        small: [8]u8,
    };
};

/// A function of the caller's: the header of a TVM object, and how to call it.
pub const Object = extern struct {
    ref_count: u64,
    type_index: TypeIndex,
    padding: u32,
    deleter: ?*anyopaque,
    call: *const fn (object: *const Object, args: ?[*]const Any, n_args: i32, result: *Any) callconv(.c) i32,
    cpp_call: ?*anyopaque,
};

/// What a host offers for GPUs: see nif_lab.h. Each returns 0, or a code of which `message` says more.
pub const Gpu = extern struct {
    struct_size: u32,
    zero: u32,
    tensor: *const fn (number: u64, is_written: i32, out: *Tensor) callconv(.c) i32,
    fill: *const fn (to: *const Tensor, value: f64) callconv(.c) i32,
    copy: *const fn (to: *const Tensor, from: *const Tensor) callconv(.c) i32,
    launch: *const fn (
        kernel: u64,
        shape: [*]const u32,
        arguments: ?[*]const u8,
        size: u64,
        places: ?[*]const u32,
        n_places: u64,
    ) callconv(.c) i32,
    synchronize: *const fn (device: i32) callconv(.c) i32,
    message: *const fn () callconv(.c) [*:0]const u8,
};

pub const Host = extern struct {
    struct_size: u32,
    abi_version: u32,
    set_error: *const fn (env: *Env, kind: Kind, message: [*:0]const u8, argument: i32) callconv(.c) void,
    alloc_tensor: *const fn (dtype: DType, ndim: i32, shape: ?[*]const i64) callconv(.c) ?*Tensor,
    log: *const fn (level: i32, message: [*:0]const u8) callconv(.c) void,
    progress: *const fn (done: i64, total: i64) callconv(.c) void,
    /// For GPUs; null in a host without.
    gpu: ?*const Gpu,
};

pub const Env = extern struct {
    struct_size: u32,
    /// Values that `result` has room for; 0 counts as 1.
    n_results: u32,
    host: *const Host,
    @"error": ?*anyopaque,
    cancel: ?*const volatile i32,
};

pub const Call = fn (env: ?*Env, args: ?[*]const Any, n_args: i32, result: *Any) callconv(.c) i32;

pub const Function = extern struct {
    name: [*:0]const u8,
    signature: [*:0]const u8,
    doc: [*:0]const u8,
    call: *const Call,
    flags: Flags,
    zero: u32 = 0,
};

pub const Library = extern struct {
    abi_version: u32 = version,
    struct_hash: u32,
    language: [*:0]const u8,
    compiler: [*:0]const u8,
    library_version: [*:0]const u8,
    n_functions: u32,
    zero: u32 = 0,
    functions: [*]const Function,
    load: ?*const fn (host: ?*const Host) callconv(.c) i32 = null,
    unload: ?*const fn () callconv(.c) void = null,
};

/// The size of `Struct` and the offsets of its fields are exactly `numbers`.
fn assertLayout(comptime Struct: type, comptime numbers: []const usize) void {
    const fields = @typeInfo(Struct).@"struct".field_names;
    std.debug.assert(numbers.len == fields.len + 1);
    std.debug.assert(@sizeOf(Struct) == numbers[0]);
    for (fields, numbers[1..]) |field, offset| std.debug.assert(@offsetOf(Struct, field) == offset);
}

comptime {
    assertLayout(DType, &.{ 4, 0, 1, 2 });
    assertLayout(Device, &.{ 8, 0, 4 });
    assertLayout(Tensor, &.{ 48, 0, 8, 16, 20, 24, 32, 40 });
    assertLayout(Bytes, &.{ 16, 0, 8 });
    assertLayout(Any, &.{ 16, 0, 4, 8 });
    assertLayout(Host, &.{ 48, 0, 4, 8, 16, 24, 32, 40 });
    assertLayout(Gpu, &.{ 56, 0, 4, 8, 16, 24, 32, 40, 48 });
    assertLayout(Object, &.{ 40, 0, 8, 12, 16, 24, 32 });
    assertLayout(Env, &.{ 32, 0, 4, 8, 16, 24 });
    assertLayout(Function, &.{ 40, 0, 8, 16, 24, 32, 36 });
    assertLayout(Library, &.{ 64, 0, 4, 8, 16, 24, 32, 36, 40, 48, 56 });
    std.debug.assert(@sizeOf(Any.Value) == 8);
}
