/* TVM-FFI functions by the C API: each kind of argument, result and error. */
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#define EXPORT(name) int __tvm_ffi_##name(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result)

static int fail(const char *kind, const char *message) {
  TVMFFIErrorSetRaisedFromCStr(kind, message);
  return -1;
}

static int64_t length(const DLTensor *it) {
  int64_t n = 1;
  for (int32_t axis = 0; axis < it->ndim; ++axis) n *= it->shape[axis];
  return n;
}

/* The sum of a vector with any stride. */
EXPORT(total) {
  if (count != 1 || args[0].type_index != kTVMFFIDLTensorPtr) return fail("TypeError", "expected a tensor");
  const DLTensor *x = args[0].v_ptr;
  if (x->ndim != 1 || x->dtype.code != kDLFloat || x->dtype.bits != 64) return fail("ValueError", "expected f64[n]");
  result->type_index = kTVMFFIFloat;
  result->v_float64 = 0;
  for (int64_t i = 0; i < x->shape[0]; ++i) result->v_float64 += ((const double *)x->data)[i * x->strides[0]];
  return 0;
}

/* Twice each element, in place. */
EXPORT(double_all) {
  DLTensor *x = args[0].v_ptr;
  for (int64_t i = 0; i < length(x); ++i) ((double *)x->data)[i] *= 2;
  return 0;
}

EXPORT(count) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = count;
  return 0;
}

/* What it was given, a string as an object of the runtime's. */
EXPORT(echo) {
  if (args[0].type_index != kTVMFFIRawStr) {
    *result = args[0];
    return 0;
  }
  TVMFFIByteArray text = {args[0].v_c_str, strlen(args[0].v_c_str)};
  return TVMFFIStringFromByteArray(&text, result);
}

static int alive = 0;

static void end(DLManagedTensor *it) {
  free(it->dl_tensor.data);
  free(it->dl_tensor.shape);
  free(it);
  --alive;
}

/* A new array of n rows and three columns, column by column in memory: element [i, j] is 10 i + j. */
EXPORT(table) {
  DLManagedTensor *made = calloc(1, sizeof *made);
  int64_t rows = args[0].v_int64, *shape = malloc(4 * sizeof *shape);
  double *data = malloc((size_t)rows * 3 * sizeof *data + 1);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < 3; ++j) data[j * rows + i] = (double)(10 * i + j);
  shape[0] = rows, shape[1] = 3, shape[2] = 1, shape[3] = rows;
  made->dl_tensor = (DLTensor){data, {kDLCPU, 0}, 2, {kDLFloat, 64, 1}, shape, shape + 2, 0};
  made->deleter = end;
  ++alive;
  TVMFFIObjectHandle tensor;
  if (TVMFFITensorFromDLPack(made, 0, 0, &tensor)) return -1;
  result->type_index = kTVMFFITensor;
  result->v_ptr = tensor;
  return 0;
}

/* How many of those arrays live. */
EXPORT(tables) {
  result->type_index = kTVMFFIInt;
  result->v_int64 = alive;
  return 0;
}

/* An error of that kind and message. */
EXPORT(raise) { return fail(args[0].v_c_str, args[1].v_c_str); }

EXPORT(crash) {
  abort();
  return 0;
}

/* No function for callers. */
EXPORT(_metadata_total) { return fail("RuntimeError", "not for callers"); }
