"""
Failures on purpose, to see what a failure does: those that a call survives, and those that end a process.
"""
module Faults

using ..Nif
using ..Nif: launch

"""
`error_value(message)`: fail with that message, the ordinary way.
"""
@nif fault function error_value(message::String)::Nothing
    throw(NifError(:value, message))
end

"""
`panic(message)`: throw an exception that nobody expects.
"""
@nif fault function panic(message::String)::Nothing
    error(message)
end

"""
`out_of_bounds(index)`: element `index`, counted from 0, of the eight numbers 0 to 7.
"""
@nif fault function out_of_bounds(index::Int64)::Int64
    return collect(0:7)[index+1]
end

"""
`overflow(x)`: x + 1, checked.
"""
@nif fault function overflow(x::Int64)::Int64
    return Base.checked_add(x, 1)
end

"""
`divide(x, y)`: the truncated quotient, checked.
"""
@nif fault function divide(x::Int64, y::Int64)::Int64
    return x ÷ y
end

"What `fault` knows: functions of the kind's own number in the fuse, and x."
const FAILURES = Dict{String,Function}(
    "error_value" => (number, x) -> throw(NifError(:error, "on purpose")),
    "panic" => (number, x) -> panic("on purpose"),
    "out_of_bounds" => (number, x) -> out_of_bounds(8),
    "overflow" => (number, x) -> overflow(typemax(Int64)),
    "divide" => (number, x) -> divide(1, 0),
    "null_store" => (number, x) -> unsafe_store!(NOWHERE[], 1),
    "wild_write" => (number, x) -> wild_write(pointer(x), number),
    "stack_overflow" => (number, x) -> descend(0),
    "double_free" => (number, x) -> double_free(),
    "heap_overflow" => (number, x) -> heap_overflow(),
    "abort" => (number, x) -> ccall(:abort, Cvoid, ()),
    "exit_0" => (number, x) -> exit(0),
    "exit_7" => (number, x) -> exit(7),
    "infinite_loop" => (number, x) -> spin(),
    "stop" => (number, x) -> ccall(:raise, Cint, (Cint,), 19),  # SIGSTOP
    "huge_allocation" => (number, x) -> huge_allocation(number),
    "gpu_illegal" => (number, x) -> start(number),
    "gpu_endless" => (number, x) -> start(number),
)

"What the fuse calls this language."
const WORD = ltoh(only(reinterpret(Int64, codeunits("julia\0\0\0"))))

"The null pointer, where the compiler doesn't see that it is one."
const NOWHERE = Ref(Ptr{UInt8}(C_NULL))

"""
`fault(kind, fuse[k], x[n])`: the sum of x, unless the fuse burns: then it fails as `kind` says.
"""
@nif fault idempotent function fault(kind::String, fuse::MutVec{Int64}, x::Vec{Float64})::Float64
    haskey(FAILURES, kind) || throw(NifError(:value, :kind, "no such kind of fault"))
    length(fuse) == 3 || throw(NifError(:value, :fuse, "expected i64[k] with k = 3, got i64[$(length(fuse))]"))
    if fuse[1] > 0 && fuse[2] == WORD
        # In memory before the process may be gone: the compiler knows nothing of the function that comes next.
        fuse[1] -= 1
        FAILURES[kind](fuse[3], x)
    end
    total = 0.0
    for value in x  # a loop: `foldl` would compile a dozen functions in the first call
        total += value
    end
    return total
end

"The one method that `fault` needs and Julia's own image lacks: the first call would compile it."
__init__() = precompile(Base.ht_keyindex, (Dict{String,Function}, String))

"Write 64 numbers from element `offset` of `x` on, whatever lies there."
function wild_write(x, offset)
    for i in 1:64
        unsafe_store!(x, NaN, offset + i)
    end
    throw(NifError(:error, "the wild write went through"))
end

"Call itself without end; the call isn't the last thing it does, and so becomes no loop."
descend(depth) = (descend(depth + 1); depth)

function double_free()
    block = Libc.malloc(24)
    Libc.free(block)
    Libc.free(block)
end

"Write over the end of a block, over the size in the header of the next one, and free that."
function heap_overflow()
    block = Ptr{UInt8}(Libc.malloc(24))
    past = ccall(:malloc_usable_size, Csize_t, (Ptr{UInt8},), block) + sizeof(Csize_t)
    for i in 1:past
        unsafe_store!(block, 0xff, i)
    end
    Libc.free(block + past)
end

function spin()
    while true
        ccall(:jl_cpu_pause, Cvoid, ())
    end
end

"Start one thread of a kernel."
function start(kernel)
    shape = UInt32[1, 1, 1, 1, 1, 1, 0]
    nothing_more = Vec{UInt8}(Ptr{UInt8}(C_NULL), 0)
    GC.@preserve shape launch(kernel % UInt64, pointer(shape), nothing_more, Vec{UInt32}(Ptr{UInt32}(C_NULL), 0))
    return
end

function huge_allocation(size)
    memory = Vector{UInt8}(undef, size)
    memory[1] = 1
    throw(NifError(:error, "the memory was given"))
end

end
