const UNIT = (  # the examples of docs/wire.md: marker, dtype, dialect, version, the frame
    "01 01 00 00 c0 3f" => (0x01, 1, 0, 1), "01 05 01" => (0x05, 5, 0, 1),
    "01 12 02 00 00 00 08 01 00 00 00 ff ff ff ff" => (0x12, 3, 1, 1),
    "01 22 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 00 00 80 3f 00 00 40 40 00 00 00 40 00 00 80 40" =>
        (0x22, 1, 3, 1),
    "89 4e 49 46 02 60 08 02 01 01 00 00 00 00 00 00 02 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 " * "00 "^16 *
        "04 00 00 00 00 00 00 00 c4 17 b2 dc c7 04 e0 7e 01 03 02 04" => (0x60, 8, 0, 2),
    "01 42 52 00 00 00 04 00 04 00 61 78 70 79 04 00 67 72 69 64 05 00 62 6c 6f 63 6b 01 00 61 07 00 69 6e 76 65 72 73 65 " *
        "01 12 03 00 00 00 02 00 00 00 01 00 00 00 01 00 00 00 01 12 03 00 00 00 40 00 00 00 01 00 00 00 01 00 00 00 " *
        "01 02 00 00 00 00 00 00 00 40 01 05 00" => (0x42, 0, 0, 1),
)
const NO_HANDLES = zeros(Int64, 0, 4)
octets(text) = hex2bytes(replace(text, ' ' => ""))
decoded(frame, dialect = 0, version = 0, live = NO_HANDLES) = call(Wire.decode, frame, dialect, version, live)
refused(f, arguments...) = last(failure(f, arguments...))
refused(frame::Vector{UInt8}, dialect = 0, version = 0, live = NO_HANDLES) = refused(Wire.decode, frame, dialect, version, live)
"What a refusal says, by its code and place."
said(code, place = "") = "$code: $(Wire.ERRORS[code])" * (isempty(place) ? "" : " ($place)")

"The table that `decode` gives, as Julia reads it: blocks of the host are row-major."
table(frame, arguments...) = permutedims(reshape(vec(decoded(frame, arguments...)), Wire.COLUMNS, :))

@testset "frames there and back" begin
    for (text, (marker, dtype, dialect, version)) in UNIT
        frame = octets(text)
        for asked in (version, 0)
            nodes = table(frame, dialect, asked)
            @test nodes[1, 1:2] == [marker, dtype]
            for strided in (nodes, view(repeat(nodes; inner = (2, 3)), 1:2:2size(nodes, 1), 1:3:3Wire.COLUMNS))
                whole = call(Wire.encode, strided, frame, dialect, version, 8, true)
                @test endswith(String(copy(whole)), String(copy(frame)))
                lead = length(whole) - length(frame)
                @test (lead + nodes[1, 9]) % 64 == 0 || marker == 0x42
                @test all(iszero, whole[1:lead])
            end
        end
        for n in 0:length(frame)-1
            @test occursin(r"^(SHORT|LENGTH)", refused(frame[1:n], dialect, version))
        end
        @test refused([frame; 0x00], dialect, version) == said(:TRAILING, "byte $(length(frame))")
    end
end

@testset "a record's table" begin
    frame = octets(last(UNIT)[1])
    nodes = table(frame)
    @test size(nodes) == (5, 14)
    @test nodes[:, 13] == [-1, 0, 0, 0, 0] && nodes[1, 14] == 4
    names = [String(frame[o+1:o+n]) for (o, n) in zip(nodes[2:end, 11], nodes[2:end, 12])]
    @test names == ["grid", "block", "a", "inverse"]
    damaged(place, values...) = (it = copy(frame); it[place+1:place+length(values)] .= values; it)
    @test refused(damaged(29, 0x80)) == said(:UTF8, "byte 29")
    @test refused(damaged(16, 0x47)) == said(:VALUE, "byte 16")
    @test refused(damaged(6, 0x01)) == said(:VALUE, "byte 6")
    @test refused(damaged(8, 0xff)) == said(:LENGTH, "byte 8")
    @test refused(damaged(8, 0x00, 0x01)) == said(:LIMIT, "byte 8")
    @test refused(damaged(6, 0x00, 0x02)) == said(:LIMIT, "byte 6")
    @test refused(damaged(41, 0x02)) == said(:VALUE, "byte 39")
    @test refused(damaged(length(frame) - 1, 0x02)) == said(:VALUE, "byte $(length(frame) - 1)")
    encoded(changes...) = (it = copy(nodes); foreach(((i, j, v),) -> it[i, j] = v, changes); refused(Wire.encode, it, frame, 0, 1, 8, false))
    @test encoded((4, 11, nodes[5, 11]), (4, 12, nodes[5, 12])) == said(:DUPLICATE, "node 4")
    @test encoded((2, 11, nodes[3, 11]), (2, 12, nodes[3, 12])) == said(:VALUE, "node 1")
    @test encoded((5, 13, 4)) == said(:LENGTH, "node 0")
    @test encoded((5, 13, 4), (1, 14, 3)) == said(:TRAILING, "node 4")
    @test encoded((1, 1, 0x43)) == said(:MARKER, "node 0")
    @test encoded((2, 4, -1)) == encoded((2, 4, typemax(Int64))) == said(:DIM, "node 1")
    @test encoded((4, 9, typemax(Int64))) == encoded((4, 10, -1)) == said(:LENGTH, "node 3")
