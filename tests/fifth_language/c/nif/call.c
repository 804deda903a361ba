/* The running call: who called, how it fails, what it may ask of its host. */
#define _GNU_SOURCE /* vasprintf, RTLD_DEFAULT */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdk.h"

/* This thread's call; a host that is asked for memory may call again meanwhile. */
static _Thread_local struct {
  const nif_function *function;
  const signature *signature;
  nif_env *env; /* NULL when a TVM-FFI client calls */
  bool failed;
} running;

int32_t nif_run(const nif_function *function, nif_body *body, void *env, const nif_any *args, int32_t n_args,
                nif_any *result) {
  __typeof__(running) outer = running;
  running.function = function;
  running.signature = &nif_signatures[function - __start_nif_functions];
  running.env = env;
  running.failed = false;
  nif_argument taken[MOST_PARAMETERS];
  nif_any answers[MOST_RESULTS] = {0};
  int32_t n = running.signature->n_results;
  for (int32_t i = 0; i < n; i++) {
    answers[i].type_index = running.signature->results[i];
  }
  if (n > 1 && (!running.env || running.env->n_results < (uint32_t)n)) {
    nif_report(NIF_ERROR, -1, "needs a host that takes tuples");
  } else if (nif_take(running.signature, args, n_args, taken)) {
    body(taken, answers);
  }
  bool failed = running.failed;
  running = outer;
  if (!failed) {
    memcpy(result, answers, (size_t)n * sizeof answers[0]);
  }
  return failed ? -1 : 0;
}

/* --- failing --- */

typedef void tvm_set_error(const char *kind, const char *message);

/* TVM-FFI's own setter, or NULL where this process hasn't loaded it (yet). */
static tvm_set_error *tvm_setter(void) {
  static _Atomic(tvm_set_error *) kept;
  tvm_set_error *setter = atomic_load(&kept);
  if (!setter) {
    void *found = dlsym(RTLD_DEFAULT, "TVMFFIErrorSetRaisedFromCStr");
    memcpy(&setter, &found, sizeof setter); /* ISO C knows no cast from data to function */
    atomic_store(&kept, setter);
  }
  return setter;
}

/* A TVM-FFI client doesn't know who and where. */
static void tell_tvm(int32_t kind, int32_t argument, const char *text) {
  if (kind == NIF_RAISED) {
    return; /* whoever raised it has told */
  }
  tvm_set_error *set_error = tvm_setter();
  word name = argument < 0 ? (word){"", 0} : running.signature->parameters[argument].name;
  const char *before = argument < 0 ? "" : "argument '", *after = argument < 0 ? "" : "': ";
  char *message;
  if (!set_error ||
      asprintf(&message, "%s(): %s%.*s%s%s", running.function->name, before, name.size, name.text, after, text) < 0) {
    return;
  }
  set_error(kind == NIF_TYPE_ERROR    ? "TypeError"
            : kind == NIF_VALUE_ERROR ? "ValueError"
            : kind == NIF_INDEX_ERROR ? "IndexError"
                                      : "RuntimeError",
            message);
  free(message);
}

static void report(int32_t kind, int32_t argument, const char *format, va_list values) {
  char *message;
  bool is_made = vasprintf(&message, format, values) >= 0;
  const char *text = is_made ? message : "no memory for the reason";
  running.failed = true;
  if (running.env) {
    running.env->host->set_error(running.env, kind, text, argument);
  } else {
    tell_tvm(kind, argument, text);
  }
  if (is_made) {
    free(message);
  }
}

void nif_report(int32_t kind, int32_t argument, const char *format, ...) {
  va_list values;
  va_start(values, format);
  report(kind, argument, format, values);
  va_end(values);
}

void nif_fail(int32_t kind, const char *argument, const char *format, ...) {
  int32_t index = argument ? running.signature->n_parameters - 1 : -1;
  while (index >= 0 && !nif_is(running.signature->parameters[index].name, argument)) {
    index--;
  }
  va_list values;
  va_start(values, format);
  report(kind, index, format, values);
  va_end(values);
}

/* --- asking --- */

bool nif_cancelled(void) { return running.env && running.env->cancel && *running.env->cancel; }

nif_tensor *nif_allocate(nif_dtype dtype, int32_t ndim, const int64_t *shape) {
  nif_tensor *tensor = running.env ? running.env->host->alloc_tensor(dtype, ndim, shape) : NULL;
  if (!tensor) {
    nif_fail(NIF_MEMORY_ERROR, NULL, running.env ? "out of memory" : "needs a host to allocate");
  }
  return tensor;
}

void *nif_give_array(nif_any *result, nif_dtype dtype, int32_t ndim, const int64_t *shape) {
  nif_tensor *tensor = nif_allocate(dtype, ndim, shape);
  *result = (nif_any){.type_index = NIF_TENSOR, .v.p = tensor};
  return tensor ? (char *)tensor->data + tensor->byte_offset : NULL;
}

void nif_give_text(nif_any *result, const char *data, int64_t size) {
  void *to = nif_give_array(result, (nif_dtype){NIF_DTYPE_UINT, 8, 1}, 1, &size);
  if (to && size > 0) {
    memcpy(to, data, (size_t)size);
  }
}

void nif_give_texts(nif_any *result, int64_t count, const nif_text *texts) {
  int64_t size = count * (int64_t)sizeof(uint64_t);
  for (int64_t i = 0; i < count; i++) {
    size += texts[i].size;
  }
  char *to = nif_give_array(result, (nif_dtype){NIF_DTYPE_UINT, 8, 1}, 1, &size);
  for (int64_t i = 0; to && i < count; i++) {
    uint64_t length = (uint64_t)texts[i].size;
    memcpy(to, &length, sizeof length);
    to += sizeof length;
    if (length > 0) {
      memcpy(to, texts[i].data, length);
    }
    to += length;
  }
}

void nif_give_none(nif_any *result) { *result = (nif_any){.type_index = NIF_NONE}; }

/* --- the caller's functions --- */

nif_any nif_call_back(nif_object *callback, int32_t n_args, const nif_any *args) {
  nif_any given = {.type_index = NIF_NONE};
  if (callback->call(callback, args, n_args, &given) != 0) {
    nif_report(NIF_RAISED, -1, "a callback raised an exception");
  }
  return given;
}

void nif_progress(int64_t done, int64_t total) {
  if (running.env) {
    running.env->host->progress(done, total);
  }
}
