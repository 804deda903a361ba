## A node table and its data to a frame: first measured and checked, then written in one go. The numbers in the comments
## are those of the checks in docs/wire.md.

import ../[nif, xxh3]
import ./format

{.push raises: [NifError], gcsafe.}

type Encoder* = object
  ## A copy of the table, and the lengths that follow. Too large to be cleared: declare it `noinit`, call `measure`.
  format: Format
  alignment: int
  hasChecksum: bool
  count: int
  rows: array[nodesMax, Node]
  lengths: array[nodesMax, int] ## of the payloads

func refuse(code: Code; row: int) {.noinline, noreturn.} =
  refuse(code, "node", row)

iterator childrenOf(e: Encoder; parent: int): int =
  ## The rows that name it as their parent.
  for row in 0 ..< e.count:
    if e.rows[row].parent == parent:
      yield row

template markerOf(e: Encoder; row: int): Marker =
  markers[int(e.rows[row].marker)]

func layoutOf(e: Encoder; row: int): LayoutId =
  e.format.layoutOf(e.markerOf(row), int(e.rows[row].ndim))

func paddingOf(e: Encoder; row: int): int =
  if e.format.isAligned and e.markerOf(row).kind == Kind.Array: -e.lengths[row] and (e.alignment - 1) else: 0

func frameSize(e: Encoder; row: int): int =
  ## Of a row that was measured.
  layoutSizes[e.layoutOf(row)] + e.lengths[row] + e.paddingOf(row)

func filled(e: Encoder; size: int): int =
  ## In version 2 the next multiple of 64.
  if e.format.version == 1: size else: (size + fillSize - 1) and not (fillSize - 1)

func isWithin(data: openArray[byte]; offset, length: int64): bool =
  offset >= 0 and length >= 0 and length <= data.len and offset <= data.len - length

template slice(data: openArray[byte]; offset, length: int64): openArray[byte] =
  data.toOpenArray(int(offset), int(offset + length) - 1)

# --- measuring ---------------------------------------------------------------------------------------------

func checkShape(e: Encoder; index: int; marker: Marker) =
  ## 7 to 10.
  let row = e.rows[index]
  template demand(condition: bool) =
    if not condition:
      refuse(Code.Value, index)
  if e.format.version == 1:
    demand row.dtype == marker.dtype
    demand row.ndim == marker.ndim
    demand row.order == (if marker.ndim > 1: e.format.order else: 0)
  else:
    demand row.dtype in 0 .. high(Dtype) and Dtype(row.dtype) in marker.dtypes
    demand row.ndim in 0 .. 4 and int(row.ndim) in marker.ndims
    demand row.order in 0 .. ord(row.ndim > 1)
  for axis in 0 .. 3:
    demand axis < row.ndim or row.shape[axis] == 0
    if row.shape[axis] < 0 or row.shape[axis] > int64(e.format.dimensionMax):
      refuse(Code.Dim, index)
  demand row.count == 0 or marker.kind == Kind.Record
  demand index > 0 or row.nameLength == 0

func measureArray(e: var Encoder; index: int) =
  ## 11.
  let row = e.rows[index]
  var shape: array[4, uint64]
  for axis in 0 .. 3:
    shape[axis] = uint64(row.shape[axis])
  let (bytes, fits) = extent(int(row.dtype), shape)
  if not fits:
    refuse(Code.Overflow, index)
  e.lengths[index] = if isEmpty(shape, int(row.ndim)): 0 else: int(bytes)
  let rest = uint64(layoutSizes[e.layoutOf(index)] + e.paddingOf(index))
  if uint64(e.lengths[index]) + rest >= e.format.frameEnd:
    refuse(Code.Overflow, index)

