## What a NIF takes, as data, and the checks of docs/abi.md that follow from it: one loop for all functions.

import std/strutils
import ./abi, ./errors, ./views

{.push raises: [], gcsafe.}

type
  ParamKind* = enum
    ## The kinds of parameter; the strings are the types' names in a signature.
    IntParam = "i64", FloatParam = "f64", BoolParam = "bool", StrParam = "str", BytesParam = "bytes",
    VectorParam, MatrixParam, AnyParam = "any[...]"

  Param* = object
    name*, typeText*: string ## "x", "f64[n]"
    kind*: ParamKind
    mutable*: bool
    dtype*: NifDtype         ## of an array's elements
    axes*: seq[int]          ## an array's dimensions, or the one that an i64 fixes: indexes into `dims`

  Signature* = object
    ## Everything that is known of a function at compile time.
    name*, text*, doc*: string
    params*: seq[Param]
    dims*: seq[string]
    flags*: uint32

  Slot* = object
    ## One argument after its checks.
    value*: NifValue                       ## a scalar
    data*: pointer                         ## the first element of an array, or the first byte
    dims*: ptr UncheckedArray[int64]
    rank*, size*: int                      ## axes; bytes, where they are contiguous
    dtype*: NifDtype
    strides*: array[2, int]                ## of a matrix, in elements
    first, last: uint                      ## the addresses an array spans; equal where it has no elements

const
  maxDims* = 16 ## different dimension names in one signature
  byteDtype = NifDtype(code: 1, bits: 8, lanes: 1)
  arrayParams = {VectorParam, MatrixParam, AnyParam}

# --- what came, in words -----------------------------------------------------------------------------------

func list(numbers: ptr UncheckedArray[int64]; count: int): string =
  result = "["
  for i in 0 ..< count:
    if i > 0:
      result.add ","
    result.add $numbers[i]
  result.add "]"

func tensorOf(arg: NifAny): ptr NifTensor =
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

func refuse(param: Param; kind: ErrorKind; arg: NifAny) {.noreturn, raises: [NifError].} =
  fail(kind, param.name, "expected " & param.typeText & ", got " & describe(arg))

# --- one argument ------------------------------------------------------------------------------------------

func takeText(slot: var Slot; arg: ptr NifAny): bool =
  ## Strings and bytes, as pointer and size. Small ones lie in the argument itself.
  case arg.typeIndex
  of ord(typeStr):
    slot.data = arg.v.p
    slot.size = cast[cstring](arg.v.p).len
  of ord(typeTvmSmallStr), ord(typeTvmSmallBytes):
    slot.data = addr arg.v.small
    slot.size = int(arg.zero)
  of ord(typeBytes), ord(typeTvmStr), ord(typeTvmBytes):
    let header = if arg.typeIndex == ord(typeBytes): 0'u else: tvmHeaderSize
    let text = cast[ptr NifBytes](cast[uint](arg.v.p) + header)
    slot.data = text.data
    slot.size = int(text.size)
  else:
    return false
  true

func takeBytesAsArray(slot: var Slot; arg: ptr NifAny): bool =
  if describe(arg[]) != "bytes" or not slot.takeText(arg):
    return false
  slot.dtype = byteDtype
  slot.rank = 1
  slot.value.i = slot.size
  slot.dims = cast[ptr UncheckedArray[int64]](addr slot.value.i)
  slot.first = cast[uint](slot.data)
  slot.last = slot.first + uint(slot.size)
  true

func isContiguous(tensor: ptr NifTensor): bool =
  ## Row-major without gaps; an axis of length 1 may have any stride.
  if tensor.strides == nil:
    return true
  var expected = 1'i64
  for axis in countdown(tensor.ndim - 1, 0):
    if tensor.shape[axis] != 1 and tensor.strides[axis] != expected:
      return false
    expected *= tensor.shape[axis]
  true

func spanMatrix(slot: var Slot; tensor: ptr NifTensor) =
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

