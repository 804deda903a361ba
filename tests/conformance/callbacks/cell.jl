"The midpoint rule."
function integrate(f::Callback{Float64,Tuple{Float64}}, a::Float64, b::Float64, n::Int64)
    h = (b - a) / n
    return sum(h * f(a + (i - 0.5) * h) for i in 1:n)::Float64
end

function tally(f::Callback{Int64,Tuple{Int32,Bool}}, n::Int32)::Int64
    total = 0
    for i in 0:n-1
        total += f(i, iseven(i))
    end
    return total
end

each(f::Callback{Nothing,Tuple{UInt8}}, n::UInt8)::Nothing = foreach(f, 0x00:(n-0x01))

small(f::Callback{Int8,Tuple{}})::Int64 = f()

wide(f::Callback{UInt64,Tuple{UInt64,Float32}})::UInt64 = f(typemax(UInt64), 0.1f0)

holds(f::Callback{Bool,Tuple{Float64}}, x::Float64)::Bool = f(x)

"The smallest value of f at x and at the first half of x."
least(f::Callback{Float64,Tuple{Vec{Float64}}}, x::Vec{Float64})::Float64 = min(f(x), f(view(x, 1:length(x)÷2)))

"What f writes."
function derivative(
    f::Callback{Nothing,Tuple{Float64,Vec{Float64},MutVec{Float64}}}, t::Float64, y::Vec{Float64}, out::MutVec{Float64},
)::Nothing
    return f(t, y, out)
end

octets(f::Callback{Int64,Tuple{Vec{UInt8},UInt8}})::Int64 = f([1, 2, 255], 7)

"Gets over what is raised."
function tried(f::Callback{Float64,Tuple{Float64}}, x::Float64)::Float64
    try
        return f(x)
    catch
        return -1.0
    end
end

@nif long function unwrapped(f::Callback{Float64,Tuple{Float64}}, x::Float64)::Float64
    return f(x)
end

@nif long function steps(n::Int64, seconds::Float64)::Int64
    for i in 1:n
        progress(i, n)
        Libc.systemsleep(seconds)
    end
    return n
end

function says(n::Int64)::Int64
    for i in 0:n-1
        println("line ", i)
    end
    print("dots...")
    print(stderr, "oh ", n)
    return n
end
