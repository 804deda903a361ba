//! From a node table and its bytes to a frame: all is checked and measured first, then written in one pass.

const std = @import("std");
const nif = @import("../nif.zig");
const schema = @import("schema.zig");
const xxh3 = @import("../xxh3.zig");

const Error = schema.Error;
const Header = schema.Header;
const Layout = schema.Layout;
const Marker = schema.Marker;
const Refusal = schema.Refusal;
const Role = schema.Role;
const Row = schema.Row;
const limits = schema.limits;

/// What a table of `n` rows needs while it is encoded.
pub fn Table(comptime n: usize) type {
    return struct {
        rows: [n]Row,
        lengths: [n]usize,
        first_children: [n]u16,
        next_siblings: [n]u16,
        names: [n][]const u8,

        /// An encoder of a copy of `nodes`, which may lie in memory that another process writes.
        pub fn encoder(
            table: *@This(),
            nodes: nif.Matrix(i64),
            data: []const u8,
            layout: *const Layout,
            alignment: u8,
            refusal: *Refusal,
        ) Encoder {
            const count = nodes.rows;
            for (table.rows[0..count], 0..) |*row, index| nodes.loadRow(index, @ptrCast(row));
            const self: Encoder = .{
                .rows = table.rows[0..count],
                .data = data,
                .layout = layout,
                .alignment = alignment,
                .refusal = refusal,
                .lengths = table.lengths[0..count],
                .first_children = table.first_children[0..count],
                .next_siblings = table.next_siblings[0..count],
                .names = table.names[0..count],
            };
            self.linkChildren();
            return self;
        }
    };
}

