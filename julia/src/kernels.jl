"""
The functions that every backend has, in plain Julia: docs/kernels.md says what each one means.

`sum` and `transpose` are this module's own, not Base's.
"""
module Kernels

@static VERSION < v"1.9" && Base.Experimental.@optlevel 2

using LinearAlgebra: BLAS
using ..Nif
using ..XXH3: xxh3_64

"""
`noop()`: nothing, the cost of a call.
"""
@nif pure function noop()::Nothing end

"""
`add(x, y)`: x + y.
"""
@nif pure function add(x::Float64, y::Float64)::Float64
    return x + y
end

"""
`dot(x[n], y[n])`: inner product of two vectors.
"""
@nif pure function dot(x::Vec{Float64}, y::Vec{Float64})::Float64
    total = 0.0
    @inbounds @simd for i in eachindex(x, y)
        total += x[i] * y[i]
    end
    return total
end

"""
`axpy(a, x[n], y[n])`: y = a x + y, in place.
"""
@nif function axpy(a::Float64, x::Vec{Float64}, y::MutVec{Float64})::Nothing
    @inbounds @simd for i in eachindex(x, y)
        y[i] = a * x[i] + y[i]
    end
end

"""
`sum(x[n])`: sum of the elements.
"""
@nif pure function sum(x::Vec{Float64})::Float64
    total = 0.0
    @inbounds @simd for i in eachindex(x)
        total += x[i]
    end
    return total
end

"""
`matmul(a[m, k], b[k, n], out[m, n])`: matrix product.
"""
@nif long idempotent function matmul(a::Mat{Float64}, b::Mat{Float64}, out::MutMat{Float64})::Nothing
    isempty(out) && return
    isempty(a) && return foreach(i -> out[i] = 0.0, CartesianIndices(out))
    # BLAS counts column by column, so a row-major product is computed as out' = b' a'.
    (a_flag, a_columns), (b_flag, b_columns) = columns(a), columns(b)
    if plain(out)
        BLAS.gemm!(a_flag, b_flag, 1.0, a_columns, b_columns, 0.0, out)
    elseif plain(Base.transpose(out))
        BLAS.gemm!(other(b_flag), other(a_flag), 1.0, b_columns, a_columns, 0.0, Base.transpose(out))
    else
        copyto!(out, BLAS.gemm(a_flag, b_flag, a_columns, b_columns))
    end
    return
end

other(flag) = flag == 'N' ? 'T' : 'N'

"Whether a matrix lies as Julia's own do, column after column."
plain(a) = strides(a)[1] == 1 && strides(a)[2] >= size(a, 1)

"A matrix as BLAS takes it: whether it lies transposed, and the plain one."
function columns(a)
    plain(a) && return 'N', a
    plain(Base.transpose(a)) && return 'T', Base.transpose(a)
    return 'N', Matrix(a)
end

"""
`transpose(a[m, n], out[n, m])`: out[j, i] = a[i, j].
"""
@nif idempotent function transpose(a::Mat{Float64}, out::MutMat{Float64})::Nothing
    m, n = size(a)
    edge = 32
    tile = Matrix{Float64}(undef, edge, edge)  # stays in the cache: rows are read and written as a whole
    for top in 0:edge:m-1, left in 0:edge:n-1
        rows, cols = min(edge, m - top), min(edge, n - left)
        @inbounds for i in 1:rows, j in 1:cols
            tile[j, i] = a[top+i, left+j]
        end
        @inbounds for j in 1:cols, i in 1:rows
            out[left+j, top+i] = tile[j, i]
        end
    end
end

