@testset "vectors" begin
    memory = collect(1.0:5.0)
    GC.@preserve memory begin
        x, y = Vec{Float64}(pointer(memory), 5), MutVec{Float64}(pointer(memory), 5)
        @test x == memory && sum(x) == 15 && x[end] == 5
        @test_throws BoundsError x[6]
        @test_throws BoundsError y[0] = 1
        y .*= 2
        @test memory == 2:2:10
        @test copyto!(y, Vec{Float64}(pointer(memory, 4), 2)) == [8, 10, 6, 8, 10]
        @test_throws BoundsError copyto!(MutVec{Float64}(pointer(memory), 1), x)
        @test_throws Exception x[1] = 0.0
        @test Nif.extent(x) == (UInt(pointer(memory)), UInt(pointer(memory)) + 40)
    end
end

@testset "matrices with any strides" begin
    memory = collect(1.0:12.0)
    GC.@preserve memory begin
        rows = MutMat{Float64}(pointer(memory), (3, 4), (4, 1))
        @test rows == [1 2 3 4; 5 6 7 8; 9 10 11 12]
        @test transpose(rows) == [1 5 9; 2 6 10; 3 7 11; 4 8 12]
        @test strides(transpose(rows)) == (1, 4)
        @test_throws BoundsError rows[4, 1]
        backwards = Mat{Float64}(pointer(memory, 12), (3, 4), (-4, -1))
        @test backwards == reverse(reverse(collect(rows); dims = 1); dims = 2)
        @test Nif.extent(backwards) == Nif.extent(rows) == (UInt(pointer(memory)), UInt(pointer(memory)) + 96)
        rows[2, 3] = 0
        @test memory[7] == 0
        empty = Mat{Float64}(pointer(memory), (0, 4), (4, 1))
        @test isempty(empty) && ==(Nif.extent(empty)...)
    end
end

@testset "bytes" begin
    memory = b"abc"
    GC.@preserve memory begin
        bytes = Bytes(Vec{UInt8}(pointer(memory), 3))
        @test bytes == memory && String(copy(bytes)) == "abc" && pointer(bytes) == pointer(memory)
        @test_throws BoundsError bytes[4]
    end
end
