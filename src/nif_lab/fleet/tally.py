"""What many processes have counted, put together: pure functions over plain numbers.

A process's counters only grow. So two reports of one process are joined by the larger number of each pair (the smaller
of two minima), and the result is the same whatever the order, whether a report comes twice, or whether one was lost and
a later one says it again. Reports of different processes are added up. Times are in nanoseconds.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..errors import NifLabError
from ..segment import BOUNDS, BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BUDGET",
    "Counters",
    "Key",
    "Malformed",
    "Origin",
    "Report",
    "State",
    "add",
    "join",
    "percentile_ns",
    "report",
    "summed",
    "understood",
]

#: Bytes of a report at most. A process sends one a second, so 1,000 processes send 1 MB/s.
BUDGET: Final = 1000
#: Errors of a process that are kept, and letters of an error's text that are sent.
ERRORS_KEPT, TEXT_SENT = 10, 120
#: Functions of a process that are kept, and letters of a name.
FUNCTIONS_KEPT, NAME_SENT = 1024, 64
NEVER: Final = 2**63 - 1
#: Knuth's multiplier: numbers that follow each other end up far apart.
SCATTER: Final = 2654435761
#: Functions of a message that are said again.
AGAIN: Final = 1
#: What a function is known by: language, name, lane.
Key = tuple[str, str, str]


class Malformed(NifLabError, ValueError):
    """A report of another process makes no sense."""


@dataclass(slots=True)
class Counters:
    """What is counted of one function; ``histogram`` has the buckets of `nif_lab.segment.BOUNDS`, in nanoseconds."""

    calls: int = 0
    errors: int = 0
    recovered: int = 0
    timed: int = 0
    total_ns: int = 0
    min_ns: int = NEVER
    max_ns: int = 0
    histogram: dict[int, int] = field(default_factory=dict)

    def numbers(self) -> list[int]:
        """Return all but the histogram, in the order in which they are sent."""
        return [self.calls, self.errors, self.recovered, self.timed, self.total_ns, self.min_ns, self.max_ns]

    @property
    def mean_ns(self) -> float:
        return self.total_ns / self.timed if self.timed else 0.0


@dataclass(slots=True)
class State:
    """What is known of one process.

    Attributes
    ----------
    functions : dict
        Counters, by language, name and lane.
    errors : dict of int to tuple
        The last errors and steps of recoveries, by their number: time, language, function, text.
    memory : tuple of int
        Number of the report that said so last, and the bytes that shared arrays took then.
    """

    functions: dict[Key, Counters] = field(default_factory=dict)
    errors: dict[int, tuple[float, str, str, str]] = field(default_factory=dict)
    memory: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which process, and which of its Labs: ``start`` is when the Lab was made, in ticks."""

    host: str
    machine: str
    pid: int
    start: int


@dataclass(frozen=True, slots=True)
class Report:
    """One message of a process: `report` made it."""

    origin: Origin
    state: State
    title: str
    ended: bool


def join(mine: State, news: State) -> None:
    """Add to what is known of a process what a report of the same process says."""
    for key, theirs in news.functions.items():
        if (have := mine.functions.get(key)) is None:
            if len(mine.functions) >= FUNCTIONS_KEPT:
                continue
            have = mine.functions[key] = Counters()
        have.calls, have.errors = max(have.calls, theirs.calls), max(have.errors, theirs.errors)
        have.recovered, have.timed = max(have.recovered, theirs.recovered), max(have.timed, theirs.timed)
        have.total_ns, have.max_ns = max(have.total_ns, theirs.total_ns), max(have.max_ns, theirs.max_ns)
        have.min_ns = min(have.min_ns, theirs.min_ns)
        for bucket, count in theirs.histogram.items():
            have.histogram[bucket] = max(have.histogram.get(bucket, 0), count)
    mine.errors.update(news.errors)
    for number in sorted(mine.errors)[:-ERRORS_KEPT]:
        del mine.errors[number]
    mine.memory = max(mine.memory, news.memory)


def add(total: dict[Key, Counters], more: dict[Key, Counters]) -> None:
    """Add one process's counters to a sum."""
    for key, it in more.items():
        have = total.setdefault(key, Counters())
        have.calls += it.calls
        have.errors += it.errors
        have.recovered += it.recovered
        have.timed += it.timed
        have.total_ns += it.total_ns
        have.min_ns, have.max_ns = min(have.min_ns, it.min_ns), max(have.max_ns, it.max_ns)
        for bucket, count in it.histogram.items():
            have.histogram[bucket] = have.histogram.get(bucket, 0) + count


def summed(states: Iterable[dict[Key, Counters]]) -> dict[Key, Counters]:
    """Return the sum over processes, by function."""
    total: dict[Key, Counters] = {}
    for it in states:
        add(total, it)
    return total


def merged(counters: Iterable[Counters]) -> Counters:
    """Return the sum over functions."""
    key = ("", "", "")
    return summed({key: it} for it in counters).get(key, Counters())


