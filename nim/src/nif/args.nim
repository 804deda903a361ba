## What a NIF takes, as data, and the checks of docs/abi.md that follow from it.
##
## The data is constant and the checks are inline, so that of each only what its function needs is left; whatever
## words an error is out of line.

import std/[enumutils, macros, options, sequtils]
import ./abi, ./callbacks, ./errors, ./results, ./text, ./views

{.push raises: [], gcsafe.}

type
  ParamKind* = enum
    ## The kinds of parameter; the strings are the types' names in a signature.
    IntParam = "i64", FloatParam = "f64", ComplexParam = "c128", BoolParam = "bool", StrParam = "str", BytesParam = "bytes",
    TextsParam = "str[_]", VectorParam, MatrixParam, CallbackParam, AnyParam = "any[...]"

  Param* = object
    name*, typeText*: string ## "x", "f64[n]"
    kind*: ParamKind
    mutable*: bool
    optional*: bool          ## it may be None
    bits*: int               ## of a number
    unsigned*: bool          ## of an integer
    default*: string         ## its value when it is left out, as signatures spell it; empty for none
    dtype*: NifDtype         ## of an array's elements
    rank*: int               ## how many axes an array of one element type has

  Tie* = object
    ## An axis whose length is fixed: by an i64 parameter (`sourceAxis` -1), or by the first axis of that name.
    param*, axis*, source*, sourceAxis*: int
    dim*: string

  Signature* = object
    ## Everything that is known of a function at compile time.
    name*, text*, doc*: string
    params*: seq[Param]
    sizes*: seq[int]                       ## the i64 parameters that fix a dimension
    ties*: seq[Tie]
    pairs*: seq[tuple[written, other: int]] ## arrays that must not overlap
    flags*: uint32
    asks*: bool                            ## whether the function may ask for the call's environment

  Slot* = object
    ## One argument after its checks.
    value*: NifValue                       ## a scalar
    absent*: bool                          ## None was given; only looked at where that may be
    data*: pointer                         ## the first element of an array, or the first byte
    dims*: ptr UncheckedArray[int64]
    rank*, size*: int                      ## axes; bytes, where they are contiguous
    dtype*: NifDtype
    strides*: array[2, int]                ## of a matrix, in elements
    first, last: uint                      ## the addresses an array spans; equal where it has no elements

const
  byteDtype = NifDtype(code: 1, bits: 8, lanes: 1)
  arrayParams = {VectorParam, MatrixParam, AnyParam}

# Left to itself a C compiler finds the checks too long to be inline: it measures them before it knows the parameter.
{.pragma: check, inline, codegenDecl: "static inline __attribute__((always_inline)) $# $#$#", raises: [NifError].}

# --- what came, in words -----------------------------------------------------------------------------------

func list(numbers: ptr UncheckedArray[int64]; count: int): string =
  result = "["
  for i in 0 ..< count:
    if i > 0:
      result.add ","
    result.add $numbers[i]
  result.add "]"

func tensorOf(arg: NifAny): ptr NifTensor {.inline.} =
  ## The tensor in `arg`, or nil.
  case arg.typeIndex
  of ord(typeTensor): cast[ptr NifTensor](arg.v.p)
  of ord(typeTvmTensor): cast[ptr NifTensor](cast[uint](arg.v.p) + tvmHeaderSize)
  else: nil

func describe(arg: NifAny): string =
  case arg.typeIndex
  of ord(typeNone): "None"
  of ord(typeInt): "i64"
  of ord(typeBool): "bool"
  of ord(typeFloat): "f64"
  of ord(typeDtype): "dtype"
  of ord(typeDevice): "device"
  of ord(typeStr), ord(typeTvmSmallStr), ord(typeTvmStr): "str"
  of ord(typeBytes), ord(typeTvmSmallBytes), ord(typeTvmBytes): "bytes"
  of ord(typeTensor), ord(typeTvmTensor):
    let tensor = tensorOf(arg)
    $tensor.dtype & list(tensor.shape, tensor.ndim)
  else: "object"

# --- refusals ----------------------------------------------------------------------------------------------

{.pragma: refusal, noinline, noreturn, raises: [NifError].}

func refuse(param: Param; kind: ErrorKind; arg: NifAny) {.refusal.} =
  fail(kind, param.name, "expected " & param.typeText & ", got " & describe(arg))

func refuse(param: Param; problem: cstring) {.refusal.} =
  fail(Value, param.name, $problem)

func refuseAlignment(param: Param; alignment: int) {.refusal.} =
  fail(Value, param.name, "expected data aligned to " & $alignment & " bytes")

