//! Work on arrays of a device: docs/gpu.md says what each function means.

const std = @import("std");
const nif = @import("nif.zig");
const xxh3 = @import("xxh3.zig");

const GpuArray = nif.GpuArray;

pub const flags = .{
    .gpu_fill = .{ .idempotent = true },
    .gpu_copy = .{ .idempotent = true },
    .gpu_checksum = .{ .long = true, .pure = true },
};

/// `gpu_fill(to, value)`: set all elements of an array on a device.
pub fn gpu_fill(to: u64, value: f64) !void {
    const array: GpuArray = try .writing("to", to);
    return array.fill(value);
}

/// `gpu_copy(source, target)`: copy the elements of one array on a device to another of the same size.
pub fn gpu_copy(source: u64, target: u64) !void {
    const from: GpuArray = try .reading("source", source);
    const to: GpuArray = try .writing("target", target);
    return to.copyFrom(from);
}

/// `gpu_checksum(x)`: XXH3-64 of the bytes of an array on a device.
pub fn gpu_checksum(allocator: std.mem.Allocator, x: u64) !u64 {
    const array: GpuArray = try .reading("x", x);
    const bytes = try allocator.alloc(u8, array.size());
    try array.toHost(bytes);
    return xxh3.hash(bytes);
}

/// `gpu_launch(kernel, shape[s], arguments, places[p])`: start a kernel with packed arguments.
pub fn gpu_launch(kernel: u64, shape: []const u32, arguments: nif.Bytes, places: []const u32) !void {
    if (shape.len != 7) return nif.fail(.value, "shape", "expected 7 numbers, got {d}", .{shape.len});
    return nif.launch(kernel, shape[0..7], arguments.data, places);
}
