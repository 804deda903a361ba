## A frame to its node table. The numbers in the comments are those of the checks in docs/wire.md.

import ../[nif, xxh3]
import ./format

{.push raises: [NifError], gcsafe.}

type
  Span = object
    ## A name's place in the frame.
    at, size: int

  Header = object
    ## A header that was checked, filled up with what the format says of fields it doesn't have.
    start: int           ## of the frame
    marker: Marker
    layout: LayoutId
    numbers: Numbers
    image: Image
    sizeField: Field     ## the one to blame for a payload that doesn't fit

  Decoder* = object
    ## The table so far, and what else it takes. Too large to be cleared: declare it `noinit`, then call `run`.
    rows*: array[nodesMax, Node]
    count*: int          ## of rows
    format: Format
    live: Matrix[int64]
    announced: int       ## the root and the children of all records so far
    names: array[nodesMax, Span]                       ## of all of them
    copies: array[nodesMax, array[nameMax, byte]]      ## of the names of one record, to compare

func refuse(code: Code; place: int) {.noinline, noreturn.} =
  refuse(code, "byte", place)

func place(header: Header; field: Field): int =
  header.start + offset(header.layout, field)

# --- headers -----------------------------------------------------------------------------------------------

func checkNumbers(header: Header; atRoot: bool) =
  ## What only version 2 has: 6.
  template demand(condition: bool; name: Field) =
    if not condition:
      refuse(Code.Value, header.place(name))
  let (numbers, marker) = (header.numbers, header.marker)
  demand numbers[Field.Dtype] <= uint64(high(Dtype)) and Dtype(numbers[Field.Dtype]) in marker.dtypes, Field.Dtype
  demand numbers[Field.Ndim] <= 4 and int(numbers[Field.Ndim]) in marker.ndims, Field.Ndim
  demand numbers[Field.Order] <= uint64(ord(numbers[Field.Ndim] > 1)), Field.Order
  demand numbers[Field.Flags] <= uint64(ord(atRoot)), Field.Flags
  demand numbers[Field.Reserved] == 0, Field.Reserved

func readHeader(header: var Header; format: Format; frame: openArray[byte]; start, stop: int; atRoot: bool;
    role: Role) =
  ## 2 to 6.
  let there = stop - start
  template need(size: int) =
    if size > there:
      refuse(if atRoot: Code.Short else: Code.Length, stop)
  header.start = start
  header.layout = format.start
  need layoutSizes[header.layout]
  header.image.snapshot(frame, start, min(headerMax, there))
  header.numbers = header.image.read(header.layout)
  if format.version == 2 and header.numbers[Field.Magic] != magic:
    refuse(Code.Version, start)
  if header.numbers[Field.Version] != uint64(format.version):
    refuse(Code.Version, header.place(Field.Version))
  let code = uint8(header.numbers[Field.Marker])
  header.marker = markers[code]
  let marker = header.marker
  if format.version notin marker.versions or code notin role.markers:
    refuse(Code.Marker, header.place(Field.Marker))
  if format.version == 2:
    header.checkNumbers(atRoot)
  else:
    header.layout = format.layoutOf(marker, marker.ndim)
    need layoutSizes[header.layout] + marker.fixedSize(marker.dtype)
    header.numbers = header.image.read(header.layout)
    header.numbers[Field.Dtype] = uint64(marker.dtype)
    header.numbers[Field.Ndim] = uint64(marker.ndim)
    header.numbers[Field.Order] = uint64(if marker.ndim > 1: format.order else: 0)

