# From a Julia function to a row of the table.

"""
    give(value) -> AnyValue

A result as the ABI carries it.
"""
give(::Nothing) = AnyValue(NONE, 0, 0)
give(value::Union{Signed,Unsigned}) = AnyValue(INT, 0, value % UInt64)
give(value::Union{Float32,Float64}) = AnyValue(FLOAT, 0, reinterpret(UInt64, Float64(value)))
give(value::Bool) = AnyValue(BOOL, 0, value)
function give(value::ComplexNumber)
    tensor, data = allocated(typeof(value), ())
    unsafe_store!(data, value)
    return give(tensor)
end
# A TVM-FFI client has no memory to offer.
give(value::String) = env_now() == C_NULL ? AnyValue(STR, 0, UInt64(UInt(kept(value)))) : give(copied(codeunits(value)))
give(value::ByteVector) = give(value.bytes)
give(value::Bytes) = give(copied(value))
give(value::Block) = give(value.tensor)
give(tensor::Ptr{Tensor}) = AnyValue(TENSOR, 0, UInt64(UInt(tensor)))
give(value::Vector) = give(copied(value))

"A list of texts: of each its size in bytes, a UInt64, then the bytes."
function give(value::Vector{String})
    tensor, data = allocated(UInt8, (mapreduce(it -> 8 + ncodeunits(it), +, value; init = 0),))
    for it in value
        unsafe_store!(convert(Ptr{UInt64}, data), ncodeunits(it) % UInt64)
        GC.@preserve it unsafe_copyto!(data + 8, pointer(it), ncodeunits(it))
        data += 8 + ncodeunits(it)
    end
    return give(tensor)
end

"An array of more axes in the order of C, the last axis first."
function give(value::Array{T,N}) where {T,N}
    tensor, data = allocated(T, size(value))
    isempty(value) || permutedims!(unsafe_wrap(Array, data, reverse(size(value))), value, N:-1:1)
    return give(tensor)
end

"A copy of a vector in memory of the host's."
function copied(value::AbstractVector{T}) where {T}
    tensor, data = allocated(T, (length(value),))
    root = Base.cconvert(Ptr{T}, value)  # what a text's code units are read from changed with the versions
    GC.@preserve root unsafe_copyto!(data, Base.unsafe_convert(Ptr{T}, root), length(value))
    return tensor
end

function allocated(::Type{T}, size) where {T}
    shape = collect(Int64, size)
    tensor = allocate(dtype(T), length(shape), shape)
    header = unsafe_load(tensor)
    return tensor, convert(Ptr{T}, header.data + header.byte_offset)
end

"""
    put(result, R, value)

A result of type `R` to where the caller wants it: one value, or the several of a tuple side by side.
"""
@generated function put(result::Ptr{AnyValue}, ::Type{R}, value) where {R}
    several = something(optional(R), R)  # decided once for each function
    write = isseveral(several) ? :(put_all(result, Val($(fieldcount(several))), value)) : :(unsafe_store!(result, give(value)))
    return :($write; nothing)
end

function put_all(result, ::Val{N}, value) where {N}
    N > 1 && room_for_results() < N && throw(NifError(:error, "needs a host that takes tuples"))
    # Nothing is written before all is known.
    values = value === nothing ? ntuple(_ -> give(nothing), N) : map(give, Tuple(value))
    for (i, it) in enumerate(values)
        unsafe_store!(result, it, i)
    end
end

"What C code points to: it lives as long as the library, that is as long as the process."
const ROOTS = Dict{Any,Any}()

"The address of a text that stays: equal texts are kept once."
function kept(text::String)
    '\0' in text && throw(ArgumentError("a text for C can't have a NUL in it"))
    return lock(() -> pointer(get!(ROOTS, text, text)::String), LOCK)
end

"What C calls: no exception leaves."
function enter(f::F, env::Ptr{Env}, values::Ptr{AnyValue}, n::Int32, result::Ptr{AnyValue}) where {F}
    before = exchange_env(env)
    status = guarded(f, values, n, result)
    exchange_env(before)
    return status
end

