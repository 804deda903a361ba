"""Deliberate failures: ``lab.faults.inject("zig", "null_store")`` makes one and tells what became of the call.

The call is that of the NIF ``fault`` (docs/faults.md), which answers the sum of its array unless it is told to fail. So
there is a right answer, known to the bit, and what isn't the call's own must be as before.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arguments import CONTAINED_KINDS, FAULT_KINDS, GPU_KINDS, LANES, FaultKind, Lane, expect, one_of, whole
from ..device_memory import is_there
from ..errors import ArgumentValueError, CircuitOpen, GpuFault, NifError, WorkerUnavailable
from ..recovery import FailoverWarning, RecoveryPolicy, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core import DeviceBuffer
    from ..lab import LoadedBackend
    from ..memory import MemoryManager
    from ..recovery import Recovery

__all__ = ["FaultReport", "Faults", "possible_kinds"]

#: More than any machine has.
HUGE: Final = 1 << 46
#: Elements of the arrays: some pages each, so that no two share one that is written.
LENGTH: Final = 16_384
ALWAYS: Final = 1 << 40
#: The largest seed; the nonsense of a reply is made of the seed and what follows it.
SEEDS: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class FaultReport:
    """What became of a call that was made to fail.

    Attributes
    ----------
    backend, kind, lane : str
        Who failed, how, and where.
    outcome : str
        ``"recovered"``: the right answer, to the bit, and nothing else was touched. ``"contained"``: a typed error, and
        nothing else was touched. ``"lost"``: a wrong answer, or something else was touched.
    answered_by : str
        ``"first try"``, ``"retry"`` or ``"failover"``; empty without an answer.
    seconds : float
        From the call to its answer or error.
    steps : tuple of Step
        The tries after the first.
    first : Step or None
        How the first try failed; None if it answered, or in the direct lane.
    error : NifError or None
        What was raised.
    disturbed : tuple of str
        What isn't as before.
    """

    backend: str
    kind: str
    lane: str
    outcome: str
    answered_by: str
    seconds: float
    steps: tuple[Step, ...] = ()
    error: NifError | None = None
    disturbed: tuple[str, ...] = ()
    first: Step | None = None

    def __repr__(self) -> str:
        text = f"{self.kind} in {self.backend}, {self.lane} lane: {self.outcome} after {self.seconds * 1e3:.1f} ms"
        if self.answered_by:
            text += f" by {self.answered_by}"
        lines = [text, *(f"  {step}" for step in self.steps), *(f"  disturbed: {it}" for it in self.disturbed)]
        if self.error is not None:
            lines.append(f"  {type(self.error).__name__}: {self.error}")
        return "\n".join(lines)


def possible_kinds() -> tuple[FaultKind, ...]:
    """Return the kinds of faults that this machine can have: those of a GPU where one is."""
    return tuple(it for it in FAULT_KINDS if it not in GPU_KINDS or is_there())


class Faults:
    """Injects faults into a Lab: ``lab.faults``."""

    def __init__(
        self,
        backend: Callable[[str, Lane], LoadedBackend],
        memory: MemoryManager,
        recovery: Recovery,
        kernel: Callable[[str], int],
    ) -> None:
        self._backend, self._memory, self._recovery, self._kernel = backend, memory, recovery, kernel

    @property
    def kinds(self) -> tuple[FaultKind, ...]:
        """The kinds of faults that this machine can have; docs/faults.md says what each does."""
        return possible_kinds()

    def inject(
        self,
        backend: str,
        kind: FaultKind,
        lane: Lane = "isolated",
        *,
        times: int | None = 1,
        policy: RecoveryPolicy | None = None,
        really: bool = False,
        seed: int = 1,
    ) -> FaultReport:
        """Make a call that fails, and tell what became of it.

        Parameters
        ----------
        backend
            The language that fails.
        kind
            One of `kinds`.
        lane
            The direct lane takes the kinds that native code survives, and the others only if ``really``.
        times
            How often the function fails before it answers; None for always, in this one language.
        policy
            What to do about it; that of the Lab, with a timeout of 1 s, unless given.
        really
            Make a call that ends this very process.
        seed
            Of the nonsense of ``"garbage_reply"``, and of the numbers that are summed.

        Raises
        ------
        GpuUnavailable
            For a kind of a GPU where there is none.
        """
        one_of("kind", kind, FAULT_KINDS)
        count = ALWAYS if times is None else whole("times", times, 0, ALWAYS)
        whole("seed", seed, 0, SEEDS)
        if one_of("lane", lane, LANES) == "direct":
            if kind == "garbage_reply":
                raise ArgumentValueError("lane", "only a worker replies: use lane='isolated'")
            if kind not in CONTAINED_KINDS and not really:
                what = "take the device from" if kind in GPU_KINDS else "end"
                reason = f"'{kind}' would {what} this process: use lane='isolated', or say really=True"
                raise ArgumentValueError("lane", reason)
        if policy is None:
            policy = RecoveryPolicy(timeout=1.0)
        expect("policy", policy, RecoveryPolicy, "a RecoveryPolicy")
        loaded = self._backend(backend, lane)
        loaded.find_builtin("fault")  # raises with the reason where it isn't loaded
        x, victim, expected = self._arrays(seed)
        before = x.tobytes(), victim.tobytes()
        burns = 0 if kind == "garbage_reply" else count
        word = int.from_bytes(backend.encode()[:8].ljust(8, b"\0"), "little")
        there = self._memory.to_device(victim, ["rust"]) if kind in GPU_KINDS else None
        number = self._kernel(kind) if there else HUGE if kind == "huge_allocation" else _distance(x, victim)
        fuse = self._memory.zeros(3, "i8")
        fuse[:] = burns, word, number
        tries = min(count, 1 + policy.retries) if kind == "garbage_reply" else 0
        garble = tuple(1 + (seed + number - 1) % SEEDS for number in range(tries))  # 0 is none
        name = "error_value" if kind == "garbage_reply" else kind
        start = time.perf_counter()
        value, error, first, steps = self._call(loaded, (name, fuse, x), policy if lane == "isolated" else None, garble)
        seconds = time.perf_counter() - start
        names = ("the argument", "another block")
        disturbed = tuple(
            it for it, was, array in zip(names, before, (x, victim), strict=True) if array.tobytes() != was
        )
        if there and not _is_as_before(there, victim):
            disturbed = (*disturbed, "an array on the device")
        is_right = error is None and np.float64(value).tobytes() == np.float64(expected).tobytes()
        is_lost = bool(disturbed) or (error is None and not is_right)
        outcome = "lost" if is_lost else "recovered" if is_right else "contained"
        by = ""
        if is_right:
            last = steps[-1].what if steps else "first try"
            by = "retry" if last in {"retry", "restart"} else last
        return FaultReport(backend, kind, lane, outcome, by, seconds, steps, error, disturbed, first)

    def _arrays(self, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the argument, a block near it that is nobody's business, and the right answer."""
        rng = np.random.default_rng(seed)
        x, victim = self._memory.empty(LENGTH), self._memory.empty(LENGTH)
        x[:] = rng.integers(-1000, 1000, LENGTH)  # whole numbers: every order of summing gives the same bits
        victim[:] = rng.normal(size=LENGTH)
        return x, victim, float(x.sum())

    def _call(
        self, loaded: LoadedBackend, args: tuple[Any, ...], policy: RecoveryPolicy | None, garble: tuple[int, ...]
    ) -> tuple[Any, NifError | None, Step | None, tuple[Step, ...]]:
        nif = loaded.find_builtin("fault")
        steps: list[Step] = []
        try:
            if policy is None:
                return nif.function(*args), None, None, ()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FailoverWarning)
                value = self._recovery.call(loaded, nif, args, {}, policy, garble, steps)
            return value, None, steps[0] if steps else None, tuple(steps[1:])
        except (CircuitOpen, WorkerUnavailable):
            raise  # no call was made: there is nothing to tell of
        except NifError as error:
            tried = tuple(step for step in error.tried if isinstance(step, Step))
            return None, error, steps[0] if steps else None, tried


def _is_as_before(there: DeviceBuffer, victim: np.ndarray) -> bool:
    """Return whether this process still reads an array on a device, and finds what was there."""
    try:
        return there.numpy().tobytes() == victim.tobytes()
    except GpuFault:
        return False
    finally:
        there.close()


def _distance(x: np.ndarray, victim: np.ndarray) -> int:
    """Return how many elements lie between the beginning of one array and the middle of another."""
    return (int(victim.ctypes.data) - int(x.ctypes.data)) // x.itemsize + LENGTH // 2
