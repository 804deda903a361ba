//! The kernels that every backend has; docs/kernels.md says what each means.

const std = @import("std");
const math = std.math;
const nif = @import("nif.zig");
const Panels = @import("panels.zig");
const xxh3 = @import("xxh3.zig");

const Matrix = nif.Matrix;
const MatrixMut = nif.MatrixMut;

pub const flags = .{
    .noop = .{ .pure = true },
    .add = .{ .pure = true },
    .dot = .{ .pure = true },
    .sum = .{ .pure = true },
    .matmul = .{ .long = true, .idempotent = true },
    .transpose = .{ .idempotent = true },
    .hillshade = .{ .idempotent = true },
    .smooth = .{ .long = true, .idempotent = true },
    .histogram = .{ .idempotent = true },
    .mandelbrot = .{ .long = true, .idempotent = true, .polls_cancel = true },
    .forward = .{ .idempotent = true },
    .checksum = .{ .pure = true },
};

/// Eight sums at once hide the latency of an addition on every machine of today.
const lanes = 8;
const Lanes = @Vector(lanes, f64);

/// `noop()`: does nothing, to measure what a call costs.
pub fn noop() void {}

/// `add(x, y)`: x + y.
pub fn add(x: f64, y: f64) f64 {
    return x + y;
}

/// `dot(x[n], y[n])`: inner product of two vectors.
pub fn dot(x: []const f64, y: []const f64) f64 {
    var sums: [2]Lanes = @splat(@splat(0));
    var rest_x, var rest_y = .{ x, y[0..x.len] };
    while (rest_x.len >= 2 * lanes) {
        inline for (&sums, 0..) |*partial, part| partial.* += load(rest_x, part * lanes) * load(rest_y, part * lanes);
        rest_x, rest_y = .{ rest_x[2 * lanes ..], rest_y[2 * lanes ..] };
    }
    var rest: f64 = 0;
    for (rest_x, rest_y) |xi, yi| rest += xi * yi;
    return total(lanes, sums[0] + sums[1]) + rest;
}

/// `axpy(a, x[n], y[n])`: y = a x + y, in place.
pub fn axpy(a: f64, x: []const f64, y: []f64) void {
    for (x, y) |xi, *yi| yi.* += a * xi;
}

/// `sum(x[n])`: sum of the elements; NaN spreads.
pub fn sum(x: []const f64) f64 {
    var sums: [2]Lanes = @splat(@splat(0));
    var rest_x = x;
    while (rest_x.len >= 2 * lanes) : (rest_x = rest_x[2 * lanes ..]) {
        inline for (&sums, 0..) |*partial, part| partial.* += load(rest_x, part * lanes);
    }
    var rest: f64 = 0;
    for (rest_x) |xi| rest += xi;
    return total(lanes, sums[0] + sums[1]) + rest;
}

/// Half and half, so that few additions wait for each other; `@reduce` takes one element after the other.
inline fn total(comptime n: usize, values: @Vector(n, f64)) f64 {
    if (n == 1) return values[0];
    const halves: [2]@Vector(n / 2, f64) = @bitCast(values);
    return total(n / 2, halves[0] + halves[1]);
}

inline fn load(x: []const f64, at: usize) Lanes {
    return x[at..][0..lanes].*;
}

/// `matmul(a[m,k], b[k,n], out[m,n])`: matrix product.
pub fn matmul(a: Matrix(f64), b: Matrix(f64), out: MatrixMut(f64)) void {
    var panels = Panels.uninitialised();
    clear(out);
    var j: usize = 0;
    while (j < out.columns) : (j += Panels.width) {
        const columns = @min(Panels.width, out.columns - j);
        var k: usize = 0;
        while (k < a.columns) : (k += Panels.depth) {
            const count = @min(Panels.depth, a.columns - k);
            panels.packB(b, k, count, j, columns);
            var i: usize = 0;
            while (i < out.rows) : (i += Panels.tile) {
                panels.packA(a, i, k, count);
                addTiles(&panels, count, out, i, j, columns);
            }
        }
    }
}

fn clear(out: MatrixMut(f64)) void {
    for (0..out.rows) |i| for (0..out.columns) |j| out.set(i, j, 0);
}

