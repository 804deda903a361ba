//! XXH3-64 with seed 0.
//!
//! std's is right, but its loads of long inputs are compiled byte by byte (0.5 GB/s); this one reads at the speed of
//! memory. Short inputs are left to std.

const std = @import("std");

const stripe_size = 64;
const stripes_per_block = 16;
const block_size = stripe_size * stripes_per_block;

const Words = @Vector(8, u64);

const prime32 = [3]u64{ 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D };
const prime64 = [5]u64{
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
};

/// The algorithm's own secret.
const secret = [192]u8{
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

pub fn hash(bytes: []const u8) u64 {
    const seed = 0;
    return if (bytes.len <= 240) std.hash.XxHash3.hash(seed, bytes) else hashLong(bytes);
}

fn hashLong(bytes: []const u8) u64 {
    var sums: Words = .{
        prime32[2], prime64[0], prime64[1], prime64[2], prime64[3], prime32[1], prime64[4], prime32[0],
    };
    // The last stripe is for itself: it ends where the input ends, wherever the one before it did.
    var rest = bytes;
    while (rest.len > block_size) : (rest = rest[block_size..]) {
        inline for (0..stripes_per_block) |stripe| accumulate(&sums, rest, stripe * stripe_size, stripe * 8);
        scramble(&sums);
    }
    for (0..(rest.len - 1) / stripe_size) |stripe| accumulate(&sums, rest, stripe * stripe_size, stripe * 8);
    accumulate(&sums, bytes, bytes.len - stripe_size, secret.len - stripe_size - 7);
    return merge(sums, bytes.len);
}

inline fn load(bytes: []const u8, at: usize) Words {
    const words: *align(1) const [8]u64 = @ptrCast(bytes[at..][0..stripe_size]);
    return words.*;
}

inline fn accumulate(sums: *Words, bytes: []const u8, at: usize, secret_at: usize) void {
    const data = load(bytes, at);
    const keyed = data ^ load(&secret, secret_at);
    const low_half: Words = @splat(0xFFFF_FFFF);
    sums.* +%= @shuffle(u64, data, undefined, [8]i32{ 1, 0, 3, 2, 5, 4, 7, 6 });
    sums.* +%= (keyed & low_half) *% (keyed >> @splat(32));
}

inline fn scramble(sums: *Words) void {
    const mixed = sums.* ^ (sums.* >> @splat(47)) ^ load(&secret, secret.len - stripe_size);
    sums.* = mixed *% @as(Words, @splat(prime32[0]));
}

fn merge(sums: Words, size: usize) u64 {
    const keyed: [8]u64 = sums ^ load(&secret, 11);
    var total = prime64[0] *% size;
    for (0..4) |pair| {
        const product = @as(u128, keyed[2 * pair]) * keyed[2 * pair + 1];
        total +%= @as(u64, @truncate(product)) ^ @as(u64, @truncate(product >> 64));
    }
    total = (total ^ (total >> 37)) *% 0x165667919E3779F9;
    return total ^ (total >> 32);
}

test "long inputs have std's hash" {
    var bytes: [4200]u8 = undefined;
    for (&bytes, 0..) |*byte, index| byte.* = @truncate(index *% 2654435761 >> 7);
    for (0..bytes.len) |size| {
        try std.testing.expectEqual(std.hash.XxHash3.hash(0, bytes[0..size]), hash(bytes[0..size]));
    }
}
