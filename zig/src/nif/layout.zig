//! How the ABI's structs lie in memory: the hash that both sides compare, and the one NIF that spells it out.

const std = @import("std");
const abi = @import("abi.zig");

/// The structs that both sides must agree on, in the order that abi.md gives.
const shared = .{
    .{ "nif_tensor", abi.Tensor },
    .{ "nif_bytes", abi.Bytes },
    .{ "nif_any", abi.Any },
    .{ "nif_host", abi.Host },
    .{ "nif_env", abi.Env },
    .{ "nif_function", abi.Function },
    .{ "nif_library", abi.Library },
};

/// FNV-1a over the sizes and offsets, a number at a time.
pub const struct_hash: u32 = hash: {
    var hash: u32 = 2166136261;
    for (shared) |entry| {
        hash = (hash ^ @sizeOf(entry[1])) *% 16777619;
        for (@typeInfo(entry[1]).@"struct".field_names) |field| {
            hash = (hash ^ @offsetOf(entry[1], field)) *% 16777619;
        }
    }
    break :hash hash;
};

pub const flags = .{ .layout = .{ .pure = true } };

/// `layout()`: size of every struct of the ABI; offset and size of every field.
pub fn layout() [:0]const u8 {
    return comptime text: {
        @setEvalBranchQuota(100_000);
        var text: []const u8 = "";
        for (shared) |entry| {
            const name, const Struct = entry;
            text = text ++ name ++ " " ++ decimal(@sizeOf(Struct)) ++ "\n";
            const info = @typeInfo(Struct).@"struct";
            for (info.field_names, info.field_types) |field, Field| {
                const numbers = decimal(@offsetOf(Struct, field)) ++ " " ++ decimal(@sizeOf(Field));
                text = text ++ name ++ "." ++ field ++ " " ++ numbers ++ "\n";
            }
        }
        const final = text[0 .. text.len - 1] ++ "";
        break :text final;
    };
}

/// Not by std.fmt, which would take most of the time to compile a notebook's cell.
fn decimal(comptime number: usize) []const u8 {
    const digit = [_]u8{'0' + number % 10};
    return (if (number < 10) "" else decimal(number / 10)) ++ digit;
}

test "the layout names every struct and field once" {
    const text = layout();
    try std.testing.expect(std.mem.startsWith(u8, text, "nif_tensor 48\nnif_tensor.data 0 8\n"));
    try std.testing.expect(std.mem.endsWith(u8, text, "nif_library.unload 56 8"));
    try std.testing.expectEqual(46, std.mem.countScalar(u8, text, '\n'));
}
