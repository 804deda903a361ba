//! From the caller's values to a function's own types, or to an error in the words of docs/abi.md.
//!
//! The checks are unrolled for each function at compile time; refusals are shared and cold.

const std = @import("std");
const abi = @import("abi.zig");
const arrays = @import("arrays.zig");
const Call = @import("call.zig").Call;
const Message = @import("message.zig").Message;
const signatures = @import("signature.zig");
const Parameter = signatures.Parameter;
const reading = @import("values.zig");
const tensorOf = reading.tensorOf;
const recordOf = reading.recordOf;
const bytesOf = reading.bytesOf;
const textOf = reading.textOf;
const sliceOf = reading.sliceOf;
const shapeOf = reading.shapeOf;
const countOf = reading.countOf;
const sizeOf = reading.sizeOf;
const alignmentOf = reading.alignmentOf;

const Refused = error{Refused};

/// An array argument, whatever it came as.
const Array = struct {
    /// Of element [0, 0]; never 0, so that an empty array is a slice too.
    address: usize,
    dtype: abi.DType,
    shape: []const i64,
    /// In elements; null is row-major.
    strides: ?[*]const i64,

    fn count(array: Array) usize {
        return countOf(array.shape);
    }
};

/// The arguments of `call` as the tuple that the function takes.
/// `memory` is for lists of texts.
pub fn take(
    comptime Tuple: type,
    comptime parameters: []const Parameter,
    call: *const Call,
    memory: std.mem.Allocator,
) Refused!Tuple {
    if (call.n_arguments != parameters.len) return refuseCount(call, parameters.len);
    if (parameters.len == 0) return undefined;

    const values = call.arguments.?[0..parameters.len];
    var taken: [parameters.len]Array = undefined;
    inline for (parameters, values, &taken, 0..) |parameter, *value, *array, index| {
        if (isAbsent(parameter, call, index)) {
            array.* = .{ .address = 1, .dtype = arrays.elementType(u8), .shape = &.{ 0, 0 }, .strides = null };
        } else if (comptime parameter.form.isArray()) {
            array.* = try takeArray(parameter, call, value, index);
        } else if (parameter.form == .complex and tensorOf(value) != null) {
            try checkComplex(call, value, index, parameter.spelling);
        } else if (!accepts(parameter, value.type_index)) {
            return refuseType(call, .type, index, parameter.spelling);
        } else if (comptime parameter.form == .int and parameter.form.int.bits < 64) {
            try checkRange(parameter.form.int, call, value.v.i, index);
        } else if (comptime parameter.form == .names) {
            try checkName(parameter.form.names, call, textOf(value), index);
        }
    }
    try checkDimensions(parameters, call, &taken);
    try checkOverlap(parameters, call, &taken);

    var tuple: Tuple = undefined;
    inline for (parameters, values, taken, 0..) |parameter, *value, array, index| {
        const at = comptime index + (tuple.len - parameters.len); // an allocator may be first
        if (isAbsent(parameter, call, index)) {
            tuple[at] = if (comptime parameter.optional) null else comptime unreachable;
        } else if (comptime parameter.form == .texts) {
            tuple[at] = try takeTexts(call, index, sliceOf(bytesOf(value)), memory);
        } else {
            const T = signatures.Present(@TypeOf(tuple[at]));
            if (T == []const bool or T == []bool) try checkBools(call, index, array);
            tuple[at] = convert(T, parameter, value, array);
        }
    }
    return tuple;
}

/// Whether None came for a parameter that may be None.
inline fn isAbsent(comptime parameter: Parameter, call: *const Call, index: usize) bool {
    return parameter.optional and call.arguments.?[index].type_index == .none;
}

/// Zig's bool is 0 or 1; the caller's memory may hold any byte.
fn checkBools(call: *const Call, index: usize, array: Array) Refused!void {
    const bytes = @as([*]const u8, @ptrFromInt(array.address))[0..@intCast(array.shape[0])];
    var all: u8 = 0;
    for (bytes) |byte| all |= byte;
    if (all <= 1) return;
    for (bytes) |byte| if (byte > 1) {
        return refuse(call, index, .{ "expected bytes of 0 and 1, got ", @as(i64, byte), " (x != 0 has such)" });
    };
}

