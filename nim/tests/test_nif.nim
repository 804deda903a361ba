## The SDK seen from the other side: a host calls functions through the table.

import std/[strutils, unittest]
import nif
import nif/abi

proc nifInit(host: ptr NifHost): ptr NifLibrary {.importc: "nif_init", cdecl.}

# --- functions of every kind -------------------------------------------------------------------------------

func scalars(count: int64; factor: float64; negative: bool): float64 {.nif: {Pure}.} =
  ## `scalars(count, factor, negative)`: takes
  ## one of each.
  if negative: -float64(count) * factor else: float64(count) * factor

func textLength(text: string; raw: Bytes): int64 {.nif.} =
  ## text_length(text, raw). The code marks may be missing.
  text.len + raw.len

func fillRows(rows: int64; values: openArray[float32]; `out`: var Matrix[int64]) {.nif: {Idempotent}.} =
  ## `fill_rows(rows, values[n], out[rows,n])`: every row of out gets the values.
  for row in 0 ..< int(rows):
    for col in 0 ..< values.len:
      `out`[row, col] = int64(values[col])

proc waits(): bool {.nif: {Long, PollsCancel}.} =
  ## `waits()`: whether it should stop.
  cancelled()

proc failsAs(how: int64) {.nif: {Fault}, raises: [ValueError, NifError].} =
  ## `fails_as(how)`: in one way or another.
  case how
  of 0: fail(Value, "how", "must not be 0")
  of 1: fail(Memory, "none left")
  of 2: raise newException(ValueError, "an ordinary exception")
  else: doAssert how < 0, "a defect"

# --- a host ------------------------------------------------------------------------------------------------

var told: tuple[kind: int32, message: string, argument: int32]

proc setError(env: ptr NifEnv; kind: int32; message: cstring; argument: int32) {.cdecl, raises: [], gcsafe.} =
  {.cast(gcsafe).}:
    told = (kind, $message, argument)

var
  host = NifHost(structSize: uint32 sizeof(NifHost), abiVersion: 1, setError: setError)
  stop: int32
  env = NifEnv(structSize: uint32 sizeof(NifEnv), host: addr host, cancel: addr stop)

proc function(name: string): NifFunction =
  let library = nifInit(addr host)
  let functions = cast[ptr UncheckedArray[NifFunction]](library.functions)
  for i in 0 ..< int(library.nFunctions):
    if $functions[i].name == name:
      return functions[i]
  raise newException(KeyError, name)

proc call(name: string; args: varargs[NifAny]): NifAny =
  ## The result; `typeIndex` -1 and `told` when the call failed.
  result.typeIndex = -1
  let first = if args.len > 0: unsafeAddr args[0] else: nil
  let status = function(name).call(addr env, cast[NifArgs](first), int32(args.len), addr result)
  doAssert (status == 0) == (result.typeIndex != -1)

func any(x: int): NifAny = NifAny(typeIndex: 1, v: NifValue(i: x))
func any(x: float): NifAny = NifAny(typeIndex: 3, v: NifValue(f: x))
func any(x: bool): NifAny = NifAny(typeIndex: 2, v: NifValue(i: int64(x)))
func any(x: cstring): NifAny = NifAny(typeIndex: 8, v: NifValue(p: cast[pointer](x)))
func any(x: var NifTensor): NifAny = NifAny(typeIndex: 7, v: NifValue(p: addr x))

