# Against Base and plain loops, for any strides.

"The same numbers in memory of many kinds."
function arrangements(a)
    m, n = size(a)
    wide, tall = zeros(eltype(a), 2m, 3n), zeros(eltype(a), n + 1, 3m)
    down, across = view(wide, 2m:-2:1, 1:3:3n), transpose(a)
    down .= a
    skew = PermutedDimsArray(view(tall, 2:n+1, 1:3:3m), (2, 1))
    skew .= a
    return (copy(a), PermutedDimsArray(Matrix(across), (2, 1)), down, skew)
end
value(x::PermutedDimsArray) = tensor(x)

const SHAPES = [(0, 0), (0, 3), (3, 0), (1, 1), (1, 5), (5, 1), (2, 2), (33, 40)]

@testset "vectors" begin
    for n in (0, 1, 2, 7, 100, 1001)
        x, y = randn(n), randn(n)
        @test call(Kernels.dot, x, y) ≈ dot(x, y) atol = 1e-12
        @test call(Kernels.sum, x) ≈ sum(x) atol = 1e-12
        expected = 2.5 .* x .+ y
        call(Kernels.axpy, 2.5, x, y)
        @test y == expected
    end
    @test isnan(call(Kernels.sum, [1, NaN, 2])) && isnan(call(Kernels.dot, [1, NaN], [1.0, 1]))
end

@testset "matmul" begin
    for (m, k, n) in [(0, 0, 0), (0, 3, 2), (3, 0, 2), (2, 3, 0), (1, 5, 1), (5, 1, 5), (1, 1, 7), (7, 3, 1), (33, 17, 40)]
        a, b = randn(m, k), randn(k, n)
        for left in arrangements(a), right in arrangements(b), out in arrangements(fill(NaN, m, n))
            call(Kernels.matmul, left, right, out)
            @test out ≈ a * b
        end
    end
end

@testset "transpose" begin
    for (m, n) in SHAPES
        a = randn(m, n)
        for from in arrangements(a), out in arrangements(zeros(n, m))
            call(Kernels.transpose, from, out)
            @test out == transpose(a)
        end
    end
end

function slope(z, at, step, spacing)
    first, last = CartesianIndices(z)[1], CartesianIndices(z)[end]
    low, high = max(at - step, first), min(at + step, last)
    width = sum(Tuple(high - low))
    return width == 0 ? 0.0 : (z[high] - z[low]) / (width * spacing)
end

function plain_hillshade(z, dx, dy, azimuth, altitude)
    lx, ly, lz = sind(azimuth) * cosd(altitude), cosd(azimuth) * cosd(altitude), sind(altitude)
    return map(CartesianIndices(z)) do at
        gx, gy = slope(z, at, CartesianIndex(0, 1), dx), -slope(z, at, CartesianIndex(1, 0), dy)
        max(0.0, (-gx * lx - gy * ly + lz) / sqrt(gx^2 + gy^2 + 1))
    end
end

@testset "hillshade" begin
    for (m, n) in SHAPES
        z = randn(m, n)
        expected = plain_hillshade(z, 2.0, 3.0, 315.0, 45.0)
        for from in arrangements(z), out in arrangements(zeros(m, n))
            call(Kernels.hillshade, from, 2.0, 3.0, 315.0, 45.0, out)
            @test out ≈ expected atol = 1e-13
        end
    end
    z, out = zeros(4, 4), zeros(4, 4)
    @test failure(Kernels.hillshade, z, 0.0, -1.0, 0.0, 0.0, out) == (:value, 1, "expected a positive number")
    @test failure(Kernels.hillshade, z, 1.0, NaN, 0.0, 0.0, out) == (:value, 2, "expected a positive number")
    call(Kernels.hillshade, z, 5e-324, Inf, 0.0, 30.0, out)
    @test out ≈ fill(0.5, 4, 4)
    z[2, 2] = NaN
    call(Kernels.hillshade, z, 1.0, 1.0, 0.0, 30.0, out)
    @test count(isnan, out) == 4  # its neighbours: central differences don't look at the point itself
end

