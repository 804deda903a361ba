# What a NIF is called with: the source of the table, of the checks and of the error texts.

"""
The description of an exported function. What the checks need is in its type, so that they compile to straight code:
`Types` is a tuple type, `Names` and `Dims` are tuples of symbols: `Symbol("m,n")` for a matrix, `Symbol("")` for a scalar. The last
`Keywords` of the parameters are the function's keywords.
"""
struct Spec{Names,Types,Dims,Result,Keywords}
    signature::String
    doc::String
    flags::UInt32
end

"""
    spec(f) -> Spec

The description of a function that `@nif` exports; it has a method for each.
"""
function spec end

names_of(@nospecialize(spec)) = typeof(spec).parameters[1]
types_of(@nospecialize(spec)) = typeof(spec).parameters[2].parameters
dims_of(@nospecialize(spec)) = typeof(spec).parameters[3]

ismutable(type) = false
ismutable(::Type{<:Union{MutVec,MutMat}}) = true
isarray(type) = type <: Union{VectorView,MatrixView,AnyArray,Array}

"""
    crossing(T) -> Type

What the argument of a parameter that is declared as `T` comes as: of an abstract type, the SDK's own.
"""
crossing(type) = type
crossing(::Type{Real}) = Float64
crossing(::Type{Number}) = Float64
crossing(::Type{AbstractFloat}) = Float64
crossing(::Type{Integer}) = Int64
crossing(::Type{Signed}) = Int64
crossing(::Type{Unsigned}) = UInt64
crossing(::Type{Complex}) = ComplexF64
crossing(::Type{AbstractString}) = String
crossing(::Type{AbstractVector{T}}) where {T} = Vec{T}
crossing(::Type{AbstractMatrix{T}}) where {T} = Mat{T}

"The names in a symbol of `Dims`."
axis_names(dims::Symbol) = Symbol.(split(string(dims), ','; keepempty = false))

rank(type) = 0
rank(::Type{<:VectorView}) = 1
rank(::Type{<:MatrixView}) = 2
rank(::Type{<:Array{T,N}}) where {T,N} = N

"How signatures spell a type; `dims` stands between the brackets."
spelled(type::Type{<:Union{Scalar,ComplexNumber}}, dims) = element_name(type)
spelled(::Type{String}, dims) = "str"
spelled(::Type{Bytes}, dims) = "bytes"
spelled(::Type{AnyArray}, dims) = "any[...]"
spelled(type::Type{<:AbstractArray}, dims) = string(element_name(eltype(type)), '[', dims, ']')
spelled(@nospecialize(spec), i) = spelled(types_of(spec)[i], dims_of(spec)[i])

iselement(type) = type isa DataType && hasmethod(dtype, Tuple{Type{type}})

"What a `Union{Nothing,T}` is besides `Nothing`; nothing for any other type."
optional(type) = !(type isa Union) ? nothing : type.a === Nothing ? type.b : type.b === Nothing ? type.a : nothing

isseveral(type) =
    type isa DataType && (type <: NamedTuple || (type <: Tuple && !Base.isvatuple(type))) && 1 <= fieldcount(type) <= 16

"How signatures spell a result, or nothing for what can't be one."
function result_text(type)
    inner = something(optional(type), type)
    mark = inner === type ? "" : "?"
    isseveral(inner) || (one = item_text(inner); return one === nothing ? nothing : one * mark)
    items = map(1:fieldcount(inner)) do i
        name = inner <: NamedTuple ? string(fieldname(inner, i), ": ") : ""
        given = fieldtype(inner, i)
        plain = something(optional(given), given)
        text = item_text(plain)
        text === nothing ? nothing : string(name, text, plain === given ? "" : "?")
    end
    return nothing in items ? nothing : string('(', join(items, ", "), ')', mark)
end

item_text(type) =
    type === Nothing ? "None" : type === String ? "str" : type in (ByteVector, Bytes) ? "bytes" :
    type === Block ? "any[...]" : !(type isa DataType) ? nothing :
    type <: Union{Scalar,ComplexNumber} && isconcretetype(type) ? element_name(type) :
    type <: Array && 1 <= ndims(type) <= 3 && iselement(eltype(type)) ?
    string(element_name(eltype(type)), '[', join(fill('_', ndims(type)), ','), ']') : nothing

"What a result leaves as, of a type that has no word of its own: ranges, views and transposed matrices are arrays."
function leaving(type)
    (!(type isa DataType) || result_text(type) !== nothing) && return type
    type <: AbstractString && return String
    type <: Rational && return Float64
    type <: AbstractVector && iselement(eltype(type)) && return Vector{eltype(type)}
    type <: AbstractMatrix && iselement(eltype(type)) && return Matrix{eltype(type)}
    return type
