# Callbacks: parameters that are functions of the caller's.

"""
    Callback{Result,Tuple{Types...}}

A function of the caller's, Python's as a rule: `f::Callback{Float64,Tuple{Float64}}`, then `f(x)`.

Numbers, truth values and vectors (`Vec{T}`, or `MutVec{T}` that it may write to) go in; a number, a truth value or `Nothing` comes out. A
callable gets an array of its own; what it writes there comes back for a `MutVec`. When it fails (it raised an exception) a `NifError` is
thrown, and whoever made the call gets that same exception. It is borrowed for the call.
"""
struct Callback{Result,Types<:Tuple}
    object::Ptr{CallbackObject}
end

passed(value::Union{Signed,Unsigned}) = AnyValue(INT, 0, value % UInt64)
passed(value::Bool) = AnyValue(BOOL, 0, value)
passed(value::Union{Float32,Float64}) = AnyValue(FLOAT, 0, reinterpret(UInt64, Float64(value)))

# Vectors go in as tensors, which live as long as the call.
lendable(::Type{VectorView{T,false}}, given::AbstractVector) where {T} = isdense(T, given) ? given : Vector{T}(given)
lendable(::Type{VectorView{T,true}}, given::AbstractVector) where {T} =
    isdense(T, given) ? given : throw(NifError(:error, "a callback writes to a vector of $T without gaps: pass one, not a $(typeof(given))"))
lendable(type, given) = convert(type, given)

isdense(::Type{T}, given) where {T} = given isa StridedVector{T} && stride(given, 1) == 1

# The length and the tensor of a vector; nothing of other values.
lent(given::AbstractVector{T}) where {T} =
    (length = Ref(Int64(length(given))), tensor = Ref(Tensor(C_NULL, Device(CPU, 0), 1, dtype(T), C_NULL, C_NULL, 0)))
lent(given) = nothing

passed(value, ::Nothing) = passed(value)
function passed(value::AbstractVector{T}, it) where {T}
    shape = Base.unsafe_convert(Ptr{Int64}, it.length)
    data = convert(Ptr{Cvoid}, Base.unsafe_convert(Ptr{T}, value))
    it.tensor[] = Tensor(data, Device(CPU, 0), 1, dtype(T), shape, C_NULL, 0)
    return AnyValue(TENSOR, 0, UInt64(UInt(Base.unsafe_convert(Ptr{Tensor}, it.tensor))))
end

@noinline unexpected(type) = throw(NifError(:raised, "a callback gave something else than $(element_name(type))"))

# The host has seen to type and range; of a TVM-FFI client's function nobody has.
received(::Type{Nothing}, value::AnyValue) = nothing
received(::Type{Bool}, value::AnyValue) = value.type_index == BOOL ? value.v != 0 : unexpected(Bool)
received(::Type{T}, value::AnyValue) where {T<:Integer} =
    value.type_index == INT || value.type_index == BOOL ? value.v % T : unexpected(T)
received(::Type{T}, value::AnyValue) where {T<:AbstractFloat} =
    value.type_index == FLOAT ? T(reinterpret(Float64, value.v)) :
    value.type_index == INT || value.type_index == BOOL ? T(value.v % Int64) : unexpected(T)

@generated function (f::Callback{Result,Types})(given...) where {Result,Types}
    n = fieldcount(Types)
    length(given) == n || return :(throw(NifError(:error, $("a callback takes $n values, $(length(given)) given"))))
    all = Expr(:tuple, (:(lendable($(fieldtype(Types, i)), given[$i])) for i in 1:n)...)
    lents = Expr(:tuple, (:(lent(all[$i])) for i in 1:n)...)
    values = Expr(:tuple, (:(passed(all[$i], lents[$i])) for i in 1:n)...)
    return quote
        all = $all
        lents = $lents
        result = Ref(AnyValue(NONE, 0, 0))
        values = Ref{NTuple{$n,AnyValue}}($values)
        status = GC.@preserve all lents values result begin
            given = convert(Ptr{Cvoid}, Base.unsafe_convert(Ptr{NTuple{$n,AnyValue}}, values))
            found = Base.unsafe_convert(Ptr{AnyValue}, result)
            call = unsafe_load(f.object).call
            # It may wait for the GIL, whose holder may wait for a garbage collection.
            state = leave_julia()
            status = ccall(call, Int32, (Ptr{Cvoid}, Ptr{Cvoid}, Int32, Ptr{AnyValue}), f.object, given, $n, found)
            come_back(state)
            status
        end
        status == 0 || throw(NifError(:raised, "a callback raised an exception"))
        return received(Result, result[])
    end
end

spelled(::Type{Callback{Result,Types}}, dims) where {Result,Types} =
    string("fn(", join(String[passed_name(it) for it in Types.parameters], ','), ")->", Result === Nothing ? "None" : element_name(Result))

passed_name(type) = element_name(type)
passed_name(::Type{VectorView{T,W}}) where {T,W} = string(W ? "mut " : "", element_name(T), "[_]")

isreturned(type) = type isa DataType && isconcretetype(type) && type <: Scalar
ispassed(type) = isreturned(type) || (type isa DataType && isconcretetype(type) && type <: VectorView && iselement(eltype(type)))
iscallback(type) =
    type isa DataType && type <: Callback && isconcretetype(type) && (type.parameters[1] === Nothing || isreturned(type.parameters[1])) &&
    fieldcount(type.parameters[2]) <= 6 && all(ispassed, type.parameters[2].parameters)

@noinline function take(::Type{Callback{Result,Types}}, @nospecialize(spec), i, values) where {Result,Types}
    value = unsafe_load(values, i)
    value.type_index == TVM_FUNCTION || mismatch(:type, spec, i, value)
    return Callback{Result,Types}(pointed(CallbackObject, value))
end