def percentile_ns(histogram: dict[int, int], share: float) -> float:
    """Return the time that this share of the calls doesn't exceed: the middle of its bucket."""
    left = share * sum(histogram.values())
    for bucket in sorted(histogram):
        left -= histogram[bucket]
        if left <= 0:
            return float(BOUNDS[bucket] + BOUNDS[bucket + 1]) / 2
    return 0.0


# What is sent.


def report(
    origin: Origin, now: State, sent: State, number: int, *, title: str = "", ended: bool = False, budget: int = BUDGET
) -> bytes:
    """Return the next message: what has changed since the last ones, as far as it fits.

    What doesn't fit comes with the next message. Where there is room, one function more is said again, each in its
    turn, for whoever missed a message or listens only now.

    Parameters
    ----------
    origin, title
        Which process, and what it is called.
    now
        What it has counted.
    sent
        What was sent; brought up to date.
    number
        Of the message, from 1.
    ended
        Whether this is the process's last message.
    budget
        Bytes, 1,000 or more.
    """
    head = {
        "origin": [origin.host, origin.machine, origin.pid, origin.start],
        "title": title[:NAME_SENT],
        "memory": [number, now.memory[1]],
        "ended": ended,
    }
    room = budget - len(_packed({**head, "errors": [], "functions": []}))
    errors: list[Any] = []
    for place in sorted(now.errors.keys() - sent.errors.keys(), reverse=True)[:2]:
        when, backend, function, text = now.errors[place]
        entry = [place, round(when, 3), backend[:NAME_SENT], function[:NAME_SENT], text[:TEXT_SENT]]
        if (size := len(_packed(entry)) + 1) <= room // 2:
            errors.append(entry)
            room -= size
    changed = sorted(
        (key for key, it in now.functions.items() if it != sent.functions.get(key)),
        key=lambda it: _calls(sent, it) - _calls(now, it),
    )
    # The dictionary's order is that in which functions were sent: the first was sent longest ago.
    again = [key for key, it in sent.functions.items() if it == now.functions.get(key)]
    functions: list[Any] = []
    for turn, key in enumerate([*changed, *again[:AGAIN]]):
        before = sent.functions.get(key) if turn < len(changed) else None
        entry, room = _entry(key, now.functions[key], before, room, number)
        if not entry:
            break
        functions.append(entry)
    message = _packed({**head, "errors": errors, "functions": functions})
    said = understood(message).state
    for key in said.functions:  # to the end of the order
        if key in sent.functions:
            sent.functions[key] = sent.functions.pop(key)
    join(sent, said)
    return message


def _calls(state: State, key: Key) -> int:
    it = state.functions.get(key)
    return it.calls if it is not None else 0


def _entry(key: Key, now: Counters, before: Counters | None, room: int, number: int) -> tuple[list[Any], int]:
    """Return what is said of a function, and how many bytes are left; nothing if it doesn't fit.

    Of a histogram that doesn't fit each message has another part.
    """
    had = before.histogram if before is not None else {}
    entry: list[Any] = [*key, *now.numbers(), []]
    room -= len(_packed(entry)) + 1
    if room < 0:
        return [], room
    buckets = [*now.histogram.items()]
    first = (number * SCATTER >> 8) % max(len(buckets), 1)
    for bucket, count in buckets[first:] + buckets[:first]:
        if had.get(bucket) != count:
            room -= len(f"{bucket},{count},")
            if room < 0:
                break  # the rest counts as changed, and comes with the next message
            entry[-1] += (bucket, count)
    return entry, max(room, 0)


def _packed(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def understood(message: bytes) -> Report:
    """Read a message.

    Raises
    ------
    Malformed
        When it is none.
    """
    try:
        said = json.loads(message)
        host, machine, pid, start = said["origin"]
        origin = Origin(_word(host), _word(machine), _count(pid), _count(start))
        number, in_use = map(_count, said["memory"])
        state = State(memory=(number, in_use))
        for key, when, backend, function, text in said["errors"]:
            state.errors[_count(key)] = (_time(when), _word(backend), _word(function), _word(text, TEXT_SENT))
        for backend, function, lane, *numbers, pairs in said["functions"]:
            buckets, counts = list(map(_count, pairs[::2])), list(map(_count, pairs[1::2]))
            if len(numbers) != 7 or len(buckets) != len(counts) or max(buckets, default=0) >= BUCKETS:
                raise ValueError("a function's numbers")
            names = _word(backend), _word(function), _word(lane)
            found = state.functions[names] = Counters(*map(_count, numbers))  # type: ignore[arg-type] # there are seven
            found.histogram.update(zip(buckets, counts, strict=True))
        return Report(origin, state, _word(said["title"]), bool(said["ended"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise Malformed(f"a report that makes no sense: {type(error).__name__}: {error}"[:200]) from None


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"{str(value)[:20]} is no count")
    return value


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no time")
    return float(value)


def _word(value: Any, most: int = NAME_SENT) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError("no word")
    return value
