//! What must hold of decoder and encoder together. That they agree with the other languages is for tests/conformance.

const std = @import("std");
const testing = std.testing;
const nif = @import("../nif.zig");
const decoder = @import("decoder.zig");
const encoder = @import("encoder.zig");
const schema = @import("schema.zig");

const Dialect = schema.Dialect;
const Layout = schema.Layout;
const Refusal = schema.Refusal;
const Row = schema.Row;

/// Two live slots and a free one.
const live_rows = [_]i64{ 7, 3, 4096, 1, 8, 1, 65536, 0, 9, 0, 4096, 0 };
const live: nif.Matrix(i64) = .{ .data = &live_rows, .rows = 3, .columns = 4, .row_stride = 4, .column_stride = 1 };

/// One frame or table at a time, and why it was refused.
const Codec = struct {
    layout: *const Layout,
    refusal: Refusal = .{},
    root: [1]Row = undefined,
    tree: decoder.Tree = undefined,
    table: encoder.Table(schema.limits.nodes) = undefined,
    output: [16 << 10]u8 = undefined,

    fn of(version: u8, dialect: Dialect) Codec {
        return .{ .layout = .of(version, dialect) };
    }

    fn decode(codec: *Codec, frame: []const u8) schema.Error![]const Row {
        const reader: decoder.Decoder =
            .{ .frame = frame, .layout = codec.layout, .live = live, .refusal = &codec.refusal };
        const root = try reader.root(&codec.root[0]);
        return if (root.marker.kind == .record) reader.nodes(&root, &codec.tree) else &codec.root;
    }

    fn encode(codec: *Codec, rows: []const Row, data: []const u8, is_summed: bool) schema.Error![]const u8 {
        const nodes: nif.Matrix(i64) = .{
            .data = @ptrCast(rows.ptr),
            .rows = rows.len,
            .columns = Row.columns,
            .row_stride = Row.columns,
            .column_stride = 1,
        };
        const alignment = 8;
        const writer = codec.table.encoder(nodes, data, codec.layout, alignment, &codec.refusal);
        const frame = codec.output[0..try writer.measure()];
        @memset(frame, 0xaa);
        writer.write(frame, is_summed);
        return frame;
    }

    fn expectRefusal(codec: *Codec, code: schema.Code, place: usize, frame: []const u8) !void {
        try testing.expectError(error.Refused, codec.decode(frame));
        try testing.expectEqual(Refusal{ .code = code, .place = place }, codec.refusal);
    }
};

/// A kernel with parameters of many kinds, one of them a network of one layer.
const sample = blk: {
    var table: struct { rows: [12]Row = undefined, data: []const u8 = "" } = .{};
    const listed = [_]struct { schema.Type, schema.Dtype, []const i64, []const u8, []const u8, i64, i64 }{
        .{ .kernel_descriptor, .none, &.{}, "axpy", "", -1, 8 },
        .{ .array_i32, .int32, &.{3}, "\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00", "grid", 0, 0 },
        .{ .array_i32, .int32, &.{3}, "\x40\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00", "block", 0, 0 },
        .{ .boolean, .bool, &.{}, "\x01", "µ", 0, 0 },
        .{ .neural_network, .none, &.{}, "", "net", 0, 3 },
        .{ .matrix_2d_f32, .float32, &.{ 1, 2 }, "\x00\x00\x80\x3f\x00\x00\x80\xbf", "0.weights", 4, 0 },
        .{ .array_f32, .float32, &.{1}, "\x00\x00\x00\x3f", "0.bias", 4, 0 },
        .{ .int32, .int32, &.{}, "\x01\x00\x00\x00", "0.activation", 4, 0 },
        .{ .gpu_buffer, .none, &.{}, &std.mem.toBytes(buffer), "buffer", 0, 0 },
        .{ .gpu_texture, .none, &.{}, &std.mem.toBytes(texture), "texture", 0, 0 },
        .{ .array_f64, .float64, &.{0}, "", "empty", 0, 0 },
        .{ .array_complex, .complex128, &.{1}, "complex number z", "z", 0, 0 },
    };
    for (listed, &table.rows) |it, *row| {
        const kind, const dtype, const shape, const payload, const name, const parent, const count = it;
        row.* = .{
            .marker = @backingInt(kind),
            .dtype = @backingInt(dtype),
            .ndim = shape.len,
            .shape = @splat(0),
            .order = 0,
            .data_offset = table.data.len,
            .data_length = payload.len,
            .name_offset = table.data.len + payload.len,
            .name_length = name.len,
            .parent = parent,
            .count = count,
        };
        for (row.shape[0..shape.len], shape) |*to, size| to.* = size;
        table.data = table.data ++ payload ++ name;
    }
    break :blk table;
};
const buffer: schema.GpuBuffer = .{ .handle = .{ .slot = 7, .generation = 3 }, .size = 1024, .device = 1 };
const texture: schema.GpuTexture = .{
    .handle = .{ .slot = 8, .generation = 1 },
    .height = 2,
    .width = 3,
    .channels = 4,
    .dtype = @backingInt(schema.Dtype.float32),
    .device = 0,
};

