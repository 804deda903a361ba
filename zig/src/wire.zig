//! What this language writes, and where it sees what others wrote.

const std = @import("std");
const nif = @import("nif.zig");

pub const flags = .{ .address = .{ .pure = true } };

/// `write(x[...])`: a copy of x in a block from the host's allocator.
pub fn write(x: nif.AnyArray) nif.Error!*nif.Tensor {
    const tensor = try nif.allocateTensor(x.dtype, x.shape);
    if (x.bytes.len > 0) @memcpy(@as([*]u8, @ptrCast(tensor.data.?)), x.bytes);
    return tensor;
}

/// `address(x[...])`: where Zig sees the data.
pub fn address(x: nif.AnyArray) u64 {
    return @intFromPtr(x.bytes.ptr);
}

test "an address is that of the data, and only a host has blocks" {
    const bytes = "data";
    const x: nif.AnyArray = .{ .bytes = bytes, .dtype = .{ .code = .uint, .bits = 8 }, .shape = &.{4} };
    try std.testing.expectEqual(@intFromPtr(bytes), address(x));
    try std.testing.expectError(error.NoHost, write(x));
}
