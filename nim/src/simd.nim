## Four numbers at a time, for loops in which a C compiler left to itself doesn't find the vectors; and `wide`, for
## sums over whole arrays.
##
## Built from pairs, the vectors that every 64-bit processor has. gcc and clang share these types; results are those of
## four separate operations, rounding included.

import std/macros

{.push raises: [], gcsafe.}

# --- wider vectors where the machine has them --------------------------------------------------------------

when defined(amd64):
  func machineHasAvx2(): bool =
    ## Asked of the processor itself: the C compiler's own way needs a library that `zig cc` doesn't bring.
    {.emit: ["""
    unsigned a = 1, b, c = 0, d, enabled = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (c >> 27 & 1) { /* then the system says which registers it saves */
      __asm__("xgetbv" : "=a"(enabled), "=d"(d) : "c"(0));
    }
    a = 7, c = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    """, result, " = (enabled & 6) == 6 && (b >> 5 & 1);"].}

  let hasAvx2 = machineHasAvx2()

  macro wide*(routine: untyped): untyped =
    ## Compile a function a second time for AVX2, and take that where the machine has it.
    let (vector, baseline) = (ident"vector", ident"baseline")
    result = routine.copyNimTree
    result.body = newStmtList()
    let call = newCall(baseline)
    for group in routine.params[1 .. ^1]:
      for name in group[0 ..< ^2]:
        call.add name
    let callVector = call.copyNimTree
    callVector[0] = vector
    for name in [vector, baseline]:
      let version = routine.copyNimTree
      version[0] = name
      version.pragma = newEmptyNode()
      if name == vector:
        version.addPragma(newColonExpr(ident"codegenDecl", newLit("static __attribute__((target(\"avx2\"))) $# $#$#")))
      result.body.add version
    result.body.add quote do:
      var hasVector: bool
      {.cast(noSideEffect).}:
        hasVector = hasAvx2 # never changes
      if hasVector: `callVector` else: `call`
else:
  macro wide*(routine: untyped): untyped = routine

type Quad* {.importc: "__attribute__((vector_size(32))) double", nodecl.} = object
  ## Four numbers: one register with AVX2, two without. Only the templates below touch them, since passing one to a
  ## function would depend on the machine.

template quadAt(source: ptr float64): Quad =
  ## The four numbers from here on, aligned or not.
  var quad {.noinit.}: Quad
  copyMem(addr quad, source, sizeof(array[4, float64]))
  quad

template addTerms*(sums: Quad; x: ptr float64) =
  ## Add the four numbers from here on.
  let terms = quadAt(x)
  {.emit: [sums, " += ", terms, ";"].}

template addProducts*(sums: Quad; x, y: ptr float64) =
  ## Add four products.
  let (left, right) = (quadAt(x), quadAt(y))
  {.emit: [sums, " += ", left, " * ", right, ";"].}

template total*(sums: array[4, Quad]): float64 =
  ## All of them, in a tree, so that few additions wait for each other.
  {.emit: [sums[0], " = (", sums[0], " + ", sums[1], ") + (", sums[2], " + ", sums[3], ");"].}
  let parts = cast[array[16, float64]](sums)
  (parts[0] + parts[2]) + (parts[1] + parts[3])

# --- four numbers ------------------------------------------------------------------------------------------

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