func checkPayload(e: Encoder; data: openArray[byte]; index: int) =
  ## 13.
  let row = e.rows[index]
  if row.dtype == boolCode and firstAbove(data, int(row.dataOffset), int(row.dataOffset + row.dataLength), 1) >= 0:
    refuse(Code.Value, index)
  if row.marker == textureMarker:
    var image: Image
    image.snapshot(data, int(row.dataOffset), layoutSizes[textureLayout])
    if image.read(textureLayout)[Field.Dtype] - 1 >= uint64(high(Dtype)):
      refuse(Code.Value, index)

func checkName(e: Encoder; data: openArray[byte]; child: int; role: Role) =
  ## 16.
  let row = e.rows[child]
  if row.nameLength notin 1 .. nameMax:
    refuse(Code.Limit, child)
  if not data.isWithin(row.nameOffset, row.nameLength):
    refuse(Code.Length, child)
  if not isText(data.slice(row.nameOffset, row.nameLength)):
    refuse(Code.Utf8, child)
  for other in e.childrenOf(int(row.parent)):
    if other == child:
      break
    let (offset, length) = (e.rows[other].nameOffset, e.rows[other].nameLength)
    if length == row.nameLength and data.slice(offset, length) == data.slice(row.nameOffset, length):
      refuse(Code.Duplicate, child)
  if not role.isNamed(data.slice(row.nameOffset, row.nameLength)):
    refuse(Code.Value, child)

func measureFrame(e: var Encoder; data: openArray[byte]; index, depth: int; role: Role): int

func measureRecord(e: var Encoder; data: openArray[byte]; index, depth: int): int =
  ## 14 to 19; returns the row after the last child's.
  let row = e.rows[index]
  let marker = int(row.marker)
  var count = 0
  for _ in e.childrenOf(index):
    inc count
  if row.count != count:
    refuse(Code.Length, index)
  if not accepts(marker, count):
    refuse(Code.Value, index)
  if row.dataLength > nameMax:
    refuse(Code.Limit, index)
  if not isText(data.slice(row.dataOffset, row.dataLength)):
    refuse(Code.Utf8, index)
  var length = 4 + int(row.dataLength)
  var place = 0
  for child in e.childrenOf(index):
    e.checkName(data, child, roleOf(marker, place))
    length += 2 + int(e.rows[child].nameLength)
    inc place
  length = e.filled(length)
  place = 0
  result = index + 1
  for child in e.childrenOf(index):
    if child != result:
      refuse(Code.Value, child)
    let role = roleOf(marker, place)
    result = e.measureFrame(data, child, depth + 1, role)
    role.check(e.rows[child], data, "node", child)
    length += e.filled(e.frameSize(child))
    inc place
  e.lengths[index] = length
  if uint64(e.frameSize(index)) >= e.format.frameEnd:
    refuse(Code.Overflow, index)

func measureFrame(e: var Encoder; data: openArray[byte]; index, depth: int; role: Role): int =
  ## Check a row and those of its children, and measure them; returns the row after them.
  if depth > depthMax:
    refuse(Code.Depth, index)
  let row = e.rows[index]
  if index == 0 and row.parent != -1:
    refuse(Code.Value, index)
  if row.marker notin 0 .. markers.high or e.format.version notin markers[int(row.marker)].versions or
      uint8(row.marker) notin role.markers:
    refuse(Code.Marker, index)
  let marker = markers[int(row.marker)]
  e.checkShape(index, marker)
  e.lengths[index] = marker.fixedSize(int(row.dtype))
  if marker.kind == Kind.Array:
    e.measureArray(index)
  if not data.isWithin(row.dataOffset, row.dataLength):
    refuse(Code.Length, index)
  if marker.kind == Kind.Record:
    return e.measureRecord(data, index, depth)
  if row.dataLength != e.lengths[index]:
    refuse(Code.Length, index)
  e.checkPayload(data, index)
  index + 1

