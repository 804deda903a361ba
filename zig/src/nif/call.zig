//! The running call: who called, how it fails, what it may ask of its host.

const std = @import("std");
const abi = @import("abi.zig");

/// The host that the last `nif_init` brought; null until one did.
var kept_host: std.atomic.Value(?*const abi.Host) = .init(null);

pub fn keepHost(host: *const abi.Host) void {
    kept_host.store(host, .release);
}

extern fn nif_guard_run(body: *const fn (call: *const Call) callconv(.c) i32, call: *const Call) i32;
extern fn nif_guard_call() ?*const Call;
extern fn nif_guard_leave() noreturn;

/// One call from outside. It lives on the stack of the exported function.
pub const Call = struct {
    /// Null when a TVM-FFI client calls.
    env: ?*abi.Env,
    arguments: ?[*]const abi.Any,
    n_arguments: i32,
    result: *abi.Any,
    name: []const u8,
    parameter_names: []const []const u8,

    /// Run `body` so that a panic in it comes back here, as status -1 with the error set.
    pub fn run(call: *const Call, body: *const fn (call: *const Call) callconv(.c) i32) i32 {
        return nif_guard_run(body, call);
    }

    /// Tell the caller why the call fails. `argument` is an index, or -1.
    pub fn report(
        call: *const Call,
        kind: abi.Kind,
        argument: i32,
        comptime format: []const u8,
        values: anytype,
    ) void {
        @branchHint(.cold);
        var message: Message = undefined;
        defer message.free();
        call.tell(kind, argument, message.print(format, values));
    }

    fn tell(call: *const Call, kind: abi.Kind, argument: i32, text: [*:0]const u8) void {
        if (call.env) |env| return env.host.set_error(env, kind, text, argument);
        const setError = tvmSetter() orelse return;
        const place: Place = .{ .call = call, .argument = argument };
        var message: Message = undefined;
        defer message.free();
        setError(exceptionName(kind), message.print("{f}{s}", .{ place, text }));
    }
};

/// Where a call failed, for callers that don't know: "dot(): argument 'y': ".
const Place = struct {
    call: *const Call,
    argument: i32,

    pub fn format(place: Place, writer: *std.Io.Writer) std.Io.Writer.Error!void {
        try writer.print("{s}(): ", .{place.call.name});
        if (place.argument < 0) return;
        try writer.print("argument '{s}': ", .{place.call.parameter_names[@intCast(place.argument)]});
    }
};

/// A formatted text, closed by a NUL. Texts of a usual length need no allocation.
const Message = struct {
    buffer: [512]u8,
    allocated: ?[:0]u8,

    fn print(message: *Message, comptime format: []const u8, values: anytype) [*:0]const u8 {
        message.allocated = null;
        return std.fmt.bufPrintSentinel(&message.buffer, format, values, 0) catch {
            message.allocated = std.fmt.allocPrintSentinel(std.heap.c_allocator, format, values, 0) catch
                return "no memory for the reason";
            return message.allocated.?;
        };
    }

    fn free(message: *Message) void {
        if (message.allocated) |text| std.heap.c_allocator.free(text);
    }
};

/// The call that this thread is running; null in tests and on a kernel's own threads.
pub fn current() ?*const Call {
    return nif_guard_call();
}

/// What `std.debug.FullPanic` calls. `defaultPanic` would add a symboliser to every library.
pub fn panic(text: []const u8, _: ?usize) noreturn {
    @branchHint(.cold);
    if (current()) |call| {
        call.report(.tainted_panic, -1, "{s}", .{text});
        nif_guard_leave();
    }
    const stderr = 2;
    for ([_][]const u8{ "panic: ", text, "\n" }) |part| _ = std.c.write(stderr, part.ptr, part.len);
    std.c.abort();
}

/// `Error.Failed` was already reported, by `fail`.
pub const Error = error{ Failed, OutOfMemory, NoHost, Cancelled };