/// The sample's rows with the order that a layout has.
fn sampleRows(layout: *const Layout) [sample.rows.len]Row {
    var rows = sample.rows;
    for (&rows) |*row| row.order = if (layout.version == 1 and row.ndim > 1) layout.order else 0;
    return rows;
}

fn expectSameValues(expected: []const Row, rows: []const Row) !void {
    try testing.expectEqual(expected.len, rows.len);
    for (expected, rows) |left, right| {
        var moved = right;
        moved.data_offset = left.data_offset;
        moved.name_offset = left.name_offset;
        try testing.expectEqual(left, moved);
    }
}

const layouts = [_]struct { u8, Dialect }{ .{ 1, .rust }, .{ 1, .zig }, .{ 1, .nim }, .{ 1, .julia }, .{ 2, .rust } };

test "a documented frame has the documented numbers" {
    const text = "894e4946026008020101000000000000" ++ "02000000000000000200000000000000" ++
        "00000000000000000000000000000000" ++ "0400000000000000c417b2dcc704e07e" ++ "01030204";
    var room: [text.len / 2]u8 = undefined;
    const frame = try std.fmt.hexToBytes(&room, text);
    var codec: Codec = .of(2, .rust);
    const rows = try codec.decode(frame);
    const expected = [Row.columns]i64{ 0x60, 8, 2, 2, 2, 0, 0, 1, 64, 4, 0, 0, -1, 0 };
    try testing.expectEqualSlices(i64, &expected, @ptrCast(rows));
    try testing.expectEqualSlices(u8, frame, try codec.encode(rows, frame, true));

    frame[frame.len - 1] = 5;
    try codec.expectRefusal(.checksum, 56, frame);
}

test "a record survives every layout, and no part of it is taken for the whole" {
    for (layouts) |it| {
        var codec: Codec = .of(it[0], it[1]);
        const rows = sampleRows(codec.layout);
        const frame = try testing.allocator.dupe(u8, try codec.encode(&rows, sample.data, it[0] == 2));
        defer testing.allocator.free(frame);
        const decoded = try codec.decode(frame);
        try expectSameValues(&rows, decoded);
        try testing.expectEqualSlices(u8, frame, try codec.encode(decoded, frame, it[0] == 2));

        const header: usize = if (it[0] == 2) 64 else 2 + codec.layout.word;
        const claim: usize = if (it[0] == 2) 48 else 2;
        for (0..frame.len) |length| {
            const code: schema.Code = if (length < header) .short else .length;
            try codec.expectRefusal(code, if (length < header) length else claim, frame[0..length]);
        }
    }
}

test "an array of the zig dialect is padded with zeros" {
    var codec: Codec = .of(1, .zig);
    var frame = "\x01\x10\x01\x00\x00\x00\x08\x00\x00\x80\x3f\x00\x00\x00\x00".*;
    try testing.expectEqual(4, (try codec.decode(&frame))[0].data_length);
    frame[13] = 1;
    try codec.expectRefusal(.pad, 13, &frame);
    frame[6] = 3;
    try codec.expectRefusal(.@"align", 6, &frame);
}

