# From a frame to its node table. docs/wire.md numbers the checks; the order here is the order there.

struct Decoder{L<:Layout}
    layout::L
    frame::Vec{UInt8}
    live::Mat{Int64}
end

"How many rows are made, and how many values are announced: the root and the children of all records so far."
mutable struct Progress
    rows::Int
    announced::Int
end
const PROGRESS = Progress(0, 0)

function own_version(frame)
    isempty(frame) && refuse(:SHORT, Byte(0))
    first = load(UInt8, frame, 0)
    first == 0x01 && return 1
    first == MAGIC % UInt8 && return 2
    length(frame) == 1 ? refuse(:SHORT, Byte(1)) : refuse(:VERSION, Byte(0))
end

"Decode a whole frame into `ROWS` and return how many there are."
function read_frame(it::Decoder)
    PROGRESS.rows, PROGRESS.announced = 0, 1
    read_frame(it, 0, length(it.frame), 1, -1, Name(0, 0, 0), ANY)
    return PROGRESS.rows
end

"Decode the frame at `start`, no further than `stop`, and return where it ends."
function read_frame(it::Decoder, start, stop, depth, parent, name, role)::Int
    depth <= DEPTH || refuse(:DEPTH, Byte(start))
    layout = it.layout
    header, marker = read_header(layout, it.frame, start, stop, depth, role)
    dtype, ndim = Int(header.dtype), Int(header.ndim)
    for axis in 1:4
        size, place = header.shape[axis], start + shape_offset(layout) + (axis - 1) * number_bytes(layout)
        axis > ndim && size != 0 && refuse(:VALUE, Byte(place))
        size <= dimension_max(layout) || refuse(:DIM, Byte(place))
    end
    body = start + body_offset(layout, marker)
    alignment = ispadded(layout, marker) ? Int(load(UInt8, it.frame, body - 1)) : 1
    isalignment(alignment) || refuse(:ALIGN, Byte(body - 1))
    size = body_length(marker, dtype, ndim, header.shape)
    size >= 0 || refuse(:OVERFLOW, Byte(start + shape_offset(layout)))
    claim = Byte(start + length_offset(layout))
    claimed = layout isa Version2 || marker.kind == RECORD ? header.payload : UInt64(size)
    padding = filling(claimed, UInt64(alignment)) % Int
    claimed <= frame_max(layout) - (body - start) - padding || refuse(:OVERFLOW, claim)
    marker.kind == RECORD || claimed == size || refuse(:LENGTH, claim)
    claimed <= stop - body - padding || refuse(:LENGTH, claim)
    padded = body + claimed % Int
    after = padded + padding
    depth > 1 || after == stop || refuse(:TRAILING, Byte(after))
    check_sum(layout, header, it.frame, start, claimed % Int)
    row = PROGRESS.rows += 1
    ROWS[row] = Row(
        marker.code, dtype, ndim, header.shape, header.order, body, claimed, name.offset, name.length, parent, 0,
    )
    if marker.kind == RECORD
        read_record(it, marker, row, body, after, depth)
    elseif marker.kind == DEVICE
        check_device(marker, it.frame, body, it.live)
    else
        check_none(0xff, it.frame, padded, after, :PAD)
        dtype == BOOL && check_none(0xfe, it.frame, body, padded, :VALUE)
    end
    return after
end

need(upto, stop, depth) = upto <= stop || refuse(depth == 1 ? :SHORT : :LENGTH, Byte(stop))

function check_none(mask, frame, at, stop, code)
    wrong = first_with(mask, frame, at, stop)
    wrong == stop || refuse(code, Byte(wrong))
    return
end

"Read a header, once, and return what version 2 would say in its place, and the marker."
function read_header(it::Version1, frame, start, stop, depth, role)
    need(start + 2, stop, depth)
    version, code = load(UInt8, frame, start), load(UInt8, frame, start + 1)
    version == 1 || refuse(:VERSION, Byte(start))
    marker = known(it, code, role, Byte(start + 1))
    need(start + body_offset(it, marker) + marker.size, stop, depth)
    ndim = axes_of(marker)
    number(axis) = read_number(it, frame, start + 2 + (axis - 1) * number_bytes(it))
    shape = ntuple(axis -> axis <= ndim ? number(axis) : UInt64(0), Val(4))
    order = ndim > 1 ? it.order : 0
    length = marker.kind == RECORD ? number(1) : UInt64(0)
    return Header(MAGIC, version, code, marker.dtype, ndim, order, 0, UNRESERVED, shape, length, 0), marker
end

