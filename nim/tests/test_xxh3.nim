## Known answers, one for each branch of the algorithm; the whole range of lengths is tested from Python.

import std/unittest
import xxh3

func pattern(n: int): seq[byte] =
  for i in 0 ..< n:
    result.add byte((i * 37 + 11) and 255)

suite "xxh3":
  test "known answers":
    const answers = {
      0: 0x2d06800538d394c2'u64,
      1: 0x4a4139caf4136257'u64,
      3: 0x505118c313121c0e'u64,
      4: 0x3f6889ef166b4ad1'u64,
      8: 0x93f1200f9be82671'u64,
      9: 0x05b2fd4d97edcdae'u64,
      16: 0x2e4359e2a04a5e32'u64,
      17: 0xf60c53684bbc489d'u64,
      32: 0x664864df0876efc6'u64,
      33: 0xaa998d6131d956aa'u64,
      64: 0x8e7464ffdf82c775'u64,
      65: 0x8e3ac0373892cc0a'u64,
      96: 0xdd8813a25295a5d5'u64,
      97: 0xca141081637fc064'u64,
      128: 0x5c6ab7b5b2360539'u64,
      129: 0x45fabbd183de7649'u64,
      240: 0xc0796428068cd12e'u64,
      241: 0x859dc8ab6dd85c7c'u64,
      1024: 0x7df7f049c0c1ad73'u64,
      1025: 0x29adcfcac5492652'u64,
      1088: 0xb166cf327feec952'u64,
      2048: 0xf8c1eaac9b715dda'u64,
      5000: 0x3be1ff1b0768cfb2'u64,
    }
    for (n, answer) in answers:
      checkpoint $n & " bytes"
      check xxh3(pattern(n)) == answer

  test "the address doesn't matter":
    let data = pattern(1500)
    for offset in 1 .. 8:
      let moved = newSeq[byte](offset) & data
      check xxh3(moved.toOpenArray(offset, moved.high)) == xxh3(data)

  test "what is put in pieces has the hash of all of it":
    for size in [100, 241, 1024, 1025, 2048, 5000, 9000]:
      let data = pattern(size)
      for piece in [1, 63, 500, 1023, 1024, 1025, 3000, 9000]:
        checkpoint $size & " bytes by " & $piece
        var copy = newSeq[byte](size)
        var target = initSummed(cast[ptr UncheckedArray[byte]](addr copy[0]), size, true)
        while target.filled < size:
          target.put(data.toOpenArray(target.filled, min(target.filled + piece, size) - 1))
        check target.finish() == xxh3(data)
        check copy == data

  test "a copy past the caches is as any other":
    let size = (16 shl 20) + 12345
    let data = pattern(size)
    var room = newSeq[byte](size + 64)
    for shift in [0, 8]:
      let at = int(64 - cast[uint](addr room[0]) mod 64) mod 64 + shift
      var target = initSummed(cast[ptr UncheckedArray[byte]](addr room[at]), size, true)
      target.put(data)
      check target.finish() == xxh3(data)
      let isCopied = room.toOpenArray(at, at + size - 1) == data
      check isCopied
