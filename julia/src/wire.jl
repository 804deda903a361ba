"""
Passing arrays on: a value that this language writes, and where it sees one.
"""
module Wire

using ..Nif

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