func measured(header: var Header; format: Format): int =
  ## 7 to 11: set the payload's length, return that of the padding.
  var shape: array[4, uint64]
  let ndim = int(header.numbers[Field.Ndim])
  let dtype = int(header.numbers[Field.Dtype])
  for axis in 0 .. 3:
    let field = Field(ord(Field.Shape0) + axis)
    shape[axis] = header.numbers[field]
    if axis >= ndim:
      if shape[axis] != 0:
        refuse(Code.Value, header.place(field))
    elif shape[axis] > format.dimensionMax:
      refuse(Code.Dim, header.place(field))
  var length = uint64(header.marker.fixedSize(dtype))
  var padding = 0'u64
  if header.marker.kind == Kind.Array:
    if format.isAligned and not isAlignment(int64(header.numbers[Field.Alignment])):
      refuse(Code.Align, header.place(Field.Alignment))
    let (bytes, fits) = extent(dtype, shape)
    if not fits:
      refuse(Code.Overflow, header.place(Field.Shape0))
    length = if isEmpty(shape, ndim): 0'u64 else: bytes
    if format.isAligned:
      padding = (0'u64 - length) and (header.numbers[Field.Alignment] - 1)
  let isClaimed = format.version == 2 or header.marker.kind == Kind.Record
  let claimed = if isClaimed: header.numbers[Field.Payload] else: length
  header.sizeField = if isClaimed: Field.Payload else: Field.Shape0
  # The first comparison keeps the sum of the second from wrapping.
  if claimed >= format.frameEnd or uint64(layoutSizes[header.layout]) + claimed + padding >= format.frameEnd:
    refuse(Code.Overflow, header.place(header.sizeField))
  if claimed != length and header.marker.kind != Kind.Record:
    refuse(Code.Length, header.place(Field.Payload))
  header.numbers[Field.Payload] = claimed
  int(padding)

func checkSum(header: Header; payload: openArray[byte]) =
  ## 14.
  let told = header.numbers[Field.Checksum]
  if header.numbers[Field.Flags] == 0:
    if told != 0:
      refuse(Code.Value, header.place(Field.Checksum))
  elif told != (xxh3(payload) xor xxh3(header.image.toOpenArray(0, headerMax - 9))):
    refuse(Code.Checksum, header.place(Field.Checksum))

# --- payloads ----------------------------------------------------------------------------------------------

func checkZeros(frame: openArray[byte]; at, stop: int) =
  let wrong = firstAbove(frame, at, stop, 0)
  if wrong >= 0:
    refuse(Code.Pad, wrong)

func bytesUsed(numbers: Numbers): uint64 =
  ## Of a texture's block; what is above 2^64 - 1 counts as that.
  result = numbers[Field.Height] * numbers[Field.Width] # of 32 bits each
  for factor in [numbers[Field.Channels], uint64(sizes[int(numbers[Field.Dtype])])]:
    result = if factor != 0 and result > high(uint64) div factor: high(uint64) else: result * factor

func checkDevice(live: Matrix[int64]; frame: openArray[byte]; at: int; header: Header) =
  ## 17 to 20.
  let isTexture = header.numbers[Field.Marker] == textureMarker
  let layout = if isTexture: textureLayout else: bufferLayout
  var image: Image
  image.snapshot(frame, at, layoutSizes[layout])
  let numbers = image.read(layout)
  let handle = at + offset(layout, Field.Handle)
  if isTexture and numbers[Field.Dtype] - 1 >= uint64(high(Dtype)):
    refuse(Code.Value, at + offset(layout, Field.Dtype))
  let used = if isTexture: bytesUsed(numbers) else: numbers[Field.Size]
  let (slot, generation) = (int64(numbers[Field.Handle] and 0xFFFF_FFFF'u64), int64(numbers[Field.Handle] shr 32))
  for row in 0 ..< live.rows:
    if live[row, 0] == slot:
      if generation == 0 or generation != live[row, 1]:
        refuse(Code.Stale, handle)
      let size = live[row, 2]
      if size < 0 or used > uint64(size) or int64(numbers[Field.Device]) != live[row, 3]:
        refuse(Code.Handle, handle)
      return
  refuse(Code.Handle, handle)

func number16(frame: openArray[byte]; at: int): int =
  var bytes: array[2, byte]
  bytes.snapshot(frame, at, 2)
  int(bytes[0]) or int(bytes[1]) shl 8

func filled(format: Format; frame: openArray[byte]; at, start, stop: int): int =
  ## 33, 36: the next multiple of 64 bytes from `start` on, in version 2.
  if format.version == 1:
    return at
  result = at + ((start - at) and (fillSize - 1))
  if result > stop:
    refuse(Code.Length, at)
  checkZeros(frame, at, result)

func takeText(target: var array[nameMax, byte]; frame: openArray[byte]; at, stop, least: int): Span =
  ## 24 to 26, 28 to 30: a title or name, its length first; copied.
  result = Span(at: at + 2, size: frame.number16(at))
  if result.size < least or result.size > nameMax:
    refuse(Code.Limit, at)
  if result.at + result.size > stop:
    refuse(Code.Length, at)
  target.snapshot(frame, result.at, result.size)
  if not isText(target.toOpenArray(0, result.size - 1)):
    refuse(Code.Utf8, result.at)

func takeNames(d: var Decoder; frame: openArray[byte]; marker, count, first, at, stop: int): int =
  ## 27 to 32: the names of a record's children into `names`, from index `first` on; returns where they end.
  result = at
  for child in 0 ..< count:
    if result + 2 > stop:
      refuse(Code.Length, stop)
    let name = d.copies[child].takeText(frame, result, stop, 1)
    template copy(index, size: int): openArray[byte] = d.copies[index].toOpenArray(0, size - 1)
    for other in 0 ..< child:
      if d.names[first + other].size == name.size and copy(other, name.size) == copy(child, name.size):
        refuse(Code.Duplicate, name.at)
    if not roleOf(marker, child).isNamed(copy(child, name.size)):
      refuse(Code.Value, name.at)
    d.names[first + child] = name
    result = name.at + name.size

func takeFrame(d: var Decoder; frame: openArray[byte]; start, stop, depth, parent: int; name: Span; role: Role): int

func takeRecord(d: var Decoder; frame: openArray[byte]; row, start, stop, depth: int) =
  ## 21 to 37.
  if start + 4 > stop:
    refuse(Code.Length, stop)
  let marker = int(d.rows[row].marker)
  let count = frame.number16(start)
  let first = d.announced
  if first + count > nodesMax:
    refuse(Code.Limit, start)
  if not accepts(marker, count):
    refuse(Code.Value, start)
  d.announced += count
  let title = d.copies[0].takeText(frame, start + 2, stop, 0)
  d.rows[row].dataOffset = title.at
  d.rows[row].dataLength = title.size
  d.rows[row].count = count
  let names = d.takeNames(frame, marker, count, first, title.at + title.size, stop)
  var at = d.format.filled(frame, names, start, stop)
  for child in 0 ..< count:
    let (begin, childRow) = (at, d.count)
    let role = roleOf(marker, child)
    at = d.takeFrame(frame, begin, stop, depth + 1, row, d.names[first + child], role)
    role.check(d.rows[childRow], frame, "byte", begin)
    at = d.format.filled(frame, at, begin, stop)
  if at != stop:
    refuse(Code.Length, at)

func takeFrame(d: var Decoder; frame: openArray[byte]; start, stop, depth, parent: int; name: Span; role: Role): int =
  ## A frame with all that is in it; returns where it ends.
  if depth > depthMax:
    refuse(Code.Depth, start)
  var header: Header
  header.readHeader(d.format, frame, start, stop, depth == 1, role)
  let padding = header.measured(d.format)
  let body = start + layoutSizes[header.layout]
  let length = int(header.numbers[Field.Payload])
  if length > stop - body or padding > stop - body - length:
    refuse(Code.Length, header.place(header.sizeField))
  result = body + length + padding
  if depth == 1 and result < stop:
    refuse(Code.Trailing, result)
  if d.format.version == 2:
    header.checkSum(frame.toOpenArray(body, body + length - 1))
  let row = d.count
  inc d.count
  template number(field: Field): int64 = int64(header.numbers[field])
  d.rows[row] = Node(marker: number(Field.Marker), dtype: number(Field.Dtype), ndim: number(Field.Ndim),
    shape: [number(Field.Shape0), number(Field.Shape1), number(Field.Shape2), number(Field.Shape3)],
    order: number(Field.Order), dataOffset: body, dataLength: length, nameOffset: name.at, nameLength: name.size,
    parent: parent)
  case header.marker.kind
  of Kind.Record:
    d.takeRecord(frame, row, body, result, depth)
  of Kind.Device:
    d.live.checkDevice(frame, body, header)
  else:
    checkZeros(frame, body + length, result)
    if number(Field.Dtype) == boolCode:
      let wrong = firstAbove(frame, body, body + length, 1)
      if wrong >= 0:
        refuse(Code.Value, wrong)

# --- all of it ---------------------------------------------------------------------------------------------

func ownVersion(frame: openArray[byte]): int =
  if frame.len == 0:
    refuse(Code.Short, 0)
  case frame[0]
  of 1: result = 1
  of byte(magic and 0xFF): result = 2
  else:
    if frame.len == 1:
      refuse(Code.Short, 1)
    refuse(Code.Version, 0)

func run*(d: var Decoder; frame: openArray[byte]; dialect, version: int64; live: Matrix[int64]) =
  ## Fill the table; `d` may be memory that nothing was written to.
  if version notin 0 .. 2:
    refuse(Code.Version)
  if dialect notin 0 .. dialects.high:
    refuse(Code.Value)
  let own = if version == 0: ownVersion(frame) else: int(version)
  d.format = if own == 2: version2 else: dialects[dialect]
  d.live = live
  d.count = 0
  d.announced = 1
  discard d.takeFrame(frame, 0, frame.len, 1, -1, Span(), anything)
