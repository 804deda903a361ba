//! Copying and XXH3-64 (seed 0) in one loop, for long runs of bytes.
//!
//! Each stripe is loaded once, stored and summed. A hasher that runs over what was just copied loads it again, and in the
//! caches that takes as long as the copy.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi64, _mm256_loadu_si256, _mm256_mul_epu32, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_shuffle_epi32, _mm256_slli_epi64, _mm256_srli_epi64, _mm256_xor_si256, _mm512_add_epi64, _mm512_loadu_si512,
    _mm512_mul_epu32, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shuffle_epi32, _mm512_slli_epi64,
    _mm512_srli_epi64, _mm512_xor_si512,
};
use std::array;
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

use twox_hash::XxHash3_64;
use twox_hash::xxhash3_64::{DEFAULT_SECRET_LENGTH, SecretBuffer};

use super::vectors::{self, LINE};

/// A stripe, as a little-endian machine loads it.
type Stripe = [u64; 8];

/// Bytes of a block.
pub const BLOCK: usize = STRIPES * LINE;
const STRIPES: usize = 16;
/// What a register of AVX2 holds.
#[cfg(target_arch = "x86_64")]
const HALF: usize = LINE / 2;

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

/// XXH3-64 of bytes, seed 0.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    if bytes.len() <= LONG {
        return XxHash3_64::oneshot(bytes);
    }
    let mut sums = Sums::new();
    // SAFETY: there are as many blocks, and nothing is written.
    unsafe { sums.add_blocks(To::Nowhere, ptr::null_mut(), bytes.as_ptr(), (bytes.len() - 1) / BLOCK) };
    sums.finish(bytes)
}

/// What a block becomes, besides a part of the sums.
#[derive(Clone, Copy)]
pub enum To {
    /// Nothing: it is where it should be.
    Nowhere,
    /// A copy.
    Copy,
    /// A copy past the caches, at a multiple of `VECTOR`.
    Stream,
}

/// The sums of whole blocks of an input.
pub struct Sums {
    sums: Stripe,
    secret: Secret,
}

impl Sums {
    pub fn new() -> Self {
        let sums = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1];
        Self { sums, secret: secret(0) }
    }

    /// Adds the next blocks, and copies them.
    ///
    /// # Safety
    ///
    /// As for `ptr::copy_nonoverlapping`, of so many blocks; `Nowhere` writes nothing, so `to` may be null.
    pub unsafe fn add_blocks(&mut self, how: To, to: *mut u8, from: *const u8, blocks: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match how {
                To::Nowhere => add_blocks::<0>(to, from, blocks, &self.secret, &mut self.sums),
                To::Copy => add_blocks::<1>(to, from, blocks, &self.secret, &mut self.sums),
                To::Stream => {
                    add_blocks::<2>(to, from, blocks, &self.secret, &mut self.sums);
                    vectors::fence();
                }
            }
        }
    }

    /// The checksum of bytes of which all blocks were added but the last, whole or not.
    pub fn finish(mut self, bytes: &[u8]) -> u64 {
        let rest = &bytes[(bytes.len() - 1) / BLOCK * BLOCK..];
        // The last stripe is summed in another way even if it is whole.
        for stripe in 0..(rest.len() - 1) / LINE {
            add(&mut self.sums, &rest[stripe * LINE..], &self.secret[stripe..]);
        }
        add(&mut self.sums, &bytes[bytes.len() - LINE..], &secret::<8>(121));
        merge(&self.sums, &secret(11), bytes.len())
    }
}

/// The block, once for each stripe. A loop would cost more than its body: the processor guesses its end wrong, block after block.
macro_rules! each_stripe {
    ($stripe:ident, $body:block) => {
        each_stripe!($stripe, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($stripe:ident, $body:block, $($number:literal)*) => {
        $({
            let $stripe: usize = $number;
            $body
        })*
    };
}

/// # Safety
///
/// As [`Sums::add_blocks`].
unsafe fn add_blocks<const TO: u8>(to: *mut u8, from: *const u8, blocks: usize, secret: &Secret, sums: &mut Stripe) {
    // SAFETY: passed on.
    unsafe {
        // Past the caches memory is the bound, and half a line at a time is stored.
        #[cfg(target_arch = "x86_64")]
        if TO != 2 && is_x86_feature_detected!("avx512f") {
            return add_blocks_avx512::<TO>(to, from, blocks, secret, sums);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return add_blocks_avx2::<TO>(to, from, blocks, secret, sums);
        }
        add_blocks_anywhere::<TO>(to, from, blocks, secret, sums);
    }
}

/// The same in AVX2's own words: what the compiler makes of the other one takes half as long again.
///
/// # Safety
///
/// As [`Sums::add_blocks`], on a machine with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn add_blocks_avx2<const TO: u8>(
    to: *mut u8,
    from: *const u8,
    blocks: usize,
    secret: &Secret,
    sums: &mut Stripe,
) {
    // SAFETY: the caller's promise; a secret has 24 words, of which the last stripe takes those from the 15th on.
    unsafe {
        let key = |word: usize| _mm256_loadu_si256(secret.as_ptr().add(word).cast());
        let sums: *mut [__m256i; 2] = ptr::from_mut(sums).cast();
        let mut products = sums.read_unaligned();
        let prime = _mm256_set1_epi64x(PRIME32_1.cast_signed());
        for block in 0..blocks {
            let mut neighbours = [_mm256_setzero_si256(); 2];
            each_stripe!(stripe, {
                let offset = block * BLOCK + stripe * LINE;
                if TO == 2 {
                    vectors::prefetch(from.wrapping_add(vectors::ahead(offset)));
                }
                for half in 0..2 {
                    let data = from.add(offset + half * HALF).cast::<__m256i>().read_unaligned();
                    match TO {
                        0 => {}
                        1 => to.add(offset + half * HALF).cast::<__m256i>().write_unaligned(data),
                        _ => vectors::store(to.add(offset + half * HALF).cast(), data),
                    }
                    let keyed = _mm256_xor_si256(data, key(stripe + 4 * half));
                    let product = _mm256_mul_epu32(keyed, _mm256_srli_epi64::<32>(keyed));
                    products[half] = _mm256_add_epi64(products[half], product);
                    neighbours[half] = _mm256_add_epi64(neighbours[half], data);
                }
            });
            for half in 0..2 {
                let sum = _mm256_add_epi64(products[half], _mm256_shuffle_epi32::<0x4E>(neighbours[half]));
                let mixed = _mm256_xor_si256(sum, _mm256_srli_epi64::<47>(sum));
                let mixed = _mm256_xor_si256(mixed, key(STRIPES + 4 * half));
                let high = _mm256_mul_epu32(_mm256_srli_epi64::<32>(mixed), prime);
                products[half] = _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64::<32>(high));
            }
        }
        sums.write_unaligned(products);
    }
}