@noinline function guarded(f::F, values, n, result) where {F}
    try
        convert_and_call(f, values, n, result)
        return Int32(0)
    catch problem
        report(f, spec(f), problem)
        return Int32(-1)
    end
end

# Not inlined: what is computed inside a `try` block is kept in memory that has to be allocated.
@noinline function convert_and_call(f::F, values, n, result) where {F}
    it = spec(f)
    put(result, result_of(it), answer(it, call(f, it, arguments(it, values, n))))
    return
end

result_of(::Spec{N,T,D,R}) where {N,T,D,R} = R

call(f::F, ::Spec{N,T,D,R,0}, given) where {F,N,T,D,R} = f(given...)
@generated function call(f, ::Spec{Names,T,D,R,K}, given) where {Names,T,D,R,K}
    count = length(Names)
    keywords = [Expr(:kw, Names[i], :(given[$i])) for i in count-K+1:count]
    return Expr(:call, :f, Expr(:parameters, keywords...), (:(given[$i]) for i in 1:count-K)...)
end

answer(::Spec{N,T,D,Nothing}, value) where {N,T,D} = nothing
answer(::Spec{N,T,D,R}, value) where {N,T,D,R} = leave(R, value)::R

"The C function of a NIF, one method for each NIF. Call `entry` instead: it compiles the NIF first."
function c_function end

"""
    entry(f) -> Ptr{Cvoid}

The C function of a NIF, compiled.
"""
entry(@nospecialize(f)) = (compile(f); c_function(f))

"""
    @nif [flags...] function name(x::Type, ...)::Result ... end

Export a function to the Lab. It stays a plain function; its docstring's first line is the call with the dimensions of its
arrays. Flags: `pure`, `idempotent`, `long`, `polls_cancel`, `fault`.

    \"\"\"
    `dot(x[n], y[n])`: inner product of two vectors.
    \"\"\"
    @nif pure function dot(x::Vec{Float64}, y::Vec{Float64})::Float64
        ...
    end
"""
macro nif(arguments...)
    definition = arguments[end]
    flags = arguments[1:end-1]
    name, parameters, result = dissect(definition)
    for flag in flags
        haskey(FLAGS, flag) || error("@nif $name: no flag $flag; there are $(join(keys(FLAGS), ", "))")
    end
    bits = reduce(|, (FLAGS[flag] for flag in flags); init = THREAD_BOUND)
    names = Tuple(Symbol[it.name for it in parameters])
    types = Expr[esc(it.type) for it in parameters]
    defaults = Any[it.default === nothing ? nothing : :(Some($(esc(it.default)))) for it in parameters]
    keywords = count(it -> it.is_keyword, parameters)
    return quote
        Base.@__doc__ $(esc(definition))
        define($__module__, $(esc(name)), $names, Tuple{$(types...)}, $(esc(result)), $bits, ($(defaults...),), $keywords)
        $(esc(name))
    end
end

"A parameter as it is written: `default` is nothing where it has none."
struct Parameter
    name::Symbol
    type::Any
    default::Any
    is_keyword::Bool
end

"Name, parameters and result type of a function's definition."
function dissect(definition)
    definition isa Expr && definition.head in (:function, :(=)) || error("@nif stands before a function's definition")
    call = definition.args[1]
    result = :Nothing
    if call isa Expr && call.head == :(::)
        call, result = call.args
    end
    call isa Expr && call.head == :where &&
        error("@nif takes a plain function: no type parameters; write one function for each type, as `f(x::Vec{Float64})`")
    call isa Expr && call.head == :call || error("@nif takes a plain function")
    name, rest = call.args[1], call.args[2:end]
    has_keywords = !isempty(rest) && Meta.isexpr(rest[1], :parameters)
    keywords = has_keywords ? rest[1].args : []
    places = has_keywords ? rest[2:end] : rest
    parameters = Parameter[]
    foreach(it -> push!(parameters, parameter(name, it, false)), places)
    foreach(it -> push!(parameters, parameter(name, it, true)), keywords)
    return name::Symbol, parameters, result
end

