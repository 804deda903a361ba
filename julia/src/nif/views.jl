# The caller's arrays as Julia arrays: no copy, valid for the call.

"""
An element of a caller's array. The byte of a truth value may be any: 0 is false, all others are true. (Julia's own `Bool` is only
0 or 1, and what else is in its byte counts.)
"""
@inline element(p::Ptr, i = 1) = unsafe_load(p, i)
@inline element(p::Ptr{Bool}, i = 1) = unsafe_load(convert(Ptr{UInt8}, p), i) != 0x00

struct VectorView{T,Writable} <: DenseVector{T}
    data::Ptr{T}
    length::Int
end

"""
A contiguous vector that is only read, `T[n]`. `Vec{T}(p, n)` may look at any memory.
"""
const Vec{T} = VectorView{T,false}

"""
A contiguous vector that may be written, `mut T[n]`.
"""
const MutVec{T} = VectorView{T,true}

Base.size(v::VectorView) = (v.length,)
Base.IndexStyle(::Type{<:VectorView}) = IndexLinear()
Base.elsize(::Type{<:VectorView{T}}) where {T} = sizeof(T)
Base.strides(::VectorView) = (1,)
Base.unsafe_convert(::Type{Ptr{T}}, v::VectorView{T}) where {T} = v.data

"The numbers of the elements of all, which are as many in each. (Base's own would be compiled again beside PythonCall.)"
@inline function Base.eachindex(v::VectorView, others::VectorView...)
    foreach(it -> it.length == v.length || refuse_lengths(v.length, it.length), others)
    return Base.OneTo(v.length)
end

@noinline refuse_lengths(one, other) = throw(DimensionMismatch("vectors of $one and $other elements"))

@inline function Base.getindex(v::VectorView, i::Int)
    @boundscheck checkbounds(v, i)
    return element(v.data, i)
end

@inline function Base.setindex!(v::MutVec{T}, value, i::Int) where {T}
    @boundscheck checkbounds(v, i)
    unsafe_store!(v.data, convert(T, value), i)
    return v
end

function Base.copyto!(to::MutVec{T}, from::VectorView{T}) where {T}
    length(from) <= length(to) || throw(BoundsError(to, length(from)))
    unsafe_copyto!(to.data, from.data, length(from))
    return to
end

struct MatrixView{T,Writable} <: AbstractMatrix{T}
    data::Ptr{T}
    size::NTuple{2,Int}
    strides::NTuple{2,Int}  # in elements
end

"""
A matrix with any strides that is only read, `T[m,n]`; `a[i, j]` counts rows and columns from 1.
"""
const Mat{T} = MatrixView{T,false}

"""
A matrix with any strides that may be written, `mut T[m,n]`.
"""
const MutMat{T} = MatrixView{T,true}

Base.size(a::MatrixView) = a.size
Base.IndexStyle(::Type{<:MatrixView}) = IndexCartesian()
Base.elsize(::Type{<:MatrixView{T}}) where {T} = sizeof(T)
Base.strides(a::MatrixView) = a.strides
Base.unsafe_convert(::Type{Ptr{T}}, a::MatrixView{T}) where {T} = a.data
"The same memory with its axes exchanged: a row-major matrix becomes a column-major one, which is what Julia and BLAS like."
Base.transpose(a::MatrixView{T,W}) where {T<:Real,W} = MatrixView{T,W}(a.data, reverse(a.size), reverse(a.strides))

@inline place(a::MatrixView{T}, i, j) where {T} = a.data + ((i - 1) * a.strides[1] + (j - 1) * a.strides[2]) * sizeof(T)

@inline function Base.getindex(a::MatrixView, i::Int, j::Int)
    @boundscheck checkbounds(a, i, j)
    return element(place(a, i, j))
end

@inline function Base.setindex!(a::MutMat{T}, value, i::Int, j::Int) where {T}
    @boundscheck checkbounds(a, i, j)
    unsafe_store!(place(a, i, j), convert(T, value))
    return a
end

"""
The bytes of a `bytes` argument, only read.
"""
struct Bytes <: DenseVector{UInt8}
    bytes::Vec{UInt8}
end

Base.size(b::Bytes) = size(b.bytes)
Base.IndexStyle(::Type{Bytes}) = IndexLinear()
Base.@propagate_inbounds Base.getindex(b::Bytes, i::Int) = b.bytes[i]
Base.unsafe_convert(::Type{Ptr{UInt8}}, b::Bytes) = b.bytes.data

"""
Contiguous memory of any element type and rank, or bytes: `any[...]`. Its `bytes` are a `Vec{UInt8}`.
"""
struct AnyArray
    bytes::Vec{UInt8}
    dtype::DType
    ndim::Int32
    shape::Ptr{Int64}  # null: one axis, a byte each
end

"""
An array in a block of the host's: what a function returns as `any[...]`. Its `bytes`, of any value at first, are a
`MutVec{UInt8}`.
`similar(x::AnyArray)` makes one.
"""
struct Block
    tensor::Ptr{Tensor}
    bytes::MutVec{UInt8}
end

"""
Bytes as a result: Python's `bytes`. (A `Vector{UInt8}` is an array.)
"""
struct ByteVector
    bytes::Vector{UInt8}
    ByteVector(bytes) = new(collect(UInt8, bytes))
end

# The addresses of the first byte and of the one after the last.
extent(v::VectorView{T}) where {T} = (UInt(v.data), UInt(v.data) + v.length * sizeof(T))
extent(x::AnyArray) = extent(x.bytes)
extent(::Array) = (UInt(0), UInt(0))  # a copy meets nothing
function extent(a::MatrixView{T}) where {T}
    isempty(a) && return (UInt(a.data), UInt(a.data))
    far = (a.size .- 1) .* a.strides
    return (UInt(a.data) + sum(min.(far, 0)) * sizeof(T), UInt(a.data) + (sum(max.(far, 0)) + 1) * sizeof(T))
end
