"""
Notebook cells: plain functions become NIFs in a module of their own, without a word of theirs.
"""
module Cells

using ..Nif

"""
    open_cell(host, code, projects = [], folder = "") -> String

Evaluate a cell in a fresh module and return the address of its table; or `error:`, the line and what is wrong. The
packages of the projects can be used by it, and by all that comes later. `folder` is that of a file which was imported as a
module: it includes files relative to that, and its functions are none of those that cells share.

Which functions are exported: those that an `export` names, else all whose names don't begin with an underscore.
"""
function open_cell(host::Integer, code::String, projects::Vector{String} = String[], folder::String = "")
    return answered() do line
        room, names = evaluated(code, line, projects, folder)
        address = string(UInt(Base.invokelatest(Nif.table, Ptr{Nif.Host}(UInt(host)), (room,))))
        for name in (isempty(folder) ? names : ())
            SHARED[name] = Base.invokelatest(getfield, room, name)
        end
        address
    end
end

"The public functions of all cells, the latest of each name: another cell has them as `cells.name`."
const SHARED = Dict{Symbol,Any}()

"""
    show_cell(form, code, projects = []) -> String

What the compiler makes of a cell's functions, `"asm"` or `"llvm"`; or `error:`, the line and what is wrong.
"""
function show_cell(form::String, code::String, projects::Vector{String} = String[])
    return answered() do line
        room, names = evaluated(code, line, projects)
        # Loaded here only: it takes time, and no worker needs it.
        tools = Base.require(Base.PkgId(Base.UUID("b77e0a4c-d291-57a0-90e8-8db25a27a240"), "InteractiveUtils"))
        show = getfield(tools, form == "asm" ? :code_native : :code_llvm)
        shown = IOBuffer()
        for name in names
            f = Base.invokelatest(getfield, room, name)
            for method in Base.invokelatest(methods, f)
                types = Tuple{method.sig.parameters[2:end]...}
                Base.invokelatest(show, shown, f, types; debuginfo = :none)
            end
        end
        String(take!(shown))
    end
end

"What `work` returns, given a place for the number of the line that it is at; or what is wrong, and where."
function answered(work)
    line = Ref(1)
    try
        return Base.invokelatest(work, line)
    catch problem
        problem isa LoadError && (problem = problem.error)
        return string("error:", line[], ":", sprint(showerror, problem))
    end
end

"A fresh module with what the cell defines, and the names of its public functions. It includes files relative to `folder`."
function evaluated(code, line, projects, folder = "")
    for project in setdiff(projects, LOAD_PATH)
        push!(LOAD_PATH, project)
    end
    room = Module(:Cell)
    Core.eval(room, :(using $(fullname(Nif)...)))
    # As in each module that is written with `module`.
    Core.eval(room, :(eval(it) = $(Core.eval)($room, it)))
    Core.eval(room, :(include(file::AbstractString) = $(Base.include)($room, abspath($folder, file))))
    if occursin(r"\bcells\b", code)
        others = Module(:cells)
        for (name, f) in SHARED
            Core.eval(others, :(const $name = $f))
        end
        Core.eval(room, :(const cells = $others))
    end
    return room, defined(room, code, line)
end

"The names of the public functions that the cell defines, in that module."
function defined(room, code, line)
    statements = parsed(code, line)
    named = Symbol[it for (_, s) in statements if Meta.isexpr(s, :export) for it in s.args]
    seen = Set{Symbol}()
    for (number, statement) in statements
        line[] = number
        define(room, statement, named, seen)
    end
    for name in setdiff(named, seen)
        error("$name is exported, but no function of that name with types is here")
    end
    return seen
end

"The line of a byte."
line_of(code, at::Int) = 1 + count(==(UInt8('\n')), view(codeunits(code), 1:min(at, ncodeunits(code) + 1)-1))

