## The Nim backend: every room of this folder in one library.

import nif, kernels, wire, faults
from gpu import nil

export nif, kernels, wire, faults
