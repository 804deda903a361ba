//! How arrays reach a kernel: slices for vectors, and these types for the rest.

const std = @import("std");
const abi = @import("abi.zig");

/// The element types of the ABI, as signatures spell them.
pub const elements = .{
    .{ "bool", Bool, abi.DType{ .code = .bool, .bits = 8 } },
    .{ "i8", i8, abi.DType{ .code = .int, .bits = 8 } },
    .{ "i16", i16, abi.DType{ .code = .int, .bits = 16 } },
    .{ "i32", i32, abi.DType{ .code = .int, .bits = 32 } },
    .{ "i64", i64, abi.DType{ .code = .int, .bits = 64 } },
    .{ "u8", u8, abi.DType{ .code = .uint, .bits = 8 } },
    .{ "u16", u16, abi.DType{ .code = .uint, .bits = 16 } },
    .{ "u32", u32, abi.DType{ .code = .uint, .bits = 32 } },
    .{ "u64", u64, abi.DType{ .code = .uint, .bits = 64 } },
    .{ "f16", f16, abi.DType{ .code = .float, .bits = 16 } },
    .{ "f32", f32, abi.DType{ .code = .float, .bits = 32 } },
    .{ "f64", f64, abi.DType{ .code = .float, .bits = 64 } },
    .{ "c64", Complex(f32), abi.DType{ .code = .complex, .bits = 64 } },
    .{ "c128", Complex(f64), abi.DType{ .code = .complex, .bits = 128 } },
};

/// A truth value in an array: 0 is false, any other byte is true. (Foreign memory may hold any byte, and Zig's `bool`
/// only 0 and 1.)
pub const Bool = enum(u8) {
    false = 0,
    true = 1,
    _,

    pub fn isTrue(element: Bool) bool {
        return element != .false;
    }

    pub fn of(value: bool) Bool {
        return if (value) .true else .false;
    }
};

/// A complex number in the layout of an array's element.
pub fn Complex(comptime T: type) type {
    return extern struct { re: T, im: T };
}

/// Whether a type is a complex number of these parts: `Complex`, or the standard library's, which promises no layout.
pub fn isComplex(comptime T: type, comptime Part: type) bool {
    return T == Complex(Part) or (T == std.math.Complex(Part) and @sizeOf(T) == 2 * @sizeOf(Part) and
        @offsetOf(T, "re") == 0 and @offsetOf(T, "im") == @sizeOf(Part));
}

/// The bits of a bare complex number: 64 or 128; null for another type.
pub fn complexBits(comptime T: type) ?u16 {
    return if (isComplex(T, f32)) 64 else if (isComplex(T, f64)) 128 else null;
}

/// The name of an element type; null for a type outside the ABI's list.
pub fn elementName(dtype: abi.DType) ?[]const u8 {
    inline for (elements) |element| {
        if (std.meta.eql(dtype, element[2])) return element[0];
    }
    return null;
}

/// Indexes are numbers of 64 bits to everybody else.
fn Sized(comptime T: type) type {
    return if (T == usize) u64 else if (T == isize) i64 else T;
}

/// Whether arrays of this Zig type can cross.
pub fn isElement(comptime T: type) bool {
    inline for (elements) |element| if (element[1] == Sized(T)) return true;
    return complexBits(T) != null;
}

/// The element type that a Zig type stands for.
pub fn elementType(comptime T: type) abi.DType {
    inline for (elements) |element| if (element[1] == Sized(T)) return element[2];
    if (complexBits(T)) |bits| return .{ .code = .complex, .bits = bits };
    @compileError(@typeName(T) ++ " isn't an element type of the ABI");
}

/// Bytes, as Python's `bytes`. (A plain `[]const u8` is text.)
pub const Bytes = struct {
    data: []const u8,
};

/// Contiguous memory of any element type and rank.
pub const AnyArray = struct {
    bytes: []const u8,
    dtype: abi.DType,
    shape: []const i64,
};

/// A matrix with any strides, to read.
pub fn Matrix(comptime T: type) type {
    return Strided(T, false);
}

/// A matrix with any strides, to write.
pub fn MatrixMut(comptime T: type) type {
    return Strided(T, true);
}

