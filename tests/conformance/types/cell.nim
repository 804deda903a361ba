import std/[complex, strutils]

func trues(x: openArray[Bool]): int {.nif: {Pure}.} =
  ## `trues(x[n])`: how many are true.
  for it in x:
    if it: inc result

func trues_of(x: Matrix[Bool]): int {.nif: {Pure}.} =
  ## `trues_of(x[m,n])`: how many are true.
  for i in 0 ..< x.rows:
    for j in 0 ..< x.cols:
      if x[i, j]: inc result

func pick(x: openArray[Bool]): int {.nif: {Pure}.} =
  ## `pick(x[n])`: the sum of what each chooses in a table of two.
  const table = [false: 10, true: 20]
  for it in x:
    result += table[it.toBool]

func opposite(x: openArray[Bool]; `out`: var openArray[Bool]) {.nif: {Idempotent}.} =
  ## `opposite(x[n], out[n])`: not x.
  for i, it in x:
    `out`[i] = not it

proc same_c128*(x: Complex64): Complex64 = x
proc same_c64*(x: Complex32): Complex32 = x

proc turned*(z: Complex64; x: openArray[Complex64]): (Complex64, Option[Complex64]) =
  ## z by i, and the first of x.
  (z * im(float64), if x.len > 0: some(x[0]) else: none(Complex64))

proc owned*(x: seq[float]; text: string): float =
  ## The sum of x and the text's bytes.
  for it in x & @[float(text.len)]: result += it

proc same_i8*(x: int8): int8 = x
proc same_i16*(x: int16): int16 = x
proc same_i32*(x: int32): int32 = x
proc same_i64*(x: int64): int64 = x
proc same_u8*(x: uint8): uint8 = x
proc same_u16*(x: uint16): uint16 = x
proc same_u32*(x: uint32): uint32 = x
proc same_u64*(x: uint64): uint64 = x
proc same_isize*(x: int): int = x
proc same_usize*(x: uint): uint = x
proc same_f32*(x: float32): float32 = x
proc same_f64*(x: float): float = x
proc same_bool*(x: bool): bool = x

func ones(count: uint; `out`: var openArray[float]) {.nif: {Idempotent}.} =
  ## `ones(count, out[count])`: a length may be any integer.
  doAssert uint(`out`.len) == count
  for it in `out`.mitems: it = 1

func evens*(count: uint32): seq[float] =
  ## 0, 2, 4 and so on.
  for i in 0 ..< int(count): result.add float(2 * i)

func odd*(x: openArray[int64]): seq[bool] =
  ## Whether each number is odd.
  for it in x: result.add it mod 2 != 0

func powers*(count: uint8): seq[array[3, float32]] =
  ## Rows of three: i, 10 i, 100 i.
  for i in 0 ..< int(count): result.add [float32(i), float32(10 * i), float32(100 * i)]

func three*(): array[3, int16] =
  ## Three numbers.
  [-1'i16, 0, 1]

func greet*(name: string): string =
  ## A text.
  "hello, " & name

func octets*(count: uint8): ByteSeq =
  ## The bytes 0, 1, 2 and so on.
  var all: seq[byte]
  for i in 0 ..< int(count): all.add byte(i)
  ByteSeq(all)

func extremes*(x: openArray[float]): Option[(float, float)] =
  ## The smallest and the largest number.
  if x.len > 0: some((min(x), max(x))) else: none((float, float))

func stats*(x: openArray[float]): tuple[mean: float, count: int] =
  ## Of the numbers.
  for it in x: result.mean += it / float(x.len)
  result.count = x.len

func mixed*(text: string; count: uint32): (string, seq[float], Option[int32], bool) =
  ## Values of several kinds.
  (text.toUpperAscii, evens(count), (if count > 0: some(-1'i32) else: none(int32)), count > 1)

func first*(x: openArray[float]): Option[float] =
  ## The first number.
  if x.len > 0: result = some(x[0])

func word*(text: string): Option[string] =
  ## A text, or none.
  for it in text.splitWhitespace: return some(it)

func parsed*(text: string): int32 =
  ## An integer of a text.
  int32(parseInt(text))

func element*(x: openArray[float]; at: int): float =
  ## The number at a place.
  x[at]

proc greedy*(): seq[float] =
  ## More memory than there is.
  raise newException(OutOfMemDefect, "out of memory")

proc refused*(why: string): (float, string) =
  ## An error in words.
  fail(General, why)

func power*(x: float; p = 2; scale: float = 0.5; label = "a, \"b\" (c) \\"; loud = false): (float, string) =
  ## Parameters with default values.
  result = (scale, (if loud: label.toUpperAscii else: label))
  for _ in 1 .. p: result[0] *= x

func or_seven*(x: Option[float]): float =
  ## A number, or 7.
  x.get(7.0)

func agree*(a, b: Option[seq[float]]; c: openArray[float]): int =
  ## `agree(a[n], b[n], c[n])`: the length of the first that is there.
  if a.isSome: a.get.len elif b.isSome: b.get.len else: c.len

func described*(m: Option[Matrix[float]]; label: Option[string]): string =
  ## How many rows, and a label.
  $(if m.isSome: m.get.rows else: -1) & " " & label.get("-")

func reversed*(words: Option[seq[string]]): Option[seq[string]] =
  ## The texts from the last to the first.
  if words.isSome:
    var all: seq[string]
    for i in countdown(words.get.high, 0):
      all.add words.get[i]
    result = some(all)

func lengths*(words: openArray[string]): (seq[string], seq[int]) =
  ## The longest, and how many bytes each has.
  result[0] = @[""]
  for it in words:
    result[1].add it.len
    if it.len > result[0][0].len:
      result[0][0] = it
