/* The SDK: plain functions become NIFs.
 *
 *     #include "nif.h"
 *
 *     static double mean(nif_f64s x) {
 *       if (x.count == 0) {
 *         nif_fail(NIF_VALUE_ERROR, "x", "expected an element");
 *         return 0;
 *       }
 *       ...
 *     }
 *     NIF(mean, "mean(x: f64[n]) -> f64", NIF_FLAG_PURE, "the arithmetic mean.",
 *         result->v.f = mean(a[0].f64s))
 *
 * The signature drives the checks of docs/abi.md: when a line of the table runs, `a` has the arguments as it says, each
 * under the name of its C type. A function that fails says so by nif_fail and returns whatever it likes.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef NIF_H
#define NIF_H

#include <stdbool.h>

#include "nif_lab.h"

/* Text or bytes, not NUL-terminated. */
typedef struct {
  const char *data;
  int64_t size;
} nif_text;

/* A list of texts; nif_next_text steps through it. */
typedef struct {
  const char *data;
  int64_t size; /* in bytes, with the size of each text */
  int64_t count;
} nif_texts;

/* Contiguous memory of any element type and shape. */
typedef struct {
  const uint8_t *bytes;
  int64_t size; /* in bytes */
  nif_dtype dtype;
  int32_t ndim;
  const int64_t *shape;
} nif_array;

/* Every element type: its word in C, its name in a signature, what it is in memory. b8 are bytes, of which all but 0 are
 * true: `bool` only allows 0 and 1, and the caller's memory may hold any. f16 are the bits of half-precision numbers,
 * since not every compiler has the type. */
#define NIF_ELEMENTS(ELEMENT)                            \
  ELEMENT(b8, "bool", uint8_t, NIF_DTYPE_BOOL)           \
  ELEMENT(i8, "i8", int8_t, NIF_DTYPE_INT)               \
  ELEMENT(i16, "i16", int16_t, NIF_DTYPE_INT)            \
  ELEMENT(i32, "i32", int32_t, NIF_DTYPE_INT)            \
  ELEMENT(i64, "i64", int64_t, NIF_DTYPE_INT)            \
  ELEMENT(u8, "u8", uint8_t, NIF_DTYPE_UINT)             \
  ELEMENT(u16, "u16", uint16_t, NIF_DTYPE_UINT)          \
  ELEMENT(u32, "u32", uint32_t, NIF_DTYPE_UINT)          \
  ELEMENT(u64, "u64", uint64_t, NIF_DTYPE_UINT)          \
  ELEMENT(f16, "f16", uint16_t, NIF_DTYPE_FLOAT)         \
  ELEMENT(f32, "f32", float, NIF_DTYPE_FLOAT)            \
  ELEMENT(f64, "f64", double, NIF_DTYPE_FLOAT)           \
  ELEMENT(c64, "c64", float _Complex, NIF_DTYPE_COMPLEX) \
  ELEMENT(c128, "c128", double _Complex, NIF_DTYPE_COMPLEX)

/* A vector; a matrix, element [i, j] being data[i * row_stride + j * column_stride]. */
#define NIF_VECTOR(NAME, T) \
  typedef struct {          \
    T *data;                \
    int64_t count;          \
  } NAME;
#define NIF_MATRIX(NAME, T)            \
  typedef struct {                     \
    T *data;                           \
    int64_t rows, columns;             \
    int64_t row_stride, column_stride; \
  } NAME;
