//! Panels of two matrices, packed so that a tile of their product stays in registers while they stay in the cache.

const Matrix = @import("nif.zig").Matrix;
const Panels = @This();

pub const depth = 128;
pub const width = 64;
pub const tile = 4;
pub const Tile = @Vector(tile, f64);

/// Columns of a row tile of a, one after the other.
a: [depth]Tile,
/// For each column tile of b, its rows, one after the other.
b: [width / tile][depth]Tile,

/// Every element is packed before it is used. Filling 70 KB with 0xAA first, as safe builds do, would cost
/// more than a small product.
pub inline fn uninitialised() Panels {
    @setRuntimeSafety(false);
    return undefined;
}

/// Edges are filled with zeros, whose products land where nothing is stored.
pub fn packA(panels: *Panels, a: Matrix(f64), first_row: usize, first: usize, count: usize) void {
    const rows = @min(tile, a.rows - first_row);
    for (panels.a[0..count], first..) |*column, k| {
        var values: [tile]f64 = @splat(0);
        for (values[0..rows], first_row..) |*value, i| value.* = a.at(i, k);
        column.* = values;
    }
}

pub fn packB(panels: *Panels, b: Matrix(f64), first: usize, count: usize, first_column: usize, columns: usize) void {
    for (first..first + count, 0..) |k, row| {
        var j: usize = 0;
        while (j < columns) : (j += tile) {
            var values: [tile]f64 = @splat(0);
            const used = @min(tile, columns - j);
            for (values[0..used], first_column + j..) |*value, column| value.* = b.at(k, column);
            panels.b[j / tile][row] = values;
        }
    }
}

pub fn multiply(panels: *const Panels, column_tile: usize, count: usize) [tile]Tile {
    var product: [tile]Tile = @splat(@splat(0));
    for (panels.a[0..count], panels.b[column_tile][0..count]) |a, b| {
        inline for (&product, 0..) |*row, i| row.* += @as(Tile, @splat(a[i])) * b;
    }
    return product;
}
