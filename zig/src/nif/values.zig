//! What is behind the ABI's values: texts, bytes and tensors, whichever way they came.

const std = @import("std");
const abi = @import("abi.zig");

pub fn tensorOf(value: *const abi.Any) ?*const abi.Tensor {
    return switch (value.type_index) {
        .tensor => @ptrCast(@alignCast(value.v.p)),
        .tvm_tensor => @ptrCast(@alignCast(tvmPayload(value))),
        else => null,
    };
}

pub fn tvmPayload(value: *const abi.Any) *const anyopaque {
    return @as([*]const u8, @ptrCast(value.v.p.?)) + abi.tvm_header_size;
}

/// The record behind text or bytes that isn't small.
pub fn recordOf(value: *const abi.Any) *const abi.Bytes {
    return if (value.type_index == .bytes)
        @ptrCast(@alignCast(value.v.p.?))
    else
        @ptrCast(@alignCast(tvmPayload(value)));
}

pub fn bytesOf(value: *const abi.Any) abi.Bytes {
    const is_small = value.type_index == .tvm_small_bytes or value.type_index == .tvm_small_str;
    return if (is_small) .{ .data = &value.v.small, .size = value.zero } else recordOf(value).*;
}

pub fn textOf(value: *const abi.Any) []const u8 {
    if (value.type_index != .str) return sliceOf(bytesOf(value));
    return std.mem.span(@as([*:0]const u8, @ptrCast(value.v.p.?)));
}

pub fn sliceOf(bytes: abi.Bytes) []const u8 {
    return if (bytes.data) |data| data[0..bytes.size] else &.{};
}

pub fn shapeOf(tensor: *const abi.Tensor) []const i64 {
    const shape = tensor.shape orelse return &.{};
    return shape[0..@intCast(tensor.ndim)];
}

pub fn countOf(shape: []const i64) usize {
    var product: usize = 1;
    for (shape) |length| product *= @intCast(length);
    return product;
}

pub fn sizeOf(dtype: abi.DType) usize {
    return dtype.bits / 8;
}

pub fn alignmentOf(dtype: abi.DType) usize {
    return if (dtype.code == .complex) sizeOf(dtype) / 2 else sizeOf(dtype);
}
