# A host in Julia: calls NIFs through the table, with the ABI's own structs.

struct CallFailed <: Exception
    kind::Symbol
    argument::Int  # from 0, -1 for none
    message::String
end

const FAILURE = Ref{Any}(nothing)
const BLOCKS = Any[]  # what alloc_tensor gave away

function on_error(env::Ptr{Nif.Env}, kind::Int32, message::Ptr{UInt8}, argument::Int32)
    name = keys(Nif.KINDS)[findfirst(==(kind), values(Nif.KINDS))]
    FAILURE[] = CallFailed(name, argument, unsafe_string(message))
    return
end

function on_alloc(type::Nif.DType, ndim::Int32, shape::Ptr{Int64})
    sizes = [unsafe_load(shape, i) for i in 1:ndim]
    any(>(10^9), sizes) && return Ptr{Nif.Tensor}(C_NULL)
    element = Nif.element_type(type)
    data = zeros(element, prod(sizes))
    tensor = Ref(Nif.Tensor(pointer(data), Nif.Device(1, 0), ndim, type, pointer(sizes), C_NULL, 0))
    push!(BLOCKS, (data, sizes, tensor))
    return Base.unsafe_convert(Ptr{Nif.Tensor}, tensor)
end

on_log(level::Int32, message::Ptr{UInt8}) = nothing
on_progress(done::Int64, total::Int64) = nothing

const TEST_HOST = Ref(Nif.Host(
    sizeof(Nif.Host), 1, @cfunction(on_error, Cvoid, (Ptr{Nif.Env}, Int32, Ptr{UInt8}, Int32)),
    @cfunction(on_alloc, Ptr{Nif.Tensor}, (Nif.DType, Int32, Ptr{Int64})), @cfunction(on_log, Cvoid, (Int32, Ptr{UInt8})),
    @cfunction(on_progress, Cvoid, (Int64, Int64)), C_NULL,
))
const CANCEL = Ref{Int32}(0)
host_address() = Base.unsafe_convert(Ptr{Nif.Host}, TEST_HOST)
const TEST_ENV = Ref(Nif.Env(sizeof(Nif.Env), 0, host_address(), C_NULL, Base.unsafe_convert(Ptr{Int32}, CANCEL)))

"An argument: the value and what it points to."
value(x::Nothing) = Nif.AnyValue(Nif.NONE, 0, 0), x
value(x::Bool) = Nif.AnyValue(Nif.BOOL, 0, x), x
value(x::Integer) = Nif.AnyValue(Nif.INT, 0, Int64(x) % UInt64), x
value(x::Float64) = Nif.AnyValue(Nif.FLOAT, 0, reinterpret(UInt64, x)), x
value(x::String) = Nif.AnyValue(Nif.STR, 0, UInt(pointer(x))), x
value(x::Base.CodeUnits) = pointed(Nif.BYTES, Nif.ByteRecord(pointer(x), length(x)), x)
value(x::Nif.AnyValue) = x, x
value(x::Nif.Tensor) = pointed(Nif.TENSOR, x)
value(x::StridedArray) = tensor(x)

function pointed(index, record, keep = nothing)
    place = Ref(record)
    return Nif.AnyValue(index, 0, UInt(Base.unsafe_convert(Ptr{Cvoid}, place))), (place, keep)
end

"A tensor over a Julia array; fields can be replaced."
function tensor(x; changes...)
    shape, steps = collect(Int64, size(x)), collect(Int64, strides(x))
    header = (
        data = pointer(x), device = Nif.Device(1, 0), ndim = ndims(x), dtype = Nif.dtype(eltype(x)), shape = pointer(shape),
        strides = pointer(steps), byte_offset = 0,
    )
    return pointed(Nif.TENSOR, Nif.Tensor(values(merge(header, values(changes)))...), (x, shape, steps))
end
value(x::Tuple{Nif.AnyValue,Any}) = x

"Call a NIF as a host does; `env = C_NULL` as a TVM-FFI client does."
function call(f, args...; env = Base.unsafe_convert(Ptr{Nif.Env}, TEST_ENV))
    kept = map(value, args)
    values = Nif.AnyValue[first(it) for it in kept]
    result = Ref(Nif.AnyValue(-1, 0, 0))
    FAILURE[] = nothing
    status = GC.@preserve kept ccall(
        Nif.entry(f), Int32, (Ptr{Nif.Env}, Ptr{Nif.AnyValue}, Int32, Ptr{Nif.AnyValue}), env, values, length(values), result,
    )
    status == 0 || throw(something(FAILURE[], CallFailed(:none, -1, "")))
    return taken(result[])
end

function taken(it)
    it.type_index == Nif.NONE && return nothing
    it.type_index == Nif.INT && return it.v % Int64
    it.type_index == Nif.BOOL && return it.v == 1
    it.type_index == Nif.FLOAT && return reinterpret(Float64, it.v)
    it.type_index == Nif.STR && return unsafe_string(Ptr{UInt8}(UInt(it.v)))
    header = unsafe_load(Ptr{Nif.Tensor}(UInt(it.v)))
    return unsafe_wrap(Array, Ptr{Nif.element_type(header.dtype)}(header.data), Tuple(unsafe_wrap(Array, header.shape, header.ndim)))
end

"The error of a call."
function failure(f, args...; options...)
    try
        call(f, args...; options...)
    catch caught
        caught isa CallFailed || rethrow()
        return (caught.kind, caught.argument, caught.message)
    end
    error("the call didn't fail")
end