func measure*(e: var Encoder; nodes: Matrix[int64]; data: openArray[byte]; dialect, version, alignment: int64;
    checksum: bool): tuple[lead, size: int] =
  ## All checks; the length of the frame, and how many bytes come before it.
  if version notin 1 .. 2:
    refuse(Code.Version)
  if dialect notin 0 .. dialects.high:
    refuse(Code.Value)
  if not isAlignment(alignment):
    refuse(Code.Align)
  if nodes.rows == 0:
    refuse(Code.Short)
  if nodes.rows > nodesMax:
    refuse(Code.Limit)
  e.format = if version == 2: version2 else: dialects[dialect]
  e.alignment = int(alignment)
  e.hasChecksum = checksum and version == 2
  e.count = nodes.rows
  for row in 0 ..< e.count:
    let target = cast[ptr array[columns, int64]](addr e.rows[row])
    for column in 0 ..< columns:
      target[column] = nodes[row, column]
  let after = e.measureFrame(data, 0, 1, anything)
  if after < e.count:
    refuse(Code.Trailing, after)
  (-layoutSizes[e.layoutOf(0)] and (fillSize - 1), e.frameSize(0))

# --- writing -----------------------------------------------------------------------------------------------

func put16(target: var Summed; number: int) =
  target.put [byte(number and 0xFF), byte(number shr 8)]

func headerOf(e: Encoder; index: int; flags: uint64): Image =
  let row = e.rows[index]
  var numbers: Numbers
  numbers[Field.Magic] = magic
  numbers[Field.Version] = uint64(e.format.version)
  numbers[Field.Marker] = uint64(row.marker)
  numbers[Field.Dtype] = uint64(row.dtype)
  numbers[Field.Ndim] = uint64(row.ndim)
  numbers[Field.Order] = uint64(row.order)
  numbers[Field.Flags] = flags
  for axis in 0 .. 3:
    numbers[Field(ord(Field.Shape0) + axis)] = uint64(row.shape[axis])
  numbers[Field.Payload] = uint64(e.lengths[index])
  numbers[Field.Alignment] = uint64(e.alignment)
  numbers.write(e.layoutOf(index))

func writePayload(e: Encoder; data: openArray[byte]; index: int; target: var Summed)

func writeRecord(e: Encoder; data: openArray[byte]; index: int; target: var Summed) =
  template fill(start: int) =
    let size = target.filled - start
    target.putZeros(e.filled(size) - size)
  let start = target.filled
  let row = e.rows[index]
  target.put16(int(row.count))
  target.put16(int(row.dataLength))
  target.put(data.slice(row.dataOffset, row.dataLength))
  for child in e.childrenOf(index):
    let (offset, length) = (e.rows[child].nameOffset, e.rows[child].nameLength)
    target.put16(int(length))
    target.put(data.slice(offset, length))
  fill(start)
  for child in e.childrenOf(index):
    let begin = target.filled
    target.put(e.headerOf(child, 0).toOpenArray(0, layoutSizes[e.layoutOf(child)] - 1))
    e.writePayload(data, child, target)
    fill(begin)

func writePayload(e: Encoder; data: openArray[byte]; index: int; target: var Summed) =
  let row = e.rows[index]
  if e.markerOf(index).kind == Kind.Record:
    e.writeRecord(data, index, target)
  else:
    target.put(data.slice(row.dataOffset, row.dataLength))
    target.putZeros(e.paddingOf(index))

func write*(e: Encoder; data: openArray[byte]; frame: ptr UncheckedArray[byte]) =
  ## The frame of what was measured; its checksum is made on the way.
  let size = layoutSizes[e.layoutOf(0)]
  var header = e.headerOf(0, uint64(ord(e.hasChecksum)))
  var target = initSummed(cast[ptr UncheckedArray[byte]](addr frame[size]), e.frameSize(0) - size, e.hasChecksum)
  e.writePayload(data, 0, target)
  if e.hasChecksum:
    let sum = target.finish() xor xxh3(header.toOpenArray(0, headerMax - 9))
    copyMem(addr header[headerMax - sizeof(sum)], unsafeAddr sum, sizeof(sum))
  copyMem(frame, addr header, size)
