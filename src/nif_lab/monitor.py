"""``nif-lab monitor``: the counters of another process's Labs, live in the terminal.

It reads the telemetry segments of a process of the same user (docs/telemetry.md) and asks that process for nothing, so
a busy one is watched as well as an idle one, and neither is slowed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import NifLabError
from .segment import Segment, SegmentError, attach, sensible
from .telemetry import FunctionStats, Snapshot, snapshot_of
from .text import format_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["run"]

WIDTH: Final = 80
#: Of a command line that is shown; another process may have any.
COMMAND_BYTES: Final = 4096
#: How many functions and errors of a Lab are shown, and how many errors ``--json`` has.
FUNCTIONS_SHOWN, ERRORS_SHOWN, ERRORS_KEPT = 10, 4, 20
#: What is said of an error.
ERROR: Final = ("time", "backend", "function", "kind", "argument", "message", "cell")

# What a terminal understands: no cursor and no wrapping while the grid is shown; one line up; erase to the end.
BEGIN, END, UP, ERASE_LINE, ERASE_BELOW = "\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h", "\x1b[{}A\r", "\x1b[K", "\x1b[J"


@dataclass(frozen=True, slots=True)
class _Look:
    """What the Labs of a process had counted at one instant, by the time of their making."""

    time: float
    labs: dict[int, tuple[Segment, Snapshot]]


def _look(segments: list[Segment]) -> _Look:
    read = sensible(lambda: {int(it.header["base_ticks"]): (it, snapshot_of(it)) for it in segments})
    return _Look(time.monotonic(), read)


def _counters(now: FunctionStats, before: int, seconds: float) -> dict[str, Any]:
    """Return one row of the grid; ``before`` is the number of calls at the last look."""
    return {
        "backend": now.backend,
        "calls": now.calls,
        "calls_per_s": (now.calls - before) / seconds,
        "mean_ns": now.mean_ns,
        "p50_ns": now.p50_ns,
        "p99_ns": now.p99_ns,
        "p999_ns": now.p999_ns,
        "errors": now.errors,
        "error_rate": now.error_rate,
        "recovered": now.recovered,
    }


def _report(pid: int, command: str, before: _Look, now: _Look) -> dict[str, Any]:
    """Put two looks together: what ``--json`` prints and the grid shows."""
    seconds = now.time - before.time
    labs = []
    for key, (segment, snapshot) in now.labs.items():
        last = before.labs[key][1] if key in before.labs else Snapshot(())
        calls = {(it.backend, it.function, it.lane): it.calls for it in (*last.functions, *last.backends)}
        rows = [_counters(it, calls.get((it.backend, "", ""), 0), seconds) for it in snapshot.backends]
        busy = [
            {"function": it.function, "lane": it.lane}
            | _counters(it, calls.get((it.backend, it.function, it.lane), 0), seconds)
            for it in snapshot
            if it.calls
        ]
        busy.sort(key=lambda row: (-row["calls_per_s"], -row["calls"]))
        enabled = bool(segment.header["enabled"])
        last_errors = segment.describe_errors(segment.errors()[-ERRORS_KEPT:])
        errors = [{name: it[name] for name in ERROR} for it in last_errors]
        labs.append({"enabled": enabled, "backends": rows, "functions": busy, "errors": errors})
    return {"pid": pid, "command": command, "time": time.time(), "seconds": seconds, "labs": labs}


def _short(number: float, digits: int) -> str:
    """Return a number in full if it has so few digits, else as ``12.3 M``."""
    if number < 10**digits:
        return f"{number:.3g}" if number < 100 else f"{number:.0f}"
    for unit in "kMGT":
        number /= 1000
        if number < 999.5:
            return f"{number:.3g} {unit}"
    return f"{number:.3g} T"


def _printable(line: str) -> str:
    """Cut a line to 80 columns, without what would steer the terminal: its text comes from another process."""
    return "".join(letter if letter.isprintable() else " " for letter in line)[:WIDTH].rstrip()


def _lines(report: dict[str, Any]) -> list[str]:
    return [_printable(line) for line in _draw(report)]


def _clock(instant: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(instant))
    except (ValueError, OverflowError, OSError):  # another process wrote it
        return "--:--:--"


def _draw(report: dict[str, Any]) -> Iterator[str]:
    yield f"process {report['pid']}  {report['command']}"
    for number, lab in enumerate(report["labs"], 1):
        if number > 1:
            yield ""
        if len(report["labs"]) > 1 or not lab["enabled"]:
            yield f"Lab {number} of {len(report['labs'])}" + ("" if lab["enabled"] else ", telemetry is switched off")
        yield (
            f"{'backend':<10}{'calls':>12}{'calls/s':>10}{'mean':>10}{'p50':>10}{'p99':>10}{'errors':>9}{'error %':>9}"
        )
        for it in lab["backends"]:
            yield (
                f"{it['backend'][:10]:<10}{_short(it['calls'], 10):>12}{_short(it['calls_per_s'], 4):>10}"
                f"{format_ns(it['mean_ns']):>10}{format_ns(it['p50_ns']):>10}{format_ns(it['p99_ns']):>10}"
                f"{_short(it['errors'], 7):>9}{it['error_rate'] * 100:>9.2f}"
            )
        if lab["functions"]:
            yield ""
            yield f"{'busiest':<28}{'calls':>12}{'calls/s':>10}{'mean':>10}{'p99':>10}{'errors':>10}"
        for it in lab["functions"][:FUNCTIONS_SHOWN]:
            yield (
                f"{(it['backend'] + '.' + it['function'])[:27]:<28}{_short(it['calls'], 10):>12}"
                f"{_short(it['calls_per_s'], 4):>10}{format_ns(it['mean_ns']):>10}{format_ns(it['p99_ns']):>10}"
                f"{_short(it['errors'], 7):>10}"
            )
        if lab["errors"]:
            yield ""
            yield "last errors"
        for it in lab["errors"][-ERRORS_SHOWN:]:
            when = _clock(it["time"])
            yield f"{when} {it['backend']}.{it['function']}: {it['kind']}: {it['message']}"


def _print_json(report: dict[str, Any]) -> None:
    text = sensible(lambda: json.dumps(report, allow_nan=False))
    print(text, flush=True)


def _print_block(report: dict[str, Any]) -> None:
    print("\n".join(_lines(report)), end="\n\n", flush=True)


@contextmanager
def _grid() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Draw each report over the one before it, and leave the terminal as it was."""
    drawn = 0

    def show(report: dict[str, Any]) -> None:
        nonlocal drawn
        lines = _lines(report)[: shutil.get_terminal_size().lines - 1]  # what scrolled away can't be redrawn
        frame = UP.format(drawn) if drawn else ""
        sys.stdout.write(frame + "".join(f"{line}{ERASE_LINE}\n" for line in lines) + ERASE_BELOW)
        sys.stdout.flush()
        drawn = len(lines)

    sys.stdout.write(BEGIN)
    try:
        yield show
    finally:
        sys.stdout.write(END)
        sys.stdout.flush()


