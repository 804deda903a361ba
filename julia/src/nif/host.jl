# The way back to the host: errors, memory, the cancel flag.

"""
    NifError(kind, message)
    NifError(kind, argument, message)

Why a call fails; throw it. `kind` is `:type`, `:value`, `:error`, `:panic`, `:memory` or `:cancelled`, `argument` the name of the
parameter at fault, or `:index`. Of other exceptions an `ArgumentError`, `DimensionMismatch`, `DomainError`, `InexactError` or `KeyError` is Python's
NifValueError, a `BoundsError` or `StringIndexError` a NifIndexError, an `OutOfMemoryError` a NifMemoryError; all others are a
NifPanic.
"""
struct NifError <: Exception
    kind::Int32
    argument::Union{Nothing,Symbol}
    message::String
end

NifError(kind::Symbol, message) = NifError(KINDS[kind], nothing, message)
NifError(kind::Symbol, argument, message) = NifError(KINDS[kind], Symbol(argument), message)

Base.showerror(io::IO, it::NifError) =
    print(io, it.argument === nothing ? "" : "argument '$(it.argument)': ", it.message)

"The last host that wasn't null."
const HOST = Ref{Ptr{Host}}(C_NULL)

"Threads in a block of `CALLS`."
const THREADS = 64
"The call that each thread is in, null for none. Threads come and go, so there are blocks of them, which never move."
const CALLS = Vector{Vector{Ptr{Env}}}(undef, 32768 ÷ THREADS)
"The cancel flag of the last call that began: for tasks on a thread that is in no call."
const CANCEL = Ref{Ptr{Int32}}(C_NULL)
const LOCK = ReentrantLock()

"The block of this thread in `CALLS`, and its place there."
@inline function place_now()
    block, place = divrem(Threads.threadid() - 1, THREADS)
    return block + 1, place + 1
end

"The call that this thread is in."
@inline function env_now()
    block, place = place_now()
    return isassigned(CALLS, block) ? CALLS[block][place] : Ptr{Env}(C_NULL)
end

"Note the call that this thread is in, and return the one before: a call may lead to another."
@inline function exchange_env(env::Ptr{Env})
    block, place = place_now()
    isassigned(CALLS, block) || make_block(block)
    before = CALLS[block][place]
    CALLS[block][place] = env
    CANCEL[] = env == C_NULL ? Ptr{Int32}(C_NULL) : unsafe_load(env).cancel
    return before
end

@noinline make_block(block) =
    lock(() -> isassigned(CALLS, block) || (CALLS[block] = fill(Ptr{Env}(C_NULL), THREADS)), LOCK)

"""
    checkcancel()

Leave the running call when its caller wants it stopped. Worth calling every millisecond or so, from a function with the flag `polls_cancel`.
"""
@noinline function checkcancel()
    env = env_now()
    cancel = env == C_NULL ? CANCEL[] : unsafe_load(env).cancel
    cancel != C_NULL && unsafe_load(cancel) != 0 && throw(NifError(:cancelled, "cancelled"))
    return
end

# The way out of Julia and back in, from 1.10 on: no garbage collection waits for a thread that is outside.
@static if VERSION >= v"1.10"
    @inline leave_julia() = ccall(:jl_gc_safe_enter, Int8, ())
    @inline come_back(state) = ccall(:jl_gc_safe_leave, Cvoid, (Int8,), state)
else
    @inline leave_julia() = Int8(0)
    @inline come_back(state) = nothing
end

"""
    progress(done, total)

How far the running call is: `done` of `total` steps. It costs a few nanoseconds; a function with the flag `long` may call it in
every turn of a loop.
"""
function progress(done::Integer, total::Integer)
    host = HOST[]
    host == C_NULL || ccall(unsafe_load(host).progress, Cvoid, (Int64, Int64), done, total)
    return
end

"How many values the running call's host has room for."
function room_for_results()
    env = env_now()
    return env == C_NULL ? 1 : max(1, Int(unsafe_load(env).n_results))
end

