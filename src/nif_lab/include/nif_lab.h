/* nif_lab.h: the C ABI between the Lab and a NIF library.
 *
 * One table per library, one calling convention, one value type. The value, the
 * tensor and the call have the layout of the stable C ABI of Apache TVM FFI, so
 * a NIF library is a TVM-FFI library too. docs/abi.md is the prose to this file.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef NIF_LAB_H
#define NIF_LAB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NIF_ABI_VERSION 1u

/* nif_any.type_index */
enum nif_type {
  NIF_NONE = 0,
  NIF_INT = 1,     /* v.i */
  NIF_BOOL = 2,    /* v.i, 0 or 1 */
  NIF_FLOAT = 3,   /* v.f */
  NIF_DTYPE = 5,   /* v.dtype */
  NIF_DEVICE = 6,  /* v.device */
  NIF_TENSOR = 7,  /* v.p is a nif_tensor* */
  NIF_STR = 8,     /* v.p is a NUL-terminated UTF-8 string */
  NIF_BYTES = 9,   /* v.p is a nif_bytes* */
  /* Sent by TVM-FFI clients, accepted by every backend: */
  NIF_TVM_SMALL_STR = 11,
  NIF_TVM_SMALL_BYTES = 12,
  NIF_TVM_STR = 65,    /* v.p: 24-byte object header, then a nif_bytes */
  NIF_TVM_BYTES = 66,  /* the same */
  NIF_TVM_FUNCTION = 68, /* v.p is a nif_object*: a callback */
  NIF_TVM_TENSOR = 70  /* v.p: 24-byte object header, then a nif_tensor */
};

/* kind of nif_host.set_error */
enum nif_error_kind {
  NIF_TYPE_ERROR = 1,
  NIF_VALUE_ERROR = 2,
  NIF_ERROR = 3,
  NIF_PANIC = 4,
  NIF_MEMORY_ERROR = 5,
  NIF_CANCELLED = 6,
  NIF_INDEX_ERROR = 11, /* an index is out of bounds; 7 to 10 are the Lab's own */
  NIF_RAISED = 12,      /* a callback failed: the host has the exception that it raised */
  NIF_GPU_ERROR = 13,   /* the driver of a GPU refused, or a kernel failed */
  /* Or-ed in: clean-up was skipped (a longjmp, say), so the host reloads the
   * library, or restarts its worker, before the next call. */
  NIF_TAINTED = 0x100
};

/* nif_function.flags */
enum nif_flag {
  NIF_FLAG_LONG = 1,         /* release the GIL */
  NIF_FLAG_IDEMPOTENT = 2,   /* may be retried */
  NIF_FLAG_PURE = 4,         /* no effect but the result; implies IDEMPOTENT */
  NIF_FLAG_THREAD_BOUND = 8, /* call it on the thread that opened the library */
  NIF_FLAG_POLLS_CANCEL = 16,
  NIF_FLAG_FAULT = 32        /* fails on purpose */
};

/* nif_dtype.code: DLPack's */
enum nif_dtype_code {
  NIF_DTYPE_INT = 0,
  NIF_DTYPE_UINT = 1,
  NIF_DTYPE_FLOAT = 2,
  NIF_DTYPE_COMPLEX = 5,
  NIF_DTYPE_BOOL = 6
};

#define NIF_DEVICE_CPU 1
#define NIF_DEVICE_CUDA 2
#define NIF_DEVICE_ROCM 10

typedef struct nif_dtype {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} nif_dtype;

typedef struct nif_device {
  int32_t type;
  int32_t id;
} nif_device;

/* DLPack's DLTensor. strides count elements and may be NULL (row-major). */
typedef struct nif_tensor {
  void *data;
  nif_device device;
  int32_t ndim;
  nif_dtype dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} nif_tensor;

typedef struct nif_bytes {
  const char *data;
  size_t size;
} nif_bytes;

typedef struct nif_any {
  int32_t type_index;
  uint32_t zero; /* 0; the length of a TVM small string */
  union {
    int64_t i;
    double f;
    void *p;
    nif_dtype dtype;
    nif_device device;
    char small[8];
  } v;
} nif_any;

/* A function of the caller's, borrowed for the call: `it->call(it, args, n_args, &result)`. 0: the result is set; -1: it
 * failed, and the callee fails with NIF_RAISED (or gets over it). Integers and floats of all widths cross as in a call. */