"""
`hillshade(z[m, n], dx, dy, azimuth, altitude, out[m, n])`: brightness of a height field in the light from azimuth (degrees
clockwise from north) and altitude (degrees above the horizon); row 0 is north, dx and dy are the spacing.
"""
@nif idempotent function hillshade(
    z::Mat{Float64}, dx::Float64, dy::Float64, azimuth::Float64, altitude::Float64, out::MutMat{Float64},
)::Nothing
    dx > 0 || throw(NifError(:value, :dx, "expected a positive number"))
    dy > 0 || throw(NifError(:value, :dy, "expected a positive number"))
    m, n = size(z)
    isempty(z) && return
    # Julia throws for the angle of infinity, which has no direction: NaN, as in C.
    direction(angle) = isfinite(angle) ? sincos(deg2rad(angle)) : (NaN, NaN)
    (sin_azimuth, cos_azimuth), (sin_altitude, cos_altitude) = direction(azimuth), direction(altitude)
    light = (sin_azimuth * cos_altitude, cos_azimuth * cos_altitude, sin_altitude)

    # Three rows at a time are copied into plain vectors, so that the arithmetic runs at full speed for any strides.
    above, here, below, shade = (Vector{Float64}(undef, n) for _ in 1:4)
    load!(above, z, 1)
    load!(here, z, 1)
    for i in 1:m
        load!(below, z, min(i + 1, m))
        shade!(shade, above, here, below, dx, (i == 1 || i == m ? 1 : 2) * dy, light)
        store!(out, i, shade)
        above, here, below = here, below, above
    end
end

function shade!(shade, above, here, below, dx, dy, light)
    n = length(here)
    @inbounds shade[1] = brightness((here[min(2, n)] - here[1]) / dx, (above[1] - below[1]) / dy, light)
    @inbounds @simd for j in 2:n-1
        shade[j] = brightness((here[j+1] - here[j-1]) / (2.0 * dx), (above[j] - below[j]) / dy, light)
    end
    @inbounds shade[n] = brightness((here[n] - here[max(n - 1, 1)]) / dx, (above[n] - below[n]) / dy, light)
    return
end

"The cosine of the angle between light and surface, 0 in the shade."
@inline function brightness(gx, gy, (lx, ly, lz))
    # Base's sqrt would branch to an error for negative numbers, and the loop wouldn't be vectorised.
    cosine = (-gx * lx - gy * ly + lz) / Core.Intrinsics.sqrt_llvm(gx * gx + gy * gy + 1.0)
    return ifelse(cosine < 0.0, 0.0, cosine)  # NaN stays
end

@inline function load!(row, a, i)
    @inbounds @simd for j in eachindex(row)
        row[j] = a[i, j]
    end
end

@inline function store!(a, i, row)
    @inbounds @simd for j in eachindex(row)
        a[i, j] = row[j]
    end
end

"""
`smooth(z[m, n], passes, out[m, n])`: passes times the binomial 3 x 3 filter, edges repeated.
"""
@nif long idempotent function smooth(z::Mat{Float64}, passes::Int64, out::MutMat{Float64})::Nothing
    passes >= 0 || throw(NifError(:value, :passes, "expected 0 or more, got $passes"))
    m, n = size(z)
    isempty(z) && return
    work = Matrix{Float64}(undef, n, m)  # row i of z is column i
    for i in 1:m
        load!(view(work, :, i), z, i)
    end
    above, vertical = Vector{Float64}(undef, n), Vector{Float64}(undef, n)
    for _ in 1:passes
        smooth!(work, above, vertical)
    end
    for i in 1:m
        store!(out, i, view(work, :, i))
    end
end

"One pass in place; `above` keeps the row that is already overwritten."
function smooth!(work, above, vertical)
    n, m = size(work)
    @inbounds for i in 1:m
        here, below = view(work, :, i), view(work, :, min(i + 1, m))
        i == 1 && copyto!(above, here)
        @simd for j in 1:n
            vertical[j] = above[j] + 2.0 * here[j] + below[j]
            above[j] = here[j]
        end
        here[1] = (3.0 * vertical[1] + vertical[min(2, n)]) / 16.0
        @simd for j in 2:n-1
            here[j] = (vertical[j-1] + 2.0 * vertical[j] + vertical[j+1]) / 16.0
        end
        n > 1 && (here[n] = (vertical[n-1] + 3.0 * vertical[n]) / 16.0)
    end
end

