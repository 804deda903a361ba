"""What happens when a call in a worker fails: policy only; the core makes the tries.

A call that fails for a reason that may pass goes, step by step: again in the same worker (``retry``) or in a new one if
the first has ended (``restart``), then to the same function in another language (``failover``). A backend whose workers
end too often gets no calls for a while (``circuit``). Each step is an event on ``nif:errors``.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .arguments import expect, seconds, whole
from .errors import (
    ArgumentValueError,
    CallTimeout,
    CircuitOpen,
    GpuFault,
    NifError,
    NifTypeError,
    NifValueError,
    WorkerCrashed,
    WorkerUnavailable,
    kind_number,
)
from .flags import Flag
from .segment import OUTCOMES, STEPS
from .text import last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ._core import Library, Nif
    from .lab import LoadedBackend

__all__ = ["Circuit", "FailoverWarning", "Recovery", "RecoveryPolicy", "Step"]

#: Failures after which the worker is another one.
ENDED: Final = (WorkerCrashed, CallTimeout)


class FailoverWarning(UserWarning):
    """A call was answered by another language than the one that was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """What to do when a call fails.

    Attributes
    ----------
    timeout : float or None
        Seconds that a call in the isolated lane may take before its worker is ended; None for as long as it takes.
    retries : int
        How often to try again in the same language. Only functions that may be called twice (IDEMPOTENT) are.
    failover : bool
        Whether to ask the other languages then, if they have a function of that name and signature.
    crashes : int or None
        After so many ends of workers within `window` seconds a backend gets no calls; None for never.
    window, cooldown : float
        Seconds; after the second one call is let through, to see whether it succeeds.
    """

    timeout: float | None = None
    retries: int = 1
    failover: bool = True
    crashes: int | None = 5
    window: float = 10.0
    cooldown: float = 5.0

    def __post_init__(self) -> None:
        if self.timeout is not None:
            seconds("timeout", self.timeout)
        whole("retries", self.retries, 0, 1000)
        expect("failover", self.failover, bool, "True or False")
        if self.crashes is not None:
            whole("crashes", self.crashes, 1)
        seconds("window", self.window)
        seconds("cooldown", self.cooldown, zero=True)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a recovery.

    Attributes
    ----------
    what : str
        ``"try"``, ``"retry"``, ``"restart"``, ``"failover"`` or ``"circuit"``.
    backend : str
        Who was asked.
    outcome : str
        ``"answered"`` or ``"failed"``; of a circuit ``"opened"`` or ``"closed"``.
    seconds : float
        How long it took.
    error : NifError or None
        How it failed.
    """

    what: str
    backend: str
    outcome: str
    seconds: float
    error: NifError | None = None

    def __str__(self) -> str:
        who = f" to {self.backend}" if self.what == "failover" else f" in {self.backend}"
        why = f": {type(self.error).__name__}: {self.error.reason}" if self.error else ""
        return f"{self.what}{who}, {self.outcome} after {self.seconds * 1e3:.1f} ms{why}"


class Circuit:
    """A backend's crashes of late, and whether it gets calls.

    Attributes
    ----------
    state : str
        ``"closed"``, ``"open"`` or ``"half-open"``.
    tries_at : float
        When an open circuit lets one call through, in seconds since the epoch.
    """

    def __init__(self) -> None:
        self.state = "closed"
        self.tries_at = 0.0
        self._crashes: deque[float] = deque()
        self._opened = 0.0
        self._lock = threading.Lock()

    def crashed(self, policy: RecoveryPolicy, now: float) -> bool:
        """Note a crash: whether the circuit opened by it."""
        with self._lock:
            if policy.crashes is None:
                return False
            self._crashes.append(now)
            while self._crashes and self._crashes[0] < now - policy.window:
                self._crashes.popleft()
            if self.state == "half-open" or (self.state == "closed" and len(self._crashes) >= policy.crashes):
                self.state, self._opened = "open", now
                self.tries_at = time.time() + policy.cooldown
                return True
            return False

    def may_try(self, policy: RecoveryPolicy, now: float) -> bool:
        """Whether an open circuit lets a call through, to see; only one does."""
        with self._lock:
            if self.state == "open" and now - self._opened >= policy.cooldown:
                self.state = "half-open"
                return True
            return False

    def succeeded(self) -> bool:
        """Note an answer: whether the circuit closed by it."""
        with self._lock:
            was, self.state = self.state, "closed"
            if was != "closed":
                self._crashes.clear()
            return was != "closed"


def _check_policy(policy: object) -> RecoveryPolicy:
    return expect("policy", policy, RecoveryPolicy, "a RecoveryPolicy")


class Recovery:
    """A Lab's recovery: ``lab.recovery``.

    Parameters
    ----------
    others
        Gives the isolated backends that may answer in place of one, by its name.
    policy
        For all calls that have none of their own.
    """

    def __init__(self, others: Callable[[str], Iterator[LoadedBackend]], policy: RecoveryPolicy) -> None:
        self._others = others
        self._policies: dict[tuple[str, str], RecoveryPolicy] = {("", ""): policy}
        self._circuits: dict[str, Circuit] = {}
        self._attached: list[LoadedBackend] = []

    def policy(self, backend: str = "", function: str = "") -> RecoveryPolicy:
        """Return the policy of a function, else of its backend, else of the Lab."""
        for key in ((backend, function), (backend, ""), ("", "")):
            if key in self._policies:
                return self._policies[key]
        raise AssertionError("the Lab has one")

    @property
    def policies(self) -> dict[tuple[str, str], RecoveryPolicy]:
        """The policies that were set, by backend and function; ``("", "")`` is the Lab's and comes first."""
        return dict(self._policies)

    def set(self, policy: RecoveryPolicy, backend: str = "", function: str = "") -> None:
        """Set the policy of the Lab, of a backend, or of one function.

        Examples
        --------
        >>> lab.recovery.set(RecoveryPolicy(timeout=2.0))
        >>> lab.recovery.set(RecoveryPolicy(failover=False), "zig")
        """
        _check_policy(policy)
        expect("backend", backend, str, "a backend's name")
        expect("function", function, str, "a function's name")
        if function and not backend:
            raise ArgumentValueError("function", f"name the backend of '{function}' too")
        self._policies[backend, function] = policy
        for loaded in self._attached:
            self._set_timeouts(loaded)

    def circuit(self, backend: str) -> str:
        """Return ``"closed"``, ``"open"`` or ``"half-open"``."""
        return self.circuit_of(backend).state

    def circuit_of(self, backend: str) -> Circuit:
        """Return a backend's breaker; the first who asks makes it."""
        return self._circuits.setdefault(backend, Circuit())

    def close_circuit(self, backend: str) -> None:
        """Let a backend whose circuit is open have calls again, now.

        Parameters
        ----------
        backend : str
            Name of a backend of this Lab.

        Examples
        --------
        >>> lab.recovery.close_circuit("zig")
        """
        mine = [it for it in self._attached if it.name == backend]
        if not mine:
            names = ", ".join(dict.fromkeys(it.name for it in self._attached)) or "none yet"
            raise ArgumentValueError("backend", f"no backend '{backend}' has workers; those that have: {names}")
        self.circuit_of(backend).succeeded()
        for loaded in mine:
            for library in loaded.libraries:
                library.circuit_open = False

    def attach(self, loaded: LoadedBackend) -> None:
        """Look after the calls of an isolated backend."""
        if loaded.library is None:
            return
        self._attached.append(loaded)

        # The functions hold what is set here: with strong references the Lab would hold itself.
        this, that = weakref.ref(self), weakref.ref(loaded)

        def recover(
            functions: Mapping[str, weakref.ref[Nif]],
            name: str,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            error: NifError,
        ) -> Any:
            recovery, mine, nif = this(), that(), functions[name]()
            if recovery is None or mine is None or nif is None:
                raise error
            return _Call(recovery, mine, nif, args, kwargs, recovery.policy(mine.name, name)).recover(error, 0.0)

        def look_after(library: Library) -> None:
            # Another library may have a function of the same name: a cell, or the cell that has taken this one's place.
            library.set_recovery(partial(recover, {name: weakref.ref(nif) for name, nif in library.functions.items()}))
            recovery, mine = this(), that()
            if recovery is not None and mine is not None:
                library.circuit_open = recovery.circuit(mine.name) == "open"
                recovery._set_timeouts(mine)

        look_after(loaded.library)
        loaded.cells.added = look_after

    def _set_timeouts(self, loaded: LoadedBackend) -> None:
        imported = [(name, it.nif) for file in loaded.cells.apart.values() for name, it in file.items()]
        for name, nif in (*loaded.functions.items(), *imported):
            nif.timeout = self.policy(loaded.name, name).timeout

    def call(
        self,
        loaded: LoadedBackend,
        nif: Nif,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        policy: RecoveryPolicy,
        garble: tuple[int, ...] = (),
        steps: list[Step] | None = None,
    ) -> Any:
        """Call a function by a policy of its own.

        ``garble`` has seeds of nonsense for the first tries to answer by; ``steps`` gets every step that was taken.
        """
        call = _Call(self, loaded, nif, args, dict(kwargs), policy, list(garble))
        call.depth = 4  # Lab.call lies between
        if steps is not None:
            call.steps = steps
        start = time.perf_counter()
        try:
            return call.attempt()
        except (NifTypeError, NifValueError) as error:
            nif.count_failure(kind_number(error), error.reason)
            raise
        except NifError as error:
            try:
                return call.recover(error, time.perf_counter() - start)
            except NifError as final:
                nif.count_failure(kind_number(final), str(final))
                raise