func takeTensor(slot: var Slot; param: Param; arg: NifAny) {.raises: [NifError].} =
  let tensor = tensorOf(arg)
  if tensor == nil:
    refuse(param, Type, arg)
  let fits = if param.kind == AnyParam: tensor.dtype.isElement else: tensor.dtype == param.dtype
  if not fits:
    refuse(param, Type, arg)
  if param.kind != AnyParam and tensor.ndim != param.axes.len:
    refuse(param, Value, arg)
  if tensor.device.typeId != cpuDevice:
    fail(Value, param.name, "expected memory of the CPU")
  var count = 1
  for axis in 0 ..< tensor.ndim:
    count *= int(tensor.shape[axis])
  if tensor.data == nil and count > 0:
    fail(Value, param.name, "has no data")
  let alignment = tensor.dtype.elementAlignment
  let address = cast[uint](tensor.data) + uint(tensor.byteOffset)
  if (address and uint(alignment - 1)) != 0:
    fail(Value, param.name, "expected data aligned to " & $alignment & " bytes")
  slot.data = cast[pointer](address)
  slot.dims = tensor.shape
  slot.rank = tensor.ndim
  slot.dtype = tensor.dtype
  slot.first = address
  slot.last = address
  if param.kind == MatrixParam:
    if count > 0:
      slot.spanMatrix(tensor)
  else:
    if count > 0 and not tensor.isContiguous:
      fail(Value, param.name, "expected contiguous memory, got strides " & list(tensor.strides, tensor.ndim))
    slot.size = count * tensor.dtype.elementSize
    slot.last += uint(slot.size)

func take(slot: var Slot; param: Param; arg: ptr NifAny) {.raises: [NifError].} =
  ## Checks 2 to 7 of docs/abi.md.
  let isWhole = arg.typeIndex in [int32 ord(typeInt), int32 ord(typeBool)]
  case param.kind
  of IntParam:
    if not isWhole:
      refuse(param, Type, arg[])
    slot.value.i = arg.v.i
  of FloatParam:
    if isWhole:
      slot.value.f = float64(arg.v.i)
    elif arg.typeIndex == ord(typeFloat):
      slot.value.f = arg.v.f
    else:
      refuse(param, Type, arg[])
  of BoolParam:
    if arg.typeIndex != ord(typeBool):
      refuse(param, Type, arg[])
    slot.value.i = arg.v.i
  of StrParam, BytesParam:
    if describe(arg[]) != $param.kind or not slot.takeText(arg):
      refuse(param, Type, arg[])
  of AnyParam:
    if not slot.takeBytesAsArray(arg):
      slot.takeTensor(param, arg[])
  of VectorParam, MatrixParam:
    slot.takeTensor(param, arg[])

# --- all arguments -----------------------------------------------------------------------------------------

func checkDims(signature: Signature; args: NifArgs; slots: openArray[Slot]) {.raises: [NifError].} =
  ## Checks 8 and 9: one number for each dimension name.
  var sizes: array[maxDims, int64] # -1: not known yet
  for size in sizes.mitems:
    size = -1
  for i in 0 ..< slots.len:
    if signature.params[i].kind == IntParam and signature.params[i].axes.len > 0:
      let size = slots[i].value.i
      if size < 0:
        fail(Value, signature.params[i].name, "expected 0 or more, got " & $size)
      sizes[signature.params[i].axes[0]] = size
  for i in 0 ..< slots.len:
    if signature.params[i].kind notin arrayParams:
      continue
    for axis, dim in signature.params[i].axes:
      let size = slots[i].dims[axis]
      if sizes[dim] < 0:
        sizes[dim] = size
      elif sizes[dim] != size:
        fail(Value, signature.params[i].name, "expected " & signature.params[i].typeText & " with " &
          signature.dims[dim] & " = " & $sizes[dim] & ", got " & describe(args[i]))

func checkOverlap(signature: Signature; slots: openArray[Slot]) {.raises: [NifError].} =
  ## Check 10: what is written is nobody else's memory.
  for i in 0 ..< slots.len:
    if not signature.params[i].mutable:
      continue
    for j in 0 ..< slots.len:
      if j != i and signature.params[j].kind in arrayParams and
          max(slots[i].first, slots[j].first) < min(slots[i].last, slots[j].last):
        fail(Value, signature.params[i].name, "overlaps argument '" & signature.params[j].name & "'")

