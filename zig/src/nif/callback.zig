//! Callbacks: parameters that are functions of the caller's.

const std = @import("std");
const abi = @import("abi.zig");
const arrays = @import("arrays.zig");
const results = @import("results.zig");

/// A function of the caller's, Python's as a rule: `f: nif.Callback(fn (f64) f64)`, then `try f.call(.{x})`.
///
/// Numbers, truth values and slices go in; a number, a truth value or nothing comes out. A callable gets a slice as an array
/// of its own; what it writes there comes back for a `[]T`. `error.Raised`: it failed (it raised an exception),
/// which a NIF returns in its turn, so that its caller gets that same exception. It is borrowed for the call. Other
/// threads may call it in a function that is `long`, in the direct lane.
pub fn Callback(comptime Function: type) type {
    const info = @typeInfo(Function).@"fn";
    return struct {
        object: *const abi.Object,

        const Self = @This();
        pub const Called = Function;
        /// How signatures spell it: "fn(f64,i64)->f64"; null for a function that can't be called back.
        pub const spelling: ?[]const u8 = spell(info.param_types, info.return_type.?);

        pub fn call(self: Self, values: std.meta.ArgsTuple(Function)) error{Raised}!info.return_type.? {
            var given: [info.param_types.len]abi.Any = undefined;
            var tensors: [info.param_types.len]abi.Tensor = undefined;
            var lengths: [info.param_types.len]i64 = undefined;
            inline for (&given, 0..) |*it, index| it.* = toAny(values[index], &tensors[index], &lengths[index]);
            var result: abi.Any = .{ .type_index = .none, .v = .{ .i = 0 } };
            if (self.object.call(self.object, &given, given.len, &result) != 0) return error.Raised;
            return fromAny(info.return_type.?, result);
        }
    };
}

fn spell(comptime types: []const ?type, comptime Result: type) ?[]const u8 {
    if (types.len > 6) return null;
    var text: []const u8 = "fn(";
    for (types, 0..) |T, index| {
        text = text ++ (if (index > 0) "," else "") ++ (passedName(T.?) orelse return null);
    }
    return text ++ ")->" ++ if (Result == void) "None" else nameOf(Result) orelse return null;
}

/// How signatures spell what goes in.
fn passedName(comptime T: type) ?[]const u8 {
    const pointer = switch (@typeInfo(T)) {
        .pointer => |it| it,
        else => return nameOf(T),
    };
    if (pointer.size != .slice or !arrays.isElement(pointer.child)) return null;
    const element = arrays.elementName(arrays.elementType(pointer.child)).?;
    return (if (pointer.attrs.@"const") "" else "mut ") ++ element ++ "[_]";
}

fn nameOf(comptime T: type) ?[]const u8 {
    return switch (@typeInfo(T)) {
        .int => results.integerName(T),
        .float => |float| if (float.bits == 32) "f32" else if (float.bits == 64) "f64" else null,
        .bool => "bool",
        else => null,
    };
}

fn toAny(value: anytype, tensor: *abi.Tensor, length: *i64) abi.Any {
    return switch (@typeInfo(@TypeOf(value))) {
        .pointer => |pointer| {
            length.* = @intCast(value.len);
            tensor.* = .{
                .data = @ptrCast(@constCast(value.ptr)),
                .device = .{ .type = abi.device_cpu, .id = 0 },
                .ndim = 1,
                .dtype = comptime arrays.elementType(pointer.child),
                .shape = @ptrCast(length),
                .strides = null,
                .byte_offset = 0,
            };
            return .{ .type_index = .tensor, .v = .{ .p = tensor } };
        },
        .int => |int| .{
            .type_index = .int,
            .v = .{ .i = if (int.signedness == .unsigned and int.bits == 64) @bitCast(@as(u64, value)) else value },
        },
        .float => .{ .type_index = .float, .v = .{ .f = value } },
        .bool => .{ .type_index = .bool, .v = .{ .i = @intFromBool(value) } },
        else => comptime unreachable,
    };
}

/// The host has seen to type and range; of a TVM-FFI client's function nobody has.
fn fromAny(comptime T: type, value: abi.Any) error{Raised}!T {
    const is_whole = value.type_index == .int or value.type_index == .bool;
    return switch (@typeInfo(T)) {
        .void => {},
        .int => |int| if (!is_whole) error.Raised else if (int.signedness == .unsigned and int.bits == 64)
            @bitCast(value.v.i)
        else
            std.math.cast(T, value.v.i) orelse error.Raised,
        .float => if (value.type_index == .float)
            @floatCast(value.v.f)
        else if (is_whole) @floatFromInt(value.v.i) else error.Raised,
        .bool => if (value.type_index == .bool) value.v.i != 0 else error.Raised,
        else => comptime unreachable,
    };
}

test "a callback is spelled by its types" {
    try std.testing.expectEqualStrings("fn(f64,u8,bool)->i32", Callback(fn (f64, u8, bool) i32).spelling.?);
    try std.testing.expectEqualStrings("fn()->None", Callback(fn () void).spelling.?);
    try std.testing.expectEqualStrings("fn(f64[_],mut c64[_])->f64", Callback(fn ([]const f64, []arrays.Complex(f32)) f64).spelling.?);
    try std.testing.expect(Callback(fn ([]const []const u8) void).spelling == null);
}