/// Add the products of the row tile at `first_row` with all column tiles of the panel to `out`.
fn addTiles(
    panels: *const Panels,
    count: usize,
    out: MatrixMut(f64),
    first_row: usize,
    first_column: usize,
    columns: usize,
) void {
    const rows = @min(Panels.tile, out.rows - first_row);
    var j: usize = 0;
    while (j < columns) : (j += Panels.tile) {
        const product = panels.multiply(j / Panels.tile, count);
        const used = @min(Panels.tile, columns - j);
        for (product[0..rows], first_row..) |row, i| {
            const values: [Panels.tile]f64 = row;
            if (used == Panels.tile and out.hasContiguousRows()) {
                const target = out.row(i)[first_column + j ..][0..Panels.tile];
                target.* = @as(Panels.Tile, target.*) + row;
            } else for (values[0..used], first_column + j..) |value, column| {
                out.set(i, column, out.at(i, column) + value);
            }
        }
    }
}

/// `transpose(a[m,n], out[n,m])`: out[j,i] = a[i,j].
pub fn transpose(a: Matrix(f64), out: MatrixMut(f64)) void {
    // Two cache lines wide, so that each line of both matrices is touched once.
    const tile = 16;
    const contiguous = a.hasContiguousRows() and out.hasContiguousRows();
    var buffer: [tile][tile]f64 = undefined;
    var i: usize = 0;
    while (i < a.rows) : (i += tile) {
        const end_row = @min(i + tile, a.rows);
        var j: usize = 0;
        while (j < a.columns) : (j += tile) {
            const end_column = @min(j + tile, a.columns);
            if (contiguous and end_row - i == tile and end_column - j == tile) {
                transposeTile(tile, &buffer, a, out, i, j);
            } else {
                for (j..end_column) |column| for (i..end_row) |row| out.set(column, row, a.at(row, column));
            }
        }
    }
}

/// Whole lines in, whole lines out; the exchange happens in the buffer.
inline fn transposeTile(
    comptime tile: usize,
    buffer: *[tile][tile]f64,
    a: Matrix(f64),
    out: MatrixMut(f64),
    first_row: usize,
    first_column: usize,
) void {
    for (buffer, first_row..) |*line, i| line.* = a.row(i)[first_column..][0..tile].*;
    for (0..tile) |column| {
        const target = out.row(first_column + column)[first_row..][0..tile];
        inline for (target, buffer) |*value, *line| value.* = line[column];
    }
}

/// `hillshade(z[m,n], dx, dy, azimuth, altitude, out[m,n])`: brightness of a height field lit from an azimuth
/// (degrees clockwise from north) and an altitude (degrees above the horizon); row 0 is north, dx and dy are the
/// spacing of columns and rows.
pub fn hillshade(
    z: Matrix(f64),
    dx: f64,
    dy: f64,
    azimuth: f64,
    altitude: f64,
    out: MatrixMut(f64),
) nif.Error!void {
    if (!(dx > 0)) return nif.fail(.value, "dx", "expected a positive number", .{});
    if (!(dy > 0)) return nif.fail(.value, "dy", "expected a positive number", .{});
    const terrain: Terrain = .{ .z = z, .dx = dx, .dy = dy, .light = direction(azimuth, altitude) };
    const contiguous = z.hasContiguousRows() and out.hasContiguousRows();
    for (0..z.rows) |i| {
        var j: usize = 0;
        while (j < z.columns) {
            if (contiguous and j > 0 and j + lanes < z.columns) {
                out.row(i)[j..][0..lanes].* = terrain.shadeLanes(i, j);
                j += lanes;
            } else {
                out.set(i, j, terrain.shadeAt(i, j));
                j += 1;
            }
        }
    }
}

/// Unit vector to the light: east, north, up.
fn direction(azimuth_degrees: f64, altitude_degrees: f64) [3]f64 {
    const azimuth = math.degreesToRadians(azimuth_degrees);
    const altitude = math.degreesToRadians(altitude_degrees);
    return .{ @sin(azimuth) * @cos(altitude), @cos(azimuth) * @cos(altitude), @sin(altitude) };
}

