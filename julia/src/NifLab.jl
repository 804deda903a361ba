"""
The Julia backend of nif_lab: native functions written in Julia, behind the C ABI of `nif_lab.h`.

A session exports no symbol, so a host that has started Julia asks for the table's address:

    NifLab.table_address(UInt(host))          # of this package's functions
    NifLab.table_address(UInt(host), Cell)    # of the functions that the module `Cell` marks with @nif

Before 1.10 all calls come on the thread that started Julia, from then on on any. The include order is the layer order.
"""
module NifLab

# Before 1.9 no machine code is kept with the package: each start compiles all of it. What isn't a kernel is compiled quickly.
@static VERSION < v"1.9" && Base.Experimental.@optlevel 1

include("nif.jl")
include("xxh3.jl")
include("kernels.jl")
include("wire.jl")
include("faults.jl")
include("gpu.jl")
include("cells.jl")

using .Nif
export @nif, AnyArray, Block, Bytes, ByteVector, Callback, Mat, MutMat, MutVec, NifError, Vec, checkcancel, progress

const ROOMS = (Nif, Kernels, Wire, Faults, Gpu)

"""
    nif_init(host[, modules...]) -> Ptr{Nif.Library}

The table of the functions that `modules` export (this package's own rooms by default). `host` may be null.
"""
nif_init(host::Ptr, modules::Module...) =
    Nif.table(convert(Ptr{Nif.Host}, host), isempty(modules) ? ROOMS : modules)

"""
    table_address(host[, modules...]) -> UInt

`nif_init` in plain integers, for hosts that can only evaluate a string.
"""
function table_address(host::Integer, modules::Module...)
    start_io()
    use_descriptors()
    return UInt(nif_init(Ptr{Nif.Host}(UInt(host)), modules...))
end

const IO_THREAD = Ref(false)

"""
    start_io()

Give input and output a thread of its own, from 1.12 on. It is the first thread's work otherwise, which is the host's: `println`
and `sleep` would wait until that comes by. Where nobody handles signals, Julia has to do with one thread.
"""
function start_io()
    able = isdefined(Base.Experimental, :make_io_thread) && Base.JLOptions().handle_signals == 1
    able && !IO_THREAD[] || return
    IO_THREAD[] = true
    Base.invokelatest(Base.Experimental.make_io_thread)
    return
end

"""
    use_descriptors()

Print to the descriptors 1 and 2 themselves. Julia prints to copies of them, so that what a host leads elsewhere for the time of a
call would pass it by. A terminal, and what somebody has put in their place, stays as it is.
"""
function use_descriptors()
    for (name, number) in ((:stdout, 1), (:stderr, 2))
        stream = getfield(Base, name)
        descriptor =
            stream isa Base.PipeEndpoint ? Base._fd(stream) : stream isa Base.Filesystem.File ? stream.handle :
            stream isa IOStream ? RawFD(ccall(:jl_ios_fd, Clong, (Ptr{Cvoid},), stream.ios)) : continue
        flush(stream)
        mine, theirs = stat(descriptor), stat(RawFD(number))
        (mine.device, mine.inode) == (theirs.device, theirs.inode) || continue
        Core.eval(Base, :($name = $(Base.Filesystem.File(RawFD(number)))))
    end
    return
end

"""
A cell, which is defined while the package is precompiled: so the compiler's work on all that defines cells is kept.
"""
module Rehearsal
using ..Cells
using ..Nif
if ccall(:jl_generating_output, Cint, ()) == 1
    const NAMES = Cells.defined(@__MODULE__, "\"`f(x[n], k)`: a sum.\"\nfunction f(x::Vec{Float64}, k::Float64)::Float64\n    return sum(x) + k\nend\n", Ref(1))
    foreach(Nif.compile, Nif.exported(@__MODULE__))
end
end

"""
    rehearse()

Compile what the start of every host needs. Whoever makes a package or a system image of this keeps that work with it.
"""
function rehearse()
    precompile(Cells.open_cell, (UInt, String, Vector{String}))
    precompile(Cells.evaluated, (String, Base.RefValue{Int}, Vector{String}))
    precompile(Nif.table, (Ptr{Nif.Host}, Tuple{Module}))
    precompile(Nif.row, (Any,))
    for f in vcat(map(Nif.exported, ROOMS)...)
        Nif.compile(f)
        VERSION < v"1.9" && precompile(Nif.c_function, (typeof(f),))  # newer ones compile what C calls anew in each process
    end
    precompile(Nif.report, (Any, Any, Any))
    precompile(Nif.table, (Ptr{Nif.Host}, typeof(ROOMS)))
    precompile(table_address, (UInt,))
    return
end

ccall(:jl_generating_output, Cint, ()) == 1 && rehearse()

end
