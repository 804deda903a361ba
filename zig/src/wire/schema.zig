//! The wire protocol as tables, and the checks that decoder and encoder share; docs/wire.md has the rules.

const std = @import("std");
const assert = std.debug.assert;
const xxh3 = @import("../xxh3.zig");

pub const limits = struct {
    pub const depth = 64;
    pub const nodes = 512;
    pub const name = 255;
};

/// In version 2, children and the names before them are padded to this.
pub const child_alignment = 64;

/// Why a frame or a node table is refused.
pub const Code = enum {
    short,
    version,
    marker,
    overflow,
    length,
    trailing,
    dim,
    @"align",
    pad,
    value,
    handle,
    stale,
    depth,
    limit,
    duplicate,
    utf8,
    checksum,

    /// In the words of all languages.
    pub fn text(code: Code) []const u8 {
        return switch (code) {
            .short => "SHORT: the frame ends within its header",
            .version => "VERSION: not a frame of the expected version",
            .marker => "MARKER: no such type, or not accepted here",
            .overflow => "OVERFLOW: the size is more than the format can express",
            .length => "LENGTH: sizes and the bytes that are there do not agree",
            .trailing => "TRAILING: bytes after the end",
            .dim => "DIM: a dimension above the limit",
            .@"align" => "ALIGN: the alignment is not 1, 2, 4, 8, 16, 32 or 64",
            .pad => "PAD: padding is not zero",
            .value => "VALUE: a value that is not allowed here",
            .handle => "HANDLE: no such device block, or not as described",
            .stale => "STALE: the handle's block was freed",
            .depth => "DEPTH: nested more than 64 deep",
            .limit => "LIMIT: more than 512 values, or a name that is empty or over 255 bytes",
            .duplicate => "DUPLICATE: two children of one name",
            .utf8 => "UTF8: a name that is not UTF-8, or contains NUL",
            .checksum => "CHECKSUM: the checksum is wrong",
        };
    }
};

pub const Error = error{Refused};

/// What `error.Refused` can't carry itself.
pub const Refusal = struct {
    code: Code = .value,
    /// A byte of the frame, for the encoder a row; null for an argument.
    place: ?usize = null,

    pub fn set(refusal: *Refusal, code: Code, place: ?usize) Error {
        @branchHint(.cold);
        refusal.* = .{ .code = code, .place = place };
        return error.Refused;
    }
};

pub const Dtype = enum(u8) {
    none = 0,
    float32,
    float64,
    int32,
    int64,
    bool,
    int8,
    int16,
    uint8,
    uint16,
    uint32,
    uint64,
    float16,
    complex64,
    complex128,

    pub const count = @typeInfo(Dtype).@"enum".field_names.len;

    /// Bytes of an element.
    pub fn size(dtype: Dtype) u64 {
        return switch (dtype) {
            .none => 0,
            .bool, .int8, .uint8 => 1,
            .int16, .uint16, .float16 => 2,
            .float32, .int32, .uint32 => 4,
            .float64, .int64, .uint64, .complex64 => 8,
            .complex128 => 16,
        };
    }
};

/// What a value is, as the frame says it.
pub const Type = enum(u8) {
    float32 = 0x01,
    float64 = 0x02,
    int32 = 0x03,
    int64 = 0x04,
    boolean = 0x05,
    array_f32 = 0x10,
    array_f64 = 0x11,
    array_i32 = 0x12,
    array_i64 = 0x13,
    matrix_2d_f32 = 0x20,
    matrix_2d_f64 = 0x21,
    matrix_3d_f32 = 0x22,
    matrix_3d_f64 = 0x23,
    gpu_buffer = 0x30,
    gpu_texture = 0x31,
    neural_network = 0x40,
    tensor_operation = 0x41,
    kernel_descriptor = 0x42,
    array_complex = 0x50,
    tensor = 0x60,
};

/// From the first to the last, both included.
const Range = struct {
    first: u8,
    last: u8,

    pub fn contains(range: Range, number: i64) bool {
        return range.first <= number and number <= range.last;
    }
};

