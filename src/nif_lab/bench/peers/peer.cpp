// The nanobind peer: nb::ndarray with element type, axes, order and device named, so that nanobind does the checks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "kernel.h"

namespace nb = nanobind;

using Vector = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

NB_MODULE(nif_lab_nanobind, module) {
    module.def("noop", [] {});
    module.def("add", [](double x, double y) { return x + y; });
    module.def(
        "dot",
        [](const Vector &x, const Vector &y) {
            if (!is_aligned(x.data()) || !is_aligned(y.data())) throw nb::value_error("must be aligned");
            if (x.shape(0) != y.shape(0)) throw nb::value_error("lengths differ");
            return kernel_dot(x.data(), y.data(), static_cast<ptrdiff_t>(x.shape(0)));
        },
        nb::arg().noconvert(), nb::arg().noconvert());
}