#define NIF_TYPES(WORD, TEXT, T, CODE)     \
  NIF_VECTOR(nif_##WORD##s, const T)       \
  NIF_VECTOR(nif_mut_##WORD##s, T)         \
  NIF_MATRIX(nif_##WORD##_matrix, const T) \
  NIF_MATRIX(nif_mut_##WORD##_matrix, T)
#define NIF_MEMBERS(WORD, TEXT, T, CODE) \
  nif_##WORD##s WORD##s;                 \
  nif_mut_##WORD##s mut_##WORD##s;       \
  nif_##WORD##_matrix WORD##_matrix;     \
  nif_mut_##WORD##_matrix mut_##WORD##_matrix;

NIF_ELEMENTS(NIF_TYPES)

/* One argument after its checks; all arrays of a rank have one layout, so the checks fill in `vector` or `matrix`. */
NIF_VECTOR(nif_any_vector, void)
NIF_MATRIX(nif_any_matrix, void)
typedef struct {
  union {
    int64_t i64;
    double f64;
    double _Complex c128; /* of a c64, too */
    bool boolean;
    nif_text text;
    nif_texts texts;
    nif_object *callback;
    nif_array any;
    nif_any_vector vector;
    nif_any_matrix matrix;
    NIF_ELEMENTS(NIF_MEMBERS)
  };
  bool is_none; /* of a type that ends in a question mark: nothing else of it may be looked at */
  const int64_t *shape;
  uintptr_t first, end; /* the addresses that an array spans; none where it has no elements */
} nif_argument;

/* Take the next text off a list; false where there is none. The caller works on a copy of its argument. */
bool nif_next_text(nif_texts *texts, nif_text *text);

/* The running call fails: with this kind and text, `argument` (a parameter's name, or NULL) being at fault. */
__attribute__((format(printf, 3, 4))) void nif_fail(int32_t kind, const char *argument, const char *format, ...);

/* Call an argument back: what it gave; NIF_NONE, and the running call fails, where it raised an exception. */
nif_any nif_call_back(nif_object *callback, int32_t n_args, const nif_any *args);

/* How far the running call is. */
void nif_progress(int64_t done, int64_t total);

/* Whether the running call should stop; a function that asks has NIF_FLAG_POLLS_CANCEL. */
bool nif_cancelled(void);

/* A row-major tensor of the host's, its elements of any value, to be the result; NULL where the call failed for it. */
nif_tensor *nif_allocate(nif_dtype dtype, int32_t ndim, const int64_t *shape);

/* A value of the result in memory of the host's: an array, whose elements are at the address that comes back (NULL where the
 * call failed for it); a text, or bytes; a list of texts; nothing, for a type that ends in a question mark. */
void *nif_give_array(nif_any *result, nif_dtype dtype, int32_t ndim, const int64_t *shape);
void nif_give_text(nif_any *result, const char *data, int64_t size);
void nif_give_texts(nif_any *result, int64_t count, const nif_text *texts);
void nif_give_none(nif_any *result);

typedef void nif_body(const nif_argument *a, nif_any *result);

/* What every exported function does: checks, the body, the result. */
int32_t nif_run(const nif_function *function, nif_body *body, void *env, const nif_any *args, int32_t n_args,
                nif_any *result);

#define NIF_EXPORT __attribute__((visibility("default")))

/* A line of the table, which the linker puts together. The last argument is the call, as above; it sets the member of
 * result->v that the signature's result asks for (result[0].v, result[1].v … for a tuple), or calls nif_give_…. */
#define NIF(NAME, SIGNATURE, FLAGS, DOC, ...)                                                               \
  static void NAME##_body(const nif_argument *a, nif_any *result) {                                         \
    (void)a, (void)result;                                                                                  \
    __VA_ARGS__;                                                                                            \
  }                                                                                                         \
  static const nif_function NAME##_function;                                                                \
  NIF_EXPORT int32_t __tvm_ffi_##NAME(void *env, const nif_any *args, int32_t n_args, nif_any *result) {    \
    return nif_run(&NAME##_function, NAME##_body, env, args, n_args, result);                               \
  }                                                                                                         \
  __attribute__((section("nif_functions"), used, aligned(8))) static const nif_function NAME##_function = { \
    .name = #NAME,                                                                                          \
    .signature = SIGNATURE,                                                                                 \
    .doc = DOC,                                                                                             \
    .call = __tvm_ffi_##NAME,                                                                               \
    .flags = (FLAGS) | ((FLAGS) & NIF_FLAG_PURE ? NIF_FLAG_IDEMPOTENT : 0),                                 \
  };

#endif /* NIF_H */