pub const Encoder = struct {
    rows: []const Row,
    data: []const u8,
    layout: *const Layout,
    alignment: u8,
    refusal: *Refusal,
    /// Of each row's payload, known once it is measured.
    lengths: []usize,
    /// Rows by their parent, in order; `none` ends a list.
    first_children: []u16,
    next_siblings: []u16,
    /// Of the children of the record that is being measured.
    names: [][]const u8,

    const none = std.math.maxInt(u16);

    fn linkChildren(self: *const Encoder) void {
        @memset(self.first_children, none);
        var index = self.rows.len;
        while (index > 0) {
            index -= 1;
            const parent = std.math.cast(usize, self.rows[index].parent) orelse continue;
            if (parent >= self.rows.len) continue;
            self.next_siblings[index] = self.first_children[parent];
            self.first_children[parent] = @intCast(index);
        }
    }

    /// Check the whole table; returns the length of its frame.
    pub fn measure(self: *const Encoder) Error!usize {
        var next: usize = 0;
        const length = try self.measureFrame(0, 1, null, &next);
        if (next < self.rows.len) return self.fail(.trailing, next);
        return length;
    }

    fn fail(self: *const Encoder, code: schema.Code, index: usize) Error {
        @branchHint(.cold);
        return self.refusal.set(code, index);
    }

    /// Check a row and what is below it: 5 to 19 in docs/wire.md. `next` becomes the row after it all.
    fn measureFrame(self: *const Encoder, index: usize, depth: usize, role: ?*const Role, next: *usize) Error!usize {
        const row = &self.rows[index];
        next.* = index + 1;
        if (depth > limits.depth) return self.fail(.depth, index);
        if (index == 0 and row.parent != -1) return self.fail(.value, index);
        const marker = Marker.find(row.marker, self.layout.version, role) orelse return self.fail(.marker, index);
        const expected = try self.checkHeader(index, row, marker);
        const payload = self.slice(row.data_offset, row.data_length) orelse return self.fail(.length, index);
        const length = if (marker.kind == .record)
            try self.measureRecord(index, depth, marker, payload, next)
        else if (payload.len == expected)
            expected
        else
            return self.fail(.length, index);

        if (row.dtype == @backingInt(schema.Dtype.bool) and schema.findAbove(1, payload) != null) {
            return self.fail(.value, index);
        }
        if (marker.type == .gpu_texture) {
            const dtype = number(u32, payload[@offsetOf(schema.GpuTexture, "dtype")..]);
            if (dtype == 0 or dtype >= schema.Dtype.count) return self.fail(.value, index);
        }
        self.lengths[index] = length;
        const offset = self.layout.payloadOffset(marker);
        if (marker.kind == .record and offset + length >= self.layout.frame_end) return self.fail(.overflow, index);
        return offset + length + self.padding(marker, length);
    }

    /// Check all that a header says; returns the length of the payload unless it is a record.
    fn checkHeader(self: *const Encoder, index: usize, row: *const Row, marker: *const Marker) Error!usize {
        const is_short = self.layout.version == 1;
        const dtypes = marker.dtypes;
        if (!dtypes.contains(row.dtype) or (is_short and row.dtype != dtypes.last)) return self.fail(.value, index);
        if (!marker.ndims.contains(row.ndim)) return self.fail(.value, index);
        const has_order = if (row.ndim < 2)
            row.order == 0
        else if (is_short)
            row.order == self.layout.order
        else
            row.order == 0 or row.order == 1;
        if (!has_order) return self.fail(.value, index);

        var shape: [4]u64 = @splat(0);
        for (&shape, row.shape, 0..) |*to, size, axis| {
            if (axis >= row.ndim and size != 0) return self.fail(.value, index);
            if (size < 0 or size > self.layout.dimension_max) return self.fail(.dim, index);
            to.* = @intCast(size);
        }
        if (row.count != 0 and marker.kind != .record) return self.fail(.value, index);
        if (index == 0 and row.name_length != 0) return self.fail(.value, index);

        if (marker.kind != .array) return marker.fixed_length;
        const dtype: schema.Dtype = @fromBackingInt(@as(u8, @intCast(row.dtype)));
        const length = schema.arrayLength(dtype, shape[0..@intCast(row.ndim)]) orelse
            return self.fail(.overflow, index);
        const size = self.layout.payloadOffset(marker) + length + self.padding(marker, length);
        return if (size < self.layout.frame_end) length else self.fail(.overflow, index);
    }

    /// Check a record's title and children; returns the length of its payload.
    fn measureRecord(
        self: *const Encoder,
        index: usize,
        depth: usize,
        marker: *const Marker,
        title: []const u8,
        next: *usize,
    ) Error!usize {
        const record: *const schema.Record = .of(marker.type);
        const count = self.countChildren(index);
        if (self.rows[index].count != count) return self.fail(.length, index);
        if (!record.accepts(count)) return self.fail(.value, index);
        if (title.len > limits.name) return self.fail(.limit, index);
        if (!schema.isText(title)) return self.fail(.utf8, index);

        var length = 4 + title.len + try self.measureNames(index, record);
        length += self.layout.childPadding(length);
        var children = self.childrenOf(index);
        while (children.next()) |child| {
            if (child.index != next.*) return self.fail(.value, child.index);
            const role = record.role(child.place);
            const size = try self.measureFrame(child.index, depth + 1, role, next);
            if (role) |it| if (!self.isWithin(it, child.index)) return self.fail(.value, child.index);
            length += size + self.layout.childPadding(size);
        }
        return length;
    }

    fn measureNames(self: *const Encoder, index: usize, record: *const schema.Record) Error!usize {
        var length: usize = 0;
        var children = self.childrenOf(index);
        while (children.next()) |child| {
            const row = &self.rows[child.index];
            if (row.name_length < 1 or row.name_length > limits.name) return self.fail(.limit, child.index);
            const name = self.slice(row.name_offset, row.name_length) orelse return self.fail(.length, child.index);
            if (!schema.isText(name)) return self.fail(.utf8, child.index);
            if (record.nameFault(name, self.names[0..child.place])) |code| return self.fail(code, child.index);
            self.names[child.place] = name;
            length += 2 + name.len;
        }
        return length;
    }

    fn isWithin(self: *const Encoder, role: *const Role, index: usize) bool {
        const row = &self.rows[index];
        if (role.length) |length| if (row.shape[0] != length) return false;
        const below = role.below orelse return true;
        const value = number(i32, self.data[@intCast(row.data_offset)..]);
        return 0 <= value and value < below;
    }

    /// Write the frame that was measured. Its checksum is made on the way.
    pub fn write(self: *const Encoder, frame: []u8, is_summed: bool) void {
        const offset = self.layout.payloadOffset(self.markerOf(0));
        var head: Writer = .{ .out = .init(frame[0..offset], false) };
        self.writeHeader(0, &head);
        var writer: Writer = .{ .out = .init(frame[offset..], is_summed) };
        self.writePayload(0, &writer);
        if (!is_summed) return;
        var header: Header = std.mem.bytesToValue(Header, frame[0..@sizeOf(Header)]);
        header.flags = 1;
        header.checksum = header.checksumOver(writer.out.finish());
        frame[0..@sizeOf(Header)].* = std.mem.toBytes(header);
    }

    fn markerOf(self: *const Encoder, index: usize) *const Marker {
        return Marker.find(self.rows[index].marker, self.layout.version, null).?;
    }

    fn writeHeader(self: *const Encoder, index: usize, writer: *Writer) void {
        const row = &self.rows[index];
        if (self.layout.version == 2) {
            writer.putHeader(row, self.lengths[index]);
        } else {
            self.writeShortHeader(row, self.markerOf(index), self.lengths[index], writer);
        }
    }

    fn writePayload(self: *const Encoder, index: usize, writer: *Writer) void {
        const row = &self.rows[index];
        const marker = self.markerOf(index);
        const length = self.lengths[index];
        if (marker.kind == .record) {
            self.writeRecord(index, writer);
        } else {
            writer.put(self.data[@intCast(row.data_offset)..][0..length]);
        }
        writer.putZeros(self.padding(marker, length));
    }

    fn writeShortHeader(
        self: *const Encoder,
        row: *const Row,
        marker: *const Marker,
        length: usize,
        writer: *Writer,
    ) void {
        writer.put(&.{ 1, @intCast(row.marker) });
        switch (marker.kind) {
            .scalar, .device => {},
            .record => writer.putNumber(length, self.layout.word),
            .array => {
                for (row.shape[0..marker.ndims.last]) |size| writer.putNumber(@intCast(size), self.layout.word);
                if (self.layout.aligned) writer.put(&.{self.alignment});
            },
        }
    }

    fn writeRecord(self: *const Encoder, index: usize, writer: *Writer) void {
        const row = &self.rows[index];
        const start = writer.out.filled;
        writer.putNumber(@intCast(row.count), 2);
        writer.putText(self.slice(row.data_offset, row.data_length).?);
        var named = self.childrenOf(index);
        while (named.next()) |child| {
            const it = &self.rows[child.index];
            writer.putText(self.slice(it.name_offset, it.name_length).?);
        }
        writer.putZeros(self.layout.childPadding(writer.out.filled - start));
        var children = self.childrenOf(index);
        while (children.next()) |child| {
            const before = writer.out.filled;
            self.writeHeader(child.index, writer);
            self.writePayload(child.index, writer);
            writer.putZeros(self.layout.childPadding(writer.out.filled - before));
        }
    }

    fn padding(self: *const Encoder, marker: *const Marker, length: usize) usize {
        return if (self.layout.aligned and marker.kind == .array) schema.paddingTo(self.alignment, length) else 0;
    }

    fn slice(self: *const Encoder, offset: i64, length: i64) ?[]const u8 {
        if (offset < 0 or length < 0) return null;
        const start: usize, const size: usize = .{ @intCast(offset), @intCast(length) };
        return if (start + size <= self.data.len) self.data[start..][0..size] else null;
    }

    fn countChildren(self: *const Encoder, index: usize) usize {
        var children = self.childrenOf(index);
        while (children.next()) |_| {}
        return children.place;
    }

    fn childrenOf(self: *const Encoder, index: usize) Children {
        return .{ .siblings = self.next_siblings, .row = self.first_children[index] };
    }

    const Children = struct {
        siblings: []const u16,
        row: u16,
        place: usize = 0,

        const Child = struct { index: usize, place: usize };

        fn next(children: *Children) ?Child {
            if (children.row == none) return null;
            const child: Child = .{ .index = children.row, .place = children.place };
            children.row = children.siblings[child.index];
            children.place += 1;
            return child;
        }
    };
};

const Writer = struct {
    out: xxh3.Summed,

    fn putHeader(writer: *Writer, row: *const Row, length: usize) void {
        const header: Header = .{
            .marker = @intCast(row.marker),
            .dtype = @intCast(row.dtype),
            .ndim = @intCast(row.ndim),
            .order = @intCast(row.order),
            .flags = 0,
            .shape = @bitCast(row.shape),
            .payload = length,
        };
        writer.put(std.mem.asBytes(&header));
    }

    fn put(writer: *Writer, bytes: []const u8) void {
        writer.out.put(bytes);
    }

    fn putZeros(writer: *Writer, count: usize) void {
        writer.out.putZeros(count);
    }

    fn putNumber(writer: *Writer, value: u64, size: usize) void {
        writer.put(std.mem.asBytes(&value)[0..size]);
    }

    fn putText(writer: *Writer, text: []const u8) void {
        writer.putNumber(text.len, 2);
        writer.put(text);
    }
};

fn number(comptime T: type, bytes: []const u8) T {
    return std.mem.readInt(T, bytes[0..@sizeOf(T)], .little);
}
