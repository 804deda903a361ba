//! The SDK: plain functions become NIFs.
//!
//!     //! cell.zig
//!     const nif = @import("nif");
//!     pub const panic = nif.panic;
//!
//!     pub const flags = .{ .mean = .{ .pure = true } };
//!
//!     /// `mean(x[n])`: the arithmetic mean.
//!     pub fn mean(x: []const f64) !f64 {
//!         if (x.len == 0) return nif.fail(.value, "x", "expected an element", .{});
//!         ...
//!     }
//!
//!     comptime {
//!         nif.exportLibrary("0.1.0", &.{.{ .functions = @This(), .source = @embedFile("cell.zig") }});
//!     }
//!
//! Parameters: i8 to i64, u8 to u64, isize, usize (an integer outside its type is refused), f32, f64, bool, []const u8
//! (text), Bytes; []const T and []T (vectors), Matrix(T) and MatrixMut(T), AnyArray; Callback(fn (f64) f64); []const []const u8 (a list of
//! texts), an enum (by its names), and an optional of one of these. A truth value in an array is a nif.Bool. A first parameter of type std.mem.Allocator isn't the caller's: its memory lasts until the call is over.
//!
//! Results: void, the scalars above; []const u8 (text), Bytes, []T, []const T, [N]T and [][N]T, which are copied into
//! memory of the host's; [:0]const u8 that lives as long as the library; *Tensor from `allocateTensor`; ?T of these;
//! a tuple of these (Python's tuple) or a small struct (a named tuple), or ?T of one; []const []const u8 (a list of texts),
//! an enum (its name). Each also with an error:
//! OutOfMemory is a NifMemoryError; InvalidArgument, InvalidValue, InvalidCharacter and Overflow are a NifValueError,
//! OutOfBounds and IndexOutOfBounds a NifIndexError, all others a NifError with the error's name. nif/guard.c must be
//! linked.

const std = @import("std");
const builtin = @import("builtin");
const abi = @import("nif/abi.zig");
const arguments = @import("nif/arguments.zig");
const arrays = @import("nif/arrays.zig");
const callbacks = @import("nif/callback.zig");
const calls = @import("nif/call.zig");
const gpus = @import("nif/gpu.zig");
const layouts = @import("nif/layout.zig");
const messages = @import("nif/message.zig");
const results = @import("nif/results.zig");
const signatures = @import("nif/signature.zig");

pub const AnyArray = arrays.AnyArray;
pub const Bool = arrays.Bool;
pub const Bytes = arrays.Bytes;
pub const Callback = callbacks.Callback;
pub const Complex = arrays.Complex;
pub const GpuArray = gpus.GpuArray;
pub const Matrix = arrays.Matrix;
pub const MatrixMut = arrays.MatrixMut;

pub const DType = abi.DType;
pub const Flags = abi.Flags;
pub const Kind = abi.Kind;
pub const Tensor = abi.Tensor;

pub const Error = calls.Error;
pub const LogLevel = calls.LogLevel;
pub const allocateTensor = calls.allocateTensor;
pub const cancelled = calls.cancelled;
pub const fail = calls.fail;
pub const launch = gpus.launch;
pub const log = calls.log;
pub const progress = calls.progress;

/// To be made `pub const panic` of the root file: a panic ends the call, not the process.
pub const panic = @import("nif/panics.zig");

/// A file whose public functions are NIFs. Beside them stand their `flags`.
pub const Room = struct {
    functions: type,
    /// The text of that file, for names and documentation.
    source: []const u8,
};

/// Export `nif_init` and `__tvm_ffi_<name>` for each function of the rooms. Call it once, at compile time.
pub fn exportLibrary(comptime version: [:0]const u8, comptime rooms: []const Room) void {
    const table = comptime functionsOf(rooms ++ [_]Room{.{ .functions = layouts, .source = @embedFile("nif/layout.zig") }});
    for (table) |function| {
        @export(function.call, .{ .name = "__tvm_ffi_" ++ std.mem.span(function.name) });
    }
    const library = struct {
        const description: abi.Library = .{
            .struct_hash = layouts.struct_hash,
            .language = "zig",
            .compiler = "zig " ++ builtin.zig_version_string,
            .library_version = version,
            .n_functions = table.len,
            .functions = table.ptr,
            .unload = &unload,
        };

        /// Nothing of this SDK outlives a call, so a host may close the library: it opens a fresh copy after each panic.
        fn unload() callconv(.c) void {}

        fn init(maybe_host: ?*const abi.Host) callconv(.c) *const abi.Library {
            if (maybe_host) |host| calls.keepHost(host);
            return &description;
        }
    };
    @export(&library.init, .{ .name = "nif_init" });
}