"""
`histogram(x[n], bins, low, high, out[bins])`: how many elements fall into each of `bins` cells of equal width over [low, high].
"""
@nif idempotent function histogram(x::Vec{Float64}, bins::Int64, low::Float64, high::Float64, out::MutVec{Int64})::Nothing
    bins >= 1 || throw(NifError(:value, :bins, "expected 1 or more, got $bins"))
    isfinite(low) || throw(NifError(:value, :low, "expected a finite number"))
    scale = bins / (high - low)
    0 < scale < Inf || throw(NifError(:value, :high, "expected a finite number above low"))
    fill!(out, 0)
    @inbounds for value in x
        low <= value <= high || continue  # NaN isn't either
        position = (value - low) * scale
        # The comparisons keep what can't be an index away from unsafe_trunc: over a tiny range the scale is infinite.
        cell = position >= bins ? bins - 1 : position > 0 ? unsafe_trunc(Int, position) : 0
        out[cell+1] += 1
    end
end

"""
`forward(weights[m, n], bias[m], x[n], activation, out[m])`: one layer of a network, f(weights x + bias).

`activation`: 0 identity, 1 relu, 2 tanh, 3 sigmoid, 4 softmax over the layer.
"""
@nif idempotent function forward(
    weights::Mat{Float64}, bias::Vec{Float64}, x::Vec{Float64}, activation::Int64, out::MutVec{Float64},
)::Nothing
    0 <= activation <= 4 || throw(NifError(:value, :activation, "expected 0 to 4, got $activation"))
    @inbounds for i in eachindex(out)
        total = bias[i]
        @simd for j in eachindex(x)
            total += weights[i, j] * x[j]
        end
        out[i] = total
    end
    if activation == 1
        map!(v -> v <= 0 ? 0.0 : v, out, out)
    elseif activation == 2
        map!(tanh, out, out)
    elseif activation == 3
        map!(v -> 1 / (1 + exp(-v)), out, out)
    elseif activation == 4 && !isempty(out)
        largest = maximum(out)  # shifted by it, no exponential overflows
        map!(v -> exp(v - largest), out, out)
        out ./= Base.sum(out)
    end
    return
end

"""
`mandelbrot(width, height, x_min, x_max, y_min, y_max, iterations, out[height, width])`: iterations before |z|² > 4.
"""
@nif long idempotent polls_cancel function mandelbrot(
    width::Int64, height::Int64, x_min::Float64, x_max::Float64, y_min::Float64, y_max::Float64, iterations::Int64,
    out::MutMat{Int32},
)::Nothing
    0 <= iterations <= typemax(Int32) ||
        throw(NifError(:value, :iterations, "expected 0 to $(typemax(Int32)), got $iterations"))
    for i in 1:height
        checkcancel()
        ci = y_max - (y_max - y_min) * (i - 0.5) / height
        for left in 0:LANES:width-1
            cr = ntuple(k -> x_min + (x_max - x_min) * (left + k - 0.5) / width, Val(LANES))
            counts = escape(cr, ci, iterations)
            @inbounds for k in 1:min(LANES, width - left)
                out[i, left+k] = counts[k]
            end
        end
    end
end

"Pixels that are computed together, in the processor's vector registers."
const LANES = 8

"The answers of `LANES` neighbours: each counts until it escapes, all go on until the last one has."
@inline function escape(cr, ci, iterations)
    zr = zi = ntuple(_ -> 0.0, Val(LANES))
    counts = ntuple(_ -> 0.0, Val(LANES))  # floats, as wide as the numbers beside them
    inside = ntuple(_ -> 1.0, Val(LANES))
    for _ in 1:iterations
        square = zr .* zr .+ zi .* zi
        inside = ifelse.(square .> 4.0, 0.0, inside)
        any_inside(inside) || break
        counts = counts .+ inside
        zr, zi = (zr .* zr .- zi .* zi) .+ cr, 2.0 .* zr .* zi .+ ci
    end
    return unsafe_trunc.(Int32, counts)
end

@inline any_inside(inside) = Base.sum(inside) > 0.0

"""
`checksum(x[...])`: XXH3-64 of the bytes, seed 0.
"""
@nif pure function checksum(x::AnyArray)::UInt64
    return xxh3_64(x.bytes)
end

end
