# From the ABI's values to Julia's, with the checks of docs/abi.md in their order.

"`G` of docs/abi.md: what came, in a few characters."
function came(value::AnyValue)
    tensor = tensor_of(value)
    if tensor != C_NULL
        header = unsafe_load(tensor)
        type = element_type(header.dtype)
        name = type === nothing ? string(header.dtype.code, '/', header.dtype.bits, '/', header.dtype.lanes) : element_name(type)
        return "$name[$(join(numbers(header.shape, header.ndim), ','))]"
    end
    index = value.type_index
    return index == NONE ? "None" : index == INT ? "i64" : index == BOOL ? "bool" : index == FLOAT ? "f64" :
        index == DTYPE ? "dtype" : index == DEVICE ? "device" :
        index in (STR, TVM_SMALL_STR, TVM_STR) ? "str" : index in (BYTES, TVM_SMALL_BYTES, TVM_BYTES) ? "bytes" : "object"
end

numbers(p::Ptr{Int64}, n) = [unsafe_load(p, i) for i in 1:n]

# The checks are compiled once for each type, and the errors once for all functions: a `spec` is only looked at when it is
# needed for a text.
@noinline mismatch(kind, @nospecialize(spec), i, value) =
    throw(NifError(kind, names_of(spec)[i], "expected $(spelled(spec, i)), got $(came(value))"))
@noinline refuse(@nospecialize(spec), i, text::String) = throw(NifError(:value, names_of(spec)[i], text))
@noinline refuse_count(wanted, given) =
    throw(NifError(:type, "takes $wanted argument$(wanted == 1 ? "" : "s"), $given given"))
@noinline refuse_alignment(@nospecialize(spec), i, alignment) = refuse(spec, i, "expected data aligned to $alignment bytes")
@noinline refuse_strides(@nospecialize(spec), i, tensor) =
    refuse(spec, i, "expected contiguous memory, got strides [$(join(numbers(tensor.strides, tensor.ndim), ','))]")
@noinline refuse_negative(@nospecialize(spec), i, size) = refuse(spec, i, "expected 0 or more, got $size")
@noinline refuse_extent(@nospecialize(spec), i, dim, bound, value) =
    refuse(spec, i, "expected $(spelled(spec, i)) with $dim = $bound, got $(came(value))")
@noinline refuse_overlap(@nospecialize(spec), i, j) = refuse(spec, i, "overlaps argument '$(names_of(spec)[j])'")

pointed(::Type{T}, value::AnyValue, offset = 0) where {T} = Ptr{T}(value.v % UInt) + offset

@inline tensor_of(value::AnyValue) =
    value.type_index == TENSOR ? pointed(Tensor, value) :
    value.type_index == TVM_TENSOR ? pointed(Tensor, value, TVM_HEADER) : Ptr{Tensor}(C_NULL)

"""
    take(T, spec, i, values) -> T

Rows 2 to 7: the i-th argument as a `T`, or an error.
"""
@noinline function take(::Type{Float64}, @nospecialize(spec), i, values)
    value = unsafe_load(values, i)
    value.type_index == FLOAT && return reinterpret(Float64, value.v)
    value.type_index == INT && return Float64(value.v % Int64)
    value.type_index == BOOL && return Float64(value.v != 0)
    mismatch(:type, spec, i, value)
end

@noinline function take(::Type{Int64}, @nospecialize(spec), i, values)
    value = unsafe_load(values, i)
    value.type_index == INT && return value.v % Int64
    value.type_index == BOOL && return Int64(value.v != 0)
    mismatch(:type, spec, i, value)
end

@noinline refuse_range(@nospecialize(spec), i, type, given) =
    refuse(spec, i, "expected $(Int64(typemin(type))) to $(Int64(typemax(type))), got $given")

@noinline function take(::Type{T}, @nospecialize(spec), i, values) where {T<:Union{Int8,Int16,Int32,UInt8,UInt16,UInt32}}
    number = take(Int64, spec, i, values)
    typemin(T) <= number <= typemax(T) || refuse_range(spec, i, T, number)
    return number % T
end

# The bits of an Int64: the Lab knows the sign and refuses what is negative.
@noinline take(::Type{UInt64}, @nospecialize(spec), i, values) = take(Int64, spec, i, values) % UInt64
@noinline take(::Type{Float32}, @nospecialize(spec), i, values) = Float32(take(Float64, spec, i, values))

@noinline function take(::Type{T}, @nospecialize(spec), i, values) where {T<:ComplexNumber}
    value = unsafe_load(values, i)
    p = tensor_of(value)
    p == C_NULL && return T(take(Float64, spec, i, values))
    tensor = unsafe_load(p)
    type = element_type(tensor.dtype)
    type === ComplexF32 || type === ComplexF64 || mismatch(:type, spec, i, value)
    tensor.ndim == 0 || mismatch(:value, spec, i, value)
    data = address(spec, i, tensor, Base.datatype_alignment(real(type)))
    type === ComplexF64 && return T(unsafe_load(convert(Ptr{ComplexF64}, data)))
    return T(unsafe_load(convert(Ptr{ComplexF32}, data)))
