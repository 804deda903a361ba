"""
Work on arrays of a device: docs/gpu.md says what each function means.
"""
module Gpu

using ..Nif
using ..Nif: GpuArray, launch
using ..XXH3: xxh3_64

"""
`gpu_fill(to, value)`: set all elements of an array on a device.
"""
@nif idempotent function gpu_fill(to::UInt64, value::Float64)::Nothing
    fill!(GpuArray(:to, to; written = true), value)
    return
end

"""
`gpu_copy(source, target)`: copy the elements of one array on a device to another of the same size.
"""
@nif idempotent function gpu_copy(source::UInt64, target::UInt64)::Nothing
    from = GpuArray(:source, source)
    copyto!(GpuArray(:target, target; written = true), from)
    return
end

"""
`gpu_checksum(x)`: XXH3-64 of the bytes of an array on a device.
"""
@nif long pure function gpu_checksum(x::UInt64)::UInt64
    bytes = collect(GpuArray(:x, x))
    return GC.@preserve bytes xxh3_64(Vec{UInt8}(pointer(bytes), length(bytes)))
end

"""
`gpu_launch(kernel, shape[s], arguments, places[p])`: start a kernel with packed arguments.
"""
@nif function gpu_launch(kernel::UInt64, shape::Vec{UInt32}, arguments::Bytes, places::Vec{UInt32})::Nothing
    length(shape) == 7 || throw(NifError(:value, :shape, "expected 7 numbers, got $(length(shape))"))
    launch(kernel, shape.data, arguments.bytes, places)
    return
end

end
