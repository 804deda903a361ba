/* What the parts of the SDK share: signatures as data. */
#ifndef NIF_SDK_H
#define NIF_SDK_H

#include "../nif.h"

enum { MOST_FUNCTIONS = 64, MOST_PARAMETERS = 8, MOST_RESULTS = 8, MOST_AXES = 2 };

/* A piece of a signature; printed by "%.*s". */
typedef struct {
  const char *text;
  int32_t size;
} word;

typedef enum { INT, FLOAT, COMPLEX, BOOL, STR, BYTES, TEXTS, CALLBACK, VECTOR, MATRIX, ANY } form;

/* What fixes the length of an axis: the nearest axis of that name before it, or (axis -1) an integer; nothing: parameter -1. */
typedef struct {
  int32_t parameter, axis;
} tie;

typedef struct {
  word name, type; /* "x", "f64[n]" */
  form form;
  bool is_mut;
  bool is_optional; /* it may be None */
  bool is_length; /* an integer that names a dimension */
  int64_t low, high; /* the smallest and the largest integer that it takes */
  nif_dtype dtype;
  int32_t ndim; /* of vectors and matrices */
  word axes[MOST_AXES];
  tie ties[MOST_AXES];
} parameter;

typedef struct {
  int32_t n_parameters;
  int32_t n_results;
  int32_t results[MOST_RESULTS]; /* enum nif_type; NIF_TENSOR for bytes too */
  parameter parameters[MOST_PARAMETERS];
} signature;

/* signature.c */
bool nif_read_signature(const char *text, signature *read); /* false: it can't be read */
const char *nif_element_name(nif_dtype dtype);              /* NULL: arrays have no such elements */
bool nif_is(word it, const char *text);

/* arguments.c: all checks but the function's own; false: the call failed. */
bool nif_take(const signature *signature, const nif_any *args, int32_t n_args, nif_argument *taken);

/* call.c */
__attribute__((format(printf, 3, 4))) void nif_report(int32_t kind, int32_t argument, const char *format, ...);

/* layout.c */
uint32_t nif_struct_hash(void);

/* lib.c: the table, and its signatures in the same order. */
extern const nif_function __start_nif_functions[], __stop_nif_functions[];
extern signature nif_signatures[MOST_FUNCTIONS];

#endif /* NIF_SDK_H */