test "a damaged frame is refused, or it is what its table says" {
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    errdefer std.debug.print("seed {d}\n", .{testing.random_seed});
    const draw = random.random();
    for (layouts) |it| {
        var codec: Codec = .of(it[0], it[1]);
        const rows = sampleRows(codec.layout);
        const whole = try testing.allocator.dupe(u8, try codec.encode(&rows, sample.data, false));
        defer testing.allocator.free(whole);
        for (0..20_000) |_| {
            const frame = try testing.allocator.dupe(u8, whole[0 .. whole.len - draw.uintLessThan(usize, 2)]);
            defer testing.allocator.free(frame);
            for (0..draw.intRangeAtMost(usize, 1, 3)) |_| {
                const bytes = [_]u8{ 0, 1, 0x40, 0x60, 0x7f, 0xff, draw.int(u8) };
                frame[draw.uintLessThan(usize, frame.len)] = bytes[draw.uintLessThan(usize, bytes.len)];
            }
            if (codec.decode(frame)) |decoded| {
                // A table has no alignments: what the zig dialect pads otherwise is written otherwise.
                if (!codec.layout.aligned) {
                    try testing.expectEqualSlices(u8, frame, try codec.encode(decoded, frame, false));
                }
            } else |_| try testing.expect(codec.refusal.place.? <= frame.len);
        }
    }
}

test "what a damaged table still says is what is read" {
    var random: std.Random.DefaultPrng = .init(testing.random_seed);
    errdefer std.debug.print("seed {d}\n", .{testing.random_seed});
    const draw = random.random();
    for (layouts) |it| {
        var codec: Codec = .of(it[0], it[1]);
        for (0..20_000) |_| {
            var rows = sampleRows(codec.layout);
            for (0..draw.intRangeAtMost(usize, 1, 2)) |_| {
                const cells: *[Row.columns]i64 = @ptrCast(&rows[draw.uintLessThan(usize, rows.len)]);
                const old = &cells[draw.uintLessThan(usize, cells.len)];
                const numbers = [_]i64{ 0, 1, -1, 1 << 40, std.math.minInt(i64), std.math.maxInt(i64), old.* +| 1 };
                old.* = numbers[draw.uintLessThan(usize, numbers.len)];
            }
            const frame = codec.encode(&rows, sample.data, false) catch {
                try testing.expect(codec.refusal.place.? < rows.len);
                continue;
            };
            const decoded = codec.decode(frame) catch {
                // Other bytes than a handle's, where the row of a device type was moved.
                try testing.expect(codec.refusal.code == .handle or codec.refusal.code == .stale);
                continue;
            };
            try expectSameValues(&rows, decoded);
        }
    }
}

test "the first byte above a limit is found wherever it is" {
    var bytes: [70]u8 = @splat(1);
    for (0..bytes.len) |length| try testing.expectEqual(null, schema.findAbove(1, bytes[0..length]));
    for (0..bytes.len) |place| {
        bytes[place] = 2;
        try testing.expectEqual(place, schema.findAbove(1, &bytes));
        try testing.expectEqual(0, schema.findAbove(0, &bytes));
        bytes[place] = 1;
    }
}

test "sizes end below 2^63" {
    const largest = 1 << 40;
    try testing.expectEqual(1 << 62, schema.arrayLength(.float32, &.{ largest, 1 << 20 }));
    try testing.expectEqual(null, schema.arrayLength(.float64, &.{ largest, 1 << 20 }));
    try testing.expectEqual(null, schema.arrayLength(.uint8, &.{ largest, largest, 0 }));
    try testing.expectEqual(0, schema.arrayLength(.float64, &.{ 0, largest }));
}

test "names of groups are counted, other names only differ" {
    const network: *const schema.Record = .of(.neural_network);
    const before = [_][]const u8{ "0.weights", "0.bias", "0.activation" };
    try testing.expectEqual(null, network.nameFault("1.weights", &before));
    try testing.expectEqual(.value, network.nameFault("01.weights", &before).?);
    try testing.expectEqual(.duplicate, network.nameFault("0.bias", &before).?);
    const kernel: *const schema.Record = .of(.kernel_descriptor);
    try testing.expectEqual(null, kernel.nameFault("x", &.{ "grid", "block" }));
    try testing.expectEqual(.duplicate, kernel.nameFault("grid", &.{ "grid", "block" }).?);
}
