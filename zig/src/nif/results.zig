//! From what a function returns to the ABI's values.

const std = @import("std");
const abi = @import("abi.zig");
const arrays = @import("arrays.zig");
const calls = @import("call.zig");

pub const takes = "void, bool, i8 to i64, u8 to u64, isize, usize, f32, f64, std.math.Complex(f64), []const u8 (text), nif.Bytes, []T, []const T, " ++
    "[N]T, [][N]T, []const []const u8, an enum (its name), *nif.Tensor, an optional of these, a tuple or struct of these, each also with an error";

/// What a function returns when it doesn't fail.
pub fn Payload(comptime Function: type) type {
    const Result = @typeInfo(Function).@"fn".return_type.?;
    return switch (@typeInfo(Result)) {
        .error_union => |result| result.payload,
        else => Result,
    };
}

/// How signatures spell a result; null for a type that can't be one.
pub fn spell(comptime Result: type) ?[]const u8 {
    const Inner = Unwrapped(Result);
    if (isSeveral(Inner)) {
        const info = @typeInfo(Inner).@"struct";
        var text: []const u8 = "";
        for (info.field_names, info.field_types) |name, Field| {
            const item = spellOne(Field) orelse return null;
            text = text ++ (if (text.len == 0) "(" else ", ") ++ (if (info.is_tuple) "" else name ++ ": ") ++ item;
        }
        return text ++ ")" ++ (if (Inner == Result) "" else "?");
    }
    return spellOne(Result);
}

fn spellOne(comptime T: type) ?[]const u8 {
    switch (T) {
        void => return "None",
        bool, arrays.Bool => return "bool",
        arrays.Bytes => return "bytes",
        *abi.Tensor => return "any[...]",
        []const u8, [:0]const u8, [:0]u8 => return "str",
        else => {},
    }
    if (arrays.complexBits(T)) |bits| return if (bits == 64) "c64" else "c128";
    if (isTexts(T)) return "str[_]";
    switch (@typeInfo(T)) {
        .@"enum" => return "str",
        .int => return integerName(T),
        .float => |float| return if (float.bits == 32) "f32" else if (float.bits == 64) "f64" else null,
        .optional => |optional| return (spellOne(optional.child) orelse return null) ++ "?",
        .array => |array| return if (isElement(array.child)) spellArray(array.child, array.len) else null,
        .pointer => |pointer| {
            if (pointer.size != .slice) return null;
            if (isElement(pointer.child)) return spellArray(pointer.child, null);
            const rows = switch (@typeInfo(pointer.child)) {
                .array => |array| array,
                else => return null,
            };
            if (!isElement(rows.child)) return null;
            return std.fmt.comptimePrint("{s}[_,{d}]", .{ nameOf(rows.child), rows.len });
        },
        else => return null,
    }
}

/// Whether a type is a list of texts.
fn isTexts(comptime T: type) bool {
    return switch (T) {
        []const []const u8, [][]const u8, []const []u8, [][]u8, []const [:0]const u8, [][:0]const u8, [][:0]u8 => true,
        else => false,
    };
}

/// "i32"; null where no type of the ABI has so many bits.
pub fn integerName(comptime T: type) ?[]const u8 {
    const int = @typeInfo(T).int;
    return switch (int.bits) {
        8, 16, 32, 64 => std.fmt.comptimePrint("{s}{d}", .{ if (int.signedness == .signed) "i" else "u", int.bits }),
        else => null,
    };
}

fn spellArray(comptime T: type, comptime length: ?usize) []const u8 {
    const axis = if (length) |count| std.fmt.comptimePrint("{d}", .{count}) else "_";
    return nameOf(T) ++ "[" ++ axis ++ "]";
}

/// Of a result's elements; a language's own truth values are as good as bytes on the way out.
fn isElement(comptime T: type) bool {
    return T == bool or arrays.isElement(T);
}

fn dtypeOf(comptime T: type) abi.DType {
    return arrays.elementType(if (T == bool) arrays.Bool else T);
}

fn nameOf(comptime T: type) []const u8 {
    return arrays.elementName(dtypeOf(T)).?;
}

fn Unwrapped(comptime T: type) type {
    return switch (@typeInfo(T)) {
        .optional => |optional| if (isSeveral(optional.child)) optional.child else T,
        else => T,
    };
}

/// Whether a type is a tuple or a small struct.
fn isSeveral(comptime T: type) bool {
    if (T == arrays.Bytes or T == arrays.AnyArray or arrays.isElement(T)) return false;
    return switch (@typeInfo(T)) {
        .@"struct" => |info| info.layout == .auto and info.field_names.len > 0 and info.field_names.len <= 16,
        else => false,
    };
}

/// Whether a result may be in memory that the function's host gives.
pub fn isInMemory(comptime Result: type) bool {
    const Inner = Unwrapped(Result);
    if (!isSeveral(Inner)) return isOneInMemory(Result);
    for (@typeInfo(Inner).@"struct".field_types) |Field| if (isOneInMemory(Field)) return true;
    return false;
}

fn isOneInMemory(comptime T: type) bool {
    return switch (@typeInfo(T)) {
        .optional => |optional| isOneInMemory(optional.child),
        .pointer => T != [:0]const u8,
        .array => true,
        else => T == arrays.Bytes or arrays.complexBits(T) != null,
    };
}

