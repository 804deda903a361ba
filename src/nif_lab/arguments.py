"""What users pass to a Lab: the words that there are, and the checks at its door.

Each list of words is one `Literal`. Type checkers read it there, and the lists that code needs (``LANES``) are made of
it. Every public function checks its arguments by the functions here, before it does anything else.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Collection, Iterable
from numbers import Real
from typing import Any, Final, Literal, TypeVar, get_args

from .errors import ArgumentTypeError, ArgumentValueError

__all__ = [
    "ACCESSES",
    "CONTAINED_KINDS",
    "FAULT_KINDS",
    "FAULT_MEANINGS",
    "FORMS",
    "GPU_KINDS",
    "LANES",
    "MODES",
    "TOPICS",
    "WAYS",
    "Access",
    "FaultKind",
    "Form",
    "Lane",
    "Mode",
    "Topic",
    "Way",
    "expect",
    "is_plain_number",
    "names",
    "number",
    "one_of",
    "path_of",
    "seconds",
    "whole",
]

#: Where a call runs: in this process, or in a worker process.
Lane = Literal["direct", "isolated"]
#: How a value gets from one language to another; ``"auto"`` chooses by the value.
Way = Literal["shared", "wire", "mmap"]
Mode = Literal["auto"] | Way
#: What can be subscribed to.
Topic = Literal["nif:performance", "nif:errors", "nif:memory"]
#: What may be done with a mapped file.
Access = Literal["read_only", "write_only", "read_write"]
#: What a cell can be shown as.
Form = Literal["asm", "c", "llvm"]
#: Faults that native code survives by itself: the direct lane has an exception for each.
ContainedKind = Literal["error_value", "panic", "out_of_bounds", "overflow", "divide"]
#: The others end the process, or would never end.
EndingKind = Literal[
    "null_store", "wild_write", "stack_overflow", "double_free", "heap_overflow", "abort", "exit_0", "exit_7",
    "infinite_loop", "stop", "huge_allocation", "garbage_reply",
]  # fmt: skip
#: These are of a kernel, and only where a GPU is.
GpuKind = Literal["gpu_illegal", "gpu_endless"]
FaultKind = ContainedKind | EndingKind | GpuKind

LANES: Final[tuple[Lane, ...]] = get_args(Lane)
WAYS: Final[tuple[Way, ...]] = get_args(Way)
MODES: Final[tuple[Mode, ...]] = ("auto", *WAYS)
TOPICS: Final[tuple[Topic, ...]] = get_args(Topic)
ACCESSES: Final[tuple[Access, ...]] = get_args(Access)
FORMS: Final[tuple[Form, ...]] = get_args(Form)
CONTAINED_KINDS: Final[tuple[ContainedKind, ...]] = get_args(ContainedKind)
GPU_KINDS: Final[tuple[GpuKind, ...]] = get_args(GpuKind)
#: Every kind and what it does, in the words of docs/faults.md: the one list that all others are made of.
FAULT_MEANINGS: Final[dict[FaultKind, str]] = {
    "error_value": "an ordinary error",
    "panic": "a panic, defect or exception",
    "out_of_bounds": "an index past the end of an array",
    "overflow": "2^63 - 1 plus 1",
    "divide": "an integer divided by 0",
    "null_store": "a write through a null pointer",
    "wild_write": "NaN written past the end of an array",
    "stack_overflow": "recursion without end",
    "double_free": "one block of memory freed twice",
    "heap_overflow": "a block overrun into the header of the next",
    "abort": "abort()",
    "exit_0": "the process ends with exit code 0",
    "exit_7": "the process ends with code 7",
    "infinite_loop": "a loop without end; the deadline is 1 s",
    "stop": "the process stops itself; the deadline is 1 s",
    "huge_allocation": "64 TiB of memory",
    "garbage_reply": "the worker sends an invalid reply",
    "gpu_illegal": "a kernel writes to an illegal address",
    "gpu_endless": "a kernel without end; the deadline is 1 s",
}
FAULT_KINDS: Final[tuple[FaultKind, ...]] = tuple(FAULT_MEANINGS)

_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=str)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def expect(what: str, value: Any, kind: type[_T] | tuple[type[_T], ...], expected: str) -> _T:
    """Return a value of a type.

    Raises
    ------
    ArgumentTypeError
        ``what: expected ..., got ...``.
    """
    if not isinstance(value, kind):
        raise ArgumentTypeError(what, f"expected {expected}, got {type(value).__name__}")
    return value


def path_of(what: str, value: Any) -> str:
    """Return the path of a file as text.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When it is something else, or has a NUL.
    """
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise ArgumentTypeError(what, f"expected the path of a file, got {type(value).__name__}")
    if "\0" in path:
        raise ArgumentValueError(what, f"no path has a NUL: {_shown(path)}")
    return path


def one_of(what: str, value: Any, choices: Collection[_Word]) -> _Word:
    """Return a word that is one of some.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        With the words that there are, and the one that is nearest.
    """
    word = expect(what, value, str, f"one of {', '.join(choices)}")
    if word not in choices:
        near = difflib.get_close_matches(word, choices, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ArgumentValueError(what, f"no {what} {_shown(word)}; there are {', '.join(choices)}{hint}")
    return word  # type: ignore[return-value]  # it is among them


def is_plain_number(value: object) -> bool:
    """Whether a value is a number of Python or NumPy: no truth value, and no array."""
    return isinstance(value, Real) and not isinstance(value, bool)


def whole(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number between two bounds, both allowed.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        With the bounds and what was given.
    """
    try:
        found = operator.index(value)
    except TypeError:
        raise ArgumentTypeError(what, f"expected a whole number, got {type(value).__name__}") from None
    if isinstance(value, bool):
        raise ArgumentTypeError(what, "expected a whole number, got bool")
    if (least is not None and found < least) or (most is not None and found > most):
        raise ArgumentValueError(what, f"expected {_between('a whole number', least, most)}, got {_shown(found)}")
    return found