/// The texts of a list: of each its size in bytes, a u64, then the bytes.
fn takeTexts(call: *const Call, index: usize, bytes: []const u8, memory: std.mem.Allocator) Refused![]const []const u8 {
    var count: usize = 0;
    var rest = bytes;
    while (rest.len > 0) : (count += 1) {
        if (nextText(&rest) == null) return refuse(call, index, .{"has a text that is cut off"});
    }
    const texts = memory.alloc([]const u8, count) catch return refuse(call, index, .{"no memory for its texts"});
    rest = bytes;
    for (texts) |*text| text.* = nextText(&rest).?;
    return texts;
}

fn nextText(rest: *[]const u8) ?[]const u8 {
    if (rest.len < 8) return null;
    const size = std.mem.readInt(u64, rest.*[0..8], @import("builtin").cpu.arch.endian());
    if (size > rest.len - 8) return null;
    const text = rest.*[8..][0..@intCast(size)];
    rest.* = rest.*[8 + text.len ..];
    return text;
}

fn checkName(comptime names: []const []const u8, call: *const Call, given: []const u8, index: usize) Refused!void {
    inline for (names) |name| if (std.mem.eql(u8, name, given)) return;
    comptime var all: []const u8 = "";
    inline for (names) |name| all = all ++ (if (all.len > 0) ", " else "") ++ name;
    return refuse(call, index, .{ "expected one of ", all, ", got '", given, "'" });
}

/// Whether a scalar parameter takes values of this type.
fn accepts(comptime parameter: Parameter, index: abi.TypeIndex) bool {
    return switch (parameter.form) {
        .float, .complex => index == .float or index == .int or index == .bool,
        .int => index == .int or index == .bool,
        .bool => index == .bool,
        .str, .names => index == .str or index == .tvm_small_str or index == .tvm_str,
        .bytes, .texts => isBytes(index),
        .callback => index == .tvm_function,
        .vector, .matrix, .any => comptime unreachable,
    };
}

/// A complex number is an array without axes.
fn checkComplex(call: *const Call, value: *const abi.Any, index: usize, spelling: []const u8) Refused!void {
    const tensor = tensorOf(value).?;
    if (tensor.dtype.code != .complex or tensor.dtype.lanes != 1) return refuseType(call, .type, index, spelling);
    if (tensor.ndim != 0) return refuseType(call, .value, index, spelling);
    _ = try checkMemory(call, tensor, &.{}, index, alignmentOf(tensor.dtype), false);
}

/// An integer must fit into the type of its parameter.
inline fn checkRange(comptime int: signatures.Int, call: *const Call, given: i64, index: usize) Refused!void {
    const low: i64 = if (int.is_signed) -(1 << (int.bits - 1)) else 0;
    const high: i64 = (1 << (int.bits - @intFromBool(int.is_signed))) - 1;
    if (given < low or given > high) return refuseRange(call, index, low, high, given);
}

fn refuseRange(call: *const Call, index: usize, low: i64, high: i64, given: i64) Refused {
    @branchHint(.cold);
    return refuse(call, index, .{ "expected ", low, " to ", high, ", got ", given });
}

fn isBytes(index: abi.TypeIndex) bool {
    return index == .bytes or index == .tvm_small_bytes or index == .tvm_bytes;
}

inline fn takeArray(
    comptime parameter: Parameter,
    call: *const Call,
    value: *const abi.Any,
    comptime index: usize,
) Refused!Array {
    if (parameter.form == .any and isBytes(value.type_index)) return takeBytes(call, value, index);
    const tensor = tensorOf(value) orelse return refuseType(call, .type, index, parameter.spelling);
    const has_dtype = switch (parameter.form) {
        .vector, .matrix => |dtype| std.meta.eql(tensor.dtype, dtype),
        .any => arrays.elementName(tensor.dtype) != null,
        .int, .float, .complex, .bool, .str, .bytes, .texts, .names, .callback => comptime unreachable,
    };
    if (!has_dtype) return refuseType(call, .type, index, parameter.spelling);
    if (parameter.form != .any and tensor.ndim != parameter.dimensions.len) {
        return refuseType(call, .value, index, parameter.spelling);
    }
    const alignment = switch (parameter.form) {
        .vector, .matrix => |dtype| alignmentOf(dtype),
        else => alignmentOf(tensor.dtype),
    };
    const shape = if (parameter.form == .any) shapeOf(tensor) else tensor.shape.?[0..parameter.dimensions.len];
    return checkMemory(call, tensor, shape, index, alignment, parameter.form != .matrix);
}