/// Write a result to where the caller wants it.
pub inline fn write(value: anytype, env: ?*abi.Env, result: *abi.Any) calls.Error!void {
    const Inner = Unwrapped(@TypeOf(value));
    if (comptime !isSeveral(Inner)) {
        result.* = try toAny(value);
        return;
    }
    const count = @typeInfo(Inner).@"struct".field_names.len;
    const room = if (env) |it| it.n_results else 0;
    if (room < count and count > 1) return calls.fail(.@"error", null, "needs a host that takes tuples", .{});
    var values: [count]abi.Any = @splat(.{ .type_index = .none, .v = .{ .i = 0 } });
    if (@as(?Inner, value)) |present| {
        inline for (@typeInfo(Inner).@"struct".field_names, &values) |name, *to| to.* = try toAny(@field(present, name));
    }
    @as([*]abi.Any, @ptrCast(result))[0..count].* = values;
}

fn toAny(value: anytype) calls.Error!abi.Any {
    const T = @TypeOf(value);
    switch (T) {
        void => return .{ .type_index = .none, .v = .{ .i = 0 } },
        bool => return .{ .type_index = .bool, .v = .{ .i = @intFromBool(value) } },
        arrays.Bool => return toAny(value.isTrue()),
        arrays.Bytes => return copied(u8, &.{@intCast(value.data.len)}, value.data),
        [:0]const u8 => return .{ .type_index = .str, .v = .{ .p = @constCast(value.ptr) } },
        *abi.Tensor => return .{ .type_index = .tensor, .v = .{ .p = value } },
        else => {},
    }
    if (comptime arrays.complexBits(T) != null) {
        const parts = [2]@FieldType(T, "re"){ value.re, value.im };
        return copied(T, &.{}, std.mem.asBytes(&parts));
    }
    if (comptime isTexts(T)) return joined(value);
    switch (@typeInfo(T)) {
        .int => |int| return .{
            .type_index = .int,
            .v = .{ .i = if (int.bits == 64) @bitCast(value) else value },
        },
        .float => return .{ .type_index = .float, .v = .{ .f = value } },
        .@"enum" => return toAny(@as([:0]const u8, @tagName(value))),
        .optional => return if (value) |present| toAny(present) else toAny({}),
        .array => |array| return copied(array.child, &.{array.len}, std.mem.sliceAsBytes(value[0..])),
        .pointer => |pointer| switch (@typeInfo(pointer.child)) {
            .array => |rows| return copied(rows.child, &.{ @intCast(value.len), rows.len }, std.mem.sliceAsBytes(value)),
            else => return copied(pointer.child, &.{@intCast(value.len)}, std.mem.sliceAsBytes(value)),
        },
        else => comptime unreachable,
    }
}

/// A list of texts in memory of the host's: of each its size in bytes, a u64, then the bytes.
fn joined(texts: anytype) calls.Error!abi.Any {
    var size: usize = 0;
    for (texts) |text| size += 8 + text.len;
    const tensor = try calls.allocateTensor(comptime dtypeOf(u8), &.{@intCast(size)});
    if (size > 0) {
        var rest = (@as([*]u8, @ptrCast(tensor.data.?)) + @as(usize, @intCast(tensor.byte_offset)))[0..size];
        for (texts) |text| {
            @memcpy(rest[0..8], std.mem.asBytes(&@as(u64, text.len)));
            @memcpy(rest[8..][0..text.len], text);
            rest = rest[8 + text.len ..];
        }
    }
    return .{ .type_index = .tensor, .v = .{ .p = tensor } };
}

/// A copy of elements in memory of the host's.
fn copied(comptime T: type, shape: []const i64, bytes: []const u8) calls.Error!abi.Any {
    const tensor = try calls.allocateTensor(comptime dtypeOf(T), shape);
    if (bytes.len > 0) {
        const data = @as([*]u8, @ptrCast(tensor.data.?)) + @as(usize, @intCast(tensor.byte_offset));
        @memcpy(data, bytes);
    }
    return .{ .type_index = .tensor, .v = .{ .p = tensor } };
}

test "results are spelled by their types" {
    const Stats = struct { mean: f64, counts: []const i64 };
    inline for (.{
        .{ void, "None" },                           .{ i8, "i8" },               .{ usize, "u64" },
        .{ ?f32, "f32?" },                           .{ []const u8, "str" },      .{ []u8, "u8[_]" },
        .{ [][3]f64, "f64[_,3]" },                   .{ [2]bool, "bool[2]" },     .{ struct { f64, ?i64 }, "(f64, i64?)" },
        .{ ?Stats, "(mean: f64, counts: i64[_])?" }, .{ arrays.Bytes, "bytes" },  .{ arrays.Complex(f64), "c128" },
        .{ ?std.math.Complex(f32), "c64?" },         .{ [][]const u8, "str[_]" }, .{ enum { a, b }, "str" },
    }) |row| try std.testing.expectEqualStrings(row[1], comptime spell(row[0]).?);
    inline for (.{ u7, f16, []const []const f64, struct { u7 } }) |T| {
        try std.testing.expectEqual(null, comptime spell(T));
    }
}
