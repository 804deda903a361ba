"""The monitor: it sees from outside what a busy process does, disturbs nothing and ends with one clear line."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nif_lab import monitor
from nif_lab.monitor import run

pytestmark = pytest.mark.slow

BUSY = """
import sys, threading
import nif_lab, numpy as np
lab = nif_lab.Lab(["rust", "zig"])
x = np.arange(100.0)
def more():
    for line in sys.stdin:
        exec(line, globals())
threading.Thread(target=more, daemon=True).start()
done = 0
while True:
    lab.rust.dot(x, x)
    lab.zig.add(1, 2)
    done += 1
    if done % 1000 == 0:
        try:
            lab.rust.dot(x, x[:3])
        except ValueError:
            pass
    if done == 5000:
        print("busy", flush=True)
"""
WRONG = "expected f64[n] with n = 100, got f64[3]"
ROW = {
    "backend",
    "calls",
    "calls_per_s",
    "mean_ns",
    "p50_ns",
    "p99_ns",
    "p999_ns",
    "errors",
    "error_rate",
    "recovered",
}


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[str]]:
    """A process that calls two languages as fast as it can; it runs the lines that are written to it."""
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "busy\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def tell(child: subprocess.Popen[str], line: str) -> None:
    """Let the busy process run a line."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{line}; print('told', flush=True)\n")
    child.stdin.flush()
    assert child.stdout.readline() == "told\n"


def start(pid: int | None, *, stdout: int = subprocess.PIPE, **options: Any) -> subprocess.Popen[str]:
    """Start the monitor in a process of its own."""
    code = f"import sys; from nif_lab.monitor import run; sys.exit(run({pid}, **{options}))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True)


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (lab,) = report["labs"]
    return {it["backend"]: it for it in lab["backends"]}


