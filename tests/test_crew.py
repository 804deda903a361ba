"""A backend's workers under what a system and a library do to them: floods, full sockets, low limits, forks, signals.

What could freeze or end the process runs in one of its own, with a time limit.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lane_client import wait_for
from test_load import struct_hash

from nif_lab import Lab, get_include
from nif_lab.errors import CallTimeout, WorkerCrashed, WorkerUnavailable
from nif_lab.recovery import RecoveryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from nif_lab.lab import LoadedBackend

#: One try, nobody else.
ALONE = RecoveryPolicy(retries=0, failover=False, crashes=None)

LIBRARY = r"""
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "nif_lab.h"
#define F(name) static int32_t name(void *env, const nif_any *a, int32_t n, nif_any *r)
F(noop) { r->type_index = NIF_NONE; return 0; }
F(nap) {
  struct timespec t = {(long)a[0].v.f, (long)(a[0].v.f * 1e9) % 1000000000};
  nanosleep(&t, 0); r->type_index = NIF_NONE; return 0; }
F(say) {
  static char b[4096]; memset(b, 'y', sizeof b); b[4095] = '\n';
  for (long w, left = a[0].v.i; left > 0; left -= w) if ((w = write(2, b, left < 4096 ? left : 4096)) <= 0) break;
  r->type_index = NIF_NONE; return 0; }
F(stray) { /* into whatever socket there is */
  unsigned char b[4] = {255, 255, 0, 0}; int t; socklen_t l = sizeof t;
  for (int fd = 3; fd < 64; fd++) if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &t, &l) == 0 && write(fd, b, 4) < 0) break;
  r->type_index = NIF_NONE; return 0; }
F(quit) { _exit(3); }
F(spawn) {
  pid_t p = fork(); if (p == 0) { for (int fd = 0; fd < 64; fd++) close(fd); for (;;) pause(); }
  r->type_index = NIF_INT; r->v.i = p; return 0; }
static const nif_function all[] = {
  {"noop", "noop() -> None", "", noop, 0, 0}, {"nap", "nap(s: f64) -> None", "", nap, 1, 0},
  {"say", "say(k: i64) -> None", "", say, 1, 0}, {"stray", "stray() -> None", "", stray, 0, 0},
  {"quit", "quit() -> None", "", quit, 0, 0}, {"spawn", "spawn() -> i64", "", spawn, 0, 0}};
static const nif_library table = {NIF_ABI_VERSION, HASH, "c", "", "1", 6, 0, all, 0, 0};
const nif_library *nif_init(const nif_host *h) { (void)h; return &table; }
"""

#: What every program of a process of its own begins with.
HEAD = """
import gc, os, resource, signal, sys, threading, time
from nif_lab import Lab, errors
lab = Lab([]); odd = lab.load(sys.argv[1], name="odd"); odd.noop()
def timed(call):
    start = time.monotonic(); answer = call(); return time.monotonic() - start
def rss(): return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    source, out = folder / "odd.c", folder / "libodd.so"
    source.write_text(LIBRARY)
    line = ["cc", "-shared", "-fPIC", f"-DHASH={struct_hash()}", f"-I{get_include()}", str(source), "-o", str(out)]
    subprocess.run(line, check=True)
    return out


@pytest.fixture
def odd(library: Path) -> LoadedBackend:
    """The library in workers of its own; its Lab lives as long."""
    lab = Lab([], policy=ALONE)
    loaded = lab.load(library, name="odd")
    loaded.lab = lab  # type: ignore[attr-defined]
    return loaded


def run(library: Path, program: str, *, stderr: int = subprocess.PIPE, limit: float = 60.0) -> str:
    """Return what a program prints in a process of its own."""
    line = [sys.executable, "-c", HEAD + program, str(library)]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=limit, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


# Segments and files


