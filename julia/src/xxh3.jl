"""
XXH3-64 with seed 0 and the default secret, after the published description of the algorithm.
"""
module XXH3

@static VERSION < v"1.9" && Base.Experimental.@optlevel 2

export xxh3_64

const SECRET = hex2bytes(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221" *
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8" *
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb" *
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e",
)
# A constant of the module is never freed, so its address needs no GC.@preserve.
secret() = pointer(SECRET)

const PRIME32 = (0x9e3779b1, 0x85ebca77, 0xc2b2ae3d)
const PRIME64 = (0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x85ebca77c2b2ae63, 0x27d4eb2f165667c5)

const STRIPE = 64  # bytes, a word for each of eight accumulators
const BLOCK = 16 * STRIPE  # after which the accumulators are scrambled

"The word at a byte offset; a Julia load may be unaligned."
@inline word(::Type{T}, bytes::Ptr{UInt8}, offset) where {T} = ltoh(unsafe_load(convert(Ptr{T}, bytes + offset)))
@inline word(bytes::Ptr{UInt8}, offset) = word(UInt64, bytes, offset)

@inline function fold(x::UInt64, y::UInt64)
    product = widemul(x, y)
    return (product % UInt64) ⊻ ((product >> 64) % UInt64)
end

@inline rotate(h::UInt64, n) = (h << n) | (h >> (64 - n))

@inline function avalanche(h::UInt64)
    h = (h ⊻ (h >> 37)) * 0x165667919e3779f9
    return h ⊻ (h >> 32)
end

@inline function avalanche_of_xxh64(h::UInt64)
    h = (h ⊻ (h >> 33)) * PRIME64[2]
    h = (h ⊻ (h >> 29)) * PRIME64[3]
    return h ⊻ (h >> 32)
end

"""
    xxh3_64(bytes) -> UInt64

XXH3-64 of a dense vector of bytes.
"""
function xxh3_64(bytes::DenseVector{UInt8})
    return GC.@preserve bytes xxh3_64(pointer(bytes), length(bytes))
end
xxh3_64(p::Ptr{UInt8}, n) = n <= 16 ? short(p, n) : n <= 128 ? medium(p, n) : n <= 240 ? longer(p, n) : long(p, n)

function short(p, n)
    if n > 8
        low = word(p, 0) ⊻ word(secret(), 24) ⊻ word(secret(), 32)
        high = word(p, n - 8) ⊻ word(secret(), 40) ⊻ word(secret(), 48)
        return avalanche(n % UInt64 + bswap(low) + high + fold(low, high))
    elseif n >= 4
        first, last = UInt64(word(UInt32, p, 0)), UInt64(word(UInt32, p, n - 4))
        h = (last + (first << 32)) ⊻ word(secret(), 8) ⊻ word(secret(), 16)
        h = (h ⊻ rotate(h, 49) ⊻ rotate(h, 24)) * 0x9fb21c651e98df25
        h = (h ⊻ ((h >> 35) + n % UInt64)) * 0x9fb21c651e98df25
        return h ⊻ (h >> 28)
    elseif n > 0
        first, middle, last = (UInt32(word(UInt8, p, i)) for i in (0, n >> 1, n - 1))
        h = (first << 16) | (middle << 24) | last | (UInt32(n) << 8)
        return avalanche_of_xxh64(UInt64(h ⊻ word(UInt32, secret(), 0) ⊻ word(UInt32, secret(), 4)))
    end
    return avalanche_of_xxh64(word(secret(), 56) ⊻ word(secret(), 64))
end

@inline mix(p, at, key) = fold(word(p, at) ⊻ word(secret(), key), word(p, at + 8) ⊻ word(secret(), key + 8))

function medium(p, n)
    h = n % UInt64 * PRIME64[1]
    for i in (n-1)>>5:-1:0
        h += mix(p, 16i, 32i) + mix(p, n - 16(i + 1), 32i + 16)
    end
    return avalanche(h)
end

function longer(p, n)
    h = n % UInt64 * PRIME64[1]
    for i in 0:7
        h += mix(p, 16i, 16i)
    end
    h = avalanche(h)
    for i in 8:n>>4-1
        h += mix(p, 16i, 16(i - 8) + 3)
    end
    return avalanche(h + mix(p, n - 16, 119))
end

# Eight words that the processor works on at once. Only arithmetic is spelled in LLVM's language, which every version reads alike.
const Lanes = NTuple{8,VecElement{UInt64}}

lanes(words...) = Lanes(map(VecElement{UInt64}, words))
same(word) = lanes(ntuple(_ -> word, Val(8))...)

for (name, instruction) in ((:plus, "add"), (:times, "mul"), (:xor, "xor"), (:both, "and"), (:shift, "lshr"))
    @eval @inline $name(a::Lanes, b::Lanes) =
        Base.llvmcall($("%3 = $instruction <8 x i64> %0, %1\nret <8 x i64> %3"), Lanes, Tuple{Lanes,Lanes}, a, b)
end

@inline words(bytes, offset) = word(Lanes, bytes, offset)
Base.ltoh(it::Lanes) = ENDIAN_BOM == 0x04030201 ? it : map(lane -> VecElement(ltoh(lane.value)), it)

# Where the words go as well: nowhere, to a copy, or to a copy past the caches.
struct Nowhere end
struct Copy
    to::Ptr{UInt8}
end
struct Passing
    to::Ptr{UInt8}
end
"Bytes from which on a copy goes past the caches, as in the C library's memcpy: it wouldn't fit in."
const STREAMED = 16 << 20

