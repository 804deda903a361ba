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
isarray(type) = type <: Union{VectorView,MatrixView,AnyArray,Array} && type !== Vector{String}

"What a `Union{Nothing,T}` is besides `Nothing`; nothing for any other type."
optional(type) = !(type isa Union) ? nothing : type.a === Nothing ? type.b : type.b === Nothing ? type.a : nothing

"The type that an argument or a result has when it is there."
present(type) = something(optional(type), type)

"""
    crossing(T) -> Type

What the argument of a parameter that is declared as `T` comes as: of an abstract type, the SDK's own.
"""
crossing(type) = optional(type) === nothing ? type : Union{Nothing,crossing(optional(type))}
crossing(::Type{Real}) = Float64
crossing(::Type{Number}) = Float64
crossing(::Type{AbstractFloat}) = Float64
crossing(::Type{Integer}) = Int64
crossing(::Type{Signed}) = Int64
crossing(::Type{Unsigned}) = UInt64
crossing(::Type{Complex}) = ComplexF64
crossing(::Type{AbstractString}) = String
crossing(::Type{AbstractVector{T}}) where {T} = Vec{T}
crossing(::Type{<:Union{AbstractVector{String},AbstractVector{AbstractString},Vector{AbstractString}}}) = Vector{String}
crossing(::Type{AbstractMatrix{T}}) where {T} = Mat{T}

"The names in a symbol of `Dims`."
axis_names(dims::Symbol) = Symbol.(split(string(dims), ','; keepempty = false))

rank(type) = 0
rank(::Type{<:VectorView}) = 1
rank(::Type{<:MatrixView}) = 2
rank(::Type{<:Array{T,N}}) where {T,N} = N
rank(::Type{Vector{String}}) = 0

"How signatures spell a type; `dims` stands between the brackets."
spelled(type::Type{<:Union{Scalar,ComplexNumber}}, dims) = element_name(type)
spelled(::Type{String}, dims) = "str"
spelled(::Type{<:Enum}, dims) = "str"
spelled(::Type{Vector{String}}, dims) = "str[_]"
spelled(type::Union, dims) = string(spelled(optional(type), dims), '?')
spelled(::Type{Bytes}, dims) = "bytes"
spelled(::Type{AnyArray}, dims) = "any[...]"
spelled(type::Type{<:AbstractArray}, dims) = string(element_name(eltype(type)), '[', dims, ']')
spelled(@nospecialize(spec), i) = spelled(types_of(spec)[i], dims_of(spec)[i])

iselement(type) = type isa DataType && hasmethod(dtype, Tuple{Type{type}})

isseveral(type) =
    type isa DataType && (type <: NamedTuple || (type <: Tuple && !Base.isvatuple(type))) && 1 <= fieldcount(type) <= 16

"How signatures spell a result, or nothing for what can't be one."
function result_text(type)
    inner = present(type)
    mark = inner === type ? "" : "?"
    isseveral(inner) || (one = item_text(inner); return one === nothing ? nothing : one * mark)
    items = String[]
    for i in 1:fieldcount(inner)
        name = inner <: NamedTuple ? string(fieldname(inner, i), ": ") : ""
        given = fieldtype(inner, i)
        plain = present(given)
        text = item_text(plain)
        text === nothing && return nothing
        push!(items, string(name, text, plain === given ? "" : "?"))
    end
    return string('(', join(items, ", "), ')', mark)
end

item_text(type) =
    type === Nothing ? "None" : type === String ? "str" : type === Vector{String} ? "str[_]" : type in (ByteVector, Bytes) ? "bytes" :
    type === Block ? "any[...]" : !(type isa DataType) ? nothing :
    type <: Union{Scalar,ComplexNumber} && isconcretetype(type) ? element_name(type) :
    type <: Array && 1 <= ndims(type) <= 3 && iselement(eltype(type)) ?
    string(element_name(eltype(type)), '[', repeat("_,", ndims(type)::Int - 1), "_]") : nothing

