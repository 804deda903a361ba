## XXH3-64 with seed 0 and the default secret, after the published description of the algorithm.
##
## Inputs over 240 bytes run through eight 64-bit lanes that don't depend on each other: two vectors of four, in AVX2's
## registers where the machine has it. `Summed` copies bytes and sums them in the same loop.

import std/macros
import simd

{.push raises: [], gcsafe.}

# The numbers here wrap by definition (unsigned), and every index is derived from the length.
{.push checks: off.}

static:
  doAssert cpuEndian == littleEndian, "the reads below are little-endian"

const
  secret: array[192, byte] = [
    0xb8'u8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
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
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e]
  prime32a = 0x9E3779B1'u64
  prime32b = 0x85EBCA77'u64
  prime32c = 0xC2B2AE3D'u64
  prime64a = 0x9E3779B185EBCA87'u64
  prime64b = 0xC2B2AE3D27D4EB4F'u64
  prime64c = 0x165667B19E3779F9'u64
  prime64d = 0x85EBCA77C2B2AE63'u64
  prime64e = 0x27D4EB2F165667C5'u64
  stripeSize = 64           ## bytes: one number for each lane
  blockSize = 1024          ## bytes: 16 stripes, each with the secret 8 bytes further on
  shortMax = 240            ## bytes; longer inputs are summed by stripes
  streamedMin = 16 shl 20   ## bytes; a copy of so many wouldn't stay in the caches, and is written past them
  ahead = 4096              ## bytes from what is read to what is asked for

type
  Memory = ptr UncheckedArray[byte]
  Lanes = array[8, uint64]

# --- reading and mixing ------------------------------------------------------------------------------------

func read64(p: Memory; at: int): uint64 {.inline.} =
  copyMem(addr result, addr p[at], 8)

func read32(p: Memory; at: int): uint64 {.inline.} =
  var x: uint32
  copyMem(addr x, addr p[at], 4)
  uint64(x)

func secret64(at: int): uint64 {.inline.} =
  read64(cast[Memory](unsafeAddr secret), at)

func rotated(x: uint64; bits: int): uint64 {.inline.} =
  (x shl bits) or (x shr (64 - bits))

func byteSwapped(x: uint64): uint64 =
  for i in 0 ..< 8:
    result = (result shl 8) or ((x shr (8 * i)) and 0xFF)

# Nim has no 128-bit integer; the C compiler below it has.
{.emit: """
static inline NU64 nif_xxh3_folded(NU64 a, NU64 b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (NU64)product ^ (NU64)(product >> 64);
}""".}

func folded(a, b: uint64): uint64 {.importc: "nif_xxh3_folded", nodecl.}
  ## The two halves of the 128-bit product, xor-ed.

func avalanche(x: uint64): uint64 =
  result = (x xor (x shr 37)) * 0x165667919E3779F9'u64
  result = result xor (result shr 32)

func avalanche64(x: uint64): uint64 =
  ## XXH64's, for the shortest inputs.
  result = (x xor (x shr 33)) * prime64b
  result = (result xor (result shr 29)) * prime64c
  result = result xor (result shr 32)

func mixed16(p: Memory; at, secretAt: int): uint64 {.inline.} =
  folded(read64(p, at) xor secret64(secretAt), read64(p, at + 8) xor secret64(secretAt + 8))

# --- up to 240 bytes ---------------------------------------------------------------------------------------

func hashTo16(p: Memory; n: int): uint64 =
  let size = uint64(n)
  if n > 8:
    let low = read64(p, 0) xor (secret64(24) xor secret64(32))
    let high = read64(p, n - 8) xor (secret64(40) xor secret64(48))
    return avalanche(size + byteSwapped(low) + high + folded(low, high))
  if n >= 4:
    let word = read32(p, n - 4) + (read32(p, 0) shl 32)
    var x = word xor (secret64(8) xor secret64(16))
    x = (x xor rotated(x, 49) xor rotated(x, 24)) * 0x9FB21C651E98DF25'u64
    x = (x xor ((x shr 35) + size)) * 0x9FB21C651E98DF25'u64
    return x xor (x shr 28)
  if n > 0:
    let word = (uint64(p[0]) shl 16) or (uint64(p[n shr 1]) shl 24) or uint64(p[n - 1]) or (size shl 8)
    let flip = (secret64(0) and 0xFFFF_FFFF'u64) xor (secret64(4) and 0xFFFF_FFFF'u64)
    return avalanche64(word xor flip)
  avalanche64(secret64(56) xor secret64(64))

func hashTo128(p: Memory; n: int): uint64 =
  ## 16 bytes from each end, towards the middle.
  result = uint64(n) * prime64a
  for i in countdown((n - 1) div 32, 0):
    result += mixed16(p, 16 * i, 32 * i) + mixed16(p, n - 16 * (i + 1), 32 * i + 16)
  result = avalanche(result)

