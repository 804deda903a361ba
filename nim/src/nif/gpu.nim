## Arrays on a device: a function gets the number of one, and works on it by what its host offers.

import ./abi, ./errors

{.push raises: [NifError], gcsafe.}

type GpuArray* = object
  ## An array on a device, for the running call.
  tensor: NifTensor
  gpu: ptr NifGpu

proc services(): ptr NifGpu =
  result = gpuServices()
  if result == nil:
    fail(Gpu, "needs a host that offers a GPU")

proc check(gpu: ptr NifGpu; argument: string; code: int32) =
  ## A code of the host's as an error: below 0 it is of the argument.
  if code < 0:
    fail(Value, argument, $gpu.message())
  elif code > 0:
    fail(Gpu, $gpu.message())

proc find(argument: string; number: uint64; isWritten: int32): GpuArray =
  result = GpuArray(gpu: services())
  check(result.gpu, argument, result.gpu.tensor(number, isWritten, addr result.tensor))

proc reading*(T: type GpuArray; argument: string; number: uint64): GpuArray =
  ## The array of a number, to be read. `argument` is the name of the parameter.
  find(argument, number, 0)

proc writing*(T: type GpuArray; argument: string; number: uint64): GpuArray =
  ## The array of a number, to be written to.
  find(argument, number, 1)

func len*(x: GpuArray): int {.raises: [].} =
  ## In bytes.
  result = x.tensor.dtype.elementSize
  for axis in 0 ..< int(x.tensor.ndim):
    result *= int(x.tensor.shape[axis])

proc fill*(x: GpuArray; value: float64) =
  ## Set all elements.
  check(x.gpu, "value", x.gpu.fill(unsafeAddr x.tensor, value))

proc copyFrom*(x, source: GpuArray) =
  ## Copy another array's bytes here.
  if x.len != source.len:
    fail(Value, "target", "expected " & $source.len & " bytes, got " & $x.len)
  check(x.gpu, "target", x.gpu.copy(unsafeAddr x.tensor, unsafeAddr source.tensor))

proc toHost*(x: GpuArray; bytes: pointer) =
  ## Copy the bytes to the host; it waits for the device. There are `len` of them.
  var length = [int64(x.len)]
  var here = NifTensor(data: bytes, device: NifDevice(typeId: cpuDevice, id: 0), ndim: 1, dtype: dtypeOf(uint8),
    shape: cast[ptr UncheckedArray[int64]](addr length[0]), strides: nil, byteOffset: 0)
  check(x.gpu, "x", x.gpu.copy(addr here, unsafeAddr x.tensor))

proc launch*(kernel: uint64; shape, places: openArray[uint32]; arguments: pointer; size: int) =
  ## Start a kernel: see nif_gpu.launch in nif_lab.h. `shape` has seven numbers.
  let gpu = services()
  let first = if places.len > 0: unsafeAddr places[0] else: nil
  check(gpu, "arguments",
    gpu.launch(kernel, unsafeAddr shape[0], arguments, uint64(size), first, uint64(places.len)))
