//! From a frame to its node table.
//!
//! The frame may lie in memory that another process writes: each header, name and device description is read once,
//! into a copy, and only the copy is checked and used.

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

/// Version 2 if the frame says so, else 1.
pub fn ownVersion(frame: []const u8, refusal: *Refusal) Error!u8 {
    if (frame.len == 0) return refusal.set(.short, 0);
    return switch (frame[0]) {
        1 => 1,
        Header.magic_bytes[0] => 2,
        else => if (frame.len == 1) refusal.set(.short, 1) else refusal.set(.version, 0),
    };
}

/// Where a frame is and what is known before it is read.
const Place = struct {
    start: usize = 0,
    /// It and its padding must not go beyond.
    end: usize,
    depth: usize = 1,
    role: ?*const Role = null,
    name_offset: i64 = 0,
    name_length: i64 = 0,
    parent: i64 = -1,
};

/// A frame whose header is right, in either version.
const Head = struct {
    /// That of version 1 is what version 2 would have, but for the payload's length of an array.
    header: Header,
    marker: *const Marker,
    alignment: u64,
    body: usize,
    /// Where shape0 is, and how long it is.
    shape: usize,
    word: usize,
    /// Where the length is, or what it is computed from.
    claim: usize,
};

/// A frame whose payload is yet to be looked at.
pub const Opened = struct {
    row: *Row,
    marker: *const Marker,
    /// The end of payload and padding.
    after: usize,
};

