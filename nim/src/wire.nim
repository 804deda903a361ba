## Values in the host's memory: written here, or looked at in place.

import nif

{.push raises: [NifError], gcsafe.}

proc write*(x: AnyArray): Tensor {.nif.} =
  ## `write(x[...])`: a copy of x in a block from the host's allocator, same dtype and shape.
  result = newTensor(x.dtype, x.shape)
  if x.len > 0:
    copyMem(result.data, x.data, x.len)

func address*(x: AnyArray): uint64 {.nif: {Pure}.} =
  ## `address(x[...])`: where this language sees the data.
  cast[uint64](x.data)
