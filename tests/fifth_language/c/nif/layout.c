/* The layout of the ABI's structs, as this compiler has it: as text and as a hash. */
#include <stdio.h>
#include <string.h>

#include "sdk.h"

/* A struct as a whole has no field's name. */
static const struct place {
  const char *owner, *field;
  uint32_t offset, size;
} places[] = {
#define STRUCT(S) {#S, NULL, 0, sizeof(S)},
#define FIELD(S, F) {#S, #F, offsetof(S, F), sizeof(((S *)0)->F)},
  STRUCT(nif_tensor) FIELD(nif_tensor, data) FIELD(nif_tensor, device) FIELD(nif_tensor, ndim) FIELD(nif_tensor, dtype)
  FIELD(nif_tensor, shape) FIELD(nif_tensor, strides) FIELD(nif_tensor, byte_offset)
  STRUCT(nif_bytes) FIELD(nif_bytes, data) FIELD(nif_bytes, size)
  STRUCT(nif_any) FIELD(nif_any, type_index) FIELD(nif_any, zero) FIELD(nif_any, v)
  STRUCT(nif_host) FIELD(nif_host, struct_size) FIELD(nif_host, abi_version) FIELD(nif_host, set_error)
  FIELD(nif_host, alloc_tensor) FIELD(nif_host, log)
  FIELD(nif_host, progress) FIELD(nif_host, gpu)
  STRUCT(nif_env) FIELD(nif_env, struct_size) FIELD(nif_env, n_results) FIELD(nif_env, host) FIELD(nif_env, error)
  FIELD(nif_env, cancel)
  STRUCT(nif_function) FIELD(nif_function, name) FIELD(nif_function, signature) FIELD(nif_function, doc)
  FIELD(nif_function, call) FIELD(nif_function, flags) FIELD(nif_function, zero)
  STRUCT(nif_library) FIELD(nif_library, abi_version) FIELD(nif_library, struct_hash) FIELD(nif_library, language)
  FIELD(nif_library, compiler) FIELD(nif_library, library_version) FIELD(nif_library, n_functions)
  FIELD(nif_library, zero) FIELD(nif_library, functions) FIELD(nif_library, load) FIELD(nif_library, unload)
#undef STRUCT
#undef FIELD
};
enum { N_PLACES = sizeof places / sizeof places[0], MOST_TEXT = 40 * N_PLACES };

/* FNV-1a over the sizes of structs and the offsets of fields, a number at a time. */
uint32_t nif_struct_hash(void) {
  uint32_t hash = 2166136261u;
  for (int i = 0; i < N_PLACES; i++) {
    hash = (hash ^ (places[i].field ? places[i].offset : places[i].size)) * 16777619u;
  }
  return hash;
}

static char text[MOST_TEXT];

__attribute__((constructor)) static void spell(void) {
  char *end = text;
  for (const struct place *it = places; it < places + N_PLACES; it++) {
    end += sprintf(end, it == places ? "%s" : "\n%s", it->owner);
    end += it->field ? sprintf(end, ".%s %u %u", it->field, it->offset, it->size) : sprintf(end, " %u", it->size);
  }
}

static char *layout(void) { return text; }
NIF(layout, "layout() -> str", NIF_FLAG_PURE, "size of every struct of the ABI; offset and size of every field.",
    result->v.p = layout())
