// Kernels that fail on purpose: docs/faults.md.

extern "C" __global__ void gpu_illegal() {
    *reinterpret_cast<volatile double *>(0xdead0000) = 1.0;
}

// The compiler leaves out a loop without effect, even one that reads a volatile variable. It keeps the assembly here.
extern "C" __global__ void gpu_endless() {
    for (;;) {
        asm volatile("nanosleep.u32 1000;" ::: "memory");
    }
}