/// The same with a stripe in one register.
///
/// # Safety
///
/// As [`Sums::add_blocks`], on a machine with AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn add_blocks_avx512<const TO: u8>(
    to: *mut u8,
    from: *const u8,
    blocks: usize,
    secret: &Secret,
    sums: &mut Stripe,
) {
    // SAFETY: as in `add_blocks_avx2`.
    unsafe {
        let key = |word: usize| _mm512_loadu_si512(secret.as_ptr().add(word).cast());
        let sums: *mut __m512i = ptr::from_mut(sums).cast();
        let mut products = sums.read_unaligned();
        let prime = _mm512_set1_epi64(PRIME32_1.cast_signed());
        for block in 0..blocks {
            let mut neighbours = _mm512_setzero_si512();
            each_stripe!(stripe, {
                let offset = block * BLOCK + stripe * LINE;
                let data = from.add(offset).cast::<__m512i>().read_unaligned();
                if TO == 1 {
                    to.add(offset).cast::<__m512i>().write_unaligned(data);
                }
                let keyed = _mm512_xor_si512(data, key(stripe));
                products = _mm512_add_epi64(products, _mm512_mul_epu32(keyed, _mm512_srli_epi64::<32>(keyed)));
                neighbours = _mm512_add_epi64(neighbours, data);
            });
            let sum = _mm512_add_epi64(products, _mm512_shuffle_epi32::<0x4E>(neighbours));
            let mixed = _mm512_xor_si512(sum, _mm512_srli_epi64::<47>(sum));
            let mixed = _mm512_xor_si512(mixed, key(STRIPES));
            let high = _mm512_mul_epu32(_mm512_srli_epi64::<32>(mixed), prime);
            products = _mm512_add_epi64(_mm512_mul_epu32(mixed, prime), _mm512_slli_epi64::<32>(high));
        }
        sums.write_unaligned(products);
    }
}

/// # Safety
///
/// As [`Sums::add_blocks`].
unsafe fn add_blocks_anywhere<const TO: u8>(
    to: *mut u8,
    from: *const u8,
    blocks: usize,
    secret: &Secret,
    sums: &mut Stripe,
) {
    for block in 0..blocks {
        // XXH3 adds to each sum the data of its neighbour. That can wait until the end of the block.
        let (mut products, mut neighbours) = (*sums, [0_u64; 8]);
        each_stripe!(stripe, {
            let offset = block * BLOCK + stripe * LINE;
            // SAFETY: the caller's promise.
            let data = unsafe {
                let data = from.add(offset).cast::<Stripe>().read_unaligned();
                match TO {
                    0 => {}
                    1 => to.add(offset).cast::<Stripe>().write_unaligned(data),
                    _ => {
                        vectors::prefetch(from.wrapping_add(vectors::ahead(offset)));
                        vectors::store(to.add(offset).cast(), data);
                    }
                }
                data
            };
            for lane in 0..8 {
                products[lane] = products[lane].wrapping_add(product(data[lane] ^ secret[stripe + lane]));
                neighbours[lane] = neighbours[lane].wrapping_add(data[lane]);
            }
            // Otherwise the compiler makes vectors of several stripes, and shuffles more than it sums.
            compiler_fence(Ordering::SeqCst);
        });
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
fn add(sums: &mut Stripe, data: &[u8], secret: &[u64]) {
    let (data, _) = data.as_chunks::<8>();
    let data: Stripe = array::from_fn(|lane| u64::from_le_bytes(data[lane]));
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

#[cfg(test)]
#[test]
fn sums_are_the_same_on_every_machine() {
    let from: Vec<u8> = (0_u32..4096).map(|it| it.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let secret: Secret = secret(0);
    let summed = |add_blocks: unsafe fn(*mut u8, *const u8, usize, &Secret, &mut Stripe)| {
        let (mut to, mut sums) = (vec![0_u8; 4096], Sums::new().sums);
        // SAFETY: both have four blocks, and the machine has what the function wants.
        unsafe { add_blocks(to.as_mut_ptr(), from.as_ptr(), 4, &secret, &mut sums) };
        assert_eq!(to, from);
        sums
    };
    let right = summed(add_blocks_anywhere::<1>);
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            assert_eq!(summed(|a, b, c, d, e| unsafe { add_blocks_avx2::<1>(a, b, c, d, e) }), right);
        }
        if is_x86_feature_detected!("avx512f") {
            assert_eq!(summed(|a, b, c, d, e| unsafe { add_blocks_avx512::<1>(a, b, c, d, e) }), right);
        }
    }
}
