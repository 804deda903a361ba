# The error table of docs/abi.md, row by row; `dot`, `axpy` and their like stand for all functions.

const X = collect(1.0:6.0)
const Y = collect(1.0:6.0)
const GRID = reshape(collect(1.0:12.0), 3, 4)

@testset "1: number of arguments" begin
    @test failure(Kernels.dot, X, Y, X) == (:type, -1, "takes 2 arguments, 3 given")
    @test failure(Kernels.noop, 1) == (:type, -1, "takes 0 arguments, 1 given")
    @test failure(Kernels.sum) == (:type, -1, "takes 1 argument, 0 given")
end

@testset "2, 3: types, element types, axes" begin
    @test failure(Kernels.add, "x", 1.0) == (:type, 0, "expected f64, got str")
    @test failure(Kernels.add, 1.0, nothing) == (:type, 1, "expected f64, got None")
    @test failure(Faults.overflow, 1.5) == (:type, 0, "expected i64, got f64")
    @test failure(Faults.panic, b"x") == (:type, 0, "expected str, got bytes")
    @test failure(Kernels.add, Nif.AnyValue(Nif.DTYPE, 0, 0), 1) == (:type, 0, "expected f64, got dtype")
    @test failure(Kernels.add, Nif.AnyValue(Nif.DEVICE, 0, 0), 1) == (:type, 0, "expected f64, got device")
    @test failure(Kernels.add, Nif.AnyValue(99, 0, 0), 1) == (:type, 0, "expected f64, got object")
    @test failure(Kernels.dot, X, Float32.(Y)) == (:type, 1, "expected f64[n], got f32[6]")
    @test failure(Kernels.sum, 1) == (:type, 0, "expected f64[n], got i64")
    @test failure(Kernels.sum, tensor(X; dtype = Nif.DType(4, 16, 1))) == (:type, 0, "expected f64[n], got 4/16/1[6]")
    @test failure(Kernels.sum, GRID) == (:value, 0, "expected f64[n], got f64[3,4]")
    @test failure(Kernels.sum, fill(1.0)) == (:value, 0, "expected f64[n], got f64[]")
    @test failure(Kernels.matmul, X, X, X) == (:value, 0, "expected f64[m,k], got f64[6]")
    @test failure(Kernels.checksum, 3) == (:type, 0, "expected any[...], got i64")
    @test call(Kernels.add, 1, true) == 2.0 && call(Faults.overflow, true) == 2
end

@testset "4 to 7: memory" begin
    @test failure(Kernels.sum, tensor(X; device = Nif.Device(2, 0))) == (:value, 0, "expected memory of the CPU")
    @test failure(Kernels.sum, tensor(X; data = C_NULL)) == (:value, 0, "has no data")
    @test call(Kernels.sum, tensor(Float64[]; data = C_NULL)) == 0
    @test failure(Kernels.sum, tensor(X; byte_offset = 4)) == (:value, 0, "expected data aligned to 8 bytes")
    @test call(Kernels.sum, tensor(X[1:5]; data = pointer(X), byte_offset = 8)) == 20
    @test failure(Kernels.sum, view(X, 1:2:6)) == (:value, 0, "expected contiguous memory, got strides [2]")
    @test failure(Kernels.sum, view(X, 6:-1:1)) == (:value, 0, "expected contiguous memory, got strides [-1]")
    @test failure(Kernels.checksum, GRID) == (:value, 0, "expected contiguous memory, got strides [1,3]")
    @test call(Kernels.sum, view(X, 1:2:1)) == 1 && call(Kernels.sum, view(X, 1:2:0)) == 0
    @test call(Kernels.sum, tensor(X; strides = C_NULL)) == 21
end

@testset "8, 9: dimensions" begin
    counts = zeros(Int64, 3)
    @test failure(Kernels.histogram, X, -3, 0.0, 1.0, counts) == (:value, 1, "expected 0 or more, got -3")
    @test failure(Kernels.histogram, X, 4, 0.0, 1.0, counts) == (:value, 4, "expected i64[bins] with bins = 4, got i64[3]")
    @test failure(Kernels.dot, X, X[1:5]) == (:value, 1, "expected f64[n] with n = 6, got f64[5]")
    @test failure(Kernels.transpose, GRID, copy(GRID)) == (:value, 1, "expected f64[n,m] with n = 4, got f64[3,4]")
    @test failure(Kernels.transpose, GRID, zeros(4, 4)) == (:value, 1, "expected f64[n,m] with m = 3, got f64[4,4]")
end

@testset "10: overlaps" begin
    square = zeros(4, 4)
    @test failure(Kernels.axpy, 1.0, X, X) == (:value, 2, "overlaps argument 'x'")
    @test failure(Kernels.axpy, 1.0, view(X, 1:3), view(X, 3:5)) == (:value, 2, "overlaps argument 'x'")
    @test call(Kernels.axpy, 0.0, view(X, 1:3), view(X, 4:6)) === nothing
    @test failure(Kernels.matmul, copy(square), square, square) == (:value, 2, "overlaps argument 'b'")
    @test failure(Kernels.transpose, square, view(square, 4:-1:1, :)) == (:value, 1, "overlaps argument 'a'")
    @test call(Kernels.axpy, 1.0, Float64[], Float64[]) === nothing
end

@testset "values that TVM-FFI sends" begin
    header = ntuple(_ -> 0x00, Nif.TVM_HEADER)
    small(text, index) = Nif.AnyValue(index, ncodeunits(text), reinterpret(UInt64, [codeunits(text); zeros(UInt8, 8 - ncodeunits(text))])[1])
    object(index, record, keep = nothing) = pointed(index, (header, record), keep)
    hello = "hello"
    record = Nif.ByteRecord(pointer(hello), 5)
    @test failure(Faults.panic, small("hey", Nif.TVM_SMALL_STR)) == (:panic, -1, "hey")
    @test failure(Faults.panic, object(Nif.TVM_STR, record)) == (:panic, -1, "hello")
    @test call(Wire.write, small("hey", Nif.TVM_SMALL_BYTES)) == b"hey"
    @test call(Wire.write, object(Nif.TVM_BYTES, record)) == b"hello"
    @test failure(Faults.panic, small("\xff\xfe", Nif.TVM_SMALL_STR)) == (:value, 0, "expected UTF-8")
    (_, (place, keep)) = tensor(X)
    @test GC.@preserve keep call(Kernels.sum, object(Nif.TVM_TENSOR, place[])) == 21
end

@testset "a call allocates nothing" begin
    function allocated(f, args...)
        kept = map(value, args)
        values, result = Nif.AnyValue[first(it) for it in kept], Ref(Nif.AnyValue(0, 0, 0))
        many(entry, values, result, n) = for _ in 1:n
            ccall(entry, Int32, (Ptr{Cvoid}, Ptr{Nif.AnyValue}, Int32, Ptr{Nif.AnyValue}), C_NULL, values, length(values), result)
        end
        GC.@preserve kept begin
            entry = Nif.entry(f)
            many(entry, values, result, 1)
            return @allocated many(entry, values, result, 1000)
        end
    end
    allocated(Kernels.noop)
    @test allocated(Kernels.noop) < 1000
    @test allocated(Kernels.add, 1.0, 2.0) < 1000
    @test allocated(Kernels.dot, X, Y) < 1000
    @test allocated(Kernels.axpy, 0.0, X, Y) < 1000
    @test allocated(Kernels.transpose, GRID, zeros(4, 3)) < 20 * 1000 * 1000  # its tile, and nothing for the arguments
end
