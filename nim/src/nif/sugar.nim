## The pragma `{.nif.}`: turns a plain proc into a NIF.

import std/[macros, options]
import ./abi, ./args, ./errors, ./results, ./text

{.push raises: [], gcsafe.}

var functions: seq[NifFunction]
  ## Filled by the modules' own initialisation while the library is being loaded, and only read afterwards.

proc register*(signature: static Signature; call: NifCall) =
  ## Put a function into the table.
  const (name, text, doc) = (signature.name, signature.text, signature.doc)
  {.cast(gcsafe).}:
    functions.add NifFunction(name: name, signature: text, doc: doc, call: call, flags: signature.flags)

proc table*(): (ptr NifFunction, int) =
  ## The functions registered, and how many there are.
  {.cast(gcsafe).}:
    ((if functions.len > 0: addr functions[0] else: nil), functions.len)

proc explain(signature: Signature; env: ptr NifEnv; error: ref Exception) {.noinline.} =
  ## Tell the caller what was raised.
  if error of NifError:
    let error = (ref NifError)(error)
    report(env, signature.name, error.kind, error.msg, error.argument, signature.indexOf(error.argument))
  else:
    let kind =
      if error of ValueError: Value
      elif error of IndexDefect: Index
      elif error of OutOfMemDefect: Memory
      else: Panic
    report(env, signature.name, kind, error.msg, "", -1)

template guarded*(signature: Signature; env: ptr NifEnv; body: untyped): int32 =
  ## Run `body`; whatever it raises ends here, as an error that the caller is told.
  when signature.asks:
    let outer = enterCall(env)
  var status = 0'i32
  try:
    body
  except CatchableError, Defect: # everything that Nim can raise
    explain(signature, env, getCurrentException())
    status = -1
  when signature.asks:
    leaveCall(outer)
  status

proc checkBools*(slot: Slot; name: string) {.raises: [NifError].} =
  ## Nim's bool is 0 or 1; the caller's memory may hold any byte.
  let bytes = cast[ptr UncheckedArray[byte]](slot.data)
  var all = 0'u8
  for i in 0 ..< int(slot.dims[0]):
    all = all or bytes[i]
  if all > 1:
    for i in 0 ..< int(slot.dims[0]):
      if bytes[i] > 1:
        fail(Value, name, "expected bytes of 0 and 1, got " & $bytes[i] & " (x != 0 has such)")

template setResult*(target: ptr NifAny; call: untyped) =
  ## Call the function and set its result; it stays untouched when the call fails.
  when typeof(call) is void:
    call
    target[] = NifAny()
  else:
    write(target, call)

# --- the documentation's first line ------------------------------------------------------------------------

type DocCall = object
  name: string
  params: seq[tuple[name: string, dims: seq[string]]]
  rest: string ## what follows the call

func parseCall(text: string): DocCall =
  ## Read "`dot(x[n], y[n])`: inner product." The code marks may be missing. An empty name: it is no such line.
  const identifier = {'a' .. 'z', 'A' .. 'Z', '0' .. '9', '_'}
  let close = text.find(')')
  let open = text.find('(')
  let name = text[0 ..< max(open, 0)].strip(chars = {'`', ' '})
  if close < open or name.len == 0 or not name.allCharsInSet(identifier):
    return
  result.name = name
  var depth = 0
  var part = ""
  for c in text[open + 1 .. close]:
    case c
    of '[': inc depth
    of ']': dec depth
    else: discard
    if c == ')' or (c == ',' and depth == 0):
      if part.strip.len > 0:
        let pieces = part.strip.strip(leading = false, chars = {']'}).split('[', maxsplit = 1)
        var dims: seq[string]
        if pieces.len > 1:
          for dim in pieces[1].split(','):
            dims.add dim.strip
        result.params.add (pieces[0].strip, dims)
      part = ""
    else:
      part.add c
  result.rest = text[close + 1 .. ^1].strip(trailing = false, chars = {'`', '.', ':', ' '})
  result.rest = result.rest.splitWhitespace.join(" ")

