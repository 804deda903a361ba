## Deliberate failures of the kinds that Nim reports.

import nif

{.push raises: [NifError], gcsafe.}

func errorValue*(message: string) {.nif: {Fault}.} =
  ## `error_value(message)`: fails with this message, as any function would.
  fail(Value, message)

func panic*(message: string) {.nif: {Fault}.} =
  ## `panic(message)`: raises a defect with this message.
  raise newException(Defect, message)

func outOfBounds*(index: int64): int64 {.nif: {Fault}.} =
  ## `out_of_bounds(index)`: element `index` of [0, 1, ..., 7].
  const elements = [0'i64, 1, 2, 3, 4, 5, 6, 7]
  elements[index]

func overflow*(x: int64): int64 {.nif: {Fault}.} =
  ## `overflow(x)`: x + 1, checked.
  x + 1

func divide*(x, y: int64): int64 {.nif: {Fault}.} =
  ## `divide(x, y)`: the truncated quotient, checked.
  x div y