const Terrain = struct {
    z: Matrix(f64),
    dx: f64,
    dy: f64,
    light: [3]f64,

    /// Any place, edges too.
    fn shadeAt(terrain: Terrain, i: usize, j: usize) f64 {
        const z = terrain.z;
        const west, const east = .{ j -| 1, @min(j + 1, z.columns - 1) };
        const north, const south = .{ i -| 1, @min(i + 1, z.rows - 1) };
        const gx = slope(z.at(i, east), z.at(i, west), east - west, terrain.dx);
        const gy = slope(z.at(north, j), z.at(south, j), south - north, terrain.dy);
        return terrain.brightness(1, .{gx}, .{gy})[0];
    }

    /// Several places inside a row at once, in contiguous memory.
    inline fn shadeLanes(terrain: Terrain, i: usize, j: usize) Lanes {
        const z = terrain.z;
        const north, const south = .{ i -| 1, @min(i + 1, z.rows - 1) };
        const width: Lanes = @splat(2 * terrain.dx);
        const gx = (load(z.row(i), j + 1) - load(z.row(i), j - 1)) / width;
        if (north == south) return terrain.brightness(lanes, gx, @splat(0));
        const height: Lanes = @splat(toFloat(south - north) * terrain.dy);
        const gy = (load(z.row(north), j) - load(z.row(south), j)) / height;
        return terrain.brightness(lanes, gx, gy);
    }

    inline fn brightness(
        terrain: Terrain,
        comptime n: usize,
        gx: @Vector(n, f64),
        gy: @Vector(n, f64),
    ) @Vector(n, f64) {
        const Floats = @Vector(n, f64);
        const east: Floats, const north: Floats, const up: Floats =
            .{ @splat(terrain.light[0]), @splat(terrain.light[1]), @splat(terrain.light[2]) };
        const one: Floats = @splat(1);
        const dark: Floats = @splat(0);
        const value = (-gx * east - gy * north + up) / @sqrt(gx * gx + gy * gy + one);
        // Not @max, which would take 0 over NaN.
        return @select(f64, value < dark, dark, value);
    }
};

/// Rise over `steps` cells; none along an axis of length 1.
fn slope(high: f64, low: f64, steps: usize, spacing: f64) f64 {
    if (steps == 0) return 0;
    return (high - low) / (toFloat(steps) * spacing);
}

/// `smooth(z[m,n], passes, out[m,n])`: the 3 x 3 binomial filter, several times; edges are repeated.
pub fn smooth(z: Matrix(f64), passes: i64, out: MatrixMut(f64)) nif.Error!void {
    if (passes < 0) return nif.fail(.value, "passes", "expected 0 or more, got {d}", .{passes});
    if (z.rows == 0 or z.columns == 0) return;
    // By symmetry; this way rows are contiguous.
    if (!out.hasContiguousRows() and out.transposed().hasContiguousRows()) {
        return smooth(z.transposed(), passes, out.transposed());
    }
    const allocator = std.heap.c_allocator;
    const scratch = try allocator.alloc(f64, 4 * z.columns + 2);
    defer allocator.free(scratch);

    const row = scratch[0..z.columns];
    for (0..z.rows) |i| {
        z.loadRow(i, row);
        out.storeRow(i, row);
    }
    for (0..@intCast(passes)) |_| smoothOnce(out, scratch);
}

/// In place, from north to south: old rows are kept in `scratch` until both neighbours are done.
fn smoothOnce(out: MatrixMut(f64), scratch: []f64) void {
    const n = out.columns;
    var above, var here, var below = .{ scratch[0..n], scratch[n .. 2 * n], scratch[2 * n .. 3 * n] };
    // One more at both ends, for the repeated edges.
    const vertical = scratch[3 * n ..];
    out.loadRow(0, above);
    out.loadRow(0, here);
    for (0..out.rows) |i| {
        out.loadRow(@min(i + 1, out.rows - 1), below);
        for (vertical[1 .. n + 1], above, here, below) |*sum3, a, h, b| sum3.* = a + 2 * h + b;
        vertical[0] = vertical[1];
        vertical[n + 1] = vertical[n];
        const result = above;
        for (result, vertical[0..n], vertical[1 .. n + 1], vertical[2..]) |*value, west, center, east| {
            value.* = (west + 2 * center + east) / 16;
        }
        out.storeRow(i, result);
        above, here, below = .{ here, below, result };
    }
}

