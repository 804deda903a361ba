# What decoder and encoder share: checked access to bytes, and the checks that both make.

# Where a rule is broken: a byte of the frame, or a node of the table.
struct Byte
    offset::Int
end
struct Node
    index::Int
end

Base.show(io::IO, it::Byte) = print(io, "byte ", it.offset)
Base.show(io::IO, it::Node) = print(io, "node ", it.index)

@noinline refuse(code) = throw(NifError(:value, "$code: $(ERRORS[code])"))
@noinline refuse(code, place) = throw(NifError(:value, "$code: $(ERRORS[code]) ($place)"))

# No offset gets here unchecked; should one ever, it is an error and not a read.
within(bytes, at, size) = 0 <= at <= length(bytes) && 0 <= size <= length(bytes) - at
@noinline outside(bytes, at) = throw(BoundsError(bytes, at + 1))

"The value at a byte offset."
@inline function load(::Type{T}, bytes, at) where {T}
    within(bytes, at, sizeof(T)) || outside(bytes, at)
    return unsafe_load(convert(Ptr{T}, bytes.data + at))
end

@inline function store!(bytes::MutVec{UInt8}, at, value::T) where {T}
    within(bytes, at, sizeof(T)) || outside(bytes, at)
    unsafe_store!(convert(Ptr{T}, bytes.data + at), value)
    return at + sizeof(T)
end

@inline function part(bytes::V, at, size) where {V}
    within(bytes, at, size) || outside(bytes, at)
    return V(bytes.data + at, size)
end

"Copy bytes and return where they end."
function put!(to::MutVec{UInt8}, at, from)
    copyto!(part(to, at, length(from)), from)
    return at + length(from)
end

zeros!(bytes, at, size) = (fill!(part(bytes, at, size), 0x00); at + size)

"The offset of the first byte from `at` on that has a bit of `mask`; `stop` if none has. Each byte is read once."
function first_with(mask::UInt8, bytes, at, stop)
    wide = mask * 0x0101010101010101
    while stop - at >= 8
        found = load(UInt64, bytes, at) & wide
        found == 0 || return at + trailing_zeros(found) >> 3
        at += 8
    end
    while at < stop && load(UInt8, bytes, at) & mask == 0
        at += 1
    end
    return at
end

isalignment(number) = 1 <= number <= 64 && ispow2(number)

"The zeros behind so many bytes until they fill whole units."
filling(length, unit) = -length & (unit - 1)

"The marker of that code, if the layout has it and the role allows it."
function known(layout, code, role, place)
    0 <= code <= 255 || refuse(:MARKER, place)
    marker = MARKERS[code+1]
    has(layout, marker) && (isempty(role.name) || code in role.markers) || refuse(:MARKER, place)
    return marker
end

"Bytes of a payload, padding aside; a record says them itself. -1: an array's dimensions that aren't 0 make 2^63 or more."
function body_length(marker, dtype, ndim, shape)
    marker.kind == ARRAY || return marker.size
    length, empty = ELEMENT_BYTES[dtype], false
    for axis in 1:ndim
        if shape[axis] == 0
            empty = true
            continue
        end
        length, wraps = Base.Checked.mul_with_overflow(length, shape[axis] % Int64)
        wraps && return -1
    end
    return empty ? 0 : length
end

# What a call works on, so that it allocates its result alone: one call at a time, see `in_turn`. A constant of the module is
# never freed, so its address needs no GC.@preserve.
const TURN = ReentrantLock()
const ROWS = Vector{Row}(undef, NODES)
const SHAPE = zeros(Int64, 2)
const HEADER = Ref(Header(0, 0, 0, 0, 0, 0, 0, UNRESERVED, (0, 0, 0, 0), 0, 0))

"The bytes of the first `count` rows."
rows(count) = part(MutVec{UInt8}(Ptr{UInt8}(pointer(ROWS)), sizeof(ROWS)), 0, count * sizeof(Row))

"XXH3-64 of the part of `HEADER` that the checksum covers, xor that of the payload."
header_sum(payload_sum) =
    payload_sum ⊻ xxh3_64(Vec{UInt8}(Ptr{UInt8}(Base.unsafe_convert(Ptr{Header}, HEADER)), SUMMED))

"Where a name is, and the XXH3-64 of its copy."
struct Name
    offset::Int64
    length::Int64
    hash::UInt64
end

"Slot 1 is for titles; every name that a call meets has one of its own among the rest."
const NAMES = Vector{Name}(undef, NODES)
const TEXTS = Matrix{UInt8}(undef, NAME, NODES)
const TITLE = 1

text(slot, size) = part(MutVec{UInt8}(pointer(TEXTS), length(TEXTS)), NAME * (slot - 1), size)

# These two are inlined because Julia 1.5 would box their arguments once the package is precompiled.

"Copy a title or name into its slot, and check it there: the caller's memory isn't looked at again."
@inline function text!(slot, bytes, at, size, place)
    copied = copyto!(text(slot, size), part(bytes, at, size))
    istext(copied) || refuse(:UTF8, place)
    return copied
end

"Note a name, which must be new among those from the slot `first` on, and be that of its role."
@inline function name!(first, slot, bytes, at, size, role, place)
    name = text!(slot, bytes, at, size, place)
    it = NAMES[slot] = Name(at, size, xxh3_64(name))
    for other in first:slot-1
        NAMES[other].hash == it.hash && text(other, NAMES[other].length) == name && refuse(:DUPLICATE, place)
    end
    isempty(role.name) || spells(name, role.name) || refuse(:VALUE, place)
    return
end

function spells(name, wanted)
    length(name) == sizeof(wanted) || return false
    for i in eachindex(name)
        name[i] == codeunit(wanted, i) || return false
    end
    return true
end

"Whether bytes are UTF-8 without NUL, after Unicode's table of well-formed sequences."
function istext(bytes)
    at = 1
    while at <= length(bytes)
        lead = bytes[at]
        more = 0x01 <= lead <= 0x7f ? 0 : 0xc2 <= lead <= 0xdf ? 1 : 0xe0 <= lead <= 0xef ? 2 : 0xf0 <= lead <= 0xf4 ? 3 : -1
        more >= 0 && at + more <= length(bytes) || return false
        # Overlong forms, surrogates and what is above U+10FFFF show in the second byte.
        low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80
        high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf
        for place in at+1:at+more
            low <= bytes[place] <= high || return false
            low, high = 0x80, 0xbf
        end
        at += more + 1
    end
    return true
end

"Check that a child is within its role's bounds; its row leads into `bytes`."
function check_role(role, row, bytes, place)
    role.length < 0 || row.shape[1] == role.length || refuse(:VALUE, place)
    role.below < 0 || 0 <= load(Int32, bytes, row.data_offset) < role.below || refuse(:VALUE, place)
    return
end

"An array of the host's, [count] or [count, columns], for a call to fill."
function block(::Type{T}, count, columns...) where {T}
    SHAPE[1] = count
    isempty(columns) || (SHAPE[2] = columns[1])
    bytes = Vec{UInt8}(C_NULL, prod((count, columns...)) * sizeof(T))
    return similar(AnyArray(bytes, Nif.dtype(T), 1 + length(columns), pointer(SHAPE)))
end