func hashTo240(p: Memory; n: int): uint64 =
  result = uint64(n) * prime64a
  for i in 0 ..< 8:
    result += mixed16(p, 16 * i, 16 * i)
  result = avalanche(result)
  for i in 8 ..< n div 16:
    result += mixed16(p, 16 * i, 16 * (i - 8) + 3)
  result = avalanche(result + mixed16(p, n - 16, 136 - 17))

# --- beyond ------------------------------------------------------------------------------------------------

type
  Four {.importc: "__attribute__((vector_size(32))) unsigned long long", nodecl.} = object
    ## Half of the lanes; see `Quad`.
  Way = enum
    ## What a block becomes, besides a part of the sums: nothing, a copy, a copy past the caches.
    Nowhere, Copy, Stream

const halfSize = stripeSize div 2 ## also what the target of a stream is aligned to

# gcc has no portable way past the caches; this is the one that every x86-64 has.
{.emit: """
typedef __attribute__((vector_size(32))) unsigned long long nif_xxh3_four;
#if defined(__clang__)
#define nif_xxh3_stream(target, four) __builtin_nontemporal_store(four, (nif_xxh3_four *)(target))
#elif defined(__x86_64__)
typedef __attribute__((vector_size(16))) long long nif_xxh3_two;
#define nif_xxh3_stream(target, four) do { nif_xxh3_two twos[2]; memcpy(twos, &(four), 32); \
  __builtin_ia32_movntdq((nif_xxh3_two *)(target), twos[0]); \
  __builtin_ia32_movntdq((nif_xxh3_two *)(target) + 1, twos[1]); } while (0)
#else
#define nif_xxh3_stream(target, four) (*(nif_xxh3_four *)(target) = (four))
#endif
""".}

macro unroll(name: untyped; count: static int; body: untyped) =
  ## The body, once for each number.
  result = newStmtList()
  for number in 0 ..< count:
    let copy = body.copyNimTree
    result.add quote do:
      block:
        const `name` = `number`
        `copy`

template fourAt(p: Memory; at: int): Four =
  var four {.noinit.}: Four
  copyMem(addr four, addr p[at], halfSize)
  four

template addHalf(way: static Way; products, others: Four; target, source: Memory; at, secretAt: int) =
  ## Half of a stripe.
  let data = fourAt(source, at)
  var key = fourAt(cast[Memory](unsafeAddr secret), secretAt)
  when way == Copy:
    copyMem(addr target[at], unsafeAddr data, halfSize)
  elif way == Stream:
    let place = addr target[at]
    {.emit: ["nif_xxh3_stream(", place, ", ", data, ");"].}
  {.emit: [key, " ^= ", data, ";"].}
  {.emit: [products, " += (", key, " & 0xFFFFFFFFull) * (", key, " >> 32);"].}
  {.emit: [others, " += ", data, ";"].}

template mix(sums, others: Four; secretAt: int) =
  ## After each block: every lane gets the data of its neighbour, and is scrambled.
  let data = cast[array[4, uint64]](others)
  let swapped = cast[Four]([data[1], data[0], data[3], data[2]])
  let key = fourAt(cast[Memory](unsafeAddr secret), secretAt)
  {.emit: [sums, " += ", swapped, ";"].}
  {.emit: [sums, " = (", sums, " ^ (", sums, " >> 47) ^ ", key, ") * ", prime32a, ";"].}

template addEach(way: static Way; lanes: ptr Lanes; target, source: Memory; blocks: int) =
  var low = fourAt(cast[Memory](lanes), 0)
  var high = fourAt(cast[Memory](lanes), halfSize)
  for start in countup(0, (blocks - 1) * blockSize, blockSize):
    # XXH3 adds to each lane the data of its neighbour. That can wait until the end of the block.
    var otherLow {.noinit.}, otherHigh {.noinit.}: Four
    {.emit: [otherLow, " = ", otherHigh, " = (nif_xxh3_four){0};"].}
    # A loop would cost more than its body: the processor guesses its end wrong, block after block.
    unroll(stripe, blockSize div stripeSize):
      let at = start + stripeSize * stripe
      when way == Stream:
        let next = addr source[at + ahead]
        {.emit: ["__builtin_prefetch(", next, ");"].}
      addHalf(way, low, otherLow, target, source, at, 8 * stripe)
      addHalf(way, high, otherHigh, target, source, at + halfSize, 8 * stripe + halfSize)
    mix(low, otherLow, 128)
    mix(high, otherHigh, 128 + halfSize)
  copyMem(lanes, addr low, halfSize)
  copyMem(addr lanes[4], addr high, halfSize)

func addWays(way: Way; lanes: ptr Lanes; target, source: Memory; blocks: int) {.wide.} =
  case way
  of Nowhere: addEach(Nowhere, lanes, target, source, blocks)
  of Copy: addEach(Copy, lanes, target, source, blocks)
  of Stream: addEach(Stream, lanes, target, source, blocks)

