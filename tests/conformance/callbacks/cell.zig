const Pair = fn (i32, bool) i64;

/// The midpoint rule.
pub fn integrate(f: nif.Callback(fn (x: f64) f64), a: f64, b: f64, n: i64) !f64 {
    const h = (b - a) / @as(f64, @floatFromInt(n));
    var total: f64 = 0;
    for (0..@intCast(n)) |i| total += h * try f.call(.{a + (@as(f64, @floatFromInt(i)) + 0.5) * h});
    return total;
}

pub fn tally(f: nif.Callback(Pair), n: i32) !i64 {
    var total: i64 = 0;
    var i: i32 = 0;
    while (i < n) : (i += 1) total += try f.call(.{ i, @mod(i, 2) == 0 });
    return total;
}

pub fn each(f: nif.Callback(fn (u8) void), n: u8) !void {
    for (0..n) |i| try f.call(.{@intCast(i)});
}

pub fn small(f: nif.Callback(fn () i8)) !i64 {
    return try f.call(.{});
}

pub fn wide(f: nif.Callback(fn (u64, f32) u64)) !u64 {
    return f.call(.{ std.math.maxInt(u64), 0.1 });
}

pub fn holds(f: nif.Callback(fn (f64) bool), x: f64) !bool {
    return f.call(.{x});
}

/// The smallest value of f at x and at the first half of x.
pub fn least(f: nif.Callback(fn ([]const f64) f64), x: []const f64) !f64 {
    return @min(try f.call(.{x}), try f.call(.{x[0 .. x.len / 2]}));
}

/// What f writes.
pub fn derivative(f: nif.Callback(fn (f64, []const f64, []f64) void), t: f64, y: []const f64, out: []f64) !void {
    return f.call(.{ t, y, out });
}

pub fn octets(f: nif.Callback(fn ([]const u8, u8) i64)) !i64 {
    return f.call(.{ &.{ 1, 2, 255 }, 7 });
}

/// Gets over what is raised.
pub fn tried(f: nif.Callback(fn (f64) f64), x: f64) f64 {
    return f.call(.{x}) catch -1;
}

pub const flags = .{ .unwrapped = .{ .long = true }, .steps = .{ .long = true } };

pub fn unwrapped(f: nif.Callback(fn (f64) f64), x: f64) !f64 {
    return f.call(.{x});
}

extern fn usleep(microseconds: c_uint) c_int;

pub fn steps(n: i64, seconds: f64) i64 {
    var i: i64 = 0;
    while (i < n) : (i += 1) {
        nif.progress(i + 1, n);
        _ = usleep(@intFromFloat(seconds * 1e6));
    }
    return n;
}

extern fn printf(format: [*:0]const u8, ...) c_int;

pub fn says(n: i64) i64 {
    var i: i64 = 0;
    while (i < n) : (i += 1) _ = printf("line %lld\n", i);
    _ = printf("dots...");
    std.debug.print("oh {d}", .{n});
    return n;
}
