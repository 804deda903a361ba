/* XXH3-64 after the published description of the algorithm.
 *
 * Inputs over 240 bytes run through eight 64-bit lanes that don't depend on each other: one vector, which the compiler
 * cuts into those that the machine has. */
#include "xxh3.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the reads below are little-endian");

enum { STRIPE = 64, BLOCK = 1024 }; /* bytes: 16 stripes, each with the secret 8 bytes further on */

/* A number for each lane, at any address. */
typedef uint64_t stripe __attribute__((vector_size(STRIPE), aligned(1), may_alias));

#if defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_EACH_MACHINE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_MACHINE
#endif

#define PRIME32_1 UINT64_C(0x9E3779B1)
#define PRIME32_2 UINT64_C(0x85EBCA77)
#define PRIME32_3 UINT64_C(0xC2B2AE3D)
#define PRIME64_1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME64_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME64_3 UINT64_C(0x165667B19E3779F9)
#define PRIME64_4 UINT64_C(0x85EBCA77C2B2AE63)
#define PRIME64_5 UINT64_C(0x27D4EB2F165667C5)

static const uint8_t secret[192] = {
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

/* --- reading and mixing ----------------------------------------------------------------------------------------- */

static inline uint64_t read64(const uint8_t *p) {
  uint64_t number;
  memcpy(&number, p, sizeof number);
  return number;
}

static inline uint64_t read32(const uint8_t *p) {
  uint32_t number;
  memcpy(&number, p, sizeof number);
  return number;
}

static uint64_t rotated(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

/* The two halves of the 128-bit product, xor-ed. */
static uint64_t folded(uint64_t a, uint64_t b) {
  __extension__ unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t avalanche(uint64_t x) {
  x = (x ^ x >> 37) * UINT64_C(0x165667919E3779F9);
  return x ^ x >> 32;
}

/* XXH64's, for the shortest inputs. */
static uint64_t avalanche64(uint64_t x) {
  x = (x ^ x >> 33) * PRIME64_2;
  x = (x ^ x >> 29) * PRIME64_3;
  return x ^ x >> 32;
}

static uint64_t mixed16(const uint8_t *p, const uint8_t *key) {
  return folded(read64(p) ^ read64(key), read64(p + 8) ^ read64(key + 8));
}

/* --- up to 240 bytes -------------------------------------------------------------------------------------------- */

static uint64_t hash_to_16(const uint8_t *p, size_t n) {
  if (n > 8) {
    uint64_t low = read64(p) ^ read64(secret + 24) ^ read64(secret + 32);
    uint64_t high = read64(p + n - 8) ^ read64(secret + 40) ^ read64(secret + 48);
    return avalanche(n + __builtin_bswap64(low) + high + folded(low, high));
  }
  if (n >= 4) {
    uint64_t x = (read32(p + n - 4) + (read32(p) << 32)) ^ read64(secret + 8) ^ read64(secret + 16);
    x = (x ^ rotated(x, 49) ^ rotated(x, 24)) * UINT64_C(0x9FB21C651E98DF25);
    x = (x ^ ((x >> 35) + n)) * UINT64_C(0x9FB21C651E98DF25);
    return x ^ x >> 28;
  }
  if (n > 0) {
    uint64_t word = (uint64_t)p[0] << 16 | (uint64_t)p[n / 2] << 24 | p[n - 1] | n << 8;
    return avalanche64(word ^ read32(secret) ^ read32(secret + 4));
  }
  return avalanche64(read64(secret + 56) ^ read64(secret + 64));
}

/* 16 bytes from each end, towards the middle. */
static uint64_t hash_to_128(const uint8_t *p, size_t n) {
  uint64_t sum = n * PRIME64_1;
  for (size_t i = (n - 1) / 32 + 1; i-- > 0;) {
    sum += mixed16(p + 16 * i, secret + 32 * i) + mixed16(p + n - 16 * (i + 1), secret + 32 * i + 16);
  }
  return avalanche(sum);
}

static uint64_t hash_to_240(const uint8_t *p, size_t n) {
  uint64_t sum = n * PRIME64_1;
  for (size_t i = 0; i < 8; i++) {
    sum += mixed16(p + 16 * i, secret + 16 * i);
  }
  sum = avalanche(sum);
  for (size_t i = 8; i < n / 16; i++) {
    sum += mixed16(p + 16 * i, secret + 16 * (i - 8) + 3);
  }
  return avalanche(sum + mixed16(p + n - 16, secret + 136 - 17));
}

/* --- beyond ----------------------------------------------------------------------------------------------------- */

/* Take in one stripe. */
static inline void accumulate(stripe *lanes, const uint8_t *p, const uint8_t *key) {
  stripe data = *(const stripe *)p, keyed = data ^ *(const stripe *)key;
  *lanes += __builtin_shuffle(data, (stripe){1, 0, 3, 2, 5, 4, 7, 6}) + (keyed & UINT32_MAX) * (keyed >> 32);
}

FOR_EACH_MACHINE static uint64_t hash_long(const uint8_t *p, size_t n) {
  stripe lanes = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};
  const uint8_t *end = p + n, *last = p + (n - 1) / BLOCK * BLOCK; /* the last block may be shorter */
  for (; p < last; p += BLOCK) {
    for (int i = 0; i < BLOCK / STRIPE; i++) {
      accumulate(&lanes, p + STRIPE * i, secret + 8 * i);
    }
    lanes = (lanes ^ lanes >> 47 ^ *(const stripe *)(secret + 128)) * PRIME32_1;
  }
  for (int i = 0; i < (end - 1 - p) / STRIPE; i++) {
    accumulate(&lanes, p + STRIPE * i, secret + 8 * i);
  }
  accumulate(&lanes, end - STRIPE, secret + 121);
  uint64_t sum = n * PRIME64_1;
  for (int i = 0; i < 8; i += 2) {
    sum += folded(lanes[i] ^ read64(secret + 11 + 8 * i), lanes[i + 1] ^ read64(secret + 19 + 8 * i));
  }
  return avalanche(sum);
}

uint64_t xxh3_64(const void *data, size_t size) {
  return size <= 16    ? hash_to_16(data, size)
         : size <= 128 ? hash_to_128(data, size)
         : size <= 240 ? hash_to_240(data, size)
                       : hash_long(data, size);
}