func addBlocks(lanes: var Lanes; way: Way; target, source: Memory; blocks: int) =
  ## Take in blocks, and copy them.
  if blocks > 0:
    addWays(way, addr lanes, target, source, blocks)
    if way == Stream:
      {.emit: "__sync_synchronize();".} # what went past the caches is there for every reader

func addStripe(lanes: var Lanes; p: Memory; at, secretAt: int) =
  for i in 0 ..< 8:
    let keyed = read64(p, at + 8 * i) xor secret64(secretAt + 8 * i)
    lanes[i] += read64(p, at + 8 * (i xor 1)) + (keyed and 0xFFFF_FFFF'u64) * (keyed shr 32)

const start: Lanes = [prime32c, prime64a, prime64b, prime64c, prime64d, prime32b, prime64e, prime32a]

func blocksOf(n: int): int =
  ## All but the last one, whole or not, which isn't scrambled.
  (n - 1) div blockSize

func finish(lanes: var Lanes; p: Memory; n: int): uint64 =
  ## The hash of bytes of which these blocks were taken in.
  let last = blocksOf(n) * blockSize
  for i in 0 ..< (n - 1 - last) div stripeSize:
    addStripe(lanes, p, last + stripeSize * i, 8 * i)
  addStripe(lanes, p, n - stripeSize, 121)
  result = uint64(n) * prime64a
  for i in 0 ..< 4:
    result += folded(lanes[2 * i] xor secret64(11 + 16 * i), lanes[2 * i + 1] xor secret64(19 + 16 * i))
  result = avalanche(result)

func hashLong(p: Memory; n: int): uint64 =
  var lanes = start
  lanes.addBlocks(Nowhere, p, p, blocksOf(n))
  lanes.finish(p, n)

func xxh3*(data: openArray[byte]): uint64 =
  ## The 64-bit XXH3 hash of `data`.
  let n = data.len
  let p = if n > 0: cast[Memory](unsafeAddr data[0]) else: nil
  if n <= 16: hashTo16(p, n)
  elif n <= 128: hashTo128(p, n)
  elif n <= shortMax: hashTo240(p, n)
  else: hashLong(p, n)

# --- while they are written --------------------------------------------------------------------------------

type Summed* = object
  ## Memory that is written from front to back, and its hash. Whole blocks of what is put in are copied and summed in one
  ## loop; what falls between blocks is summed from its copy, while that is in the cache.
  bytes: Memory
  size: int
  filled*: int        ## bytes so far
  blocks, added: int  ## to be summed on the way, none if nothing is summed or too little; how many of them are in the sums
  way: Way
  lanes: Lanes

func initSummed*(bytes: ptr UncheckedArray[byte]; size: int; isSummed: bool): Summed =
  result = Summed(bytes: bytes, size: size, way: Copy, lanes: start)
  if isSummed and size > shortMax:
    result.blocks = blocksOf(size)
  if size >= streamedMin and cast[uint](bytes) mod uint(halfSize) == 0:
    result.way = Stream

func room(target: var Summed; size: int): Memory =
  ## The next `size` bytes; there are as many as were measured.
  doAssert size >= 0 and size <= target.size - target.filled
  result = cast[Memory](addr target.bytes[target.filled])
  target.filled += size

func catchUp(target: var Summed; blocks: int) =
  ## Take in the blocks before that one, which are filled.
  let late = cast[Memory](addr target.bytes[target.added * blockSize])
  target.lanes.addBlocks(Nowhere, late, late, blocks - target.added)
  target.added = blocks

func put*(target: var Summed; source: openArray[byte]) =
  if source.len == 0:
    return
  let (start, data) = (target.filled, cast[Memory](unsafeAddr source[0]))
  let to = target.room(source.len)
  let first = (start + blockSize - 1) div blockSize
  let after = min(target.filled div blockSize, target.blocks)
  if first >= after:
    copyMem(to, data, source.len)
    return
  let (head, tail) = (first * blockSize - start, after * blockSize - start)
  copyMem(to, data, head)
  target.catchUp(first)
  target.lanes.addBlocks(target.way, cast[Memory](addr to[head]), cast[Memory](addr data[head]), after - first)
  target.added = after
  copyMem(addr to[tail], addr data[tail], source.len - tail)

func putZeros*(target: var Summed; count: int) =
  zeroMem(target.room(count), count)

func finish*(target: var Summed): uint64 =
  ## The hash of all bytes, which are filled.
  doAssert target.filled == target.size
  if target.size <= shortMax:
    return xxh3(target.bytes.toOpenArray(0, target.size - 1))
  target.catchUp(target.blocks)
  target.lanes.finish(target.bytes, target.size)
