//! XXH3-64 with seed 0, of bytes that are there or being written.
//!
//! std's is right, but its loads of long inputs are compiled byte by byte (0.5 GB/s); this one reads at the speed of
//! memory. Short inputs are left to std.

const std = @import("std");
const builtin = @import("builtin");
const blocks = @import("blocks");

const Words = blocks.Words;
const block_size = blocks.block_size;
const stripe_size = blocks.stripe_size;
const prime32 = blocks.prime32;
const secret = blocks.secret;

const prime64 = [5]u64{
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
};

/// Longer inputs are summed by stripes.
const short_size = 240;

/// A copy of so many bytes wouldn't stay in the caches: it is written past them.
const streamed_size = 16 << 20;

pub fn hash(bytes: []const u8) u64 {
    const seed = 0;
    if (bytes.len <= short_size) return std.hash.XxHash3.hash(seed, bytes);
    var sums: Sums = .{};
    const count = (bytes.len - 1) / block_size;
    sums.add(.nowhere, undefined, bytes.ptr, count);
    return sums.finish(bytes);
}

/// Bytes that are written from front to back. Whole blocks of what is put in are copied and summed in one loop; what falls
/// between blocks is summed from its copy, while that is in the cache.
pub const Summed = struct {
    bytes: []u8,
    /// How many bytes are filled.
    filled: usize = 0,
    /// Blocks to be added on the way: all but the last one, whole or not. None if nothing is summed, or too little.
    blocks: usize,
    /// How many of them are in the sums.
    added: usize = 0,
    sums: Sums = .{},
    to: blocks.To,

    pub fn init(bytes: []u8, is_summed: bool) Summed {
        const is_long = is_summed and bytes.len > short_size;
        const is_stream = bytes.len >= streamed_size and @intFromPtr(bytes.ptr) % blocks.stream_size == 0;
        return .{
            .bytes = bytes,
            .blocks = if (is_long) (bytes.len - 1) / block_size else 0,
            .to = if (is_stream) .stream else .copy,
        };
    }

    pub fn put(self: *Summed, source: []const u8) void {
        const start = self.filled;
        const target = self.bytes[start..][0..source.len];
        self.filled += source.len;
        const first = (start + block_size - 1) / block_size;
        const after = @min(self.filled / block_size, self.blocks);
        if (first >= after) return copy(target, source);
        const head = first * block_size - start;
        const tail = after * block_size - start;
        copy(target[0..head], source[0..head]);
        self.catchUp(first);
        self.sums.add(self.to, target[head..tail].ptr, source[head..tail].ptr, after - first);
        self.added = after;
        copy(target[tail..], source[tail..]);
    }

    pub fn putZeros(self: *Summed, count: usize) void {
        @memset(self.bytes[self.filled..][0..count], 0);
        self.filled += count;
    }

    /// The hash of all bytes, which are filled.
    pub fn finish(self: *Summed) u64 {
        std.debug.assert(self.filled == self.bytes.len);
        if (self.bytes.len <= short_size) return hash(self.bytes);
        self.catchUp(self.blocks);
        return self.sums.finish(self.bytes);
    }

    /// Add the blocks before that one, which are filled.
    fn catchUp(self: *Summed, block: usize) void {
        self.sums.add(.nowhere, undefined, self.bytes[self.added * block_size ..].ptr, block - self.added);
        self.added = block;
    }
};

/// The C library's copy, under a name that the compiler leaves alone: its own `@memcpy` takes a tenth longer.
extern "c" fn __mempcpy(target: [*]u8, source: [*]const u8, length: usize) [*]u8;

fn copy(target: []u8, source: []const u8) void {
    _ = __mempcpy(target.ptr, source.ptr, source.len);
}

