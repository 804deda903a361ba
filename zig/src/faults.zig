//! Failures on purpose, to measure recovery.

const std = @import("std");
const nif = @import("nif.zig");

pub const flags = .{
    .error_value = .{ .fault = true },
    .panic = .{ .fault = true },
    .out_of_bounds = .{ .fault = true },
    .overflow = .{ .fault = true },
    .divide = .{ .fault = true },
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

test "faults answer where they can" {
    try std.testing.expectError(error.Failed, error_value("no"));
    try std.testing.expectEqual(7, out_of_bounds(7));
    try std.testing.expectEqual(-3, divide(-7, 2));
    try std.testing.expectEqual(-6, overflow(-7));
}
