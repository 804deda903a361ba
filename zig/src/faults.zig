//! Failures on purpose, to measure recovery: those that a call survives, and those that end a process.

const std = @import("std");
const nif = @import("nif.zig");

pub const flags = .{
    .error_value = .{ .fault = true },
    .panic = .{ .fault = true },
    .out_of_bounds = .{ .fault = true },
    .overflow = .{ .fault = true },
    .divide = .{ .fault = true },
    .fault = .{ .fault = true, .idempotent = true },
};

/// `error_value(message)`: fails with this message, by an error union.
pub fn error_value(message: []const u8) nif.Error!void {
    return nif.fail(.value, null, "{s}", .{message});
}

/// `panic(message)`: panics with this message.
pub fn panic(message: []const u8) void {
    @panic(message);
}

/// `out_of_bounds(index)`: element `index` of an array of eight, [0, 1, ..., 7].
pub fn out_of_bounds(index: i64) i64 {
    const elements = [_]i64{ 0, 1, 2, 3, 4, 5, 6, 7 };
    return elements[@intCast(index)];
}

/// `overflow(x)`: x + 1, checked.
pub fn overflow(x: i64) i64 {
    return x + 1;
}

/// `divide(x, y)`: the truncated quotient, checked.
pub fn divide(x: i64, y: i64) i64 {
    return @divTrunc(x, y);
}

/// What `fault` knows.
const Kind = enum {
    error_value,
    panic,
    out_of_bounds,
    overflow,
    divide,
    null_store,
    wild_write,
    stack_overflow,
    double_free,
    heap_overflow,
    abort,
    exit_0,
    exit_7,
    infinite_loop,
    stop,
    huge_allocation,
    gpu_illegal,
    gpu_endless,
};

/// What the fuse calls this language.
const word = std.mem.readInt(i64, "zig\x00\x00\x00\x00\x00", .little);

/// `fault(kind, fuse[k], x[n])`: the sum of x, unless the fuse burns: then it fails as `kind` says.
pub fn fault(kind: []const u8, fuse: []i64, x: []const f64) nif.Error!f64 {
    const known = std.meta.stringToEnum(Kind, kind) orelse
        return nif.fail(.value, "kind", "no such kind of fault", .{});
    if (fuse.len != 3) return nif.fail(.value, "fuse", "expected i64[k] with k = 3, got i64[{d}]", .{fuse.len});
    if (fuse[0] > 0 and fuse[1] == word) {
        // Volatile, so that it is in memory before the process may be gone.
        @as(*volatile i64, &fuse[0]).* = fuse[0] - 1;
        try burn(known, fuse[2], x);
    }
    var sum: f64 = 0;
    for (x) |xi| sum += xi;
    return sum;
}

fn burn(kind: Kind, number: i64, x: []const f64) nif.Error!void {
    switch (kind) {
        .error_value => return nif.fail(.@"error", null, "on purpose", .{}),
        .panic => panic("on purpose"),
        .out_of_bounds => _ = out_of_bounds(8),
        .overflow => _ = overflow(std.math.maxInt(i64)),
        .divide => _ = divide(1, 0),
        .null_store => @as(*allowzero volatile u8, @ptrFromInt(0)).* = 1,
        .wild_write => return wildWrite(x.ptr, number),
        .stack_overflow => _ = descend(0),
        .double_free => doubleFree(),
        .heap_overflow => heapOverflow(),
        .abort => std.process.abort(),
        .exit_0 => std.process.exit(0),
        .exit_7 => std.process.exit(7),
        .infinite_loop => while (true) std.atomic.spinLoopHint(),
        .stop => _ = std.c.raise(.STOP),
        .huge_allocation => return hugeAllocation(number),
        // One block of one thread; which kernel it is, the number says.
        .gpu_illegal, .gpu_endless => return nif.launch(@bitCast(number), &.{ 1, 1, 1, 1, 1, 1, 0 }, &.{}, &.{}),
    }
}

/// Write 64 numbers from element `offset` of `x` on, whatever lies there.
fn wildWrite(x: [*]const f64, offset: i64) nif.Error {
    const distance = @as(u64, @bitCast(offset)) *% @sizeOf(f64);
    const first: [*]volatile f64 = @ptrFromInt(@intFromPtr(x) +% distance);
    for (0..64) |i| first[i] = std.math.nan(f64);
    return nif.fail(.@"error", null, "the wild write went through", .{});
}

/// Call itself without end; what is read after the call keeps its frame on the stack.
fn descend(depth: u64) u64 {
    var frame: u64 = depth;
    const kept: *volatile u64 = &frame;
    return descend(depth +% 1) +% kept.*;
}

fn doubleFree() void {
    var block = std.c.malloc(24);
    const again: *volatile ?*anyopaque = &block; // or the compiler saves itself the trouble
    std.c.free(again.*);
    std.c.free(again.*);
}

/// Write over the end of a block, over the size in the header of the next one, and free that.
fn heapOverflow() void {
    const block: [*]volatile u8 = @ptrCast(std.c.malloc(24).?);
    const past = std.c.malloc_usable_size(@volatileCast(block)) + @sizeOf(usize);
    for (0..past) |i| block[i] = 0xff;
    std.c.free(@volatileCast(block + past));
}

fn hugeAllocation(size: i64) nif.Error {
    const memory = try std.heap.c_allocator.alloc(u8, std.math.cast(usize, size) orelse return error.OutOfMemory);
    defer std.heap.c_allocator.free(memory);
    @as(*volatile u8, &memory[0]).* = 1;
    return nif.fail(.@"error", null, "the memory was given", .{});
}

test "faults answer where they can" {
    try std.testing.expectError(error.Failed, error_value("no"));
    try std.testing.expectEqual(7, out_of_bounds(7));
    try std.testing.expectEqual(-3, divide(-7, 2));
    try std.testing.expectEqual(-6, overflow(-7));
}

test "a fuse burns here or not at all" {
    const x = [_]f64{ 1, 2, 4 };
    for ([_]i64{ 0, word + 1 }) |other| {
        var fuse = [_]i64{ 1, other, 0 };
        try std.testing.expectEqual(7, fault("abort", &fuse, &x));
        try std.testing.expectEqual([_]i64{ 1, other, 0 }, fuse);
    }
    var fuse = [_]i64{ 2, word, 0 };
    for ([_]i64{ 1, 0 }) |left| {
        try std.testing.expectError(error.Failed, fault("error_value", &fuse, &x));
        try std.testing.expectEqual([_]i64{ left, word, 0 }, fuse);
    }
    try std.testing.expectEqual(7, fault("error_value", &fuse, &x));
}

test "a kind needs a name and a whole fuse" {
    var fuse = [_]i64{ 0, 0, 0 };
    for ([_][]const u8{ "", "Panic", "panic ", "garbage_reply" }) |kind| {
        try std.testing.expectError(error.Failed, fault(kind, &fuse, &.{}));
    }
    try std.testing.expectError(error.Failed, fault("panic", fuse[0..2], &.{}));
}

test "wild writes start where they are told" {
    var cells: [80]f64 = @splat(1);
    try std.testing.expectEqual(error.Failed, wildWrite(&cells, 8));
    for (cells, 0..) |cell, i| try std.testing.expectEqual(i >= 8 and i < 72, std.math.isNan(cell));
}
