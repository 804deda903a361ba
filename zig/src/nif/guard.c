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

/* Each library ends its own panics: an address is nobody else's. */
#define OURS ((_Unwind_Exception_Class)(uintptr_t)&set_register)

static __typeof__(&_Unwind_SetGR) set_register;

/* Asked for the frame of nif_guard_run: first whether a panic ends there, then to arrange it. */
HIDDEN __attribute__((used)) _Unwind_Reason_Code nif_guard_personality(
    int version, _Unwind_Action actions, _Unwind_Exception_Class kind, struct _Unwind_Exception *exception,
    struct _Unwind_Context *context) {
  (void)version, (void)exception;
  if (kind != OURS) {
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
  struct _Unwind_Exception exception = {.exception_class = OURS};
  void *walker = dlopen("libgcc_s.so.1", RTLD_NOW); /* which the C library itself loads for such walks */
  if (walker == NULL) {
    return;
  }
  set_register = (__typeof__(set_register))dlsym(walker, "_Unwind_SetGR");
  __typeof__(&_Unwind_RaiseException) raise = (__typeof__(raise))dlsym(walker, "_Unwind_RaiseException");
  raise(&exception);
}