@inline put(::Nowhere, at, data) = nothing
@inline put(it::Copy, at, data) = unsafe_store!(convert(Ptr{Lanes}, it.to + at), data)
if VERSION < v"1.6"
    @inline put(it::Passing, at, data) = Base.llvmcall(
        ("!0 = !{i32 1}", """
        %p = inttoptr i64 %0 to <8 x i64>*
        store <8 x i64> %1, <8 x i64>* %p, align 64, !nontemporal !0
        ret void"""), Cvoid, Tuple{UInt64,Lanes}, UInt64(UInt(it.to + at)), data)
elseif VERSION >= v"1.12"
    @inline put(it::Passing, at, data) = Base.llvmcall(
        ("""
        define void @entry(i64 %0, <8 x i64> %1) alwaysinline {
            %p = inttoptr i64 %0 to ptr
            store <8 x i64> %1, ptr %p, align 64, !nontemporal !0
            ret void
        }
        !0 = !{i32 1}""", "entry"), Cvoid, Tuple{UInt64,Lanes}, UInt64(UInt(it.to + at)), data)
else
    @inline put(it::Passing, at, data) = put(Copy(it.to), at, data)
end

"The products that a stripe adds, and its words, which go to the neighbouring accumulators: see `exchange`."
@inline function accumulate(products, sums, p, at, key, copy = Nowhere())
    data = words(p, at)
    put(copy, at, data)
    keyed = xor(data, words(secret(), key))
    return plus(products, times(both(keyed, same(0x00000000ffffffff)), shift(keyed, same(UInt64(32))))), plus(sums, data)
end

"Addition commutes, so the words of many stripes cross to their neighbours together."
@inline exchange(products, sums) =
    plus(products, (sums[2], sums[1], sums[4], sums[3], sums[6], sums[5], sums[8], sums[7]))

const START = lanes(PRIME32[3], PRIME64[1], PRIME64[2], PRIME64[3], PRIME64[4], PRIME32[2], PRIME64[5], PRIME32[1])

"The sums after the next blocks, which are copied on the way."
function add_blocks(sums, p, blocks, copy = Nowhere())
    for block in 0:blocks-1
        products, others = sums, same(UInt64(0))
        at = block * BLOCK
        # A loop would cost more than its body: the processor guesses its end wrong, block after block.
        Base.Cartesian.@nexprs 16 i ->
            ((products, others) = accumulate(products, others, p, at + (i - 1) * STRIPE, 8(i - 1), copy))
        h = exchange(products, others)
        sums = times(xor(xor(h, shift(h, same(UInt64(47)))), words(secret(), 128)), same(UInt64(PRIME32[1])))
    end
    copy isa Passing && Threads.atomic_fence()  # what went past the caches is there for whoever hears of it
    return sums
end

"Blocks that are scrambled: all but the last one, whole or not."
blocks_of(n) = (n - 1) ÷ BLOCK

"The hash of bytes whose blocks were added."
function merged(sums, p, n)
    products, others = sums, same(UInt64(0))
    done = blocks_of(n) * BLOCK
    for stripe in 0:(n-1-done)÷STRIPE-1
        products, others = accumulate(products, others, p, done + stripe * STRIPE, 8stripe)
    end
    h = exchange(accumulate(products, others, p, n - STRIPE, 121)...)
    total = n % UInt64 * PRIME64[1]
    for i in 0:3
        total += fold(h[2i+1].value ⊻ word(secret(), 16i + 11), h[2i+2].value ⊻ word(secret(), 16i + 19))
    end
    return avalanche(total)
end

long(p, n) = merged(add_blocks(START, p, blocks_of(n)), p, n)

# Memory that is written from front to back, and its hash. Whole blocks of what is put in are copied and summed in one loop; what
# falls between blocks is summed from its copy, while that is in the cache. No byte of a source is looked at twice.
mutable struct Summed
    to::Ptr{UInt8}
    size::Int
    blocks::Int  # to be summed on the way; none if there is too little
    added::Int
    sums::Vector{UInt64}  # whose address is any, as that of a field isn't
end

Summed() = Summed(C_NULL, 0, 0, 0, zeros(UInt64, 8))

"Start over, with other memory, which the caller keeps until `finish!`."
function start!(it::Summed, to, size)
    it.to, it.size, it.added = to, size, 0
    it.blocks = size > 240 ? blocks_of(size) : 0
    set!(it, START)
    return it
end

set!(it::Summed, sums) = GC.@preserve it unsafe_store!(convert(Ptr{Lanes}, pointer(it.sums)), sums)
sums(it::Summed) = GC.@preserve it word(Lanes, convert(Ptr{UInt8}, pointer(it.sums)), 0)

"Copy bytes to an offset, behind what was put before."
function put!(it::Summed, at, p, n)
    first, after = cld(at, BLOCK), min((at + n) ÷ BLOCK, it.blocks)
    first < after || return unsafe_copyto!(it.to + at, p, n)
    head, tail = first * BLOCK - at, after * BLOCK - at
    unsafe_copyto!(it.to + at, p, head)
    catch_up!(it, first)
    q = it.to + first * BLOCK
    if it.size >= STREAMED && UInt(q) % sizeof(Lanes) == 0
        set!(it, add_blocks(sums(it), p + head, after - first, Passing(q)))
    else
        set!(it, add_blocks(sums(it), p + head, after - first, Copy(q)))
    end
    it.added = after
    return unsafe_copyto!(it.to + at + tail, p + tail, n - tail)
end

"Add the blocks before that one, which are there."
function catch_up!(it::Summed, block)
    it.added < block && set!(it, add_blocks(sums(it), it.to + it.added * BLOCK, block - it.added))
    it.added = block
    return
end

"The hash of all bytes, which are there."
function finish!(it::Summed)
    it.size <= 240 && return xxh3_64(it.to, it.size)
    catch_up!(it, it.blocks)
    return merged(sums(it), it.to, it.size)
end

end
