"""``.venv/bin/python tests/steps.py``: how many of the processor's instructions a call takes, and in whose code.

A child makes calls; this process runs it step by step (ptrace) from the entry that Python calls to its return. A count
is the same on a busy machine, where nanoseconds aren't: it says whether a change of the straight path helps. Linux on
x86-64.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

ATTACH, PEEK, POKE, GO_ON, STEP, GET, SET = 16, 1, 4, 7, 9, 12, 13
BREAKPOINT, SIGTRAP = 0xCC, 5
REGISTERS = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
    "fs_base gs_base ds es fs gs"
)

#: What is stepped through, and how often: the counters of a function have their rare turns.
CHILD = """
import ctypes, sys
import numpy as np, nif_lab
lab = nif_lab.Lab(sys.argv[1:], lane="direct"); x = np.linspace(0.0, 1.0, 100); y = np.cos(x)
def entry(function):
    definition = ctypes.c_size_t.from_address(id(function) + 16).value
    return ctypes.c_size_t.from_address(definition + 8).value
given = {"noop": (), "add": (1.0, 2.0), "dot": (x, y)}
calls = [(f"{name}.{it}", getattr(lab.direct[name], it), arguments)
         for name in sys.argv[1:] for it, arguments in given.items()]
for _, function, arguments in calls:
    for _ in range(300): function(*arguments)
print([(name, entry(function)) for name, function, _ in calls], flush=True)
sys.stdin.readline()
for _, function, arguments in calls:
    for _ in range(3): function(*arguments)
"""


class Registers(ctypes.Structure):
    """``struct user_regs_struct``."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS.split()]


class Stepper:
    """A process that is run step by step."""

    def __init__(self, pid: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._ptrace = libc.ptrace
        self._ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._ptrace.restype = ctypes.c_long
        self.pid = pid
        self.registers = Registers()
        if self.ask(ATTACH) < 0:
            raise OSError(ctypes.get_errno(), "ptrace isn't allowed here")
        os.waitpid(pid, 0)
        parts = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        self._code = [
            (*(int(it, 16) for it in part[0].split("-")), Path(part[-1]).name) for part in parts if "x" in part[1]
        ]
        self._words: dict[int, int] = {}

    def ask(self, what: int, address: int = 0, data: int = 0) -> int:
        return int(self._ptrace(what, self.pid, address, data))

    def read(self) -> Registers:
        self.ask(GET, 0, ctypes.addressof(self.registers))
        return self.registers

    def stop_at(self, address: int) -> None:
        if address not in self._words:
            self._words[address] = self.ask(PEEK, address) & (2**64 - 1)
        self.ask(POKE, address, self._words[address] & ~0xFF | BREAKPOINT)

    def whose(self, address: int) -> str:
        return next((name for start, end, name in self._code if start <= address < end), "?")

    def one_call(self) -> Counter[str] | None:
        """Go on to the next entry, and through it; return the instructions of each file, None when the process ends."""
        signal = 0
        while True:
            self.ask(GO_ON, 0, signal)
            _, status = os.waitpid(self.pid, 0)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                return None
            signal = os.WSTOPSIG(status)
            at = self.read().rip - 1
            if signal == SIGTRAP and at in self._words:
                break
        counts, bottom = Counter[str](), self.registers.rsp
        self.registers.rip = at
        self.ask(SET, 0, ctypes.addressof(self.registers))
        self.ask(POKE, at, self._words[at])
        while self.registers.rsp <= bottom:
            counts[self.whose(self.registers.rip)] += 1
            self.ask(STEP)
            os.waitpid(self.pid, 0)
            self.read()
        self.stop_at(at)
        return counts


def count(languages: list[str]) -> dict[str, Counter[str]]:
    """Return the instructions of ``noop``, ``add`` and ``dot`` (2 x 100 float64), by file: the least of three calls."""
    line = [sys.executable, "-c", CHILD, *languages]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        entries = ast.literal_eval(child.stdout.readline())
        stepper = Stepper(child.pid)
        for _, address in entries:
            stepper.stop_at(address)
        child.stdin.write("\n")
        child.stdin.flush()
        found: dict[str, Counter[str]] = {}
        for name in (name for name, _ in entries for _ in range(3)):
            counts = stepper.one_call()
            assert counts is not None, "the process ended"
            if name not in found or counts.total() < found[name].total():
                found[name] = counts
        while stepper.one_call() is not None:
            pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("languages", nargs="*", default=["rust", "zig", "nim"])
    for name, counts in count(parser.parse_args().languages).items():
        parts = ", ".join(f"{number} in {file}" for file, number in counts.most_common())
        print(f"{name:10} {counts.total():5}  ({parts})")


if __name__ == "__main__":
    main()