def _command(pid: int) -> str:
    """Return a process's command line; empty when it has none any more."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(COMMAND_BYTES).split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode(errors="replace") for word in words).strip()


def _processes() -> list[dict[str, Any]]:
    """Find the processes of this user that have a Lab, other than this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if folder.stat().st_uid != os.geteuid():
                continue
            languages = {name: None for it in attach(int(folder.name)) for name in it.backends()}
        except (OSError, SegmentError):
            continue  # it has no Lab, or has just ended
        pid = int(folder.name)
        found.append({"pid": pid, "command": _command(pid), "backends": list(languages)})
    return sorted(found, key=lambda it: int(it["pid"]))


def _watch(pid: int, interval: float, once: bool, show: Callable[[dict[str, Any]], None]) -> bool:
    """Show one report or one after the other; True when the process has ended."""
    segments, command = attach(pid), _command(pid)
    try:
        process = os.pidfd_open(pid)
    except OSError:
        raise SegmentError(f"there is no process {pid}") from None
    try:
        end = select.poll()
        end.register(process, select.POLLIN)
        before = _look(segments)
        pause = interval if once else min(interval, 0.5)  # nobody waits long for the first grid
        while True:
            ended = bool(end.poll(pause * 1000))
            with suppress(SegmentError):  # what is mapped stays readable after its process
                segments = attach(pid)  # Labs come and go
            now = _look(segments)
            show(sensible(partial(_report, pid, command, before, now)))
            if once or ended:
                return ended
            before, pause = now, interval
    finally:
        os.close(process)


def _choose(json_: bool) -> int | None:
    """Return the only process with a Lab; with several, list them and return None."""
    found = _processes()
    if not found:
        raise SegmentError("no process of this user has a Lab")
    if len(found) == 1:
        return int(found[0]["pid"])
    if json_:
        print(json.dumps({"processes": found}))
        return None
    print(f"{'pid':>8}  {'languages':<24}  command")
    for it in found:
        print(_printable(f"{it['pid']:>8}  {' '.join(it['backends']):<24}  {it['command']}"))
    return None


def run(pid: int | None, *, interval: float = 0.5, once: bool = False, json_: bool = False) -> int:
    """Watch the Labs of a process until it ends or Ctrl-C is pressed.

    Parameters
    ----------
    pid
        The process; without it, the only one of this user that has a Lab, or a list of them if there are several.
    interval
        Seconds between looks, 0.05 to 3,600; rates are over that time.
    once
        Look over one interval, show that and return.
    json_
        One JSON object instead of the grid; without ``once``, one in a line for each look.

    Returns
    -------
    int
        0 when everything was shown, 1 when there is nothing to watch, 130 after Ctrl-C.
    """
    try:
        pid = _choose(json_) if pid is None else pid
        if pid is None:
            return 0
        interval = min(max(0.05, interval), 3600.0)
        if json_ or once or not sys.stdout.isatty():
            ended = _watch(pid, interval, once, _print_json if json_ else _print_block)
        else:
            with _grid() as show:
                ended = _watch(pid, interval, once, show)
    except NifLabError as error:
        print(f"nif-lab monitor: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nif-lab monitor: interrupted", file=sys.stderr)
        return 130
    if ended:
        print(f"nif-lab monitor: process {pid} has ended", file=sys.stderr if json_ else sys.stdout)
    return 0
