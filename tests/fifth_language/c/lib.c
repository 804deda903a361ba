/* The C backend: every room of this folder in one library. */
#include "nif/sdk.h"

signature nif_signatures[MOST_FUNCTIONS];

static const char *unreadable; /* the first signature that is */

static int32_t load(const nif_host *host) {
  if (unreadable && host) {
    host->log(40, unreadable);
  }
  return unreadable ? -1 : 0;
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
  for (uint32_t i = 0; !unreadable && i < library.n_functions; i++) {
    const char *text = __start_nif_functions[i].signature;
    unreadable = i < MOST_FUNCTIONS && nif_read_signature(text, &nif_signatures[i]) ? NULL : text;
  }
}

/* All that a function here asks of a host comes with its call, so none is kept. */
NIF_EXPORT const nif_library *nif_init(const nif_host *host) {
  (void)host;
  return &library;
}