fn functionsOf(comptime rooms: []const Room) []const abi.Function {
    var table: []const abi.Function = &.{};
    for (rooms) |room| {
        checkFlags(room.functions);
        for (@typeInfo(room.functions).@"struct".decl_names) |name| {
            if (@typeInfo(@TypeOf(@field(room.functions, name))) != .@"fn") continue;
            const signature = signatures.of(room.functions, room.source, name);
            const flags = flagsOf(room.functions, name);
            table = table ++ [_]abi.Function{.{
                .name = signature.name,
                .signature = signature.text,
                .doc = signature.doc,
                .call = &Export(@field(room.functions, name), signature, flags).call,
                .flags = flags,
            }};
        }
    }
    return table;
}

fn flagsOf(comptime functions: type, comptime name: []const u8) Flags {
    var flags: Flags = .{};
    if (!@hasDecl(functions, "flags") or !@hasField(@TypeOf(functions.flags), name)) return flags;
    const given = @field(functions.flags, name);
    for (@typeInfo(@TypeOf(given)).@"struct".field_names) |flag| @field(flags, flag) = @field(given, flag);
    if (flags.pure) flags.idempotent = true;
    return flags;
}

/// Flags of a function that isn't there are a slip of the pen.
fn checkFlags(comptime functions: type) void {
    if (!@hasDecl(functions, "flags")) return;
    for (@typeInfo(@TypeOf(functions.flags)).@"struct".field_names) |name| {
        if (!@hasDecl(functions, name)) @compileError("flags for " ++ name ++ ", which isn't a pub fn here");
    }
}

/// The one conversion between the C ABI and a plain function.
fn Export(comptime function: anytype, comptime signature: signatures.Signature, comptime flags: Flags) type {
    return struct {
        const about: calls.About = .{ .name = signature.name, .parameter_names = signature.parameterNames() };
        /// Whether the function may ask for the call's environment, which costs about as much as a small call.
        const asks = flags.polls_cancel or results.isInMemory(results.Payload(@TypeOf(function)));
        const Tuple = std.meta.ArgsTuple(@TypeOf(function));

        fn call(env: ?*abi.Env, args: ?[*]const abi.Any, n_args: i32, result: *abi.Any) callconv(.c) i32 {
            const outer = if (asks) calls.enter(env);
            defer if (asks) calls.leave(outer);
            return calls.run(&guarded, &about, env, args, n_args, result);
        }

        fn guarded(env: ?*abi.Env, args: ?[*]const abi.Any, n_args: i32, result: *abi.Any) callconv(.c) i32 {
            @disableInstrumentation(); // the stack protector's: nothing here has an end to run over
            const running: calls.Call = .{ .env = env, .arguments = args, .n_arguments = n_args, .about = &about };
            invoke(&running, result) catch |err| {
                running.reportError(err);
                return -1;
            };
            return 0;
        }

        fn invoke(running: *const calls.Call, result: *abi.Any) !void {
            if (comptime !signature.needsMemory()) {
                const tuple = try arguments.take(Tuple, signature.parameters, running, undefined);
                return give(@call(.auto, function, tuple), running, result);
            }
            var arena: std.heap.ArenaAllocator = .init(std.heap.c_allocator);
            defer arena.deinit(); // what is returned was copied by then
            var tuple = try arguments.take(Tuple, signature.parameters, running, arena.allocator());
            if (comptime signature.takes_allocator) tuple[0] = arena.allocator();
            return give(@call(.auto, function, tuple), running, result);
        }

        inline fn give(returned: anytype, running: *const calls.Call, result: *abi.Any) !void {
            const value = if (@typeInfo(@TypeOf(returned)) == .error_union) try returned else returned;
            return results.write(value, running.env, result);
        }
    };
}

test "pure means idempotent too" {
    const room = struct {
        pub const flags = .{ .one = .{ .pure = true } };
        pub fn one() void {}
        pub fn two() void {}
    };
    try std.testing.expectEqual(Flags{ .pure = true, .idempotent = true }, comptime flagsOf(room, "one"));
    try std.testing.expectEqual(Flags{}, comptime flagsOf(room, "two"));
}

test {
    _ = .{ abi, arguments, arrays, callbacks, calls, gpus, layouts, messages, results, signatures };
}
