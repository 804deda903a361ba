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
import termios
import time
import tty
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import NifLabError
from .fleet.collector import Collection
from .fleet.show import text_of
from .segment import Segment, SegmentError, attach, sensible
from .telemetry import FunctionStats, Snapshot, snapshot_of
from .text import format_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["run"]

#: Columns of what isn't written to a terminal; a terminal's own width is used.
WIDTH: Final = 80
#: Of a command line that is shown; another process may have any.
COMMAND_BYTES: Final = 4096
#: Of an environment that is read, and the entry in which Jupyter Server tells a kernel its notebook.
ENVIRON_BYTES: Final = 1 << 17
SESSION: Final = b"JPY_SESSION_NAME="
#: How many functions and errors of a Lab are shown, and how many errors ``--json`` has.
FUNCTIONS_SHOWN, ERRORS_SHOWN, ERRORS_KEPT = 10, 4, 20
#: Seconds to reach a cluster's scheduler.
CONNECT: Final = 10
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


def _width() -> int:
    """Return how many columns there are."""
    return max(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH) if sys.stdout.isatty() else WIDTH


def _printable(line: str, width: int = WIDTH) -> str:
    """Cut a line to so many columns, without what would steer the terminal: its text comes from another process."""
    return "".join(letter if letter.isprintable() else " " for letter in line)[:width].rstrip()


def _lines(report: dict[str, Any]) -> list[str]:
    width = _width()
    drawn = text_of(report, width) if "processes" in report else _draw(report, width)
    return [_printable(line, width) for line in drawn]


def _clock(instant: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(instant))
    except (ValueError, OverflowError, OSError):  # another process wrote it
        return "--:--:--"


def _draw(report: dict[str, Any], width: int = WIDTH) -> Iterator[str]:
    wide = 28 + width - WIDTH  # of a function's name, which gets what a wide terminal has more
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
            yield f"{'busiest':<{wide}}{'calls':>12}{'calls/s':>10}{'mean':>10}{'p99':>10}{'errors':>10}"
        for it in lab["functions"][:FUNCTIONS_SHOWN]:
            yield (
                f"{(it['backend'] + '.' + it['function'])[: wide - 1]:<{wide}}{_short(it['calls'], 10):>12}"
                f"{_short(it['calls_per_s'], 4):>10}{format_ns(it['mean_ns']):>10}{format_ns(it['p99_ns']):>10}"
                f"{_short(it['errors'], 7):>10}"
            )
        if lab["errors"]:
            yield ""
            yield "last errors"
        for it in lab["errors"][-ERRORS_SHOWN:]:
            when = _clock(it["time"])
            what = ": ".join(
                filter(None, (it["kind"], it["message"]))
            )  # a step of a recovery is no error and has no kind
            yield f"{when} {it['backend']}.{it['function']}: {what}"


def _print_json(report: dict[str, Any]) -> None:
    text = sensible(lambda: json.dumps(report, allow_nan=False))
    print(text, flush=True)


def _print_block(report: dict[str, Any]) -> None:
    print("\n".join(_lines(report)), end="\n\n", flush=True)


@contextmanager
def _grid() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Draw each report over the one before it, and leave the terminal as it was."""
    drawn = 0
    before = termios.tcgetattr(sys.stdin) if _has_keys() else None
    if before is not None:
        tty.setcbreak(sys.stdin)  # a key counts at once, and isn't shown

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
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write(END)
        sys.stdout.flush()


def _has_keys() -> bool:
    """Whether somebody can press keys."""
    try:
        return sys.stdin.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _command(pid: int) -> str:
    """Return a process's command line; empty when it has none any more."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(COMMAND_BYTES).split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode(errors="replace") for word in words).strip()


def _notebook(pid: int) -> str:
    """Return the notebook that a kernel runs, as Jupyter Server tells it; empty for any other process."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read(ENVIRON_BYTES).split(b"\0")
    except OSError:
        return ""
    return next((it.partition(b"=")[2].decode(errors="replace") for it in entries if it.startswith(SESSION)), "")


def _processes() -> list[dict[str, Any]]:
    """Find the processes of this user that have a Lab, other than this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if folder.stat().st_uid != os.geteuid():
                continue
            pid = int(folder.name)
            # Whoever shows another process's Labs has their segments open too: a dashboard's renderer, a monitor.
            own = [it for it in attach(pid) if it.header["pid"] == pid]
            languages = {name: None for it in own for name in it.backends()}
        except (OSError, SegmentError):
            continue  # it has no Lab, or has just ended
        if own:
            about = {"pid": pid, "command": _command(pid), "backends": list(languages), "notebook": _notebook(pid)}
            found.append(about)
    return sorted(found, key=lambda it: int(it["pid"]))


