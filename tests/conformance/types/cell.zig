pub const flags = .{
    .trues = .{ .pure = true },
    .trues_of = .{ .pure = true },
    .pick = .{ .pure = true },
    .opposite = .{ .idempotent = true },
    .ones = .{ .idempotent = true },
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

/// The number itself.
pub fn same_i8(x: i8) i8 {
    return x;
}

pub fn same_i16(x: i16) i16 {
    return x;
}

pub fn same_i32(x: i32) i32 {
    return x;
}

pub fn same_i64(x: i64) i64 {
    return x;
}

pub fn same_u8(x: u8) u8 {
    return x;
}

pub fn same_u16(x: u16) u16 {
    return x;
}

pub fn same_u32(x: u32) u32 {
    return x;
}

pub fn same_u64(x: u64) u64 {
    return x;
}

pub fn same_isize(x: isize) isize {
    return x;
}

pub fn same_usize(x: usize) usize {
    return x;
}

const c128 = std.math.Complex(f64);

pub fn same_c128(x: c128) c128 {
    return x;
}

pub fn same_c64(x: nif.Complex(f32)) nif.Complex(f32) {
    return x;
}

/// z by i, and the first of x.
pub fn turned(z: c128, x: []const c128) struct { c128, ?c128 } {
    return .{ z.mul(.init(0, 1)), if (x.len == 0) null else x[0] };
}

/// The sum of x and the text's bytes.
pub fn owned(x: []const f64, text: []const u8) f64 {
    var sum: f64 = @floatFromInt(text.len);
    for (x) |it| sum += it;
    return sum;
}

pub fn same_f32(x: f32) f32 {
    return x;
}

pub fn same_f64(x: f64) f64 {
    return x;
}

pub fn same_bool(x: bool) bool {
    return x;
}

/// `ones(count, out[count])`: a length may be any integer.
pub fn ones(count: usize, out: []f64) void {
    std.debug.assert(out.len == count);
    @memset(out, 1);
}

/// 0, 2, 4 and so on.
pub fn evens(allocator: std.mem.Allocator, count: u32) ![]f64 {
    const all = try allocator.alloc(f64, count);
    for (all, 0..) |*it, i| it.* = @floatFromInt(2 * i);
    return all;
}

/// Whether each number is odd.
pub fn odd(allocator: std.mem.Allocator, x: []const i64) ![]const bool {
    const all = try allocator.alloc(bool, x.len);
    for (all, x) |*it, number| it.* = @rem(number, 2) != 0;
    return all;
}

/// Rows of three: i, 10 i, 100 i.
pub fn powers(allocator: std.mem.Allocator, count: u8) ![][3]f32 {
    const all = try allocator.alloc([3]f32, count);
    for (all, 0..) |*row, index| {
        const i: f32 = @floatFromInt(index);
        row.* = .{ i, 10 * i, 100 * i };
    }
    return all;
}

/// Three numbers.
pub fn three() [3]i16 {
    return .{ -1, 0, 1 };
}

/// A text.
pub fn greet(allocator: std.mem.Allocator, name: []const u8) ![]const u8 {
    return std.mem.concat(allocator, u8, &.{ "hello, ", name });
}

/// The bytes 0, 1, 2 and so on.
pub fn octets(allocator: std.mem.Allocator, count: u8) !nif.Bytes {
    const all = try allocator.alloc(u8, count);
    for (all, 0..) |*it, i| it.* = @intCast(i);
    return .{ .data = all };
}

/// The smallest and the largest number.
pub fn extremes(x: []const f64) ?struct { f64, f64 } {
    return if (x.len == 0) null else .{ std.mem.min(f64, x), std.mem.max(f64, x) };
}

const Stats = struct { mean: f64, count: i64 };

/// Of the numbers.
pub fn stats(x: []const f64) Stats {
    var sum: f64 = 0;
    for (x) |it| sum += it;
    return .{ .mean = sum / @as(f64, @floatFromInt(x.len)), .count = @intCast(x.len) };
}

/// Values of several kinds.
pub fn mixed(allocator: std.mem.Allocator, text: []const u8, count: u32) !struct { []const u8, []f64, ?i32, bool } {
    const upper = try std.ascii.allocUpperString(allocator, text);
    return .{ upper, try evens(allocator, count), if (count > 0) -1 else null, count > 1 };
}

/// The first number.
pub fn first(x: []const f64) ?f64 {
    return if (x.len == 0) null else x[0];
}

/// A text, or none.
pub fn word(text: []const u8) ?[]const u8 {
    var words = std.mem.tokenizeScalar(u8, text, ' ');
    return words.next();
}

/// An integer of a text.
pub fn parsed(text: []const u8) !i32 {
    return std.fmt.parseInt(i32, text, 10);
}

/// The number at a place.
pub fn element(x: []const f64, at: usize) f64 {
    return x[at];
}

/// More memory than there is.
pub fn greedy(allocator: std.mem.Allocator) ![]f64 {
    return allocator.alloc(f64, 1 << 58);
}

/// An error in words.
pub fn refused(why: []const u8) !struct { f64, []const u8 } {
    return nif.fail(.@"error", null, "{s}", .{why});
}

/// A number, or 7.
pub fn or_seven(x: ?f64) f64 {
    return x orelse 7;
}

/// `agree(a[n], b[n], c[n])`: the length of the first that is there.
pub fn agree(a: ?[]const f64, b: ?[]const f64, c: []const f64) i64 {
    return @intCast((a orelse (b orelse c)).len);
}

/// How many rows, and a label.
pub fn described(allocator: std.mem.Allocator, m: ?nif.Matrix(f64), label: ?[]const u8) ![]const u8 {
    const rows: i64 = if (m) |it| @intCast(it.rows) else -1;
    return std.fmt.allocPrint(allocator, "{d} {s}", .{ rows, label orelse "-" });
}

/// The texts from the last to the first.
pub fn reversed(allocator: std.mem.Allocator, words: ?[]const []const u8) !?[]const []const u8 {
    const all = try allocator.dupe([]const u8, words orelse return null);
    std.mem.reverse([]const u8, all);
    return all;
}

/// The longest, and how many bytes each has.
pub fn lengths(allocator: std.mem.Allocator, words: []const []const u8) !struct { []const []const u8, []i64 } {
    var longest: []const u8 = "";
    const all = try allocator.alloc(i64, words.len);
    for (words, all) |word_, *it| {
        it.* = @intCast(word_.len);
        if (word_.len > longest.len) longest = word_;
    }
    return .{ try allocator.dupe([]const u8, &.{longest}), all };
}