fn takeBytes(call: *const Call, value: *const abi.Any, index: usize) Refused!Array {
    const small_sizes = [_]i64{ 0, 1, 2, 3, 4, 5, 6, 7, 8 };
    const bytes = bytesOf(value);
    if (bytes.data == null and bytes.size > 0) return refuse(call, index, .{"has no data"});
    return .{
        .address = if (bytes.data) |data| @intFromPtr(data) else 1,
        .dtype = arrays.elementType(u8),
        // A small one has no size field to point to.
        .shape = if (value.type_index == .tvm_small_bytes)
            small_sizes[value.zero..][0..1]
        else
            @ptrCast(&recordOf(value).size),
        .strides = null,
    };
}

inline fn checkMemory(
    call: *const Call,
    tensor: *const abi.Tensor,
    shape: []const i64,
    index: usize,
    alignment: usize,
    comptime contiguous: bool,
) Refused!Array {
    const is_empty = isEmpty(shape);
    if (tensor.device.type != abi.device_cpu) return refuse(call, index, .{"expected memory of the CPU"});
    if (tensor.data == null and !is_empty) return refuse(call, index, .{"has no data"});
    const address = @intFromPtr(tensor.data) +% tensor.byte_offset;
    if (address % alignment != 0) return refuseAlignment(call, index, alignment);
    if (contiguous and !is_empty and !isContiguous(shape, tensor.strides)) {
        return refuseStrides(call, index, tensor.strides.?[0..shape.len]);
    }
    return .{
        .address = if (is_empty) alignment else address,
        .dtype = tensor.dtype,
        .shape = shape,
        .strides = tensor.strides,
    };
}

// Inline, as their callers are: the number of axes is mostly known there, so that no loop is left.

inline fn isEmpty(shape: []const i64) bool {
    var empty = false;
    for (shape) |length| empty = empty or length == 0;
    return empty;
}

inline fn isContiguous(shape: []const i64, maybe_strides: ?[*]const i64) bool {
    const strides = maybe_strides orelse return true;
    var expected: i64 = 1;
    var axis = shape.len;
    while (axis > 0) {
        axis -= 1;
        if (shape[axis] != 1 and strides[axis] != expected) return false;
        expected *%= shape[axis];
    }
    return true;
}

fn checkDimensions(
    comptime parameters: []const Parameter,
    call: *const Call,
    taken: *const [parameters.len]Array,
) Refused!void {
    inline for (parameters, 0..) |parameter, index| {
        if (comptime parameter.form == .int and isDimension(parameters, parameter.name)) {
            const length = call.arguments.?[index].v.i;
            if (length < 0) return refuse(call, index, .{ "expected 0 or more, got ", length });
        }
    }
    inline for (parameters, 0..) |parameter, index| {
        inline for (parameter.dimensions, 0..) |dimension, axis| {
            const expected = switch (comptime bindingOf(parameters, dimension)) {
                .argument => |source| call.arguments.?[source].v.i,
                .axis => |source| if (comptime parameters[source[0]].optional)
                    firstExtent(parameters, call, taken, dimension)
                else
                    taken[source[0]].shape[source[1]],
                .free => continue,
            };
            if (!isAbsent(parameter, call, index) and taken[index].shape[axis] != expected) {
                return refuseDimension(call, index, parameter.spelling, dimension, expected);
            }
        }
    }
}

/// The length of a dimension that the first arrays may not be there to tell.
fn firstExtent(
    comptime parameters: []const Parameter,
    call: *const Call,
    taken: *const [parameters.len]Array,
    comptime name: []const u8,
) i64 {
    inline for (parameters, 0..) |parameter, index| {
        inline for (parameter.dimensions, 0..) |dimension, axis| {
            if (comptime std.mem.eql(u8, dimension, name)) {
                if (!isAbsent(parameter, call, index)) return taken[index].shape[axis];
            }
        }
    }
    return 0; // none of them is there
}