@pytest.mark.parametrize(
    "program",
    [
        # Many at once, before the worker reads one.
        "files = [lab.memory.map_file(None, 4096) for _ in range(300)]; assert timed(odd.noop) < 20",
        # A new worker gets all that the one before got little by little.
        """
files = []
for _ in range(6):
    files += [lab.memory.map_file(None, 4096) for _ in range(40)]; odd.noop()
try: odd.quit()
except errors.WorkerCrashed: pass
assert timed(odd.noop) < 20
""",
        # Gone again, and others in their place.
        """
for _ in range(2):
    files = [lab.memory.map_file(None, 4096) for _ in range(150)]; odd.noop(); del files; gc.collect(); odd.noop()
""",
        # Segments of the pools, and every thread goes on meanwhile.
        """
beats = []
def beat():
    while True: beats.append(time.monotonic()); time.sleep(0.002)
threading.Thread(target=beat, daemon=True).start()
time.sleep(0.05)
keep = []
try:
    while len(keep) < 200: keep.append(lab.memory.empty(2**20 + 1))
except errors.PoolExhausted: pass
odd.noop()
time.sleep(0.05)
assert len(keep) > 20 and len(beats) > 2 and max(b - a for a, b in zip(beats, beats[1:])) < 5
""",
        # As many as a low limit allows: an error of the map, if any, and no worker more than is wanted.
        """
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
files = []
for i in range(200):
    try: files.append(lab.memory.map_file(None, 4096))
    except (OSError, errors.NifLabError): break
    if i % 10 == 9: odd.noop()
odd.noop()
assert odd.workers.started <= 3, odd.workers.started
""",
    ],
    ids=["at once", "after a crash", "gone", "segments", "low limit"],
)
def test_any_number_of_segments_and_files_is_shown(library: Path, program: str) -> None:
    run(library, program + "\nprint('well')")


# Words


def test_words_without_end_take_no_memory(library: Path) -> None:
    before, after = map(int, run(library, "b = rss(); odd.say(100 << 20); print(b, rss())").split())
    assert after - before < 30


def test_words_are_seen_without_a_pause_and_the_rest_is_counted(library: Path, tmp_path: Path) -> None:
    """The last part is kept, and what was dropped before it is said, not silently missing."""
    with (tmp_path / "stderr").open("wb+") as file:
        run(library, "odd.say(50_000); time.sleep(0.5); odd.say(5_000_000); time.sleep(1)", stderr=file.fileno())
        text = (tmp_path / "stderr").read_text()
    missing = sum(int(it.split()[0]) for it in text.split("[nif_lab: ")[1:])
    assert text.count("y") + text.count("\n") - 2 * text.count("[nif_lab: ") >= 5_050_000 - missing - 4096
    assert text.count("y") >= 50_000 * 4095 // 4096 - 1


@pytest.mark.parametrize(
    "program",
    [
        """
odd.say(400_000)
start = time.monotonic()
try: lab.call("odd", "nap", 30.0, timeout=0.3, retries=0, failover=False); print("no timeout")
except errors.CallTimeout: assert time.monotonic() - start < 5
odd.noop(); odd.say(400_000); odd.noop()
""",
        """
odd.say(400_000); time.sleep(0.3)
signal.signal(signal.SIGALRM, signal.default_int_handler); signal.setitimer(signal.ITIMER_REAL, 0.3)
try: odd.nap(30.0); print("no interrupt")
except KeyboardInterrupt: pass
odd.noop()
""",
        """
odd.say(2_000_000)
def drop():
    global lab, odd
    del lab, odd; gc.collect()
assert timed(drop) < 2
""",
    ],
    ids=["timeout", "ctrl-c", "drop"],
)
def test_a_stderr_that_nobody_reads_stops_nothing(library: Path, program: str) -> None:
    reads, writes = os.pipe()
    try:
        assert run(library, program, stderr=writes) == ""
    finally:
        os.close(reads)
        os.close(writes)


# Time


