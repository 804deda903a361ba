/* Deliberate failures: those that are checked, and those that end a process.
 *
 * C has no panics: what would be one elsewhere is checked, and returned as an error of that kind.
 */
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "nif.h"

static void error_value(nif_text message) {
  nif_fail(NIF_VALUE_ERROR, NULL, "%.*s", (int)message.size, message.data);
}
NIF(error_value, "error_value(message: str) -> None", NIF_FLAG_FAULT, "fails with this message, as any function would.",
    error_value(a[0].text))

static void panic(nif_text message) { nif_fail(NIF_PANIC, NULL, "%.*s", (int)message.size, message.data); }
NIF(panic, "panic(message: str) -> None", NIF_FLAG_FAULT, "fails with this message, as a failed check does.",
    panic(a[0].text))

static int64_t out_of_bounds(int64_t index) {
  static const int64_t elements[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  if (index < 0 || index >= 8) {
    nif_fail(NIF_INDEX_ERROR, NULL, "index %lld is out of bounds: 8 elements", (long long)index);
    return 0;
  }
  return elements[index];
}
NIF(out_of_bounds, "out_of_bounds(index: i64) -> i64", NIF_FLAG_FAULT, "element `index` of [0, 1, ..., 7].",
    result->v.i = out_of_bounds(a[0].i64))

static int64_t overflow(int64_t x) {
  int64_t next = 0;
  if (__builtin_add_overflow(x, 1, &next)) {
    nif_fail(NIF_PANIC, NULL, "integer overflow: %lld + 1", (long long)x);
  }
  return next;
}
NIF(overflow, "overflow(x: i64) -> i64", NIF_FLAG_FAULT, "x + 1, checked.", result->v.i = overflow(a[0].i64))

static int64_t divide(int64_t x, int64_t y) {
  if (y == 0 || (x == INT64_MIN && y == -1)) {
    nif_fail(NIF_PANIC, NULL, "%s: %lld / %lld", y == 0 ? "division by zero" : "integer overflow", (long long)x,
             (long long)y);
    return 0;
  }
  return x / y;
}
NIF(divide, "divide(x: i64, y: i64) -> i64", NIF_FLAG_FAULT, "the truncated quotient, checked.",
    result->v.i = divide(a[0].i64, a[1].i64))

static void null_store(void) {
  volatile char *volatile nowhere = NULL;
  *nowhere = 1;
}

/* 64 numbers from element `offset` of x on, whatever lies there. */
static void wild_write(const double *x, int64_t offset) {
  volatile double *first = (double *)((uintptr_t)x + (uintptr_t)offset * sizeof(double));
  for (int i = 0; i < 64; i++) {
    first[i] = NAN;
  }
  nif_fail(NIF_ERROR, NULL, "the wild write went through");
}

/* Through a volatile pointer, so that the compiler neither sees the recursion nor turns it into a loop. */
static uint64_t descend(uint64_t depth);
static uint64_t (*volatile deeper)(uint64_t) = descend;
static uint64_t descend(uint64_t depth) {
  volatile uint64_t frame = depth;
  return deeper(depth + 1) + frame;
}

static void double_free(void) {
  void *volatile memory = malloc(24);
  free(memory);
  free(memory);
}

/* Write over the end of a block, over the size in the header of the next one, and free that. */
static void heap_overflow(void) {
  void *volatile memory = malloc(24);
  volatile unsigned char *volatile bytes = memory;
  size_t next = malloc_usable_size(memory) + sizeof(size_t);
  for (size_t i = 0; i < next; i++) {
    bytes[i] = 0xff;
  }
  free((void *)(bytes + next));
}

static void huge_allocation(int64_t size) {
  volatile char *memory = malloc((size_t)size);
  if (!memory) {
    nif_fail(NIF_MEMORY_ERROR, NULL, "out of memory");
    return;
  }
  memory[0] = 1;
  free((void *)memory);
  nif_fail(NIF_ERROR, NULL, "the memory was given");
}

typedef enum {
  ERROR_VALUE, PANIC, OUT_OF_BOUNDS, OVERFLOW, DIVIDE, NULL_STORE, WILD_WRITE, STACK_OVERFLOW, DOUBLE_FREE,
  HEAP_OVERFLOW, ABORT, EXIT_0, EXIT_7, INFINITE_LOOP, STOP, HUGE_ALLOCATION, N_KINDS
} kind;

static const char *const kinds[N_KINDS] = {
  "error_value", "panic", "out_of_bounds", "overflow", "divide", "null_store", "wild_write", "stack_overflow",
  "double_free", "heap_overflow", "abort", "exit_0", "exit_7", "infinite_loop", "stop", "huge_allocation",
};

static kind kind_of(nif_text name) {
  int it = 0;
  while (it < N_KINDS && (strlen(kinds[it]) != (size_t)name.size || memcmp(kinds[it], name.data, strlen(kinds[it])))) {
    it++;
  }
  return it;
}

static void burn(kind kind, int64_t number, const double *x) {
  switch (kind) {
    case ERROR_VALUE: nif_fail(NIF_ERROR, NULL, "on purpose"); break;
    case PANIC: nif_fail(NIF_PANIC, NULL, "on purpose"); break;
    case OUT_OF_BOUNDS: out_of_bounds(8); break;
    case OVERFLOW: overflow(INT64_MAX); break;
    case DIVIDE: divide(1, 0); break;
    case NULL_STORE: null_store(); break;
    case WILD_WRITE: wild_write(x, number); break;
    case STACK_OVERFLOW: descend(0); break;
    case DOUBLE_FREE: double_free(); break;
    case HEAP_OVERFLOW: heap_overflow(); break;
    case ABORT: abort();
    case EXIT_0: exit(0);
    case EXIT_7: exit(7);
    case INFINITE_LOOP: for (volatile bool on = true; on;) {} break;
    case STOP: raise(SIGSTOP); break;
    case HUGE_ALLOCATION: huge_allocation(number); break;
    case N_KINDS: break;
  }
}

static double fault(nif_text kind_name, nif_mut_i64s fuse, nif_f64s x) {
  kind kind = kind_of(kind_name);
  if (kind == N_KINDS) {
    nif_fail(NIF_VALUE_ERROR, "kind", "no such kind of fault");
    return 0;
  }
  if (fuse.count != 3) {
    nif_fail(NIF_VALUE_ERROR, "fuse", "expected i64[k] with k = 3, got i64[%lld]", (long long)fuse.count);
    return 0;
  }
  if (fuse.data[0] > 0 && fuse.data[1] == 'c') { /* the word "c", filled up with zeros */
    *(volatile int64_t *)fuse.data -= 1; /* volatile, so that it is in memory before the process may be gone */
    burn(kind, fuse.data[2], x.data);
  }
  double total = 0;
  for (int64_t i = 0; i < x.count; i++) {
    total += x.data[i];
  }
  return total;
}
NIF(fault, "fault(kind: str, fuse: mut i64[k], x: f64[n]) -> f64", NIF_FLAG_FAULT | NIF_FLAG_IDEMPOTENT,
    "the sum of x, unless the fuse burns: then it fails as `kind` says.",
    result->v.f = fault(a[0].text, a[1].mut_i64s, a[2].f64s))