func decode*(signature: Signature; args: NifArgs; count: int; slots: var openArray[Slot]) {.raises: [NifError].} =
  ## All checks of docs/abi.md but the function's own, in the order given there.
  if count != slots.len:
    let noun = if slots.len == 1: " argument, " else: " arguments, "
    fail(Type, "takes " & $slots.len & noun & $count & " given")
  for i in 0 ..< slots.len:
    slots[i].take(signature.params[i], addr args[i])
  if signature.dims.len > 0:
    checkDims(signature, args, slots)
    checkOverlap(signature, slots)

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

template argument*(slot: Slot; T: typedesc): untyped =
  ## A scalar, as the type that the function declares.
  when T is SomeInteger: T(slot.value.i)
  elif T is SomeFloat: T(slot.value.f)
  elif T is bool: slot.value.i != 0
  elif T is string: toText(slot)
  elif T is cstring: cast[cstring](slot.data)
  elif T is Bytes: Bytes(data: cast[ptr UncheckedArray[byte]](slot.data), len: slot.size)
  else: initAnyArray(slot.data, slot.size, slot.dtype, slot.dims, slot.rank)

template vectorOf*(slot: Slot; T: typedesc): untyped =
  toOpenArray(cast[ptr UncheckedArray[T]](slot.data), 0, int(slot.dims[0]) - 1)

func matrixOf*(slot: Slot; T: typedesc): Matrix[T] =
  Matrix[T](data: cast[ptr UncheckedArray[T]](slot.data), rows: int(slot.dims[0]), cols: int(slot.dims[1]),
    rowStride: slot.strides[0], colStride: slot.strides[1])

func paramKind*(T: typedesc): ParamKind =
  ## How a parameter that is no typed array crosses.
  when T is int or T is int64: IntParam
  elif T is float64: FloatParam
  elif T is bool: BoolParam
  elif T is string or T is cstring: StrParam
  elif T is Bytes: BytesParam
  elif T is AnyArray: AnyParam
  else: {.error: "nif: a parameter can't be of type " & $T & "; see docs/abi.md, \"Signatures\"".}

func resultText*(T: typedesc): string =
  ## The type of a result in a signature.
  when T is void: "None"
  elif T is int or T is int64: "i64"
  elif T is uint or T is uint64: "u64"
  elif T is float64: "f64"
  elif T is bool: "bool"
  elif T is cstring: "str"
  elif T is Tensor: "any[...]"
  else: {.error: "nif: a result can't be of type " & $T & "; see docs/abi.md, \"Signatures\"".}

func toAny*[T](value: T): NifAny =
  ## A result as the ABI has it. A `cstring` must live as long as the library: return constants only.
  when T is bool: NifAny(typeIndex: int32 ord(typeBool), v: NifValue(i: int64(value)))
  elif T is SomeInteger: NifAny(typeIndex: int32 ord(typeInt), v: NifValue(i: cast[int64](value)))
  elif T is SomeFloat: NifAny(typeIndex: int32 ord(typeFloat), v: NifValue(f: value))
  elif T is cstring: NifAny(typeIndex: int32 ord(typeStr), v: NifValue(p: cast[pointer](value)))
  else: NifAny(typeIndex: int32 ord(typeTensor), v: NifValue(p: value.handle))

# --- composing a signature (at compile time) ---------------------------------------------------------------

func initSignature*(name, doc: string; flags: set[NifFlag]; answer: string; params: seq[Param];
    dims: seq[seq[string]]): Signature =
  ## `dims` has the dimension names of each parameter as the documentation gives them.
  result = Signature(name: name, doc: doc, flags: bitsOf(flags + (if Pure in flags: {Idempotent} else: {})))
  var spelled: seq[string]
  for i, param in params:
    var param = param
    for dim in dims[i]:
      if param.kind != AnyParam:
        if dim notin result.dims:
          result.dims.add dim
        param.axes.add result.dims.find(dim)
    param.typeText =
      if param.kind in {VectorParam, MatrixParam}: $param.dtype & "[" & dims[i].join(",") & "]"
      else: $param.kind
    spelled.add param.name & ": " & (if param.mutable: "mut " else: "") & param.typeText
    result.params.add param
  for param in result.params.mitems:
    if param.kind == IntParam and param.name in result.dims:
      param.axes = @[result.dims.find(param.name)]
  doAssert result.dims.len <= maxDims, "nif: too many dimension names"
  result.text = name & "(" & spelled.join(", ") & ") -> " & answer
