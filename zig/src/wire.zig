//! What this language writes, and where it sees what others wrote; the wire protocol of docs/wire.md.

const std = @import("std");
const nif = @import("nif.zig");
const decoder = @import("wire/decoder.zig");
const encoder = @import("wire/encoder.zig");
const schema = @import("wire/schema.zig");

const Decoder = decoder.Decoder;
const Layout = schema.Layout;
const Refusal = schema.Refusal;
const Row = schema.Row;

pub const flags = .{ .address = .{ .pure = true }, .decode = .{ .pure = true }, .encode = .{ .pure = true } };

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

/// `decode(frame[...], dialect, version, live[h,w])`: the node table of a frame, 14 columns; version 0 is the
/// frame's own.
pub fn decode(frame: nif.AnyArray, dialect: i64, version: i64, live: nif.Matrix(i64)) nif.Error!*nif.Tensor {
    try expectColumns("live", 4, live.columns);
    var refusal: Refusal = .{};
    return decodeFrame(frame.bytes, dialect, version, live, &refusal) catch |err| switch (err) {
        error.Refused => refuse(refusal, "byte"),
        else => |other| other,
    };
}

fn decodeFrame(
    frame: []const u8,
    dialect: i64,
    version: i64,
    live: nif.Matrix(i64),
    refusal: *Refusal,
) (schema.Error || nif.Error)!*nif.Tensor {
    if (version < 0 or version > 2) return refusal.set(.version, null);
    const language = dialectOf(dialect) orelse return refusal.set(.value, null);
    const own = if (version == 0) try decoder.ownVersion(frame, refusal) else @as(u8, @intCast(version));
    const reader: Decoder = .{ .frame = frame, .layout = .of(own, language), .live = live, .refusal = refusal };
    var row: [1]Row = undefined;
    const root = try reader.root(&row[0]);
    return if (root.marker.kind == .record) decodeRecord(&reader, &root) else nodeTable(&row);
}

/// Not inline: its frame on the stack is large.
noinline fn decodeRecord(reader: *const Decoder, root: *const decoder.Opened) (schema.Error || nif.Error)!*nif.Tensor {
    @setRuntimeSafety(false); // Filling 200 KB with 0xAA first, as safe builds do, would cost more than most records.
    var tree: decoder.Tree = undefined;
    return nodeTable(try reader.nodes(root, &tree));
}

fn nodeTable(rows: []const Row) nif.Error!*nif.Tensor {
    const tensor = try nif.allocateTensor(.{ .code = .int, .bits = 64 }, &.{ @intCast(rows.len), Row.columns });
    @memcpy(@as([*]Row, @ptrCast(@alignCast(tensor.data.?))), rows);
    return tensor;
}

/// `encode(nodes[m,w], data[...], dialect, version, alignment, checksum)`: the frame of a node table, after so many
/// zeros that its payload is aligned to 64 bytes.
pub fn encode(
    nodes: nif.Matrix(i64),
    data: nif.AnyArray,
    dialect: i64,
    version: i64,
    alignment: i64,
    checksum: bool,
) nif.Error!*nif.Tensor {
    try expectColumns("nodes", Row.columns, nodes.columns);
    var refusal: Refusal = .{};
    return encodeTable(nodes, data.bytes, dialect, version, alignment, checksum, &refusal) catch |err| switch (err) {
        error.Refused => refuse(refusal, "node"),
        else => |other| other,
    };
}

fn encodeTable(
    nodes: nif.Matrix(i64),
    data: []const u8,
    dialect: i64,
    version: i64,
    alignment: i64,
    checksum: bool,
    refusal: *Refusal,
) (schema.Error || nif.Error)!*nif.Tensor {
    if (version != 1 and version != 2) return refusal.set(.version, null);
    const language = dialectOf(dialect) orelse return refusal.set(.value, null);
    if (!schema.isAlignment(alignment)) return refusal.set(.@"align", null);
    if (nodes.rows == 0) return refusal.set(.short, null);
    if (nodes.rows > schema.limits.nodes) return refusal.set(.limit, null);
    const layout: *const Layout = .of(@intCast(version), language);
    const is_summed = checksum and version == 2;
    if (nodes.rows == 1) return encodeRows(1, nodes, data, layout, @intCast(alignment), is_summed, refusal);
    return encodeRows(schema.limits.nodes, nodes, data, layout, @intCast(alignment), is_summed, refusal);
}

/// Not inline: its frame on the stack is large.
noinline fn encodeRows(
    comptime n_max: usize,
    nodes: nif.Matrix(i64),
    data: []const u8,
    layout: *const Layout,
    alignment: u8,
    is_summed: bool,
    refusal: *Refusal,
) (schema.Error || nif.Error)!*nif.Tensor {
    @setRuntimeSafety(false); // as above
    var table: encoder.Table(n_max) = undefined;
    const writer = table.encoder(nodes, data, layout, alignment, refusal);
    const length = try writer.measure();
    const root = schema.Marker.find(table.rows[0].marker, layout.version, null).?;
    const lead = schema.paddingTo(64, layout.payloadOffset(root));
    const tensor = try nif.allocateTensor(.{ .code = .uint, .bits = 8 }, &.{@intCast(lead + length)});
    const bytes = @as([*]u8, @ptrCast(tensor.data.?))[0 .. lead + length];
    @memset(bytes[0..lead], 0);
    writer.write(bytes[lead..], is_summed);
    return tensor;
}

fn dialectOf(code: i64) ?schema.Dialect {
    return std.enums.fromInt(schema.Dialect, code);
}

fn expectColumns(parameter: []const u8, expected: usize, given: usize) nif.Error!void {
    if (given == expected) return;
    return nif.fail(.value, parameter, "expected {d} columns, got {d}", .{ expected, given });
}

fn refuse(refusal: Refusal, unit: []const u8) nif.Error {
    @branchHint(.cold);
    const text = refusal.code.text();
    const place = refusal.place orelse return nif.fail(.value, null, "{s}", .{text});
    return nif.fail(.value, null, "{s} ({s} {d})", .{ text, unit, place });
}

test "an address is that of the data, and only a host has blocks" {
    const bytes = "data";
    const x: nif.AnyArray = .{ .bytes = bytes, .dtype = .{ .code = .uint, .bits = 8 }, .shape = &.{4} };
    try std.testing.expectEqual(@intFromPtr(bytes), address(x));
    try std.testing.expectError(error.NoHost, write(x));
}

test {
    _ = @import("wire/tests.zig");
}
