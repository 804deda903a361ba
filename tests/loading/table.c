/* A library whose table is wrong in the ways that the compiler's flags say. */
#include <stdlib.h>

#include "nif_lab.h"

#ifndef VERSION
#define VERSION NIF_ABI_VERSION
#endif
#ifndef HASH
#define HASH 1u
#endif

static int32_t call(void *env, const nif_any *args, int32_t n_args, nif_any *result) {
  (void)args, (void)n_args;
#ifdef TAINT
  nif_env *running = env;
  running->host->set_error(running, NIF_PANIC | NIF_TAINTED, "skipped its clean-up", -1);
  return -1;
#endif
  (void)env;
  result->type_index = NIF_NONE;
  return 0;
}

static const nif_function functions[] = {{FUNCTION, FUNCTION "() -> None", "", call, 0, 0}};
static const nif_library library = {VERSION, HASH, "c", "", "", 1, 0, functions, NULL, NULL};

#ifdef CRASH
__attribute__((constructor)) static void crash(void) { abort(); }
#endif

const nif_library *nif_init(const nif_host *host) {
  (void)host;
  return EMPTY ? NULL : &library;
}
