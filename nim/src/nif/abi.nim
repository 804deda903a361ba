## The structs of `nif_lab.h`, and their layout as numbers, as text and as a hash.

import std/macros
import ./text

{.push raises: [], gcsafe.}

const
  abiVersion* = 1'u32
  cpuDevice* = 1'i32
  tvmHeaderSize* = 24 ## of an object that a TVM-FFI client sends; the value follows it

type
  NifType* {.size: sizeof(int32).} = enum
    ## What a `NifAny` holds; other numbers are possible and no type of ours.
    typeNone = 0, typeInt = 1, typeBool = 2, typeFloat = 3, typeDtype = 5, typeDevice = 6, typeTensor = 7,
    typeStr = 8, typeBytes = 9, typeTvmSmallStr = 11, typeTvmSmallBytes = 12, typeTvmStr = 65,
    typeTvmBytes = 66, typeTvmFunction = 68, typeTvmTensor = 70

  NifFlag* = enum
    ## What the Lab may do with a function; bit n of `NifFunction.flags`.
    Long          ## release the GIL
    Idempotent    ## may be retried
    Pure          ## no effect but the result; implies `Idempotent`
    ThreadBound   ## call it on the thread that opened the library
    PollsCancel   ## asks `cancelled()`
    Fault         ## fails on purpose

  NifDtype* {.bycopy.} = object
    code*, bits*: uint8
    lanes*: uint16

  NifDevice* {.bycopy.} = object
    typeId*, id*: int32

  NifTensor* {.bycopy.} = object
    data*: pointer
    device*: NifDevice
    ndim*: int32
    dtype*: NifDtype
    shape*, strides*: ptr UncheckedArray[int64]
    byteOffset*: uint64

  NifBytes* {.bycopy.} = object
    data*: ptr UncheckedArray[char]
    size*: csize_t

  NifValue* {.bycopy, union.} = object
    i*: int64
    f*: float64
    p*: pointer
    dtype*: NifDtype
    device*: NifDevice
    small*: array[8, char]

  NifAny* {.bycopy.} = object
    typeIndex*: int32
    zero*: uint32
    v*: NifValue

  NifGpu* {.bycopy.} = object
    ## What a host offers for GPUs: see nif_lab.h. Each returns 0, or a code of which `message` says more.
    structSize*, zero*: uint32
    tensor*: proc (number: uint64; isWritten: int32; target: ptr NifTensor): int32 {.cdecl, raises: [], gcsafe.}
    fill*: proc (target: ptr NifTensor; value: float64): int32 {.cdecl, raises: [], gcsafe.}
    copy*: proc (target, source: ptr NifTensor): int32 {.cdecl, raises: [], gcsafe.}
    launch*: proc (kernel: uint64; shape: ptr uint32; arguments: pointer; size: uint64; places: ptr uint32;
      nPlaces: uint64): int32 {.cdecl, raises: [], gcsafe.}
    synchronize*: proc (device: int32): int32 {.cdecl, raises: [], gcsafe.}
    message*: proc (): cstring {.cdecl, raises: [], gcsafe.}

  NifHost* {.bycopy.} = object
    structSize*, abiVersion*: uint32
    setError*: proc (env: ptr NifEnv; kind: int32; message: cstring; argument: int32) {.cdecl, raises: [], gcsafe.}
    allocTensor*: proc (dtype: NifDtype; ndim: int32; shape: ptr int64): ptr NifTensor {.cdecl, raises: [], gcsafe.}
    log*: proc (level: int32; message: cstring) {.cdecl, raises: [], gcsafe.}
    progress*: proc (done, total: int64) {.cdecl, raises: [], gcsafe.}
    gpu*: ptr NifGpu ## nil in a host without

  NifEnv* {.bycopy.} = object
    structSize*, nResults*: uint32 ## `nResults`: values that there is room for; 0 counts as 1
    host*: ptr NifHost
    error*: pointer
    cancel*: ptr int32

  NifArgs* = ptr UncheckedArray[NifAny]

  NifObject* {.bycopy.} = object
    ## A function of the caller's: the header of a TVM object, and how to call it.
    refCount*: uint64
    typeIndex*: int32
    padding*: uint32
    deleter*: pointer
    call*: proc (self: ptr NifObject; args: NifArgs; count: int32; target: ptr NifAny): int32
      {.cdecl, raises: [], gcsafe.}
    cppCall*: pointer

  NifCall* = proc (env: ptr NifEnv; args: NifArgs; count: int32; target: ptr NifAny): int32
    {.cdecl, raises: [], gcsafe.}

  NifFunction* {.bycopy.} = object
    name*, signature*, doc*: cstring
    call*: NifCall
    flags*, zero*: uint32

  NifLibrary* {.bycopy.} = object
    abiVersion*, structHash*: uint32
    language*, compiler*, libraryVersion*: cstring
    nFunctions*, zero*: uint32
    functions*: ptr NifFunction
    load*: proc (host: ptr NifHost): int32 {.cdecl, raises: [], gcsafe.}
    unload*: proc () {.cdecl, raises: [], gcsafe.}

  Float16* = distinct uint16
    ## The bits of a half-precision number: Nim has no such type, arrays have.

  Bool* = distinct uint8
    ## A truth value in an array: 0 is false, any other byte is true. Memory of others may hold any byte, and Nim's
    ## `bool` only 0 and 1. It turns into a `bool` wherever one is wanted, and a `bool` into it.

converter toBool*(element: Bool): bool {.inline.} = uint8(element) != 0
converter toElement*(value: bool): Bool {.inline.} = Bool(ord(value))

func bitsOf*(flags: set[NifFlag]): uint32 =
  for flag in flags:
    result = result or 1'u32 shl ord(flag)

