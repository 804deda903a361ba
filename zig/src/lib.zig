//! The Zig backend: the rooms, tied together.

const nif = @import("nif.zig");
const kernels = @import("kernels.zig");
const wire = @import("wire.zig");
const faults = @import("faults.zig");
const gpu = @import("gpu.zig");

pub const panic = nif.panic;

comptime {
    nif.exportLibrary("0.1.0", &.{
        .{ .functions = kernels, .source = @embedFile("kernels.zig") },
        .{ .functions = wire, .source = @embedFile("wire.zig") },
        .{ .functions = faults, .source = @embedFile("faults.zig") },
        .{ .functions = gpu, .source = @embedFile("gpu.zig") },
    });
}

test {
    _ = .{ nif, kernels, wire, faults, gpu, @import("xxh3.zig") };
}