function plain_smooth(z, passes)
    m, n = size(z)
    weights = [1 2 1; 2 4 2; 1 2 1] / 16
    for _ in 1:passes
        z = Float64[sum(weights[a+2, b+2] * z[clamp(i + a, 1, m), clamp(j + b, 1, n)] for a in -1:1, b in -1:1) for i in 1:m, j in 1:n]
    end
    return z
end

@testset "smooth" begin
    for (m, n) in SHAPES, passes in (0, 1, 3)
        z = randn(m, n)
        expected = plain_smooth(z, passes)
        for from in arrangements(z), out in arrangements(zeros(m, n))
            call(Kernels.smooth, from, passes, out)
            @test out ≈ expected
        end
    end
    z, out = zeros(5, 6), zeros(5, 6)
    @test failure(Kernels.smooth, z, -3, out) == (:value, 1, "expected 0 or more, got -3")
    z[3, 3] = NaN
    call(Kernels.smooth, z, 1, out)
    @test count(isnan, out) == 9
end

@testset "histogram" begin
    x = [randn(1000); NaN; Inf; -Inf; -1.0; 1.0; 0.0]
    for (low, high) in [(-1.0, 1.0), (0.0, 3.3), (-2.5, -2.4), (-1e308, 7e307), (0.0, 1e-300)], bins in (1, 2, 7, 100)
        out = fill(9, bins)
        call(Kernels.histogram, x, bins, low, high, out)
        expected = zeros(Int, bins)
        for it in filter(it -> low <= it <= high, x)
            position = (it - low) * (bins / (high - low))
            expected[floor(Int, min(position, bins - 1))+1] += 1
        end
        @test out == expected
    end
    @test failure(Kernels.histogram, x, 0, 0.0, 1.0, Int[]) == (:value, 1, "expected 1 or more, got 0")
    @test failure(Kernels.histogram, x, 1, Inf, 1.0, [0]) == (:value, 2, "expected a finite number")
    for high in (NaN, Inf, 0.0, -1.0, 5e-324)
        @test failure(Kernels.histogram, x, 1, 0.0, high, [0]) == (:value, 3, "expected a finite number above low")
    end
    @test failure(Kernels.histogram, x, 1, -1.7e308, 1.7e308, [0]) == (:value, 3, "expected a finite number above low")
end

function plain_mandelbrot(width, height, x_min, x_max, y_min, y_max, iterations)
    return map(Iterators.product(0:height-1, 0:width-1)) do (row, column)
        cr = x_min + (x_max - x_min) * (column + 0.5) / width
        ci = y_max - (y_max - y_min) * (row + 0.5) / height
        zr = zi = 0.0
        for n in 0:iterations-1
            zr * zr + zi * zi > 4 && return n
            zr, zi = (zr * zr - zi * zi) + cr, 2 * zr * zi + ci
        end
        return iterations
    end
end

@testset "mandelbrot" begin
    view_of_it = (-2.0, 0.6, -1.2, 1.3)
    for (width, height, iterations) in [(0, 0, 5), (0, 3, 5), (3, 0, 5), (1, 1, 0), (7, 5, 1), (8, 3, 2), (37, 20, 300)]
        expected = plain_mandelbrot(width, height, view_of_it..., iterations)
        for out in arrangements(fill(Int32(-1), height, width))
            call(Kernels.mandelbrot, width, height, view_of_it..., iterations, out)
            @test out == expected
        end
    end
    out = zeros(Int32, 3, 3)
    for iterations in (-1, 2^31)
        @test failure(Kernels.mandelbrot, 3, 3, view_of_it..., iterations, out) ==
              (:value, 6, "expected 0 to 2147483647, got $iterations")
    end
    CANCEL[] = 1
    @test failure(Kernels.mandelbrot, 3, 3, view_of_it..., 5, out) == (:cancelled, -1, "cancelled")
    CANCEL[] = 0
end

@testset "checksum" begin
    @test call(Kernels.checksum, b"") % UInt64 == 0x2d06800538d394c2
    @test call(Kernels.checksum, SAMPLE) % UInt64 == last(VECTORS)[2]
    @test call(Kernels.checksum, reinterpret(Float32, SAMPLE[1:64]) |> collect) % UInt64 == Dict(VECTORS)[64]
end
