@testset "the structs have the sizes of nif_lab.h" begin
    @test map(sizeof, values(Nif.STRUCTS)) == (48, 16, 16, 48, 32, 40, 64)
    @test (sizeof(Nif.DType), sizeof(Nif.Device)) == (4, 8)
    @test fieldoffset(Nif.Tensor, 4) == 20 && fieldoffset(Nif.AnyValue, 3) == 8 && fieldoffset(Nif.Library, 8) == 40
    @test Nif.struct_hash() === 0xa9961cab
end

@testset "layout" begin
    lines = split(Nif.layout_text(), '\n')
    @test lines[1:3] == ["nif_tensor 48", "nif_tensor.data 0 8", "nif_tensor.device 8 8"]
    @test lines[end] == "nif_library.unload 56 8"
    @test String(call(Nif.layout)) == Nif.layout_text()
end

@testset "element types" begin
    for (type, name, _) in Nif.ELEMENTS
        @test Nif.element_type(Nif.dtype(type)) === type
        @test Nif.element_name(type) == name
        @test Nif.dtype(type).bits == 8 * sizeof(type)
    end
    @test Nif.element_type(Nif.DType(4, 16, 1)) === nothing
    @test Nif.element_type(Nif.DType(2, 64, 2)) === nothing
end
