## Work on arrays of a device: docs/gpu.md says what each function means.

import nif, xxh3

{.push raises: [NifError], gcsafe.}

proc gpuFill*(to: uint64; value: float64) {.nif: {Idempotent}.} =
  ## `gpu_fill(to, value)`: set all elements of an array on a device.
  GpuArray.writing("to", to).fill(value)

proc gpuCopy*(source, target: uint64) {.nif: {Idempotent}.} =
  ## `gpu_copy(source, target)`: copy the elements of one array on a device to another of the same size.
  let origin = GpuArray.reading("source", source)
  GpuArray.writing("target", target).copyFrom(origin)

proc gpuChecksum*(x: uint64): uint64 {.nif: {Long, Pure}.} =
  ## `gpu_checksum(x)`: XXH3-64 of the bytes of an array on a device.
  let array = GpuArray.reading("x", x)
  let bytes = newScratch[byte](array.len)
  array.toHost(bytes.row)
  xxh3(toOpenArray(bytes.row, 0, array.len - 1))

proc gpuLaunch*(kernel: uint64; shape: openArray[uint32]; arguments: Bytes; places: openArray[uint32]) {.nif.} =
  ## `gpu_launch(kernel, shape[s], arguments, places[p])`: start a kernel with packed arguments.
  if shape.len != 7:
    fail(Value, "shape", "expected 7 numbers, got " & $shape.len)
  launch(kernel, shape, places, arguments.data, arguments.len)
