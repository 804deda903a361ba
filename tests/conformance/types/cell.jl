"`trues(x[n])`: how many are true."
@nif pure function trues(x::Vec{Bool})::Int64
    return count(x)
end

"`trues_of(x[m,n])`: how many are true."
@nif pure function trues_of(x::Mat{Bool})::Int64
    return sum(x)
end

"`pick(x[n])`: the sum of what each chooses in a table of two."
@nif pure function pick(x::Vec{Bool})::Int64
    return isempty(x) ? 0 : sum(it ? 20 : 10 for it in x)
end

"`opposite(x[n], out[n])`: not x."
@nif idempotent function opposite(x::Vec{Bool}, out::MutVec{Bool})::Nothing
    out .= .!x
    return
end

@nif pure same_i8(x::Int8)::Int8 = x
@nif pure same_i16(x::Int16)::Int16 = x
@nif pure same_i32(x::Int32)::Int32 = x
@nif pure same_i64(x::Int64)::Int64 = x
@nif pure same_u8(x::UInt8)::UInt8 = x
@nif pure same_u16(x::UInt16)::UInt16 = x
@nif pure same_u32(x::UInt32)::UInt32 = x
@nif pure same_u64(x::UInt64)::UInt64 = x
@nif pure same_isize(x::Int)::Int = x
@nif pure same_usize(x::UInt)::UInt = x
@nif pure same_f32(x::Float32)::Float32 = x
@nif pure same_f64(x::Float64)::Float64 = x
@nif pure same_c128(x::ComplexF64)::ComplexF64 = x
@nif pure same_c64(x::ComplexF32)::ComplexF32 = x

"z by i, and the first of x."
turned(z::ComplexF64, x::Vec{ComplexF64})::Tuple{ComplexF64,Union{Nothing,ComplexF64}} = (z * im, isempty(x) ? nothing : x[1])

"The sum of x and the text's bytes."
owned(x::Vector{Float64}, text::AbstractString)::Float64 = sum(push!(x, sizeof(text)))

@nif pure same_bool(x::Bool)::Bool = x

"`ones(count, out[count])`: a length may be any integer."
@nif idempotent function ones(count::UInt, out::MutVec{Float64})::Nothing
    @assert length(out) == count
    fill!(out, 1)
    return
end

"0, 2, 4 and so on."
evens(count::UInt32)::Vector{Float64} = [2.0i for i in 0:Int(count)-1]

"Whether each number is odd."
odd(x::Vec{Int64})::Vector{Bool} = isodd.(x)

"Rows of three: i, 10 i, 100 i."
powers(count::UInt8)::Matrix{Float32} = [10^j * i for i in 0:count-1, j in 0:2]

"A cube, which no other language returns."
cube(n::Int)::Array{Int32,3} = [100i + 10j + k for i in 0:n-1, j in 0:1, k in 0:2]

"Three numbers."
three()::Vector{Int16} = [-1, 0, 1]

"A text."
greet(name::String) = "hello, $name"

"The bytes 0, 1, 2 and so on."
octets(count::UInt8) = ByteVector(0:count-1)

"The smallest and the largest number."
extremes(x::Vec{Float64})::Union{Nothing,Tuple{Float64,Float64}} = isempty(x) ? nothing : extrema(x)

"Of the numbers."
stats(x::Vec{Float64}) = (mean = sum(x) / length(x), count = length(x))

"Values of several kinds."
mixed(text::String, count::UInt32)::Tuple{String,Vector{Float64},Union{Nothing,Int32},Bool} =
    (uppercase(text), evens(count), count > 0 ? Int32(-1) : nothing, count > 1)

"The first number."
first(x::Vec{Float64})::Union{Float64,Nothing} = isempty(x) ? nothing : x[1]

"A text, or none."
function word(text::String)::Union{String,Nothing}
    words = split(text)
    return isempty(words) ? nothing : string(words[1])
end

"An integer of a text."
parsed(text::String) = parse(Int32, text)

"The number at a place."
element(x::Vec{Float64}, at::Int)::Float64 = x[at+1]

"More memory than there is."
greedy()::Vector{Float64} = throw(OutOfMemoryError())

"An error in words."
refused(why::String)::Tuple{Float64,String} = throw(NifError(:error, why))

"Parameters with default values."
function power(x::Float64, p::Int = 2, scale = 0.5, label::String = "a, \"b\" (c) \\", loud = false)::Tuple{Float64,String}
    return scale * x^p, loud ? uppercase(label) : label
end

"Keywords."
scaled(x::Float64, plus::Float64 = 0.0; by::Float64, up::Bool = false)::Float64 = (x + plus) * by + up

"`double!(x[n])`: in place."
function double!(x::MutVec{Float64})
    x .*= 2
    return nothing
end

"Of a negative number there is none."
root(x::Float64) = sqrt(x)

"A number, or 7."
or_seven(x::Union{Nothing,Float64}) = x === nothing ? 7.0 : x

"`agree(a[n], b[n], c[n])`: the length of the first that is there."
agree(a::Union{Nothing,Vec{Float64}}, b::Union{Nothing,Vec{Float64}}, c::Vec{Float64}) = length(something(a, b, c))

"How many rows, and a label."
described(m::Union{Nothing,Mat{Float64}}, label::Union{Nothing,String}) =
    string(m === nothing ? -1 : size(m, 1), ' ', something(label, "-"))

"The texts from the last to the first."
reversed(words::Union{Nothing,Vector{String}}) = words === nothing ? nothing : reverse(words)

"The longest, and how many bytes each has."
function lengths(words::Vector{String})
    longest = ""
    for it in words
        ncodeunits(it) > ncodeunits(longest) && (longest = it)
    end
    return [longest], [ncodeunits(it) for it in words]
end
