@testset "errors" begin
    error_of(problem) = Nif.cause(problem)[[1, 3]]
    @test Nif.cause(NifError(:value, "bins", "few")) == (Nif.KINDS.value, :bins, "few")
    @test Nif.cause(NifError(:error, "so")) == (Nif.KINDS.error, nothing, "so")
    @test Nif.cause(OutOfMemoryError()) == (Nif.KINDS.memory, nothing, "out of memory")
    @test Nif.cause(ErrorException("so")) == (Nif.KINDS.panic, nothing, "so")
    @test sprint(showerror, NifError(:value, :x, "bad")) == "argument 'x': bad"
    task = @async throw(NifError(:value, :x, "bad"))
    @test_throws TaskFailedException wait(task)
    @test Nif.cause(TaskFailedException(task)) == (Nif.KINDS.value, :x, "bad")
    @test Nif.cause(CompositeException([TaskFailedException(task)])) == (Nif.KINDS.value, :x, "bad")
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

@testset "the call that a thread is in" begin
    @eval module Inside
    using NifLab
    using NifLab: Nif
    const SEEN = Any[]
    "`seen(n)`: notes the call, and makes another."
    @nif polls_cancel seen(n::Int64)::Int64 = (push!(SEEN, Nif.env_now()); n)
    "`stopped(n)`: polls, here and in a task."
    @nif polls_cancel stopped(n::Int64)::Int64 = (fetch(@async (checkcancel(); n)))
    end
    @test Nif.env_now() == C_NULL && Nif.CANCEL[] == C_NULL
    other = Ref(Nif.Env(sizeof(Nif.Env), 0, C_NULL, C_NULL, C_NULL))
    GC.@preserve other begin
        outer = Base.unsafe_convert(Ptr{Nif.Env}, other)
        before = Nif.exchange_env(outer)
        @test call(Inside.seen, 7) == 7
        @test Nif.env_now() == outer  # a call within a call leaves what it found
        @test Nif.exchange_env(before) == outer
    end
    @test Inside.SEEN == [Base.unsafe_convert(Ptr{Nif.Env}, TEST_ENV)]
    @test failure(Faults.panic, "boom")[1] == :panic && Nif.env_now() == C_NULL  # and so does one that fails
    flag = Ref(Int32(1))
    GC.@preserve flag begin
        raised = Ref(Nif.Env(sizeof(Nif.Env), 0, unsafe_load(Base.unsafe_convert(Ptr{Nif.Env}, TEST_ENV)).host, C_NULL,
            Base.unsafe_convert(Ptr{Int32}, flag)))
        @test failure(Inside.stopped, 1; env = Base.unsafe_convert(Ptr{Nif.Env}, raised))[1] == :cancelled
    end
end