def test_one_look_has_the_documented_shape(busy: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = time.time()
    assert run(busy.pid, interval=0.2, once=True, json_=True) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (line,) = printed.out.splitlines()
    report = json.loads(line)
    assert set(report) == {"pid", "command", "time", "seconds", "labs"}
    assert report["pid"] == busy.pid
    assert report["command"].startswith(f"{sys.executable} -c")
    assert before < report["time"] < time.time()
    assert 0.2 <= report["seconds"] < 5
    (lab,) = report["labs"]
    assert set(lab) == {"enabled", "backends", "functions", "errors"}
    assert lab["enabled"] is True
    assert [it["backend"] for it in lab["backends"]] == ["rust", "zig"]
    for it in lab["backends"]:
        assert set(it) == ROW
        assert it["calls"] >= 5000
        assert it["calls_per_s"] > 1000
        assert 0 < it["p50_ns"] <= it["p99_ns"] <= it["p999_ns"]
    assert {(it["backend"], it["function"]) for it in lab["functions"]} == {("rust", "dot"), ("zig", "add")}
    assert all(set(it) == ROW | {"function", "lane"} for it in lab["functions"])
    rust, zig = lab["backends"]
    assert rust["errors"] > 0
    assert rust["error_rate"] == pytest.approx(0.001, rel=0.2)
    assert zig["errors"] == zig["error_rate"] == 0
    for it in lab["errors"]:
        about = it.pop("time")
        assert abs(about - report["time"]) < 60
        assert it == {
            "backend": "rust",
            "function": "dot",
            "kind": "NifValueError",
            "argument": 1,
            "message": WRONG,
            "cell": 0,
        }


def test_a_busy_process_is_followed_until_it_ends(busy: subprocess.Popen[str]) -> None:
    watcher = start(busy.pid, interval=0.05, json_=True)
    assert watcher.stdout is not None
    reports = [json.loads(watcher.stdout.readline()) for _ in range(15)]
    busy.kill()  # and not yet waited for: it stays behind as a zombie
    out, err = watcher.communicate(timeout=20)
    assert watcher.returncode == 0
    assert err == f"nif-lab monitor: process {busy.pid} has ended\n"
    reports += [json.loads(line) for line in out.splitlines()]
    for earlier, later in itertools.pairwise(reports[:15]):
        for name in ("rust", "zig"):
            was, now = rows(earlier)[name], rows(later)[name]
            assert now["calls"] > was["calls"]
            assert now["calls_per_s"] == pytest.approx((now["calls"] - was["calls"]) / later["seconds"])
    for report in reports:
        errors = report["labs"][0]["errors"]
        assert {it["message"] for it in errors} == {WRONG}
        assert [it["time"] for it in errors] == sorted(it["time"] for it in errors)


def test_the_watched_process_is_only_read(busy: subprocess.Popen[str]) -> None:
    watcher = start(busy.pid, interval=0.05, json_=True)
    assert watcher.stdout is not None
    try:
        watcher.stdout.readline()
        maps = Path(f"/proc/{watcher.pid}/maps").read_text().splitlines()
        shared = [line.split()[1] for line in maps if "nif_lab telemetry" in line]
        assert shared
        assert set(shared) == {"r--s"}
        status = Path(f"/proc/{busy.pid}/status").read_text()
        assert re.search(r"TracerPid:\s+0\n", status)
        assert re.search(r"State:\s+[RS]", status)
    finally:
        watcher.kill()
        watcher.communicate()
    assert busy.poll() is None


def test_text_is_one_block_for_each_look(busy: subprocess.Popen[str]) -> None:
    watcher = start(busy.pid, interval=0.1)
    assert watcher.stdout is not None
    head = [watcher.stdout.readline() for _ in range(40)]
    watcher.send_signal(signal.SIGINT)
    out, err = watcher.communicate(timeout=20)
    assert watcher.returncode == 130
    assert err == "nif-lab monitor: interrupted\n"
    text = "".join(head) + out
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    blocks = [it for it in text.split(f"process {busy.pid}") if it]
    assert len(blocks) >= 2
    for block in blocks[:-1]:
        for pattern in (
            r"^backend .* calls/s ",
            r"^rust +\d+ ",
            r"^zig +\d+ ",
            r"^rust\.dot +\d+ ",
            r"^[\d:]{8} rust\.dot: NifValueError: expected f64",
        ):
            assert re.search(pattern, block, re.M)


def test_a_terminal_is_redrawn_in_place_and_left_as_it_was(busy: subprocess.Popen[str]) -> None:
    ours, theirs = pty.openpty()
    watcher = start(busy.pid, stdout=theirs, interval=0.05)
    os.close(theirs)
    shown = ""
    while shown.count("busiest") < 5:
        shown += os.read(ours, 4096).decode()
    watcher.send_signal(signal.SIGINT)
    try:
        while piece := os.read(ours, 4096).decode():
            shown += piece
    except OSError:
        pass  # how a pseudo-terminal says that nobody writes any more
    os.close(ours)
    _, err = watcher.communicate(timeout=20)
    assert (watcher.returncode, err) == (130, "nif-lab monitor: interrupted\n")
    assert shown.startswith("\x1b[?25l\x1b[?7l")
    assert shown.endswith("\x1b[?7h\x1b[?25h")
    heights = [int(it) for it in re.findall(r"\x1b\[(\d+)A\r", shown)]
    frames = re.split(r"\x1b\[\d+A\r", shown)
    assert len(heights) >= 4
    assert [frame.count("\n") for frame in frames[:-1]] == heights
    assert max(len(line) for line in re.sub(r"\x1b\[[?\d]*[A-Za-z]", "", shown).splitlines()) <= 80


def test_labs_that_come_later_are_shown_too(busy: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]) -> None:
    tell(busy, "other = nif_lab.Lab(['zig']); other.zig.add(1, 2); other.telemetry.enabled = False")
    assert run(busy.pid, interval=0.1, once=True, json_=True) == 0
    first, second = json.loads(capsys.readouterr().out)["labs"]
    assert [it["backend"] for it in first["backends"]] == ["rust", "zig"]
    assert [(it["backend"], it["calls"]) for it in second["backends"]] == [("zig", 1)]
    assert (first["enabled"], second["enabled"]) == (True, False)
    assert run(busy.pid, interval=0.1, once=True) == 0
    text = capsys.readouterr().out
    assert "\nLab 1 of 2\nbackend" in text
    assert "\n\nLab 2 of 2, telemetry is switched off\nbackend" in text


def test_what_cannot_be_watched_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            for pid, reason in (
                (ended.pid, f"there is no process {ended.pid}"),
                (0, "there is no process 0"),
                (-1, "there is no process -1"),
                (other.pid, f"process {other.pid} has no Lab: it made none yet, or isn't a Python with nif_lab"),
            ):
                assert run(pid, once=True) == 1
                assert capsys.readouterr() == ("", f"nif-lab monitor: {reason}\n")
        finally:
            other.kill()


