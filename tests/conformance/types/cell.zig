pub const flags = .{
    .trues = .{ .pure = true },
    .trues_of = .{ .pure = true },
    .pick = .{ .pure = true },
    .opposite = .{ .idempotent = true },
};

/// `trues(x[n])`: how many are true.
pub fn trues(x: []const nif.Bool) i64 {
    var count: i64 = 0;
    for (x) |it| count += @intFromBool(it.isTrue());
    return count;
}

/// `trues_of(x[m,n])`: how many are true.
pub fn trues_of(x: nif.Matrix(nif.Bool)) i64 {
    var count: i64 = 0;
    for (0..x.rows) |i| for (0..x.columns) |j| {
        if (x.at(i, j) != .false) count += 1;
    };
    return count;
}

/// `pick(x[n])`: the sum of what each chooses in a table of two.
pub fn pick(x: []const nif.Bool) i64 {
    const table = [_]i64{ 10, 20 };
    var sum: i64 = 0;
    for (x) |it| sum += table[@intFromBool(it.isTrue())];
    return sum;
}

/// `opposite(x[n], out[n])`: not x.
pub fn opposite(x: []const nif.Bool, out: []nif.Bool) void {
    for (x, out) |from, *to| to.* = .of(!from.isTrue());
}