func refuseStrides(param: Param; tensor: ptr NifTensor) {.refusal.} =
  fail(Value, param.name, "expected contiguous memory, got strides " & list(tensor.strides, tensor.ndim))

func refuseSize(param: Param; size: int64) {.refusal.} =
  fail(Value, param.name, "expected 0 or more, got " & $size)

func refuseRange(param: Param; low, high, given: int64) {.refusal.} =
  fail(Value, param.name, "expected " & $low & " to " & $high & ", got " & $given)

func refuseDim(param: Param; dim: string; expected: int64; arg: NifAny) {.refusal.} =
  fail(Value, param.name, "expected " & param.typeText & " with " & dim & " = " & $expected & ", got " & describe(arg))

func refuseOverlap(param, other: Param) {.refusal.} =
  fail(Value, param.name, "overlaps argument '" & other.name & "'")

func refuseCount*(signature: Signature; given: int32) {.refusal.} =
  let noun = if signature.params.len == 1: " argument, " else: " arguments, "
  fail(Type, "takes " & $signature.params.len & noun & $given & " given")

# --- one argument ------------------------------------------------------------------------------------------

func takeText(slot: var Slot; arg: ptr NifAny) =
  ## Strings and bytes, as pointer and size. Small ones lie in the argument itself.
  case arg.typeIndex
  of ord(typeStr):
    slot.data = arg.v.p
    slot.size = cast[cstring](arg.v.p).len
  of ord(typeTvmSmallStr), ord(typeTvmSmallBytes):
    slot.data = addr arg.v.small
    slot.size = int(arg.zero)
  else:
    let header = if arg.typeIndex == ord(typeBytes): 0'u else: tvmHeaderSize
    let text = cast[ptr NifBytes](cast[uint](arg.v.p) + header)
    slot.data = text.data
    slot.size = int(text.size)

func isStr(arg: ptr NifAny): bool {.inline.} =
  arg.typeIndex in [int32 ord(typeStr), int32 ord(typeTvmSmallStr), int32 ord(typeTvmStr)]

func isBytes(arg: ptr NifAny): bool {.inline.} =
  arg.typeIndex in [int32 ord(typeBytes), int32 ord(typeTvmSmallBytes), int32 ord(typeTvmBytes)]

func takeBytesAsArray(slot: var Slot; arg: ptr NifAny) =
  slot.takeText(arg)
  slot.dtype = byteDtype
  slot.rank = 1
  slot.value.i = slot.size
  slot.dims = cast[ptr UncheckedArray[int64]](addr slot.value.i)
  slot.first = cast[uint](slot.data)
  slot.last = slot.first + uint(slot.size)

func isContiguous(tensor: ptr NifTensor; rank: int): bool {.inline.} =
  ## Row-major without gaps; an axis of length 1 may have any stride.
  if tensor.strides == nil:
    return true
  var expected = 1'i64
  for axis in countdown(rank - 1, 0):
    if tensor.shape[axis] != 1 and tensor.strides[axis] != expected:
      return false
    expected = expected *% tensor.shape[axis]
  true

func spanMatrix(slot: var Slot; tensor: ptr NifTensor) {.inline.} =
  ## The strides of a matrix, and the addresses between which it lies.
  slot.strides =
    if tensor.strides == nil: [int(tensor.shape[1]), 1]
    else: [int(tensor.strides[0]), int(tensor.strides[1])]
  var low, high = 0
  for axis, stride in slot.strides:
    let reach = stride * int(tensor.shape[axis] - 1)
    if reach < 0: low += reach else: high += reach
  let size = slot.dtype.elementSize
  slot.first = cast[uint](cast[int](slot.data) + low * size)
  slot.last = cast[uint](cast[int](slot.data) + (high + 1) * size)

func takeTensor(slot: var Slot; param: Param; arg: ptr NifAny) {.check.} =
  let tensor = tensorOf(arg[])
  if tensor == nil:
    refuse(param, Type, arg[])
  let fits = if param.kind == AnyParam: tensor.dtype.isElement else: tensor.dtype == param.dtype
  if not fits:
    refuse(param, Type, arg[])
  if param.kind != AnyParam and tensor.ndim != param.rank:
    refuse(param, Value, arg[])
  if tensor.device.typeId != cpuDevice:
    refuse(param, "expected memory of the CPU")
  let rank = if param.kind == AnyParam: int(tensor.ndim) else: param.rank
  var count = 1
  for axis in 0 ..< rank:
    count *= int(tensor.shape[axis])
  if tensor.data == nil and count > 0:
    refuse(param, "has no data")
  let alignment = (if param.kind == AnyParam: tensor.dtype else: param.dtype).elementAlignment
  let address = cast[uint](tensor.data) + uint(tensor.byteOffset)
  if (address and uint(alignment - 1)) != 0:
    refuseAlignment(param, alignment)
  slot.data = cast[pointer](address)
  slot.dims = tensor.shape
  slot.rank = rank
  slot.dtype = tensor.dtype
  slot.first = address
  slot.last = address
  if param.kind == MatrixParam:
    if count > 0:
      slot.spanMatrix(tensor)
  else:
    if count > 0 and not tensor.isContiguous(rank):
      refuseStrides(param, tensor)
    slot.size = count * tensor.dtype.elementSize
    slot.last += uint(slot.size)

