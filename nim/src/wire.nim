## Values in the host's memory: written here, looked at in place, or as frames of the wire protocol (docs/wire.md).

import nif
import wire/[decoder, encoder, format]

{.push raises: [NifError], gcsafe.}

proc write*(x: AnyArray): Tensor {.nif.} =
  ## `write(x[...])`: a copy of x in a block from the host's allocator, same dtype and shape.
  result = newTensor(x.dtype, x.shape)
  if x.len > 0:
    copyMem(result.data, x.data, x.len)

func address*(x: AnyArray): uint64 {.nif: {Pure}.} =
  ## `address(x[...])`: where this language sees the data.
  cast[uint64](x.data)

func checkColumns(matrix: Matrix[int64]; name: string; expected: int) =
  if matrix.cols != expected:
    fail(Value, name, "expected " & $expected & " columns, got " & $matrix.cols)

proc decode*(frame: AnyArray; dialect, version: int64; live: Matrix[int64]): Tensor {.nif: {Pure}.} =
  ## `decode(frame[...], dialect, version, live[h,w])`: the node table of a frame, checked completely; its offsets lead
  ## into the frame. live has the device handles that are accepted.
  checkColumns(live, "live", 4)
  var decoder {.noinit.}: Decoder
  decoder.run(frame.bytes, dialect, version, live)
  result = newTensor(dtypeOf(int64), [int64(decoder.count), columns])
  copyMem(result.data, addr decoder.rows, decoder.count * sizeof(Node))

proc encode*(nodes: Matrix[int64]; data: AnyArray; dialect, version, alignment: int64; checksum: bool): Tensor
    {.nif: {Pure}.} =
  ## `encode(nodes[m,w], data[...], dialect, version, alignment, checksum)`: the frame of a node table whose offsets
  ## lead into data, after as many zeros as put the payload at a multiple of 64 bytes.
  checkColumns(nodes, "nodes", columns)
  var encoder {.noinit.}: Encoder
  let (lead, size) = encoder.measure(nodes, data.bytes, dialect, version, alignment, checksum)
  result = newTensor(dtypeOf(uint8), [int64(lead + size)])
  zeroMem(result.data, lead)
  encoder.write(data.bytes, cast[ptr UncheckedArray[byte]](addr result.data[lead]))