def test_a_deadline_counts_from_the_call(odd: LoadedBackend) -> None:
    """Another thread's call is in its way, which isn't disturbed; the circuit doesn't count that as a crash."""
    lab: Lab = odd.lab  # type: ignore[attr-defined]
    done: list[float] = []
    thread = threading.Thread(target=lambda: done.append(odd.nap(1.0) or time.monotonic()))
    thread.start()
    time.sleep(0.2)
    start = time.monotonic()
    with pytest.raises(CallTimeout, match=r"wasn't begun within its 0\.2 s") as caught:
        lab.call("odd", "noop", timeout=0.2)
    assert time.monotonic() - start < 0.8
    assert not caught.value.has_begun
    thread.join()
    assert done
    assert odd.workers is not None
    assert odd.workers.started <= 2, "nobody was ended for it"


def test_a_worker_that_stands_still_is_ended_at_the_deadline(odd: LoadedBackend) -> None:
    lab: Lab = odd.lab  # type: ignore[attr-defined]
    odd.noop()
    assert odd.workers is not None
    os.kill(odd.workers.pids[0], signal.SIGSTOP)
    with pytest.raises(CallTimeout) as caught:
        lab.call("odd", "noop", timeout=0.2)
    assert caught.value.has_begun
    assert odd.noop() is None


@pytest.mark.parametrize("timeout", [1e19, 1.8e19, 3.2e9, 86400.0])
def test_a_deadline_beyond_every_clock_is_none(odd: LoadedBackend, timeout: float) -> None:
    """The core's own limit is higher than Python's, so that no number makes it panic, and no worker is lost by one."""
    for _ in range(3):
        assert odd.functions["noop"].attempt((), {}, timeout) is None
    assert odd.workers.started <= 2


@pytest.mark.parametrize("again", [lambda it: it.noop(), lambda it: it.lab.call("odd", "noop", timeout=5.0)])
def test_a_signal_handler_does_not_wait_for_itself(odd: LoadedBackend, again: Callable[[LoadedBackend], None]) -> None:
    odd.noop()

    def handler(*_: object) -> None:
        again(odd)

    before = signal.signal(signal.SIGALRM, handler)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(WorkerUnavailable, match="this thread's own call") as caught:
            odd.nap(20.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 5
    assert caught.value.is_busy
    assert odd.noop() is None


# Ends


def test_stray_bytes_end_the_worker_and_nobody_waits(odd: LoadedBackend) -> None:
    assert odd.workers is not None
    for _ in range(3):
        before = odd.workers.pids[0]
        try:
            odd.stray()
        except WorkerCrashed as error:
            assert "because its library wrote into the socket" in error.reason  # noqa: PT017 - it may come later too
        wait_for(lambda before=before: gone(before))
        assert odd.noop() is None


@pytest.mark.parametrize("how", ["crash", "restart", "drop"])
def test_what_a_worker_started_ends_with_it(library: Path, how: str) -> None:
    lab = Lab([], policy=ALONE)
    odd = lab.load(library, name="odd")
    child = odd.spawn()
    assert not gone(child)
    if how == "crash":
        with pytest.raises(WorkerCrashed):
            odd.quit()
    elif how == "restart":
        odd.workers.restart()
    del lab, odd
    gc.collect()  # without a GIL functions are freed by it alone
    wait_for(lambda: gone(child))


def test_what_a_worker_has_started_ends_with_a_host_that_is_killed(library: Path) -> None:
    program = "print(odd.spawn(), *odd.workers.pids, flush=True); sys.stdin.readline()"
    line = [sys.executable, "-c", HEAD + program, str(library)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pids = [int(it) for it in host.stdout.readline().split()]
        assert len(pids) >= 2
        assert not any(map(gone, pids))
        host.kill()
        host.wait()
        wait_for(lambda: all(map(gone, pids)))


def test_threads_that_ask_at_once_get_one_backend(library: Path) -> None:
    lab, got, barrier = Lab(["rust"]), [], threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        got.append(lab.isolated.rust)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(it) for it in got}) == 1
    assert got[0].workers.started <= 2