/// What is told of an error that a function returned; null where it was told already.
fn explanation(err: anyerror) ?struct { abi.Kind, []const u8 } {
    return switch (err) {
        error.Failed => null,
        error.OutOfMemory => .{ .memory, "out of memory" },
        error.NoHost => .{ .memory, "needs a host to allocate" },
        error.Cancelled => .{ .cancelled, "cancelled" },
        else => .{ .@"error", @errorName(err) },
    };
}

pub fn reportError(call: *const Call, err: anyerror) void {
    const kind, const text = explanation(err) orelse return;
    call.report(kind, -1, "{s}", .{text});
}

/// Report an error of the function's own: `return nif.fail(.value, "bins", "expected 1 or more, got {d}", .{bins});`
///
/// `parameter` is the name of the argument at fault, or null.
pub fn fail(kind: abi.Kind, parameter: ?[]const u8, comptime format: []const u8, values: anytype) Error {
    if (current()) |call| call.report(kind, parameterIndex(call, parameter), format, values);
    return error.Failed;
}

fn parameterIndex(call: *const Call, parameter: ?[]const u8) i32 {
    const wanted = parameter orelse return -1;
    for (call.parameter_names, 0..) |name, index| {
        if (std.mem.eql(u8, name, wanted)) return @intCast(index);
    }
    @panic("nif.fail() names a parameter that the function doesn't have");
}

/// True once the running call should stop; then `return error.Cancelled`.
pub fn cancelled() bool {
    const call = current() orelse return false;
    const env = call.env orelse return false;
    const flag = env.cancel orelse return false;
    return flag.* != 0;
}

/// A zero-filled, row-major tensor of the host's, to be returned from the running call.
pub fn allocateTensor(dtype: abi.DType, shape: []const i64) Error!*abi.Tensor {
    const call = current() orelse return error.NoHost;
    const env = call.env orelse return error.NoHost;
    return env.host.alloc_tensor(dtype, @intCast(shape.len), shape.ptr) orelse error.OutOfMemory;
}

pub const LogLevel = enum(i32) { debug = 10, info = 20, warning = 30, @"error" = 40 };

/// A line in the Lab's log; lost where there is no host.
pub fn log(level: LogLevel, comptime format: []const u8, values: anytype) void {
    const host = kept_host.load(.acquire) orelse return;
    var message: Message = undefined;
    host.log(@backingInt(level), message.print(format, values));
    message.free();
}

fn exceptionName(kind: abi.Kind) [*:0]const u8 {
    return switch (kind) {
        .type => "TypeError",
        .value => "ValueError",
        .@"error", .panic, .memory, .cancelled, .tainted_panic => "RuntimeError",
    };
}

const TvmSetter = fn (kind: [*:0]const u8, message: [*:0]const u8) callconv(.c) void;

/// TVM-FFI's own setter, looked up once; null where this process hasn't loaded it globally.
fn tvmSetter() ?*const TvmSetter {
    const lookup = struct {
        var done: std.atomic.Value(bool) = .init(false);
        var setter: std.atomic.Value(?*const TvmSetter) = .init(null);
    };
    if (!lookup.done.load(.acquire)) {
        const rtld_default = null;
        lookup.setter.store(@ptrCast(std.c.dlsym(rtld_default, "TVMFFIErrorSetRaisedFromCStr")), .release);
        lookup.done.store(true, .release);
    }
    return lookup.setter.load(.acquire);
}

test "messages of any length end in NUL" {
    for ([_]usize{ 0, 511, 512, 10_000 }) |length| {
        const text = try std.testing.allocator.alloc(u8, length);
        defer std.testing.allocator.free(text);
        @memset(text, 'x');
        var message: Message = undefined;
        const printed = message.print("{s}", .{text});
        defer message.free();
        try std.testing.expectEqualStrings(text, std.mem.span(printed));
        try std.testing.expectEqual(length >= 512, message.allocated != null);
    }
}

test "outside a call, asking the host is refused and failing is only an error" {
    try std.testing.expect(!cancelled());
    try std.testing.expectError(error.NoHost, allocateTensor(.{ .code = .float, .bits = 64 }, &.{1}));
    try std.testing.expectEqual(error.Failed, fail(.value, null, "no", .{}));
}