proc takeComplex(slot: var Slot; param: Param; arg: ptr NifAny) {.noinline, raises: [NifError].} =
  ## A complex number is an array without axes.
  let tensor = tensorOf(arg[])
  if tensor == nil or tensor.dtype.code != 5 or not tensor.dtype.isElement:
    refuse(param, Type, arg[])
  if tensor.ndim != 0:
    refuse(param, Value, arg[])
  if tensor.device.typeId != cpuDevice:
    refuse(param, "expected memory of the CPU")
  if tensor.data == nil:
    refuse(param, "has no data")
  let alignment = tensor.dtype.elementAlignment
  let address = cast[uint](tensor.data) + uint(tensor.byteOffset)
  if (address and uint(alignment - 1)) != 0:
    refuseAlignment(param, alignment)
  slot.data = cast[pointer](address)
  slot.dtype = tensor.dtype

func textsOf*(slot: Slot): seq[string] =
  ## A list of texts, which was checked.
  var at = 0
  var text: string
  while at < slot.size and nextText(slot.data, slot.size, at, text):
    result.add text

func take*(slot: var Slot; param: Param; arg: ptr NifAny) {.check.} =
  ## Checks 2 to 7 of docs/abi.md.
  if param.optional:
    slot.absent = arg.typeIndex == ord(typeNone)
    if slot.absent:
      slot.first = 0
      slot.last = 0
      return
  let isWhole = arg.typeIndex == ord(typeInt) or arg.typeIndex == ord(typeBool)
  case param.kind
  of IntParam:
    if not isWhole:
      refuse(param, Type, arg[])
    slot.value.i = arg.v.i
    if param.bits < 64:
      let low = if param.unsigned: 0'i64 else: -(1'i64 shl (param.bits - 1))
      let high = (1'i64 shl (if param.unsigned: param.bits else: param.bits - 1)) - 1
      if slot.value.i < low or slot.value.i > high:
        refuseRange(param, low, high, slot.value.i)
  of FloatParam:
    if arg.typeIndex == ord(typeFloat):
      slot.value.f = arg.v.f
    elif isWhole:
      slot.value.f = float64(arg.v.i)
    else:
      refuse(param, Type, arg[])
  of ComplexParam:
    if arg.typeIndex == ord(typeFloat):
      slot.value.f = arg.v.f
    elif isWhole:
      slot.value.f = float64(arg.v.i)
    else:
      slot.takeComplex(param, arg)
      return
    slot.data = nil
  of BoolParam:
    if arg.typeIndex != ord(typeBool):
      refuse(param, Type, arg[])
    slot.value.i = arg.v.i
  of StrParam, BytesParam:
    if not (if param.kind == StrParam: arg.isStr else: arg.isBytes):
      refuse(param, Type, arg[])
    slot.takeText(arg)
  of TextsParam:
    if not arg.isBytes:
      refuse(param, Type, arg[])
    slot.takeText(arg)
    var at = 0
    var text: string
    while at < slot.size:
      if not nextText(slot.data, slot.size, at, text):
        refuse(param, "has a text that is cut off")
  of AnyParam:
    if arg.isBytes:
      slot.takeBytesAsArray(arg)
    else:
      slot.takeTensor(param, arg)
  of VectorParam, MatrixParam:
    slot.takeTensor(param, arg)
  of CallbackParam:
    if arg.typeIndex != ord(typeTvmFunction):
      refuse(param, Type, arg[])
    slot.data = arg.v.p

# --- all arguments -----------------------------------------------------------------------------------------

func checkSize*(param: Param; size: int64) {.check.} =
  ## Check 8.
  if size < 0:
    refuseSize(param, size)

func checkTie*(params: openArray[Param]; tie: Tie; args: NifArgs; slots: openArray[Slot]) {.check.} =
  ## Check 9: one number for each dimension name. An array that isn't there has none.
  let param = params[tie.param]
  if (param.optional and slots[tie.param].absent) or (params[tie.source].optional and slots[tie.source].absent):
    return
  let source = slots[tie.source]
  let expected = if tie.sourceAxis < 0: source.value.i else: source.dims[tie.sourceAxis]
  if slots[tie.param].dims[tie.axis] != expected:
    refuseDim(param, tie.dim, expected, args[tie.param])

func checkOverlap*(written, other: Slot; param, otherParam: Param) {.check.} =
  ## Check 10: what is written is nobody else's memory.
  if max(written.first, other.first) < min(written.last, other.last):
    refuseOverlap(param, otherParam)

macro unrolled(count: static int; index, body: untyped): untyped =
  ## `body` for each `index` below `count`, a constant in it.
  result = newStmtList()
  for i in 0 ..< count:
    result.add newBlockStmt(newStmtList(newConstStmt(index, newLit(i)), body.copyNimTree))

template decode*(signature: Signature; args: NifArgs; given: int32; slots: untyped) =
  ## All checks of docs/abi.md but the function's own, in the order given there. `signature` is a constant.
  if given != signature.params.len:
    refuseCount(signature, given)
  unrolled(signature.params.len, p):
    slots[p].take(signature.params[p], addr args[p])
  unrolled(signature.sizes.len, s):
    checkSize(signature.params[signature.sizes[s]], slots[signature.sizes[s]].value.i)
  unrolled(signature.ties.len, t):
    checkTie(signature.params, signature.ties[t], args, slots)
  unrolled(signature.pairs.len, o):
    const (written, other) = signature.pairs[o]
    checkOverlap(slots[written], slots[other], signature.params[written], signature.params[other])

func indexOf*(signature: Signature; argument: string): int =
  ## The index of a parameter, or -1.
  for i, param in signature.params:
    if param.name == argument:
      return i
  -1

# --- from slots to Nim's types -----------------------------------------------------------------------------

func toText(slot: Slot): string =
  result = newString(slot.size)
  if slot.size > 0:
    copyMem(addr result[0], slot.data, slot.size)

func complexOf*(slot: Slot; T: typedesc): T {.inline.} =
  ## A complex number of either width, or a real one.
  type Part = typeof(T().re)
  if slot.data == nil: T(re: Part(slot.value.f), im: 0)
  elif slot.dtype.bits == 64:
    let parts = cast[ptr array[2, float32]](slot.data)
    T(re: Part(parts[0]), im: Part(parts[1]))
  else:
    let parts = cast[ptr array[2, float64]](slot.data)
    T(re: Part(parts[0]), im: Part(parts[1]))

proc refuseEnum(name, given, names: string) {.noinline, noreturn, raises: [NifError].} =
  fail(Value, name, "expected one of " & names & ", got '" & given & "'")

proc enumOf(slot: Slot; T: typedesc; name: string): T {.raises: [NifError].} =
  ## The value of an enum whose name was given.
  let given = toText(slot)
  var names = ""
  for value in items(T): # of one with gaps too
    if $value == given:
      return value
    names.add (if names.len > 0: ", " else: "") & $value
  refuseEnum(name, given, names)

proc refuseSubrange(name: string; low, high, given: int64) {.noinline, noreturn, raises: [NifError].} =
  fail(Value, name, "expected " & $low & " to " & $high & ", got " & $given)

proc wholeOf(slot: Slot; T: typedesc; name: string): T {.inline, raises: [NifError].} =
  ## An integer; one of a subrange (`Natural`) must be in it.
  when T is SomeSignedInt:
    let given = slot.value.i
    if given < int64(low(T)) or given > int64(high(T)):
      refuseSubrange(name, int64(low(T)), int64(high(T)), given)
  cast[T](slot.value.i)

template scalarOf(slot: Slot; T: typedesc; name: string): untyped =
  ## A scalar, as the type that the function declares.
  when T is enum: enumOf(slot, T, name)
  elif T is SomeInteger: wholeOf(slot, T, name)
  elif T is SomeFloat: T(slot.value.f)
  elif isComplex(T): complexOf(slot, T)
  elif T is bool: slot.value.i != 0
  elif T is string: toText(slot)
  elif T is cstring: cast[cstring](slot.data)
  elif T is Callback: T(handle: cast[ptr NifObject](slot.data))
  elif T is Bytes: Bytes(data: cast[ptr UncheckedArray[byte]](slot.data), len: slot.size)
  else: initAnyArray(slot.data, slot.size, slot.dtype, slot.dims, slot.rank)

template argument*(slot: Slot; T: typedesc; name: string): untyped =
  ## The same, or none of it.
  when T is Option:
    (if slot.absent: none(typeof(default(T).unsafeGet)) else: some(scalarOf(slot, typeof(default(T).unsafeGet), name)))
  else: scalarOf(slot, T, name)

template vectorOf*(slot: Slot; T: typedesc): untyped =
  toOpenArray(cast[ptr UncheckedArray[T]](slot.data), 0, int(slot.dims[0]) - 1)

func matrixOf*(slot: Slot; T: typedesc): Matrix[T] {.inline.} =
  Matrix[T](data: cast[ptr UncheckedArray[T]](slot.data), rows: int(slot.dims[0]), cols: int(slot.dims[1]),
    rowStride: slot.strides[0], colStride: slot.strides[1])

func paramKind*(T: typedesc): ParamKind =
  ## How a parameter that is no typed array crosses.
  when T is Option: paramKind(T.T)
  elif T is enum: StrParam
  elif T is seq[string]: TextsParam
  elif T is SomeInteger: IntParam
  elif T is float32 or T is float64: FloatParam
  elif isComplex(T): ComplexParam
  elif T is bool: BoolParam
  elif T is string or T is cstring: StrParam
  elif T is Bytes: BytesParam
  elif T is AnyArray: AnyParam
  elif T is Callback: CallbackParam
  else: {.error: "nif: a parameter can't be of type " & $T & "; it takes int8 to int64, int, uint8 to uint64, uint, float32, " &
    "float64, Complex64, bool, string, cstring, Bytes, an enum (by its names), " &
    "openArray[T], seq[T], Matrix[T] (var where it is written), seq[string], AnyArray, Callback[proc (x: float): float] and an Option of one of these".}

# --- composing a signature (at compile time) ---------------------------------------------------------------

func tiesOf(params: seq[Param]; dims: seq[seq[string]]): seq[Tie] =
  ## The axes that don't bind their name but have to fit it, in the order of the checks.
  var bound: seq[Tie] # for each name where its number comes from
  for i, param in params:
    if param.kind == IntParam:
      bound.add Tie(source: i, sourceAxis: -1, dim: param.name)
  for i, param in params:
    for axis in 0 ..< param.rank:
      let dim = dims[i][axis]
      var known = false # by what is always there
      for tie in bound:
        if tie.dim == dim:
          known = known or not params[tie.source].optional
          result.add Tie(param: i, axis: axis, source: tie.source, sourceAxis: tie.sourceAxis, dim: dim)
      if not known:
        bound.add Tie(source: i, sourceAxis: axis, dim: dim)

func scalarParam*(name, default: string; T: typedesc): Param =
  ## A parameter that is no typed array.
  when T is Option:
    result = scalarParam(name, default, T.T)
    result.optional = true
    return
  result = Param(name: name, kind: paramKind(T), default: default)
  when T is SomeNumber:
    result.bits = 8 * sizeof(T)
    result.unsigned = T is SomeUnsignedInt
    result.typeText = scalarText(T)
  elif isComplex(T):
    result.typeText = $dtypeOf(T)
  elif T is Callback:
    result.typeText = callbackText(T)

func initSignature*(name, doc: string; flags: set[NifFlag]; answer: string; params: seq[Param];
    dims: seq[seq[string]]): Signature =
  ## `dims` has the dimension names of each parameter as the documentation gives them.
  result = Signature(name: name, doc: doc, flags: bitsOf(flags + (if Pure in flags: {Idempotent} else: {})),
    asks: PollsCancel in flags or "str" in answer or "bytes" in answer or "c64" in answer or "c128" in answer or answer.find({'[', '('}) >= 0)
  var spelled: seq[string]
  for i, param in params:
    var param = param
    if param.typeText.len == 0:
      param.typeText = $param.kind
    if param.kind in {VectorParam, MatrixParam}:
      param.rank = dims[i].len
      param.typeText = $param.dtype & "[" & dims[i].join(",") & "]"
    if param.optional:
      param.typeText.add "?"
    let default = if param.default.len > 0: " = " & param.default else: ""
    spelled.add param.name & ": " & (if param.mutable: "mut " else: "") & param.typeText & default
    result.params.add param
  result.ties = tiesOf(result.params, dims)
  for i, param in result.params:
    if param.kind == IntParam and dims.anyIt(param.name in it):
      result.sizes.add i
    for j, other in result.params:
      if param.mutable and i != j and other.kind in arrayParams:
        result.pairs.add (i, j)
  result.text = name & "(" & spelled.join(", ") & ") -> " & answer
