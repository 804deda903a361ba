//! Copying and XXH3-64 (seed 0) in one loop, for long runs of bytes.
//!
//! Each stripe is loaded once, stored and summed. A hasher that runs over what was just copied loads it again, and in the
//! caches that takes as long as the copy.

use std::array;
use std::hint::black_box;
use std::sync::atomic::{Ordering, compiler_fence};

use multiversion::multiversion;
use twox_hash::xxhash3_64::{DEFAULT_SECRET_LENGTH, SecretBuffer};

use super::vectors::{self, LINE};

/// A stripe, as a little-endian machine loads it.
type Stripe = [u64; 8];

/// Bytes of a block.
const BLOCK: usize = STRIPES * LINE;
const STRIPES: usize = 16;

/// Shorter inputs gain little, and the shortest are summed in other ways.
pub const LONG: usize = 4 * BLOCK;

const PRIME32_1: u64 = 0x9E37_79B1;
const PRIME32_2: u64 = 0x85EB_CA77;
const PRIME32_3: u64 = 0xC2B2_AE3D;
const PRIME64_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME64_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME64_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME64_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME64_5: u64 = 0x27D4_EB2F_1656_67C5;
const PRIME_MIX: u64 = 0x1656_6791_9E37_79F9;

/// XXH3's default secret. Each stripe of a block takes it from the next word on.
type Secret = [u64; DEFAULT_SECRET_LENGTH / 8];

/// Words of the secret from this byte on.
fn secret<const WORDS: usize>(byte: usize) -> [u64; WORDS] {
    let secret: &[u8; DEFAULT_SECRET_LENGTH] = SecretBuffer::default().into_secret();
    let (words, _) = secret[byte..].as_chunks();
    array::from_fn(|word| u64::from_le_bytes(words[word]))
}

/// Copies bytes, past the caches if they should `stream`, and returns their checksum.
///
/// # Safety
///
/// As for `ptr::copy_nonoverlapping`, of more than `LONG` bytes; for a stream `to` is a multiple of `VECTOR`.
pub unsafe fn copy(to: *mut u8, from: *const u8, size: usize, stream: bool) -> u64 {
    let whole: Secret = secret(0);
    let mut sums = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1];
    // The last stripe is summed in another way even if it is whole, and its block isn't scrambled.
    let blocks = (size - 1) / BLOCK;
    let rest = blocks * BLOCK;
    // SAFETY: the caller's promise.
    unsafe {
        let copy_blocks = if stream { copy_blocks::<true> } else { copy_blocks::<false> };
        copy_blocks(to, from, blocks, &whole, &mut sums);
        vectors::fence();
        to.add(rest).copy_from_nonoverlapping(from.add(rest), size - rest);
        for stripe in 0..(size - 1 - rest) / LINE {
            add(&mut sums, from.add(rest + stripe * LINE).cast::<Stripe>().read_unaligned(), &whole[stripe..]);
        }
        add(&mut sums, from.add(size - LINE).cast::<Stripe>().read_unaligned(), &secret::<8>(121));
    }
    merge(&sums, &secret(11), size)
}

/// # Safety
///
/// As [`copy`], for so many blocks.
#[multiversion(targets("x86_64+avx2"))]
unsafe fn copy_blocks<const STREAM: bool>(
    to: *mut u8,
    from: *const u8,
    blocks: usize,
    secret: &Secret,
    sums: &mut Stripe,
) {
    for block in 0..blocks {
        // XXH3 adds to each sum the data of its neighbour. That can wait until the end of the block.
        let (mut products, mut neighbours) = (*sums, [0_u64; 8]);
        for stripe in 0..STRIPES {
            let offset = block * BLOCK + stripe * LINE;
            // SAFETY: the caller's promise.
            let data = unsafe {
                let data = from.add(offset).cast::<Stripe>().read_unaligned();
                if STREAM {
                    vectors::prefetch(from.wrapping_add(vectors::ahead(offset)));
                    vectors::store(to.add(offset).cast(), data);
                } else {
                    to.add(offset).cast::<Stripe>().write_unaligned(data);
                }
                data
            };
            for lane in 0..8 {
                products[lane] = products[lane].wrapping_add(product(data[lane] ^ secret[stripe + lane]));
                neighbours[lane] = neighbours[lane].wrapping_add(data[lane]);
            }
            // Otherwise the compiler makes vectors of several stripes, and shuffles more than it sums.
            compiler_fence(Ordering::SeqCst);
        }
        // Otherwise the compiler changes them within the loop after all.
        let neighbours = black_box(neighbours);
        for lane in 0..8 {
            let sum = products[lane].wrapping_add(neighbours[lane ^ 1]);
            sums[lane] = (sum ^ sum >> 47 ^ secret[STRIPES + lane]).wrapping_mul(PRIME32_1);
        }
    }
}

/// The lower half times the upper one.
#[inline]
fn product(key: u64) -> u64 {
    (key & 0xFFFF_FFFF).wrapping_mul(key >> 32)
}

/// Adds one stripe.
fn add(sums: &mut Stripe, data: Stripe, secret: &[u64]) {
    for lane in 0..8 {
        sums[lane] = sums[lane].wrapping_add(product(data[lane] ^ secret[lane])).wrapping_add(data[lane ^ 1]);
    }
}

/// The checksum from the sums.
#[expect(clippy::cast_possible_truncation, reason = "the halves of a product are meant")]
fn merge(sums: &Stripe, secret: &Stripe, size: usize) -> u64 {
    let mut result = (size as u64).wrapping_mul(PRIME64_1);
    for lane in (0..8).step_by(2) {
        let product = u128::from(sums[lane] ^ secret[lane]) * u128::from(sums[lane + 1] ^ secret[lane + 1]);
        result = result.wrapping_add(product as u64 ^ (product >> 64) as u64);
    }
    result ^= result >> 37;
    result = result.wrapping_mul(PRIME_MIX);
    result ^ result >> 32
}