/// The sums of whole blocks.
const Sums = struct {
    words: Words = .{
        prime32[2], prime64[0], prime64[1], prime64[2], prime64[3], prime32[1], prime64[4], prime32[0],
    },

    fn add(sums: *Sums, to: blocks.To, target: [*]u8, source: [*]const u8, count: usize) void {
        if (count == 0) return;
        if (isWide()) return blocks.addWide(to, &sums.words, target, source, count);
        switch (to) {
            inline else => |how| blocks.add(how, &sums.words, target, source, count, blocks.streamQuarters),
        }
    }

    /// The hash of bytes of which all blocks were added but the last.
    fn finish(sums: *Sums, bytes: []const u8) u64 {
        const rest = bytes[(bytes.len - 1) / block_size * block_size ..];
        for (0..(rest.len - 1) / stripe_size) |stripe| sums.accumulate(rest[stripe * stripe_size ..], stripe * 8);
        // The last stripe is for itself: it ends where the input ends, wherever the one before it did.
        sums.accumulate(bytes[bytes.len - stripe_size ..], secret.len - stripe_size - 7);
        return sums.merge(bytes.len);
    }

    fn accumulate(sums: *Sums, bytes: []const u8, secret_at: usize) void {
        const data = blocks.load(bytes[0..stripe_size]);
        const keyed = data ^ blocks.load(secret[secret_at..][0..stripe_size]);
        const low_half: Words = @splat(0xFFFF_FFFF);
        sums.words +%= @shuffle(u64, data, undefined, [8]i32{ 1, 0, 3, 2, 5, 4, 7, 6 });
        sums.words +%= (keyed & low_half) *% (keyed >> @splat(32));
    }

    fn merge(sums: *const Sums, size: usize) u64 {
        const keyed: [8]u64 = sums.words ^ blocks.load(secret[11..][0..stripe_size]);
        var total = prime64[0] *% size;
        for (0..4) |pair| {
            const product = @as(u128, keyed[2 * pair]) * keyed[2 * pair + 1];
            total +%= @as(u64, @truncate(product)) ^ @as(u64, @truncate(product >> 64));
        }
        total = (total ^ (total >> 37)) *% 0x165667919E3779F9;
        return total ^ (total >> 32);
    }
};

const Machine = enum(u8) { unknown, plain, wide };

var machine: std.atomic.Value(Machine) = .init(.unknown);

/// Does the machine have AVX2? It is asked once: behind a hypervisor the question takes a microsecond.
fn isWide() bool {
    if (builtin.cpu.arch != .x86_64) return false;
    const known = machine.load(.monotonic);
    if (known != .unknown) return known == .wide;
    const found: Machine = if (hasAvx2()) .wide else .plain;
    machine.store(found, .monotonic);
    return found == .wide;
}

fn hasAvx2() bool {
    const osxsave = 1 << 27;
    if (cpuid(1).c & osxsave == 0) return false;
    // Then the system says which registers it saves.
    const saved = asm volatile ("xgetbv"
        : [_] "={eax}" (-> u32),
        : [_] "{ecx}" (@as(u32, 0)),
        : .{ .edx = true });
    return saved & 6 == 6 and cpuid(7).b >> 5 & 1 == 1;
}

fn cpuid(leaf: u32) struct { b: u32, c: u32 } {
    var b: u32 = undefined;
    var c: u32 = undefined;
    asm volatile ("cpuid"
        : [_] "={ebx}" (b),
          [_] "={ecx}" (c),
        : [_] "{eax}" (leaf),
          [_] "{ecx}" (@as(u32, 0)),
        : .{ .eax = true, .edx = true });
    return .{ .b = b, .c = c };
}

fn pattern(bytes: []u8) void {
    for (bytes, 0..) |*byte, index| byte.* = @truncate(index *% 2654435761 >> 7);
}

test "long inputs have std's hash" {
    var bytes: [4200]u8 = undefined;
    pattern(&bytes);
    for (0..bytes.len) |size| {
        try std.testing.expectEqual(std.hash.XxHash3.hash(0, bytes[0..size]), hash(bytes[0..size]));
    }
}

test "what is put in pieces has the hash of all of it" {
    var bytes: [9000]u8 = undefined;
    pattern(&bytes);
    var room: [9008]u8 align(64) = undefined;
    for ([_]usize{ 1, 63, 500, 1023, 1024, 1025, 2048, 3000, 8999, 9000 }) |piece| {
        for ([_]usize{ 0, 8 }) |shift| {
            for ([_]usize{ 100, 241, 1024, 1025, 2048, 5000, 9000 }) |size| {
                for ([_]blocks.To{ .copy, .stream }) |to| {
                    var out: Summed = .init(room[shift..][0..size], true);
                    out.to = if (shift == 0) to else .copy;
                    while (out.filled < size) out.put(bytes[out.filled..@min(out.filled + piece, size)]);
                    try std.testing.expectEqual(std.hash.XxHash3.hash(0, bytes[0..size]), out.finish());
                    try std.testing.expectEqualSlices(u8, bytes[0..size], room[shift..][0..size]);
                }
            }
        }
    }
}