def number(what: str, value: Any, least: float | None = None, most: float | None = None, unit: str = "") -> float:
    """Return a finite number between two bounds, both allowed.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        With the bounds and what was given.
    """
    kind = f"a number{unit and ' of '}{unit}"
    if not is_plain_number(value):
        raise ArgumentTypeError(what, f"expected {kind}, got {type(value).__name__}")
    try:
        found = float(value)
    except OverflowError:  # an int of a thousand digits
        found = math.inf
    outside = (least is not None and found < least) or (most is not None and found > most)
    if not math.isfinite(found) or outside:
        raise ArgumentValueError(what, f"expected {_between(kind, least, most)}, got {_shown(value)}")
    return found


#: The longest that anything can be told to take, in seconds: a hundred years.
LONGEST: Final = 3_200_000_000
#: The shortest: the core counts nanoseconds.
SHORTEST: Final = 1e-9


def seconds(what: str, value: Any, *, zero: bool = False) -> float:
    """Return a duration in seconds: more than 0 (or 0 where that means something), up to a hundred years.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        With the bounds and what was given.
    """
    expected = f"expected a {what} in seconds, {'0 or more' if zero else 'more than 0'}"
    if not is_plain_number(value):
        raise ArgumentTypeError(what, f"{expected}, got {type(value).__name__}")
    try:
        found = float(value)
    except OverflowError:  # an int of a thousand digits
        found = math.inf
    if not (0 <= found <= LONGEST) or (found < SHORTEST and not zero):
        raise ArgumentValueError(what, f"{expected}, up to {LONGEST:,}, got {_shown(value)}")
    return found


def names(what: str, value: Any) -> tuple[str, ...]:
    """Return some words that may be many or one: a single string is one word, not its letters."""
    if isinstance(value, str):
        return (value,)
    expected = "a string, or several in a list"
    if not isinstance(value, Iterable):
        raise ArgumentTypeError(what, f"expected {expected}, got {type(value).__name__}")
    return tuple(expect(what, it, str, expected) for it in value)


def _between(kind: str, least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"{kind} from {least:,} to {most:,}"
    if least is not None:
        return f"{kind}, {least:,} or more"
    return kind if most is None else f"{kind}, {most:,} or less"