read_number(it::Version1, frame, at) = it.wide ? load(UInt64, frame, at) : UInt64(load(UInt32, frame, at))

function read_header(it::Version2, frame, start, stop, depth, role)
    need(start + sizeof(Header), stop, depth)
    header = HEADER[] = load(Header, frame, start)
    place(field) = Byte(start + offset_of(field))
    header.magic == MAGIC || refuse(:VERSION, Byte(start))
    header.version == 2 || refuse(:VERSION, place(:version))
    marker = known(it, header.marker, role, place(:marker))
    hasdtype(it, marker, header.dtype) || refuse(:VALUE, place(:dtype))
    holds(marker.ndims, header.ndim) || refuse(:VALUE, place(:ndim))
    hasorder(it, header.order, header.ndim) || refuse(:VALUE, place(:order))
    header.flags <= (depth == 1) || refuse(:VALUE, place(:flags))
    header.reserved == UNRESERVED || refuse(:VALUE, place(:reserved))
    return header, marker
end

check_sum(::Version1, header, frame, start, size) = nothing
function check_sum(it::Version2, header, frame, start, size)
    place = Byte(start + SUMMED)
    if header.flags == 0
        header.checksum == 0 || refuse(:VALUE, place)
    else
        header.checksum == header_sum(xxh3_64(part(frame, start + sizeof(Header), size))) || refuse(:CHECKSUM, place)
    end
    return
end

function check_device(marker, frame, at, live)
    handle = load(UInt64, frame, at)
    if marker.code == GPU_BUFFER
        used, device = UInt128(load(UInt64, frame, at + 8)), load(UInt32, frame, at + 16)
    else
        height, width, channels, dtype, device = map(offset -> load(UInt32, frame, at + offset), (8, 12, 16, 20, 24))
        dtype in eachindex(ELEMENT_BYTES) || refuse(:VALUE, Byte(at + 20))
        used = UInt128(height) * width * channels * ELEMENT_BYTES[dtype]
    end
    slot, generation = handle % UInt32, handle >> 32
    for row in 1:size(live, 1)
        live[row, 1] == slot || continue
        generation != 0 && generation == live[row, 2] || refuse(:STALE, Byte(at))
        used <= live[row, 3] && device == live[row, 4] || refuse(:HANDLE, Byte(at))
        return
    end
    refuse(:HANDLE, Byte(at))
end

function read_record(it::Decoder, marker, row, start, stop, depth)::Nothing
    record, frame = record_of(marker), it.frame
    start + 4 <= stop || refuse(:LENGTH, Byte(stop))
    count, size = Int(load(UInt16, frame, start)), Int(load(UInt16, frame, start + 2))
    slot = PROGRESS.announced  # the one before its children's
    PROGRESS.announced += count
    PROGRESS.announced <= NODES || refuse(:LIMIT, Byte(start))
    accepts(record, count) || refuse(:VALUE, Byte(start))
    at = start + 4
    check_text(0, size, at, stop)
    text!(TITLE, frame, at, size, Byte(at))
    ROWS[row] = titled(ROWS[row], at, size, count)
    at += size
    for index in 1:count
        at + 2 <= stop || refuse(:LENGTH, Byte(stop))
        size = Int(load(UInt16, frame, at))
        at += 2
        check_text(1, size, at, stop)
        name!(slot + 1, slot + index, frame, at, size, role(record, index), Byte(at))
        at += size
    end
    at = skip_filling(it, at, start, stop)
    for index in 1:count
        begins, child, part = at, PROGRESS.rows + 1, role(record, index)
        at = read_frame(it, begins, stop, depth + 1, row - 1, NAMES[slot+index], part)
        check_role(part, ROWS[child], frame, Byte(begins))
        at = skip_filling(it, at, begins, stop)
    end
    at == stop || refuse(:LENGTH, Byte(at))
    return
end

titled(it::Row, at, size, count) = Row(
    it.marker, it.dtype, it.ndim, it.shape, it.order, at, size, it.name_offset, it.name_length, it.parent, count,
)

"Check the length of a title or name, which stands before it."
function check_text(least, size, at, stop)
    least <= size <= NAME || refuse(:LIMIT, Byte(at - 2))
    at + size <= stop || refuse(:LENGTH, Byte(at - 2))
    return
end

"Skip the zeros up to the next multiple of 64 after `start`."
skip_filling(::Decoder{Version1}, at, start, stop) = at
function skip_filling(it::Decoder{Version2}, at, start, stop)
    after = at + filling(at - start, 64)
    after <= stop || refuse(:LENGTH, Byte(at))
    check_none(0xff, it.frame, at, after, :PAD)
    return after
end