func startsWithCall(text: string): bool =
  ## Whether a documentation begins with a name and a parenthesis.
  let text = text.strip(chars = {'`', ' '})
  let name = text.find(AllChars - IdentChars)
  name > 0 and text[name] == '('

func insideOption(declared: NimNode): NimNode =
  ## The type that a parameter has when it is there.
  if declared.kind == nnkBracketExpr and declared.len == 2 and declared[0].eqIdent("Option"): declared[1] else: declared

func isTexts(plain: NimNode): bool =
  plain.kind == nnkBracketExpr and plain.len == 2 and (plain[0].eqIdent("seq") or plain[0].eqIdent("openArray")) and
    plain[1].eqIdent("string")

func suggestedCall(routine: NimNode; text: string): DocCall =
  ## The call of a routine that doesn't document it: each array that is read has lengths of its own (n, n2), and an output
  ## those of the first one with as many axes.
  result = DocCall(name: $routine.name, rest: text.splitWhitespace.join(" "))
  var scalars: seq[string]
  var written: seq[bool]
  for group in routine.params[1 .. ^1]:
    let plain = insideOption(if group[^2].kind == nnkVarTy: group[^2][0] else: group[^2])
    let head = if plain.kind == nnkBracketExpr: plain[0] else: plain
    let dims =
      if plain.isTexts: @[]
      elif head.eqIdent("openArray") or head.eqIdent("seq"): @["n"]
      elif head.eqIdent("Matrix"): @["m", "n"]
      elif head.eqIdent("AnyArray"): @["..."]
      else: @[]
    for declared in group[0 ..< ^2]:
      result.params.add ($declared, dims)
      written.add group[^2].kind == nnkVarTy
      if dims.len == 0:
        scalars.add $declared
  var read: seq[seq[string]]
  for i, param in result.params.mpairs:
    if param.dims.len == 0 or param.dims[0] == "...":
      continue
    if written[i] and (param.name == "out" or (param.name.len > 3 and param.name[0 .. 3] == "out_")):
      # A parameter that is called n is the length of an output, and of nothing that is read.
      for other in read:
        if other.len == param.dims.len:
          for axis, dim in param.dims.mpairs:
            if dim notin scalars:
              dim = other[axis]
          break
    else:
      for dim in param.dims.mitems:
        if read.len > 0:
          dim.add $(read.len + 1)
        while dim in scalars:
          dim.add '_'
      read.add param.dims

func docOf(routine: NimNode): string =
  ## The documentation comment, or an empty string.
  if routine.body.kind == nnkStmtList and routine.body.len > 0 and routine.body[0].kind == nnkCommentStmt:
    result = routine.body[0].strVal

# --- the pragma --------------------------------------------------------------------------------------------

type Converted = object
  ## What the wrapper needs for one parameter.
  description: NimNode ## an expression of type `Param`
  prepare: NimNode     ## statements before the call, or nil
  value: NimNode       ## the argument of the call
  axes: int            ## dimension names that the documentation has to give