typedef struct nif_object {
  uint64_t ref_count;
  int32_t type_index; /* NIF_TVM_FUNCTION */
  uint32_t padding;
  void *deleter;
  int32_t (*call)(void *object, const nif_any *args, int32_t n_args, nif_any *result);
  void *cpp_call;
} nif_object;

/* What a host offers for GPUs. Arrays there are passed as numbers (u64), never as addresses. Work is begun in the order of the calls and
 * goes on after them; `copy` to or from the CPU waits. 0: done or begun. Otherwise a code: the driver's own, or -1 for a number of no array or
 * kernel, -2 for that of an array that was released, -3 where there is no device, -4 for an array that is read-only; `message` says more. */
typedef struct nif_gpu {
  uint32_t struct_size;
  uint32_t zero;
  /* The array of a number: row-major, `data` is an address of the device. Valid for the call. `is_written`: whether the call writes to it. */
  int32_t (*tensor)(uint64_t number, int32_t is_written, nif_tensor *out);
  int32_t (*fill)(const nif_tensor *to, double value);
  /* Row-major arrays of as many bytes, each on a device or on the CPU. */
  int32_t (*copy)(const nif_tensor *to, const nif_tensor *from);
  /* `shape`: blocks in x, y, z; threads of a block in x, y, z; bytes that a block shares. `arguments` are packed as the kernel's parameters
   * are; at each of `places`, a byte offset there, is the number of an array, which becomes its address. An offset
   * with the top bit is that of an array which the kernel only reads. */
  int32_t (*launch)(uint64_t kernel, const uint32_t shape[7], const void *arguments, uint64_t size,
                    const uint32_t *places, uint64_t n_places);
  /* Wait for all work of a device, and learn whether it failed. */
  int32_t (*synchronize)(int32_t device);
  /* Why the last of these failed on this thread. */
  const char *(*message)(void);
} nif_gpu;

struct nif_env;

/* What a host offers to a library. It outlives the library. */
typedef struct nif_host {
  uint32_t struct_size;
  uint32_t abi_version;
  /* Record why this call fails; the callee then returns -1. `message` is copied.
   * `argument` is the index of the argument at fault, or -1. */
  void (*set_error)(struct nif_env *env, int32_t kind, const char *message, int32_t argument);
  /* A row-major tensor in shared memory, its elements of any value, to be returned as
   * the result of the running call: the caller of the function then owns it. NULL when
   * there is no memory. Tensors that are not returned are freed after the call. */
  nif_tensor *(*alloc_tensor)(nif_dtype dtype, int32_t ndim, const int64_t *shape);
  /* level: 10 debug, 20 info, 30 warning, 40 error (Python's numbers) */
  void (*log)(int32_t level, const char *message);
  /* How far the running call is, to be told by its own thread: two stores and no more. */
  void (*progress)(int64_t done, int64_t total);
  /* For GPUs; NULL in a host without. Whether there is a device is told by its functions. */
  const nif_gpu *gpu;
} nif_host;

/* What a host passes to each call. NULL when a TVM-FFI client calls. */
typedef struct nif_env {
  uint32_t struct_size;
  uint32_t n_results;              /* values that `result` has room for; 0 counts as 1 */
  const nif_host *host;
  void *error;                     /* the host's own */
  const volatile int32_t *cancel;  /* becomes non-zero when the call should stop */
} nif_env;

/* 0: *result is set, or as many values from there on as the signature's tuple has. -1: an error was set, *result is
 * untouched. */
typedef int32_t (*nif_call)(void *env, const nif_any *args, int32_t n_args, nif_any *result);

typedef struct nif_function {
  const char *name;
  const char *signature; /* "dot(x: f64[n], y: f64[n]) -> f64" */
  const char *doc;
  nif_call call;
  uint32_t flags;
  uint32_t zero;
} nif_function;

typedef struct nif_library {
  uint32_t abi_version;
  uint32_t struct_hash; /* see docs/abi.md, "Layout" */
  const char *language;
  const char *compiler;
  const char *library_version;
  uint32_t n_functions;
  uint32_t zero;
  const nif_function *functions;
  int32_t (*load)(const nif_host *host); /* before the first call; may be NULL; 0 is ok */
  /* May be NULL. After this hook nothing of the library is in use any more: no thread of it runs, no
   * pointer into it is kept elsewhere. A host may then close it; it never closes one without the hook. */
  void (*unload)(void);
} nif_library;

/* The one symbol every library exports. `host` may be NULL. */
const nif_library *nif_init(const nif_host *host);
typedef const nif_library *(*nif_init_function)(const nif_host *host);

#ifdef __cplusplus
}
#endif
#endif /* NIF_LAB_H */
