/* The panic guard: setjmp must sit in C, since Zig doesn't know that it returns twice.
 *
 * Each guarded call puts a frame on its own stack; the frames of a thread form a
 * chain. A panic jumps to the innermost one. What lies between is dropped without
 * its `defer`s, so the host is told that the library is tainted.
 *
 * SPDX-License-Identifier: MIT
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden")))

struct frame {
  struct frame *outer;
  const void *call;
  jmp_buf landing;
};

static _Thread_local struct frame *innermost;

/* body(call)'s status, or -1 where it panicked. */
HIDDEN int32_t nif_guard_run(int32_t (*body)(const void *call), const void *call) {
  struct frame frame;
  int32_t status = -1;
  frame.outer = innermost;
  frame.call = call;
  innermost = &frame;
  if (_setjmp(frame.landing) == 0) { /* unlike setjmp, leaves the signal mask alone */
    status = body(call);
  }
  innermost = frame.outer;
  return status;
}

/* The call that this thread is running, or NULL. */
HIDDEN const void *nif_guard_call(void) { return innermost ? innermost->call : NULL; }

/* Abandon that call. There must be one. */
HIDDEN _Noreturn void nif_guard_leave(void) { _longjmp(innermost->landing, 1); }
