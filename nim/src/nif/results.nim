## From what a function returns to the ABI's values.

import std/[options, typetraits]
import ./abi, ./errors, ./text, ./views

export options

{.push raises: [], gcsafe.}

type ByteSeq* = distinct seq[byte]
  ## Bytes as a result: Python's `bytes`. (A `seq[byte]` is an array.)

const resultTypes = "bool, int8 to int64, int, uint8 to uint64, uint, float32, float64, Complex64, string, cstring (a constant), ByteSeq, " &
  "an enum (its name), seq[T], seq[array[N, T]], array[N, T], seq[string], Tensor, an Option, a tuple or an object of these, an Option of a tuple or object, or none"

func isSeveral*(T: typedesc): bool {.compileTime.} =
  ## Whether a result is several values: a tuple, or an object of the cell's own.
  when T is tuple: true
  elif T is object: not (T is Option or T is Tensor or T is Bytes or T is ByteSeq or isComplex(T)) and '[' notin $T
  else: false

template elementOf(T: typedesc): typedesc =
  ## What an array's element is in memory; Nim's own truth values are as good as bytes on the way out.
  when T is bool: Bool else: T

func scalarText*(T: typedesc): string =
  ## A number's type in a signature.
  when T is SomeSignedInt: "i" & $(8 * sizeof(T))
  elif T is SomeUnsignedInt: "u" & $(8 * sizeof(T))
  else: "f" & $(8 * sizeof(T))

func resultText*(T: typedesc): string =
  ## The type of a result in a signature.
  when T is void: "None"
  elif T is bool: "bool"
  elif T is SomeInteger or T is float32 or T is float64: scalarText(T)
  elif isComplex(T): $dtypeOf(T)
  elif T is cstring or T is string or T is enum: "str"
  elif T is seq[string]: "str[_]"
  elif T is ByteSeq or T is Bytes: "bytes"
  elif T is Tensor: "any[...]"
  elif T is Option: resultText(T.T) & "?"
  elif T is seq:
    type Item = typeof(default(T)[0])
    when Item is array: $dtypeOf(elementOf(typeof(default(Item)[0]))) & "[_," & $len(Item) & "]"
    else: $dtypeOf(elementOf(Item)) & "[_]"
  elif T is array: $dtypeOf(elementOf(typeof(default(T)[low(T)]))) & "[" & $len(T) & "]"
  elif isSeveral(T):
    var items: seq[string]
    for name, value in fieldPairs(default(T)):
      items.add (when T is object or isNamedTuple(T): name & ": " else: "") & resultText(typeof(value))
    "(" & items.join(", ") & ")"
  else: {.error: "nif: a result can't be of type " & $T & "; it gives " & resultTypes.}

# --- memory of the host's ----------------------------------------------------------------------------------

func anyTensor(handle: ptr NifTensor): NifAny {.inline.} =
  NifAny(typeIndex: int32 ord(typeTensor), v: NifValue(p: handle))

proc copied(dtype: NifDtype; shape: openArray[int64]; first: pointer; size: int): NifAny {.raises: [NifError].} =
  ## A copy of so many bytes.
  let made = newTensor(dtype, shape)
  if size > 0:
    copyMem(made.data, first, size)
  anyTensor(made.handle)

func first[T](x: openArray[T]): pointer {.inline.} =
  if x.len > 0: unsafeAddr x[0] else: nil

proc packed(texts: openArray[string]): NifAny {.raises: [NifError].} =
  ## A list of texts: of each its size in bytes, a uint64, then the bytes.
  var size = 0
  for text in texts:
    size += sizeof(uint64) + text.len
  let made = newTensor(dtypeOf(byte), [int64(size)])
  var at = cast[uint](made.data)
  for text in texts:
    let size = uint64(text.len)
    copyMem(cast[pointer](at), unsafeAddr size, sizeof(size))
    at += uint(sizeof(size))
    if text.len > 0:
      copyMem(cast[pointer](at), unsafeAddr text[0], text.len)
    at += uint(text.len)
  anyTensor(made.handle)

proc toAny*[T](value: T): NifAny {.inline, raises: [NifError].} =
  ## One value of a result as the ABI has it. A `cstring` must live as long as the library: return constants only.
  when T is bool: NifAny(typeIndex: int32 ord(typeBool), v: NifValue(i: int64(value)))
  elif T is SomeInteger: NifAny(typeIndex: int32 ord(typeInt), v: NifValue(i: cast[int64](value)))
  elif T is SomeFloat: NifAny(typeIndex: int32 ord(typeFloat), v: NifValue(f: value))
  elif isComplex(T): copied(dtypeOf(T), default(array[0, int64]), unsafeAddr value, sizeof(T))
  elif T is cstring: NifAny(typeIndex: int32 ord(typeStr), v: NifValue(p: cast[pointer](value)))
  elif T is Tensor: anyTensor(value.handle)
  elif T is string: copied(dtypeOf(byte), [int64(value.len)], first(value), value.len)
  elif T is enum: toAny($value)
  elif T is seq[string]: packed(value)
  elif T is ByteSeq: copied(dtypeOf(byte), [int64(seq[byte](value).len)], first(seq[byte](value)), seq[byte](value).len)
  elif T is Bytes: copied(dtypeOf(byte), [int64(value.len)], value.data, value.len)
  elif T is Option:
    if value.isSome: toAny(value.unsafeGet) else: NifAny()
  elif T is seq and typeof(default(T)[0]) is array:
    type Row = typeof(default(T)[0])
    const dtype = dtypeOf(elementOf(typeof(default(Row)[low(Row)])))
    copied(dtype, [int64(value.len), int64(len(Row))], first(value), value.len * sizeof(Row))
  elif T is seq or T is array:
    const dtype = dtypeOf(elementOf(typeof(default(T)[when T is array: low(T) else: 0])))
    copied(dtype, [int64(value.len)], first(value), value.len * dtype.elementSize)
  else: {.error: "nif: a result can't have a " & $T & "; it gives " & resultTypes.}

func countOf(T: typedesc): int {.compileTime.} =
  for item in fields(default(T)):
    inc result

proc writeTuple[T](target: ptr NifAny; value: T; isThere: bool) {.raises: [NifError].} =
  ## All values side by side; none of them where the tuple isn't there.
  const count = countOf(T)
  if count > 1 and roomForResults() < count:
    fail(General, "needs a host that takes tuples")
  var made: array[count, NifAny]
  if isThere:
    var i = 0
    for item in fields(value):
      made[i] = toAny(item)
      inc i
  copyMem(target, addr made, sizeof(made))

proc write*[T](target: ptr NifAny; value: T) {.inline, raises: [NifError].} =
  ## A result to where the caller wants it.
  when isSeveral(T): writeTuple(target, value, true)
  elif T is Option:
    when isSeveral(T.T): writeTuple(target, (if value.isSome: value.unsafeGet else: default(T.T)), value.isSome)
    else: target[] = toAny(value)
  else: target[] = toAny(value)

# --- default values ----------------------------------------------------------------------------------------

func defaultText*[T](value: T): string =
  ## A parameter's default value in a signature.
  when T is string or T is cstring: quoted($value)
  elif T is bool or T is SomeNumber: $value
  elif T is enum: quoted($value)
  elif T is Option: (if value.isNone: "None" else: defaultText(value.unsafeGet))
  else: {.error: "nif: only numbers, truth values and strings can have a default value".}
