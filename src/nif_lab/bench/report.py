"""Results as people read them: a table for the terminal, and one for docs/benchmarks.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .. import machine
from ..text import Rows, tables_text
from . import arrays, cells, gpu, lane, memory, recovery, scale, transfer, wire
from .contender import KERNELS
from .monitoring import DURATIONS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["as_markdown", "as_text", "write"]

#: What the file begins with; each suite's tables go between its markers.
TEMPLATE: Final = """# Benchmarks

`nif-lab bench SUITE --write docs/benchmarks.md` writes this file; nothing in it is written by hand. A figure is a
median and stands with its quartiles; what is compared was measured in one run, interleaved.

## What a call costs: `nif-lab bench dispatch`

Every contender does the same work with the same checks (arguments' types, element type, axes, contiguity, equal
lengths) and returns the same answer, which is asserted before anything is timed; those marked *no checks* take bare
pointers. The backends run with monitoring on, their peers have none. A contender's turn is framed by turns of the
bound, a hand-written extension module, and the ratio is taken within the frame. The bound's own ratio is the control.
Times are the calling thread's processor time; of a backend that has its own thread, wall time.

<!-- dispatch -->
<!-- /dispatch -->

## What arrays of other libraries cost: `nif-lab bench arrays`

The same `dot` with the arrays of each library, as they are: by nif_lab, by tvm-ffi and nanobind, and by NumPy's own
conversion before a hand-written extension. *Two capsules* is what the library itself takes to produce them, which all
who read by `__dlpack__` have to wait for. Answers are asserted. Turns are framed by turns of nif_lab's call with NumPy
arrays, and the ratio is taken within the frame; its own ratio is the control. Times are the thread's processor time.

<!-- arrays -->
<!-- /arrays -->

## What a device costs: `nif-lab bench gpu`

Blocks of a device's memory, copies and starts of kernels, beside CuPy's and the driver's own, on the wall clock. What a
turn of starts leaves in the device's queue is waited for after it, so a start is the processor's part. Copies are
waited for within their turn. Contents are asserted before anything is timed.

<!-- gpu -->
<!-- /gpu -->

## What a call into another process costs: `nif-lab bench lane`

Each call goes to a function in another process and its answer comes back; both vectors of `dot` lie in memory that
client and server share, so no elements travel. All answers are asserted before anything is timed. Clients and servers
are Python where nothing else is said. Every single call is timed on the wall clock, and nothing is subtracted: a
reading of the clock is in each figure, some 70 ns in Python and 20 ns in C. *p50* and *p99* are of the calls of one
turn; figures are medians over turns, ratios are of p50 within one round.

Servers that poll (spinning, iceoryx2) are stopped while others have their turn, and take part only where each side has
a core for itself: on one core each waits for the other's time slice to end, which makes 8 ms of a spinning call's
0.3 µs. Where nothing is pinned the system tends to start both sides on one core and to part them after some tens of
milliseconds of calls, so figures there lie between those of the two situations before.

<!-- lane -->
<!-- /lane -->

## What an array costs: `nif-lab bench memory`

An array of `lab.memory.empty` is allocated and released, beside `np.empty` and the two ways in which Python gets memory
that processes can share; of those, a name is unlinked at once, and no array is made where none is touched. *Touched*
means that one element of each page is written: memory of the pools has its pages already, all others have to get them
from the system. Turns are framed by turns of `np.empty`, and long enough that each contender finds its own caches: the
first 64 MiB of the pool that are touched after `np.empty` has swept them take several times as long. Whether memory
keeps what is written is asserted first.

The overhead is (committed - cached + metadata - requested) / requested at the peak of a trace, of which every block is
filled; *cached* is what lies in free blocks, *with it* counts that too, *trimmed* does so after it was given back. One
trace is of sizes and lifetimes recorded from all NumPy arrays of the demo and the notebooks (plots make most of them),
the other of log-normal sizes (median 16 KiB, sigma 2, up to 64 MiB) with exponential lifetimes.

<!-- memory -->
<!-- /memory -->

## What monitoring costs: `nif-lab bench monitoring`

`lab.telemetry.enabled` is turned on (A) and off (B) in quartets A-B-B-A around `lab.rust.sum` of vectors of three
lengths, on the clock of the thread's processor time. The cost is the median over quartets, with a 95 % confidence
interval by bootstrap. The control is the same with A in all four places: what it shows is noise. Below it: what one
record of a duration costs that Python code measured itself, `lab.telemetry.recorder(name)`, and the same elsewhere.