fn isDimension(comptime parameters: []const Parameter, comptime name: []const u8) bool {
    for (parameters) |parameter| for (parameter.dimensions) |dimension| {
        if (std.mem.eql(u8, dimension, name)) return true;
    };
    return false;
}

/// What fixes a dimension: an i64 argument of its name, else the first axis of its name.
const Binding = union(enum) { argument: usize, axis: [2]usize, free };

fn bindingOf(comptime parameters: []const Parameter, comptime name: []const u8) Binding {
    if (std.mem.eql(u8, name, "...")) return .free;
    for (parameters, 0..) |parameter, index| {
        if (parameter.form == .int and std.mem.eql(u8, parameter.name, name)) return .{ .argument = index };
    }
    for (parameters, 0..) |parameter, index| for (parameter.dimensions, 0..) |dimension, axis| {
        if (std.mem.eql(u8, dimension, name)) return .{ .axis = .{ index, axis } };
    };
    unreachable;
}

fn checkOverlap(
    comptime parameters: []const Parameter,
    call: *const Call,
    taken: *const [parameters.len]Array,
) Refused!void {
    inline for (parameters, 0..) |written, index| {
        if (!written.mutable) continue;
        const span: Span = .of(taken[index]);
        inline for (parameters, 0..) |parameter, other| {
            if (comptime other == index or !parameter.form.isArray()) continue;
            if (span.meets(.of(taken[other]))) return refuseOverlap(call, index, parameter.name);
        }
    }
}

/// The addresses that an array touches, from the first to behind the last.
const Span = struct {
    first: usize,
    end: usize,

    fn of(array: Array) Span {
        // Without elements it meets nothing.
        if (array.count() == 0) return .{ .first = std.math.maxInt(usize), .end = 0 };
        const size = sizeOf(array.dtype);
        const strides = array.strides orelse
            return .{ .first = array.address, .end = array.address + array.count() * size };
        var span: Span = .{ .first = array.address, .end = array.address + size };
        for (array.shape, strides) |length, stride| {
            const reach: usize = @as(usize, @intCast(length - 1)) * @abs(stride) * size;
            if (stride < 0) span.first -= reach else span.end += reach;
        }
        return span;
    }

    fn meets(span: Span, other: Span) bool {
        return span.first < other.end and other.first < span.end;
    }
};

/// A checked argument as the Zig type `T` of its parameter.
inline fn convert(comptime T: type, comptime parameter: Parameter, value: *const abi.Any, array: Array) T {
    switch (parameter.form) {
        .int => |int| return if (int.bits == 64) @bitCast(value.v.i) else @intCast(value.v.i),
        .float => return if (value.type_index == .float) @floatCast(value.v.f) else @floatFromInt(value.v.i),
        .complex => return .{ .re = @floatCast(partsOf(value)[0]), .im = @floatCast(partsOf(value)[1]) },
        .bool => return value.v.i != 0,
        .str => return textOf(value),
        .bytes => return .{ .data = sliceOf(bytesOf(value)) },
        .texts => comptime unreachable,
        .names => return std.meta.stringToEnum(T, textOf(value)).?,
        .callback => return .{ .object = @ptrCast(@alignCast(value.v.p.?)) },
        .vector => return @as(
            [*]@typeInfo(T).pointer.child,
            @ptrFromInt(array.address),
        )[0..@intCast(array.shape[0])],
        .matrix => return .{
            .data = @ptrFromInt(array.address),
            .rows = @intCast(array.shape[0]),
            .columns = @intCast(array.shape[1]),
            .row_stride = if (array.strides) |strides| strides[0] else array.shape[1],
            .column_stride = if (array.strides) |strides| strides[1] else 1,
        },
        .any => return .{
            .bytes = @as([*]const u8, @ptrFromInt(array.address))[0 .. array.count() * sizeOf(array.dtype)],
            .dtype = array.dtype,
            .shape = array.shape,
        },
    }
}

/// The two parts of what was taken for a complex number.
fn partsOf(value: *const abi.Any) [2]f64 {
    const tensor = tensorOf(value) orelse
        return .{ if (value.type_index == .float) value.v.f else @floatFromInt(value.v.i), 0 };
    const address = @intFromPtr(tensor.data) +% tensor.byte_offset;
    if (tensor.dtype.bits == 128) return @as(*const [2]f64, @ptrFromInt(address)).*;
    const parts = @as(*const [2]f32, @ptrFromInt(address)).*;
    return .{ parts[0], parts[1] };
}

