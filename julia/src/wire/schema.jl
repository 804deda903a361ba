# The protocol as tables: docs/wire.md in Julia.

"What a frame may be made of at most: frames within frames, values, bytes of a name."
const DEPTH, NODES, NAME = 64, 512, 255

@enum Kind::UInt8 UNKNOWN SCALAR ARRAY DEVICE RECORD

"A type of value. `dtypes` and `ndims` have a bit for each that version 2 allows, `dtype` is the one of version 1."
struct Marker
    code::Int64
    kind::Kind
    dtype::Int64
    dtypes::UInt16
    ndims::UInt16
    size::Int64  # of the payload, where it is always the same; else 0
end

"Bytes of an element, by the code of its type."
const ELEMENT_BYTES = (4, 8, 4, 8, 1, 1, 2, 1, 2, 4, 8, 2, 8, 16)
const BOOL = 5
const GPU_BUFFER, GPU_TEXTURE, TENSOR = 0x30, 0x31, 0x60
const NETWORK, OPERATION = 0x40, 0x41

bits(codes) = foldl((all, code) -> all | UInt16(1) << code, codes; init = UInt16(0))
holds(bits, code) = 0 <= code < 16 && (bits >> code) & 1 == 1

"By code, from 0."
const MARKERS = [Marker(code, UNKNOWN, 0, 0, 0, 0) for code in 0:255]
for (code, kind, dtypes, ndims) in (
    (0x01, SCALAR, 1, 0), (0x02, SCALAR, 2, 0), (0x03, SCALAR, 3, 0), (0x04, SCALAR, 4, 0), (0x05, SCALAR, 5, 0),
    (0x10, ARRAY, 1, 1), (0x11, ARRAY, 2, 1), (0x12, ARRAY, 3, 1), (0x13, ARRAY, 4, 1),
    (0x20, ARRAY, 1, 2), (0x21, ARRAY, 2, 2), (0x22, ARRAY, 1, 3), (0x23, ARRAY, 2, 3),
    (GPU_BUFFER, DEVICE, 0, 0), (GPU_TEXTURE, DEVICE, 0, 0),
    (NETWORK, RECORD, 0, 0), (OPERATION, RECORD, 0, 0), (0x42, RECORD, 0, 0),
    (0x50, ARRAY, (13, 14), 1), (TENSOR, ARRAY, eachindex(ELEMENT_BYTES), 0:4),
)
    size = kind == SCALAR ? ELEMENT_BYTES[dtypes] : code == GPU_BUFFER ? 20 : code == GPU_TEXTURE ? 28 : 0
    MARKERS[code+1] = Marker(code, kind, last(dtypes), bits(dtypes), bits(ndims), size)
end

"How frames lie in memory: `Version1`, which each language has its own of, or `Version2`."
abstract type Layout end

struct Version1 <: Layout
    wide::Bool  # dimensions and lengths are u64, not u32
    order::Int64
    padded::Bool
    dimension_max::Int64
    frame_max::Int64
end

struct Version2 <: Layout end

"By code, from 0: rust, zig, nim, julia."
const DIALECTS = [
    Version1(false, 0, false, 2^31 - 1, 2^32 - 1), Version1(false, 0, true, 2^31 - 1, 2^32 - 1),
    Version1(true, 0, false, 2^40, typemax(Int64)), Version1(true, 1, false, 2^40, typemax(Int64)),
]

dimension_max(it::Version1) = it.dimension_max
dimension_max(::Version2) = 2^40
frame_max(it::Version1) = it.frame_max
frame_max(::Version2) = typemax(Int64)
has(::Version1, marker) = marker.kind != UNKNOWN && marker.code != TENSOR
has(::Version2, marker) = marker.kind != UNKNOWN
hasorder(it::Version1, order, ndim) = order == (ndim > 1 ? it.order : 0)
hasorder(::Version2, order, ndim) = order == 0 || (order == 1 && ndim > 1)
hasdtype(::Version1, marker, dtype) = dtype == marker.dtype
hasdtype(::Version2, marker, dtype) = holds(marker.dtypes, dtype)
ispadded(it::Version1, marker) = it.padded && marker.kind == ARRAY
ispadded(::Version2, marker) = false

"The number of axes that a marker has in version 1."
axes_of(marker) = trailing_zeros(marker.ndims)

