"""A process that reads the telemetry of many: ``python -m nif_lab.fleet.collector``.

Reading 64 segments eight times a second takes more of a processor than a notebook's kernel should spare. So a process
of its own does it: it finds the processes below the kernel's, reads them in place, joins what other machines have sent,
and writes what has changed. The kernel passes its messages on to the page as they are.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import kind_name
from ..segment import SegmentError, attach, sensible
from .reading import Reader, host_name, is_alive, title_of
from .tally import (
    Counters,
    Key,
    Malformed,
    Origin,
    Report,
    State,
    add,
    join,
    merged,
    percentile_ns,
    summed,
    understood,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Collection", "family"]

#: Seconds between two searches for processes, and of silence after which one of another machine counts as gone.
SEARCH, SILENCE = 1.0, 35.0
#: Seconds between two looks for another Lab of a process that has one.
AGAIN: Final = 5.0
#: Processes that are shown. Of more, those that have been gone for longest are only counted in the sum; while all are
#: alive, no more are taken.
PROCESSES: Final = 4096
#: Processes below the kernel's that are looked at.
FAMILY: Final = 4096
#: Functions of all processes and of each, errors and calls of a message.
FUNCTIONS_SHOWN, OWN_SHOWN, ERRORS_SHOWN, CALLS_SHOWN = 12, 6, 10, 100
#: Processes whose calls are read for one update: reading them takes longest.
SAMPLED: Final = 10
#: Seconds over which calls per second are counted.
RATE_SECONDS: Final = 1.0


def family(pid: int) -> Iterator[int]:
    """Yield a process and all below it, the nearest first."""
    waiting = deque([pid])
    while waiting:
        yield (one := waiting.popleft())
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children", "rb") as children:
                    waiting.extend(map(int, children.read().split()))
        except OSError:
            continue  # it has ended meanwhile


@dataclass(slots=True)
class _Member:
    """One process of the fleet, by one of its Labs."""

    number: int
    origin: Origin
    title: str
    state: State
    reader: Reader | None = None
    heard: float = 0.0
    gone: float = 0.0  # when it was found to be gone; 0 while it isn't
    is_changed: bool = True
    seen: list[int] = field(default_factory=list)  # calls of each backend that were shown
    sampled: float = 0.0  # when
    counts: deque[tuple[float, int]] = field(default_factory=deque)
    detail: tuple[float, dict[str, Any]] = (0.0, {})  # what takes longer, and when it was made


@dataclass(slots=True)
class _Attached:
    """What a process was found to have open."""

    looked: float = 0.0  # when
    inodes: set[int] = field(default_factory=set)
    has_lab: bool = False


class Collection:
    """What is known of all processes.

    Parameters
    ----------
    root
        The process whose family is read in place.
    lab
        Of the root's Labs the one that is wanted, by its ``base_ticks``; 0 for all.
    """

    def __init__(self, root: int, lab: int = 0) -> None:
        self.root, self.lab = root, lab
        self.members: dict[Origin, _Member] = {}
        self._titles: dict[Origin, str] = {}
        self._left_out: set[Origin] = set()
        self._named: set[int] = set()  # processes of this machine that have said where they are
        self._numbers = 0
        self._forgotten = State()
        self._searched = -SEARCH
        self._host = host_name()
        self._attached: dict[int, _Attached] = {}
        self._total: tuple[float, list[list[Any]]] = (-SEARCH, [])

    # What comes in.

    def hear(self, message: bytes) -> None:
        """Take a report of any process."""
        try:
            said = understood(message)
        except Malformed:
            return
        self.take(said)

    def take(self, said: Report) -> None:
        """Join a report that was read."""
        if said.origin.host == self._host:
            self._named.add(said.origin.pid)  # it is read in place
            self._titles[said.origin] = said.title
            if said.origin in self.members:
                self.members[said.origin].title = said.title
            return
        if (member := self._member(said.origin, said.title)) is None:
            return
        join(member.state, said.state)
        member.heard = time.monotonic()
        member.gone = time.time() if said.ended else 0.0
        member.is_changed = True

    def _member(self, origin: Origin, title: str, reader: Reader | None = None) -> _Member | None:
        """Return a process, a new one too if there is room; None for one that is left out."""
        if (found := self.members.get(origin)) is None:
            if origin in self._left_out or not self._make_room():
                self._left_out.add(origin)
                return None
            self._numbers += 1
            found = self.members[origin] = _Member(self._numbers, origin, title, State())
        if reader is not None and found.reader is None:
            found.reader, found.state, found.is_changed = reader, reader.state, True
        return found

    def _make_room(self) -> bool:
        """Leave out the process that has been gone for longest, if need be; the sum keeps what it has counted.

        Returns
        -------
        bool
            Whether there is room for another: one that is alive isn't left out, as its next report has all counters.
        """
        if len(self.members) < PROCESSES:
            return True
        oldest = min(self.members.values(), key=lambda it: (not it.gone, it.gone, it.number))
        if not oldest.gone:
            return False
        add(self._forgotten.functions, oldest.state.functions)
        self._left_out.add(oldest.origin)
        del self.members[oldest.origin]
        return True

    def look(self) -> None:
        """Find new processes, notice those that are gone, and read what has changed."""
        now = time.monotonic()
        if now - self._searched >= SEARCH:
            self._searched = now
            self._search()
            for it in self.members.values():
                if it.reader is not None:
                    is_gone = not is_alive(it.origin.pid)
                else:
                    is_gone = it.gone > 0 or now - it.heard > SILENCE
                if is_gone and not it.gone:
                    it.gone, it.is_changed = time.time(), True
        for it in self.members.values():
            if it.reader is not None:
                try:
                    it.is_changed |= sensible(partial(it.reader.look, SEARCH))
                except SegmentError:
                    it.reader, it.gone, it.is_changed = None, it.gone or time.time(), True
            calls = sum(counters.calls for counters in it.state.functions.values()) if it.is_changed else -1
            if calls < 0 and it.counts:
                calls = it.counts[-1][1]
            it.counts.append((now, max(calls, 0)))
            while len(it.counts) > 2 and it.counts[1][0] <= now - RATE_SECONDS:
                it.counts.popleft()
            if it.counts[0][1] != it.counts[-1][1]:
                it.is_changed = True  # the rate falls although nothing is called

    def _search(self) -> None:
        alive = set(islice(family(self.root), FAMILY)) | self._named
        now = time.monotonic()
        for pid in self._attached.keys() - alive:
            del self._attached[pid]
        for pid in alive:
            known = self._attached.setdefault(pid, _Attached())
            if known.has_lab and now - known.looked < AGAIN:
                continue
            known.looked = now
            try:
                found = [it for it in attach(pid, known.inodes) if int(it.header["pid"]) == pid]
            except SegmentError:
                if not (known.has_lab and is_alive(pid)):
                    self._named.discard(pid)
                continue
            for segment in found:
                start = int(segment.header["base_ticks"])
                if pid == self.root and self.lab not in (0, start):
                    continue
                known.has_lab = True
                reader = Reader(segment)
                title = "this process" if pid == self.root else self._titles.get(reader.origin) or title_of(pid)
                self._member(reader.origin, title, reader)

    # What goes out.

    def update(self, whole: bool = False) -> dict[str, Any] | None:
        """Return what has changed since the last update, or all; None for nothing."""
        changed = [it for it in self.members.values() if whole or it.is_changed]
        if not changed and not whole:
            return None
        calls = [] if whole else self._some_calls(changed)
        for it in changed:
            it.is_changed = False
        every = self.members.values()
        if whole or time.monotonic() - self._total[0] >= SEARCH:  # a sum over all of them takes longest
            total = _functions(summed([*(it.state.functions for it in every), self._forgotten.functions]))
            self._total = time.monotonic(), total
        return {
            "kind": "fleet",
            "whole": whole,
            "time": time.time(),
            "processes": [self._row(it) for it in changed],
            "total": self._total[1],
            "alive": sum(not it.gone for it in every),
            "gone": sum(it.gone > 0 for it in every),
            "left_out": len(self._left_out),
            "memory": sum(it.state.memory[1] for it in every if not it.gone),
            "calls": sorted(calls)[-CALLS_SHOWN:],
        }

    def _some_calls(self, changed: list[_Member]) -> list[list[Any]]:
        """Return new calls of some of the processes, of others the next time."""
        turn = sorted(changed, key=lambda it: it.sampled)[:SAMPLED]
        most = CALLS_SHOWN // max(len(turn), 1)
        for it in turn:
            it.sampled = time.monotonic()
        return [call for it in turn for call in _new_calls(it, most)]

    def _row(self, it: _Member) -> dict[str, Any]:
        (since, before), (now, calls) = it.counts[0] if it.counts else (0, 0), it.counts[-1] if it.counts else (0, 0)
        made = time.monotonic()
        if made - it.detail[0] >= SEARCH or it.gone:
            everything = merged(it.state.functions.values())
            p99, busiest = percentile_ns(everything.histogram, 0.99), _functions(it.state.functions, OWN_SHOWN)
            it.detail = made, {"mean_ns": round(everything.mean_ns, 1), "p99_ns": p99, "functions": busiest}
        counters = it.state.functions.values()
        return {
            "number": it.number,
            "host": it.origin.host,
            "machine": it.origin.machine,
            "pid": it.origin.pid,
            "title": it.title,
            "path": "in place" if it.reader is not None else "sent",
            "gone": it.gone,
            "calls": sum(one.calls for one in counters),
            "errors": sum(one.errors for one in counters),
            "recovered": sum(one.recovered for one in counters),
            "calls_per_s": round(max(calls - before, 0) / max(now - since, 1e-3), 1) if not it.gone else 0.0,
            "memory": it.state.memory[1],
            "failures": [[*it.state.errors[key]] for key in sorted(it.state.errors)[-ERRORS_SHOWN:]],
            **it.detail[1],
        }


def _functions(counted: dict[Key, Counters], most: int = FUNCTIONS_SHOWN) -> list[list[Any]]:
    """Return the functions that took most time."""
    busiest = sorted(counted.items(), key=lambda it: -it[1].calls * max(it[1].mean_ns, 1.0))[:most]
    return [
        [*key, it.calls, it.errors, it.recovered, round(it.mean_ns, 1), percentile_ns(it.histogram, 0.99)]
        for key, it in busiest
        if it.calls
    ]


def _new_calls(it: _Member, most: int) -> list[list[Any]]:
    """Return a process's calls since the last look: time, process, language, function, duration, error."""
    if it.reader is None:
        return []
    segment = it.reader.segment

    def read() -> list[list[Any]]:
        records = segment.calls(it.seen)
        entries, names = segment.entries(), segment.backends()
        records = records[records["function"] < len(entries)]
        seen = np.zeros(segment.max_backends, np.int64)
        seen[: len(it.seen)] = it.seen
        np.maximum.at(seen, entries["backend"][records["function"]], records["commit"].astype(np.int64))
        it.seen = seen.tolist()
        records = records[-most:]
        return [
            [
                float(when),
                it.number,
                names[entries["backend"][call["function"]]],
                entries["name"][call["function"]].decode(errors="replace"),
                ns,
                kind_name(int(call["status"])) if call["status"] else "",
            ]
            for when, ns, call in zip(
                segment.to_epoch(records["start"]), segment.to_ns(records["ticks"]).tolist(), records, strict=True
            )
        ]

    try:
        return sensible(read)
    except SegmentError:
        return []