fn refuse(call: *const Call, index: usize, parts: anytype) Refused {
    @branchHint(.cold);
    call.report(.value, @intCast(index), parts);
    return error.Refused;
}

fn refuseCount(call: *const Call, count: usize) Refused {
    @branchHint(.cold);
    const plural: []const u8 = if (count == 1) "" else "s";
    call.report(.type, -1, .{ "takes ", count, " argument", plural, ", ", call.n_arguments, " given" });
    return error.Refused;
}

fn refuseType(call: *const Call, kind: abi.Kind, index: usize, expected: []const u8) Refused {
    @branchHint(.cold);
    const given: Description = .{ .value = &call.arguments.?[index] };
    call.report(kind, @intCast(index), .{ "expected ", expected, ", got ", given });
    return error.Refused;
}

fn refuseAlignment(call: *const Call, index: usize, alignment: usize) Refused {
    @branchHint(.cold);
    return refuse(call, index, .{ "expected data aligned to ", alignment, " bytes" });
}

fn refuseStrides(call: *const Call, index: usize, strides: []const i64) Refused {
    @branchHint(.cold);
    return refuse(call, index, .{ "expected contiguous memory, got strides ", List{ .numbers = strides } });
}

fn refuseOverlap(call: *const Call, index: usize, other: []const u8) Refused {
    @branchHint(.cold);
    return refuse(call, index, .{ "overlaps argument '", other, "'" });
}

fn refuseDimension(
    call: *const Call,
    index: usize,
    spelling: []const u8,
    dimension: []const u8,
    expected: i64,
) Refused {
    @branchHint(.cold);
    const given: Description = .{ .value = &call.arguments.?[index] };
    return refuse(call, index, .{ "expected ", spelling, " with ", dimension, " = ", expected, ", got ", given });
}

/// What came, as errors spell it: "str", "f32[3,4]".
const Description = struct {
    value: *const abi.Any,

    pub noinline fn describe(description: Description, message: *Message) void {
        const tensor = tensorOf(description.value) orelse
            return message.add(.{scalarName(description.value.type_index)});
        if (arrays.elementName(tensor.dtype)) |name| {
            message.add(.{name});
        } else {
            const dtype = tensor.dtype;
            message.add(.{ @backingInt(dtype.code), "/", dtype.bits, "/", dtype.lanes });
        }
        message.add(.{List{ .numbers = shapeOf(tensor) }});
    }
};

fn scalarName(index: abi.TypeIndex) []const u8 {
    return switch (index) {
        .none => "None",
        .int => "i64",
        .bool => "bool",
        .float => "f64",
        .dtype => "dtype",
        .device => "device",
        .str, .tvm_small_str, .tvm_str => "str",
        .bytes, .tvm_small_bytes, .tvm_bytes => "bytes",
        .tensor, .tvm_tensor, .tvm_function, _ => "object",
    };
}

/// "[3,4]".
const List = struct {
    numbers: []const i64,

    pub noinline fn describe(list: List, message: *Message) void {
        for (list.numbers, 0..) |number, index| message.add(.{ if (index > 0) "," else "[", number });
        message.add(.{if (list.numbers.len > 0) "]" else "[]"});
    }
};

test "spans follow negative strides and empty arrays meet nothing" {
    const f64s = comptime arrays.elementType(f64);
    const strides = [_]i64{ -4, 1 };
    const flipped: Span = .of(.{ .address = 1032, .dtype = f64s, .shape = &.{ 2, 3 }, .strides = &strides });
    try std.testing.expectEqual(Span{ .first = 1000, .end = 1056 }, flipped);
    const empty: Span = .of(.{ .address = 1008, .dtype = f64s, .shape = &.{0}, .strides = null });
    try std.testing.expect(flipped.meets(flipped) and !flipped.meets(empty) and !empty.meets(flipped));
}

test "an axis of length 1 is contiguous whatever its stride" {
    const strides = [_]i64{ 7, 1 };
    try std.testing.expect(isContiguous(&.{ 1, 3 }, &strides));
    try std.testing.expect(!isContiguous(&.{ 2, 3 }, &strides));
}
