import std/os

proc integrate*(f: Callback[proc (x: float): float]; a, b: float; n: int): float =
  ## The midpoint rule.
  let h = (b - a) / float(n)
  for i in 0 ..< n: result += h * f.call(a + (float(i) + 0.5) * h)

proc tally*(f: Callback[proc (i: int32; even: bool): int64]; n: int32): int64 =
  for i in 0'i32 ..< n: result += f.call(i, i mod 2 == 0)

proc each*(f: Callback[proc (i: uint8)]; n: uint8) =
  for i in 0'u8 ..< n: f.call(i)

proc small*(f: Callback[proc (): int8]): int64 = int64(f.call())

proc wide*(f: Callback[proc (a: uint64; b: float32): uint64]): uint64 = f.call(high(uint64), 0.1'f32)

proc holds*(f: Callback[proc (x: float): bool]; x: float): bool = f.call(x)

proc least*(f: Callback[proc (x: openArray[float]): float]; x: openArray[float]): float =
  ## The smallest value of f at x and at the first half of x.
  min(f.call(x), f.call(x.toOpenArray(0, x.len div 2 - 1)))

proc derivative*(f: Callback[proc (t: float; y: openArray[float]; dy: var openArray[float])]; t: float; y: openArray[float];
    `out`: var openArray[float]) =
  ## What f writes.
  f.call(t, y, `out`)

proc octets*(f: Callback[proc (x: seq[uint8]; y: uint8): int]): int = f.call(@[1'u8, 2, 255], 7)

proc tried*(f: Callback[proc (x: float): float]; x: float): float =
  ## Gets over what is raised.
  try: f.call(x)
  except NifError: -1.0

proc unwrapped*(f: Callback[proc (x: float): float]; x: float): float {.nif: {Long}.} = f.call(x)

proc steps*(n: int; seconds: float): int {.nif: {Long}.} =
  for i in 0 ..< n:
    progress(i + 1, n)
    sleep(int(seconds * 1000))
  n

proc says*(n: int): int =
  for i in 0 ..< n: echo "line ", i
  stdout.write "dots..."
  stderr.write "oh ", n
  n