def test_another_user_sees_nothing(busy: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Root takes another user's place; anybody else is another user to process 1."""
    me = os.geteuid()
    theirs = busy.pid if me == 0 else 1
    if me == 0:
        os.seteuid(65534)
    try:
        status = run(theirs, once=True)
        listed = monitor._processes()
    finally:
        os.seteuid(me)
    assert status == 1
    assert capsys.readouterr() == ("", f"nif-lab monitor: process {theirs} belongs to another user\n")
    assert theirs not in [it["pid"] for it in listed]


def test_processes_with_a_lab_are_found(busy: subprocess.Popen[str]) -> None:
    found = {it["pid"]: it for it in monitor._processes()}
    assert set(found[busy.pid]) == {"pid", "command", "backends", "notebook"}
    assert found[busy.pid]["backends"] == ["rust", "zig"]
    assert found[busy.pid]["command"].startswith(sys.executable)
    assert os.getpid() not in found


def test_without_a_pid_the_only_one_is_watched_and_several_are_listed(
    busy: subprocess.Popen[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = next(it for it in monitor._processes() if it["pid"] == busy.pid)
    another = {"pid": 7, "command": "jupyter\nlab\x1b[2J" + "x" * 100, "backends": ["nim", "julia"], "notebook": ""}
    found: list[dict[str, Any]] = [one]
    monkeypatch.setattr(monitor, "_processes", lambda: found)
    assert run(None, interval=0.05, once=True, json_=True) == 0
    assert json.loads(capsys.readouterr().out)["pid"] == busy.pid
    found.append(another)
    assert run(None, json_=True) == 0
    assert json.loads(capsys.readouterr().out) == {"processes": [one, another]}
    assert run(None) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["pid", "languages", "notebook", "or", "command"]
    assert [line.split()[:2] for line in lines] == [["1", str(busy.pid)], ["2", "7"]]
    assert re.fullmatch(r" +2 +7  nim julia +jupyter lab \[2Jx+", lines[1])
    assert max(map(len, lines)) <= 80
    found.clear()
    assert run(None) == 1
    assert capsys.readouterr() == ("", "nif-lab monitor: no process of this user has a Lab\n")


def test_a_terminal_asks_which_process_and_q_quits(busy: subprocess.Popen[str]) -> None:
    """In a wide terminal: two processes, the first of them a kernel's; a number chooses, a key ends it."""
    code = (
        "from nif_lab import monitor; import sys; rest = dict(command='c', backends=['nim'])\n"
        f"found = [dict(rest, pid=7, notebook='a/b.ipynb'), dict(rest, pid={busy.pid}, notebook='')]\n"
        "monitor._processes = lambda: found; sys.exit(monitor.run(None, interval=0.05))"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    before = termios.tcgetattr(theirs)
    env = {
        name: value for name, value in os.environ.items() if name != "COLUMNS"
    }  # it would come before the terminal's
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    watcher = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=pipe, env=env)
    shown = ""

    def until(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < end, f"no {text!r} in {shown!r}"
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 4096).decode()

    until("q to quit: ")
    assert re.search(r"1 +7 +nim +a/b\.ipynb", shown)
    os.write(ours, b"9\n")
    os.write(ours, b"2\n")
    until("busiest")
    os.write(ours, b"q")
    _, err = watcher.communicate(timeout=60)
    assert (watcher.returncode, err) == (0, b"")
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)
    line = next(it for it in shown.splitlines() if it.lstrip("\x1b[?25l7h").startswith("busiest"))
    assert len(line.split("\x1b[K")[0]) > 100


def test_a_step_without_a_kind_has_no_empty_word() -> None:
    error = {"time": 0.0, "backend": "zig", "function": "f", "kind": "", "message": "circuit in zig, opened"}
    lab = {"enabled": True, "backends": [], "functions": [], "errors": [error]}
    assert any(
        it.endswith(" zig.f: circuit in zig, opened") for it in monitor._lines({"pid": 1, "command": "", "labs": [lab]})
    )


def test_every_line_fits_whatever_is_in_it() -> None:
    row = {
        "backend": "b" * 32,
        "calls": 10**15,
        "calls_per_s": 1.5e8,
        "mean_ns": 1e12,
        "p50_ns": 999.4999,
        "p99_ns": 999.5e6,
        "p999_ns": 1.0,
        "errors": 10**9,
        "error_rate": 1.0,
        "recovered": 0,
    }
    error = {"time": 0.0, "backend": "b", "function": "f", "kind": "NifPanic", "message": "\x1b]0;title\x07\r\n" * 20}
    lab = {"enabled": True, "backends": [row], "functions": [row | {"function": "f" * 64}], "errors": [error]}
    lines = monitor._lines({"pid": 1, "command": "a\nb" * 100, "labs": [lab, lab]})
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    grid = [line.split() for line in lines if line.startswith("bbbbbbbbbb ")]
    assert " ".join(grid[0]) == "bbbbbbbbbb 1e+03 T 150 M 1e+03 s 999 ns 1 s 1 G 100.00"
