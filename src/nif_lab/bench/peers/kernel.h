/* The arithmetic that every peer in C, C++ and Cython shares: as wide and as unrolled as the backends' own dot, so that
 * the peers differ in how they are called and in nothing else. */
#ifndef NIF_LAB_BENCH_KERNEL_H
#define NIF_LAB_BENCH_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Four doubles at any address that a double may have. */
typedef double four_doubles __attribute__((vector_size(32), aligned(8), may_alias));

/* The check that Cython's memoryviews and nanobind leave out. */
static inline int is_aligned(const double *x) { return (uintptr_t)x % sizeof(double) == 0; }

static inline double kernel_dot(const double *x, const double *y, ptrdiff_t n) {
    four_doubles low = {0}, high = {0};
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8) {
        low += *(const four_doubles *)(x + i) * *(const four_doubles *)(y + i);
        high += *(const four_doubles *)(x + i + 4) * *(const four_doubles *)(y + i + 4);
    }
    low += high;
    double total = (low[0] + low[2]) + (low[1] + low[3]);
    for (; i < n; i++) total += x[i] * y[i];
    return total;
}

#endif