fn Strided(comptime T: type, comptime is_mutable: bool) type {
    return struct {
        /// Element [0, 0]. With negative strides the memory begins before it.
        data: Pointer,
        rows: usize,
        columns: usize,
        /// In elements, from a row (a column) to the next.
        row_stride: isize,
        column_stride: isize,

        const Self = @This();
        pub const Element = T;
        pub const mutable = is_mutable;
        pub const Pointer = if (is_mutable) [*]T else [*]const T;
        pub const Row = if (is_mutable) []T else []const T;

        pub fn at(self: Self, i: usize, j: usize) T {
            return self.pointerTo(i, j)[0];
        }

        pub fn set(self: Self, i: usize, j: usize, value: T) void {
            self.pointerTo(i, j)[0] = value;
        }

        /// Each row is one piece of memory.
        pub fn hasContiguousRows(self: Self) bool {
            return self.column_stride == 1 or self.columns <= 1;
        }

        /// Row `i`, of a matrix with contiguous rows.
        pub fn row(self: Self, i: usize) Row {
            std.debug.assert(i < self.rows and self.hasContiguousRows());
            return moved(self.data, i, self.row_stride)[0..self.columns];
        }

        /// Copy row `i` out, whatever its stride.
        pub fn loadRow(self: Self, i: usize, target: []T) void {
            std.debug.assert(i < self.rows and target.len == self.columns);
            if (self.hasContiguousRows()) return @memcpy(target, self.row(i));
            const start = moved(self.data, i, self.row_stride);
            for (target, 0..) |*value, j| value.* = moved(start, j, self.column_stride)[0];
        }

        /// Copy row `i` in, whatever its stride.
        pub fn storeRow(self: Self, i: usize, source: []const T) void {
            std.debug.assert(i < self.rows and source.len == self.columns);
            if (self.hasContiguousRows()) return @memcpy(self.row(i), source);
            const start = moved(self.data, i, self.row_stride);
            for (source, 0..) |value, j| moved(start, j, self.column_stride)[0] = value;
        }

        /// The same elements with rows and columns exchanged.
        pub fn transposed(self: Self) Self {
            return .{
                .data = self.data,
                .rows = self.columns,
                .columns = self.rows,
                .row_stride = self.column_stride,
                .column_stride = self.row_stride,
            };
        }

        /// The same elements, to read.
        pub fn toConst(self: Self) Strided(T, false) {
            return .{
                .data = self.data,
                .rows = self.rows,
                .columns = self.columns,
                .row_stride = self.row_stride,
                .column_stride = self.column_stride,
            };
        }

        fn pointerTo(self: Self, i: usize, j: usize) Pointer {
            std.debug.assert(i < self.rows and j < self.columns);
            return moved(moved(self.data, i, self.row_stride), j, self.column_stride);
        }

        /// Wrapping, because the way to an element that exists can't overflow, and a check
        /// for it would keep loops from being vectorised.
        inline fn moved(pointer: Pointer, count: usize, stride: isize) Pointer {
            return pointer + (count *% @as(usize, @bitCast(stride)));
        }
    };
}

test "a matrix reads and writes by its strides" {
    var numbers = [_]f64{ 0, 1, 2, 3, 4, 5 };
    const matrix: MatrixMut(f64) = .{ .data = &numbers, .rows = 2, .columns = 3, .row_stride = 3, .column_stride = 1 };
    try std.testing.expectEqual(5, matrix.at(1, 2));
    try std.testing.expectEqualSlices(f64, &.{ 3, 4, 5 }, matrix.row(1));

    var backwards = matrix;
    backwards.data = numbers[5..];
    backwards.row_stride = -3;
    backwards.column_stride = -1;
    try std.testing.expectEqual(4, backwards.at(0, 1));
    var column: [2]f64 = undefined;
    backwards.transposed().toConst().loadRow(0, &column);
    try std.testing.expectEqualSlices(f64, &.{ 5, 2 }, &column);
    backwards.storeRow(1, &.{ 12, 11, 10 });
    try std.testing.expectEqualSlices(f64, &.{ 10, 11, 12, 3, 4, 5 }, &numbers);
}

test "any byte but 0 is true" {
    for ([_]u8{ 1, 2, 128, 255 }) |byte| try std.testing.expect(@as(Bool, @fromBackingInt(byte)).isTrue());
    try std.testing.expect(!Bool.false.isTrue() and Bool.of(true) == .true and Bool.of(false) == .false);
}

test "element types have names both ways" {
    try std.testing.expectEqualStrings("c128", elementName(elementType(Complex(f64))).?);
    try std.testing.expectEqual(null, elementName(.{ .code = .float, .bits = 64, .lanes = 2 }));
}
