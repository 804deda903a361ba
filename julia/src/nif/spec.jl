# What a NIF is called with: the source of the table, of the checks and of the error texts.

"""
The description of an exported function. What the checks need is in its type, so that they compile to straight code:
`Types` is a tuple type, `Names` and `Dims` are tuples of symbols: `Symbol("m,n")` for a matrix, `Symbol("")` for a scalar.
"""
struct Spec{Names,Types,Dims,Result}
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
isarray(type) = type <: Union{VectorView,MatrixView,AnyArray}

"The names in a symbol of `Dims`."
axis_names(dims::Symbol) = Symbol.(split(string(dims), ','; keepempty = false))

rank(type) = 0
rank(::Type{<:VectorView}) = 1
rank(::Type{<:MatrixView}) = 2

"How signatures spell a type; `dims` stands between the brackets."
spelled(::Type{Int64}, dims) = "i64"
spelled(::Type{UInt64}, dims) = "u64"
spelled(::Type{Float64}, dims) = "f64"
spelled(::Type{Bool}, dims) = "bool"
spelled(::Type{String}, dims) = "str"
spelled(::Type{Bytes}, dims) = "bytes"
spelled(::Type{Nothing}, dims) = "None"
spelled(::Type{<:Union{AnyArray,Block}}, dims) = "any[...]"
spelled(type::Type{<:AbstractArray}, dims) = string(element_name(eltype(type)), '[', dims, ']')
spelled(@nospecialize(spec), i) = spelled(types_of(spec)[i], dims_of(spec)[i])

isresult(type) = type in (Nothing, Int64, UInt64, Float64, Bool, String, Block)
isparameter(type) =
    type in (Int64, Float64, Bool, String, Bytes, AnyArray) ||
    (type isa DataType && type <: Union{VectorView,MatrixView} && hasmethod(dtype, Tuple{Type{eltype(type)}}))

const PARAMETER_TYPES = "Int64, Float64, Bool, String, Bytes, Vec{T}, MutVec{T}, Mat{T}, MutMat{T} and AnyArray"
const RESULT_TYPES = "Nothing, Int64, UInt64, Float64, Bool, String and Block"

suggested_dims(type) = type === AnyArray ? "[...]" : ("", "[n]", "[m,n]")[rank(type)+1]

"""
    describe(name, docstring, Names, Types, Result, flags) -> Spec

Take the dimensions from the docstring's first line, which is the call: `dot(x[n], y[n])`, closed by a period or a colon. Without
that line all vectors are of one length, and all matrices of one shape.
"""
function describe(name, docstring, names, types, result, flags)
    refuse(text) = error("@nif $name: ", text)
    if !occursin(r"^\s*`?\w+\(", docstring)
        call = join((string(it, suggested_dims(type)) for (it, type) in zip(names, types.parameters)), ", ")
        docstring = "`$name($call)`: $docstring"
    end
    call = match(r"^\s*`?(\w+)\((.*?)\)`?[.:]\s*(.*?)\s*$"s, docstring)
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
        string(parameter, ": ", ismutable(type) ? "mut " : "", spelled(type, dim)) for
        (parameter, type, dim) in zip(names, types.parameters, dims)
    ]
    signature = "$name($(join(texts, ", "))) -> $(spelled(result, Symbol("...")))"
    return Spec{names,types,Tuple(dims),result}(signature, String(call[3]), flags)
end
