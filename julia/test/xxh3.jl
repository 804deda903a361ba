# Vectors of the reference implementation (xxHash 0.8).

using NifLab: XXH3
using NifLab.XXH3: xxh3_64

const SAMPLE = UInt8[i % 256 == 0 ? (i >> 8) % UInt8 : (7i + 3) % UInt8 for i in 0:1<<20-1]
const VECTORS = [
    0 => 0x2d06800538d394c2,
    1 => 0xc44bdff4074eecdb,
    2 => 0x8137d9528d0e685d,
    3 => 0x02cdfb67e212d427,
    4 => 0xdab0e9e469a4f81c,
    5 => 0xa73dec812cb42a53,
    7 => 0xa7e057dbdc341518,
    8 => 0x0a9531b85cdadf2c,
    9 => 0xeabd0e0fa995dde4,
    12 => 0xbf77683b0dad9811,
    15 => 0x49528befaa1042e9,
    16 => 0x4f69abae14da4ec2,
    17 => 0xbf4a27da712a046e,
    31 => 0x9728e1b184669347,
    32 => 0xb174b0b89d4c49f9,
    33 => 0x1c79f2a8c389465d,
    63 => 0xb4ef7cd73bf09818,
    64 => 0x90b8d26a07ced10e,
    65 => 0x3cbae370c99b643e,
    95 => 0x42c8441de152ae7c,
    96 => 0x715376479fc0b00c,
    97 => 0x753a900cf80a80d4,
    127 => 0x504034718ebc7734,
    128 => 0xb45f6385f99b0d9c,
    129 => 0x747b52e67de9e23d,
    143 => 0x622a2960b2cfc558,
    144 => 0x7721c7ec68dec813,
    160 => 0x1ae03f9622b99a83,
    191 => 0x377f09d6646bb131,
    239 => 0x6ba0bba7241f942a,
    240 => 0x4aa37519a94467bd,
    241 => 0x86e731774e933f4b,
    255 => 0xf88c610274ce3b51,
    256 => 0xffc56707668ce637,
    511 => 0x1e97808e793f3dde,
    512 => 0xd73e1e87b7d6c1c9,
    513 => 0x1f42d4c87411d36b,
    1023 => 0xa99a489b5bb10c98,
    1024 => 0x6217a90376b2ce11,
    1025 => 0x7e23a5a70821d98e,
    1088 => 0xb1578ccf6c7f6d55,
    1089 => 0x227fbe1818bd8600,
    2047 => 0x832adb56ddcfb242,
    2048 => 0xea13467abed17876,
    2049 => 0x4412779b503c8b45,
    65536 => 0x51d33abdafe18bb2,
    1048576 => 0x617cbbcdc4d4eb52,
]

@testset "xxh3 vectors" begin
    for (n, hash) in VECTORS
        @test xxh3_64(SAMPLE[1:n]) === hash
    end
end

@testset "xxh3 of every length to 2000, at every alignment" begin
    combined = UInt64(0)
    for n in 0:2000
        hash = xxh3_64(SAMPLE[1:n])
        moved = zeros(UInt8, n + 16)
        shift = n % 16
        copyto!(moved, shift + 1, SAMPLE, 1, n)
        @test GC.@preserve moved xxh3_64(Vec{UInt8}(pointer(moved) + shift, n)) == hash
        combined = bitrotate(combined, 5) ⊻ hash
    end
    @test combined === 0x1552022a81cc10ac
end

"Copy bytes in pieces of that many and return the hash of the copy."
function summed!(to::Ptr{UInt8}, from, piece)
    it = XXH3.start!(XXH3.Summed(), to, length(from))
    GC.@preserve from for at in 0:piece:length(from)-1
        XXH3.put!(it, at, pointer(from) + at, min(piece, length(from) - at))
    end
    return XXH3.finish!(it)
end

@testset "a copy on the way" begin
    for n in (0, 1, 16, 17, 240, 241, 255, 256, 1024, 1025, 1088, 1089, 4096, 5000, XXH3.STREAMED, XXH3.STREAMED + 77)
        from = rand(UInt8, n)
        for shift in (0, 1), piece in (n > 5000 ? (n + 1, n ÷ 3) : (n + 1, 63, 500, 1024, 1025, 2047))
            room = zeros(UInt8, n + 130)
            at = (64 - UInt(pointer(room)) % 64) % 64 + shift
            GC.@preserve room begin
                to = unsafe_wrap(Array, pointer(room) + at, n)
                @test summed!(pointer(to), from, piece) == xxh3_64(from)
                @test to == from
            end
            @test all(iszero, view(room, 1:at)) && all(iszero, view(room, at+n+1:length(room)))
        end
    end
end
