"""
The SDK: what stands between a plain Julia function and the C ABI. Pointers stay in here.

    @nif pure function dot(x::Vec{Float64}, y::Vec{Float64})::Float64 … end

`Vec`, `MutVec`, `Mat`, `MutMat`, `AnyArray` and `Bytes` are the caller's memory, a `Callback` is its function, without a copy and for the call only;
numbers, `Bool` and `String` are values. Results are values, `Array`s of one to three axes (copied into memory of the host's), `ByteVector`,
`Block`, tuples and named tuples of these, and `nothing` in place of any. Default values and keywords are the caller's too.
"""
module Nif

export @nif, AnyArray, Block, Bytes, ByteVector, Callback, Mat, MutMat, MutVec, NifError, Vec, checkcancel, progress

include("nif/abi.jl")
include("nif/views.jl")
include("nif/spec.jl")
include("nif/host.jl")
include("nif/arguments.jl")
include("nif/gpu.jl")
include("nif/callbacks.jl")
include("nif/export.jl")

end