/// `histogram(x[n], bins, low, high, out[bins])`: counts in cells of equal width over [low, high], the last one
/// closed; NaN and what lies outside are ignored.
pub fn histogram(x: []const f64, bins: i64, low: f64, high: f64, out: []i64) nif.Error!void {
    if (bins < 1) return nif.fail(.value, "bins", "expected 1 or more, got {d}", .{bins});
    if (!math.isFinite(low)) return nif.fail(.value, "low", "expected a finite number", .{});
    const count = toFloat(bins);
    const scale = count / (high - low);
    if (!(scale > 0 and math.isFinite(scale))) {
        return nif.fail(.value, "high", "expected a finite number above low", .{});
    }
    @memset(out, 0);
    for (x) |value| {
        if (!(value >= low and value <= high)) continue;
        const place = (value - low) * scale;
        const cell: usize = if (place < count) @trunc(place) else out.len - 1;
        out[cell] += 1;
    }
}

/// `forward(weights[m,n], bias[m], x[n], activation, out[m])`: one layer of a network, f(weights x + bias).
/// activation: 0 identity, 1 relu, 2 tanh, 3 sigmoid, 4 softmax over the layer.
pub fn forward(weights: Matrix(f64), bias: []const f64, x: []const f64, activation: i64, out: []f64) nif.Error!void {
    if (activation < 0 or activation > 4) {
        return nif.fail(.value, "activation", "expected 0 to 4, got {d}", .{activation});
    }
    for (out, bias, 0..) |*value, offset, i| value.* = offset + rowTimes(weights, i, x);
    switch (activation) {
        1 => for (out) |*v| {
            if (v.* <= 0) v.* = 0;
        },
        2 => for (out) |*v| {
            v.* = math.tanh(v.*);
        },
        3 => for (out) |*v| {
            v.* = 1 / (1 + @exp(-v.*));
        },
        4 => softmax(out),
        else => {},
    }
}

/// The inner product of a row with a vector.
fn rowTimes(a: Matrix(f64), i: usize, x: []const f64) f64 {
    if (a.hasContiguousRows()) return dot(a.row(i)[0..x.len], x);
    var result: f64 = 0;
    for (x, 0..) |value, j| result += a.at(i, j) * value;
    return result;
}

/// Shifted by the largest value, so that no exponential overflows.
fn softmax(values: []f64) void {
    var largest = -math.inf(f64);
    for (values) |v| largest = @max(largest, v);
    var all: f64 = 0;
    for (values) |*v| {
        v.* = @exp(v.* - largest);
        all += v.*;
    }
    for (values) |*v| v.* /= all;
}

/// `mandelbrot(width, height, x_min, x_max, y_min, y_max, iterations, out[height,width])`: iterations before
/// |z| > 2, at the centres of the pixels; row 0 is y_max.
pub fn mandelbrot(
    width: i64,
    height: i64,
    x_min: f64,
    x_max: f64,
    y_min: f64,
    y_max: f64,
    iterations: i64,
    out: MatrixMut(i32),
) nif.Error!void {
    const limit = math.cast(u31, iterations) orelse
        return nif.fail(.value, "iterations", "expected 0 to 2147483647, got {d}", .{iterations});
    const steps: Lanes = std.simd.iota(f64, lanes);
    for (0..out.rows) |i| {
        if (nif.cancelled()) return error.Cancelled;
        const ci = y_max - (y_max - y_min) * (toFloat(i) + 0.5) / toFloat(height);
        var j: usize = 0;
        while (j < out.columns) : (j += lanes) {
            const columns = @as(Lanes, @splat(toFloat(j))) + steps;
            const across = @as(Lanes, @splat(x_max - x_min)) * (columns + @as(Lanes, @splat(0.5)));
            const cr = @as(Lanes, @splat(x_min)) + across / @as(Lanes, @splat(toFloat(width)));
            const counts: [lanes]i32 = escapeTimes(cr, @splat(ci), limit);
            for (counts[0..@min(lanes, out.columns - j)], j..) |value, column| out.set(i, column, value);
        }
    }
}

