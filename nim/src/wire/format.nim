## The wire format of docs/wire.md as data: refusals, types, layouts, records and the node table.

import std/[macros, strutils]
import ../nif

{.push raises: [], gcsafe.}

const
  depthMax* = 64
  nodesMax* = 512
  nameMax* = 255
  headerMax* = 64       ## bytes of the longest header, version 2's
  magic* = 0x46494E89'u64
  fillSize* = 64        ## version 2: the parts of a record begin at multiples of it

static:
  doAssert cpuEndian == littleEndian, "numbers are copied as they are"

# --- refusals ----------------------------------------------------------------------------------------------

type Code* {.pure.} = enum
  ## What can be wrong, in words.
  Short = "SHORT: the frame ends within its header"
  Version = "VERSION: not a frame of the expected version"
  Marker = "MARKER: no such type, or not accepted here"
  Overflow = "OVERFLOW: the size is more than the format can express"
  Length = "LENGTH: sizes and the bytes that are there do not agree"
  Trailing = "TRAILING: bytes after the end"
  Dim = "DIM: a dimension above the limit"
  Align = "ALIGN: the alignment is not 1, 2, 4, 8, 16, 32 or 64"
  Pad = "PAD: padding is not zero"
  Value = "VALUE: a value that is not allowed here"
  Handle = "HANDLE: no such device block, or not as described"
  Stale = "STALE: the handle's block was freed"
  Depth = "DEPTH: nested more than 64 deep"
  Limit = "LIMIT: more than 512 values, or a name that is empty or over 255 bytes"
  Duplicate = "DUPLICATE: two children of one name"
  Utf8 = "UTF8: a name that is not UTF-8, or contains NUL"
  Checksum = "CHECKSUM: the checksum is wrong"

{.pragma: refusal, noinline, noreturn, raises: [NifError].}

func refuse*(code: Code) {.refusal.} =
  ## An argument is at fault.
  fail(ErrorKind.Value, $code)

func refuse*(code: Code; unit: string; place: int) {.refusal.} =
  fail(ErrorKind.Value, $code & " (" & unit & " " & $place & ")")

# --- types -------------------------------------------------------------------------------------------------

type
  Kind* {.pure.} = enum
    ## What a marker's payload is.
    Unknown, Scalar, Array, Device, Record

  Dtype* = range[0 .. 14] ## code of an element type; 0: none

  Marker* = object
    ## A type of value.
    kind*: Kind
    dtypes*: set[Dtype]  ## that it may have in version 2
    ndims*: set[0 .. 4]  ## numbers of axes that it may have there
    dtype*, ndim*: int   ## the ones of version 1
    versions*: set[1 .. 2]
    size*: int           ## bytes of a device type's payload

const
  sizes*: array[Dtype, int] = [0, 4, 8, 4, 8, 1, 1, 2, 1, 2, 4, 8, 2, 8, 16]
  boolCode* = 5
  int32Marker = 0x03'u8
  textureMarker* = 0x31

func marker(kind: Kind; dtype: Dtype = 0; ndim: range[0 .. 4] = 0; size = 0): Marker =
  Marker(kind: kind, dtypes: {dtype}, ndims: {ndim}, dtype: dtype, ndim: ndim, versions: {1, 2}, size: size)

func allMarkers(): array[256, Marker] =
  for code in 1 .. 5:
    result[code] = marker(Kind.Scalar, Dtype(code))
  for i in 0 .. 3:
    result[0x10 + i] = marker(Kind.Array, Dtype(i + 1), 1)
    result[0x20 + i] = marker(Kind.Array, Dtype(i mod 2 + 1), i div 2 + 2)
  result[0x30] = marker(Kind.Device, size = 20)
  result[textureMarker] = marker(Kind.Device, size = 28)
  for code in 0x40 .. 0x42:
    result[code] = marker(Kind.Record)
  result[0x50] = marker(Kind.Array, 14, 1)
  result[0x50].dtypes.incl 13
  result[0x60] = Marker(kind: Kind.Array, dtypes: {Dtype(1) .. Dtype(14)}, ndims: {0 .. 4}, versions: {2})