func convert(name: string; declared, default, slot: NimNode): Converted {.raises: [Exception].} =
  ## Decide by the declared type how an argument crosses.
  let mutable = declared.kind == nnkVarTy
  let plain = insideOption(if mutable: declared[0] else: declared)
  let isOptional = declared.kind == nnkBracketExpr and plain != declared
  let isOptionalLit = newLit(isOptional)
  let head = if plain.kind == nnkBracketExpr: $plain[0] else: ""
  let isMutable = newLit(mutable)
  if plain.isTexts and not mutable:
    if default.kind != nnkEmpty and not isOptional:
      error("nif: only numbers, truth values and strings can have a default value", default)
    result.description = quote do:
      Param(name: `name`, kind: TextsParam, optional: `isOptionalLit`)
    result.value = quote do: textsOf(`slot`)
  elif head.eqIdent("openArray") or head.eqIdent("Matrix") or head.eqIdent("seq"):
    if mutable and head.eqIdent("seq"):
      error("nif: a seq is a copy; write var openArray[" & plain[1].repr & "] for an array that is written", declared)
    if default.kind != nnkEmpty and not isOptional:
      error("nif: only numbers, truth values and strings can have a default value", default)
    let element = plain[1]
    let isMatrix = head.eqIdent("Matrix")
    result.axes = if isMatrix: 2 else: 1
    let kind = if isMatrix: bindSym"MatrixParam" else: bindSym"VectorParam"
    let isMask = element.eqIdent("bool") and not isMatrix
    let inMemory = if isMask: ident"Bool" else: element
    result.description = quote do:
      Param(name: `name`, kind: `kind`, mutable: `isMutable`, dtype: dtypeOf(`inMemory`), optional: `isOptionalLit`)
    if isMask:
      result.prepare =
        if isOptional: (quote do: (if not `slot`.absent: checkBools(`slot`, `name`)))
        else: (quote do: checkBools(`slot`, `name`))
    if isOptional:
      result.value = if isMatrix: (quote do: matrixOf(`slot`, `element`)) else: (quote do: @(vectorOf(`slot`, `element`)))
    elif isMatrix:
      let matrix = genSym(nskVar, "matrix")
      result.prepare = quote do:
        var `matrix` = matrixOf(`slot`, `element`)
      result.value = matrix
    elif head.eqIdent("seq"):
      result.value = quote do: @(vectorOf(`slot`, `element`))
    else:
      result.value = quote do: vectorOf(`slot`, `element`)
  else:
    if mutable:
      error("nif: only openArray and Matrix parameters can be written", declared)
    result.axes = if plain.eqIdent("AnyArray"): 1 else: 0
    let value = if default.kind == nnkEmpty: newLit("") else: (quote do: defaultText(`declared`(`default`)))
    result.description = quote do: scalarParam(`name`, `value`, `declared`)
    result.value = quote do: argument(`slot`, `declared`, `name`)
    return
  if isOptional:
    let value = result.value
    result.value = quote do: (if `slot`.absent: none(typeof(`value`)) else: some(`value`))

var exported {.compileTime.}: seq[string]
  ## The names of the functions so far.

proc isNew(name: string): bool {.compileTime.} =
  ## Whether no function before had that name, which belongs to this one from now on.
  {.cast(gcsafe).}:
    result = name notin exported
    exported.add name

