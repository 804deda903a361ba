/* The C backend: every room of this folder in one library. */
#include "nif/sdk.h"

signature nif_signatures[MOST_FUNCTIONS];

static bool is_readable = true;

static int32_t load(const nif_host *host) {
  (void)host;
  return is_readable ? 0 : -1;
}

/* Nothing of this SDK outlives a call. */
static void unload(void) {}

static nif_library library = {
  .abi_version = NIF_ABI_VERSION,
  .language = "c",
  .compiler = "gcc " __VERSION__,
  .library_version = "0.1.0",
  .functions = __start_nif_functions,
  .load = load,
  .unload = unload,
};

/* By the loader, before any symbol can be found: a TVM-FFI client never calls nif_init. */
__attribute__((constructor)) static void set_up(void) {
  library.struct_hash = nif_struct_hash();
  library.n_functions = (uint32_t)(__stop_nif_functions - __start_nif_functions);
  is_readable = library.n_functions <= MOST_FUNCTIONS;
  for (uint32_t i = 0; is_readable && i < library.n_functions; i++) {
    is_readable = nif_read_signature(__start_nif_functions[i].signature, &nif_signatures[i]);
  }
}

/* All that a function here asks of a host comes with its call, so none is kept. */
NIF_EXPORT const nif_library *nif_init(const nif_host *host) {
  (void)host;
  return &library;
}
