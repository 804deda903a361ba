## Every unit test in one program: `nim r --mm:arc tests/test_all.nim`, and the same with orc.

import test_kernels, test_nif, test_wire, test_xxh3

export test_kernels, test_nif, test_wire, test_xxh3
