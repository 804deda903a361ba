# Arrays on a device: a function gets the number of one, and works on it by what its host offers.

"""
    GpuArray(argument, number; written = false)

The array of a number, for the running call; `argument` is the name of the parameter. It can be the target and the source of
`copyto!`, `fill!` sets its elements, and `collect` copies its bytes to the host.
"""
struct GpuArray
    tensor::Tensor
end

function services()
    host = HOST[]
    gpu = host == C_NULL ? Ptr{Cvoid}(C_NULL) : unsafe_load(host).gpu
    gpu == C_NULL && throw(NifError(:gpu, "needs a host that offers a GPU"))
    return unsafe_load(Ptr{Gpu}(gpu))
end

"A code of the host's as an error: below 0 it is of the argument."
function check_gpu(gpu::Gpu, argument::Symbol, code::Int32)
    code == 0 && return
    text = unsafe_string(ccall(gpu.message, Ptr{UInt8}, ()))
    throw(code < 0 ? NifError(:value, argument, text) : NifError(:gpu, text))
end

function GpuArray(argument::Symbol, number::UInt64; written::Bool = false)
    gpu = services()
    tensor = Ref{Tensor}()
    check_gpu(gpu, argument, ccall(gpu.tensor, Int32, (UInt64, Int32, Ref{Tensor}), number, written, tensor))
    return GpuArray(tensor[])
end

Base.size(x::GpuArray) = Tuple(numbers(x.tensor.shape, x.tensor.ndim))

"In bytes."
Base.sizeof(x::GpuArray) = prod(size(x)) * (x.tensor.dtype.bits ÷ 8)

function Base.fill!(x::GpuArray, value::Float64)
    gpu = services()
    check_gpu(gpu, :value, ccall(gpu.fill, Int32, (Ref{Tensor}, Float64), x.tensor, value))
    return x
end

function Base.copyto!(target::GpuArray, source::GpuArray)
    sizeof(target) == sizeof(source) ||
        throw(NifError(:value, :target, "expected $(sizeof(source)) bytes, got $(sizeof(target))"))
    gpu = services()
    check_gpu(gpu, :target, ccall(gpu.copy, Int32, (Ref{Tensor}, Ref{Tensor}), target.tensor, source.tensor))
    return target
end

"The bytes, copied to the host; it waits for the device."
function Base.collect(x::GpuArray)
    bytes = Vector{UInt8}(undef, sizeof(x))
    lengths = Int64[length(bytes)]
    gpu = services()
    GC.@preserve bytes lengths begin
        here = Tensor(pointer(bytes), Device(CPU, 0), 1, dtype(UInt8), pointer(lengths), C_NULL, 0)
        check_gpu(gpu, :x, ccall(gpu.copy, Int32, (Ref{Tensor}, Ref{Tensor}), here, x.tensor))
    end
    return bytes
end

"Start a kernel: see nif_gpu.launch in nif_lab.h. `shape` has seven numbers."
function launch(kernel::UInt64, shape::Ptr{UInt32}, arguments::Vec{UInt8}, places::Vec{UInt32})
    gpu = services()
    code = ccall(
        gpu.launch, Int32, (UInt64, Ptr{UInt32}, Ptr{UInt8}, UInt64, Ptr{UInt32}, UInt64),
        kernel, shape, arguments.data, length(arguments), places.data, length(places),
    )
    check_gpu(gpu, :arguments, code)
    return
end