# --- element types -----------------------------------------------------------------------------------------

const elements = {
  "bool": NifDtype(code: 6, bits: 8, lanes: 1),
  "i8": NifDtype(code: 0, bits: 8, lanes: 1),
  "i16": NifDtype(code: 0, bits: 16, lanes: 1),
  "i32": NifDtype(code: 0, bits: 32, lanes: 1),
  "i64": NifDtype(code: 0, bits: 64, lanes: 1),
  "u8": NifDtype(code: 1, bits: 8, lanes: 1),
  "u16": NifDtype(code: 1, bits: 16, lanes: 1),
  "u32": NifDtype(code: 1, bits: 32, lanes: 1),
  "u64": NifDtype(code: 1, bits: 64, lanes: 1),
  "f16": NifDtype(code: 2, bits: 16, lanes: 1),
  "f32": NifDtype(code: 2, bits: 32, lanes: 1),
  "f64": NifDtype(code: 2, bits: 64, lanes: 1),
  "c64": NifDtype(code: 5, bits: 64, lanes: 1),
  "c128": NifDtype(code: 5, bits: 128, lanes: 1),
}

func `==`*(left, right: NifDtype): bool {.inline.} =
  left.code == right.code and left.bits == right.bits and left.lanes == right.lanes

func isElement*(dtype: NifDtype): bool =
  ## Whether arrays may have such elements.
  for (_, known) in elements:
    if known == dtype:
      return true

func `$`*(dtype: NifDtype): string =
  ## The name in a signature; an element type without one is spelled `code/bits/lanes`.
  for (name, known) in elements:
    if known == dtype:
      return name
  $dtype.code & "/" & $dtype.bits & "/" & $dtype.lanes

func isComplex*(T: typedesc): bool =
  ## Whether it is of `std/complex`. Importing that would double the time in which a cell compiles.
  when T is object and compiles(T().re) and compiles(T().im):
    T().re is SomeFloat and T().im is SomeFloat and sizeof(T) == 2 * sizeof(T().re)
  else:
    false

func dtypeOf*(T: typedesc): NifDtype =
  ## The element type of an array of `T`.
  const code =
    when T is Bool: 6
    elif T is bool:
      {.error: "nif: write Bool for the elements of an array: it may hold any byte, of which all but 0 are true".}
    elif T is SomeSignedInt: 0
    elif T is SomeUnsignedInt: 1
    elif T is SomeFloat or T is Float16: 2
    elif isComplex(T): 5
    else: {.error: "nif: an array can't have elements of type " & $T.}
  NifDtype(code: code, bits: uint8(8 * sizeof(T)), lanes: 1)

func elementSize*(dtype: NifDtype): int {.inline.} =
  ## In bytes.
  int(dtype.bits) div 8

func elementAlignment*(dtype: NifDtype): int {.inline.} =
  ## In bytes; a complex number's is that of its parts.
  if dtype.code == 5: dtype.elementSize div 2 else: dtype.elementSize

# --- layout ------------------------------------------------------------------------------------------------

func snakeCase(name: string): string =
  for i, c in name:
    if c.isUpperAscii and i > 0:
      result.add '_'
    result.add c.toLowerAscii

type
  Place = object
    ## Where a field lies; of a struct as a whole the offset is 0.
    name: string
    offset, size: int

macro placesOf(T: typedesc): seq[Place] =
  ## The struct, then each of its fields, as the compiler lays them out; the names are spelled as in C.
  let struct = T.getTypeInst[1]
  let name = snakeCase($struct)
  var places = @[Place(name: name, size: struct.getSize)]
  for field in struct.getTypeImpl[2]:
    places.add Place(name: name & "." & snakeCase($field[0]), offset: field[0].getOffset, size: field[1].getSize)
  newLit(places)

const structs = [
  placesOf(NifTensor), placesOf(NifBytes), placesOf(NifAny), placesOf(NifHost), placesOf(NifEnv),
  placesOf(NifFunction), placesOf(NifLibrary),
]

func numbers(places: openArray[Place]): seq[int] =
  ## The size of the struct and the offsets of its fields.
  result = @[places[0].size]
  for i in 1 .. places.high:
    result.add places[i].offset

static: # sizes and offsets as a C compiler sees them in nif_lab.h
  doAssert numbers(structs[0]) == @[48, 0, 8, 16, 20, 24, 32, 40]
  doAssert numbers(structs[1]) == @[16, 0, 8]
  doAssert numbers(structs[2]) == @[16, 0, 4, 8]
  doAssert numbers(structs[3]) == @[48, 0, 4, 8, 16, 24, 32, 40]
  doAssert numbers(structs[4]) == @[32, 0, 4, 8, 16, 24]
  doAssert numbers(structs[5]) == @[40, 0, 8, 16, 24, 32, 36]
  doAssert numbers(structs[6]) == @[64, 0, 4, 8, 16, 24, 32, 36, 40, 48, 56]
  doAssert sizeof(NifGpu) == 56 and offsetOf(NifGpu, tensor) == 8
  doAssert sizeof(NifObject) == 40 and offsetOf(NifObject, call) == tvmHeaderSize
  doAssert sizeof(NifDtype) == 4 and sizeof(NifDevice) == 8 and sizeof(NifValue) == 8

func hashOf(structs: openArray[seq[Place]]): uint32 =
  result = 2166136261'u32
  for places in structs:
    for number in numbers(places):
      result = (result xor uint32(number)) * 16777619'u32

func textOf(structs: openArray[seq[Place]]): string =
  for places in structs:
    for i, place in places:
      let offset = if i == 0: "" else: $place.offset & " "
      result.add place.name & " " & offset & $place.size & "\n"
  result.stripLineEnd

const
  structHash* = hashOf(structs)
  layoutText* = textOf(structs)
