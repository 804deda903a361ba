"""
The SDK: what stands between a plain Julia function and the C ABI. Pointers stay in here.

    @nif pure function dot(x::Vec{Float64}, y::Vec{Float64})::Float64 … end

`Vec`, `MutVec`, `Mat`, `MutMat`, `AnyArray` and `Bytes` are the caller's memory, without a copy and for the call only;
`Float64`, `Int64`, `Bool` and `String` are values.
"""
module Nif

export @nif, AnyArray, Block, Bytes, Mat, MutMat, MutVec, NifError, Vec, checkcancel

include("nif/abi.jl")
include("nif/views.jl")
include("nif/spec.jl")
include("nif/host.jl")
include("nif/arguments.jl")
include("nif/export.jl")

end