Last, what a dashboard that somebody looks at costs a busy kernel, one quartet for ten of the others: a real kernel
under a real server runs a cell with a page (A) and without (B). *Cost* is the main thread's processor time, *on the
wall* counts waiting for the interpreter and for a processor too, *other threads* is what the kernel's others took more,
in percent of a processor.

<!-- monitoring -->
<!-- /monitoring -->

## What becomes of failures: `nif-lab bench recovery`

[The campaign](campaign.md) in the isolated lane, every language failing in every way while another thread
calls it without a pause; times are from the call to the right answer, with a spare worker ready unless said otherwise.
The goals of time are missed on a busy machine; the others never may be.

Then one task ends its process by a write through a null pointer, once, with four others beside it. Executors don't try
again: their pool is broken, and all tasks in it are lost; *with a retry by hand* their user makes a new one, and the
time goes on until that has answered. Ray retries by itself. Each pool is measured in a process of its own, in an order
drawn anew in each round; its workers have worked before, but a new pool has to start its own. In nif_lab each of the
four is a thread that calls the same language every millisecond, and the time includes the call itself.

<!-- recovery -->
<!-- /recovery -->

## What `lab.map` costs, crashes in pools and on Dask, telemetry of many processes: `nif-lab bench scale`

Blocks sleep for the time that is named, on a pool of processes of the standard library; both ways use the same pool,
in an order that is drawn for each round, and the ratio is taken within a round. A task of `nif_lab.Executor` writes
through a null pointer once and is repeated in the spare worker: from the moment before it crashes to its answer in the
caller. Then other pools with the same crash, as in `nif-lab bench recovery`, and nif_lab's in a process like theirs.

On a Dask cluster of two workers each task writes through a null pointer once: in the isolated lane of the worker's Lab,
or in the worker itself. Workers that are *lost* were there, or began a task, and are gone in the end.

Telemetry: 64 processes that record 80 calls a second each are read in place, and each update is signed and written to
a socket as ipykernel does it. 1,000 processes are simulated: eight functions each, all called in every second.

<!-- scale -->
<!-- /scale -->

## What a transfer costs: `nif-lab bench transfer`

`lab.transfer` between any two languages, of float64 in a pool: *in a transfer* is the time in which the target is told
where an array lies that the source has just read. In the direct lane that has swept the caches; the control is Python's
`id(x)`, timed in the same place. *Again* is the time of the same call when it is repeated. GB/s are of the array's
bytes and of the time in which the source writes or encodes them and the target is told of them and reads them all; a
frame without a checksum is decoded, but not read. What was copied is the ledger's word. Times are wall time.

A copy goes between two arrays of a pool, all pages of which are warm, and is framed by turns of `np.copyto` of the same
bytes; that and `memmove` are the controls. A conversion is compared with `np.copyto` of three quarters of what it
writes, which makes the same traffic, since it reads half as much as it writes. Times are the thread's processor time.

Then an array gets into another process, which adds it up; what it answers travels back. All but nif_lab's and Ray's
receivers are a Python process that is told through a `multiprocessing.Pipe`; nif_lab's is Rust. *Any array* lies in no
pool and is copied there on the way. GB/s include the adding up. Ray's servers take some 5 % of a core meanwhile.

<!-- transfer -->
<!-- /transfer -->

## What a frame costs: `nif-lab bench wire`

An array becomes a version 2 frame of docs/wire.md, and the frame an array again. *Written* is x `np.copyto` into memory
that is warm: a bare copy of the bytes, framing the contender's turn; its own ratio is the control. *Read* is
nanoseconds until there is an array, of the backends until there is a node table: all checks are made, and those with a
checksum read every byte. Each contender has read back what it wrote, and all codecs of one format have written the same
bytes, before anything is timed. Times are the calling thread's processor time; of a backend that has its own thread,
wall time.

<!-- wire -->
<!-- /wire -->

## How soon a cell can be called: `nif-lab bench cells`

`lab.cell` of each language's example (`%%zig?` shows it), with another comment each time, from the text to the function
that a worker has loaded. All caches of the compilers are warm.