"What the parser says, and the byte that it is about; 0 where it doesn't know. From 1.10 on it draws the source as well."
complaint(text, code) = string(text), 0
function complaint(problem::Meta.ParseError, code)
    detail = isdefined(problem, :detail) ? problem.detail : nothing
    for it in (hasproperty(detail, :diagnostics) ? detail.diagnostics : ())
        it.level === :error || continue
        text, from = String(it.message), Int(it.first_byte)
        # What it is about: the message alone may be "invalid identifier".
        about = strip(String(codeunits(code)[from:min(Int(it.last_byte), end)]))
        is_told = isempty(about) || occursin(about, text) || occursin('\n', about) || length(about) > 40
        # What is missing at the end is missing where the last word stands.
        return is_told ? text : "$text: $about", min(from, ncodeunits(rstrip(code)))
    end
    return problem.msg, 0
end

"All statements with the lines they begin in."
function parsed(code, line)
    statements = Tuple{Int,Any}[]
    at = firstindex(code)
    while at <= lastindex(code)
        # Blank lines and comments belong to nobody.
        blank = match(r"\G(?:\s+|#(?!=)[^\n]*)+", code, at)
        blank === nothing || (at += ncodeunits(blank.match))
        at > lastindex(code) && break
        line[] = line_of(code, at)
        statement, next = Meta.parse(code, at; raise = false, depwarn = false)
        if Meta.isexpr(statement, (:error, :incomplete))
            text, place = complaint(statement.args[1], code)
            if place > 0
                line[] = line_of(code, place)
            elseif !Meta.isexpr(statement, :incomplete)
                line[] = line_of(code, max(prevind(code, min(next, ncodeunits(code) + 1)), 1))
            end
            error(text)
        end
        statement === nothing || push!(statements, (line[], relined(statement, line[] - 1)))
        at = next
    end
    return statements
end

"Move the line numbers of a statement that was parsed by itself."
relined(it, by) = it
relined(it::LineNumberNode, by) = LineNumberNode(it.line + by, :cell)
relined(it::Expr, by) = Expr(it.head, Any[relined(arg, by) for arg in it.args]...)

"The definition in a statement and its docstring, or nothing."
function definition_in(statement)
    documented = Meta.isexpr(statement, :macrocall) && statement.args[1] == GlobalRef(Core, Symbol("@doc"))
    definition = documented ? statement.args[end] : statement
    is_definition = Meta.isexpr(definition, (:function, :(=))) && Meta.isexpr(definition.args[1], (:call, :(::), :where))
    return is_definition ? definition : nothing
end

function define(room, statement, named, seen)
    definition = definition_in(statement)
    call = definition === nothing ? nothing : definition.args[1]
    is_generic = Meta.isexpr(call, :where)
    is_generic && (call = call.args[1])
    Meta.isexpr(call, :(::)) && (call = call.args[1])
    name = Meta.isexpr(call, :call) ? call.args[1] : nothing
    is_public = name isa Symbol && (isempty(named) ? !startswith(string(name), "_") : name in named)
    is_public || return Core.eval(room, statement)
    is_generic && error("$name has type parameters, and a NIF isn't generic: write one function for each type, as `$(name)_f64(x::Vec{Float64})`")
    name in seen && error("$name is defined twice; a NIF has one method: give the second another name")
    push!(seen, name)
    marked = Expr(:macrocall, Symbol("@nif"), LineNumberNode(0, :cell), with_result(room, definition))
    if definition !== statement
        marked = Expr(statement.head, statement.args[1:end-1]..., marked)
    end
    Core.eval(room, marked)
end

"The definition with its result's type: what the compiler finds, where none is written."
function with_result(room, definition)
    call, body = definition.args
    Meta.isexpr(call, :(::)) && return definition
    _, parameters, _ = Nif.dissect(definition)
    trial = Core.eval(room, Expr(:function, Expr(:tuple, Expr[:($(it.name)::$(it.type)) for it in parameters]...), body))
    types = Any[Nif.crossing(Core.eval(room, it.type)) for it in parameters]
    found = Base.invokelatest(Core.Compiler.return_type, trial, Tuple{types...})
    result = Nif.isresult(Nif.leaving(found)) ? found : found === Union{} ? Nothing :
        isconcretetype(found) ? error("$(call.args[1]): the result has a type that can't be the result of a NIF: $found; it gives $(Nif.RESULT_TYPES)") :
        error("$(call.args[1]): write the type of its result, `$call::Float64` say; it may be $(Nif.RESULT_TYPES)")
    return Expr(definition.head, Expr(:(::), call, result), body)
end

end
