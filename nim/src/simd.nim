## Four numbers at a time, for loops in which a C compiler left to itself doesn't find the vectors.
##
## Built from pairs, the vectors that every 64-bit processor has. gcc and clang share these types; results are those of
## four separate operations, rounding included.

{.push raises: [], gcsafe.}

type
  F64x2 {.importc: "__attribute__((vector_size(16))) double", nodecl.} = object
  I64x2 {.importc: "__attribute__((vector_size(16))) long long", nodecl.} = object
  F64x4* {.bycopy.} = object
    low, high: F64x2
  I64x4* {.bycopy.} = object
    low, high: I64x2

template vectorWithVector(operator: untyped; inC: string; Pair, PairT, X, T: typedesc) =
  func operator(left, right: Pair): PairT {.inline, noinit.} =
    {.emit: [result, " = ", left, inC, right, ";"].}
  func operator*(left, right: X): T {.inline.} =
    T(low: operator(left.low, right.low), high: operator(left.high, right.high))

template vectorWithNumber(operator: untyped; inC: string; PairT, T: typedesc) =
  func operator(left: F64x2; right: float64): PairT {.inline, noinit.} =
    {.emit: [result, " = ", left, inC, right, ";"].}
  func operator*(left: F64x4; right: float64): T {.inline.} =
    T(low: operator(left.low, right), high: operator(left.high, right))

vectorWithVector(`+`, " + ", F64x2, F64x2, F64x4, F64x4)
vectorWithVector(`-`, " - ", F64x2, F64x2, F64x4, F64x4)
vectorWithVector(`*`, " * ", F64x2, F64x2, F64x4, F64x4)
vectorWithVector(`/`, " / ", F64x2, F64x2, F64x4, F64x4)
vectorWithVector(`-`, " - ", I64x2, I64x2, I64x4, I64x4)
vectorWithVector(`or`, " | ", I64x2, I64x2, I64x4, I64x4)
vectorWithVector(andNot, " & ~", I64x2, I64x2, I64x4, I64x4)
vectorWithNumber(`+`, " + ", F64x2, F64x4)
vectorWithNumber(`*`, " * ", F64x2, F64x4)
vectorWithNumber(`/`, " / ", F64x2, F64x4)
vectorWithNumber(`<`, " < ", I64x2, I64x4) # in each lane -1 for true, 0 for false
vectorWithNumber(`>`, " > ", I64x2, I64x4)

func load*(source: ptr float64): F64x4 {.inline, noinit.} =
  ## The four numbers from here on, aligned or not.
  copyMem(addr result, source, sizeof(array[4, float64]))

func store*(target: ptr float64; x: F64x4) {.inline.} =
  copyMem(target, unsafeAddr x, sizeof(array[4, float64]))

func splat*(x: float64): F64x4 {.inline.} =
  ## The same number in every lane.
  F64x4() + x

func toArray*(x: F64x4): array[4, float64] {.inline.} = cast[array[4, float64]](x)

func toArray*(x: I64x4): array[4, int64] {.inline.} = cast[array[4, int64]](x)

func isZero*(x: I64x4): bool {.inline.} =
  ## Whether all lanes are 0.
  let either = cast[array[2, int64]](x.low or x.high)
  (either[0] or either[1]) == 0

func sqrt(x: F64x2): F64x2 {.inline, noinit.} =
  for lane in 0 .. 1:
    {.emit: [result, "[", lane, "] = __builtin_sqrt(", x, "[", lane, "]);"].}

func sqrt*(x: F64x4): F64x4 {.inline.} = F64x4(low: sqrt(x.low), high: sqrt(x.high))

func notNegative*(x: F64x4): F64x4 {.inline, noinit.} =
  ## 0 instead of what is less; NaN stays NaN.
  let bits = cast[I64x4](x).andNot(x < 0.0)
  cast[F64x4](bits)
