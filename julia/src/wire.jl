"""
The wire protocol, docs/wire.md: values as bytes that five languages read alike. And passing arrays on: a value that this
language writes, and where it sees one.
"""
module Wire

using ..Nif
using ..XXH3: XXH3, xxh3_64

include("wire/schema.jl")
include("wire/rules.jl")
include("wire/decode.jl")
include("wire/encode.jl")

"""
`decode(frame[...], dialect, version, live[h, w])`: the node table of a frame, [nodes, 14], after all checks. dialect is 0 rust,
1 zig, 2 nim, 3 julia; version 1, 2 or 0: the frame's own; live has the device handles: slot, generation, bytes, device.
"""
@nif pure function decode(frame::AnyArray, dialect::Int64, version::Int64, live::Mat{Int64})::Block
    return in_turn(decoded, frame, dialect, version, live)
end

@noinline function decoded(frame, dialect, version, live)
    check_width(:live, live, LIVE_COLUMNS)
    0 <= version <= 2 || refuse(:VERSION)
    0 <= dialect < length(DIALECTS) || refuse(:VALUE)
    version == 0 && (version = own_version(frame.bytes))
    count = version == 2 ? read_frame(Decoder(Version2(), frame.bytes, live)) :
        read_frame(Decoder(DIALECTS[dialect+1], frame.bytes, live))
    table = block(Int64, count, COLUMNS)
    copyto!(table.bytes, rows(count))
    return table
end

"""
`encode(nodes[m, w], data[...], dialect, version, alignment, checksum)`: the frame of a node table whose offsets lead into data,
after zeros that put the payload on a multiple of 64 bytes. alignment is that of arrays in version 1's zig dialect.
"""
@nif pure function encode(
    nodes::Mat{Int64}, data::AnyArray, dialect::Int64, version::Int64, alignment::Int64, checksum::Bool,
)::Block
    return in_turn(encoded, nodes, data, dialect, version, alignment, checksum)
end

@noinline function encoded(nodes, data, dialect, version, alignment, checksum)
    check_width(:nodes, nodes, COLUMNS)
    1 <= version <= 2 || refuse(:VERSION)
    0 <= dialect < length(DIALECTS) || refuse(:VALUE)
    isalignment(alignment) || refuse(:ALIGN)
    count = size(nodes, 1)
    count > 0 || refuse(:SHORT)
    count <= NODES || refuse(:LIMIT)
    read_table(nodes, count)
    return version == 2 ? write_frame(Encoder(Version2(), data.bytes, alignment), count, checksum) :
        write_frame(Encoder(DIALECTS[dialect+1], data.bytes, alignment), count, false)
end

"What `work` returns, once no other call is at it: see `ROWS`."
function in_turn(work, arguments...)
    lock(TURN)
    try
        return work(arguments...)
    finally
        unlock(TURN)
    end
end

check_width(name, table, width) =
    size(table, 2) == width || throw(NifError(:value, name, "expected $width columns, got $(size(table, 2))"))

function write_frame(it::Encoder, count, summed)
    size = check_table(it, count)
    lead = filling(body_offset(it.layout, MARKERS[ROWS[1].marker+1]), 64)
    frame = block(UInt8, lead + size)
    zeros!(frame.bytes, 0, lead)
    if summed
        write_summed!(frame.bytes, it, lead)
    else
        write_node!(frame.bytes, it, lead, 0)
    end
    return frame
end

"""
`write(x[...])`: a copy of x in a block of the host's memory, same element type and shape.
"""
@nif function write(x::AnyArray)::Block
    block = similar(x)
    copyto!(block.bytes, x.bytes)
    return block
end

"""
`address(x[...])`: the address at which this language sees the data.
"""
@nif pure function address(x::AnyArray)::UInt64
    return UInt64(UInt(pointer(x.bytes)))
end

end
