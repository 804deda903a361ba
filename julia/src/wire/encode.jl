# From a node table to a frame: first all checks, which also find every length, then one pass that writes. docs/wire.md numbers
# the checks; the order here is the order there.

struct Encoder{L<:Layout}
    layout::L
    data::Vec{UInt8}
    alignment::Int
end

# By row: its first child, the next child of its parent, how many children, and the bytes of its frame. Rows count from 0, as
# places do; -1 is none.
const FIRST, NEXT, CHILDREN, LENGTHS = (zeros(Int, NODES) for _ in 1:4)

"Copy the table, once, into `ROWS` and note who is whose child."
function read_table(nodes, count)
    table = rows(count)
    for i in 1:count
        for j in 1:COLUMNS
            store!(table, ((i - 1) * COLUMNS + j - 1) * sizeof(Int64), nodes[i, j])
        end
        FIRST[i], CHILDREN[i] = -1, 0
    end
    for i in count:-1:1
        parent = ROWS[i].parent + 1
        1 <= parent <= count || continue
        NEXT[i], FIRST[parent] = FIRST[parent], i - 1
        CHILDREN[parent] += 1
    end
end

"Check the whole table, of which `ROWS` is a copy, and return the length of its frame."
function check_table(it::Encoder, count)
    PROGRESS.announced = 1
    after = check_node(it, 0, 1, ANY)
    after == count || refuse(:TRAILING, Node(after))
    return LENGTHS[1]
end

"Check a node and all below it, note the lengths of their frames, and return the row after them."
function check_node(it::Encoder, index, depth, role)::Int
    here, layout, row = Node(index), it.layout, ROWS[index+1]
    depth <= DEPTH || refuse(:DEPTH, here)
    index > 0 || row.parent == -1 || refuse(:VALUE, here)
    marker = known(layout, row.marker, role, here)
    hasdtype(layout, marker, row.dtype) && holds(marker.ndims, row.ndim) || refuse(:VALUE, here)
    hasorder(layout, row.order, row.ndim) || refuse(:VALUE, here)
    for axis in 1:4
        axis <= row.ndim || row.shape[axis] == 0 || refuse(:VALUE, here)
        0 <= row.shape[axis] <= dimension_max(layout) || refuse(:DIM, here)
    end
    marker.kind == RECORD || row.count == 0 || refuse(:VALUE, here)
    index > 0 || row.name_length == 0 || refuse(:VALUE, here)
    size = body_length(marker, row.dtype, row.ndim, row.shape)
    body = body_offset(layout, marker)
    padding = ispadded(layout, marker) ? filling(size, it.alignment) : 0
    0 <= size <= frame_max(layout) - body - padding || refuse(:OVERFLOW, here)
    within(it.data, row.data_offset, row.data_length) || refuse(:LENGTH, here)
    marker.kind == RECORD && return check_record(it, index, depth, marker, body)
    row.data_length == size || refuse(:LENGTH, here)
    stop = row.data_offset + size
    row.dtype == BOOL && first_with(0xfe, it.data, row.data_offset, stop) < stop && refuse(:VALUE, here)
    marker.code == GPU_TEXTURE &&
        !(load(UInt32, it.data, row.data_offset + 20) in eachindex(ELEMENT_BYTES)) && refuse(:VALUE, here)
    LENGTHS[index+1] = body + size + padding
    return index + 1
end

function check_record(it::Encoder, index, depth, marker, body)::Int
    here, row, record = Node(index), ROWS[index+1], record_of(marker)
    row.count == CHILDREN[index+1] || refuse(:LENGTH, here)
    accepts(record, row.count) || refuse(:VALUE, here)
    row.data_length <= NAME || refuse(:LIMIT, here)
    text!(TITLE, it.data, row.data_offset, row.data_length, here)
    length = 4 + row.data_length
    slot = PROGRESS.announced  # the one before its children's
    PROGRESS.announced += row.count
    child = FIRST[index+1]
    for place in 1:row.count
        at, size = ROWS[child+1].name_offset, ROWS[child+1].name_length
        1 <= size <= NAME || refuse(:LIMIT, Node(child))
        within(it.data, at, size) || refuse(:LENGTH, Node(child))
        name!(slot + 1, slot + place, it.data, at, size, role(record, place), Node(child))
        length += 2 + size
        child = NEXT[child+1]
    end
    length = filled(it.layout, length)
    child, after = FIRST[index+1], index + 1
    for place in 1:row.count
        child == after || refuse(:VALUE, Node(child))
        part = role(record, place)
        after = check_node(it, child, depth + 1, part)
        check_role(part, ROWS[child+1], it.data, Node(child))
        length += filled(it.layout, LENGTHS[child+1])
        child = NEXT[child+1]
    end
    body + length <= frame_max(it.layout) || refuse(:OVERFLOW, here)
    LENGTHS[index+1] = body + length
    return after