end

isresult(type) = result_text(type) !== nothing
isparameter(type) =
    iscallback(type) ||
    type in (String, Bytes, AnyArray) || (type isa DataType && isconcretetype(type) && type <: Union{Scalar,ComplexNumber}) ||
    (type isa DataType && type <: Union{VectorView,MatrixView,Vector,Matrix} && hasmethod(dtype, Tuple{Type{eltype(type)}}))

const PARAMETER_TYPES =
    "Int8 to Int64, UInt8 to UInt64, Float32, Float64, ComplexF32, ComplexF64, Bool, String, Bytes, Vec{T}, MutVec{T}, Vector{T}, Mat{T}, MutMat{T}, Matrix{T}, AnyArray and Callback{Float64,Tuple{Float64}}"
const RESULT_TYPES =
    "Nothing, Int8 to Int64, UInt8 to UInt64, Float32, Float64, ComplexF32, ComplexF64, Bool, String, ByteVector, an Array{T} of one to three axes, Block, " *
    "a Tuple or NamedTuple of these, and a Union{Nothing,T} of any"

suggested_dims(type) = type === AnyArray ? "[...]" : ("", "[n]", "[m,n]")[rank(type)+1]

"""
    describe(name, docstring, Names, Types, Result, flags, defaults, keywords) -> Spec

Take the dimensions from the docstring's first line, which is the call: `dot(x[n], y[n])`, closed by a period or a colon. Without
that line all vectors are of one length, and all matrices of one shape. `defaults` has a value for each parameter, or `nothing`.
"""
function describe(
    name, docstring, @nospecialize(names), types, result, flags,
    @nospecialize(defaults = map(_ -> nothing, names)), keywords = 0,
)
    refuse(text) = error("@nif $name: ", text)
    if !occursin(r"^\s*`?[\w!]+\(", docstring)
        call = join((string(it, suggested_dims(type)) for (it, type) in zip(names, types.parameters)), ", ")
        docstring = "`$name($call)`: $docstring"
    end
    call = match(r"^\s*`?([\w!]+)\((.*?)\)`?[.:]\s*(.*?)\s*$"s, docstring)
    call !== nothing && call[1] == string(name) ||
        refuse("the docstring's first line must be the call with its dimensions, like `$name(x[n])`, closed by a period or a colon")
    parameters = collect(eachmatch(r"(\w+)\s*(?:\[([^\]]*)\])?", call[2]))
    [Symbol(it[1]) for it in parameters] == collect(names) ||
        refuse("the docstring names $(join((it[1] for it in parameters), ", ")), the function $(join(names, ", "))")
    dims = map(parameters) do it
        it[2] === nothing ? Symbol("") : Symbol(replace(it[2], ' ' => ""))
    end
    for (parameter, type, dim) in zip(names, types.parameters, dims)
        isparameter(type) || refuse("$parameter has a type that can't be the parameter of a NIF: $type; it takes $PARAMETER_TYPES")
        type === AnyArray ? dim == Symbol("...") || refuse("$parameter takes any shape: write $parameter[...]") :
        length(axis_names(dim)) == rank(type) ||
            refuse("$parameter has $(rank(type)) dimensions by its type, [$dim] by the docstring")
    end
    isresult(result) || refuse("the result has a type that can't be the result of a NIF: $result; it gives $RESULT_TYPES")
    outputs = [ismutable(type) && occursin(r"^out(_|$)", string(it)) for (it, type) in zip(names, types.parameters)]
    issorted(outputs) || refuse("outputs (arrays named out or out_…) come after all other parameters")
    texts = [
        string(parameter, ": ", ismutable(type) ? "mut " : "", spelled(type, dim), default_text(refuse, parameter, type, default)) for
        (parameter, type, dim, default) in zip(names, types.parameters, dims, defaults)
    ]
    keywords > 0 && insert!(texts, length(texts) - keywords + 1, "*")
    signature = "$name($(join(texts, ", "))) -> $(result_text(result))"
    return Spec{names,types,Tuple(dims),result,keywords}(signature, String(call[3]), flags)
end

"How signatures spell a default value."
function default_text(refuse, parameter, type, default)
    default === nothing && return ""
    type <: Union{Scalar,String} || refuse("$parameter can't have a default value: only numbers, truth values and strings can")
    value = convert(type, default)
    return string(" = ", value isa String ? string('"', replace(replace(value, "\\" => "\\\\"), "\"" => "\\\""), '"') : value)
end