function parameter(name, it, is_keyword)
    Meta.isexpr(it, :...) &&
        error("@nif $name: a NIF has a fixed number of parameters: take a vector, `xs::Vec{Float64}`, in place of `$it`")
    declared, default = Meta.isexpr(it, :kw) ? it.args : (it, nothing)
    Meta.isexpr(declared, :(::)) && length(declared.args) == 2 &&
        return Parameter(declared.args[1], declared.args[2], default, is_keyword)
    declared isa Symbol && default !== nothing || Base.invokelatest(refuse_parameter, name, it)
    return Parameter(declared, :(typeof($default)), default, is_keyword)
end

refuse_parameter(name, it) = error("@nif $name: $it should be a name with a type, `$it::Float64` say")

"Describe a function that has just been defined, docstring and all, and give it its C function."
function define(room::Module, @nospecialize(f), @nospecialize(names), types, result, flags, @nospecialize(defaults), keywords)
    name = nameof(f)
    types = Tuple{map(crossing, Tuple(types.parameters))...}
    result = leaving(result)
    documented = get(Base.Docs.meta(room), Base.Docs.Binding(room, name), nothing)
    docstring = documented === nothing ? "" : join(String[string(it) for it in documented.docs[documented.order[end]].text])
    it = describe(name, docstring, names, types, result, flags, defaults, keywords)
    call = gensym(name)  # a function of its own: C can't call a closure on every machine
    Core.eval(room, quote
        $call(env, values, n, result) = $enter($f, env, values, n, result)
        $Nif.c_function(::$(typeof(f))) = @cfunction($call, Int32, ($(Ptr{Env}), $(Ptr{AnyValue}), Int32, $(Ptr{AnyValue})))
        $Nif.spec(::$(typeof(f))) = $it
    end)
    return
end

"All functions that a module exports."
function exported(room::Module)
    found = Any[]
    for method in methods(c_function)
        method.module === room && push!(found, method.sig.parameters[2].instance)
    end
    # `methods` lists them in another order in each process.
    return sort!(found; by = f -> string(nameof(f)))
end

"""
`layout()`: the layout of the ABI's structs as this language sees it, a line for each struct and field.
"""
@nif pure function layout()::String
    return layout_text()
end

"As in Project.toml, which need not lie beside the sources."
const LIBRARY_VERSION = "0.2.0"

load(host::Ptr{Host}) = (host == C_NULL || (HOST[] = host); Int32(0))

"Compile a function and its way in, so that no call pays for it; a precompiled package keeps much of that work."
function compile(@nospecialize(f))
    types = types_of(spec(f))
    for type in types
        precompile(take, (Type{present(type)}, Any, Int, Ptr{AnyValue}))
    end
    precompile(f, Tuple(types))
    precompile(arguments, (typeof(spec(f)), Ptr{AnyValue}, Int32))
    # The inner function first: Julia 1.5 boxes the arguments of each call to a function that was compiled after its caller.
    precompile(convert_and_call, (typeof(f), Ptr{AnyValue}, Int32, Ptr{AnyValue}))
    precompile(enter, (typeof(f), Ptr{Env}, Ptr{AnyValue}, Int32, Ptr{AnyValue}))
    precompile(spec, (typeof(f),))
end

function row(@nospecialize(f))
    it = spec(f)
    # Each function's description is of another type, and `it.doc` would be compiled for each.
    text(name) = kept(getfield(it, name)::String)
    return NifFunction(kept(string(nameof(f))), text(:signature), text(:doc), entry(f), getfield(it, :flags)::UInt32, 0)
end

"""
    table(host, modules) -> Ptr{Library}

The table of all functions that `modules` export, and `layout`.
"""
function table(host::Ptr{Host}, modules)
    load(host)
    functions = Any[layout]
    for room in modules, f in exported(room)
        f === layout || push!(functions, f)
    end
    rows = NifFunction[]
    for f in functions
        push!(rows, row(f))
    end
    library = Ref(Library(
        ABI_VERSION, struct_hash(), kept("julia"), kept("Julia $VERSION"), kept(LIBRARY_VERSION), length(rows), 0, pointer(rows),
        @cfunction(load, Int32, (Ptr{Host},)), C_NULL,
    ))
    address = Base.unsafe_convert(Ptr{Library}, library)
    lock(() -> ROOTS[address] = (library, rows), LOCK)
    return address
end
