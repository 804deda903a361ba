/* The panic guard: a panic ends the call, not the process.
 *
 * A call costs nothing for it. A panic walks up the stack by the tables that
 * debuggers use, to the innermost guarded call, which goes on as if its body had
 * returned. What lies between is dropped without its `defer`s, so the host is told
 * that the library is tainted. It stands in C because Zig can't name a personality,
 * the function that the walk asks at each frame.
 *
 * SPDX-License-Identifier: MIT
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <unwind.h>

#define HIDDEN __attribute__((visibility("hidden")))

enum { PANICKED = 1 };

static const _Unwind_Exception_Class ours = 0x4e49465f5a494700; /* "NIF_ZIG" */

/* The walker is libgcc's, which the C library itself loads for the same purpose. */
static __typeof__(&_Unwind_RaiseException) raise_exception;
static __typeof__(&_Unwind_SetGR) set_register;

/* Asked for the frame of nif_guard_run: first whether a panic ends there, then to arrange it. */
HIDDEN __attribute__((used)) _Unwind_Reason_Code nif_guard_personality(
    int version, _Unwind_Action actions, _Unwind_Exception_Class kind, struct _Unwind_Exception *exception,
    struct _Unwind_Context *context) {
  (void)version, (void)exception;
  if (kind != ours) {
    return _URC_CONTINUE_UNWIND;
  }
  if (actions & _UA_SEARCH_PHASE) {
    return _URC_HANDLER_FOUND;
  }
  set_register(context, __builtin_eh_return_data_regno(0), PANICKED); /* where a function's result is, too */
  return _URC_INSTALL_CONTEXT;
}

/* body's status, or 1 where it panicked. */
HIDDEN __attribute__((noinline, no_stack_protector, no_sanitize("undefined"))) int32_t
nif_guard_run(void *env, const void *args, int32_t n_args, void *result,
              int32_t (*body)(void *env, const void *args, int32_t n_args, void *result)) {
  __asm__ volatile(".cfi_personality 0x1b, nif_guard_personality"); /* 0x1b: relative to where it stands */
  int32_t status = body(env, args, n_args, result);
  __asm__ volatile("" : "+r"(status)); /* so that this frame stays until the body is done */
  return status;
}

/* Abandon the call that this thread is running; returns where there is none. */
HIDDEN void nif_guard_leave(void) {
  static _Thread_local struct _Unwind_Exception exception;
  void *library = dlopen("libgcc_s.so.1", RTLD_NOW);
  if (library == NULL) {
    return;
  }
  raise_exception = (__typeof__(raise_exception))dlsym(library, "_Unwind_RaiseException");
  set_register = (__typeof__(set_register))dlsym(library, "_Unwind_SetGR");
  exception.exception_class = ours;
  raise_exception(&exception);
}