proc build(flags, routine: NimNode): NimNode {.raises: [Exception].} =
  let function = routine.name
  if routine[2].kind != nnkEmpty:
    error("nif: '" & $function & "' is generic: write one proc for each type, as in `proc " & $function & "_int(x: int)`",
      routine[2])
  let written = docOf(routine)
  let doc = if written.startsWithCall: parseCall(written) else: suggestedCall(routine, written)
  if doc.name.len == 0 or not function.eqIdent(doc.name):
    error("nif: the documentation of '" & $function & "' must begin with the call, as in `" & $function &
      "(x[n], y[n])`: what it does", routine)
  if not isNew(doc.name):
    error("nif: '" & doc.name & "' is there twice: a NIF has one signature, so give the second another name", function)
  let slots = genSym(nskVar, "slots")
  let params = newNimNode(nnkBracket)
  let dims = newNimNode(nnkBracket)
  let prepare = newStmtList()
  let call = newCall(function)
  for group in routine.params[1 .. ^1]:
    if group[^2].kind == nnkEmpty and group[^1].kind == nnkEmpty:
      error("nif: every parameter needs its type", group)
    let declaredType = if group[^2].kind == nnkEmpty: newCall(ident"typeof", group[^1]) else: group[^2]
    for declared in group[0 ..< ^2]:
      let i = params.len
      if i >= doc.params.len or not declared.eqIdent(doc.params[i].name):
        error("nif: the documentation of '" & $function & "' doesn't have the parameters of its declaration", declared)
      let converted = convert(doc.params[i].name, declaredType, group[^1], newTree(nnkBracketExpr, slots, newLit(i)))
      if converted.axes != doc.params[i].dims.len:
        error("nif: the documentation must give parameter '" & doc.params[i].name & "' " & $converted.axes &
          " dimension(s)", declared)
      params.add converted.description
      dims.add newLit(doc.params[i].dims)
      if converted.prepare != nil:
        prepare.add converted.prepare
      call.add converted.value
  if params.len < doc.params.len:
    error("nif: the documentation names a parameter '" & doc.params[params.len].name & "' that isn't declared", routine)

  let
    name = doc.name
    text = doc.rest
    returned = if routine.params[0].kind == nnkEmpty: ident"void" else: routine.params[0]
    count = newLit(params.len)
    symbol = newLit("__tvm_ffi_" & doc.name)
    signature = genSym(nskConst, "signature")
    wrapper = genSym(nskProc, "call")
    (env, args) = (genSym(nskParam, "env"), genSym(nskParam, "args"))
    (given, target) = (genSym(nskParam, "given"), genSym(nskParam, "target"))
    paramList = if params.len == 0: (quote do: newSeq[Param]()) else: newTree(nnkPrefix, ident"@", params)
    dimList = if params.len == 0: (quote do: newSeq[seq[string]]()) else: newTree(nnkPrefix, ident"@", dims)
  quote do:
    `routine`
    const `signature` = initSignature(`name`, `text`, `flags`, resultText(`returned`), `paramList`, `dimList`)
    proc `wrapper`(`env`: ptr NifEnv; `args`: NifArgs; `given`: int32; `target`: ptr NifAny): int32
        {.exportc: `symbol`, dynlib, cdecl, raises: [], gcsafe.} =
      guarded(`signature`, `env`):
        var `slots` {.noinit, used.}: array[`count`, Slot]
        decode(`signature`, `args`, `given`, `slots`)
        `prepare`
        setResult(`target`, `call`)
    register(`signature`, `wrapper`)

macro nif*(routine: untyped): untyped =
  ## Make a proc a NIF: callable from the Lab and, as `__tvm_ffi_<name>`, from TVM-FFI.
  ##
  ## .. code-block:: nim
  ##   func dot(x, y: openArray[float64]): float64 {.nif: {Pure}.} =
  ##     ## `dot(x[n], y[n])`: inner product of two vectors.
  ##     for i in 0 ..< x.len: result += x[i] * y[i]
  ##
  ## Parameters are all integers (one outside its type is refused), `float32`, `float64`, `bool`, `string` (a copy),
  ## `cstring`, `Bytes`, `openArray[T]`, `seq[T]` (a copy), `Matrix[T]` (`var` where it is written), `AnyArray` and `Callback[proc (x: float): float]`; an enum, by the
  ## names of its values; `seq[string]`; and an `Option` of one of these. Scalars and strings may have default values.
  ##
  ## Results are the same scalars; `string`, `ByteSeq`, `seq[T]`, `seq[array[N, T]]` and `array[N, T]`, which are copied
  ## into memory of the host's; `cstring` (a constant); `Tensor`; `Option[T]` of these; a tuple of these (Python's tuple,
  ## or a named one where it has names) or an object, or an `Option` of one; an enum's name; `seq[string]`; or none.
  ##
  ## A `ValueError` is Python's NifValueError, an `IndexDefect` a NifIndexError, an `OutOfMemDefect` a NifMemoryError; all
  ## else that is raised is a NifPanic, and `fail` says the kind itself.
  build(newTree(nnkCurly), routine)

macro nif*(flags: untyped; routine: untyped): untyped =
  ## The same, with flags: `{.nif: {Long, Idempotent}.}`.
  build(flags, routine)
