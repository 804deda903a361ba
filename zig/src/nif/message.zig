//! Texts for callers, put together without std.fmt: its code would be most of a small library, and compiling it would
//! take most of the time until a notebook's cell can be called.

const std = @import("std");

/// A text that grows, closed by a NUL. One of a usual length needs no allocation.
pub const Message = struct {
    buffer: [512]u8 = undefined,
    /// Where the text is once it has outgrown the buffer.
    allocated: ?[]u8 = null,
    length: usize = 0,
    is_cut: bool = false,

    /// Add parts: texts, whole numbers, and what has a `describe(*Message)` of its own.
    pub fn add(message: *Message, parts: anytype) void {
        inline for (parts) |part| switch (@typeInfo(@TypeOf(part))) {
            .int, .comptime_int => message.addNumber(part < 0, @intCast(@abs(part))),
            .@"struct" => part.describe(message),
            else => message.addText(part),
        };
    }

    /// What was added by `std.fmt`, for those who write formats.
    pub fn print(message: *Message, comptime format: []const u8, values: anytype) void {
        const room = message.reserve(std.fmt.count(format, values)) orelse return;
        _ = std.fmt.bufPrint(room, format, values) catch unreachable; // it was counted
        message.length += room.len;
    }

    pub noinline fn text(message: *Message) [*:0]const u8 {
        if (message.is_cut) return "no memory for the reason";
        const all = message.allocated orelse &message.buffer;
        all[message.length] = 0;
        return @ptrCast(all.ptr);
    }

    pub noinline fn free(message: *Message) void {
        if (message.allocated) |all| std.c.free(all.ptr);
        message.* = .{};
    }

    noinline fn addText(message: *Message, part: []const u8) void {
        const room = message.reserve(part.len) orelse return;
        @memcpy(room, part);
        message.length += part.len;
    }

    noinline fn addNumber(message: *Message, is_negative: bool, size: u64) void {
        var digits: [21]u8 = undefined;
        var at = digits.len;
        var rest = size;
        while (true) {
            at -= 1;
            digits[at] = '0' + @as(u8, @intCast(rest % 10));
            rest /= 10;
            if (rest == 0) break;
        }
        if (is_negative) {
            at -= 1;
            digits[at] = '-';
        }
        message.addText(digits[at..]);
    }

    /// The place for so many bytes more and a NUL; null where there is no memory for it.
    noinline fn reserve(message: *Message, count: usize) ?[]u8 {
        const all = message.allocated orelse &message.buffer;
        if (message.length + count < all.len) return all[message.length..][0..count];
        const size = 2 * (message.length + count + 1);
        const old: ?*anyopaque = if (message.allocated) |it| it.ptr else null;
        const grown: [*]u8 = @ptrCast(std.c.realloc(old, size) orelse {
            message.is_cut = true;
            return null;
        });
        if (old == null) @memcpy(grown, message.buffer[0..message.length]);
        message.allocated = grown[0..size];
        return grown[message.length..][0..count];
    }
};

test "messages of any length end in NUL" {
    for ([_]usize{ 0, 511, 512, 10_000 }) |length| {
        const text = try std.testing.allocator.alloc(u8, length);
        defer std.testing.allocator.free(text);
        @memset(text, 'x');
        inline for (.{ false, true }) |is_printed| {
            var message: Message = .{};
            defer message.free();
            if (is_printed) message.print("{s}", .{text}) else message.add(.{text});
            try std.testing.expectEqualStrings(text, std.mem.span(message.text()));
            try std.testing.expectEqual(length >= 512, message.allocated != null);
        }
    }
}

test "numbers are written as std.fmt would" {
    inline for (.{ 0, 7, -10, 1234567890, std.math.minInt(i64), std.math.maxInt(u64) }) |number| {
        var one: Message = .{};
        var other: Message = .{};
        one.add(.{ "a ", number, "b" });
        other.print("a {d}b", .{number});
        try std.testing.expectEqualStrings(std.mem.span(other.text()), std.mem.span(one.text()));
    }
}