"""
What a result leaves as, of a type that has no word of its own: ranges, views and transposed matrices are arrays, an enum's value and a
`Symbol` are texts, a struct of the cell's own is a named tuple.
"""
function leaving(type)
    optional(type) === nothing || return Union{Nothing,leaving(optional(type))}
    (!(type isa DataType) || result_text(type) !== nothing) && return type
    type <: Union{AbstractString,Enum,Symbol} && return String
    type <: Rational && return Float64
    type <: AbstractVector{<:AbstractString} && return Vector{String}
    type <: AbstractVector && iselement(eltype(type)) && return Vector{eltype(type)}
    type <: AbstractMatrix && iselement(eltype(type)) && return Matrix{eltype(type)}
    type <: Tuple && !Base.isvatuple(type) && return Tuple{map(leaving, fieldtypes(type))...}
    type <: NamedTuple && isconcretetype(type) && return NamedTuple{fieldnames(type),Tuple{map(leaving, fieldtypes(type))...}}
    isstruct(type) && return NamedTuple{fieldnames(type),Tuple{map(leaving, fieldtypes(type))...}}
    return type
end

"Whether a type is a struct of the user's, and no container or number."
isstruct(type) =
    isconcretetype(type) && isstructtype(type) && fieldcount(type) > 0 &&
    !(type <: Union{Number,AbstractArray,AbstractDict,AbstractSet,Function,Tuple,NamedTuple}) &&
    !(Base.moduleroot(parentmodule(type)) in (Base, Core))

"A value as what it leaves as."
leave(type, value) = convert(type, value)
leave(::Type{String}, value::Union{Enum,Symbol}) = string(value)
leave(type::Type{<:NamedTuple}, value) = type(fields_left(type, value))
leave(type::Type{<:Tuple}, value) = fields_left(type, value)
leave(type::Type{<:Union{Tuple,NamedTuple}}, value::Nothing) = nothing
leave(type::Union, value) = value === nothing ? nothing : leave(optional(type), value)
@generated fields_left(::Type{T}, value) where {T} =
    Expr(:tuple, (:(leave($(fieldtype(T, i)), getfield(value, $i))) for i in 1:fieldcount(T))...)

isresult(type) = result_text(type) !== nothing
isparameter(type) =
    (optional(type) !== nothing && isparameter(optional(type))) ||
    iscallback(type) ||
    type in (String, Bytes, AnyArray, Vector{String}) || (type isa DataType && isconcretetype(type) && type <: Enum) || (type isa DataType && isconcretetype(type) && type <: Union{Scalar,ComplexNumber}) ||
    (type isa DataType && type <: Union{VectorView,MatrixView,Vector,Matrix} && hasmethod(dtype, Tuple{Type{eltype(type)}}))

const PARAMETER_TYPES =
    "Int8 to Int64, UInt8 to UInt64, Float32, Float64, ComplexF32, ComplexF64, Bool, String, Bytes, Vec{T}, MutVec{T}, Vector{T}, Mat{T}, MutMat{T}, Matrix{T}, AnyArray, Vector{String}, an Enum (by its names), Callback{Float64,Tuple{Float64}} and a Union{Nothing,T} of one of these"
const RESULT_TYPES =
    "Nothing, Int8 to Int64, UInt8 to UInt64, Float32, Float64, ComplexF32, ComplexF64, Bool, String, ByteVector, an Array{T} of one to three axes, Vector{String}, an Enum (its name), Block, " *
    "a Tuple, NamedTuple or struct of these, and a Union{Nothing,T} of any"

plain_dims(given, type = present(given)) = type === AnyArray ? ["..."] : rank(type) in (1, 2) ? ["m", "n"][3-rank(type):2] : String[]

isoutput(parameter, type) = ismutable(type) && occursin(r"^out(_|$)", string(parameter))

"n, n2, n3; never the name of a scalar."
function own_dim(dim, number, scalars)
    own = number == 1 ? dim : string(dim, number)
    while Symbol(own) in scalars
        own *= "_"
    end
    return own
