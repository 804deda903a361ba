module Sample

using NifLab

"""
`scale(a, x[n], out[n])`: a times x.
"""
@nif idempotent function scale(a::Float64, x::Vec{Float64}, out::MutVec{Float64})
    out .= a .* x
end

"`loud(text)`: in capitals."
@nif pure loud(text::String)::String = uppercase(text)

"`mean(a[m,n])`: mean."
@nif function mean(a::Mat{ComplexF64})::Float64
    return real(sum(a)) / length(a)
end

"`count(data)`: number of bytes."
@nif count(data::Bytes)::Int64 = length(data)

"`flip(flags[n])`: the opposite, in place; whether any is left."
@nif function flip(flags::MutVec{Bool})::Bool
    flags .= .!flags
    return any(flags)
end

"`bad(x)`: refuses x."
@nif long bad(x::Float64)::Nothing = throw(NifError(:value, "x", "never"))

end

@testset "functions of a user's module" begin
    out = zeros(3)
    @test call(Sample.scale, 2, [1.0, 2.0, 3.0], out) === nothing
    @test out == [2, 4, 6]
    @test Sample.scale(2.0, Vec{Float64}(pointer(out), 3), MutVec{Float64}(pointer(out), 3)) == [4, 8, 12]
    @test String(call(Sample.loud, "héllo")) == "HÉLLO"
    @test call(Sample.mean, [1.0+2im 3.0; 5.0 7.0]) == 4
    @test call(Sample.count, b"abc") == 3
    flags = [true, false]
    @test call(Sample.flip, flags) === true
    @test flags == [false, true]
    @test failure(Sample.bad, 1.0) == (:value, 0, "never")
end

@testset "the table" begin
    library = unsafe_load(Ptr{Nif.Library}(NifLab.table_address(UInt(host_address()), Sample)))
    @test library.abi_version == 1 && library.struct_hash == Nif.struct_hash()
    @test unsafe_string(library.language) == "julia"
    @test unsafe_string(library.compiler) == "Julia $VERSION"
    project = read(joinpath(@__DIR__, "..", "Project.toml"), String)
    @test occursin("\nversion = \"$(unsafe_string(library.library_version))\"\n", project)
    rows = [unsafe_load(library.functions, i) for i in 1:library.n_functions]
    named = Dict(unsafe_string(row.name) => row for row in rows)
    @test Set(keys(named)) == Set(["layout", "scale", "loud", "mean", "count", "flip", "bad"])
    @test unsafe_string(named["scale"].signature) == "scale(a: f64, x: f64[n], out: mut f64[n]) -> None"
    @test unsafe_string(named["scale"].doc) == "a times x."
    @test named["scale"].flags == Nif.FLAGS.idempotent | Nif.THREAD_BOUND
    @test named["bad"].flags == Nif.FLAGS.long | Nif.THREAD_BOUND
    @test all(row -> row.call != C_NULL && row.flags & Nif.THREAD_BOUND != 0, rows)
    @test ccall(library.load, Int32, (Ptr{Nif.Host},), C_NULL) == 0
    @test Nif.HOST[] == host_address()
    Nif.HOST[] = C_NULL
end

@testset "this package's table" begin
    library = unsafe_load(NifLab.nif_init(C_NULL))
    names = Set(unsafe_string(unsafe_load(library.functions, i).name) for i in 1:library.n_functions)
    @test names == Set(split("""layout noop add dot axpy sum matmul transpose hillshade smooth histogram mandelbrot checksum
        forward decode encode write address error_value panic out_of_bounds overflow divide fault
gpu_fill gpu_copy gpu_checksum gpu_launch"""))
    @test library.n_functions == length(names)
end

@testset "what @nif refuses" begin
    refused(code) =
        try
            Core.eval(@eval(module $(gensym()) using NifLab end), Meta.parse(code))
            ""
        catch caught
            sprint(showerror, caught)
        end
    @test occursin("no flag fast", refused("@nif fast f(x::Float64) = x"))
    @test occursin("stands before a function's definition", refused("@nif 3"))
    @test occursin("should be a name with a type", refused("@nif f(x) = x"))
    @test occursin("no type parameters", refused("@nif f(x::T) where {T} = x"))
end
