# nif_lab.h in Julia: its structs, its constants, and the layout they have here.

const ABI_VERSION = UInt32(1)

# nif_any.type_index
const NONE, INT, BOOL, FLOAT = Int32(0), Int32(1), Int32(2), Int32(3)
const DTYPE, DEVICE, TENSOR, STR, BYTES = Int32(5), Int32(6), Int32(7), Int32(8), Int32(9)
const TVM_SMALL_STR, TVM_SMALL_BYTES = Int32(11), Int32(12)
const TVM_STR, TVM_BYTES, TVM_FUNCTION, TVM_TENSOR = Int32(65), Int32(66), Int32(68), Int32(70)
"What precedes the payload of a TVM object."
const TVM_HEADER = 24

"Kinds of `nif_host.set_error`, by the names that `NifError` takes."
const KINDS = (type = Int32(1), value = Int32(2), error = Int32(3), panic = Int32(4), memory = Int32(5), cancelled = Int32(6), index = Int32(11), raised = Int32(12), gpu = Int32(13))

"`nif_function.flags`, by the names that `@nif` takes."
const FLAGS = (long = UInt32(1), idempotent = UInt32(2), pure = UInt32(4), polls_cancel = UInt32(16), fault = UInt32(32))
"Of all functions: before 1.10 a Julia is called on the thread that started it, and on no other."
const THREAD_BOUND = VERSION < v"1.10" ? UInt32(8) : UInt32(0)

const CPU = Int32(1)

struct DType
    code::UInt8
    bits::UInt8
    lanes::UInt16
end

struct Device
    type::Int32
    id::Int32
end

struct Tensor
    data::Ptr{Cvoid}
    device::Device
    ndim::Int32
    dtype::DType
    shape::Ptr{Int64}
    strides::Ptr{Int64}
    byte_offset::UInt64
end

struct ByteRecord
    data::Ptr{UInt8}
    size::Csize_t
end

"`v` is a union in C: the bits of an integer, a float, a pointer or eight characters."
struct AnyValue
    type_index::Int32
    zero::UInt32
    v::UInt64
end

struct Host
    struct_size::UInt32
    abi_version::UInt32
    set_error::Ptr{Cvoid}
    alloc_tensor::Ptr{Cvoid}
    log::Ptr{Cvoid}
    progress::Ptr{Cvoid}
    gpu::Ptr{Cvoid}  # a `Gpu`; null in a host without
end

"What a host offers for GPUs: see nif_lab.h. Each returns 0, or a code of which `message` says more."
struct Gpu
    struct_size::UInt32
    zero::UInt32
    tensor::Ptr{Cvoid}
    fill::Ptr{Cvoid}
    copy::Ptr{Cvoid}
    launch::Ptr{Cvoid}
    synchronize::Ptr{Cvoid}
    message::Ptr{Cvoid}
end

"A function of the caller's: the header of a TVM object, and how to call it."
struct CallbackObject
    ref_count::UInt64
    type_index::Int32
    padding::UInt32
    deleter::Ptr{Cvoid}
    call::Ptr{Cvoid}
    cpp_call::Ptr{Cvoid}
end

struct Env
    struct_size::UInt32
    n_results::UInt32  # values that `result` has room for; 0 counts as 1
    host::Ptr{Host}
    error::Ptr{Cvoid}
    cancel::Ptr{Int32}
end

struct NifFunction
    name::Ptr{UInt8}
    signature::Ptr{UInt8}
    doc::Ptr{UInt8}
    call::Ptr{Cvoid}
    flags::UInt32
    zero::UInt32
end

struct Library
    abi_version::UInt32
    struct_hash::UInt32
    language::Ptr{UInt8}
    compiler::Ptr{UInt8}
    library_version::Ptr{UInt8}
    n_functions::UInt32
    zero::UInt32
    functions::Ptr{NifFunction}
    load::Ptr{Cvoid}
    unload::Ptr{Cvoid}
end

"The structs of the layout hash, in the order of docs/abi.md."
const STRUCTS = (
    nif_tensor = Tensor,
    nif_bytes = ByteRecord,
    nif_any = AnyValue,
    nif_host = Host,
    nif_env = Env,
    nif_function = NifFunction,
    nif_library = Library,
)

const STRUCT_HASH = let hash = 2166136261 % UInt32
    for type in STRUCTS, number in (sizeof(type), (fieldoffset(type, i) for i in 1:fieldcount(type))...)
        hash = (hash ⊻ number % UInt32) * (16777619 % UInt32)
    end
    hash
end

struct_hash() = STRUCT_HASH

"The numbers behind `struct_hash`, a line each: a struct's size, a field's offset and size."
function layout_text()
    lines = String[]
    for (name, type) in pairs(STRUCTS)
        push!(lines, "$name $(sizeof(type))")
        for i in 1:fieldcount(type)
            push!(lines, "$name.$(fieldname(type, i)) $(Int(fieldoffset(type, i))) $(sizeof(fieldtype(type, i)))")
        end
    end
    return join(lines, '\n')
end

# Element types: Julia's, the name in signatures, DLPack's code.
const ELEMENTS = (
    (Bool, "bool", 0x06),
    (Int8, "i8", 0x00),
    (Int16, "i16", 0x00),
    (Int32, "i32", 0x00),
    (Int64, "i64", 0x00),
    (UInt8, "u8", 0x01),
    (UInt16, "u16", 0x01),
    (UInt32, "u32", 0x01),
    (UInt64, "u64", 0x01),
    (Float16, "f16", 0x02),
    (Float32, "f32", 0x02),
    (Float64, "f64", 0x02),
    (ComplexF32, "c64", 0x05),
    (ComplexF64, "c128", 0x05),
)

"""
    dtype(T) -> DType

How DLPack spells an element type.
"""
function dtype end

"""
    element_name(T) -> String

How signatures spell an element type.
"""
function element_name end

for (type, name, code) in ELEMENTS
    @eval dtype(::Type{$type}) = $(DType(code, 8 * sizeof(type), 1))
    @eval element_name(::Type{$type}) = $name
end

"What crosses as an array without axes."
const ComplexNumber = Union{ComplexF32,ComplexF64}

"What crosses as a number or a truth value."
const Scalar = Union{Bool,Int8,Int16,Int32,Int64,UInt8,UInt16,UInt32,UInt64,Float32,Float64}

"The element type of a `DType`, or nothing for one that isn't ours."
function element_type(wanted::DType)
    index = findfirst(known -> dtype(known[1]) === wanted, ELEMENTS)
    return index === nothing ? nothing : ELEMENTS[index][1]
end
