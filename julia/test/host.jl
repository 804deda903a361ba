@testset "errors" begin
    error_of(problem) = Nif.cause(problem)[[1, 3]]
    @test Nif.cause(NifError(:value, "bins", "few")) == (Nif.KINDS.value, :bins, "few")
    @test Nif.cause(NifError(:error, "so")) == (Nif.KINDS.error, nothing, "so")
    @test Nif.cause(OutOfMemoryError()) == (Nif.KINDS.memory, nothing, "out of memory")
    @test Nif.cause(ErrorException("so")) == (Nif.KINDS.panic, nothing, "so")
    @test sprint(showerror, NifError(:value, :x, "bad")) == "argument 'x': bad"
end

@testset "an exception that can't be printed is still an error" begin
    @eval struct Mute <: Exception end
    @eval Base.showerror(::IO, ::Mute) = error("no")
    @test Base.invokelatest(() -> endswith(Nif.cause(Mute())[3], "Mute"))
end

@testset "twenty thousand panics" begin
    @test all(failure(Faults.panic, "boom") == (:panic, -1, "boom") for _ in 1:20_000)
end

@testset "stack overflow" begin
    @eval module Deep
    using NifLab
    grow(n) = 1 + grow(n + 1)
    "`deep(n)`: never ends."
    @nif deep(n::Int64)::Int64 = grow(n)
    end
    @test failure(Deep.deep, 1) == (:panic, -1, "StackOverflowError:")
end

@testset "no env" begin
    @test call(Kernels.sum, X; env = C_NULL) == sum(X)
    @test failure(Kernels.sum, 1; env = C_NULL) == (:none, -1, "")
    @test failure(Wire.write, X; env = C_NULL)[1] == :none  # no host to allocate
end

@testset "no memory" begin
    shape = Int64[10^10]
    huge = tensor(X; shape = pointer(shape))
    @test GC.@preserve shape failure(Wire.write, huge) == (:memory, -1, "out of memory")
end
