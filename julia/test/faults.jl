@testset "faults fail, each in its way" begin
    @test failure(Faults.error_value, "bad thing é") == (:value, -1, "bad thing é")
    @test failure(Faults.panic, "boom") == (:panic, -1, "boom")
    @test [call(Faults.out_of_bounds, i) for i in 0:7] == 0:7
    for i in (-1, 8, typemax(Int64))
        @test failure(Faults.out_of_bounds, i)[1:2] == (:index, -1)
    end
    @test call(Faults.overflow, 41) == 42
    @test failure(Faults.overflow, typemax(Int64))[1:2] == (:panic, -1)
    @test call(Faults.divide, -7, 2) == -3
    @test failure(Faults.divide, 1, 0) == (:panic, -1, "DivideError: integer division error")
    @test failure(Faults.divide, typemin(Int64), -1)[1:2] == (:panic, -1)
end

@testset "only these are marked as faults" begin
    for room in NifLab.ROOMS, f in Nif.exported(room)
        @test (Nif.spec(f).flags & Nif.FLAGS.fault != 0) == (room === Faults)
    end
end