suite "nif":
  test "signature, doc and flags come from the source":
    check $function("scalars").signature == "scalars(count: i64, factor: f64, negative: bool) -> f64"
    check $function("scalars").doc == "takes one of each."
    check function("scalars").flags == 6
    check $function("text_length").signature == "text_length(text: str, raw: bytes) -> i64"
    check $function("text_length").doc == "The code marks may be missing."
    check $function("fill_rows").signature == "fill_rows(rows: i64, values: f32[n], out: mut i64[rows,n]) -> None"
    check $function("waits").signature == "waits() -> bool"
    check function("waits").flags == 17

  test "the library describes itself":
    let library = nifInit(nil)
    check (library.abiVersion, library.structHash, $library.language) == (1'u32, structHash, "nim")
    check ($library.compiler).startsWith("Nim 2.")
    check library == nifInit(addr host)
    check cast[cstring](call("layout").v.p) == cstring(layoutText)

  test "scalars are converted":
    check call("scalars", any(3), any(2.5), any(true)).v.f == -7.5
    check call("scalars", any(true), any(2), any(false)).v.f == 2.0
    var raw = NifBytes(data: cast[ptr UncheckedArray[char]](cstring"four"), size: 4)
    check call("text_length", any("three"), NifAny(typeIndex: 9, v: NifValue(p: addr raw))).v.i == 9

  test "arrays are views, shapes are checked":
    var (values, rows) = ([1'f32, 2], [0'i64, 0, 0, 0])
    var (shape, matrix, swapped) = ([2'i64], [2'i64, 2], [1'i64, 2])
    var x = NifTensor(data: addr values, device: NifDevice(typeId: 1), ndim: 1, dtype: dtypeOf(float32),
      shape: cast[ptr UncheckedArray[int64]](addr shape))
    var target = NifTensor(data: addr rows, device: NifDevice(typeId: 1), ndim: 2, dtype: dtypeOf(int64),
      shape: cast[ptr UncheckedArray[int64]](addr matrix), strides: cast[ptr UncheckedArray[int64]](addr swapped))
    check call("fill_rows", any(2), any(x), any(target)).typeIndex == 0
    check rows == [1'i64, 1, 2, 2] # column by column, as the strides say
    check call("fill_rows", any(3), any(x), any(target)).typeIndex == -1
    check told == (2'i32, "expected i64[rows,n] with rows = 3, got i64[2,2]", 2'i32)
    check call("fill_rows", any(2), any(target), any(target)).typeIndex == -1
    check told == (1'i32, "expected f32[n], got i64[2,2]", 1'i32)
    check call("fill_rows", any(2)).typeIndex == -1
    check told == (1'i32, "takes 3 arguments, 1 given", -1'i32)

  test "whatever is raised becomes an error":
    for _ in 0 ..< 1000:
      check call("fails_as", any(0)).typeIndex == -1
      check told == (2'i32, "must not be 0", 0'i32)
      check call("fails_as", any(1)).typeIndex == -1
      check told == (5'i32, "none left", -1'i32)
      check call("fails_as", any(2)).typeIndex == -1
      check told == (2'i32, "an ordinary exception", -1'i32) # a ValueError stays one
      check call("fails_as", any(3)).typeIndex == -1
      check (told.kind, "a defect" in told.message, told.argument) == (4'i32, true, -1'i32)
    check call("fails_as", any(-1)).typeIndex == 0

  test "the cancel flag is the running call's":
    check call("waits").v.i == 0
    stop = 1
    check call("waits").v.i == 1
    check not cancelled()

  test "mistakes are found by the compiler":
    template refused(declaration: untyped) =
      check not compiles(declaration)
    check compiles do:
      func faultless(x: openArray[float64]; y: float64) {.nif.} =
        ## `faultless(x[n], y)`: as the others should be.
        discard
    check compiles do:
      func undocumented(x: openArray[float64]; y: float64) {.nif.} = discard
    refused:
      func unfinished(x: float64) {.nif.} =
        ## `unfinished(x`: no call.
        discard
    refused:
      func misnamed(x: float64) {.nif.} =
        ## `other(x)`: another name.
        discard
    refused:
      func otherNames(x, y: float64) {.nif.} =
        ## `other_names(x, z)`: a parameter that isn't there.
        discard
    refused:
      func tooMany(x: float64) {.nif.} =
        ## `too_many(x, y)`: a parameter that isn't there.
        discard
    refused:
      func noDims(x: openArray[float64]) {.nif.} =
        ## `no_dims(x)`: a vector without its dimension.
        discard
    refused:
      func badType(x: ptr float64) {.nif.} =
        ## `bad_type(x)`: an address is no scalar.
        discard
    refused:
      func badElements(x: openArray[string]) {.nif.} =
        ## `bad_elements(x[n])`: an array of strings.
        discard
    refused:
      func badResult(): pointer {.nif.} =
        ## `bad_result()`: an address that doesn't outlive the call.
        nil
