# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, initializedcheck=False
# cython: freethreading_compatible=True
"""The Cython peer: typed memoryviews, every directive that makes calls faster."""

cdef extern from "kernel.h" nogil:
    bint is_aligned(const double *x)
    double kernel_dot(const double *x, const double *y, Py_ssize_t n)


def noop():
    pass


def add(double x, double y):
    return x + y


def dot(const double[::1] x not None, const double[::1] y not None):
    if not is_aligned(&x[0]) or not is_aligned(&y[0]):
        raise ValueError("must be aligned")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"lengths differ: {x.shape[0]} and {y.shape[0]}")
    return kernel_dot(&x[0], &y[0], x.shape[0])