/// A type of value: what its header may say.
pub const Marker = struct {
    type: Type,
    kind: Kind,
    /// In version 1 it is the last.
    dtypes: Range,
    /// In version 1 it is the last.
    ndims: Range,
    /// Of a scalar's or device type's payload, in bytes; else 0.
    fixed_length: u8 = 0,
    is_in_version_1: bool = true,

    pub const Kind = enum { scalar, array, device, record };

    fn scalar(@"type": Type, dtype: Dtype) Marker {
        return .{
            .type = @"type",
            .kind = .scalar,
            .dtypes = .{ .first = @backingInt(dtype), .last = @backingInt(dtype) },
            .ndims = .{ .first = 0, .last = 0 },
            .fixed_length = @intCast(dtype.size()),
        };
    }

    fn array(@"type": Type, first: Dtype, last: Dtype, ndim: u8) Marker {
        return .{
            .type = @"type",
            .kind = .array,
            .dtypes = .{ .first = @backingInt(first), .last = @backingInt(last) },
            .ndims = .{ .first = ndim, .last = ndim },
        };
    }

    fn other(@"type": Type, kind: Kind, length: u8) Marker {
        const none: Range = .{ .first = 0, .last = 0 };
        return .{ .type = @"type", .kind = kind, .dtypes = none, .ndims = none, .fixed_length = length };
    }

    const listed = [_]Marker{
        scalar(.float32, .float32),
        scalar(.float64, .float64),
        scalar(.int32, .int32),
        scalar(.int64, .int64),
        scalar(.boolean, .bool),
        array(.array_f32, .float32, .float32, 1),
        array(.array_f64, .float64, .float64, 1),
        array(.array_i32, .int32, .int32, 1),
        array(.array_i64, .int64, .int64, 1),
        array(.matrix_2d_f32, .float32, .float32, 2),
        array(.matrix_2d_f64, .float64, .float64, 2),
        array(.matrix_3d_f32, .float32, .float32, 3),
        array(.matrix_3d_f64, .float64, .float64, 3),
        other(.gpu_buffer, .device, @sizeOf(GpuBuffer)),
        other(.gpu_texture, .device, @sizeOf(GpuTexture)),
        other(.neural_network, .record, 0),
        other(.tensor_operation, .record, 0),
        other(.kernel_descriptor, .record, 0),
        array(.array_complex, .complex64, .complex128, 1),
        .{
            .type = .tensor,
            .kind = .array,
            .dtypes = .{ .first = 1, .last = Dtype.count - 1 },
            .ndims = .{ .first = 0, .last = 4 },
            .is_in_version_1 = false,
        },
    };

    const by_code = blk: {
        var table: [256]?Marker = @splat(null);
        for (listed) |marker| table[@backingInt(marker.type)] = marker;
        break :blk table;
    };

    /// The marker of that code; null where there is none, or the version or the role doesn't take it.
    pub fn find(code: i64, version: u8, role: ?*const Role) ?*const Marker {
        const index = std.math.cast(u8, code) orelse return null;
        const marker = if (by_code[index]) |*found| found else return null;
        if (version == 1 and !marker.is_in_version_1) return null;
        if (role) |it| if (std.mem.findScalar(Type, it.types, marker.type) == null) return null;
        return marker;
    }
};

pub const Dialect = enum(u2) { rust, zig, nim, julia };