end

@testset "arguments" begin
    frame, nodes = octets(UNIT[2][1]), table(octets(UNIT[2][1]))
    @test failure(Wire.decode, frame, 0, 0, zeros(Int64, 0, 3)) == (:value, 3, "expected 4 columns, got 3")
    @test failure(Wire.encode, nodes[:, 1:13], frame, 0, 1, 8, true) == (:value, 0, "expected 14 columns, got 13")
    @test failure(Wire.decode, frame, 9, 3, NO_HANDLES) == (:value, -1, said(:VERSION))
    @test refused(frame, 4) == refused(frame, -1) == said(:VALUE)
    @test refused(UInt8[]) == said(:SHORT, "byte 0")
    @test refused([0x07]) == said(:SHORT, "byte 1")
    @test refused([0x07, 0x07]) == said(:VERSION, "byte 0")
    for alignment in (0, 3, 128, typemin(Int64))
        @test refused(Wire.encode, nodes, frame, 0, 1, alignment, true) == said(:ALIGN)
    end
    @test refused(Wire.encode, nodes[1:0, :], frame, 0, 1, 8, true) == said(:SHORT)
    @test refused(Wire.encode, repeat(nodes, 513), frame, 0, 1, 8, true) == said(:LIMIT)
end

@testset "numbers that would wrap" begin
    array(shape...) = [0x01; 0x22; reinterpret(UInt8, UInt64[shape...])]
    @test refused(array(2^40, 2^40, 0), 3, 1) == said(:OVERFLOW, "byte 2")
    @test refused(array(1, 2^40 + 1, 0), 3, 1) == said(:DIM, "byte 10")
    @test refused(array(1, 1, typemax(UInt64)), 3, 1) == said(:DIM, "byte 18")
    @test refused(array(2^40, 2^20, 1), 3, 1) == said(:LENGTH, "byte 2")
    @test table(array(2^40, 2^20, 0), 3, 1)[1, 4:7] == [2^40, 2^20, 0, 0]
    @test refused([0x01; 0x42; fill(0xff, 8)], 3, 1) == said(:OVERFLOW, "byte 2")
    @test refused([0x01; 0x42; fill(0xff, 4)], 0, 1) == said(:OVERFLOW, "byte 2")
end

@testset "handles" begin
    buffer(slot, generation, used, device) =
        [0x01; 0x30; reinterpret(UInt8, UInt32[slot, generation]); reinterpret(UInt8, UInt64[used]); reinterpret(UInt8, UInt32[device])]
    live = [5 3 1000 0; 6 0 50 1; 5 9 1 1]
    @test table(buffer(5, 3, 1000, 0), 0, 0, live)[1, 10] == 20
    for it in (buffer(5, 3, 1001, 0), buffer(5, 3, typemax(UInt64), 0), buffer(5, 3, 1, 1), buffer(7, 3, 1, 0))
        @test refused(it, 0, 0, live) == said(:HANDLE, "byte 2")
    end
    for it in (buffer(5, 9, 1, 1), buffer(6, 0, 1, 1))
        @test refused(it, 0, 0, live) == said(:STALE, "byte 2")
    end
    texture(height, dtype) = [0x01; 0x31; reinterpret(UInt8, UInt32[5, 3, height, 5, 5, dtype, 0])]
    @test table(texture(40, 8), 0, 0, live)[1, 10] == 28
    @test refused(texture(41, 8), 0, 0, live) == refused(texture(typemax(UInt32), 14), 0, 0, live) == said(:HANDLE, "byte 2")
    @test refused(texture(1, 0), 0, 0, live) == refused(texture(1, 15), 0, 0, live) == said(:VALUE, "byte 22")
end

@testset "text" begin
    good = ("", "a", "é", "\u7ff", "\u800", "\ud7ff", "\ue000", "\uffff", "\U10000", "\U10ffff", "aé✓😀z")
    for it in good
        @test Wire.istext(codeunits(it))
        isempty(it) || isascii(last(it)) || @test !Wire.istext(codeunits(it)[1:end-1])
    end
    for it in ("\0", "a\0", "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff")
        @test !Wire.istext(codeunits(it))
    end
    # Every short sequence of the bytes at which the rules change.
    edges = [0x01, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf4, 0xf5]
    for n in 1:4
        @test all(it -> Wire.istext(it) == isvalid(String(UInt8[it...])), Iterators.product(ntuple(_ -> edges, n)...))
    end
end

@testset "nothing but the result is allocated" begin
    for (text, (_, _, dialect, version)) in UNIT
        frame = octets(text)
        bytes, live = Vec{UInt8}(pointer(frame), length(frame)), Nif.Mat{Int64}(C_NULL, (0, 4), (4, 1))
        layout = version == 2 ? Wire.Version2() : Wire.DIALECTS[dialect+1]
        read_it(it) = (Wire.read_frame(it); @allocated Wire.read_frame(it))
        GC.@preserve frame @test read_it(Wire.Decoder(layout, bytes, live)) == 0
    end
end

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
