//! The running call: who called, how it fails, what it may ask of its host.

const std = @import("std");
const abi = @import("abi.zig");
const Message = @import("message.zig").Message;

/// The host that the last `nif_init` brought; null until one did.
var kept_host: std.atomic.Value(?*const abi.Host) = .init(null);

pub fn keepHost(host: *const abi.Host) void {
    kept_host.store(host, .release);
}

extern fn nif_guard_run(
    env: ?*abi.Env,
    args: ?[*]const abi.Any,
    n_args: i32,
    result: *abi.Any,
    body: *const abi.Call,
) i32;
extern fn nif_guard_leave() void;

/// Run `body` so that a panic in it comes back here, as status -1 with the error set.
pub inline fn run(
    body: *const abi.Call,
    about: *const About,
    env: ?*abi.Env,
    args: ?[*]const abi.Any,
    n_args: i32,
    result: *abi.Any,
) i32 {
    const status = nif_guard_run(env, args, n_args, result, body);
    return if (status <= 0) status else panicked(env, about);
}

fn panicked(env: ?*abi.Env, about: *const About) i32 {
    @branchHint(.cold);
    const call: Call = .{ .env = env, .arguments = null, .n_arguments = 0, .about = about };
    call.reportFailure();
    return -1;
}

/// What is known of a function while it runs.
pub const About = struct {
    name: []const u8,
    parameter_names: []const []const u8,
};

/// One call from outside.
pub const Call = struct {
    /// Null when a TVM-FFI client calls.
    env: ?*abi.Env,
    arguments: ?[*]const abi.Any,
    n_arguments: i32,
    about: *const About,

    /// Tell the caller why the call fails. `argument` is an index, or -1; `parts` are those of `Message.add`.
    pub fn report(call: *const Call, kind: abi.Kind, argument: i32, parts: anytype) void {
        @branchHint(.cold);
        var message: Message = .{};
        defer message.free();
        message.add(parts);
        call.tell(kind, argument, message.text());
    }

    noinline fn tell(call: *const Call, kind: abi.Kind, argument: i32, text: [*:0]const u8) void {
        if (call.env) |env| return env.host.set_error(env, kind, text, argument);
        if (kind == .raised) return; // whoever raised it has told
        const setError = tvmSetter() orelse return;
        // For callers that don't know where: "dot(): argument 'y': ...".
        var message: Message = .{};
        defer message.free();
        message.add(.{ call.about.name, "(): " });
        if (argument >= 0) message.add(.{ "argument '", call.about.parameter_names[@intCast(argument)], "': " });
        message.add(.{std.mem.span(text)});
        setError(exceptionName(kind), message.text());
    }

    /// Tell the caller of an error that the function returned.
    pub fn reportError(call: *const Call, err: anyerror) void {
        @branchHint(.cold);
        const kind: abi.Kind, const text: [:0]const u8 = switch (err) {
            error.Refused => return, // told already
            error.Failed => return call.reportFailure(),
            error.OutOfMemory => .{ .memory, "out of memory" },
            error.NoHost => .{ .memory, "needs a host to allocate" },
            error.Cancelled => .{ .cancelled, "cancelled" },
            error.Raised => .{ .raised, "a callback raised an exception" },
            error.InvalidArgument, error.InvalidValue, error.InvalidCharacter, error.Overflow => .{ .value, @errorName(err) },
            error.OutOfBounds, error.IndexOutOfBounds => .{ .index, @errorName(err) },
            else => .{ .@"error", @errorName(err) },
        };
        call.tell(kind, -1, text);
    }

    /// Tell the caller what `fail` or a panic left on this thread.
    fn reportFailure(call: *const Call) void {
        @branchHint(.cold);
        defer failure.clear();
        const text = if (failure.message) |*it| it.text() else "error.Failed came without nif.fail()";
        call.tell(failure.kind, call.indexOf(failure.parameter), text);
    }

    noinline fn indexOf(call: *const Call, parameter: ?[]const u8) i32 {
        const wanted = parameter orelse return -1;
        for (call.about.parameter_names, 0..) |name, index| {
            if (std.mem.eql(u8, name, wanted)) return @intCast(index);
        }
        @panic("nif.fail() names a parameter that the function doesn't have");
    }
};

/// Why this thread's call fails, from the place where it was noticed to the one that tells.
threadlocal var failure: Failure = .{};

