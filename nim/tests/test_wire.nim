## The codec on plain bytes. That it agrees with the reference on every frame is tested from Python.

import std/[random, sequtils, strutils, unittest]
import nif
import wire/[decoder, encoder, format]

const
  rust = 0
  zig = 1
  julia = 3
  network = "01404b0000000300" & "0400756e6974" & "0900302e77656967687473" & "0600302e62696173" &
    "0c00302e61637469766174696f6e" & "012001000000020000000000803f000080bf" & "0110010000000000003f" & "010300000000"
  seed = 7

proc bytes(hex: string): seq[byte] =
  for c in parseHexStr(hex):
    result.add byte(c)

proc decoded(frame: openArray[byte]; dialect = rust; version = 0; live: seq[int64] = @[]): seq[Node] =
  var handles = live
  var decoder {.noinit.}: Decoder
  decoder.run(frame, dialect, version, handles.toMatrix(live.len div 4, 4))
  decoder.rows[0 ..< decoder.count]

proc encoded(nodes: openArray[Node]; data: openArray[byte]; dialect = rust; version = 2; alignment = 8;
    checksum = false): seq[byte] =
  var table = newSeq[int64](nodes.len * columns)
  if nodes.len > 0:
    copyMem(addr table[0], unsafeAddr nodes[0], nodes.len * sizeof(Node))
  var encoder {.noinit.}: Encoder
  let (lead, size) = encoder.measure(table.toMatrix(nodes.len, columns), data, dialect, version, alignment, checksum)
  result = newSeqWith(size, 0xFF'u8) # a block isn't cleared
  encoder.write(data, cast[ptr UncheckedArray[byte]](addr result[0]))

template refused(text: string; call: untyped) =
  try:
    discard call
    checkpoint "accepted, instead of " & text
    fail()
  except NifError as e:
    check (e.kind, e.argument, e.msg) == (ErrorKind.Value, "", text)

func refusalOf(frame: openArray[byte]; dialect = rust): string =
  ## The code alone; empty: it is accepted.
  {.cast(noSideEffect).}:
    try:
      discard decoded(frame, dialect)
    except NifError as e:
      result = e.msg.split(':')[0]

proc noise(count: int): seq[byte] =
  for _ in 0 ..< count:
    result.add byte(rand(255))

suite "wire":
  test "a scalar, an array in four dialects and in version 2":
    let one = Node(marker: 1, dtype: 1, dataLength: 4, parent: -1)
    check encoded([one], bytes("0000c03f"), version = 1) == bytes("01010000c03f")
    check decoded(bytes("01010000c03f"))[0].dataOffset == 2
    let floats = bytes("0000803f0000004000004040")
    var three = Node(marker: 0x10, dtype: 1, ndim: 1, shape: [3'i64, 0, 0, 0], dataLength: 12, parent: -1)
    check encoded([three], floats, rust, 1) == bytes("011003000000") & floats
    check encoded([three], floats, zig, 1) == bytes("01100300000008") & floats & bytes("00000000")
    check encoded([three], floats, julia, 1) == bytes("01100300000000000000") & floats
    let frame = encoded([three], floats, checksum = true)
    check frame == bytes("894e49460210010100010000000000000300000000000000" & repeat("00", 24) &
      "0c0000000000000094b71366b51bdb4a") & floats
    three.dataOffset = 64
    check decoded(frame) == @[three]

  test "a record, and every beginning of it":
    let frame = bytes(network)
    let nodes = decoded(frame)
    check nodes.mapIt(it.marker) == @[0x40'i64, 0x20, 0x10, 3]
    check nodes.mapIt(it.parent) == @[-1'i64, 0, 0, 0]
    check (nodes[0].count, nodes[0].dataOffset, nodes[0].dataLength) == (3'i64, 10'i64, 4'i64)
    check nodes[1].shape == [1'i64, 2, 0, 0]
    check encoded(nodes, frame, version = 1) == frame
    for length in 0 ..< frame.len:
      check refusalOf(frame[0 ..< length]) == (if length < 6: "SHORT" else: "LENGTH")
    check refusalOf(frame & 0'u8) == "TRAILING"
    for dialect in 0 .. 3:
      for version in 1 .. 2:
        if dialect != julia or version == 2: # a column-major matrix has another order in its row
          let again = encoded(nodes, frame, dialect, version, 64)
          check decoded(again, dialect).mapIt(it.dataLength) == nodes.mapIt(it.dataLength)

  test "refusals say what and where":
    refused("VERSION: not a frame of the expected version"): decoded([], version = 3)
    refused("VALUE: a value that is not allowed here"): decoded([], dialect = 4)
    refused("SHORT: the frame ends within its header (byte 1)"): decoded([7'u8])
    refused("ALIGN: the alignment is not 1, 2, 4, 8, 16, 32 or 64 (byte 6)"): decoded(bytes("01100000000003"), zig)
    refused("PAD: padding is not zero (byte 12)"): decoded(bytes("01100100000008" & "00000000" & "00010000"), zig)
    refused("VALUE: a value that is not allowed here (byte 2)"): decoded(bytes("010502"))
    refused("UTF8: a name that is not UTF-8, or contains NUL (byte 10)"):
      decoded(bytes("0140060000000000" & "0200c080"))
    refused("OVERFLOW: the size is more than the format can express (byte 2)"):
      decoded(bytes("0121ffffff7fffffff7f"))
    let node = Node(marker: 1, dtype: 1, dataLength: 4, parent: -1)
    refused("SHORT: the frame ends within its header"): encoded([], [])
    refused("LENGTH: sizes and the bytes that are there do not agree (node 0)"): encoded([node], [1'u8, 2, 3])
    refused("TRAILING: bytes after the end (node 1)"): encoded([node, node], [1'u8, 2, 3, 4])

  test "handles":
    const buffer = "01300700000003000000000400000000000001000000"
    check decoded(bytes(buffer), live = @[7'i64, 3, 1024, 1]).len == 1
    refused("HANDLE: no such device block, or not as described (byte 2)"): decoded(bytes(buffer))
    for (row, code) in {@[7'i64, 4, 1024, 1]: "STALE", @[7'i64, 3, 1023, 1]: "HANDLE", @[7'i64, 3, 1024, 0]: "HANDLE",
        @[7'i64, 3, -1, 1]: "HANDLE"}:
      try:
        discard decoded(bytes(buffer), live = row & @[7'i64, 3, 1024, 1])
        fail()
      except NifError as e: # the first row of the slot counts
        check e.msg.startsWith(code)

  test "a texture's size doesn't wrap":
    let huge = bytes("01310800000001000000" & "ffffffffffffffffffffffff" & "0e00000000000000")
    refused("HANDLE: no such device block, or not as described (byte 2)"):
      decoded(huge, live = @[8'i64, 1, high(int64), 0])

  test "text is UTF-8 by Unicode's table":
    for good in ["", "a", "é", "€", "\u{10FFFF}", "\uD7FF"]:
      check isText(good.toOpenArrayByte(0, good.high))
    for bad in ["\0", "\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
        "\xC3", "\xE2\x82", "a\xFF"]:
      check not isText(bad.toOpenArrayByte(0, bad.high))

  test "names of groups":
    func named(index: int; name: string): bool =
      roleOf(0x40, index).isNamed(name.toOpenArrayByte(0, name.high))
    check named(0, "0.weights") and named(31, "10.bias") and named(509, "169.activation")
    for wrong in ["", "weights", ".weights", "00.weights", "1.weights", "x0.weights", "0-weights", "0.weight"]:
      check not named(0, wrong)
    check roleOf(0x42, 5).isNamed("anything".toOpenArrayByte(0, 7))
    check accepts(0x40, 0) and accepts(0x40, 6) and not accepts(0x40, 5) and accepts(0x42, 9) and not accepts(0x42, 1)

  test "zeros and ones are looked for in every place":
    for size in [1, 63, 64, 65, 200]:
      var data = newSeq[byte](size)
      check firstAbove(data, 0, size, 0) == -1
      for place in 0 ..< size:
        data[place] = 2
        check firstAbove(data, 0, size, 1) == place
        check firstAbove(data, place + 1, size, 1) == -1
        data[place] = 0

  test "whatever the bytes are, a table or a refusal comes back":
    checkpoint "seed " & $seed
    randomize(seed)
    let whole = bytes(network)
    let second = encoded(decoded(whole), whole)
    for round in 0 ..< 20_000:
      var frame = if round mod 2 == 0: whole else: second
      for _ in 0 .. rand(2):
        let place = rand(if rand(1) == 0: min(frame.high, 80) else: frame.high)
        frame[place] = byte(sample([0, 1, 2, 63, 64, 127, 128, 255]))
      for dialect in 0 .. 3:
        if refusalOf(frame, dialect) == "": # then it is within the frame, and can be written again
          let nodes = decoded(frame, dialect)
          for node in nodes:
            check node.dataOffset + node.dataLength <= frame.len
          check encoded(nodes, frame, dialect, 1 + round mod 2) == frame
    for length in 0 .. 300:
      discard refusalOf(bytes("894e494602") & noise(length))
      discard refusalOf(@[1'u8] & noise(length))