<!-- cells -->
<!-- /cells -->
"""


def _dispatch(result: dict[str, Any]) -> list[tuple[str, Rows]]:
    tables: list[tuple[str, Rows]] = []
    for kernel, heading in KERNELS.items():
        table = result[kernel]
        medians = {"bound": table["bound_ns"], **table["backends"], **table["peers"]}
        rows = [("", "ns", "quartiles", "min", "x bound", "quartiles")]
        for name, ratio in sorted(table["ratio_to_bound"].items(), key=lambda it: it[1]):
            spread, title = table["spread"][name], result["titles"][name]
            if kernel != "dot" and name in table["peers"]:
                title = title.partition(",")[0]  # how it passes arrays doesn't matter here
            rows.append((
                title,
                _ns(medians[name]),
                f"{_ns(spread['q1_ns'])} – {_ns(spread['q3_ns'])}",
                _ns(spread["min_ns"]),
                _ratio(ratio),
                f"{_ratio(spread['ratio_q1'])} – {_ratio(spread['ratio_q3'])}",
            ))  # fmt: skip
        tables.append((heading, rows))
    if "callbacks" in result:
        called: list[Sequence[str]] = [("", "ns", "quartiles")]
        for name, it in sorted(result["callbacks"].items(), key=lambda it: it[1]["ns"]):
            called.append((name, _ns(it["ns"]), f"{_ns(it['q1_ns'])} – {_ns(it['q3_ns'])}"))
        tables.append(("a callback into Python", called))
    return tables


def _lane(result: dict[str, Any]) -> list[tuple[str, Rows]]:
    tables: list[tuple[str, Rows]] = []
    for situation, where in lane.SITUATIONS.items():
        for kernel, contenders in result.get(situation, {}).items():
            ratios = [it for it in lane.REFERENCES if it in contenders]
            head = ["", "p50, µs", "quartiles", "p99, µs", "quartiles"]
            rows = [(*head, *(cell for it in ratios for cell in (f"x C, {it}", "quartiles")))]
            for name, row in sorted(contenders.items(), key=lambda it: it[1]["p50"]["us"]):
                shown = ("p50", "p99", *(f"x_{it}" for it in ratios))
                rows.append((result["titles"][name], *(cell for it in shown for cell in _cells(row[it]))))
            tables.append((f"{KERNELS[kernel]}, {where}", rows))
    return tables


def _cells(row: dict[str, float]) -> tuple[str, str]:
    median, low, high = map(_ratio, row.values())
    return median, f"{low} – {high}"


def _memory(result: dict[str, Any]) -> list[tuple[str, Rows]]:
    tables: list[tuple[str, Rows]] = []
    for how in ("untouched", "touched"):
        rows = [("", "ns", "quartiles", "x np.empty", "quartiles")]
        for size in memory.SIZES:
            for name, title in memory.CONTENDERS.items():
                own, ratio = result[size][how][name], result[size]["ratio_to_numpy"][how][name]
                rows.append((
                    f"{size[:-3]} {size[-3:]}: {title}",
                    _ns(own["ns"]),
                    f"{_ns(own['q1_ns'])} – {_ns(own['q3_ns'])}",
                    _ratio(ratio["ratio"]),
                    f"{_ratio(ratio['q1'])} – {_ratio(ratio['q3'])}",
                ))  # fmt: skip
        tables.append((f"allocated and released, {how}", rows))
    counts: list[Sequence[str]] = [("", "overhead", "with it", "trimmed", "blocks", "MB", "metadata a block")]
    for trace, halves in result["overhead"].items():
        for which, it in halves.items():
            counts.append((
                trace if which == "all" else f"{trace}, 64 KiB and up",
                *(f"{it[key]:.2f} %" for key in ("percent", "untrimmed_percent", "trimmed_percent")),
                f"{it['blocks']:,}",
                f"{it['requested'] / 1e6:.1f}",
                f"{it['metadata_per_block']:,.0f} B",
            ))  # fmt: skip
    return [*tables, ("bytes beyond those asked for", counts)]


def _monitoring(result: dict[str, Any]) -> list[tuple[str, Rows]]:
    rows = [("kernel", "cost", "95 % interval", "control", "95 % interval", "quartets")]
    for name, row in result.items():
        if name not in DURATIONS:
            continue
        low, middle, high = row["control"]
        rows.append((
            f"{name} ({row['kernel_us']:.2f} µs)",
            f"{row['percent']:+.2f} %",
            f"{row['low']:+.2f} – {row['high']:+.2f}",
            f"{middle:+.2f} %",
            f"{low:+.2f} – {high:+.2f}",
            str(row["quartets"]),
        ))  # fmt: skip
    records = [("", "ns", "quartiles")]
    for name, row in result["record"].items():
        records.append((name, _ns(row["ns"]), f"{_ns(row['q1_ns'])} – {_ns(row['q3_ns'])}"))
    tables: list[tuple[str, Rows]] = [
        ("monitoring on against off", rows),
        ("a record from Python: count and histogram", records),
    ]
    shown = [("cell, path", "cost", "95 % interval", "on the wall", "95 % interval", "other threads", "updates per s")]
    for cell, paths in result.get("dashboard", {}).items():
        for path, row in paths.items():
            low, middle, high = row["wall"]
            shown.append((
                f"{cell}, {path}",
                f"{row['percent']:+.2f} %",
                f"{row['low']:+.2f} – {row['high']:+.2f}",
                f"{middle:+.2f} %",
                f"{low:+.2f} – {high:+.2f}",
                f"{row['kernel_percent']:+.2f} %",
                f"{row['updates_per_s']:.1f}",
            ))  # fmt: skip
    return tables if len(shown) == 1 else [*tables, ("a dashboard that somebody looks at", shown)]


def _wire(result: dict[str, Any]) -> list[tuple[str, Rows]]:
    cases = [case for case in wire.CASES if case in result]
    copies = [result[case]["encode"]["memcpy"] for case in cases]
    written = [("", *cases), ("np.copyto, ns", *(_spread(it, "ns", _ns) for it in copies))]
    read: list[Sequence[str]] = [("", *cases)]
    for name, title in result["titles"].items():
        for half, key, show, rows in (("encode", "ratio", _ratio, written), ("decode", "ns", _ns, read)):
            if name in result[cases[0]][half]:
                rows.append((title, *(_spread(result[case][half][name], key, show) for case in cases)))
    return [("written, x np.copyto", written), ("read, ns", read)]


def _spread(row: dict[str, float], key: str, show: Callable[[float], str]) -> str:
    ends = ("ratio_q1", "ratio_q3") if key == "ratio" else ("q1_ns", "q3_ns")
    return f"{show(row[key])} ({' – '.join(show(row[it]) for it in ends)})"


_TABLES: Final[dict[str, Callable[[dict[str, Any]], Sequence[tuple[str, Rows]]]]] = {
    "arrays": arrays.tables,
    "cells": cells.tables,
    "dispatch": _dispatch,
    "gpu": gpu.tables,
    "lane": _lane,
    "memory": _memory,
    "monitoring": _monitoring,
    "recovery": recovery.tables,
    "scale": scale.tables,
    "transfer": transfer.tables,
    "wire": _wire,
}


def as_text(suite: str, result: dict[str, Any]) -> str:
    """Return a suite's tables for a terminal."""
    return tables_text(_TABLES[suite](result), machine.notes(result))


def as_markdown(suite: str, result: dict[str, Any]) -> str:
    """Return a suite's tables as Markdown."""
    lines = []
    for heading, (head, *rows) in _TABLES[suite](result):
        lines += [
            _row([head[0] or heading, *head[1:]]),
            _row(["---", *["---:"] * (len(head) - 1)]),
            *map(_row, rows),
            "",
        ]
    return "\n\n".join(["\n".join(lines).rstrip(), *machine.notes(result)])


def write(path: Path, suite: str, result: dict[str, Any]) -> None:
    """Put a suite's tables between its markers in a file, which is made if it isn't there.

    Parameters
    ----------
    path
        A Markdown file.
    suite
        One of `nif_lab.bench.SUITES`; the rest of the file stays as it is.
    result
        What the suite returned.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else TEMPLATE
    begin, end = f"<!-- {suite} -->", f"<!-- /{suite} -->"
    if begin not in text or end not in text:
        text += f"\n{begin}\n{end}\n"
    tables = f"{begin}\n\n{as_markdown(suite, result)}\n\n{end}"
    text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: tables, text, flags=re.S)
    path.write_text(text, encoding="utf-8")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ns(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(value: float) -> str:
    if value < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