const Failure = struct {
    kind: abi.Kind = .@"error",
    parameter: ?[]const u8 = null,
    message: ?Message = null,

    /// Begin another; returns the message to fill in.
    fn begin(self: *Failure, kind: abi.Kind, parameter: ?[]const u8) *Message {
        self.clear(); // of a failure that the function got over
        self.kind = kind;
        self.parameter = parameter;
        self.message = .{};
        return &self.message.?;
    }

    fn clear(self: *Failure) void {
        if (self.message) |*message| message.free();
        self.* = .{};
    }
};

/// The environment of this thread's innermost call of a function that may ask for it; null elsewhere.
threadlocal var asked: ?*abi.Env = null;

/// Make `env` the one to ask; returns the one to restore with `leave`.
pub fn enter(env: ?*abi.Env) ?*abi.Env {
    defer asked = env;
    return asked;
}

pub fn leave(outer: ?*abi.Env) void {
    asked = outer;
}

/// End the call with a panic of these parts. `std.debug.defaultPanic` would add a symboliser to every library.
pub fn panic(parts: anytype) noreturn {
    @branchHint(.cold);
    panicAs(.tainted_panic, parts);
}

/// The same with a kind of its own.
pub fn panicAs(kind: abi.Kind, parts: anytype) noreturn {
    @branchHint(.cold);
    const message = failure.begin(kind, null);
    message.add(parts);
    const text = std.mem.span(message.text());
    nif_guard_leave(); // returns in tests and on a kernel's own threads, where there is no call to leave
    const stderr = 2;
    for ([_][]const u8{ "panic: ", text, "\n" }) |part| _ = std.c.write(stderr, part.ptr, part.len);
    std.c.abort();
}

/// `Error.Failed` is what `fail` returns.
pub const Error = error{ Failed, OutOfMemory, NoHost, Cancelled, Raised };

/// An error of the function's own: `return nif.fail(.value, "bins", "expected 1 or more, got {d}", .{bins});`
///
/// `parameter` is the name of the argument at fault, or null.
pub fn fail(kind: abi.Kind, parameter: ?[]const u8, comptime format: []const u8, values: anytype) Error {
    @branchHint(.cold);
    failure.begin(kind, parameter).print(format, values);
    return error.Failed;
}

/// True once the running call should stop; then `return error.Cancelled`. A function that asks has the flag
/// `polls_cancel`.
pub fn cancelled() bool {
    const env = asked orelse return false;
    const flag = env.cancel orelse return false;
    return flag.* != 0;
}

/// A row-major tensor of the host's, its elements of any value, to be returned from the running call.
pub fn allocateTensor(dtype: abi.DType, shape: []const i64) Error!*abi.Tensor {
    const env = asked orelse return error.NoHost;
    return env.host.alloc_tensor(dtype, @intCast(shape.len), shape.ptr) orelse error.OutOfMemory;
}

/// How far the running call is: `done` of `total` steps. It costs a few nanoseconds; a function that is `long` may call it in
/// every turn of a loop, on the thread of the call.
pub fn progress(done: anytype, total: anytype) void {
    const host = kept_host.load(.acquire) orelse return;
    host.progress(std.math.lossyCast(i64, done), std.math.lossyCast(i64, total));
}

/// What the host offers for GPUs; null where there is no host or it has nothing for them.
pub fn gpu() ?*const abi.Gpu {
    const host = kept_host.load(.acquire) orelse return null;
    return host.gpu;
}

pub const LogLevel = enum(i32) { debug = 10, info = 20, warning = 30, @"error" = 40 };

/// A line in the Lab's log; lost where there is no host.
pub fn log(level: LogLevel, comptime format: []const u8, values: anytype) void {
    const host = kept_host.load(.acquire) orelse return;
    var message: Message = .{};
    defer message.free();
    message.print(format, values);
    host.log(@backingInt(level), message.text());
}

fn exceptionName(kind: abi.Kind) [*:0]const u8 {
    return switch (kind) {
        .type => "TypeError",
        .value => "ValueError",
        .index, .tainted_index => "IndexError",
        .@"error", .panic, .memory, .cancelled, .raised, .gpu, .tainted_panic => "RuntimeError",
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
        lookup.setter.store(@ptrCast(@alignCast(std.c.dlsym(rtld_default, "TVMFFIErrorSetRaisedFromCStr"))), .release);
        lookup.done.store(true, .release);
    }
    return lookup.setter.load(.acquire);
}

test "outside a call, asking the host is refused and failing is only an error" {
    try std.testing.expect(!cancelled());
    try std.testing.expectError(error.NoHost, allocateTensor(.{ .code = .float, .bits = 64 }, &.{1}));
    try std.testing.expectEqual(error.Failed, fail(.value, null, "no", .{}));
}