pub const Decoder = struct {
    frame: []const u8,
    layout: *const Layout,
    live: nif.Matrix(i64),
    refusal: *Refusal,

    /// Open the outermost frame. Unless it is a record, its row is all there is to decode.
    pub fn root(self: *const Decoder, row: *Row) Error!Opened {
        const opened = try self.open(.{ .end = self.frame.len }, row);
        if (opened.marker.kind != .record) try self.checkPayload(&opened);
        return opened;
    }

    /// The table of a record and all within.
    pub fn nodes(self: *const Decoder, opened: *const Opened, tree: *Tree) Error![]const Row {
        tree.decoder = self;
        tree.rows[0] = opened.row.*;
        tree.n_rows = 1;
        tree.n_names = 0;
        try tree.addChildren(0, opened, 1);
        return tree.rows[0..tree.n_rows];
    }

    fn fail(self: *const Decoder, code: schema.Code, place: usize) Error {
        @branchHint(.cold);
        return self.refusal.set(code, place);
    }

    /// Volatile, so that the compiler reads it once too.
    fn read(self: *const Decoder, comptime T: type, at: usize) T {
        const source: *align(1) const volatile T = @ptrCast(self.frame[at..][0..@sizeOf(T)]);
        return source.*;
    }

    fn need(self: *const Decoder, upto: usize, place: Place) Error!void {
        if (upto > place.end) return self.fail(if (place.depth == 1) .short else .length, place.end);
    }

    /// Check all of a frame but its payload: 1 to 14 in docs/wire.md.
    fn open(self: *const Decoder, place: Place, row: *Row) Error!Opened {
        if (place.depth > limits.depth) return self.fail(.depth, place.start);
        const head = if (self.layout.version == 2) try self.readHeader(place) else try self.readShortHeader(place);
        const header = &head.header;
        for (header.shape, 0..) |size, axis| {
            const at = head.shape + axis * head.word;
            if (axis >= header.ndim and size != 0) return self.fail(.value, at);
            if (size > self.layout.dimension_max) return self.fail(.dim, at);
        }
        if (!schema.isAlignment(@intCast(head.alignment))) return self.fail(.@"align", head.body - 1);

        const length = switch (head.marker.kind) {
            .array => schema.arrayLength(@fromBackingInt(@intCast(header.dtype)), header.shape[0..header.ndim]) orelse
                return self.fail(.overflow, head.shape),
            .scalar, .device => head.marker.fixed_length,
            .record => header.payload,
        };
        const claimed = if (self.layout.version == 2) header.payload else length;
        const size = head.body - place.start +| claimed +| schema.paddingTo(head.alignment, claimed);
        if (size >= self.layout.frame_end) return self.fail(.overflow, head.claim);
        if (claimed != length or size > place.end - place.start) return self.fail(.length, head.claim);
        const after = place.start + size;
        if (place.depth == 1 and after < place.end) return self.fail(.trailing, after);
        try self.checkSum(&head, length);

        row.* = .{
            .marker = header.marker,
            .dtype = header.dtype,
            .ndim = header.ndim,
            .shape = @bitCast(header.shape),
            .order = header.order,
            .data_offset = @intCast(head.body),
            .data_length = @intCast(length),
            .name_offset = place.name_offset,
            .name_length = place.name_length,
            .parent = place.parent,
            .count = 0,
        };
        return .{ .row = row, .marker = head.marker, .after = after };
    }

    fn readHeader(self: *const Decoder, place: Place) Error!Head {
        const start = place.start;
        try self.need(start + @sizeOf(Header), place);
        const header = self.read(Header, start);
        if (!std.mem.eql(u8, &header.magic, &Header.magic_bytes)) return self.fail(.version, start);
        if (header.version != 2) return self.fail(.version, start + @offsetOf(Header, "version"));
        const marker = Marker.find(header.marker, 2, place.role) orelse
            return self.fail(.marker, start + @offsetOf(Header, "marker"));

        const is_allowed = .{
            .dtype = marker.dtypes.contains(header.dtype),
            .ndim = marker.ndims.contains(header.ndim),
            .order = header.order <= @intFromBool(header.ndim > 1),
            .flags = header.flags <= @intFromBool(place.depth == 1),
            .reserved = std.mem.allEqual(u8, &header.reserved, 0),
        };
        inline for (comptime std.meta.fieldNames(@TypeOf(is_allowed))) |name| {
            if (!@field(is_allowed, name)) return self.fail(.value, start + @offsetOf(Header, name));
        }
        return .{
            .header = header,
            .marker = marker,
            .alignment = 1,
            .body = start + @sizeOf(Header),
            .shape = start + @offsetOf(Header, "shape"),
            .word = @sizeOf(u64),
            .claim = start + @offsetOf(Header, "payload"),
        };
    }

    fn readShortHeader(self: *const Decoder, place: Place) Error!Head {
        const start = place.start;
        const numbers = start + 2;
        try self.need(numbers, place);
        const version, const code = self.read([2]u8, start);
        if (version != 1) return self.fail(.version, start);
        const marker = Marker.find(code, 1, place.role) orelse return self.fail(.marker, start + 1);
        const body = start + self.layout.payloadOffset(marker);
        try self.need(body + marker.fixed_length, place);

        const ndim = marker.ndims.last;
        var shape: [4]u64 = @splat(0);
        for (shape[0..ndim], 0..) |*size, axis| size.* = self.readWord(numbers + axis * self.layout.word);
        return .{
            .header = .{
                .marker = code,
                .dtype = marker.dtypes.last,
                .ndim = ndim,
                .order = if (ndim > 1) self.layout.order else 0,
                .flags = 0,
                .shape = shape,
                .payload = if (marker.kind == .record) self.readWord(numbers) else 0,
            },
            .marker = marker,
            .alignment = if (self.layout.aligned and marker.kind == .array) self.read(u8, body - 1) else 1,
            .body = body,
            .shape = numbers,
            .word = self.layout.word,
            .claim = numbers,
        };
    }

    fn readWord(self: *const Decoder, at: usize) u64 {
        return if (self.layout.word == 4) self.read(u32, at) else self.read(u64, at);
    }

    fn checkSum(self: *const Decoder, head: *const Head, length: u64) Error!void {
        const header = &head.header;
        const is_summed = header.flags == 1;
        const expected = if (is_summed) header.checksumOver(xxh3.hash(self.frame[head.body..][0..length])) else 0;
        if (header.checksum == expected) return;
        return self.fail(if (is_summed) .checksum else .value, head.body - @sizeOf(u64));
    }

    /// Check what isn't a record: 15 to 20 in docs/wire.md.
    fn checkPayload(self: *const Decoder, opened: *const Opened) Error!void {
        const body: usize = @intCast(opened.row.data_offset);
        const end = body + @as(usize, @intCast(opened.row.data_length));
        switch (opened.marker.type) {
            .gpu_buffer => {
                const buffer = self.read(schema.GpuBuffer, body);
                return self.checkDevice(body, buffer.handle, buffer.size, buffer.device);
            },
            .gpu_texture => {
                const texture = self.read(schema.GpuTexture, body);
                if (texture.dtype == 0 or texture.dtype >= schema.Dtype.count) {
                    return self.fail(.value, body + @offsetOf(schema.GpuTexture, "dtype"));
                }
                const element_size = @as(schema.Dtype, @fromBackingInt(@intCast(texture.dtype))).size();
                const used = @as(u128, texture.height) * texture.width * texture.channels * element_size;
                return self.checkDevice(body, texture.handle, used, texture.device);
            },
            else => {},
        }
        try self.checkZeros(end, opened.after);
        if (opened.row.dtype == @backingInt(schema.Dtype.bool)) {
            if (schema.findAbove(1, self.frame[body..end])) |index| return self.fail(.value, body + index);
        }
    }

    fn checkZeros(self: *const Decoder, start: usize, end: usize) Error!void {
        if (schema.findAbove(0, self.frame[start..end])) |index| return self.fail(.pad, start + index);
    }

    fn checkDevice(self: *const Decoder, at: usize, handle: schema.Handle, used: u128, device: u32) Error!void {
        const slot, const generation, const bytes, const number = .{ 0, 1, 2, 3 };
        const row = for (0..self.live.rows) |row| {
            if (self.live.at(row, slot) == handle.slot) break row;
        } else return self.fail(.handle, at);
        if (handle.generation == 0 or handle.generation != self.live.at(row, generation)) return self.fail(.stale, at);
        if (used > self.live.at(row, bytes) or device != self.live.at(row, number)) return self.fail(.handle, at);
    }
};

