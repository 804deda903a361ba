/* A shared library as ctypes wants one: no Python in sight. */
#include "kernel.h"

#define EXPORT __attribute__((visibility("default")))

EXPORT void noop(void) {}
EXPORT double add(double x, double y) { return x + y; }
EXPORT double dot(const double *x, const double *y, ptrdiff_t n) { return kernel_dot(x, y, n); }