def _one(pid: int) -> Iterator[dict[str, Any]]:
    """Yield nothing, then a report of one process each time."""
    segments, command = attach(pid), _command(pid)
    before = _look(segments)
    yield {}
    while True:
        with suppress(SegmentError):  # what is mapped stays readable after its process
            segments = attach(pid)  # Labs come and go
        now = _look(segments)
        yield sensible(partial(_report, pid, command, before, now))
        before = now


def _all(pid: int, dask: str | None) -> Iterator[dict[str, Any]]:
    """Yield nothing, then a report of a process and all below it each time, and of the workers of a Dask cluster."""
    fleet = Collection(pid)
    with ExitStack() as open_:
        if dask is not None:
            open_.enter_context(_cluster(dask, fleet))
        attach(pid)  # raises if it has no Lab
        fleet.look()
        yield {}
        while True:
            fleet.look()
            yield fleet.update(whole=True) or {}


@contextmanager
def _cluster(address: str, fleet: Collection) -> Iterator[None]:
    """Let a cluster's telemetry come to a collection; its workers have the plugin of whoever uses them."""
    from distributed import Client

    from .engines.dask import listen
    from .fleet.channel import inboxes

    with Client(address, set_as_default=False, timeout=CONNECT) as client:  # type: ignore[no-untyped-call]
        inboxes.add(fleet)
        listen(client)
        yield


def _watch(
    pid: int, reports: Iterator[dict[str, Any]], interval: float, once: bool, show: Callable[[dict[str, Any]], None],
    keys: bool = False,
) -> bool:  # fmt: skip
    """Show one report or one after the other; True when the process has ended, False when ``q`` was pressed."""
    next(reports)
    try:
        process = os.pidfd_open(pid)
    except OSError:
        raise SegmentError(f"there is no process {pid}") from None
    try:
        end = select.poll()
        end.register(process, select.POLLIN)
        if keys:
            end.register(sys.stdin, select.POLLIN)
        pause = interval if once else min(interval, 0.5)  # nobody waits long for the first grid
        while True:
            heard = {descriptor for descriptor, _ in end.poll(pause * 1000)}
            ended = process in heard
            if keys and heard - {process} and os.read(sys.stdin.fileno(), 64)[:1] in {b"q", b"Q", b""}:
                return False
            show(next(reports))
            if once or ended:
                return ended
            pause = interval
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
    print(f"{'':>3} {'pid':>8}  {'languages':<24}  notebook or command")
    for number, it in enumerate(found, 1):
        languages, what = " ".join(it["backends"]), it["notebook"] or it["command"]
        print(_printable(f"{number:>3} {it['pid']:>8}  {languages:<24}  {what}", _width()))
    return _ask(found) if _has_keys() and sys.stdout.isatty() else None


def _ask(found: list[dict[str, Any]]) -> int | None:
    """Let the user choose by number; None for none."""
    while True:
        print(f"Which one? 1 to {len(found)}, q to quit: ", end="", flush=True)
        try:
            answer = input().strip()
        except EOFError:
            return None
        if answer.lower() in {"q", ""}:
            return None
        if answer.isdecimal() and 1 <= int(answer) <= len(found):
            return int(found[int(answer) - 1]["pid"])


def run(
    pid: int | None,
    *,
    interval: float = 0.5,
    once: bool = False,
    json_: bool = False,
    every: bool = False,
    dask: str | None = None,
) -> int:
    """Watch the Labs of a process until it ends, ``q`` is pressed in a terminal, or Ctrl-C.

    Parameters
    ----------
    pid
        The process; without it, the only one of this user that has a Lab. If there are several, a terminal asks which,
        and anything else gets a list.
    interval
        Seconds between looks, 0.05 to 3,600; rates are over that time.
    once
        Look over one interval, show that and return.
    json_
        One JSON object instead of the grid; without ``once``, one in a line for each look.
    every
        Show the processes below that one too, as a tree.
    dask
        The address of a scheduler, whose workers on other machines are shown too.

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
        reports = _all(pid, dask) if every or dask is not None else _one(pid)
        if json_ or once or not sys.stdout.isatty():
            ended = _watch(pid, reports, interval, once, _print_json if json_ else _print_block)
        else:
            with _grid() as show:
                ended = _watch(pid, reports, interval, once, show, _has_keys())
    except NifLabError as error:
        print(f"nif-lab monitor: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nif-lab monitor: interrupted", file=sys.stderr)
        return 130
    if ended:
        print(f"nif-lab monitor: process {pid} has ended", file=sys.stderr if json_ else sys.stdout)
    return 0