# What the system refuses


@pytest.mark.parametrize(
    "program",
    [
        # A shortage says what helps, and is over when it is over.
        """
lab = Lab(["rust"])
# The least of half a second: the Lab's threads may have a file open for a moment.
least = min(len(os.listdir("/proc/self/fd")) for _ in range(50) if not time.sleep(0.01))
resource.setrlimit(resource.RLIMIT_NOFILE, (least + 1, 4096))
for _ in range(2):
    try: lab.isolated.rust.add(1, 2); print("no error")
    except errors.BackendNotLoaded as error: assert "ulimit -n" in str(error), error
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))
try: Lab([]); print("no error")
except errors.SystemRefusal as error: assert "ulimit -n" in error.cure and error.errno == 24, error
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
assert lab.isolated.rust.add(1, 2) == 3
""",
        # The same by the Lab's own attribute, and in the middle of its life.
        """
while odd.workers.ready < 1: time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))
for pid in odd.workers.pids: os.kill(pid, signal.SIGKILL)
try: odd.noop(); print("no error")
except errors.WorkerUnavailable as error: assert "ulimit -n" in str(error), error
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
odd.noop()
""",
    ],
    ids=["a first use", "a later one"],
)
def test_a_shortage_has_a_cure_and_ends(library: Path, program: str) -> None:
    assert run(library, program) == ""


FORBID = """
import ctypes, struct
def forbid(number, error):
    rows = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *it) for it in rows))
    class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    filter = Program(len(rows), ctypes.addressof(code)); libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
"""


#: The number of memfd_create; that of pidfd_open is 434 everywhere.
MEMFD_CREATE = {"x86_64": 319, "aarch64": 279}[os.uname().machine]


@pytest.mark.parametrize("error", [1, 38], ids=["EPERM", "ENOSYS"])
def test_a_call_that_is_not_there_is_named(library: Path, error: int) -> None:
    """Without pidfd_open no worker, and no zombie; without memfd_create no Lab. Both say what they need."""
    program = f"""
children = lambda: open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
forbid(434, {error})
new = Lab(["rust"])
for _ in range(3):
    try: new.isolated.rust.add(1, 2); print("no error")
    except errors.BackendNotLoaded as it: assert "pidfd_open" in str(it) and 'lane="direct"' in str(it), it
assert new.rust.add(1, 2) == 3
assert not children()
forbid({MEMFD_CREATE}, {error})
try: Lab(["rust"]); print("no error")
except errors.SystemRefusal as it: assert "memfd_create" in it.cure, it
"""
    assert run(library, FORBID + program) == ""


# Forks


@pytest.mark.parametrize("what", ["call", "restart", "drop", "in a call"])
def test_a_child_of_fork_has_workers_of_its_own(odd: LoadedBackend, what: str) -> None:
    """Made on first use; the parent's are untouched whatever the child does."""
    odd.noop()
    assert odd.workers is not None
    pids = odd.workers.pids
    children: list[int] = []

    def in_child() -> None:
        status = 1
        try:
            if what == "restart":
                odd.workers.restart()
            elif what == "drop":
                odd.functions = odd.workers = odd.lab = None
                status = 0
                return
            status = 0 if odd.noop() is None and not set(odd.workers.pids) & set(pids) else 2
        except WorkerUnavailable as error:
            status = 0 if what == "in a call" and error.is_busy else 3
        finally:
            os._exit(status)

    def fork(*_: object) -> None:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            in_child()
        children.append(child)

    if what == "in a call":
        before = signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        odd.nap(0.5)
        signal.signal(signal.SIGALRM, before)
    else:
        fork()
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert odd.noop() is None
    assert odd.workers.pids[0] == pids[0], "the parent's worker went on"