/// A record's table while it grows. It is large: only who decodes a record has one.
pub const Tree = struct {
    decoder: *const Decoder,
    rows: [limits.nodes]Row,
    n_rows: usize,
    /// Of the children that records announced so far, in the records' order, and where they are in the frame.
    names: [limits.nodes - 1][]const u8,
    name_offsets: [limits.nodes - 1]usize,
    copies: [limits.nodes - 1][limits.name]u8,
    n_names: usize,

    /// Check a record's payload: 21 to 37 in docs/wire.md.
    fn addChildren(tree: *Tree, index: usize, opened: *const Opened, depth: usize) Error!void {
        const decoder = tree.decoder;
        const record: *const schema.Record = .of(opened.marker.type);
        const start: usize = @intCast(opened.row.data_offset);
        const end = opened.after;
        if (end - start < 4) return decoder.fail(.length, end);
        const count, const title_length = decoder.read([2]u16, start);
        const first = tree.n_names;
        if (count > tree.names.len - first) return decoder.fail(.limit, start);
        tree.n_names += count;
        if (!record.accepts(count)) return decoder.fail(.value, start);

        var buffer: [limits.name]u8 = undefined;
        const title = try tree.readText(start + 2, title_length, 0, end, &buffer);
        const row = &tree.rows[index];
        row.data_offset = @intCast(start + 4);
        row.data_length = @intCast(title.len);
        row.count = count;

        const names_end = try tree.readNames(record, first, count, start + 4 + title.len, end);
        var at = try tree.skipPadding(start, names_end, end);
        for (first..first + count, 0..) |name, place| {
            const role = record.role(place);
            const child_index = tree.n_rows;
            tree.n_rows += 1;
            const child = try decoder.open(.{
                .start = at,
                .end = end,
                .depth = depth + 1,
                .role = role,
                .name_offset = @intCast(tree.name_offsets[name]),
                .name_length = @intCast(tree.names[name].len),
                .parent = @intCast(index),
            }, &tree.rows[child_index]);
            if (child.marker.kind == .record) {
                try tree.addChildren(child_index, &child, depth + 1);
            } else {
                try decoder.checkPayload(&child);
            }
            if (role) |it| try tree.checkRole(it, &child, at);
            at = try tree.skipPadding(at, child.after, end);
        }
        if (at != end) return decoder.fail(.length, at);
    }

    /// Read the names of a record's children; returns where they end.
    fn readNames(
        tree: *Tree,
        record: *const schema.Record,
        first: usize,
        count: usize,
        start: usize,
        end: usize,
    ) Error!usize {
        const decoder = tree.decoder;
        var at = start;
        for (first..first + count) |index| {
            if (end - at < 2) return decoder.fail(.length, end);
            const name = try tree.readText(at, decoder.read(u16, at), 1, end, &tree.copies[index]);
            if (record.nameFault(name, tree.names[first..index])) |code| return decoder.fail(code, at + 2);
            tree.names[index] = name;
            tree.name_offsets[index] = at + 2;
            at += 2 + name.len;
        }
        return at;
    }

    /// A copy of the title or name whose length stands at `at`.
    fn readText(
        tree: *const Tree,
        at: usize,
        length: usize,
        least: usize,
        end: usize,
        copy: *[limits.name]u8,
    ) Error![]const u8 {
        if (length < least or length > limits.name) return tree.decoder.fail(.limit, at);
        if (length > end - at - 2) return tree.decoder.fail(.length, at);
        const text = copy[0..length];
        @memcpy(text, tree.decoder.frame[at + 2 ..][0..length]);
        return if (schema.isText(text)) text else tree.decoder.fail(.utf8, at + 2);
    }

    fn skipPadding(tree: *const Tree, start: usize, at: usize, end: usize) Error!usize {
        const padding = tree.decoder.layout.childPadding(at - start);
        if (padding > end - at) return tree.decoder.fail(.length, at);
        try tree.decoder.checkZeros(at, at + padding);
        return at + padding;
    }

    fn checkRole(tree: *const Tree, role: *const Role, child: *const Opened, start: usize) Error!void {
        if (role.length) |length| if (child.row.shape[0] != length) return tree.decoder.fail(.value, start);
        if (role.below) |below| {
            const number = tree.decoder.read(i32, @intCast(child.row.data_offset));
            if (number < 0 or number >= below) return tree.decoder.fail(.value, start);
        }
    }
};