def main(root: int, lab: int, rate: float) -> None:
    """Collect until the standard input closes: it has reports, and empty messages that ask for all there is."""
    os.nice(5)
    fleet = Collection(root, lab)
    source, waiting, asked = sys.stdin.buffer, bytearray(), 0
    due = time.monotonic()
    while True:
        if select.select([source], [], [], max(due - time.monotonic(), 0.0))[0]:
            data = os.read(source.fileno(), 1 << 20)
            if not data:
                return
            waiting += data
            while len(waiting) >= 4 and len(waiting) >= (end := 4 + int.from_bytes(waiting[:4], "little")):
                if end == 4:
                    asked += 1
                else:
                    fleet.hear(bytes(waiting[4:end]))
                del waiting[:end]
        if time.monotonic() < due and not asked:
            continue
        fleet.look()
        for whole in [False] + [True] * asked:
            if (update := fleet.update(whole)) is not None:
                text = json.dumps(update, separators=(",", ":")).encode()
                sys.stdout.buffer.write(len(text).to_bytes(4, "little") + b"uw"[whole : whole + 1] + text)
                sys.stdout.buffer.flush()
        asked = 0
        if (now := time.monotonic()) >= due:
            due = due + 1 / rate if now < due + 1 / rate else now + 1 / rate  # late, but never in arrears


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
