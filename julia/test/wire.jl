@testset "write" begin
    for (type, _, _) in Nif.ELEMENTS
        x = Array{type}([0, 1, 0, 1, 1])
        copied = call(Wire.write, x)
        @test copied == x && eltype(copied) === type
    end
    @test call(Wire.write, b"abc") == b"abc"
    @test call(Wire.write, tensor(GRID; strides = C_NULL)) == GRID
    @test call(Wire.write, fill(2.5)) == fill(2.5)
    @test size(call(Wire.write, zeros(0, 4))) == (0, 4)
end

@testset "address" begin
    @test call(Wire.address, X) == Int(pointer(X))
    @test call(Wire.address, tensor(X; byte_offset = 8)) == Int(pointer(X)) + 8
end