/// The numbers of a version and, in version 1, of a dialect.
pub const Layout = struct {
    version: u8,
    /// Bytes of a dimension and of a record's length.
    word: usize,
    /// The one that arrays of two axes and more have in version 1.
    order: u8,
    /// Arrays have an alignment and padding.
    aligned: bool,
    dimension_max: u64,
    /// A frame is below so many bytes.
    frame_end: u64,

    const all = blk: {
        var table: [2][4]Layout = undefined;
        for (&table, 1..) |*row, version| {
            for (row, std.enums.values(Dialect)) |*layout, dialect| layout.* = make(version, dialect);
        }
        break :blk table;
    };

    pub fn of(version: u8, dialect: Dialect) *const Layout {
        return &all[version - 1][@backingInt(dialect)];
    }

    fn make(version: u8, dialect: Dialect) Layout {
        const is_wide = version == 2 or dialect == .nim or dialect == .julia;
        return .{
            .version = version,
            .word = if (is_wide) 8 else 4,
            .order = @intFromBool(dialect == .julia),
            .aligned = version == 1 and dialect == .zig,
            .dimension_max = if (is_wide) 1 << 40 else (1 << 31) - 1,
            .frame_end = if (is_wide) 1 << 63 else 1 << 32,
        };
    }

    /// Bytes before the payload.
    pub fn payloadOffset(layout: *const Layout, marker: *const Marker) usize {
        if (layout.version == 2) return @sizeOf(Header);
        return switch (marker.kind) {
            .scalar, .device => 2,
            .record => 2 + layout.word,
            .array => 2 + layout.word * marker.ndims.last + @intFromBool(layout.aligned),
        };
    }

    /// Zeros after a child, or after the names before the first.
    pub fn childPadding(layout: *const Layout, length: usize) usize {
        return if (layout.version == 2) paddingTo(child_alignment, length) else 0;
    }
};

/// How every version 2 frame begins.
pub const Header = extern struct {
    magic: [4]u8 = magic_bytes,
    version: u8 = 2,
    marker: u8,
    dtype: u8,
    ndim: u8,
    order: u8,
    flags: u8,
    reserved: [6]u8 = @splat(0),
    shape: [4]u64,
    payload: u64,
    checksum: u64 = 0,

    pub const magic_bytes = "\x89NIF".*;

    /// The frame's checksum, from that of its payload.
    pub fn checksumOver(header: *const Header, payload_sum: u64) u64 {
        return payload_sum ^ xxh3.hash(std.mem.asBytes(header)[0..@offsetOf(Header, "checksum")]);
    }
};

/// The payload of `gpu_buffer`.
pub const GpuBuffer = extern struct {
    handle: Handle,
    size: u64 align(4),
    device: u32,
};

/// The payload of `gpu_texture`.
pub const GpuTexture = extern struct {
    handle: Handle,
    height: u32,
    width: u32,
    channels: u32,
    dtype: u32,
    device: u32,
};

pub const Handle = extern struct { slot: u32, generation: u32 };

/// A row of the node table.
pub const Row = extern struct {
    marker: i64,
    dtype: i64,
    ndim: i64,
    shape: [4]i64,
    order: i64,
    data_offset: i64,
    data_length: i64,
    name_offset: i64,
    name_length: i64,
    parent: i64,
    count: i64,

    pub const columns = @sizeOf(Row) / @sizeOf(i64);
};

comptime {
    // Frames are copied into these structs and out of them.
    assert(@import("builtin").cpu.arch.endian() == .little and @sizeOf(usize) == 8);
    assert(@sizeOf(Header) == 64 and @offsetOf(Header, "reserved") == 10 and @offsetOf(Header, "shape") == 16);
    assert(@offsetOf(Header, "payload") == 48 and @offsetOf(Header, "checksum") == 56);
    assert(@sizeOf(GpuBuffer) == 20 and @offsetOf(GpuBuffer, "size") == 8);
    assert(@sizeOf(GpuTexture) == 28 and @offsetOf(GpuTexture, "dtype") == 20);
    assert(Row.columns == 14 and @offsetOf(Row, "data_offset") == 8 * 8);
}

/// What a record's child must be.
pub const Role = struct {
    name: []const u8,
    types: []const Type,
    /// A scalar is 0 or more and below this.
    below: ?i32 = null,
    /// An array has so many elements.
    length: ?i64 = null,
};