"Where the dimensions, or the length of a record, begin in a header, where the length of the payload, where the payload."
shape_offset(::Version1) = 2
shape_offset(::Version2) = 16
length_offset(::Version1) = 2
length_offset(::Version2) = 48
body_offset(it::Version1, marker) =
    2 + (marker.kind == RECORD ? 1 : axes_of(marker)) * number_bytes(it) + ispadded(it, marker)
body_offset(::Version2, marker) = 64
number_bytes(it::Version1) = it.wide ? 8 : 4
number_bytes(::Version2) = 8

"The header of version 2, byte for byte."
struct Header
    magic::UInt32
    version::UInt8
    marker::UInt8
    dtype::UInt8
    ndim::UInt8
    order::UInt8
    flags::UInt8
    reserved::NTuple{6,UInt8}
    shape::NTuple{4,UInt64}
    payload::UInt64
    checksum::UInt64
end

const MAGIC = 0x46494e89
const UNRESERVED = ntuple(_ -> 0x00, Val(6))
"The bytes that the checksum covers are those before it."
const SUMMED = Int(fieldoffset(Header, fieldcount(Header)))
ENDIAN_BOM == 0x04030201 && sizeof(Header) == 64 || error("frames are little-endian, this machine isn't")

offset_of(field) = Int(fieldoffset(Header, Base.fieldindex(Header, field)))

"A row of the node table, as it crosses the ABI."
struct Row
    marker::Int64
    dtype::Int64
    ndim::Int64
    shape::NTuple{4,Int64}
    order::Int64
    data_offset::Int64
    data_length::Int64
    name_offset::Int64
    name_length::Int64
    parent::Int64
    count::Int64
end

const COLUMNS = sizeof(Row) ÷ sizeof(Int64)
const LIVE_COLUMNS = 4

"What a record's child must be: its name, one of two types, below a number, so many elements; -1 for any."
struct Role
    name::String
    markers::NTuple{2,UInt8}
    below::Int64
    length::Int64
end

const ANY = Role("", (0, 0), -1, -1)

"A record has its fixed children, then whole groups; beyond its roles a child may be anything."
struct Record
    fixed::Int
    group::Int
    roles::Vector{Role}
end

# Every role that fits a frame, spelled out: nothing is put together while a frame is read.
const NEURAL_NETWORK = Record(0, 3, vcat(([
    Role("$i.weights", (0x20, 0x21), -1, -1), Role("$i.bias", (0x10, 0x11), -1, -1), Role("$i.activation", (0x03, 0x03), 5, -1),
] for i in 0:NODES÷3)...))
const TENSOR_OPERATION = Record(0, 2, vcat(([
    Role("$i.shape", (0x13, 0x13), -1, -1), Role("$i.dtype", (0x03, 0x03), length(ELEMENT_BYTES) + 1, -1),
] for i in 0:NODES÷2)...))
const KERNEL_DESCRIPTOR =
    Record(2, 1, [Role("grid", (0x12, 0x12), -1, 3), Role("block", (0x12, 0x12), -1, 3)])

record_of(marker) =
    marker.code == NETWORK ? NEURAL_NETWORK : marker.code == OPERATION ? TENSOR_OPERATION : KERNEL_DESCRIPTOR
accepts(it::Record, count) = count >= it.fixed && (count - it.fixed) % it.group == 0
role(it::Record, index) = index <= length(it.roles) ? it.roles[index] : ANY

const ERRORS = (
    SHORT = "the frame ends within its header",
    VERSION = "not a frame of the expected version",
    MARKER = "no such type, or not accepted here",
    OVERFLOW = "the size is more than the format can express",
    LENGTH = "sizes and the bytes that are there do not agree",
    TRAILING = "bytes after the end",
    DIM = "a dimension above the limit",
    ALIGN = "the alignment is not 1, 2, 4, 8, 16, 32 or 64",
    PAD = "padding is not zero",
    VALUE = "a value that is not allowed here",
    HANDLE = "no such device block, or not as described",
    STALE = "the handle's block was freed",
    DEPTH = "nested more than 64 deep",
    LIMIT = "more than 512 values, or a name that is empty or over 255 bytes",
    DUPLICATE = "two children of one name",
    UTF8 = "a name that is not UTF-8, or contains NUL",
    CHECKSUM = "the checksum is wrong",
)