end

@noinline function take(::Type{Bool}, @nospecialize(spec), i, values)
    value = unsafe_load(values, i)
    value.type_index == BOOL && return value.v != 0
    mismatch(:type, spec, i, value)
end

@noinline function take(::Type{String}, @nospecialize(spec), i, values)
    value = unsafe_load(values, i)
    if value.type_index == STR
        text = unsafe_string(pointed(UInt8, value))
    elseif value.type_index == TVM_SMALL_STR
        text = string_of(small(values, i))
    elseif value.type_index == TVM_STR
        text = string_of(recorded(pointed(ByteRecord, value, TVM_HEADER)))
    else
        mismatch(:type, spec, i, value)
    end
    isvalid(text) || refuse(spec, i, "expected UTF-8")
    return text
end

@noinline function take(::Type{T}, @nospecialize(spec), i, values) where {T<:Enum}
    text = take(String, spec, i, values)
    for it in instances(T)
        string(it) == text && return it
    end
    refuse(spec, i, "expected one of $(join(instances(T), ", ")), got '$text'")
end

"A list of texts: of each its size in bytes, then the bytes."
@noinline function take(::Type{Vector{String}}, @nospecialize(spec), i, values)
    bytes = bytes_of(values, i)
    bytes === nothing && mismatch(:type, spec, i, unsafe_load(values, i))
    texts = String[]
    at, rest = bytes.data, length(bytes)
    while rest > 0
        size = rest < 8 ? typemax(UInt64) : unsafe_load(convert(Ptr{UInt64}, at))
        size > rest - 8 && refuse(spec, i, "has a text that is cut off")
        text = unsafe_string(at + 8, size)
        isvalid(text) || refuse(spec, i, "expected UTF-8")
        push!(texts, text)
        at += 8 + size
        rest -= 8 + size
    end
    return texts
end

"Whether None came."
@inline isnone(values, i) = unsafe_load(values, i).type_index == NONE

@noinline function take(::Type{Bytes}, @nospecialize(spec), i, values)
    bytes = bytes_of(values, i)
    bytes === nothing && mismatch(:type, spec, i, unsafe_load(values, i))
    return Bytes(bytes)
end

string_of(bytes::Vec{UInt8}) = isempty(bytes) ? "" : unsafe_string(bytes.data, length(bytes))

"The bytes of one of the three `bytes` types."
function bytes_of(values, i)
    value = unsafe_load(values, i)
    value.type_index == BYTES && return recorded(pointed(ByteRecord, value))
    value.type_index == TVM_SMALL_BYTES && return small(values, i)
    value.type_index == TVM_BYTES && return recorded(pointed(ByteRecord, value, TVM_HEADER))
    return nothing
end

function recorded(p::Ptr{ByteRecord})
    record = unsafe_load(p)
    return Vec{UInt8}(record.data, record.size)
end

# A TVM small string lies in the value itself.
small(values::Ptr{AnyValue}, i) =
    Vec{UInt8}(Ptr{UInt8}(values) + (i - 1) * sizeof(AnyValue) + fieldoffset(AnyValue, 3), min(unsafe_load(values, i).zero, 8))

@noinline hasnone(tensor) = 0 in numbers(tensor.shape, tensor.ndim)

"Rows 4 to 6: where the data lies."
@inline function address(@nospecialize(spec), i, tensor::Tensor, alignment)
    tensor.device.type == CPU || refuse(spec, i, "expected memory of the CPU")
    if tensor.data == C_NULL
        hasnone(tensor) || refuse(spec, i, "has no data")
        return tensor.data
    end
    data = tensor.data + tensor.byte_offset
    UInt(data) % alignment == 0 || refuse_alignment(spec, i, alignment)
    return data
end

"Rows 2 to 6 for an array with `ndim` axes."
@inline function array(::Type{T}, ndim, @nospecialize(spec), i, values) where {T}
    value = unsafe_load(values, i)
    p = tensor_of(value)
    p == C_NULL && mismatch(:type, spec, i, value)
    tensor = unsafe_load(p)
    tensor.dtype === dtype(T) || mismatch(:type, spec, i, value)
    tensor.ndim == ndim || mismatch(:value, spec, i, value)
    return tensor, convert(Ptr{T}, address(spec, i, tensor, Base.datatype_alignment(T)))
end

@noinline function take(::Type{VectorView{T,W}}, @nospecialize(spec), i, values) where {T,W}
    tensor, data = array(T, 1, spec, i, values)
    n = unsafe_load(tensor.shape)
    n > 1 && tensor.strides != C_NULL && unsafe_load(tensor.strides) != 1 && refuse_strides(spec, i, tensor)
    return VectorView{T,W}(data, n)
end