"A tensor in the host's memory; it belongs to the caller when it is returned."
function allocate(type::DType, ndim::Integer, shape)
    env = env_now()
    host = env == C_NULL ? HOST[] : unsafe_load(env).host
    host == C_NULL && throw(NifError(:memory, "needs a host to allocate"))
    tensor = ccall(unsafe_load(host).alloc_tensor, Ptr{Tensor}, (DType, Int32, Ptr{Int64}), type, ndim, shape)
    tensor == C_NULL && throw(OutOfMemoryError())
    return tensor
end

"""
    similar(x::AnyArray) -> Block

A new array of the same element type and shape.
"""
function Base.similar(x::AnyArray)
    tensor = x.ndim == 1 && x.shape == C_NULL ? allocate(x.dtype, 1, Ref(Int64(length(x.bytes)))) : allocate(x.dtype, x.ndim, x.shape)
    header = unsafe_load(tensor)
    return Block(tensor, MutVec{UInt8}(convert(Ptr{UInt8}, header.data) + header.byte_offset, length(x.bytes)))
end

"Kind, name of the argument, and text of whatever a function threw."
cause(it::NifError) = (it.kind, it.argument, it.message)
cause(it::TaskFailedException) = cause(it.task.exception)  # what failed, not where it was waited for
cause(it::CompositeException) = isempty(it.exceptions) ? cause(ErrorException("")) : cause(first(it.exceptions))
cause(::OutOfMemoryError) = (KINDS.memory, nothing, "out of memory")
cause(it::Union{ArgumentError,DimensionMismatch,DomainError,InexactError,KeyError}) = (KINDS.value, nothing, shown(it))
cause(it::Union{BoundsError,StringIndexError}) = (KINDS.index, nothing, shown(it))
cause(it) = (KINDS.panic, nothing, shown(it))

shown(it) = try
    sprint(showerror, it)
catch  # an exception of the user's own may not even print
    string(typeof(it))
end

"Where in its cell a function failed: the innermost line, as text to add."
function place_in_cell(@nospecialize(f), trace)
    nameof(parentmodule(f)) === :Cell || return ""
    for frame in stacktrace(trace)
        basename(string(frame.file)) == "cell" && frame.line > 0 && return " (line $(frame.line))"
    end
    return ""
end

"Tell the caller why the call failed."
@noinline function report(@nospecialize(f), @nospecialize(spec), @nospecialize(problem))
    env = env_now()
    kind, argument, text = cause(problem)::Tuple{Int32,Union{Nothing,Symbol},String}
    kind == KINDS.panic && (text *= place_in_cell(f, catch_backtrace()))
    message = '\0' in text ? replace(text, '\0' => '�') : text  # C would stop there
    if env == C_NULL
        report_to_tvm(f, kind, argument, message)
        return
    end
    index = -1
    for (i, name) in enumerate(names_of(spec))
        name === argument && (index = i - 1)
    end
    host = unsafe_load(unsafe_load(env).host)
    ccall(host.set_error, Cvoid, (Ptr{Env}, Int32, Cstring, Int32), env, kind::Int32, message::String, index)
    return
end

"TVM-FFI's own setter, when this process has it."
const TVM_SETTER = Ref{Ptr{Cvoid}}(C_NULL)

function report_to_tvm(f, kind, argument, message)
    kind == KINDS.raised && return  # whoever raised it has told
    if TVM_SETTER[] == C_NULL
        everywhere = Ptr{Cvoid}(Sys.isapple() ? -2 : 0)  # RTLD_DEFAULT
        TVM_SETTER[] = ccall(:dlsym, Ptr{Cvoid}, (Ptr{Cvoid}, Cstring), everywhere, "TVMFFIErrorSetRaisedFromCStr")
        TVM_SETTER[] == C_NULL && return
    end
    name = kind == KINDS.type ? "TypeError" : kind == KINDS.value ? "ValueError" : kind == KINDS.index ? "IndexError" : "RuntimeError"
    place = argument === nothing ? "" : "argument '$argument': "
    ccall(TVM_SETTER[], Cvoid, (Cstring, Cstring), name, "$(nameof(f))(): $place$message")
    return
end
