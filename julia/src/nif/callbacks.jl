# Callbacks: parameters that are functions of the caller's.

"""
    Callback{Result,Tuple{Types...}}

A function of the caller's, Python's as a rule: `f::Callback{Float64,Tuple{Float64}}`, then `f(x)`.

Numbers and truth values go in; one of them, or `Nothing`, comes out. When it fails (it raised an exception) a `NifError` is
thrown, and whoever made the call gets that same exception. It is borrowed for the call.
"""
struct Callback{Result,Types<:Tuple}
    object::Ptr{CallbackObject}
end

passed(value::Union{Signed,Unsigned}) = AnyValue(INT, 0, value % UInt64)
passed(value::Bool) = AnyValue(BOOL, 0, value)
passed(value::Union{Float32,Float64}) = AnyValue(FLOAT, 0, reinterpret(UInt64, Float64(value)))

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
    values = Expr(:tuple, (:(passed(convert($(fieldtype(Types, i)), given[$i]))) for i in 1:n)...)
    return quote
        values = Ref{NTuple{$n,AnyValue}}($values)
        result = Ref(AnyValue(NONE, 0, 0))
        status = ccall(
            unsafe_load(f.object).call, Int32, (Ptr{Cvoid}, Ptr{Cvoid}, Int32, Ptr{AnyValue}), f.object, values, $n, result,
        )
        status == 0 || throw(NifError(:raised, "a callback raised an exception"))
        return received(Result, result[])
    end
end

spelled(::Type{Callback{Result,Types}}, dims) where {Result,Types} =
    string("fn(", join((element_name(it) for it in Types.parameters), ','), ")->", Result === Nothing ? "None" : element_name(Result))

ispassed(type) = type isa DataType && isconcretetype(type) && type <: Scalar
iscallback(type) =
    type isa DataType && type <: Callback && isconcretetype(type) && (type.parameters[1] === Nothing || ispassed(type.parameters[1])) &&
    fieldcount(type.parameters[2]) <= 6 && all(ispassed, type.parameters[2].parameters)

@noinline function take(::Type{Callback{Result,Types}}, @nospecialize(spec), i, values) where {Result,Types}
    value = unsafe_load(values, i)
    value.type_index == TVM_FUNCTION || mismatch(:type, spec, i, value)
    return Callback{Result,Types}(pointed(CallbackObject, value))
end