@noinline function take(::Type{MatrixView{T,W}}, @nospecialize(spec), i, values) where {T,W}
    tensor, data = array(T, 2, spec, i, values)
    m, n = unsafe_load(tensor.shape, 1), unsafe_load(tensor.shape, 2)
    row, column = tensor.strides == C_NULL ? (n, 1) : (unsafe_load(tensor.strides, 1), unsafe_load(tensor.strides, 2))
    # An axis of length 1 has any stride: give it the one of plain memory, which BLAS insists on.
    column = n > 1 ? column : 1
    row = m > 1 ? row : column == 1 ? max(n, 1) : 1
    return MatrixView{T,W}(data, (m, n), (row, column))
end

# Copies, which are the function's.
@noinline take(::Type{Vector{T}}, @nospecialize(spec), i, values) where {T} = Vector{T}(take(Vec{T}, spec, i, values))
@noinline take(::Type{Matrix{T}}, @nospecialize(spec), i, values) where {T} = Matrix{T}(take(Mat{T}, spec, i, values))

@noinline function take(::Type{AnyArray}, @nospecialize(spec), i, values)
    bytes = bytes_of(values, i)
    bytes === nothing || return AnyArray(bytes, dtype(UInt8), 1, C_NULL)
    value = unsafe_load(values, i)
    p = tensor_of(value)
    p == C_NULL && mismatch(:type, spec, i, value)
    tensor = unsafe_load(p)
    type = element_type(tensor.dtype)
    type === nothing && mismatch(:type, spec, i, value)
    data = address(spec, i, tensor, Base.datatype_alignment(type))
    count = 1
    contiguous = true
    for axis in tensor.ndim:-1:1
        size = unsafe_load(tensor.shape, axis)
        contiguous &= size == 1 || tensor.strides == C_NULL || unsafe_load(tensor.strides, axis) == count
        count *= size
    end
    contiguous || count == 0 || refuse_strides(spec, i, tensor)
    return AnyArray(Vec{UInt8}(data, count * sizeof(type)), tensor.dtype, tensor.ndim, tensor.shape)
end

"""
Rows 8 and 9: a dimension's name means one number. An integer parameter of that name binds it, otherwise the first use does, of an array
that is there.
"""
function dimension_checks(names, types, dims, locals)
    checks = Expr[]
    bound = Dict{Symbol,Vector{Any}}()  # what tells each length: an expression, and the optional array that it is of
    used = Set(dim for axes in dims for dim in axes)
    for (i, name) in enumerate(names)
        types[i] <: Integer && types[i] !== Bool && name in used || continue
        bound[name] = [(locals[i], nothing)]
        push!(checks, :($(locals[i]) >= 0 || refuse_negative(spec, $i, $(locals[i]))))
    end
    for (i, axes) in enumerate(dims), (axis, dim) in enumerate(axes)
        type = present(types[i])
        isarray(type) && type !== AnyArray || continue
        size = :(size($(locals[i]), $axis))
        mine = optional(types[i]) === nothing ? nothing : locals[i]
        sources = get!(bound, dim, Any[])
        for (wanted, theirs) in sources
            check = :($size == $wanted || refuse_extent(spec, $i, $(QuoteNode(dim)), $wanted, unsafe_load(values, $i)))
            for it in (theirs, mine)
                it === nothing || (check = :($it === nothing || $check))
            end
            push!(checks, check)
        end
        all(it -> it[2] !== nothing, sources) && push!(sources, (size, mine))
    end
    return checks
end

"Row 10: a mutable array shares no byte with another one."
function overlap_checks(types, locals)
    checks = Expr[]
    for i in 1:length(types), j in 1:length(types)
        i != j && ismutable(types[i]) && isarray(present(types[j])) || continue
        push!(checks, :($(locals[j]) !== nothing && meet($(locals[i]), $(locals[j])) && refuse_overlap(spec, $i, $j)))
    end
    return checks
end

@inline function meet(a, b)
    (a_first, a_end), (b_first, b_end) = extent(a), extent(b)
    return a_first < a_end && b_first < b_end && a_first < b_end && b_first < a_end
end

"""
    arguments(spec, values, n) -> Tuple

All checked arguments. Generated, a straight line for each NIF: no loop, no allocation, nothing looked up.
(What a generator calls must stand before it.)
"""
@generated function arguments(spec::Spec{Names,Types,Dims}, values::Ptr{AnyValue}, n::Int32) where {Names,Types,Dims}
    types = Types.parameters
    locals = [Symbol(:argument, i) for i in eachindex(types)]
    code = Expr(:block, :(n == $(length(types)) || refuse_count($(length(types)), n)))
    for (i, type) in enumerate(types)
        taken = :(take($(present(type)), spec, $i, values))
        push!(code.args, :($(locals[i]) = $(present(type) === type ? taken : :(isnone(values, $i) ? nothing : $taken))))
    end
    append!(code.args, dimension_checks(Names, types, map(axis_names, Dims), locals))
    append!(code.args, overlap_checks(types, locals))
    push!(code.args, Expr(:tuple, locals...))
    return code
end