end

"""
The call of a function that documents none: each array that is read has lengths of its own, and an output those of the first one with
as many axes.
"""
function suggested_call(name, @nospecialize(names), types)
    scalars = Symbol[it for (it, type) in zip(names, types) if isempty(plain_dims(type))]
    read, items = Vector{String}[], String[]
    for (parameter, type) in zip(names, types)
        dims = plain_dims(type)
        if isoutput(parameter, type)
            like = findfirst(it -> length(it) == length(dims), read)
            # A parameter that is called n is the length of an output, and of nothing that is read.
            like === nothing || (dims = String[Symbol(dim) in scalars ? dim : same for (dim, same) in zip(dims, read[like])])
        elseif !isempty(dims) && dims != ["..."]
            dims = String[own_dim(dim, length(read) + 1, scalars) for dim in dims]
            push!(read, dims)
        end
        push!(items, isempty(dims) ? string(parameter) : string(parameter, '[', join(dims, ','), ']'))
    end
    return "$name($(join(items, ", ")))"
end

"""
    describe(name, docstring, Names, Types, Result, flags, defaults, keywords) -> Spec

Take the dimensions from the docstring's first line, which is the call: `dot(x[n], y[n])`, closed by a period or a colon. Without
that line it is [`suggested_call`](@ref). `defaults` has a `Some` for each parameter that has a default value, else `nothing`.
"""
function describe(
    name, docstring, @nospecialize(names), types, result, flags,
    @nospecialize(defaults = map(_ -> nothing, names)), keywords = 0,
)
    refuse(text) = error("@nif $name: ", text)
    if !occursin(r"^\s*`?[\w!]+\(", docstring)
        docstring = "`$(suggested_call(name, names, types.parameters))`: $docstring"
    end
    # A call that has its line for itself needs no period.
    call = match(r"^\s*`?([\w!]+)\((.*?)\)`?(?:[.:]|[ \t]*(?=\n|$))\s*(.*?)\s*$"s, docstring)
    call !== nothing && call[1] == string(name) ||
        refuse("the docstring's first line must be the call with its dimensions, like `$name(x[n])`, closed by a period or a colon")
    parameters = collect(eachmatch(r"(\w+)\s*(?:\[([^\]]*)\])?", call[2]))
    [Symbol(it[1]) for it in parameters] == collect(names) ||
        refuse("the docstring names $(join(String[it[1] for it in parameters], ", ")), the function $(join(String[string(it) for it in names], ", "))")
    dims = map(parameters) do it
        it[2] === nothing ? Symbol("") : Symbol(replace(it[2], ' ' => ""))
    end
    for (parameter, type, dim) in zip(names, types.parameters, dims)
        isparameter(type) || refuse("$parameter has a type that can't be the parameter of a NIF: $type; it takes $PARAMETER_TYPES")
        type = present(type)
        type === AnyArray ? dim == Symbol("...") || refuse("$parameter takes any shape: write $parameter[...]") :
        length(axis_names(dim)) == rank(type) ||
            refuse("$parameter has $(rank(type)) dimensions by its type, [$dim] by the docstring")
    end
    isresult(result) || refuse("the result has a type that can't be the result of a NIF: $result; it gives $RESULT_TYPES")
    outputs = Bool[isoutput(it, type) for (it, type) in zip(names, types.parameters)]
    issorted(outputs) || refuse("outputs (arrays named out or out_…) come after all other parameters")
    texts = String[
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
    given, type = default.value, present(type)
    given === nothing && return " = None"
    type <: Enum && return string(" = \"", given, '"')
    type <: Union{Scalar,String} || refuse("$parameter can't have a default value: only numbers, truth values and strings can")
    value = convert(type, given)
    return string(" = ", value isa String ? string('"', replace(replace(value, "\\" => "\\\\"), "\"" => "\\\""), '"') : value)
end