end

filled(::Version1, length) = length
filled(::Version2, length) = length + filling(length, 64)

"Write a node and all below it at `at`, and return where its frame ends."
function write_node!(out, it::Encoder, at, index)::Int
    row = ROWS[index+1]
    marker = MARKERS[row.marker+1]
    stop = at + LENGTHS[index+1]
    at = write_header!(out, it.layout, at, row, marker, LENGTHS[index+1] - body_offset(it.layout, marker), it.alignment)
    return write_payload!(out, it, at, index, stop)
end

function write_payload!(out, it::Encoder, at, index, stop)::Int
    row = ROWS[index+1]
    MARKERS[row.marker+1].kind == RECORD && return write_record!(out, it, at, index)
    at = put!(out, at, part(it.data, row.data_offset, row.data_length))
    return zeros!(out, at, stop - at)
end

function write_header!(out, it::Version1, at, row, marker, size, alignment)
    at = store!(out, store!(out, at, 0x01), row.marker % UInt8)
    marker.kind == RECORD && (at = write_number!(out, it, at, size))
    for axis in 1:row.ndim
        at = write_number!(out, it, at, row.shape[axis])
    end
    return ispadded(it, marker) ? store!(out, at, alignment % UInt8) : at
end

write_number!(out, it::Version1, at, number) =
    it.wide ? store!(out, at, number % UInt64) : store!(out, at, number % UInt32)

write_header!(out, ::Version2, at, row, marker, size, alignment) =
    store!(out, at, Header(MAGIC, 2, row.marker, row.dtype, row.ndim, row.order, 0, UNRESERVED, row.shape, size, 0))

# Bytes of a frame whose payload is summed while it is written, from front to back; see `XXH3.Summed`. Constants, as `HEADER` is.
struct SummedOut
    bytes::MutVec{UInt8}
    payload::Int
end
const SUM = XXH3.Summed()

store!(out::SummedOut, at, value) = store!(out.bytes, at, value)
zeros!(out::SummedOut, at, size) = zeros!(out.bytes, at, size)
function put!(out::SummedOut, at, from)
    part(out.bytes, at, length(from))  # there is room
    XXH3.put!(SUM, at - out.payload, from.data, length(from))
    return at + length(from)
end

"`write_node!` of the outermost frame, with its checksum."
function write_summed!(bytes, it::Encoder, at)
    row, payload = ROWS[1], at + sizeof(Header)
    size = LENGTHS[1] - sizeof(Header)
    HEADER[] = Header(MAGIC, 2, row.marker, row.dtype, row.ndim, row.order, 1, UNRESERVED, row.shape, size, 0)
    store!(bytes, at, HEADER[])
    XXH3.start!(SUM, part(bytes, payload, size).data, size)
    write_payload!(SummedOut(bytes, payload), it, payload, 0, payload + size)
    store!(bytes, at + SUMMED, header_sum(XXH3.finish!(SUM)))
    return
end

function write_record!(out, it::Encoder, start, index)
    row = ROWS[index+1]
    at = store!(out, store!(out, start, row.count % UInt16), row.data_length % UInt16)
    at = put!(out, at, part(it.data, row.data_offset, row.data_length))
    child = FIRST[index+1]
    while child >= 0
        name = part(it.data, ROWS[child+1].name_offset, ROWS[child+1].name_length)
        at = put!(out, store!(out, at, length(name) % UInt16), name)
        child = NEXT[child+1]
    end
    at = zeros!(out, at, start + filled(it.layout, at - start) - at)
    child = FIRST[index+1]
    while child >= 0
        after = write_node!(out, it, at, child)
        at = zeros!(out, after, at + filled(it.layout, after - at) - after)
        child = NEXT[child+1]
    end
    return at
end