def _has_ended(error: NifError | None) -> bool:
    """Tell whether the worker ended by that failure; a call that only waited in vain has ended none."""
    if isinstance(error, GpuFault):
        return error.has_ended
    return isinstance(error, ENDED) and not (isinstance(error, CallTimeout) and not error.has_begun)


def _code(error: NifError | None) -> int:
    """Return how a worker ended, in the segment's one number: minus the signal, or the exit code."""
    if isinstance(error, WorkerCrashed):
        return -error.signal if error.signal is not None else (error.exit_code or 0)
    return 0


class _Call:
    """One call on its way through the steps."""

    #: Frames between a warning and the line that made the call: this class, and who made it.
    depth = 3

    def __init__(
        self,
        recovery: Recovery,
        loaded: LoadedBackend,
        nif: Nif,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        policy: RecoveryPolicy,
        garble: list[int] | None = None,
    ) -> None:
        self.recovery, self.loaded, self.nif = recovery, loaded, nif
        self.args, self.kwargs, self.policy = args, kwargs, policy
        self.garble = garble or []
        self.steps: list[Step] = []

    def attempt(self) -> Any:
        """Try in the language that was asked."""
        return self.nif.attempt(self.args, self.kwargs, self.policy.timeout, self.garble.pop(0) if self.garble else 0)

    def recover(self, error: NifError, seconds: float) -> Any:
        """Take the steps that the policy allows; raise the first failure, with all of them, if none helps."""
        first, last = error, error
        self._note("try", self.loaded, self.nif, seconds, error)
        if self._may_repeat(error):
            # A trial of an open circuit isn't a retry.
            for _ in range(max(self.policy.retries, isinstance(error, CircuitOpen))):
                if isinstance(last, CircuitOpen) and not self._half_open():
                    break
                done, answer = self._take("restart" if _has_ended(last) else "retry", self.loaded, self.nif)
                if done:
                    self.nif.count_recovery(False)
                    return answer
                last = answer
                if isinstance(last, (NifTypeError, NifValueError)):
                    break
            if self.policy.failover:
                for other, nif in self._alternatives():
                    done, answer = self._take("failover", other, nif)
                    if done:
                        self.nif.count_recovery(True)
                        text = f"{other.name} answered {self.loaded.name}.{self.nif.name}(): {first.reason}"
                        warnings.warn(text, FailoverWarning, stacklevel=self.depth)
                        return answer
        first.tried = tuple(self.steps[1:])
        if isinstance(first, CircuitOpen):
            first.args = (f"{first.args[0]}\n  {self._advice()}",)
        first.cell = "" if self._is_builtin(self.loaded, self.nif) else self.loaded.cells.cell_of(self.nif)
        if isinstance(first, WorkerCrashed):
            first.last_words = tuple(f"it wrote: {it}" for it in last_lines(first.detail))
        raise first

    def _advice(self) -> str:
        """Return what to do about an open circuit."""
        name = self.loaded.name
        at = time.strftime("%H:%M:%S", time.localtime(self.recovery.circuit_of(name).tries_at))
        return (
            f"To fix: one call is let through from {at} on; lab.recovery.close_circuit('{name}') lets all through now"
        )

    def _may_repeat(self, error: NifError) -> bool:
        # The error value of a function without effects is its answer: it would be the same again.
        if type(error) is NifError and self.nif.flags & Flag.PURE:
            return False
        # The call that was interrupted can't end before this one does.
        if isinstance(error, WorkerUnavailable) and error.is_busy:
            return False
        # What was never begun may be begun elsewhere, whatever it does.
        return bool(self.nif.flags & Flag.IDEMPOTENT) or isinstance(error, (CircuitOpen, WorkerUnavailable))

    def _alternatives(self) -> Iterator[tuple[LoadedBackend, Nif]]:
        is_builtin = self._is_builtin(self.loaded, self.nif)
        if self.loaded.cells.file_of(self.nif):
            return  # another language has no function of this file
        for other in self.recovery._others(self.loaded.name):
            nif = other.functions.get(self.nif.name)
            # A cell's `sum` may be another sum than the built-in one.
            if nif is None or self._is_builtin(other, nif) != is_builtin:
                nif = other.library.functions.get(self.nif.name) if is_builtin and other.library else None
            if nif is not None and nif.signature == self.nif.signature:
                yield other, nif

    @staticmethod
    def _is_builtin(loaded: LoadedBackend, nif: Nif) -> bool:
        return loaded.library is not None and loaded.library.functions.get(nif.name) is nif

    def _take(self, what: str, loaded: LoadedBackend, nif: Nif) -> tuple[bool, Any]:
        """Take a step: whether it helped, and the answer or the error."""
        start = time.perf_counter()
        try:
            answer = self.attempt() if nif is self.nif else nif.attempt(self.args, self.kwargs, self.policy.timeout)
        except NifError as error:
            self._note(what, loaded, nif, time.perf_counter() - start, error)
            return False, error
        self._note(what, loaded, nif, time.perf_counter() - start, None)
        return True, answer

    def _note(self, what: str, loaded: LoadedBackend, nif: Nif, seconds: float, error: NifError | None) -> None:
        step = Step(what, loaded.name, "failed" if error else "answered", seconds, error)
        self.steps.append(step)
        self._publish(nif, step)
        circuit = self.recovery.circuit_of(loaded.name)
        if _has_ended(error):
            if circuit.crashed(self.policy, time.monotonic()):
                self._switch(loaded, nif, True)
        elif error is None and circuit.state != "closed" and circuit.succeeded():
            self._switch(loaded, nif, False)

    def _half_open(self) -> bool:
        circuit = self.recovery.circuit_of(self.loaded.name)
        if circuit.may_try(self.policy, time.monotonic()):
            for library in self.loaded.libraries:
                library.circuit_open = False
            return True
        return False

    def _switch(self, loaded: LoadedBackend, nif: Nif, is_open: bool) -> None:
        for library in loaded.libraries:
            library.circuit_open = is_open
        self._publish(nif, Step("circuit", loaded.name, "opened" if is_open else "closed", 0.0))

    @staticmethod
    def _publish(nif: Nif, step: Step) -> None:
        kind = kind_number(step.error) if step.error else 0
        text = step.error.reason if step.error else str(step)
        numbers = STEPS.index(step.what), OUTCOMES.index(step.outcome), _code(step.error), step.seconds * 1e9
        nif.note_step(*numbers, kind, text)


def with_options(
    policy: RecoveryPolicy, timeout: float | None, retries: int | None, failover: bool | None
) -> RecoveryPolicy:
    """Return the policy of one call: what was given replaces what was set."""
    given = {"timeout": timeout, "retries": retries, "failover": failover}
    return replace(policy, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
