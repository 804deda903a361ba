## The Nim backend: every room of this folder in one library.

import nif, kernels, wire, faults

export nif, kernels, wire, faults