const markers* = allMarkers() ## by code; of those that there aren't the kind is `Unknown`

func fixedSize*(marker: Marker; dtype: int): int =
  ## Bytes of the payload of a scalar or device type; 0 for others.
  case marker.kind
  of Kind.Scalar: sizes[dtype]
  of Kind.Device: marker.size
  else: 0

func extent*(dtype: int; shape: array[4, uint64]): tuple[bytes: uint64, fits: bool] =
  ## The element size times all dimensions that aren't 0, and whether that is below 2^63. Each is 2^40 at most.
  result = (uint64(sizes[dtype]), true)
  for dimension in shape:
    if dimension > 1:
      # Both below 2^31: most often so, and a division is slow.
      if (result.bytes or dimension) shr 31 != 0 and result.bytes > uint64(high(int64)) div dimension:
        return (0'u64, false)
      result.bytes *= dimension

func isEmpty*(shape: array[4, uint64]; ndim: int): bool =
  for axis in 0 ..< ndim:
    if shape[axis] == 0:
      return true

func isAlignment*(number: int64): bool =
  number in 1'i64 .. 64 and (number and (number - 1)) == 0

# --- layouts -----------------------------------------------------------------------------------------------

type
  Field* {.pure.} = enum
    ## What stands in headers and in device types' payloads.
    Magic, Version, Marker, Dtype, Ndim, Order, Flags, Reserved, Shape0, Shape1, Shape2, Shape3, Payload, Alignment,
    Checksum, Handle, Size, Height, Width, Channels, Device

  Numbers* = array[Field, uint64]

  Place = object
    field: Field
    at, size: int

  Format* = object
    ## Version 2, or a dialect of version 1.
    version*: int
    order*: int           ## of axes, where the header doesn't say
    isAligned*: bool      ## whether arrays have an alignment and padding
    dimensionMax*: uint64
    frameEnd*: uint64     ## a frame is shorter
    start*: LayoutId      ## the layout that has what all headers begin with

  LayoutId* = range[0 .. 17]

  Image* = array[headerMax, byte] ## a header, or a device type's payload, byte for byte

func layout(text: string): seq[Place] =
  ## Read "version 1, marker 1": names and sizes in bytes.
  var at = 0
  for part in text.split(", "):
    let words = part.split(' ')
    let size = ord(words[1][0]) - ord('0')
    for field in Field:
      if cmpIgnoreCase($field, words[0]) == 0:
        result.add Place(field: field, at: at, size: size)
    at += size

func allLayouts(): seq[seq[Place]] =
  result.add layout("magic 4, version 1, marker 1, dtype 1, ndim 1, order 1, flags 1, reserved 6, shape0 8, " &
    "shape1 8, shape2 8, shape3 8, payload 8, checksum 8")
  result.add layout("handle 8, size 8, device 4")
  result.add layout("handle 8, height 4, width 4, channels 4, dtype 4, device 4")
  for (size, ending) in [("4", ""), ("4", ", alignment 1"), ("8", "")]:
    var start = "version 1, marker 1"
    result.add layout(start)
    result.add layout(start & ", payload " & size)
    for axis in 0 .. 2:
      start.add ", shape" & $axis & " " & size
      result.add layout(start & ending)

const
  layouts = allLayouts()
  bufferLayout* = LayoutId(1)
  textureLayout* = LayoutId(2)
  recordStep = 1 ## from a version 1 format's first layout to that of records
  axesStep = 1   ## to that of arrays with n axes: this + n
  version2* = Format(version: 2, dimensionMax: 1'u64 shl 40, frameEnd: 1'u64 shl 63, start: 0)
  dialects* = [
    Format(version: 1, dimensionMax: 1'u64 shl 31 - 1, frameEnd: 1'u64 shl 32, start: 3),
    Format(version: 1, dimensionMax: 1'u64 shl 31 - 1, frameEnd: 1'u64 shl 32, start: 8, isAligned: true),
    Format(version: 1, dimensionMax: 1'u64 shl 40, frameEnd: 1'u64 shl 63, start: 13),
    Format(version: 1, dimensionMax: 1'u64 shl 40, frameEnd: 1'u64 shl 63, start: 13, order: 1),
  ]

func allSizes(): array[LayoutId, int] =
  for id, places in layouts:
    result[id] = places[^1].at + places[^1].size

const layoutSizes* = allSizes() ## in bytes

func layoutOf*(format: Format; marker: Marker; ndim: int): LayoutId =
  ## The layout of a header.
  if format.version == 2: format.start
  else:
    case marker.kind
    of Kind.Array: format.start + axesStep + ndim
    of Kind.Record: format.start + recordStep
    else: format.start

macro eachPlace(layout: LayoutId; place, body: untyped): untyped =
  ## `body` for each field of a layout, `place` a constant in it: a branch for each layout, in it no loop.
  result = newTree(nnkCaseStmt, layout)
  for id, places in layouts:
    let branch = newStmtList()
    for it in places:
      branch.add newBlockStmt(newStmtList(newConstStmt(place, newLit(it)), body.copyNimTree))
    result.add newTree(nnkOfBranch, newLit(id), branch)

func read*(image: Image; layout: LayoutId): Numbers =
  ## The numbers of a layout; others are 0.
  eachPlace(layout, place):
    copyMem(addr result[place.field], unsafeAddr image[place.at], place.size)

func write*(numbers: Numbers; layout: LayoutId): Image =
  eachPlace(layout, place):
    copyMem(addr result[place.at], unsafeAddr numbers[place.field], place.size)

func offset*(layout: LayoutId; field: Field): int {.noinline.} =
  ## Where a field is in a layout that has it.
  for place in layouts[layout]:
    if place.field == field:
      return place.at

# --- records -----------------------------------------------------------------------------------------------

type
  Role* = object
    ## What a record's child must be.
    name*: string           ## empty: any
    number*: int            ## that comes before the name, with a dot; -1: none
    markers*: set[uint8]
    below*: int64           ## a scalar is 0 or more and below this; 0: any number
    length*: int64          ## of an array, in elements; -1: any

  Record = object
    ## The children: first the fixed ones, then whole groups, or any others.
    fixed, group: seq[Role]
    others: bool

func role(name: string; markers: set[uint8]; below = 0'i64; length = -1'i64): Role =
  Role(name: name, number: -1, markers: markers, below: below, length: length)

const
  anything* = role("", {0'u8 .. 255'u8})
  records: array[0x40 .. 0x42, Record] = [
    Record(group: @[role("weights", {0x20'u8, 0x21}), role("bias", {0x10'u8, 0x11}),
      role("activation", {int32Marker}, below = 5)]),
    Record(group: @[role("shape", {0x13'u8}), role("dtype", {int32Marker}, below = 15)]),
    Record(fixed: @[role("grid", {0x12'u8}, length = 3), role("block", {0x12'u8}, length = 3)], others: true),
  ]

func accepts*(marker: range[0x40 .. 0x42]; count: int): bool =
  ## Whether the record can have so many children.
  let rest = count - records[marker].fixed.len
  rest >= 0 and (records[marker].others or rest mod records[marker].group.len == 0)

func roleOf*(marker: range[0x40 .. 0x42]; index: int): Role =
  ## What the child at this index must be.
  let (fixed, group) = (records[marker].fixed.len, records[marker].group.len)
  if index < fixed:
    result = records[marker].fixed[index]
  elif group > 0:
    result = records[marker].group[(index - fixed) mod group]
    result.number = (index - fixed) div group
  else:
    result = anything

func isNamed*(role: Role; text: openArray[byte]): bool =
  ## Whether a name is the role's. It is compared from its end, without being written out.
  if role.name.len == 0:
    return true
  var at = text.len
  for i in countdown(role.name.high, 0):
    dec at
    if at < 0 or text[at] != byte(role.name[i]):
      return false
  if role.number < 0:
    return at == 0
  dec at
  if at < 0 or text[at] != byte('.'):
    return false
  var rest = role.number
  while true:
    dec at
    if at < 0 or text[at] != byte(ord('0') + rest mod 10):
      return false
    rest = rest div 10
    if rest == 0:
      return at == 0

# --- texts and other bytes ---------------------------------------------------------------------------------

func isText*(text: openArray[byte]): bool =
  ## Whether it is UTF-8 without NUL, by Unicode's table of well-formed byte sequences.
  var at = 0
  while at < text.len:
    let (more, low, high) = case text[at]
      of 0x01 .. 0x7F: (0, 0x80'u8, 0xBF'u8)
      of 0xC2 .. 0xDF: (1, 0x80'u8, 0xBF'u8)
      of 0xE0: (2, 0xA0'u8, 0xBF'u8)
      of 0xED: (2, 0x80'u8, 0x9F'u8) # no surrogates
      of 0xE1 .. 0xEC, 0xEE, 0xEF: (2, 0x80'u8, 0xBF'u8)
      of 0xF0: (3, 0x90'u8, 0xBF'u8)
      of 0xF1 .. 0xF3: (3, 0x80'u8, 0xBF'u8)
      of 0xF4: (3, 0x80'u8, 0x8F'u8)
      else: return false
    if at + more >= text.len:
      return false
    for i in 1 .. more:
      let least = if i == 1: low else: 0x80'u8
      let most = if i == 1: high else: 0xBF'u8
      if text[at + i] < least or text[at + i] > most:
        return false
    at += more + 1
  true

func snapshot*(target: var openArray[byte]; source: openArray[byte]; at, size: int) {.inline.} =
  ## Copy bytes that another process may be writing; what is decided then rests on the copy.
  if size > 0:
    copyMem(addr target[0], unsafeAddr source.toOpenArray(at, at + size - 1)[0], size)
  {.cast(noSideEffect).}:
    atomicSignalFence(ATOMIC_ACQ_REL) # so that no compiler reads them again instead

func firstAbove*(bytes: openArray[byte]; at, stop: int; most: byte): int =
  ## The place of the first byte above `most`; -1: there is none.
  var part {.noinit.}: Image
  for start in countup(at, stop - 1, part.len):
    let size = min(part.len, stop - start)
    if size < part.len:
      zeroMem(addr part, part.len)
    part.snapshot(bytes, start, size)
    var highest = 0'u8
    for it in part:
      highest = max(highest, it)
    if highest > most:
      for i, it in part:
        if it > most:
          return start + i
  -1

# --- the node table ----------------------------------------------------------------------------------------

type Node* = object
  ## One value, as docs/wire.md has its columns.
  marker*, dtype*, ndim*: int64
  shape*: array[4, int64]
  order*, dataOffset*, dataLength*, nameOffset*, nameLength*, parent*, count*: int64

const columns* = sizeof(Node) div sizeof(int64)

static:
  doAssert columns == 14 and layouts.len == high(LayoutId) + 1

func check*(role: Role; row: Node; bytes: openArray[byte]; unit: string; place: int) {.raises: [NifError].} =
  ## Check that a child is within its role's bounds; `bytes` have its payload.
  if role.length >= 0 and row.shape[0] != role.length:
    refuse(Code.Value, unit, place)
  if role.below > 0:
    var number: int32
    copyMem(addr number, unsafeAddr bytes.toOpenArray(int(row.dataOffset), int(row.dataOffset) + 3)[0], sizeof(number))
    if number < 0 or number >= role.below:
      refuse(Code.Value, unit, place)