/// Lanes that escaped go on, uncounted, until all have.
fn escapeTimes(cr: Lanes, ci: Lanes, limit: u31) @Vector(lanes, i32) {
    const four: Lanes = @splat(4);
    const zero: Lanes = @splat(0);
    const one: Lanes = @splat(1);
    var zr, var zi = .{ zero, zero };
    // In floats, which count to 2^31 exactly and have the width of a comparison's mask.
    var counted = one;
    var counts = zero;
    for (0..limit) |_| {
        const rr, const ii = .{ zr * zr, zi * zi };
        counted = @select(f64, rr + ii > four, zero, counted);
        if (@reduce(.And, counted == zero)) break;
        counts += counted;
        zi = (zr + zr) * zi + ci;
        zr = (rr - ii) + cr;
    }
    return @trunc(counts);
}

fn toFloat(number: anytype) f64 {
    return @floatFromInt(number);
}

/// `checksum(x[...])`: XXH3-64 of the bytes in memory order.
pub fn checksum(x: nif.AnyArray) u64 {
    return xxh3.hash(x.bytes);
}

fn rowMajor(comptime T: type, elements: []T, rows: usize, columns: usize) MatrixMut(T) {
    return .{
        .data = elements.ptr,
        .rows = rows,
        .columns = columns,
        .row_stride = @intCast(columns),
        .column_stride = 1,
    };
}

test "sums of every length count each element once" {
    var ones: [70]f64 = @splat(1);
    for (0..ones.len + 1) |n| {
        try std.testing.expectEqual(toFloat(n), sum(ones[0..n]));
        try std.testing.expectEqual(toFloat(n), dot(ones[0..n], ones[0..n]));
    }
    axpy(2, ones[0..3], ones[4..7]);
    try std.testing.expectEqualSlices(f64, &.{ 1, 3, 3, 3, 1 }, ones[3..8]);
}

test "a product and its transpose" {
    var a = [_]f64{ 1, 2, 3, 4, 5, 6 };
    var b = [_]f64{ 1, 0, 2, 0, 1, 2 };
    var out: [4]f64 = @splat(math.nan(f64));
    const product = rowMajor(f64, &out, 2, 2);
    matmul(rowMajor(f64, &a, 2, 3).toConst(), rowMajor(f64, &b, 3, 2).toConst(), product);
    try std.testing.expectEqualSlices(f64, &.{ 8, 6, 20, 12 }, &out);
    var turned: [4]f64 = undefined;
    transpose(product.toConst(), rowMajor(f64, &turned, 2, 2));
    try std.testing.expectEqualSlices(f64, &.{ 8, 20, 6, 12 }, &turned);
}

test "a plain slope is as bright as its angle to the light" {
    var z: [5 * 20]f64 = undefined;
    for (&z, 0..) |*height, index| height.* = toFloat(index % 20);
    var out: [z.len]f64 = undefined;
    const field = rowMajor(f64, &z, 5, 20);
    try hillshade(field.toConst(), 1, 1, 270, 45, rowMajor(f64, &out, 5, 20));
    for (out) |brightness| try std.testing.expectApproxEqAbs(1, brightness, 1e-15);
    try std.testing.expectError(error.Failed, hillshade(field.toConst(), 0, 1, 0, 0, field));
}

test "smooth spreads one element to its neighbours" {
    var z = [_]f64{ 0, 0, 0, 0, 16, 0, 0, 0, 0 };
    var out: [9]f64 = undefined;
    try smooth(rowMajor(f64, &z, 3, 3).toConst(), 1, rowMajor(f64, &out, 3, 3));
    try std.testing.expectEqualSlices(f64, &.{ 1, 2, 1, 2, 4, 2, 1, 2, 1 }, &out);
}

test "the last cell of a histogram is closed" {
    var counts: [2]i64 = undefined;
    try histogram(&.{ -0.1, 0, 0.5, 1, 1.1, math.nan(f64) }, 2, 0, 1, &counts);
    try std.testing.expectEqualSlices(i64, &.{ 1, 2 }, &counts);
    try std.testing.expectError(error.Failed, histogram(&.{}, 2, 0, math.inf(f64), &counts));
}

test "mandelbrot counts up to the limit inside the set" {
    var counts: [3]i32 = undefined;
    try mandelbrot(3, 1, -0.75, 3.75, -1, 1, 50, rowMajor(i32, &counts, 1, 3));
    try std.testing.expectEqualSlices(i32, &.{ 50, 2, 1 }, &counts);
    try std.testing.expectError(error.Failed, mandelbrot(3, 1, 0, 1, 0, 1, -1, rowMajor(i32, &counts, 1, 3)));
}
