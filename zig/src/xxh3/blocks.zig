//! The loop of XXH3-64 over whole blocks, and a copy of them on the way.
//!
//! It is compiled twice: `add` for the machine of whoever inlines it, and `addWide` for AVX2, because this file is a module of its own
//! that is built for such machines (src/nif_lab/backends/zig.py, zig/build.zig).

const builtin = @import("builtin");

pub const stripe_size = 64;
pub const stripes_per_block = 16;
pub const block_size = stripe_size * stripes_per_block;

pub const Words = @Vector(8, u64);

/// What a block becomes, besides a part of the sums.
pub const To = enum { nowhere, copy, stream };

/// So many bytes are written past the caches at once; targets of a stream are aligned to it.
pub const stream_size = 32;

pub const prime32 = [3]u64{ 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D };

/// The algorithm's own secret.
pub const secret = [192]u8{
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

pub inline fn load(bytes: [*]const u8) Words {
    const words: *align(1) const [8]u64 = @ptrCast(bytes);
    return words.*;
}

/// Add blocks of the source to the sums, and copy them.
pub inline fn add(
    comptime to: To,
    sums: *Words,
    target: [*]u8,
    source: [*]const u8,
    count: usize,
    comptime storeStream: fn ([*]u8, Words) callconv(.@"inline") void,
) void {
    const low_half: Words = @splat(0xFFFF_FFFF);
    for (0..count) |block| {
        // XXH3 adds to each sum the data of its neighbour. That can wait until the end of the block.
        var products = sums.*;
        var neighbours: Words = @splat(0);
        inline for (0..stripes_per_block) |stripe| {
            const at = block * block_size + stripe * stripe_size;
            const data = load(source + at);
            switch (to) {
                .nowhere => {},
                .copy => @as(*align(1) [8]u64, @ptrCast(target + at)).* = data,
                .stream => {
                    // Four pages ahead: the next ones are on their way already.
                    @prefetch(source + at + 4096, .{});
                    storeStream(target + at, data);
                },
            }
            const keyed = data ^ load(secret[stripe * 8 ..].ptr);
            products +%= (keyed & low_half) *% (keyed >> @splat(32));
            neighbours +%= data;
        }
        const sum = products +% @shuffle(u64, neighbours, undefined, [8]i32{ 1, 0, 3, 2, 5, 4, 7, 6 });
        const mixed = sum ^ (sum >> @splat(47)) ^ load(secret[secret.len - stripe_size ..].ptr);
        sums.* = mixed *% @as(Words, @splat(prime32[0]));
    }
    if (to == .stream) fence();
}

/// `add` for machines with AVX2.
pub noinline fn addWide(to: To, sums: *Words, target: [*]u8, source: [*]const u8, count: usize) void {
    switch (to) {
        inline else => |comptime_to| add(comptime_to, sums, target, source, count, streamHalves),
    }
}

const can_stream = builtin.cpu.arch == .x86_64 and builtin.zig_backend == .stage2_llvm;

inline fn streamHalves(target: [*]u8, data: Words) void {
    if (!can_stream) return storePlain(target, data);
    inline for (0..2) |half| {
        const part: @Vector(4, u64) = @as([8]u64, data)[4 * half ..][0..4].*;
        asm volatile ("vmovntdq %[part], (%[target])"
            :
            : [part] "x" (part),
              [target] "r" (target + half * 32),
            : .{ .memory = true });
    }
}

/// Write past the caches, with what every x86-64 has.
pub inline fn streamQuarters(target: [*]u8, data: Words) void {
    if (!can_stream) return storePlain(target, data);
    inline for (0..4) |quarter| {
        const part: @Vector(2, u64) = @as([8]u64, data)[2 * quarter ..][0..2].*;
        asm volatile ("movntdq %[part], (%[target])"
            :
            : [part] "x" (part),
              [target] "r" (target + quarter * 16),
            : .{ .memory = true });
    }
}

inline fn storePlain(target: [*]u8, data: Words) void {
    @as(*align(1) [8]u64, @ptrCast(target)).* = data;
}

/// What was written past the caches is there for every reader.
inline fn fence() void {
    if (can_stream) asm volatile ("sfence" ::: .{ .memory = true });
}
