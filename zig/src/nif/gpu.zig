//! Arrays on a device: a function gets the number of one, and works on it by what its host offers.

const std = @import("std");
const abi = @import("abi.zig");
const calls = @import("call.zig");

const Error = calls.Error;

fn services() Error!*const abi.Gpu {
    return calls.gpu() orelse calls.fail(.gpu, null, "needs a host that offers a GPU", .{});
}

/// A code of the host's as an error: below 0 it is of the argument.
fn check(gpu: *const abi.Gpu, parameter: []const u8, code: i32) Error!void {
    if (code == 0) return;
    const text = std.mem.span(gpu.message());
    if (code < 0) return calls.fail(.value, parameter, "{s}", .{text});
    return calls.fail(.gpu, null, "{s}", .{text});
}

/// An array on a device, for the running call.
pub const GpuArray = struct {
    tensor: abi.Tensor,
    gpu: *const abi.Gpu,

    /// The array of a number, to be read. `parameter` is the name of the argument.
    pub fn reading(parameter: []const u8, number: u64) Error!GpuArray {
        return find(parameter, number, 0);
    }

    /// The array of a number, to be written to.
    pub fn writing(parameter: []const u8, number: u64) Error!GpuArray {
        return find(parameter, number, 1);
    }

    fn find(parameter: []const u8, number: u64, is_written: i32) Error!GpuArray {
        const gpu = try services();
        var tensor: abi.Tensor = undefined;
        try check(gpu, parameter, gpu.tensor(number, is_written, &tensor));
        return .{ .tensor = tensor, .gpu = gpu };
    }

    pub fn shape(self: GpuArray) []const i64 {
        const lengths = self.tensor.shape orelse return &.{};
        return lengths[0..@intCast(self.tensor.ndim)];
    }

    /// In bytes.
    pub fn size(self: GpuArray) usize {
        var bytes: usize = self.tensor.dtype.bits / 8;
        for (self.shape()) |length| bytes *= @intCast(length);
        return bytes;
    }

    /// Set all elements.
    pub fn fill(self: GpuArray, value: f64) Error!void {
        return check(self.gpu, "value", self.gpu.fill(&self.tensor, value));
    }

    /// Copy another array's bytes here.
    pub fn copyFrom(self: GpuArray, source: GpuArray) Error!void {
        if (self.size() != source.size()) {
            return calls.fail(.value, "target", "expected {d} bytes, got {d}", .{ source.size(), self.size() });
        }
        return check(self.gpu, "target", self.gpu.copy(&self.tensor, &source.tensor));
    }

    /// Copy the bytes to the host; it waits for the device. There are `size()` of them.
    pub fn toHost(self: GpuArray, bytes: []u8) Error!void {
        const length = [_]i64{@intCast(bytes.len)};
        const here: abi.Tensor = .{
            .data = bytes.ptr,
            .device = .{ .type = abi.device_cpu, .id = 0 },
            .ndim = 1,
            .dtype = .{ .code = .uint, .bits = 8 },
            .shape = &length,
            .strides = null,
            .byte_offset = 0,
        };
        return check(self.gpu, "x", self.gpu.copy(&here, &self.tensor));
    }
};

/// Start a kernel: see nif_gpu.launch in nif_lab.h.
pub fn launch(kernel: u64, shape: *const [7]u32, arguments: []const u8, places: []const u32) Error!void {
    const gpu = try services();
    return check(gpu, "arguments", gpu.launch(kernel, shape, arguments.ptr, arguments.len, places.ptr, places.len));
}
