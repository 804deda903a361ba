## Callbacks: parameters that are functions of the caller's.

import std/macros
import ./abi, ./errors

{.push raises: [], gcsafe.}

type
  Callback*[F] = object
    ## A function of the caller's, Python's as a rule: `f: Callback[proc (x: float): float]`, then `f(x)`.
    ##
    ## Numbers, truth values and `openArray`s go in; a number, a truth value or nothing comes out. A callable gets an array of
    ## its own; what it writes there comes back for a `var openArray`. When it fails (it raised an exception) a `NifError`
    ## of the kind `Raised` is raised, and whoever made the call gets that same exception. It is borrowed for the call.
    ## Other threads may call it in a function that is `Long`, in the direct lane.
    handle*: ptr NifObject

  Number = SomeInteger or SomeFloat or bool

func nameOf(T: typedesc): string =
  ## How signatures spell what goes in and comes out.
  when T is void: "None"
  elif T is bool: "bool"
  elif T is SomeInteger: (if T is SomeUnsignedInt: "u" else: "i") & $(8 * sizeof(T))
  elif T is SomeFloat: "f" & $(8 * sizeof(T))
  else: {.error: "nif: a callback takes numbers, truth values and openArray[T], and gives a number, a truth value or nothing; not " & $T.}

func toAny(value: Number): NifAny {.inline.} =
  when value is bool: NifAny(typeIndex: int32 ord(typeBool), v: NifValue(i: int64(ord(value))))
  elif value is SomeInteger: NifAny(typeIndex: int32 ord(typeInt), v: NifValue(i: cast[int64](value)))
  else: NifAny(typeIndex: int32 ord(typeFloat), v: NifValue(f: float64(value)))

func fromAny(given: NifAny; T: typedesc): T {.inline, raises: [NifError].} =
  # The host has seen to type and range; of a TVM-FFI client's function nobody has.
  let isWhole = given.typeIndex == ord(typeInt) or given.typeIndex == ord(typeBool)
  when T is SomeFloat:
    if given.typeIndex == ord(typeFloat): return T(given.v.f)
    if isWhole: return T(given.v.i)
  elif T is bool:
    if given.typeIndex == ord(typeBool): return given.v.i != 0
  else:
    if isWhole: return cast[T](given.v.i)
  fail(Raised, "a callback gave something else than " & nameOf(T))

func lend[T](tensor: var NifTensor; length: var int64; values: openArray[T]): NifAny =
  ## An array for a callback, in memory that outlives the call.
  length = values.len
  let first = if values.len > 0: cast[pointer](unsafeAddr values[0]) else: nil
  tensor = NifTensor(data: first, device: NifDevice(typeId: cpuDevice), ndim: 1, dtype: dtypeOf(T),
    shape: cast[ptr UncheckedArray[int64]](addr length))
  NifAny(typeIndex: int32 ord(typeTensor), v: NifValue(p: addr tensor))

proc invoke(handle: ptr NifObject; values: openArray[NifAny]): NifAny {.raises: [NifError].} =
  let first = if values.len > 0: cast[NifArgs](unsafeAddr values[0]) else: nil
  if handle.call(handle, first, int32(values.len), addr result) != 0:
    fail(Raised, "a callback raised an exception")

proc plain(it: NimNode): NimNode =
  if it.kind == nnkSym: ident(it.strVal) else: it # a symbol alone would be taken for a value

proc typesOf(function: NimNode): seq[NimNode] =
  ## The result's type and the parameters', of a `proc` type.
  let params = function.findChild(it.kind == nnkFormalParams)
  result.add(if params[0].kind == nnkEmpty: ident"void" else: plain(params[0]))
  for group in params[1 .. ^1]:
    for _ in group[0 ..< ^2]:
      result.add plain(group[^2])

proc elementsOf(it: NimNode): NimNode =
  ## The element type of an `openArray` or a `seq`; nil for any other type.
  let array = if it.kind == nnkVarTy: it[0] else: it
  if array.kind == nnkBracketExpr and (array[0].eqIdent("openArray") or array[0].eqIdent("seq")): plain(array[1]) else: nil

func arrayText(dtype: NifDtype; isMutable: bool): string =
  (if isMutable: "mut " else: "") & $dtype & "[_]"

macro spelled(F: typedesc): string =
  let types = typesOf(F.getTypeInst[1])
  if types.len > 7:
    error("nif: a callback takes up to six values", F)
  result = newLit("fn(")
  for i, it in types[1 .. ^1]:
    let element = elementsOf(it)
    let text =
      if element == nil: newCall(bindSym"nameOf", it)
      else: newCall(bindSym"arrayText", newCall(bindSym"dtypeOf", element), newLit(it.kind == nnkVarTy))
    result = newCall(bindSym"&", result, text)
    if i < types.len - 2:
      result = newCall(bindSym"&", result, newLit(","))
  result = newCall(bindSym"&", newCall(bindSym"&", result, newLit(")->")), newCall(bindSym"nameOf", types[0]))

func callbackText*[F](T: typedesc[Callback[F]]): string =
  ## How signatures spell the type: "fn(f64,i64)->f64".
  spelled(F)

macro called(F: typedesc; handle: untyped; values: varargs[untyped]): untyped =
  let types = typesOf(F.getTypeInst[1])
  if types.len - 1 != values.len:
    error("nif: this callback takes " & $(types.len - 1) & " values, not " & $values.len, handle)
  let given = newNimNode(nnkBracket)
  let lent = newStmtList()
  for i, value in values:
    if elementsOf(types[i + 1]) == nil:
      given.add newCall(bindSym"toAny", newCall(types[i + 1], value))
    else:
      let (tensor, length) = (genSym(nskVar, "tensor"), genSym(nskVar, "length"))
      lent.add quote do:
        var (`tensor`, `length`) = (NifTensor(), 0'i64)
      given.add newCall(bindSym"lend", tensor, length, value)
  let all = if values.len > 0: given else: (quote do: default(array[0, NifAny]))
  let answer = newCall(bindSym"invoke", handle, all)
  let call =
    if types[0].eqIdent("void"): newTree(nnkDiscardStmt, answer)
    else: newCall(bindSym"fromAny", answer, types[0])
  if lent.len == 0:
    result = call
  else:
    lent.add call
    result = newBlockStmt(lent)

template call*[F](f: Callback[F]; values: varargs[untyped]): untyped =
  ## Call it.
  called(F, f.handle, values)
