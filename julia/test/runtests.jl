# julia --project=julia julia/test/runtests.jl

using LinearAlgebra, Test
using NifLab
using NifLab: Nif, Kernels, Wire, Faults

include("client.jl")

@testset "NifLab" begin
    for file in ("abi", "views", "spec", "arguments", "host", "export", "xxh3", "kernels", "wire", "faults")
        include("$file.jl")
    end
end