/// What children a record has: first the fixed ones, then whole groups, or any others.
pub const Record = struct {
    fixed: []const Role = &.{},
    group: []const Role = &.{},
    others: bool = false,

    pub fn of(@"type": Type) *const Record {
        return switch (@"type") {
            .neural_network => &.{ .group = &.{
                .{ .name = "weights", .types = &.{ .matrix_2d_f32, .matrix_2d_f64 } },
                .{ .name = "bias", .types = &.{ .array_f32, .array_f64 } },
                .{ .name = "activation", .types = &.{.int32}, .below = 5 },
            } },
            .tensor_operation => &.{ .group = &.{
                .{ .name = "shape", .types = &.{.array_i64} },
                .{ .name = "dtype", .types = &.{.int32}, .below = Dtype.count },
            } },
            .kernel_descriptor => &.{ .others = true, .fixed = &.{
                .{ .name = "grid", .types = &.{.array_i32}, .length = 3 },
                .{ .name = "block", .types = &.{.array_i32}, .length = 3 },
            } },
            else => unreachable,
        };
    }

    pub fn accepts(record: *const Record, count: usize) bool {
        if (count < record.fixed.len) return false;
        return record.others or (count - record.fixed.len) % record.group.len == 0;
    }

    /// What the child at this index must be; null: anything.
    pub fn role(record: *const Record, index: usize) ?*const Role {
        if (index < record.fixed.len) return &record.fixed[index];
        if (record.others) return null;
        return &record.group[(index - record.fixed.len) % record.group.len];
    }

    /// What is wrong with a child's name, after those before it.
    pub fn nameFault(record: *const Record, name: []const u8, before: []const []const u8) ?Code {
        const it = record.role(before.len);
        // The names that roles ask for differ, so they need no search.
        if (it) |found| if (record.isNameOf(found, before.len, name)) return null;
        for (before) |other| if (std.mem.eql(u8, other, name)) return .duplicate;
        return if (it == null) null else .value;
    }

    /// In a group, its number and a dot precede the role's own name.
    fn isNameOf(record: *const Record, it: *const Role, index: usize, name: []const u8) bool {
        const prefix = std.mem.cutSuffix(u8, name, it.name) orelse return false;
        if (index < record.fixed.len) return prefix.len == 0;
        const number = (index - record.fixed.len) / record.group.len;
        var buffer: [8]u8 = undefined;
        return std.mem.eql(u8, prefix, std.fmt.bufPrint(&buffer, "{d}.", .{number}) catch unreachable);
    }
};

/// Whether it may be the alignment of an array.
pub fn isAlignment(number: i64) bool {
    return 1 <= number and number <= 64 and @popCount(number) == 1;
}

pub fn paddingTo(alignment: u64, length: u64) u64 {
    return -%length & (alignment - 1);
}

/// Bytes of an array's elements; null where the dimensions that aren't 0 ask for 2^63 or more.
pub fn arrayLength(dtype: Dtype, shape: []const u64) ?u64 {
    var extent: i64 = @intCast(dtype.size());
    var is_empty = false;
    for (shape) |size| {
        is_empty = is_empty or size == 0;
        extent = std.math.mul(i64, extent, @intCast(@max(size, 1))) catch return null;
    }
    return if (is_empty) 0 else @intCast(extent);
}

/// Where the first byte above `limit` is.
pub fn findAbove(limit: u8, bytes: []const u8) ?usize {
    const width = 16;
    const Chunk = @Vector(width, u8);
    var rest = bytes;
    while (rest.len >= width) : (rest = rest[width..]) {
        const chunk: Chunk = rest[0..width].*;
        if (std.simd.firstTrue(chunk > @as(Chunk, @splat(limit)))) |index| return bytes.len - rest.len + index;
    }
    for (rest, bytes.len - rest.len..) |byte, index| if (byte > limit) return index;
    return null;
}

/// Whether it can be a name or title.
pub fn isText(text: []const u8) bool {
    return std.mem.findScalar(u8, text, 0) == null and std.unicode.utf8ValidateSlice(text);
}
